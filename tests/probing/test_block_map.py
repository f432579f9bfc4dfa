"""Block maps of real pipelines: planted answers, repeatability, and nothing left behind."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import wanvideo_activation_editor as wae
from wanvideo_activation_editor.embeddings.text_embeds import read_text_embeds
from wanvideo_activation_editor.patching.edit import Edit, EditStack
from wanvideo_activation_editor.patching.operations import Replace
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.sources import Direction
from wanvideo_activation_editor.patching.strengths import Explicit, Uniform
from wanvideo_activation_editor.probing.block_map import BlockMap
from wanvideo_activation_editor.probing.distances import motion_energy, relative_l2
from wanvideo_activation_editor.probing.forks import first_tensor
from wanvideo_activation_editor.vectors import ControlVectorError

from ..control_vectors.conftest import make_vector
from ..hosts.conftest import Sampler, hook_count, make_transformer, prompt_embeds

LEVELS = (0.9, 0.5)


def measure(sampler, main, other, seeds=2, levels=LEVELS, **options) -> BlockMap:
    call = {
        "negative_prompt_embeds": sampler.negative,
        "height": 32,
        "width": 32,
        "num_frames": 9,
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
    }
    return wae.block_map(sampler.pipe, main, other, levels, seeds, **{**call, **options})


def deafen(transformer, except_for: int) -> None:
    """Only one block reads the text: elsewhere cross-attention adds nothing."""
    for index, block in enumerate(transformer.blocks):
        if index != except_for:
            torch.nn.init.zeros_(block.attn2.to_out[0].weight)
            torch.nn.init.zeros_(block.attn2.to_out[0].bias)


@pytest.mark.parametrize("method", ["forks", "integrated_gradients"])
def test_the_one_block_that_reads_the_text_has_the_whole_share(sampler, main, other, method):
    deafen(sampler.pipe.transformer, except_for=3)
    found = measure(sampler, main, other, method=method)
    assert found.share[:, 3].min() > 0.99
    rest = np.delete(found.share, 3, axis=1)
    assert np.abs(rest).max() < 0.01
    assert found.order()[0] == 3
    assert found.top(1, strength=0.7).resolve(6) == (0, 0, 0, 0.7, 0, 0)


def test_the_numbers_are_those_of_whole_model_calls(sampler, main, other):
    calls = []
    transformer = sampler.pipe.transformer
    hook = transformer.register_forward_pre_hook(lambda m, a, k: calls.append((a, k)), with_kwargs=True)
    plain = sample(sampler, main)
    hook.remove()
    found = measure(sampler, main, other, seeds=1, levels=(0.9,))
    args, kwargs = next(c for c in calls if abs(float(c[1]["timestep"][0]) / 1000 - found.noise_levels[0]) < 1e-6)

    def call(blocks):
        with torch.no_grad(), wae.inject(transformer, other, blocks=blocks):
            return first_tensor(transformer(*args, **kwargs))

    v, whole = call("none"), call("all") - call("none")
    for index in range(6):
        d = call(str(index)) - v
        assert found.effect[0, index] == pytest.approx(float(d.norm() / v.norm()), rel=1e-4)
        assert found.share[0, index] == pytest.approx(float((d * whole).sum() / (whole * whole).sum()), rel=1e-3)
        assert found.motion[0, index] == pytest.approx(motion_energy(d), rel=1e-3)
    assert found.controls["all_blocks"]["effect"][0, 0] == pytest.approx(float(whole.norm() / v.norm()), rel=1e-4)
    assert found.interaction[0] == pytest.approx(1 - found.share[0].sum())
    assert plain.isfinite().all()


def sample(sampler, text, seed=0, **options):
    return sampler.pipe(
        prompt_embeds=text,
        negative_prompt_embeds=sampler.negative,
        height=32,
        width=32,
        num_frames=9,
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        **options,
    ).frames


def test_integrated_gradients_sum_to_the_whole(sampler, main, other):
    found = measure(sampler, main, other, method="integrated_gradients")
    assert np.abs(found.share.sum(axis=1) - 1).max() < 0.01
    assert np.abs(found.share).min() > 0
    assert np.isnan(found.effect).all()
    with pytest.raises(ValueError, match="effect was not measured with method integrated_gradients"):
        found.top(2, "effect")


def test_integrated_gradients_of_an_addition_sum_to_the_whole_and_a_replacement_is_refused(sampler, main, other):
    width = sampler.pipe.transformer.blocks[0].attn1.to_q.in_features
    direction = Direction(torch.randn(width, generator=torch.Generator().manual_seed(3)))
    options = {"method": "integrated_gradients", "seeds": 1, "levels": (0.9,)}
    found = measure(sampler, main, direction, site="hidden", strength=0.2, **options)
    assert np.abs(found.share.sum(axis=1) - 1).max() < 0.01
    with pytest.raises(ValueError, match="replace has none"):
        measure(sampler, main, other, operation=Replace(), **options)


def test_a_run_that_is_measured_gives_the_clip_of_one_that_is_not_bit_for_bit(sampler, main, other):
    def noting(steps):
        return {"callback_on_step_end": lambda pipe, i, t, held: steps.append(held["latents"].clone()) or {}}

    measured, unmeasured = [], []
    found = measure(sampler, main, other, verify=3, **noting(measured))
    plain = [sample(sampler, main, seed, **noting(unmeasured)) for seed in (0, 1)]
    assert len(unmeasured) == 8 and len(measured) == 8 + 3 * 8
    assert all(torch.equal(one, two) for one, two in zip(measured[:8], unmeasured, strict=True))
    assert len(found.finished) == 3 and -1 <= found.rank_correlation <= 1
    for index, changes in found.finished.items():
        for seed in (0, 1):
            with wae.inject(sampler.pipe, other, blocks=str(index)):
                assert changes[seed] == relative_l2(plain[seed], sample(sampler, main, seed))


def test_measuring_twice_gives_the_same_map_and_a_seed_gives_the_same_alone(sampler, main, other):
    one, two, alone = measure(sampler, main, other), measure(sampler, main, other), measure(sampler, main, other, [1])
    for name, values in one.samples.items():
        assert np.array_equal(values, two.samples[name])
        assert np.array_equal(values[1:], alone.samples[name])
    assert one.identity == two.identity != ""


def test_block_runs_are_counted(sampler, main, other):
    runs, calls = 0, 0

    def count(*_):
        nonlocal runs
        runs += 1

    def count_call(*_):
        nonlocal calls
        calls += 1

    for block in sampler.pipe.transformer.blocks:
        block.register_forward_hook(count)
    handle = sampler.pipe.transformer.blocks[0].register_forward_hook(count_call)
    sample(sampler, main)
    plain, runs = runs, 0
    handle.remove()
    measure(sampler, main, other, seeds=2, verify=0, levels=(1.0, 0.001))  # the schedule's first and last step
    forks, n = 2 * 2 * 6 * 7 // 2, 6
    assert runs <= 2 * plain + forks + 2 * 2 * 2 * n  # per level and seed: all blocks edited, and the control
    assert runs >= forks


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("method", ["forks", "integrated_gradients"])
def test_after_an_interrupt_nothing_is_left(sampler, main, other, error, method):
    transformer = sampler.pipe.transformer
    plain, hooks, blocks = sample(sampler, main), hook_count(transformer), list(transformer.blocks)

    def stop(done, total):
        if done >= total // 2:
            raise error

    with pytest.raises(error):
        measure(sampler, main, other, progress=stop, method=method)
    assert hook_count(transformer) == hooks and list(transformer.blocks) == blocks
    assert torch.equal(sample(sampler, main), plain)


def test_progress_is_told_from_nothing_to_all(sampler, main, other):
    told = []
    measure(sampler, main, other, progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 24) and told[-1] == (24, 24)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize(
    "edit",
    [
        Direction(torch.randn(32, generator=torch.Generator().manual_seed(1))),
        Edit(read_text_embeds(prompt_embeds(2, 20), "other"), Uniform(1.0), site="hidden"),
        Edit(read_text_embeds(prompt_embeds(2, 20), "other"), Uniform(1.0), branch="uncond"),
    ],
    ids=["direction", "second stream", "negative prompt"],
)
def test_any_edit_is_measured(sampler, main, edit):
    options = {"site": "hidden", "strength": 0.5} if isinstance(edit, Direction) else {}
    found = measure(sampler, main, edit, seeds=1, levels=(0.9,), **options)
    assert (found.effect > 1e-4).all() and np.isfinite(found.share).all()
    if isinstance(edit, Edit) and edit.site == "hidden":  # of which the last block alone is all
        assert found.share[0, -1] == pytest.approx(1.0, abs=1e-3)


def test_blocks_that_are_not_chosen_are_not_measured(sampler, main, other):
    found = measure(sampler, main, other, blocks="2, 4:0.5", seeds=1)
    assert found.blocks == [2, 4]
    assert np.isnan(found.share[:, [0, 1, 3, 5]]).all()
    assert np.isfinite(found.share[:, [2, 4]]).all()
    assert "not measured" not in found.report()
    assert found.top(6).active_blocks(6) == sorted(found.blocks)


def test_several_pairs_are_their_mean(sampler, main, other):
    third, fourth = prompt_embeds(7), prompt_embeds(8)
    both = measure(sampler, [main, third], [other, fourth])
    one, two = measure(sampler, main, other), measure(sampler, third, fourth)
    assert both.pairs == 2
    assert np.allclose(both.share, (one.share + two.share) / 2, atol=1e-12)


def test_both_transformers_of_a_pipeline_are_measured_at_their_levels(main, other):
    two = Sampler(make_transformer(seed=0), make_transformer(seed=1))
    deafen(two.pipe.transformer, except_for=1)
    deafen(two.pipe.transformer_2, except_for=4)
    found = measure(two, main, other, levels=(0.9, 0.3))
    assert found.share[0].argmax() == 1 and found.share[1].argmax() == 4


def test_what_cannot_be_measured_is_refused_with_what_to_do(sampler, main, other):
    with pytest.raises(ValueError, match="fall on the same step of the schedule"):
        measure(sampler, main, other, levels=(0.9, 0.89))
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        measure(sampler, main, other, levels=(1.5,))
    with pytest.raises(ValueError, match="this pipeline has no text encoder"):
        measure(sampler, "a dog", other)
    with pytest.raises(ValueError, match="2 prompts were given, but 3 others"):
        measure(sampler, [main, main], [other] * 3)
    with pytest.raises(ValueError, match="verify is 2"):
        measure(sampler, main, other, verify=2)
    with pytest.raises(ValueError, match="seeds is"):
        measure(sampler, main, other, seeds=0)
    with pytest.raises(ValueError, match="method must be one of"):
        measure(sampler, main, other, method="guess")
    with pytest.raises(ValueError, match="the model has 6 blocks"):
        measure(sampler, main, other, blocks="7")
    with pytest.raises(ValueError, match="No block is selected"):
        measure(sampler, main, other, blocks="none")
    text = read_text_embeds(other, "other")
    edits = [Edit(text, parse_selection(blocks)) for blocks in ("0-2", "3-5")]
    with pytest.raises(ValueError, match="The edits choose different blocks"):
        measure(sampler, [main, main], edits)
    with pytest.raises(ValueError, match="are those of the Edit"):
        measure(sampler, main, edits[0], blocks="2")
    with wae.inject(sampler.pipe, other), pytest.raises(RuntimeError, match="close the context first"):
        measure(sampler, main, other)
    negative = Edit(read_text_embeds(other, "other"), Uniform(1.0), branch="uncond")
    with pytest.raises(RuntimeError, match="guidance_scale above 1"):
        measure(sampler, main, negative, guidance_scale=1.0)


def test_a_map_goes_through_json_and_back(sampler, main, other):
    found = measure(sampler, main, other, blocks="0-3", verify=3)
    again = BlockMap.from_plain(json.loads(json.dumps(found.to_plain(), allow_nan=False)))
    for name, values in found.samples.items():
        assert np.array_equal(values, again.samples[name], equal_nan=True)
    assert (again.noise_levels, again.seeds, again.finished) == (found.noise_levels, found.seeds, found.finished)
    assert again.report() == found.report() and again.identity == found.identity
    assert "<img" in again._repr_html_() and again.plot().size[0] > 100
    damaged = found.to_plain()
    damaged["samples"]["share"] = damaged["samples"]["share"][:1]
    for values in ({}, None, {**found.to_plain(), "seeds": []}, damaged, {**found.to_plain(), "samples": {}}):
        with pytest.raises(ValueError, match=r"[Bb]lock map"):
            BlockMap.from_plain(values)


def test_edits_in_a_stack_are_unchanged_by_measuring(sampler, main, other):
    edit = Edit(read_text_embeds(other, "other"), Explicit((1.0,) * 6))
    before = EditStack((edit,)).describe()
    found = measure(sampler, main, edit, seeds=1, levels=(0.9,))
    assert EditStack((edit,)).describe() == before
    assert found.edit["site"] == "context" and not math.isnan(found.share.sum())


def test_a_control_vector_is_measured_in_the_blocks_that_it_has(sampler, main):
    vector = make_vector(width=32, blocks=(1, 2, 4), block_count=6, identity="", site="hidden")
    found = measure(sampler, main, vector, seeds=1, levels=(0.9,), strength=0.5)
    assert found.blocks == [1, 2, 4]
    with pytest.raises(ValueError, match="the control vector was fitted at hidden"):
        measure(sampler, main, vector, site="attention")
    foreign = dataclasses.replace(vector, identity="diffusers:other")
    with pytest.raises(ControlVectorError, match="fitted on tiny with weights diffusers:other"):
        measure(sampler, main, foreign)
    assert measure(sampler, main, foreign, seeds=1, levels=(0.9,), other_model=True).blocks == [1, 2, 4]
    effects = found.effect[0, [1, 2, 4]]
    assert (effects > 1e-4).all()
    assert (measure(sampler, main, vector, seeds=1, levels=(0.9,)).effect[0, [1, 2, 4]] > effects).all()

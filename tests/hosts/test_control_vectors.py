"""Fitting on a real pipeline of diffusers."""

from __future__ import annotations

import pytest
import torch
from wanvideo_activation_editor.patching.hosts.diffusers import inject
from wanvideo_activation_editor.patching.sites import SITES
from wanvideo_activation_editor.vectors import ControlVectorError
from wanvideo_activation_editor.vectors.applying import steer
from wanvideo_activation_editor.vectors.pipelines import control_vector

from .conftest import Sampler, hook_count, make_transformer, prompt_embeds

BLOCKS = 4
PAIRS = [(prompt_embeds(2 * n), prompt_embeds(2 * n + 1, 9)) for n in range(4)]
CALL = {"height": 32, "width": 32, "num_frames": 5}


@pytest.fixture(scope="module")
def sample():
    return Sampler(make_transformer(BLOCKS))


def tokens_at(sample, site: str, block: int, prompt: torch.Tensor) -> torch.Tensor:
    """What one plain call at noise level 1 has at a site, by a hook of the test's own."""
    chosen, seen = SITES[site], []
    module = chosen.module(sample.pipe.transformer.blocks[block])
    if chosen.end == "input":
        handle = module.register_forward_pre_hook(lambda m, a: seen.append(a[0].clone()))
    else:
        handle = module.register_forward_hook(lambda m, a, out: seen.append(out.clone()))
    with handle:
        sample.pipe(
            prompt_embeds=prompt, generator=torch.Generator().manual_seed(3), num_inference_steps=1, guidance_scale=1.0,
            output_type="latent", **CALL,
        )  # fmt: skip
    tokens = seen[0][0]
    return tokens[: int((prompt[0] != 0).any(-1).sum())] if chosen.reads_text else tokens


@pytest.mark.parametrize("site", sorted(set(SITES) - {"context"}))
def test_a_vector_of_one_pair_is_the_difference_of_two_plain_calls(sample, site):
    positive, negative = PAIRS[0]
    found = control_vector(sample.pipe, PAIRS[:1], site=site, levels=1, seed=3, blocks="1-2", **CALL)
    assert (found.blocks, found.levels, found.block_count) == ((1, 2), (0.999,), BLOCKS)
    for row, block in enumerate((1, 2)):
        plus, minus = (tokens_at(sample, site, block, prompt) for prompt in (positive, negative))
        away = plus.mean(0) - minus.mean(0)
        u = found.directions[row, 0, 0]
        assert torch.allclose(u, away / away.norm(), atol=1e-4)
        assert torch.allclose(found.positive[row, 0, 0], plus.mean(0) @ u, atol=1e-4)
        assert torch.allclose(found.neutral[row, 0, 0], minus.mean(0) @ u, atol=1e-4)
        norms = torch.cat([plus, minus]).norm(dim=-1).mean()
        assert torch.allclose(found.scale[row, 0], norms, atol=1e-4)


@pytest.mark.parametrize("site", ["attention", "hidden", "context"])
def test_swapped_pairs_give_the_exact_negative(sample, site):
    options = dict(site=site, levels=3, seeds=2, **CALL)
    found = control_vector(sample.pipe, PAIRS, **options)
    back = control_vector(sample.pipe, [pair[::-1] for pair in PAIRS], **options)
    assert torch.equal(back.directions, -found.directions)
    assert torch.equal(back.neutral, -found.positive) and torch.equal(back.scale, found.scale)
    assert torch.allclose(back.separability, found.separability)


def test_levels_are_those_of_the_schedule_and_the_model_is_left_as_it_was(sample):
    main, hooks = prompt_embeds(1), hook_count(sample.pipe.transformer)
    before, done = sample(main), []
    found = control_vector(
        sample.pipe, PAIRS[:2], levels=5, seeds=2, progress=lambda n, total: done.append((n, total)), **CALL
    )
    assert done == [(n, 20) for n in range(1, 21)]
    sample.pipe.scheduler.set_timesteps(5)
    assert found.levels == tuple(sorted(round(float(t) / 1000, 6) for t in sample.pipe.scheduler.timesteps))
    assert hook_count(sample.pipe.transformer) == hooks and torch.equal(sample(main), before)
    with steer(sample.pipe, found, 0.5):  # its identity is that of this model
        assert not torch.equal(sample(main, steps=3), before)


def test_an_error_in_the_middle_leaves_no_hook(sample):
    hooks = hook_count(sample.pipe.transformer)

    def stop(done, total):
        if done == 3:
            raise InterruptedError("stop")

    with pytest.raises(InterruptedError):
        control_vector(sample.pipe, PAIRS, levels=2, progress=stop, **CALL)
    assert hook_count(sample.pipe.transformer) == hooks


def test_a_vector_of_the_text_is_the_mean_difference_of_the_spans(sample):
    base, word = prompt_embeds(5), torch.randn(64, generator=torch.Generator().manual_seed(8))
    pairs = []
    for n in range(3):
        pair = [prompt_embeds(10 + n), prompt_embeds(10 + n)]
        pair[0][0, 4] = base[0, n] + word
        pair[1][0, 4] = base[0, n]
        pairs.append(tuple(pair))
    found = control_vector(sample.pipe, pairs, site="context")
    assert torch.allclose(found.directions[0, 0, 0], word / word.norm(), atol=1e-5)
    assert torch.allclose((found.positive - found.neutral).squeeze(), word.norm(), atol=1e-4)


def test_what_cannot_be_fitted_is_refused(sample):
    pipe = sample.pipe
    for pairs, options, words in (
        ([], {}, "0 pairs"),
        (PAIRS, {"site": "nowhere"}, "site must be one of"),
        (PAIRS, {"levels": 0}, "at least 1"),
        (PAIRS, {"blocks": "!0-3"}, "No block"),
        (PAIRS, {"blocks": "9"}, "4 blocks"),
        (PAIRS, {"method": "guess"}, "method must be one of"),
        ([("a red car", "a blue car")], {}, "this pipeline has no text encoder"),
        ([(PAIRS[0][0], PAIRS[0][0])], {}, "do not differ"),
        ([(PAIRS[0][0], prompt_embeds(1, width=48))], {}, "48"),
    ):
        with pytest.raises((ControlVectorError, ValueError, RuntimeError), match=words):
            control_vector(pipe, pairs, **{"levels": 1, **options}, **CALL)
    with inject(pipe, PAIRS[0][0]), pytest.raises(RuntimeError, match="open"):
        control_vector(pipe, PAIRS, levels=1, **CALL)

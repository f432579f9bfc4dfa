"""Boosting and forcing on diffusers, measured in the blocks of a real Wan transformer by a probe."""

from __future__ import annotations

import contextlib
import logging

import pytest
import torch
from wanvideo_activation_editor.embeddings.text_embeds import read_text_embeds
from wanvideo_activation_editor.patching.edit import Edit, EditStack
from wanvideo_activation_editor.patching.hosts.diffusers import edited, inject
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.transforms import FORCE_MODES, Boost, ForceDifference

from .conftest import Sampler, make_transformer, prompt_embeds

MAIN_TOKENS, OTHER_TOKENS = 12, 20  # of the fixtures `main` and `other`


@contextlib.contextmanager
def probe(transformer):
    """Collects the context that each block reads: {block: [context per model call]}."""
    seen: dict[int, list[torch.Tensor]] = {i: [] for i in range(len(transformer.blocks))}
    with contextlib.ExitStack() as hooks:
        for i, block in enumerate(transformer.blocks):
            hook = block.register_forward_pre_hook(lambda _, args, i=i: seen[i].append(args[1].clone()))
            hooks.callback(hook.remove)
        yield seen


def call(model, embeds, seed: int = 3):
    x = torch.randn(embeds.shape[0], 4, 2, 4, 4, generator=torch.Generator().manual_seed(seed)).to(model.dtype)
    timestep = torch.tensor([500]).expand(embeds.shape[0])
    with torch.no_grad():
        return model(hidden_states=x, timestep=timestep, encoder_hidden_states=embeds).sample


def context(model, embeds, block: int = 0) -> torch.Tensor:
    with probe(model) as seen:
        call(model, embeds)
    return seen[block][0]


def share(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.float() - b.float()).abs() > 0.01).float().mean().item()


def boosted(main, other, factor, preserve_norm):
    out = main + factor * (other - main)
    if preserve_norm:
        out = out / out.norm(dim=-1, keepdim=True) * other.norm(dim=-1, keepdim=True)
    return out


@pytest.mark.parametrize("preserve_norm", [True, False])
def test_the_booster_moves_the_projected_context(main, other, preserve_norm):
    """Known answer: the formula on the model's own projections, token by token."""
    model = make_transformer()
    a, b = context(model, main), context(model, other)
    with inject(model, other, "1, 4:0.5", transforms=[Boost(10, preserve_norm)]), probe(model) as seen:
        call(model, main)
    expected = boosted(a, b, 10, preserve_norm)
    assert torch.allclose(seen[1][0], expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(seen[4][0], torch.lerp(a, expected, 0.5), rtol=1e-4, atol=1e-5)
    assert torch.equal(seen[0][0], a)
    padding = slice(max(MAIN_TOKENS, OTHER_TOKENS), None)
    assert torch.equal(seen[1][0][:, padding], a[:, padding])


@pytest.mark.parametrize("preserve_norm", [True, False])
def test_a_boost_of_one_is_no_boost(sampler, main, other, preserve_norm):
    with inject(sampler.pipe, other, "1-3:0.7"):
        plain = sampler(main)
    with inject(sampler.pipe, other, "1-3:0.7", transforms=[Boost(1, preserve_norm)]):
        assert torch.equal(sampler(main), plain)


def test_strength_zero_stays_the_model_without_an_editor(sampler, main, other):
    plain = sampler(main)
    for transform in (Boost(10), ForceDifference("blend", 0.5)):
        with inject(sampler.pipe, other, "all:0", transforms=[transform]):
            assert torch.equal(sampler(main), plain)


@pytest.mark.parametrize("preserve_norm", [True, False])
def test_boosting_a_prompt_injected_into_itself_changes_nothing(sampler, main, preserve_norm):
    plain = sampler(main)
    with inject(sampler.pipe, main, "all", transforms=[Boost(20, preserve_norm)]):
        assert torch.equal(sampler(main), plain)


def test_the_booster_applies_to_every_edit_before_and_after_it(sampler, main, other):
    first = Edit(read_text_embeds(other), parse_selection("0-2:0.5"))
    second = Edit(read_text_embeds(prompt_embeds(3)), parse_selection("2-5:0.3"))
    stacks = [
        EditStack().transform(Boost(10)).append(first).append(second),
        EditStack().append(first).transform(Boost(10)).append(second),
        EditStack().append(first).append(second).transform(Boost(10)),
    ]
    results = []
    for stack in stacks:
        with edited(sampler.pipe, stack):
            results.append(sampler(main))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    with edited(sampler.pipe, EditStack().append(first).append(second)):
        assert not torch.equal(sampler(main), results[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("target", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("mode", FORCE_MODES)
def test_the_forced_difference_is_the_target_in_the_block(main, other, mode, target, dtype):
    model = make_transformer(layers=3).to(dtype)
    main, other = main.to(dtype), other.to(dtype)
    a = context(model, main)
    with inject(model, other, "1", transforms=[ForceDifference(mode, target)]), probe(model) as seen:
        call(model, main)
    tokens = slice(0, max(MAIN_TOKENS, OTHER_TOKENS))
    assert share(a[:, tokens], seen[1][0][:, tokens]) == pytest.approx(target, abs=0.005)
    assert torch.equal(seen[1][0][:, tokens.stop :], a[:, tokens.stop :])
    assert torch.equal(seen[0][0], a)


def test_the_modes_distribute_the_difference_as_documented(main, other):
    model = make_transformer(layers=3)
    a, b = context(model, main)[0, :20], context(model, other)[0, :20]
    steps = {}
    for mode in FORCE_MODES:
        with inject(model, other, "1", transforms=[ForceDifference(mode, 0.8)]), probe(model) as seen:
            call(model, main)
        moved = seen[1][0][0, :20] - a
        steps[mode] = moved.norm(dim=-1)
        assert torch.cosine_similarity(moved, b - a, dim=-1)[steps[mode] > 0].min() > 0.9999
    length = (b - a).norm(dim=-1)
    assert torch.allclose(steps["additive"], steps["additive"].mean().expand(20), rtol=1e-3)
    assert torch.allclose(steps["blend"] / length, (steps["blend"] / length).mean().expand(20), rtol=1e-3)
    on = steps["replace"] > 0  # tokens that started near main stop there
    assert on.sum() > 15
    assert torch.allclose((steps["replace"] - length)[on], (steps["replace"] - length)[on].mean(), atol=1e-4)


def test_each_row_of_a_batch_reaches_the_target(main, other):
    model = make_transformer(layers=2)
    pair = torch.cat([main, prompt_embeds(4, tokens=30)])
    a = context(model, pair)
    with inject(model, other, "all", transforms=[ForceDifference("additive", 0.4)]), probe(model) as seen:
        call(model, pair)
    for row, tokens in ((0, 20), (1, 30)):
        assert share(a[row, :tokens], seen[0][0][row, :tokens]) == pytest.approx(0.4, abs=0.005)


def test_forcing_follows_branch_window_and_strength(sampler, main, other):
    transformer = sampler.pipe.transformer
    with probe(transformer) as plain:
        sampler(main, steps=4)
    force = [ForceDifference("blend", 0.6)]
    with inject(sampler.pipe, other, "2:0.5", window=(0, 0.5), transforms=force), probe(transformer) as seen:
        sampler(main, steps=4)
    calls = [share(a[:, :20], b[:, :20]) for a, b in zip(plain[2], seen[2], strict=True)]
    assert all(c == 0 for c in calls[1::2]), "the negative prompt's calls"
    assert all(c == 0 for c in calls[4:]), "steps after the window"
    assert all(0.1 < c < 0.55 for c in calls[0:4:2]), "half the strength moves fewer elements"
    with inject(sampler.pipe, other, "2", branch="uncond", transforms=force), probe(transformer) as seen:
        sampler(main, steps=1)
    positive, negative = (share(a[:, :20], b[:, :20]) for a, b in zip(plain[2][:2], seen[2], strict=True))
    assert positive == 0
    assert negative == pytest.approx(0.6, abs=0.005)


def test_image_tokens_are_not_boosted_or_forced(main, other):
    model = make_transformer(image_dim=24, added_kv_proj_dim=32, in_channels=4)
    clip = torch.randn(1, 257, 24, generator=torch.Generator().manual_seed(11))
    x, t = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(3)), torch.tensor([500])
    for transform in (Boost(10), ForceDifference("additive", 0.5)):
        with inject(model, other, "all", transforms=[transform]), probe(model) as seen, torch.no_grad():
            model(hidden_states=x, timestep=t, encoder_hidden_states=main, encoder_hidden_states_image=clip)
        assert torch.equal(seen[1][0][:, :257], model.condition_embedder.image_embedder(clip))
    assert share(context(make_transformer(), main)[0, :20], seen[1][0][0, 257:277]) == pytest.approx(0.5, abs=0.005)


def test_forcing_after_boosting_still_hits_the_target(main, other):
    model = make_transformer(layers=2)
    a = context(model, main)
    edit = Edit(read_text_embeds(other), parse_selection("all"), transforms=(ForceDifference("replace", 0.7),))
    with edited(model, EditStack((edit,)).transform(Boost(5))), probe(model) as seen:
        call(model, main)
    assert share(a[:, :20], seen[0][0][:, :20]) == pytest.approx(0.7, abs=0.005)


def test_transforms_run_once_per_model_call(sampler, main, other):
    class Counting(Boost):
        calls = 0

        def __call__(self, *args):
            type(self).calls += 1
            return super().__call__(*args)

    with inject(sampler.pipe, other, "even:0.5, odd:0.25", transforms=[Counting(2)]):
        sampler(main)
    assert Counting.calls == sampler.steps


def test_the_first_step_reports_before_and_after(sampler, main, other, caplog):
    with (
        caplog.at_level(logging.INFO, "wanvideo_activation_editor"),
        inject(sampler.pipe, other, "1", transforms=[ForceDifference("blend", 0.3)]),
    ):
        sampler(main)
    reports = [r.getMessage() for r in caplog.records if "before" in r.getMessage()]
    assert len(reports) == 1
    assert "force 30% (blend)" in reports[0]
    assert float(reports[0].split("before, ")[1].split("%")[0]) == pytest.approx(30, abs=0.5)


def test_each_branch_and_prompt_is_verified(sampler, main, other, caplog):
    """Of two calls of a step, the second one reads the injected prompt itself."""
    transforms = [ForceDifference("blend", 0.3)]
    with caplog.at_level(logging.INFO, "wanvideo_activation_editor"):
        with inject(sampler.pipe, other, "1", branch="both", transforms=transforms):
            sampler(main)
        reports = [r.getMessage() for r in caplog.records if "before" in r.getMessage()]
        assert [r.split("(")[1].split(")")[0] for r in reports] == ["cond, prompt 1", "uncond, prompt 1"]
        with (
            pytest.raises(ValueError, match=r"at most 0\.0%"),
            inject(sampler.pipe, other, "1", branch="both", transforms=transforms),
        ):
            sampler(main, negative=other)


def test_an_unreachable_target_is_an_error_that_names_the_maximum(sampler, main):
    same_but_one = main.clone()
    same_but_one[0, 3] += 1
    transform = [ForceDifference("blend", 0.5)]
    with (
        pytest.raises(ValueError, match=r"50% cannot be reached .* at most 8\.3%"),
        inject(sampler.pipe, same_but_one, "1", transforms=transform),
    ):
        sampler(main)
    plain = sampler(main)
    with pytest.raises(ValueError, match=r"at most 0\.0%"), inject(sampler.pipe, main, "1", transforms=transform):
        sampler(main)
    assert torch.equal(sampler(main), plain)


def test_nothing_remains_of_a_forced_run(main, other):
    sampler = Sampler(make_transformer())
    plain = sampler(main)
    with inject(sampler.pipe, other, "all", transforms=[Boost(10), ForceDifference("replace", 0.5)]):
        first = sampler(main)
        assert torch.equal(sampler(main), first)
    assert not torch.equal(first, plain)
    assert torch.equal(sampler(main), plain)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Boost(0), "above 0, not 0"),
        (lambda: Boost(float("nan")), "above 0, not nan"),
        (lambda: ForceDifference("lerp", 0.5), "must be one of additive, replace, blend, not 'lerp'"),
        (lambda: ForceDifference("blend", 1.0), "above 0% and below 100%, not 100%"),
    ],
)
def test_bad_settings_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()

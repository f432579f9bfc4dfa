"""The amplifier reaches its target, or says with the right numbers why it cannot."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from wanvideo_activation_editor.embeddings.amplification import (
    AMPLIFICATION_MODES,
    METRICS,
    UnreachableTargetError,
    amplify,
    measure,
)
from wanvideo_activation_editor.embeddings.text_embeds import EmbedsError, pad_tokens

WIDTH = 512
modes, metrics = st.sampled_from(AMPLIFICATION_MODES), st.sampled_from(METRICS)
targets = st.floats(30, 90)


def embeds(seed: int, tokens: int = 20, scale: float = 0.2) -> torch.Tensor:
    return torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed)) * scale


def difference(main: torch.Tensor, other: torch.Tensor, metric: str) -> float:
    """Independent of the code under test: float64, written out."""
    both, length = min(len(main), len(other)), max(len(main), len(other))
    a, b = (pad_tokens(x.double(), length) for x in (main, other))
    if metric == "changed_share":
        return 100 * ((b - a).abs() > 0.01).double().mean().item()
    if metric == "relative_l2":
        return 100 * ((b - a).norm() / a.norm()).item()
    return 100 * (1 - torch.nn.functional.cosine_similarity(a[:both], b[:both], dim=-1).mean().item())


def check(main, injection, target, mode, metric):
    """Target hit with norms kept, or an error whose range excludes the target."""
    try:
        result = amplify(main, injection, target, mode, metric)
    except UnreachableTargetError as error:
        low, high = map(float, re.search(r"from (-?[\d.]+)% to at most ([\d.]+)%", str(error)).groups())
        assert not low - 0.1 <= target <= high + 0.1, f"{target} lies in {low}..{high}"
        return None
    assert difference(main, result.embedding, metric) == pytest.approx(target, abs=0.5)
    # An element that differs by 0.01 to the last bit counts in one precision and not in the other.
    rounding = 0.05 + (100 / result.embedding.numel() if metric == "changed_share" else 0)
    assert result.after == pytest.approx(difference(main, result.embedding, metric), abs=rounding)
    assert result.before == pytest.approx(difference(main, injection, metric), abs=rounding)
    assert (result.embedding.shape, result.embedding.dtype) == (injection.shape, injection.dtype)
    norms, kept = injection.float().norm(dim=-1), result.embedding.float().norm(dim=-1)
    assert torch.allclose(kept, norms, rtol=max(1e-5, 2 * torch.finfo(injection.dtype).eps))
    return result


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(-7, -1), modes, metrics, targets)
def test_near_identical_prompts_reach_every_target(seed, exponent, mode, metric, target):
    main = embeds(seed)
    injection = main + 10**exponent * embeds(seed + 1)
    assume(metric != "changed_share" or difference(main, injection, metric) < 30)
    assert check(main, injection, target, mode, metric) is not None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.005, 0.02, 0.2, 3.0]), modes, metrics, targets)
def test_random_prompts_reach_the_target_or_the_error_names_the_range(seed, scale, mode, metric, target):
    check(embeds(seed, scale=scale), embeds(seed + 1, scale=scale), target, mode, metric)


@pytest.mark.parametrize("mode", AMPLIFICATION_MODES)
@pytest.mark.parametrize("metric", METRICS)
def test_random_prompts_of_small_values_reach_60_percent(mode, metric):
    """Values of typical T5 size or below leave room on both sides of 60%, whichever the mode."""
    main, injection = embeds(1, scale=0.02), embeds(1, scale=0.02) + 0.3 * embeds(2, scale=0.02)
    assert check(main, injection, 60, mode, metric) is not None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30), modes, metrics, targets)
def test_prompts_of_different_lengths(seed, n, m, mode, metric, target):
    main, other = embeds(seed, n), embeds(seed, m) + 0.05 * embeds(seed + 1, m)
    assume(difference(main, other, metric) > 0.01)
    check(main, other, target, mode, metric)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mode", AMPLIFICATION_MODES)
def test_the_difference_is_proved_in_the_dtype_that_is_returned(mode, metric, dtype):
    main = embeds(1).to(dtype)
    injection = (embeds(1) + 0.02 * embeds(2)).to(dtype)
    assert check(main, injection, 70, mode, metric) is not None


def test_push_apart_stays_in_the_plane_of_main_and_injection():
    main, injection = embeds(1), embeds(1) + 0.1 * embeds(2)
    moved = amplify(main, injection, 70).embedding
    for t in range(len(main)):
        plane = torch.stack([main[t], injection[t] - main[t]], dim=1).double()
        weights = torch.linalg.lstsq(plane, moved[t].double().unsqueeze(1)).solution
        assert torch.allclose(plane @ weights, moved[t].double().unsqueeze(1), atol=1e-6)
        assert weights.min() > 0


def test_push_apart_scale_is_the_one_of_the_formula():
    main, injection = embeds(1), embeds(1) + 0.1 * embeds(2)
    result = amplify(main, injection, 60, "push_apart", "relative_l2")
    out = main + result.scale * (injection - main)
    out = out / out.norm(dim=-1, keepdim=True) * injection.norm(dim=-1, keepdim=True)
    assert torch.allclose(result.embedding, out, atol=1e-5)
    assert result.scale > 1


def test_maximize_diff_moves_only_the_dimensions_that_vary_most():
    """Up to the common factor that keeps a token's norm, 70% of its values are the injection's."""
    main = embeds(1)
    injection = main + 0.01 * embeds(2) * torch.linspace(0.1, 1, WIDTH)
    result = amplify(main, injection, 50, "maximize_diff", "relative_l2").embedding
    ratio = result / injection
    common = ratio.median(dim=-1, keepdim=True).values
    still = ((ratio / common - 1).abs() < 1e-3).float().mean(dim=0) == 1
    assert still.float().mean() == pytest.approx(0.7, abs=0.01)
    spread = (injection - main).var(dim=0)
    assert spread[still].max() <= spread[~still].min()


def test_orthogonalize_adds_nothing_parallel_to_main():
    main, injection = embeds(1), 0.8 * embeds(1) + 0.3 * embeds(2)
    moved = amplify(main, injection, 80, "orthogonalize", "cosine").embedding.double()
    unit = (main / main.norm(dim=-1, keepdim=True)).double()
    orthogonal = injection.double() - (injection.double() * unit).sum(-1, keepdim=True) * unit
    rest = moved - (moved * unit).sum(-1, keepdim=True) * unit
    assert torch.cosine_similarity(rest, orthogonal, dim=-1).min() > 0.9999


@pytest.mark.parametrize("metric", METRICS)
def test_at_the_target_the_injection_is_returned_as_it_is(metric):
    main, injection = embeds(1), embeds(1) + 0.5 * embeds(2)
    target = measure(main, injection, metric) + 0.4
    result = amplify(main, injection, target, metric=metric)
    assert result.embedding is injection
    assert result.scale is None
    assert result.before == result.after


@pytest.mark.parametrize("mode", AMPLIFICATION_MODES)
@pytest.mark.parametrize("metric", METRICS)
def test_identical_prompts_are_an_error(mode, metric):
    with pytest.raises(UnreachableTargetError, match="main_embeds and injection_embeds are identical"):
        amplify(embeds(1), embeds(1), 60, mode, metric)


@pytest.mark.parametrize("mode", AMPLIFICATION_MODES)
def test_an_injection_of_zeros_is_an_error(mode):
    with pytest.raises(UnreachableTargetError, match="injection_embeds is all zeros"):
        amplify(embeds(1), torch.zeros(20, WIDTH), 60, mode)


def test_a_parallel_injection_has_no_orthogonal_part():
    with pytest.raises(UnreachableTargetError, match="no orthogonal part"):
        amplify(embeds(1), 1.5 * embeds(1), 60, "orthogonalize")


def test_a_target_beyond_the_mode_names_the_maximum():
    """Half of the tokens are equal, so no more than half of the elements can change."""
    main = embeds(1)
    injection = main.clone()
    injection[:10] += 0.05 * embeds(2)[:10]
    with pytest.raises(UnreachableTargetError, match=r"90% \(changed_share\) is above .* at most 4\d\.\d%"):
        amplify(main, injection, 90)
    assert check(main, injection, 40, "push_apart", "changed_share") is not None


@pytest.mark.parametrize("mode", ["push_apart", "orthogonalize"])
@pytest.mark.parametrize(("scale", "target"), [(0.15, 30), (0.15, 50), (0.5, 70)])
def test_the_rounding_of_bfloat16_hides_no_target(scale, target, mode):
    main, other = (embeds(seed, 16, scale).reshape(2, 4096) for seed in (1, 2))
    injection = (main + 0.02 * other).bfloat16()
    assert check(main.bfloat16(), injection, target, mode, "changed_share") is not None


def test_a_target_that_is_jumped_past_says_so():
    """Between opposite prompts there is no path: the norm is kept, so each token is one or the other."""
    with pytest.raises(UnreachableTargetError, match=r"is skipped by push_apart: .* the nearest is \d"):
        amplify(embeds(1), -embeds(1), 60)


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match="metric must be one of"):
        amplify(embeds(1), embeds(2), 60, metric="l1")
    with pytest.raises(ValueError, match="amplification_mode must be one of"):
        amplify(embeds(1), embeds(2), 60, "stretch")
    with pytest.raises(EmbedsError, match="all zeros"):
        measure(torch.zeros(3, 8), embeds(1, 3)[:, :8], "relative_l2")

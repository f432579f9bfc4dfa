"""Strength patterns and the algebra of block strengths."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.strengths import (
    PATTERNS,
    PRESETS,
    BlockRangeError,
    Explicit,
    Pattern,
    Uniform,
    as_block_strengths,
    matching_preset,
    preset_blocks,
    uniform_random,
)

patterns = st.builds(
    Pattern,
    st.sampled_from(PATTERNS),
    st.floats(0, 1),
    st.integers(0, 39),
    st.floats(0.5, 20),
    st.integers(1, 20),
    st.integers(0, 2**32 - 1),
)


def approx(values):
    return pytest.approx(values, abs=1e-12)


def test_known_values_over_five_blocks():
    assert Pattern("uniform", 0.4).resolve(5) == approx([0.4] * 5)
    assert Pattern("linear_decay", 0.8).resolve(5) == approx([0.8, 0.6, 0.4, 0.2, 0])
    assert Pattern("linear_rise", 0.8).resolve(5) == approx([0, 0.2, 0.4, 0.6, 0.8])
    bell = [math.exp(-((i - 2) ** 2) / 2) for i in range(5)]
    assert Pattern("gaussian_peak", 0.5, peak=2, spread=1).resolve(5) == approx([0.5 * g for g in bell])
    assert Pattern("inverse_gaussian", 0.5, peak=2, spread=1).resolve(5) == approx([0.5 * (1 - g) for g in bell])
    assert Pattern("sine_wave", 1.0).resolve(4) == approx([0.5, 1.0, 0.5, 0.0])
    assert Pattern("stepped", 0.3, step=2).resolve(5) == approx([0.3, 0.3, 0, 0, 0.3])
    assert Pattern("focus_mid", 1.0).resolve(8) == approx([0.1, 0.1, 1, 1, 1, 1, 0.1, 0.1])
    assert Pattern("focus_early", 1.0).resolve(8) == approx([1, 1] + [0.1] * 6)
    assert Pattern("focus_late", 1.0).resolve(8) == approx([0.1] * 6 + [1, 1])


def test_random_is_mulberry32():
    """Known answers of the generator, computed with its published C code."""
    assert [round(u * 2**32) for u in uniform_random(0, 3)] == [1144304738, 1416247, 958946056]
    assert [round(u * 2**32) for u in uniform_random(1, 2)] == [2693262067, 11749833]
    curve = Pattern("random", 0.5, seed=3)
    assert curve.resolve(30) == curve.resolve(40)[:30]
    assert curve.resolve(40) != Pattern("random", 0.5, seed=4).resolve(40)


@given(patterns, st.integers(1, 100))
def test_every_pattern_stays_between_zero_and_its_base(pattern, count):
    values = pattern.resolve(count)
    assert len(values) == count
    assert all(0.0 <= v <= pattern.base for v in values)


@given(patterns, st.floats(0, 1))
def test_a_pattern_scales_with_its_base(pattern, factor):
    scaled = pattern * factor
    assert scaled.resolve(40) == approx([v * factor for v in pattern.resolve(40)])


@given(st.lists(st.floats(0, 1), max_size=48))
def test_explicit_strengths_come_back(values):
    assert Explicit(tuple(values)).resolve(48) == (*values, *[0.0] * (48 - len(values)))


def test_explicit_strengths_beyond_the_model():
    assert Explicit((0.5,) + (0.0,) * 39).resolve(30)[0] == 0.5
    with pytest.raises(BlockRangeError, match=r"Block 35 .* has 30 blocks"):
        Explicit((0.0,) * 35 + (0.5,)).resolve(30)


def test_a_selection_masks_and_scales_a_curve():
    product = parse_selection("2-3:0.5, 4") * Pattern("uniform", 0.4) * 0.5
    assert product.resolve(6) == approx([0, 0, 0.1, 0.1, 0.2, 0])


@pytest.mark.parametrize("value", [1.01, -0.1, float("nan"), float("inf"), "x", None])
def test_strengths_outside_0_to_1_are_errors(value):
    for build in (Uniform, lambda v: Explicit((v,)), lambda v: Pattern("uniform", v)):
        with pytest.raises(ValueError, match="from 0 to 1"):
            build(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "wave"}, "Unknown pattern 'wave'"),
        ({"spread": 0}, "spread must be above 0"),
        ({"spread": float("nan")}, "spread must be above 0"),
        ({"step": 0}, "step size must be at least 1"),
    ],
)
def test_bad_pattern_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        Pattern(**{"name": "uniform", **arguments})


def test_what_a_socket_may_carry():
    assert as_block_strengths({2: 0.5, "0": 1}).resolve(4) == (1.0, 0.0, 0.5, 0.0)
    assert as_block_strengths([0.1, 0.2]).resolve(3) == (0.1, 0.2, 0.0)
    curve = Pattern("uniform", 0.2)
    assert as_block_strengths(curve) is curve
    for wrong in ("1,2", 5, None, {"a": 1}, {-1: 0.5}, {10**9: 0.5}):
        with pytest.raises(ValueError, match="block_strengths"):
            as_block_strengths(wrong)


@given(st.sampled_from(PRESETS), st.integers(8, 60))
def test_a_preset_is_recognised(name, count):
    values = [float(i in preset_blocks(name, count)) for i in range(count)]
    found = matching_preset(values)
    assert found is not None
    assert list(preset_blocks(found, count)) == list(preset_blocks(name, count))
    values[count // 2] = 1.0 - values[count // 2]
    assert matching_preset(values) != name

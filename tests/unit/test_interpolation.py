"""Interpolation between prompts, and the sequences that hosts get."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from wanvideo_activation_editor.embeddings.arithmetic import unit_tokens
from wanvideo_activation_editor.embeddings.interpolation import (
    FUNCTIONS,
    METHODS,
    cubic,
    interpolate,
    linear,
    positions,
    slerp,
)
from wanvideo_activation_editor.embeddings.precision import align
from wanvideo_activation_editor.embeddings.promptwise import write_text_embeds
from wanvideo_activation_editor.embeddings.sequence import read_sequence, write_sequence
from wanvideo_activation_editor.embeddings.text_embeds import EmbedsError

from .test_arithmetic import dtypes, lengths, prompt, scales, seeds

methods = st.sampled_from(METHODS)
inner = st.floats(0, 1)


@given(seeds, lengths, lengths, scales, dtypes, methods, st.integers(2, 20))
def test_both_endpoints_are_hit_exactly(seed, n, m, scale, dtype, method, steps):
    a, b = prompt(seed, n, scale=scale, dtype=dtype), prompt(seed + 1, m, scale=scale, dtype=dtype)
    sequence = interpolate(a, b, steps, method)
    assert len(sequence) == steps
    first, last = align(a, b)
    assert torch.equal(sequence[0], first)
    assert torch.equal(sequence[-1], last)
    assert {s.dtype for s in sequence} == {dtype}


@given(seeds, methods, st.integers(1, 20))
def test_without_endpoints_every_step_lies_between(seed, method, steps):
    a, b = prompt(seed), prompt(seed + 1)
    sequence = interpolate(a, b, steps, method, include_endpoints=False)
    assert len(sequence) == steps
    assert not any(torch.equal(s, a) or torch.equal(s, b) for s in sequence)
    whole = interpolate(a, b, steps + 2, method)
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(sequence, whole[1:-1], strict=True))


@given(seeds, inner, st.floats(0.01, 100))
def test_slerp_keeps_the_norm_between_ends_of_equal_norm(seed, t, norm):
    a, b = (unit_tokens(prompt(seed + i, width=8)) * norm for i in range(2))
    assert torch.allclose(slerp(a, b, t).norm(dim=-1), torch.tensor(norm).float(), rtol=1e-5)


@given(seeds, inner)
def test_slerp_moves_at_constant_angular_speed(seed, t):
    a, b = prompt(seed, width=8).double(), prompt(seed + 1, width=8).double()

    def angle(x, y):
        return torch.acos(torch.cosine_similarity(x, y, dim=-1).clamp(-1, 1))

    assert torch.allclose(angle(a, slerp(a, b, t)), t * angle(a, b), atol=1e-6)
    norms = torch.lerp(a.norm(dim=-1), b.norm(dim=-1), t)
    assert torch.allclose(slerp(a, b, t).norm(dim=-1), norms, rtol=1e-9)


@given(seeds, inner, st.floats(-3, 3))
def test_slerp_is_linear_where_tokens_are_parallel_or_zero(seed, t, factor):
    a = prompt(seed)
    b = factor * a
    b[1] = 0
    assert torch.allclose(slerp(a, b, t), linear(a, b, t), atol=1e-6)


@given(seeds, inner, st.floats(1e-7, 1e-3))
def test_slerp_between_nearly_parallel_tokens_is_exact(seed, t, distance):
    a = unit_tokens(prompt(seed).double())
    b = unit_tokens(a + distance * unit_tokens(prompt(seed + 1).double()))
    middle = slerp(a, b, t)
    assert torch.allclose(middle.norm(dim=-1), torch.ones(5).double(), atol=1e-6)
    assert torch.allclose(middle, linear(a, b, t), atol=1e-6)


@given(seeds, inner)
def test_cubic_is_the_line_at_the_smoothstep_position(seed, t):
    a, b = prompt(seed), prompt(seed + 1)
    assert torch.allclose(cubic(a, b, t), linear(a, b, 3 * t**2 - 2 * t**3), atol=1e-6)
    assert torch.allclose(cubic(a, b, 0.5), linear(a, b, 0.5), atol=1e-6)
    start_speed = (cubic(a, b, 1e-3) - a).norm() / (linear(a, b, 1e-3) - a).norm()
    assert start_speed < 0.01


@given(seeds, methods, inner)
def test_reversing_the_ends_reverses_the_way(seed, method, t):
    a, b = prompt(seed), prompt(seed + 1)
    assert torch.allclose(FUNCTIONS[method](a, b, t), FUNCTIONS[method](b, a, 1 - t), atol=2e-6)


def test_positions_and_bad_settings():
    assert positions(3) == [0.0, 0.5, 1.0]
    assert positions(3, include_endpoints=False) == [0.25, 0.5, 0.75]
    with pytest.raises(ValueError, match="at least 2 steps, not 1"):
        interpolate(prompt(1), prompt(2), 1)
    with pytest.raises(ValueError, match="method must be one of"):
        interpolate(prompt(1), prompt(2), 3, "quintic")


# Sequences in host values


def steps_of(count: int, prompts: int = 2):
    return [tuple(prompt(10 * k + i) for i in range(prompts)) for k in range(count)]


def test_a_sequence_in_the_wrappers_dict_keeps_every_key_and_comes_back_step_by_step():
    nag = [prompt(7)]
    base = {"prompt_embeds": [prompt(1), prompt(2)], "negative_prompt_embeds": [prompt(3)], "nag_prompt_embeds": nag}
    steps, texts = steps_of(3), ["one", "two", "three"]
    value = write_sequence(base, steps, texts, "all three")
    assert [t is s for t, s in zip(value["prompt_embeds"], (s for step in steps for s in step), strict=True)]
    assert len(value["interpolated_sequence"]) == 6
    assert value["prompt"] == "all three"
    assert value["nag_prompt_embeds"] is nag
    back = read_sequence(value)
    assert [b["prompt"] for b in back] == texts
    for step, b in zip(steps, back, strict=True):
        assert all(x is y for x, y in zip(b["prompt_embeds"], step, strict=True))
        assert b["nag_prompt_embeds"] is nag
        assert set(b) == {*base, "prompt"}
    assert "prompt" not in base


def test_a_sequence_as_conditioning_divides_sampling_and_comes_back_without_a_trace():
    padded = torch.zeros(1, 512, 16)
    base = [[padded, {"pooled_output": None}], [padded, {"start_percent": 0.2, "end_percent": 0.6}]]
    value = write_sequence(base, steps_of(4), list("abcd"), "all")
    windows = [(e["start_percent"], e["end_percent"]) for _, e in value]
    assert windows[0::2] == [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)]
    assert windows[1::2] == [pytest.approx((0.2 + 0.1 * k, 0.3 + 0.1 * k)) for k in range(4)]
    assert all(t.shape == (1, 512, 16) for t, _ in value)
    third = read_sequence(value)[2]
    assert torch.equal(third[0][0][0, :5], steps_of(4)[2][0])
    assert third[0][1] == {"pooled_output": None, "prompt": "c"}
    assert third[1][1] == {"start_percent": 0.2, "end_percent": 0.6, "prompt": "c"}


def test_changed_prompts_leave_no_stale_sequence():
    base = {"prompt_embeds": [prompt(1)], "nag_prompt_embeds": [prompt(7)]}
    sequence = write_sequence(base, steps_of(3, prompts=1), ["one", "two", "three"], "all three")
    changed = write_text_embeds(sequence, tuple(2 * t for t in sequence["prompt_embeds"]), "twice")
    assert set(changed) == {*base, "prompt"}
    assert len(read_sequence(sequence)) == 3, "the input is not changed"
    with pytest.raises(EmbedsError, match="holds no sequence"):
        read_sequence(changed)


def test_what_is_no_sequence_is_an_error():
    for value in ({"prompt_embeds": [prompt(1)]}, [[prompt(1)[None], {}]], [], "text"):
        with pytest.raises(EmbedsError, match="Connect the output of WanVideo Vector Interpolation"):
            read_sequence(value)
    with pytest.raises(EmbedsError, match="EchoShot"):
        write_sequence({"prompt_embeds": [], "echoshot": True}, steps_of(2), ["a", "b"], "x")

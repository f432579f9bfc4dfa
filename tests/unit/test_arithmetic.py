"""Vector algebra on embeddings: identities that hold for any tensors of any dtype."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from wanvideo_activation_editor.embeddings.arithmetic import (
    add,
    combine,
    difference_vector,
    multiply,
    normalize,
    unit_tokens,
    weighted_sum,
)
from wanvideo_activation_editor.embeddings.precision import align, all_finite
from wanvideo_activation_editor.embeddings.text_embeds import EmbedsError

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def prompt(seed: int, tokens: int = 5, width: int = 16, scale: float = 0.3, dtype=torch.float32) -> torch.Tensor:
    return (torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


seeds = st.integers(0, 2**31)
lengths = st.integers(1, 9)
scales = st.sampled_from([1e-3, 0.05, 0.3, 5.0, 200.0])
dtypes = st.sampled_from(DTYPES)


@given(seeds, lengths, scales, dtypes, st.booleans())
def test_a_minus_a_is_zero(seed, tokens, scale, dtype, unit):
    a = prompt(seed, tokens, scale=scale, dtype=dtype)
    result = difference_vector(a, a, normalize=unit)
    assert result.dtype == dtype
    assert not result.any()


@given(seeds, lengths, lengths, scales, dtypes)
def test_a_minus_b_plus_b_is_a_within_rounding(seed, n, m, scale, dtype):
    a, b = prompt(seed, n, scale=scale, dtype=dtype), prompt(seed + 1, m, scale=scale, dtype=dtype)
    back = add(difference_vector(a, b), [b], [1.0])
    a, b = (x.float() for x in align(a, b))
    # Two roundings: of the difference, and of the sum.
    bound = torch.finfo(dtype).eps * ((a - b).abs() + a.abs()) + torch.finfo(dtype).tiny
    assert ((back.float() - a).abs() <= bound).all()


@given(seeds, lengths, dtypes)
def test_weighted_sum_of_one_operand_is_itself(seed, tokens, dtype):
    a = prompt(seed, tokens, dtype=dtype)
    assert torch.equal(weighted_sum(a, [], []), a)
    assert torch.equal(add(a, [], []), a)


@given(seeds, st.floats(-10, 10), st.floats(-10, 10))
def test_weighted_sum_divides_by_the_magnitudes(seed, v, w):
    a, b, c = (prompt(seed + i) for i in range(3))
    expected = (a.double() + v * b.double() + w * c.double()) / (1 + abs(v) + abs(w))
    assert torch.allclose(weighted_sum(a, [b, c], [v, w]).double(), expected, atol=1e-6)
    same = weighted_sum(a, [a, a], [abs(v), abs(w)])
    assert torch.allclose(same, a, atol=1e-5), "an average of equal prompts is that prompt"


def test_add_multiply_and_normalize_by_hand():
    a, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[10.0, 20.0]])
    assert torch.equal(add(a, [b], [0.5]), torch.tensor([[6.0, 12.0], [3.0, 4.0]]))
    assert torch.equal(multiply(a, [b, b], [1.0, -2.0]), torch.tensor([[-200.0, -1600.0], [0.0, 0.0]]))
    assert torch.allclose(
        normalize(a, [b], [0.0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]) / torch.tensor([[5**0.5], [5]])
    )
    assert torch.equal(difference_vector(a, b, scale=-1.0), torch.tensor([[9.0, 18.0], [-3.0, -4.0]]))


@given(seeds, dtypes, scales)
def test_unit_tokens_have_length_one_and_zero_tokens_stay_zero(seed, dtype, scale):
    a = prompt(seed, 4, dtype=dtype, scale=scale)
    a[2] = 0
    norms = unit_tokens(a.float()).norm(dim=-1)
    assert torch.allclose(norms, torch.tensor([1.0, 1.0, 0.0, 1.0]), atol=1e-5)
    assert torch.allclose(normalize(a, [], []).float().norm(dim=-1), norms, atol=4 * torch.finfo(dtype).eps)


@given(seeds, lengths, lengths)
def test_shorter_prompts_are_padded_with_zeros(seed, n, m):
    a, b = prompt(seed, n), prompt(seed + 1, m)
    result = difference_vector(a, b)
    assert result.shape == (max(n, m), 16)
    common = min(n, m)
    assert torch.equal(result[:common], a[:common] - b[:common])
    assert torch.equal(result[common:], a[common:] if n > m else -b[common:])


@pytest.mark.parametrize("operation", ["add", "weighted_sum", "multiply", "normalize"])
def test_inputs_are_not_changed_and_the_base_decides_dtype(operation):
    a, b = prompt(1, 3, dtype=torch.bfloat16), prompt(2, 6)
    before = a.clone(), b.clone()
    result = combine(operation, a, [b, b], [2.0, -0.5])
    assert result.dtype == torch.bfloat16
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])
    assert combine(operation, b, [a], [1.0]).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: add(a, [a], [10.0]), r"^Add: .* does not fit float16"),
        (lambda a: multiply(a, [a], [10.0]), r"^Multiply: .* float16"),
        (lambda a: difference_vector(a, -a), r"^Vector difference: .* float16"),
    ],
)
def test_overflow_is_an_error_that_names_the_operation(call, message):
    with pytest.raises(EmbedsError, match=message):
        call(torch.full((2, 4), 60000.0, dtype=torch.float16))


def test_widths_do_not_mix():
    with pytest.raises(EmbedsError, match="widths 4, 6"):
        difference_vector(torch.ones(2, 4), torch.ones(2, 6))
    with pytest.raises(ValueError, match="operation must be one of"):
        combine("divide", torch.ones(2, 4), [], [])


def test_finite_check_is_exact():
    huge = torch.full((4, 4), 3e38)
    assert all_finite(huge), "its sum overflows, it does not"
    assert all_finite(torch.full((4, 4), 65504.0, dtype=torch.float16))
    for bad in (float("nan"), float("inf"), -float("inf")):
        broken = huge.clone()
        broken[2, 1] = bad
        assert not all_finite(broken)
    assert not all_finite(torch.tensor([float("inf"), -float("inf")]))

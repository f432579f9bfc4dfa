"""Tensors to bytes and back: what is exact, what is refused, what damage is found."""

from __future__ import annotations

import contextlib
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wanvideo_activation_editor.storage.codec import Encoded, content_hash, decode, encode
from wanvideo_activation_editor.storage.errors import DamagedError, UnsupportedError

from .helpers import randn, same_bits

DTYPES = ["bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "uint8", "int8", "int16",
          "int32", "int64", "bool"]  # fmt: skip


def back(e: Encoded) -> torch.Tensor:
    return decode(e.data, e.dtype, e.shape, e.stored, e.rows, e.columns)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (0,), (3, 0), (0, 3), (7, 33), (2, 3, 65), (1, 4, 1, 8)])
def test_exact_gives_back_every_bit_of_every_dtype_and_shape(dtype: str, shape: tuple[int, ...]):
    bits = torch.randint(0, 256, (math.prod(shape) * 8,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    kind = getattr(torch, dtype)
    tensor = (
        (bits[: math.prod(shape)] > 127) if kind == torch.bool else bits[: math.prod(shape) * kind.itemsize].view(kind)
    )
    assert same_bits(back(encode(tensor.reshape(shape), exact=True)), tensor.reshape(shape))


@settings(max_examples=60, deadline=None)
@given(
    st.binary(min_size=2, max_size=4000),
    st.sampled_from(["bfloat16", "float16"]),
    st.integers(1, 40),
    st.integers(0, 5),
)
def test_half_precision_sources_are_exact_by_default(data: bytes, dtype: str, columns: int, padding: int):
    values = torch.frombuffer(bytearray(data[: len(data) // 2 * 2]), dtype=torch.int16).view(getattr(torch, dtype))
    rows = values[: values.numel() // columns * columns].reshape(-1, columns)
    tensor = torch.cat([rows, torch.zeros(padding, columns, dtype=rows.dtype)])
    assert same_bits(back(encode(tensor)), tensor)


def test_float32_that_is_bfloat16_is_exact_and_small_and_other_float32_is_rounded_to_half():
    exact = randn(50, 64).float()
    assert encode(exact).stored == "bfloat16" and same_bits(back(encode(exact)), exact)
    other = randn(50, 64, dtype=torch.float32)
    assert encode(other).stored == "float16"
    error = (back(encode(other)) - other).abs()
    assert (error <= other.abs() * 2**-11 + 2**-25).all() and error.any()
    assert same_bits(back(encode(other, exact=True)), other)


@pytest.mark.parametrize("values", [[70000.0, 1.0], [math.inf, 1.1], [math.nan, 1.1], [1e-9, 3e-9]])
def test_float32_that_does_not_fit_half_stays_as_it_is(values: list[float]):
    tensor = torch.tensor([values])
    assert encode(tensor).stored == "float32" and same_bits(back(encode(tensor)), tensor)


def test_padding_takes_no_space_and_negative_zeros_are_kept():
    real = randn(77, 4096)
    padded = torch.cat([real, torch.zeros(435, 4096, dtype=torch.bfloat16)])
    assert encode(padded).data == encode(real).data
    negative = torch.full((4, 8), -0.0, dtype=torch.bfloat16)
    assert same_bits(back(encode(negative)), negative)


def entropy(tensor: torch.Tensor) -> float:
    """Bytes that the 16-bit words of a tensor need, each coded on its own."""
    counts = Counter(tensor.reshape(-1).view(torch.int16).tolist())
    return -sum(n * math.log2(n / tensor.numel()) for n in counts.values()) / 8


def test_compression_of_text_encoder_like_rows_is_near_the_limit_of_entropy():
    scale = torch.exp(torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 0.5) * 0.08
    rows = (torch.randn(77, 4096, generator=torch.Generator().manual_seed(1)) * scale).bfloat16()
    size = len(encode(rows).data)
    assert rows.numel() * 4 / size > 2.85
    assert entropy(rows) / size > 0.98
    padded = torch.cat([rows.float(), torch.zeros(435, 4096)])
    assert padded.numel() * 4 / len(encode(padded).data) > 19


def test_equal_values_have_equal_hashes_and_others_have_not():
    a, b = randn(9, 8), randn(9, 8, seed=1)
    assert encode(a).hash == encode(a.clone()).hash == content_hash(a) == encode(a.float()).hash
    assert len({encode(a).hash, encode(b).hash, encode(a.reshape(8, 9)).hash, encode(a[:8]).hash}) == 4


def test_views_of_a_tensor_are_stored_by_value():
    base = randn(16, 16, dtype=torch.float32)
    for view in (base.T, base[::2], base[:, 3:9], torch._neg_view(base), base.clone().requires_grad_()):
        assert same_bits(back(encode(view, exact=True)), view.detach().clone().contiguous())


@pytest.mark.parametrize("tensor", [
    torch.eye(3).to_sparse(), torch.empty(3, device="meta"), torch.ones(2, dtype=torch.complex64),
    torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), torch.ones(1).expand(1 << 27),
])  # fmt: skip
def test_tensors_that_cannot_be_stored_are_refused(tensor: torch.Tensor):
    with pytest.raises(UnsupportedError, match="Cannot store a tensor"):
        encode(tensor)


def test_every_flipped_bit_and_every_cut_is_found():
    e = encode(randn(40, 64))
    generator = torch.Generator().manual_seed(2)
    for position in torch.randint(0, len(e.data) * 8, (300,), generator=generator).tolist():
        damaged = bytearray(e.data)
        damaged[position // 8] ^= 1 << position % 8
        with contextlib.suppress(DamagedError):  # a reserved bit of a frame's header changes nothing
            assert same_bits(decode(bytes(damaged), e.dtype, e.shape, e.stored, e.rows, e.columns), randn(40, 64))
    for length in (0, 1, 17, len(e.data) // 2, len(e.data) - 1):
        with pytest.raises(DamagedError):
            decode(e.data[:length], e.dtype, e.shape, e.stored, e.rows, e.columns)
    with pytest.raises(DamagedError):
        decode(e.data + b"x", e.dtype, e.shape, e.stored, e.rows, e.columns)


@pytest.mark.parametrize("change", [
    {"shape": (39, 64)}, {"shape": (40, 63)}, {"shape": (-40, -64)}, {"shape": (1 << 40, 64)}, {"rows": 41},
    {"rows": -1},    {"stored": "int16"}, {"stored": "text"}, {"dtype": "complex64"}, {"columns": 1 << 40},
])  # fmt: skip
def test_a_description_that_contradicts_the_bytes_is_damage(change: dict):
    e = encode(randn(40, 64))
    told = {"dtype": e.dtype, "shape": e.shape, "stored": e.stored, "rows": e.rows, "columns": e.columns, **change}
    with pytest.raises(DamagedError):
        decode(e.data, **told)

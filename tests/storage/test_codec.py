"""Round trips, the guard against loss, and blobs that are not what they claim."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from wanvideo_activation_editor.storage import DamagedError, UnsupportedError, decode, encode, planes

from .helpers import randn, same_bits

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
OTHERS = [
    torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool,
]  # fmt: skip
SHAPES = [
    (),
    (0,),
    (1,),
    (7,),
    (0, 5),
    (5, 0),
    (1, 1),
    (1, 4096),
    (3, 5),
    (2, 3, 5),
    (1, 512, 7),
    (2, 0, 3),
    (1, 1, 1, 2),
]


def round_trip(tensor: torch.Tensor, precision="half") -> torch.Tensor:
    encoded = encode(tensor, precision)
    return decode(encoded.blob, encoded.dtype, encoded.shape)


def from_bits(bits: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    signed = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}[bits.dtype.itemsize]
    return torch.from_numpy(bits.view(signed).copy()).view(dtype)


@pytest.mark.parametrize("dtype", [*FLOATS, *OTHERS], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_dtype_and_shape_comes_back_bit_for_bit_when_exact(dtype, shape):
    tensor = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 20).to(dtype)
    assert same_bits(round_trip(tensor, "exact"), tensor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, *OTHERS], ids=str)
def test_half_precision_keeps_16_bit_floats_and_integers_bit_for_bit(dtype):
    tensor = (torch.randn(40, 64, generator=torch.Generator().manual_seed(2)) * 20).to(dtype)
    assert same_bits(round_trip(tensor), tensor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("precision", ["half", "exact"])
def test_every_16_bit_pattern_survives_with_its_nan_payload(dtype, precision):
    tensor = from_bits(np.arange(65536, dtype=np.uint16).reshape(256, 256), dtype)
    assert same_bits(round_trip(tensor, precision), tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_that_bfloat16_holds_are_kept_exactly_from_wider_floats(dtype):
    tensor = randn(20).to(dtype)
    assert same_bits(round_trip(tensor), tensor)
    assert encode(tensor).stored == "bfloat16"


def test_float32_is_rounded_to_float16_within_the_stated_error():
    tensor = randn(200, 64, dtype=torch.float32)
    encoded = encode(tensor)
    error = (decode(encoded.blob, encoded.dtype, encoded.shape) - tensor).abs()
    assert encoded.stored == "float16"
    assert bool((error <= torch.maximum(tensor.abs() * 2.0**-11, torch.tensor(2.0**-25))).all())


@pytest.mark.parametrize("value", [65520.0, -70000.0, 3e38, float("nan"), float("inf"), float("-inf"), 2.0**-140])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_beyond_float16_are_kept_and_never_become_infinite(value, dtype):
    tensor = randn(4, dtype=torch.float32).to(dtype) * (1e-42 if value == 2.0**-140 else 1)
    tensor[1, 3] = value
    assert same_bits(round_trip(tensor), tensor)


def test_a_tensor_of_tiny_values_is_not_flushed_by_float16():
    tensor = randn(4, dtype=torch.float32) * 1e-6
    assert same_bits(round_trip(tensor), tensor)


def test_float64_beyond_float32_is_kept():
    tensor = torch.tensor([[1e300, -1.0], [2.0, 3.0]], dtype=torch.float64)
    assert same_bits(round_trip(tensor), tensor)


@pytest.mark.parametrize("value", [1e-300, 2.0**-140, 5e-324])
@pytest.mark.parametrize("precision", ["half", "compact"])
def test_a_float64_tensor_below_the_range_of_float32_is_kept(value, precision):
    tensor = torch.full((2, 4), value, dtype=torch.float64)
    assert same_bits(round_trip(tensor, precision), tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_compact_keeps_values_too_small_to_round(dtype):
    tensor = torch.tensor([[1.0, 2.0**-130], [-(2.0**-133), 0.3]], dtype=dtype)
    again = round_trip(tensor, "compact")
    assert bool(((again.double() - tensor.double()).abs() <= tensor.double().abs() * 2.0**-6).all())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_trailing_zero_rows_take_no_space_but_rows_of_negative_zero_are_kept(dtype):
    tensor = torch.cat([randn(10, dtype=dtype), torch.zeros(500, 64, dtype=dtype)])
    assert encode(tensor).rows == 10
    assert same_bits(round_trip(tensor, "exact"), tensor)
    negative = torch.cat([randn(10, dtype=dtype), -torch.zeros(500, 64, dtype=dtype)])
    assert encode(negative).rows == 510
    assert same_bits(round_trip(negative, "exact"), negative)


def test_zero_rows_inside_and_all_zero_tensors_come_back():
    inside = randn(9)
    inside[3:6] = 0
    assert same_bits(round_trip(inside), inside)
    zeros = torch.zeros(1, 512, 64)
    assert encode(zeros).rows == 0
    assert same_bits(round_trip(zeros), zeros)


def test_subnormals_are_kept():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        tensor = torch.full((2, 8), torch.finfo(dtype).smallest_normal / 4, dtype=dtype)
        assert same_bits(round_trip(tensor), tensor)


def test_equal_prompts_have_one_hash_however_they_are_padded():
    rows = randn(12)
    padded = torch.zeros(1, 512, 64, dtype=rows.dtype)
    padded[0, :12] = rows
    assert encode(rows).content_hash == encode(padded).content_hash == encode(rows.float()).content_hash
    assert encode(rows).content_hash != encode(rows.half()).content_hash or torch.equal(rows, rows.half().bfloat16())


def test_compact_errs_by_no_more_than_it_states_and_takes_less():
    tensor = randn(100, 512, dtype=torch.float32)
    encoded = encode(tensor, "compact")
    again = decode(encoded.blob, encoded.dtype, encoded.shape)
    assert bool(((again - tensor).abs() <= tensor.abs() * 2.0**-6).all())
    assert ((again - tensor).norm() / tensor.norm()).item() < 0.008
    assert len(encoded.blob) < 0.85 * len(encode(tensor.bfloat16()).blob)


@pytest.mark.parametrize("value", [3.4e38, float("nan"), float("inf")])
def test_compact_keeps_what_it_cannot_round(value):
    tensor = torch.full((2, 4), value)
    assert same_bits(round_trip(tensor, "compact"), tensor)


def test_views_with_strides_and_gradients_are_stored_as_what_they_show():
    base = randn(64, 64, dtype=torch.float16).requires_grad_()
    for view in (base.t(), base[::2, 1::3], base[:, :1]):
        assert same_bits(round_trip(view), view.detach())


@pytest.mark.parametrize("tensor", [torch.zeros(2, dtype=torch.complex64), torch.zeros(2, 2).to_sparse(),
                                    torch.zeros(2, 2, device="meta")], ids=["complex", "sparse", "meta"])  # fmt: skip
def test_what_cannot_be_stored_is_refused(tensor):
    with pytest.raises(UnsupportedError, match="Cannot store"):
        encode(tensor)


def test_a_tensor_that_could_not_be_stored_or_read_again_is_refused():
    for tensor in (torch.zeros(1 << 40, 0), torch.zeros(1).expand(3 << 30), torch.zeros(1).expand((25 << 20) + 1)):
        with pytest.raises(UnsupportedError, match="limit for one tensor is 100 MB"):
            encode(tensor)


@settings(max_examples=150, deadline=None)
@given(
    bits=hnp.arrays(np.uint32, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)),
    precision=st.sampled_from(["half", "exact", "compact"]),
)
def test_any_float32_pattern_is_exact_or_within_the_stated_error(bits, precision):
    tensor = from_bits(np.ascontiguousarray(bits), torch.float32) if bits.size else torch.zeros(bits.shape)
    again = round_trip(tensor, precision)
    assert again.shape == tensor.shape and again.dtype == tensor.dtype
    finite = torch.isfinite(tensor)
    assert torch.equal(torch.isfinite(again), finite)
    relative = {"exact": 0.0, "half": 2.0**-11, "compact": 2.0**-6}[precision]
    error = (again.double() - tensor.double()).abs()[finite]
    # values too small for the target's normal range lose absolute, not relative precision
    absolute = {"exact": 0.0, "half": 2.0**-25, "compact": 0.0}[precision]
    assert bool((error <= (tensor.double().abs()[finite] * relative).clamp_min(absolute)).all())
    if precision == "exact":
        assert same_bits(again, tensor)


@settings(max_examples=150, deadline=None)
@given(
    values=hnp.arrays(np.float64, hnp.array_shapes(max_dims=2, max_side=6), elements=st.floats(width=64)),
    precision=st.sampled_from(["half", "exact", "compact"]),
)
def test_any_float64_is_exact_or_within_the_stated_error(values, precision):
    tensor = torch.from_numpy(values.copy())
    again = round_trip(tensor, precision)
    if precision == "exact" or not torch.isfinite(tensor).all():
        assert same_bits(again, tensor)
    elif precision == "compact":
        assert bool(((again - tensor).abs() <= tensor.abs() * 2.0**-6).all())
    else:
        peak = float(tensor.abs().max())
        absolute = 2.0**-25 if peak >= 2.0**-7 else 0.0
        assert bool(((again - tensor).abs() <= (tensor.abs() * 2.0**-11).clamp_min(absolute)).all())


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.uint16, st.integers(0, 200)), st.integers(1, 64))
def test_rotated_planes_are_exponents_and_the_rest_whatever_the_length_of_a_run(bits, run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planes, "RUN", run)
        mantissas, exponents = planes.split_rotated(bits)
        assert np.array_equal(exponents, (bits >> 7) & 0xFF)
        assert np.array_equal(mantissas, (bits & 0x7F) << 1 | bits >> 15)
        assert np.array_equal(planes.merge_rotated(mantissas, exponents), bits)


@pytest.mark.parametrize("base", [0, 90, 223])
def test_a_blob_of_format_1_is_read(base):
    """Every bit pattern in the layout of version 1, written out in full here: nothing writes it any more."""
    bits = np.arange(65536)
    exponent = ((bits >> 7 & 0xFF) - base) % 256
    high = (exponent & 31) << 3 | (bits >> 15) << 2 | (bits >> 5 & 3)
    low = (bits & 31) << 3 | exponent >> 5
    frames = [planes.compress(plane.astype(np.uint8)) for plane in (low, high)]
    again = decode(crafted(256, 256, *frames, dtype=1, base=base), "bfloat16", (256, 256))
    assert same_bits(again, from_bits(bits.astype(np.uint16).reshape(256, 256), torch.bfloat16))


@pytest.mark.parametrize("version", [0, 3])
def test_a_blob_of_another_format_is_refused(version):
    frame = planes.compress(np.zeros(8, np.uint8))
    with pytest.raises(UnsupportedError, match=f"format {version}"):
        decode(crafted(1, 8, frame, frame, version=version), "float16", (1, 8))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(blob):
    with pytest.raises((DamagedError, UnsupportedError)):
        decode(blob, "float32", (2, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16], ids=str)
def test_a_changed_byte_anywhere_in_a_blob_is_detected(dtype):
    tensor = randn(6, 48, dtype=dtype)
    encoded = encode(tensor, "exact")
    for position in range(len(encoded.blob)):
        for mask in (0x01, 0x02, 0x10, 0x80, 0xFF):
            blob = bytearray(encoded.blob)
            blob[position] ^= mask
            with pytest.raises((DamagedError, UnsupportedError)):
                decode(bytes(blob), encoded.dtype, encoded.shape)


def test_a_blob_cut_short_or_lengthened_is_detected():
    encoded = encode(randn(6))
    for blob in (*(encoded.blob[:n] for n in range(0, len(encoded.blob), 7)), encoded.blob + b"\0"):
        with pytest.raises(DamagedError):
            decode(blob, encoded.dtype, encoded.shape)


def test_a_blob_does_not_pass_for_another_shape_or_dtype():
    encoded = encode(randn(6, 64))
    for dtype, shape in (("bfloat16", (6, 32)), ("bfloat16", (5, 64)), ("int16", (6, 64)), ("nonsense", (6, 64))):
        with pytest.raises(DamagedError):
            decode(encoded.blob, dtype, shape)


def crafted(rows: int, columns: int, *frames: bytes, version: int = 1, dtype: int = 2, base: int = 0) -> bytes:
    header = struct.pack("<4sBBBBQQ", b"WAES", version, dtype, base, len(frames), rows, columns)
    header += struct.pack(f"<{len(frames)}Q", *map(len, frames))
    return header + zlib.crc32(header + b"".join(frames)).to_bytes(4, "little") + b"".join(frames)


def test_a_small_blob_cannot_ask_for_much_memory():
    """A gigabyte of zeros is a frame of 33 KB; what it claims is compared before anything is allocated."""
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    bomb = compressor.compress(bytes(64 << 20))
    with pytest.raises(DamagedError):
        decode(crafted(1, 8, bomb, bomb), "float16", (1, 8))
    with pytest.raises(DamagedError, match="claims"):
        decode(crafted(1 << 20, 1 << 20, bomb, bomb), "float16", (1 << 20, 1 << 20))
    with pytest.raises(DamagedError):
        decode(crafted(1 << 40, 1 << 40), "float16", (1, 8))
    for rows, columns in ((1 << 63, 0), (0, 1 << 63), (1 << 40, 0)):
        with pytest.raises(DamagedError):
            decode(crafted(rows, columns), "float16", (1, 0))
    for shape in ((1 << 62, 0), (0, 1 << 40, 1 << 40), (-1, 8), (-1, -8)):
        with pytest.raises(DamagedError):
            decode(encode(torch.zeros(0, 8)).blob, "float32", shape)
    unsized = zstandard.ZstdCompressor(write_content_size=False, write_checksum=True).compress(bytes(8))
    with pytest.raises(DamagedError):
        decode(crafted(1, 8, unsized, unsized), "float16", (1, 8))
    unchecked = zstandard.ZstdCompressor(write_checksum=False).compress(bytes(8))
    with pytest.raises(DamagedError):
        decode(crafted(1, 8, unchecked, unchecked), "float16", (1, 8))

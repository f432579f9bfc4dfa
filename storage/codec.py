"""Tensors to compressed bytes and back.

A blob is a header, then one zstd frame per byte plane (see planes.py):

    magic 4s "WAES" | version u8 | stored dtype u8 | 0 u8 | planes u8
    rows u64 | columns u64 | length of each frame u64 ... | crc32 of all this and the frames u32

All little-endian. A tensor is seen as rows of its last dimension; trailing rows whose bits are all zero
(padding) are left out. A row of -0.0 is not padding. The original dtype and shape are kept beside the blob.
Version 1, which is still read, had another layout of bfloat16, with its exponent window in place of the 0.

What is stored depends on the source and on `Precision`:

    source            exact               half (default)                          compact
    bfloat16          bfloat16            bfloat16, exact                         5 mantissa bits
    float16           float16             float16, exact                          5 mantissa bits
    float32, float64  narrowest exact     bfloat16 where exact, else float16      5 mantissa bits
    float8, integers  as they are         as they are                             as they are

`half` stores the source's own width instead where float16 would not do: values beyond 65504, NaN or Inf, or
a largest magnitude below 2^-7. Otherwise its error is at most 2^-11 of a value (2^-25 absolute for the
smallest ones). `compact` errs by at most 2^-6 (1.6%) of a value, about 0.7% in relative L2, and stores the
source's own width where a value is beyond the normal range of float32.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from . import planes
from .errors import DamagedError, UnsupportedError
from .identity import content_hash

Precision = Literal["half", "exact", "compact"]
PRECISIONS: tuple[Precision, ...] = ("half", "exact", "compact")

MAGIC = b"WAES"
VERSION = 2
MAX_BYTES = 2 << 30
"""Largest tensor in bytes that is decoded unless the caller says otherwise."""
MAX_TENSOR_BYTES = 100 << 20
"""Largest tensor in bytes that is encoded: DuckDB needs its blob twice within its memory limit (database.py)."""

COMPACT_MANTISSA_BITS = 5
SMALLEST_HALF_PEAK = 2.0**-7
_HEADER = struct.Struct("<4sBBBBQQ")
_SERIAL_RUN = 32768

_DTYPES: dict[str, tuple[int, torch.dtype, Any]] = {
    "bfloat16": (1, torch.bfloat16, np.uint16),
    "float16": (2, torch.float16, np.uint16),
    "float32": (3, torch.float32, np.uint32),
    "float64": (4, torch.float64, np.uint64),
    "float8_e4m3fn": (5, torch.float8_e4m3fn, np.uint8),
    "float8_e5m2": (6, torch.float8_e5m2, np.uint8),
    "uint8": (7, torch.uint8, np.uint8),
    "int8": (8, torch.int8, np.uint8),
    "int16": (9, torch.int16, np.uint16),
    "int32": (10, torch.int32, np.uint32),
    "int64": (11, torch.int64, np.uint64),
    "bool": (12, torch.bool, np.uint8),
}
_NAMES = {code: name for name, (code, _, _) in _DTYPES.items()}


@dataclass(frozen=True)
class Encoded:
    """A tensor as it is stored.

    Args:
        blob: header and frames.
        content_hash: sha256 of what is stored, before compression; equal tensors have equal hashes.
        stored: name of the dtype in the blob.
        rows: rows kept; columns: length of a row.
        dtype: name of the source's dtype; shape: of the source; device: kind of device it was on.
        raw_bytes: size of the source.
    """

    blob: bytes
    content_hash: str
    stored: str
    rows: int
    columns: int
    dtype: str
    shape: tuple[int, ...]
    device: str
    raw_bytes: int


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def torch_dtype(name: str) -> torch.dtype:
    """Raises DamagedError for a name that is no dtype of the codec."""
    if name not in _DTYPES:
        raise DamagedError(f"Unknown dtype {name!r} in the store.")
    return _DTYPES[name][1]


def available_device(kind: str) -> torch.device:
    """The device of a kind such as `cuda`; the CPU where this machine has none."""
    try:
        found = kind == "cpu" or torch.get_device_module(kind).is_available()
    except (RuntimeError, AttributeError):  # a kind that this torch does not know
        found = False
    return torch.device(kind if found else "cpu")


def encode(tensor: torch.Tensor, precision: Precision = "half") -> Encoded:
    """Encode a dense tensor of any shape.

    Raises:
        UnsupportedError: a sparse, quantized, complex or meta tensor, or one of more than MAX_TENSOR_BYTES.
    """
    kept = _kept_rows(tensor)
    stored, bits = _stored_bits(kept, precision)
    return Encoded(
        blob=_pack(stored, bits),
        content_hash=content_hash(stored, bits),
        stored=stored,
        rows=bits.shape[0],
        columns=bits.shape[1],
        dtype=dtype_name(tensor.dtype),
        shape=tuple(tensor.shape),
        device=tensor.device.type,
        raw_bytes=tensor.numel() * tensor.element_size(),
    )


def content_hashes(tensor: torch.Tensor) -> dict[Precision, str]:
    """The hash that `encode` would give at each precision. Errors as `encode`."""
    kept = _kept_rows(tensor)
    return {precision: content_hash(*_stored_bits(kept, precision)) for precision in PRECISIONS}


def decode(blob: bytes, dtype: str, shape: Sequence[int], max_bytes: int = MAX_BYTES) -> torch.Tensor:
    """The tensor [*shape] of `dtype` on the CPU.

    Raises:
        DamagedError: the blob is not whole, fails a checksum, or does not fit dtype and shape.
    """
    target = torch_dtype(dtype)
    total, columns = _as_rows(tuple(shape))
    if min(shape, default=0) < 0 or _extent(shape) * target.itemsize > max_bytes:
        raise DamagedError(f"A stored tensor claims {list(shape)} {dtype}, more than the limit of {max_bytes} bytes.")
    stored, bits = decode_bits(blob, max_bytes)
    if bits.shape[1] != columns or bits.shape[0] > total:
        raise DamagedError(f"A blob of {list(bits.shape)} values does not fit the shape {list(shape)}.")
    values = torch.from_numpy(bits.view(_signed(bits.dtype))).view(_DTYPES[stored][1])
    if stored != dtype and not (values.is_floating_point() and target.is_floating_point):
        raise DamagedError(f"A blob of {stored} does not fit a tensor of {dtype}.")
    if values.shape[0] == total:
        return converted(values, target).reshape(tuple(shape))
    out = torch.zeros(total, columns, dtype=target)
    out[: values.shape[0]] = converted(values, target)
    return out.reshape(tuple(shape))


def decode_bits(blob: bytes, max_bytes: int = MAX_BYTES) -> tuple[str, npt.NDArray[Any]]:
    """Stored dtype and bit patterns [rows, columns] of a blob, every checksum verified.

    Raises:
        DamagedError: as `decode`.
    """
    if len(blob) < _HEADER.size + 4 or blob[:4] != MAGIC:
        raise DamagedError("Not an embedding blob, or its header is damaged.")
    _, version, code, base, plane_count, rows, columns = _HEADER.unpack_from(blob)
    start = _HEADER.size + 8 * plane_count
    view = memoryview(blob)
    checksum = int.from_bytes(blob[start : start + 4], "little")
    if len(blob) < start + 4 or zlib.crc32(view[start + 4 :], zlib.crc32(view[:start])) != checksum:
        raise DamagedError("A blob fails its checksum.")
    if not 1 <= version <= VERSION or code not in _NAMES:
        raise UnsupportedError(f"A blob of format {version}, dtype code {code}: written by a newer version.")
    stored = _NAMES[code]
    bits_type = np.dtype(_DTYPES[stored][2])
    count = rows * columns
    lengths = struct.unpack_from(f"<{plane_count}Q", blob, _HEADER.size)
    if max(rows, columns, count) * bits_type.itemsize > max_bytes or plane_count != (
        bits_type.itemsize if count else 0
    ):
        raise DamagedError(f"A blob claims {rows} x {columns} values in {plane_count} planes.")
    if len(blob) != start + 4 + sum(lengths):
        raise DamagedError("A blob is not as long as its header says.")
    if not count:
        return stored, np.empty((rows, columns), bits_type)
    frames, position = [], start + 4
    for length in lengths:
        frames.append(planes.decompress(view[position : position + length], count))
        position += length
    if stored != "bfloat16":
        bits = planes.merge(frames, bits_type)
    elif version == 1:
        bits = planes.merge_window(frames, base)
    else:
        bits = planes.merge_rotated(*frames)
    return stored, bits.reshape(rows, columns)


def _pack(stored: str, bits: npt.NDArray[Any]) -> bytes:
    if not bits.size:
        frames = []
    elif stored == "bfloat16":
        mantissas, exponents = planes.split_rotated(bits)
        frames = [planes.compress(mantissas), planes.compress_exponents(exponents)]
    else:
        frames = [planes.compress(p) for p in planes.split(bits)]
    header = _HEADER.pack(MAGIC, VERSION, _DTYPES[stored][0], 0, len(frames), *bits.shape)
    header += struct.pack(f"<{len(frames)}Q", *map(len, frames))
    checksum = zlib.crc32(header)
    for frame in frames:
        checksum = zlib.crc32(frame, checksum)
    return b"".join([header, checksum.to_bytes(4, "little"), *frames])


def _kept_rows(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous CPU tensor [rows, columns], without padding. Errors as `encode`."""
    if dtype_name(tensor.dtype) not in _DTYPES or tensor.layout != torch.strided or tensor.is_meta:
        raise UnsupportedError(f"Cannot store a tensor of {tensor.dtype} and {tensor.layout} on {tensor.device}.")
    size = _extent(tensor.shape) * tensor.element_size()
    if size > MAX_TENSOR_BYTES:
        raise UnsupportedError(
            f"Cannot store a tensor of {list(tensor.shape)}, {size >> 20} MB: "
            f"the limit for one tensor is {MAX_TENSOR_BYTES >> 20} MB."
        )
    source = tensor.detach().cpu().resolve_neg().contiguous()
    rows, columns = _as_rows(tuple(source.shape))
    return source.reshape(rows, columns)[: _rows_kept(_bits(source).reshape(rows, columns))]


def _stored_bits(kept: torch.Tensor, precision: Precision) -> tuple[str, npt.NDArray[Any]]:
    """Dtype to store and bits [rows, columns], by the table at the top."""
    name = dtype_name(kept.dtype)
    if name not in ("bfloat16", "float16", "float32", "float64") or not kept.numel():
        return name, _bits(kept)
    if precision == "compact":
        rounded = _rounded(kept)
        return ("bfloat16", rounded) if rounded is not None else (name, _bits(kept))
    if name in ("bfloat16", "float16"):
        return name, _bits(kept)
    single = converted(kept, torch.float32)
    words = _bits(single)
    if name == "float64":
        exact = np.array_equal(_bits(converted(single, torch.float64)), _bits(kept))
        far = not np.isfinite(single.numpy()).all() or float(kept.abs().max()) < SMALLEST_HALF_PEAK
        if not exact and (precision == "exact" or far):
            return name, _bits(kept)
    if not (words[0] & 0xFFFF).any() and not (words & 0xFFFF).any():
        return "bfloat16", (words >> 16).astype(np.uint16)
    half = _bits(converted(single, torch.float16))
    if precision == "exact":
        back = converted(torch.from_numpy(half.view(np.int16)).view(torch.float16), torch.float32)
        return ("float16", half) if np.array_equal(_bits(back), words) else ("float32", words)
    if float(np.abs(single.numpy()).max()) >= SMALLEST_HALF_PEAK and not ((half & 0x7C00) == 0x7C00).any():
        return "float16", half
    if name == "float64" and not np.array_equal(converted(single, torch.float64).numpy(), kept.numpy()):
        return name, _bits(kept)
    return "float32", words


def _rounded(kept: torch.Tensor) -> npt.NDArray[np.uint16] | None:
    """bfloat16 bits rounded to the nearest with 5 mantissa bits; None when a value would leave its normal range."""
    size = kept.abs()
    if not torch.isfinite(size).all() or ((size > 0) & (size < torch.finfo(torch.float32).tiny)).any():
        return None
    words = _bits(converted(kept, torch.float32)).astype(np.uint32)
    drop = 23 - COMPACT_MANTISSA_BITS
    words += np.uint32((1 << (drop - 1)) - 1) + ((words >> drop) & 1)
    words &= np.uint32(0xFFFFFFFF ^ ((1 << drop) - 1))
    values = torch.from_numpy(words.view(np.int32)).view(torch.float32).to(kept.dtype)
    return (words >> 16).astype(np.uint16) if torch.isfinite(values).all() else None


def _extent(shape: Sequence[int]) -> int:
    """Elements, a dimension of 0 counted as 1: also an empty tensor can be too large to be made."""
    return prod(max(n, 1) for n in shape)


def _as_rows(shape: tuple[int, ...]) -> tuple[int, int]:
    if not shape:
        return 1, 1
    return prod(shape[:-1]), shape[-1]


def _rows_kept(bits: npt.NDArray[Any]) -> int:
    """Rows up to the last that has a bit set; looks at the padding only, from the end."""
    rows, step = bits.shape[0], 1
    while rows:
        used = np.flatnonzero(bits[max(0, rows - step) : rows].any(axis=1))
        if used.size:
            return int(max(0, rows - step) + used[-1] + 1)
        rows, step = max(0, rows - step), 32
    return 0


def converted(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A contiguous CPU tensor in another dtype.

    In runs short enough that torch does not start its thread pool, which costs more than the work while other
    threads are busy sampling.
    """
    if tensor.dtype == dtype:
        return tensor
    out = torch.empty(tensor.shape, dtype=dtype)
    source, target = tensor.reshape(-1), out.view(-1)
    for i in range(0, source.numel(), _SERIAL_RUN):
        target[i : i + _SERIAL_RUN].copy_(source[i : i + _SERIAL_RUN])
    return out


def _bits_tensor(tensor: torch.Tensor) -> torch.Tensor:
    signed = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.view(signed)


def _bits(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A contiguous tensor's bit patterns as unsigned integers of its shape, without a copy."""
    return _bits_tensor(tensor.contiguous()).numpy().view(_DTYPES[dtype_name(tensor.dtype)][2])


def _signed(dtype: np.dtype[Any]) -> Any:
    return {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}[dtype.itemsize]

"""Tensors to compressed bytes and back.

A tensor is stored as rows of its last dimension, without trailing rows whose bits are all zero (padding; a row of
-0.0 is none), split into byte planes, one zstd frame for each plane with its size and a checksum. bfloat16 is rotated
left by one bit first, so that its exponent is one byte. Dtype, shape and number of rows are columns of the database.

    source             stored
    bfloat16, float16  as it is
    float32, float64   bfloat16 where that is exact; else float16 where it fits, unless `exact`; else as it is
    others             as they are

float16 errs by at most 2^-11 of a value, 2^-25 for the smallest. It fits when every value is finite in float16 and the
largest is at least 2^-7.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
import zstandard

from .errors import DamagedError, UnsupportedError

MAX_TENSOR_BYTES = 1 << 28
"""Largest tensor, uncompressed."""
SMALLEST_HALF_PEAK = 2.0**-7
RUN = 1 << 16
"""Values that are rearranged at a time: few enough to stay in the processor's cache."""

_BITS = {
    1: (torch.uint8, np.uint8),
    2: (torch.int16, np.uint16),
    4: (torch.int32, np.uint32),
    8: (torch.int64, np.uint64),
}
_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (
        "bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2",
        "uint8", "int8", "int16", "int32", "int64", "bool",
    )
}  # fmt: skip
_local = threading.local()  # zstandard's objects must not be shared between threads


@dataclass(frozen=True)
class Encoded:
    """A tensor as it is stored.

    Args:
        dtype, shape, device: of the source.
        stored: dtype on disk; rows, columns: values kept.
        hash: sha256 of the stored values before compression, since compressed bytes change with zstd's version.
        data: the frames.
    """

    dtype: str
    shape: tuple[int, ...]
    device: str
    stored: str
    rows: int
    columns: int
    hash: str
    data: bytes


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def encode(tensor: torch.Tensor, exact: bool = False) -> Encoded:
    """Encode a dense tensor of any shape.

    Raises:
        UnsupportedError: a sparse, nested, quantized, complex or meta tensor, or one of more than MAX_TENSOR_BYTES.
    """
    stored, bits = stored_bits(tensor, exact)
    rows, columns = bits.shape
    return Encoded(
        dtype_name(tensor.dtype),
        tuple(tensor.shape),
        tensor.device.type,
        stored,
        rows,
        columns,
        _hash(stored, bits),
        _frames(stored, bits),
    )


def content_hash(tensor: torch.Tensor, exact: bool = False) -> str:
    """The hash that `encode` would give. Errors as `encode`."""
    return _hash(*stored_bits(tensor, exact))


def stored_bits(tensor: torch.Tensor, exact: bool) -> tuple[str, Any]:
    """Dtype on disk and bits [rows, columns], by the table at the top. Errors as `encode`."""
    name = dtype_name(tensor.dtype)
    if name not in _DTYPES or tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested:
        raise UnsupportedError(f"Cannot store a tensor of {tensor.dtype} and {tensor.layout} on {tensor.device}.")
    size = prod(max(n, 1) for n in tensor.shape) * tensor.element_size()
    if size > MAX_TENSOR_BYTES:
        limit = MAX_TENSOR_BYTES >> 20
        raise UnsupportedError(f"Cannot store a tensor of {size >> 20} MB: the limit for one is {limit} MB.")
    source = tensor.detach().cpu().resolve_neg().contiguous()
    columns = source.shape[-1] if source.dim() else 1
    rows = source.numel() // columns if columns else prod(source.shape[:-1])
    values = source.reshape(rows, columns)
    values = _narrowed(values[: _rows_kept(_bits(values))], exact)
    return dtype_name(values.dtype), _bits(values)


def decode(data: bytes, dtype: str, shape: tuple[int, ...], stored: str, rows: int, columns: int) -> torch.Tensor:
    """The tensor [*shape] of `dtype` on the CPU.

    Raises:
        DamagedError: a checksum fails, or bytes, dtype, shape and rows contradict each other.
    """
    if dtype not in _DTYPES or stored not in _DTYPES:
        raise DamagedError("A stored tensor has a dtype that this version does not know.")
    target, kept = _DTYPES[dtype], _DTYPES[stored]
    total = prod(shape[:-1]) if shape else 1
    fits = min((*shape, rows, columns), default=0) >= 0 and rows <= total and columns == (shape[-1] if shape else 1)
    if not fits or prod(max(n, 1) for n in shape) * max(target.itemsize, kept.itemsize) > 4 * MAX_TENSOR_BYTES:
        raise DamagedError(f"A stored tensor of {rows} x {columns} values does not fit the shape {list(shape)}.")
    if stored != dtype and not (kept.is_floating_point and target.is_floating_point):
        raise DamagedError(f"A tensor stored as {stored} does not fit {dtype}.")
    bits = _read_frames(data, rows * columns, stored).reshape(rows, columns)
    values = torch.from_numpy(bits.view(f"i{kept.itemsize}" if kept.itemsize > 1 else np.uint8)).view(kept).to(target)
    if rows == total:
        return values.reshape(shape)
    out = torch.zeros(total, columns, dtype=target)
    out[:rows] = values
    return out.reshape(shape)


def verify(data: bytes, stored: str, rows: int, columns: int, hash: str) -> None:
    """Raises DamagedError unless the bytes hold the values that were hashed."""
    if stored not in _DTYPES:
        raise DamagedError("A stored tensor has a dtype that this version does not know.")
    if _hash(stored, _read_frames(data, rows * columns, stored).reshape(rows, columns)) != hash:
        raise DamagedError("The values do not have the hash that they were stored under.")


def _hash(stored: str, bits: Any) -> str:
    digest = hashlib.sha256(f"{stored} {bits.shape[0]} {bits.shape[1]}\n".encode())
    digest.update(np.ascontiguousarray(bits).data if bits.size else b"")
    return digest.hexdigest()


def _frames(stored: str, bits: Any) -> bytes:
    if not bits.size:
        return b""
    if stored == "bfloat16":
        low, high = _split_bfloat16(bits.reshape(-1))
        return bytes(_zstd("plain").compress(low.data) + _zstd("exponents").compress(high.data))
    planes = bits.reshape(-1).view(np.uint8).reshape(-1, bits.itemsize)
    return b"".join(_zstd("plain").compress(np.ascontiguousarray(planes[:, i]).data) for i in range(bits.itemsize))


def _read_frames(data: bytes, count: int, stored: str) -> Any:
    width = _DTYPES[stored].itemsize
    planes, view = [], memoryview(data)
    for _ in range(width if count else 0):
        plane, view = _plane(view, count)
        planes.append(plane)
    if len(view):
        raise DamagedError("A stored tensor has more bytes than it should.")
    if stored == "bfloat16" and count:
        return _merge_bfloat16(*planes)
    out = np.empty((count, width), np.uint8)
    for i, plane in enumerate(planes):
        out[:, i] = plane
    return out.reshape(-1).view(_BITS[width][1])


def _plane(data: memoryview, size: int) -> tuple[Any, memoryview]:
    try:
        parameters = zstandard.get_frame_parameters(bytes(data[:18]))
        if parameters.content_size != size or not parameters.has_checksum:  # before anything is allocated
            raise DamagedError(f"A plane of a stored tensor does not hold {size} bytes.")
        reader = _zstd("reader").decompressobj()
        plane = np.frombuffer(reader.decompress(data), np.uint8)
    except zstandard.ZstdError as error:
        raise DamagedError(f"A plane of a stored tensor is damaged ({error}).") from error
    if plane.size != size or not reader.eof:
        raise DamagedError(f"A plane of a stored tensor holds {plane.size} bytes instead of {size}.")
    return plane, data[len(data) - len(reader.unused_data) :]


def _narrowed(values: torch.Tensor, exact: bool) -> torch.Tensor:
    if values.dtype not in (torch.float32, torch.float64) or not values.numel():
        return values
    bits = _bits(values)
    for narrow in (torch.bfloat16, torch.float16, torch.float32):
        if narrow == torch.bfloat16 and values.dtype == torch.float32 and (bits[0] & 0xFFFF).any():
            continue  # cheap: a row that needs more bits
        rounded = values.to(narrow)
        if np.array_equal(_bits(rounded.to(values.dtype)), bits):
            return rounded
        if narrow == torch.float16 and not exact:
            peak = float(values.abs().max())
            if peak >= SMALLEST_HALF_PEAK and bool(torch.isfinite(rounded).all()):
                return rounded
    return values


def _rows_kept(bits: Any) -> int:
    """Rows up to the last that has a bit set; looks at the padding only, from the end."""
    rows, step = bits.shape[0], 1
    while rows:
        used = np.flatnonzero(bits[max(0, rows - step) : rows].any(axis=1))
        if used.size:
            return int(max(0, rows - step) + used[-1] + 1)
        rows, step = max(0, rows - step), 32
    return 0


def _bits(values: torch.Tensor) -> Any:
    signed, unsigned = _BITS[values.element_size()]
    return values.contiguous().view(signed).numpy().view(unsigned)


def _split_bfloat16(bits: Any) -> tuple[Any, Any]:
    """Mantissas with signs, and exponents: one byte each for a value."""
    low, high = np.empty(bits.size, np.uint8), np.empty(bits.size, np.uint8)
    for i in range(0, bits.size, RUN):
        rotated = (bits[i : i + RUN] << np.uint16(1)) | (bits[i : i + RUN] >> np.uint16(15))
        pairs = rotated.view(np.uint8).reshape(-1, 2)
        low[i : i + RUN], high[i : i + RUN] = pairs[:, 0], pairs[:, 1]
    return low, high


def _merge_bfloat16(low: Any, high: Any) -> Any:
    bits = np.empty(low.size, np.uint16)
    for i in range(0, low.size, RUN):
        rotated = high[i : i + RUN].astype(np.uint16)
        rotated <<= 8
        rotated |= low[i : i + RUN]
        np.bitwise_or(rotated >> np.uint16(1), rotated << np.uint16(15), out=bits[i : i + RUN])
    return bits


def _zstd(kind: str) -> Any:
    """Level 1: higher ones gain at most 1.2%. Exponents have no repetitions worth a table of matches."""
    if not hasattr(_local, kind):
        if kind == "reader":
            made: Any = zstandard.ZstdDecompressor()
        else:
            options = {"min_match": 7, "hash_log": 8} if kind == "exponents" else {}
            made = zstandard.ZstdCompressor(
                compression_params=zstandard.ZstdCompressionParameters.from_level(
                    1, write_checksum=True, write_content_size=True, **options
                )
            )
        setattr(_local, kind, made)
    return getattr(_local, kind)

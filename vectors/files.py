"""Control vectors as plain values, and their file: safetensors with the JSON values in its header."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..patching.plain_file import read_plain_file, write_plain
from .control_vector import TENSORS, ControlVector, ControlVectorError

KIND = "control vector"

_FIELDS: dict[str, type] = {
    "site": str, "blocks": list, "levels": list, "block_count": int, "model_name": str, "identity": str, "method": str,
    "origin": str,
}  # fmt: skip


def save_control_vector(path: str | Path, vector: ControlVector) -> None:
    """Write a control vector as one file; `load_control_vector` reads it back bit for bit.

    Raises:
        OSError: the file cannot be written.
    """
    write_plain(path, KIND, *vector.to_plain())


def load_control_vector(path: str | Path) -> ControlVector:
    """Read a file of `save_control_vector`.

    Raises:
        ControlVectorError: it is no such file, or its values are not those of a control vector.
        OSError: it cannot be read.
    """
    found = read_plain_file(path, KIND, ControlVectorError)
    try:
        return read_plain(*found)
    except ControlVectorError as error:
        raise ControlVectorError(f"{Path(path).name}: {error}") from None


def read_plain(values: Any, tensors: Mapping[str, torch.Tensor]) -> ControlVector:
    """See `ControlVector.from_plain`."""
    if not isinstance(values, Mapping):
        raise ControlVectorError(f"expected an object, found {type(values).__name__}.")
    if unknown := sorted(set(map(str, values)) ^ set(_FIELDS)) or sorted(set(tensors) - set(TENSORS)):
        raise ControlVectorError(f"a control vector has no {unknown[0]!r}, or lacks it.")
    for name, kind in _FIELDS.items():
        if type(values[name]) is not kind:
            raise ControlVectorError(f"{name}: expected {kind.__name__}, found {type(values[name]).__name__}.")
    missing = [name for name in TENSORS if name not in tensors and not name.startswith("transport")]
    if missing:
        raise ControlVectorError(f"the tensor {missing[0]} is missing.")
    levels = values["levels"]
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in levels):
        raise ControlVectorError("levels: expected numbers.")
    if any(not torch.is_tensor(t) or t.dtype != torch.float32 for t in tensors.values()):
        raise ControlVectorError("the tensors have to be float32.")
    rest: dict[str, Any] = {**tensors} | {name: values[name] for name in _FIELDS if name not in ("blocks", "levels")}
    try:
        return ControlVector(blocks=tuple(values["blocks"]), levels=tuple(map(float, levels)), **rest)
    except OverflowError:
        raise ControlVectorError("levels: a number is too large.") from None

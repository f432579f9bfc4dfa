"""Control vectors as plain values, and their file: safetensors with the JSON values in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .control_vector import TENSORS, ControlVector, ControlVectorError

FORMAT = "wanvideo_activation_editor control vector 1"
MAX_JSON = 1 << 20

_FIELDS: dict[str, type] = {
    "site": str, "blocks": list, "levels": list, "block_count": int, "model_name": str, "identity": str, "method": str,
    "origin": str,
}  # fmt: skip


def save_control_vector(path: str | Path, vector: ControlVector) -> None:
    """Write a control vector as one file; `load_control_vector` reads it back bit for bit.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors.torch import save

    values, tensors = vector.to_plain()
    # Tensors may be views of those of another vector.
    data = save({k: t.clone() for k, t in tensors.items()}, {"format": FORMAT, "control_vector": json.dumps(values)})
    target = Path(path)
    part = target.with_name(target.name + ".part")
    part.write_bytes(data)
    part.replace(target)


def load_control_vector(path: str | Path) -> ControlVector:
    """Read a file of `save_control_vector`.

    Raises:
        ControlVectorError: it is no such file, or its values are not those of a control vector.
        OSError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    name = Path(path).name
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ControlVectorError(f"{name} is no control vector of this version ({FORMAT}).")
            text = metadata.get("control_vector", "")
            if len(text) > MAX_JSON:
                raise ControlVectorError(
                    f"{name} holds {len(text)} characters of settings; at most {MAX_JSON} are read."
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            values = json.loads(text)
    except (SafetensorError, ValueError, RecursionError, KeyError) as error:
        if isinstance(error, ControlVectorError):
            raise
        raise ControlVectorError(f"{name} cannot be read as a control vector: {error}") from None
    try:
        return read_plain(values, tensors)
    except ControlVectorError as error:
        raise ControlVectorError(f"{name}: {error}") from None


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

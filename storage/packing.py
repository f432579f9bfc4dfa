"""Nested values of a host as a JSON structure and a list of tensors.

`{"prompt_embeds": [T], "echoshot": False}` becomes the structure
`{"prompt_embeds": [{"$tensor": 0}], "echoshot": false}` and the tensor T with the role `prompt_embeds/0`.
Nothing but dicts with text keys, lists, tuples, text, numbers, booleans and None is kept, and nothing is
executed when a value is rebuilt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .errors import DamagedError, UnsupportedError
from .text import checked, plain

MAX_TENSORS = 4096
MAX_DEPTH = 16
MAX_KEY = 200
MAX_STRUCTURE = 1 << 20
_TENSOR, _TUPLE = "$tensor", "$tuple"


@dataclass(frozen=True)
class Packed:
    """A value taken apart.

    Args:
        structure: JSON text with {"$tensor": i} in place of tensors.
        roles: path of each tensor in the value, such as `prompt_embeds/0`.
        tensors: the tensors, not copied.
        dropped: paths of dict entries that hold objects which cannot be stored.
    """

    structure: str
    roles: tuple[str, ...]
    tensors: tuple[torch.Tensor, ...]
    dropped: tuple[str, ...] = ()

    @property
    def main(self) -> int:
        """Index of the tensor that stands for the value in searches: the first prompt, else the first tensor."""
        return next((i for i, role in enumerate(self.roles) if role.startswith("prompt_embeds")), 0)


def pack(value: Any) -> Packed:
    """Take a value apart.

    Raises:
        UnsupportedError: no tensor in it, too many or too deep, or an object in a list that cannot be stored.
    """
    roles: list[str] = []
    tensors: list[torch.Tensor] = []
    dropped: list[str] = []
    structure = _pack(value, "", 0, roles, tensors, dropped)
    if not tensors or len(tensors) > MAX_TENSORS:
        raise UnsupportedError(f"Expected a value with 1 to {MAX_TENSORS} tensors, got {len(tensors)}.")
    text = json.dumps(structure, separators=(",", ":"))
    if len(text) > MAX_STRUCTURE:
        raise UnsupportedError(
            f"The value holds {len(text)} characters of text; at most {MAX_STRUCTURE} can be stored."
        )
    return Packed(text, tuple(roles), tuple(tensors), tuple(dropped))


def _pack(value: Any, path: str, depth: int, roles: list[str], tensors: list[torch.Tensor], dropped: list[str]) -> Any:
    if depth > MAX_DEPTH:
        raise UnsupportedError(f"{path}: nested deeper than {MAX_DEPTH} levels.")
    if torch.is_tensor(value):
        roles.append(path or "tensor")
        tensors.append(value)
        return {_TENSOR: len(tensors) - 1}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        out: dict[str, Any] = {}
        for key, item in value.items():
            here = f"{path}/{plain(key, 80)}" if path else plain(key, 80)
            if not isinstance(key, str) or key.startswith("$") or not _storable(item):
                dropped.append(here)
            else:
                checked("A key of the value", key, MAX_KEY)
                out[key] = _pack(item, here, depth + 1, roles, tensors, dropped)
        return out
    if isinstance(value, list | tuple):
        items = [
            _pack(item, f"{path}/{i}" if path else str(i), depth + 1, roles, tensors, dropped)
            for i, item in enumerate(value)
        ]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    raise UnsupportedError(f"{path or 'value'}: cannot store an object of type {type(value).__name__}.")


def _storable(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_storable(item) for item in value)
    return value is None or torch.is_tensor(value) or isinstance(value, str | bool | int | float | Mapping)


def unpack(structure: str, tensors: Sequence[torch.Tensor]) -> Any:
    """Inverse of `pack`.

    Raises:
        DamagedError: not a structure, or it names a tensor that is not there.
    """
    try:
        return _unpack(json.loads(structure), tensors, 0)
    except (json.JSONDecodeError, IndexError, TypeError, RecursionError) as error:
        raise DamagedError(f"The structure of a stored embedding cannot be read ({error}).") from error


def _unpack(node: Any, tensors: Sequence[torch.Tensor], depth: int) -> Any:
    if depth > 2 * MAX_DEPTH:
        raise DamagedError("The structure of a stored embedding is nested too deep.")
    if isinstance(node, list):
        return [_unpack(item, tensors, depth + 1) for item in node]
    if not isinstance(node, dict):
        return node
    if _TENSOR in node:
        index = node[_TENSOR]
        if not isinstance(index, int) or not 0 <= index < len(tensors):
            raise DamagedError("The structure of a stored embedding names a tensor that is not there.")
        return tensors[index]
    if _TUPLE in node:
        return tuple(_unpack(item, tensors, depth + 1) for item in node[_TUPLE])
    return {key: _unpack(item, tensors, depth + 1) for key, item in node.items()}

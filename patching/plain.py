"""Edit stacks as plain values, and recipes: files that hold one.

A value object becomes `{"is": its name, field: value, ...}`, a tensor `{"tensor": key}` with the tensor beside it.
Names are those of the table `VALUES`, never of modules, so a stack can be read in any process, whatever the package is
called there. Reading checks every field against its type and builds the objects through their own constructors, which
refuse what has no meaning.
"""

from __future__ import annotations

import dataclasses
import hashlib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..embeddings.text_embeds import EmbedsError, TextEmbeds
from .edit import Edit, EditStack, Window
from .mask import Box, Mask
from .operations import OPERATIONS, Operation
from .plain_file import read_plain_file, write_plain
from .schedule import Schedule
from .selection import Selection, Term
from .sources import SOURCES, Source
from .strengths import Explicit, Pattern, Product, Uniform
from .tokens import Tokens, TokenTerm
from .transforms import TRANSFORMS, ContextTransform

RECIPE = "recipe"
MAX_DEPTH = 16
_ADDRESS = "reports_to"  # of an Edit: a node of one workflow, no part of a recipe

VALUES: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        EditStack, Edit, Window, Schedule, TextEmbeds, Uniform, Explicit, Pattern, Product, Selection, Term, Tokens,
        TokenTerm, Mask, Box,
    )
}  # fmt: skip


class RecipeError(ValueError):
    """Values that are not those of an edit stack; the message says where and why."""


def to_plain(stack: EditStack) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """JSON values and named tensors of a stack. A tensor that several edits share is kept once.

    Each tensor has its SHA-256 among the values, so equal values mean equal stacks.

    Raises:
        RecipeError: a class that is in no table, or values that could not be read back.
    """
    tensors: dict[str, torch.Tensor] = {}
    keys: dict[int, str] = {}
    digests: dict[str, str] = {}

    def plain(value: Any) -> Any:
        if torch.is_tensor(value):
            if id(value) not in keys:
                keys[id(value)] = f"tensor_{len(keys)}"
                tensors[keys[id(value)]] = kept = value.detach().to("cpu").contiguous()
                digests[keys[id(value)]] = _digest(kept)
            return {"tensor": keys[id(value)], "sha256": digests[keys[id(value)]]}
        if isinstance(value, Mapping):
            return {"map": [[plain(k), plain(v)] for k, v in value.items()]}
        if isinstance(value, tuple | list):
            return [plain(v) for v in value]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        name = type(value).__name__
        if _known().get(name) is not type(value) or not dataclasses.is_dataclass(value):
            raise RecipeError(
                f"{name} has no plain form, so this stack cannot be saved. Make it a dataclass and put it under "
                f'its class name into operations.OPERATIONS["{name}"], sources.SOURCES or transforms.TRANSFORMS.'
            )
        fields = [f.name for f in dataclasses.fields(value) if f.name != _ADDRESS]
        return {"is": name, **{field: plain(getattr(value, field)) for field in fields}}

    values: dict[str, Any] = plain(stack)
    try:
        from_plain(values, tensors)
    except RecipeError as error:
        raise RecipeError(f"This stack cannot be saved, since it could not be loaded: {error}") from None
    return values, tensors


def from_plain(values: Any, tensors: Mapping[str, torch.Tensor]) -> EditStack:
    """The stack of `to_plain`. See `EditStack.from_plain`."""
    stack = _read(values, EditStack, tensors, "recipe", 0)
    assert isinstance(stack, EditStack)  # noqa: S101  # _read checks the type
    return stack


def save_recipe(path: str | Path, stack: EditStack) -> None:
    """Write a stack as one safetensors file, with the JSON values in its header.

    Raises:
        RecipeError: see `to_plain`.
        OSError: the file cannot be written.
    """
    write_plain(path, RECIPE, *to_plain(stack))


def load_recipe(path: str | Path) -> EditStack:
    """Read a stack from a file of `save_recipe`.

    Raises:
        RecipeError: it is no such file, or its values are not those of a stack.
        OSError: it cannot be read.
    """
    return from_plain(*read_plain_file(path, RECIPE, RecipeError))


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def _known() -> dict[str, type[Any]]:
    return {**VALUES, **SOURCES, **OPERATIONS, **TRANSFORMS}


def _read(value: Any, wanted: Any, tensors: Mapping[str, torch.Tensor], where: str, depth: int) -> Any:
    """The object of a plain value, checked against the type hint of the field that it is for."""
    if depth > MAX_DEPTH:
        raise RecipeError(f"{where}: nested deeper than {MAX_DEPTH} levels.")
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is typing.Literal:
        if isinstance(value, str) and value in arguments:
            return value
    elif origin in (typing.Union, types.UnionType):
        return _read_union(value, arguments, tensors, where, depth)
    elif origin is tuple:
        return _read_tuple(value, arguments, tensors, where, depth)
    elif wanted is torch.Tensor:
        key = value.get("tensor") if isinstance(value, dict) and set(value) == {"tensor", "sha256"} else None
        if isinstance(key, str) and key in tensors:
            if _digest(tensors[key]) != value["sha256"]:
                raise RecipeError(f"{where}: the tensor {_short(key)} is not the one that was saved.")
            return tensors[key]
    elif origin is not None and issubclass(origin, Mapping):
        if isinstance(value, dict) and isinstance(value.get("map"), list):
            pairs = [_read(p, tuple[arguments], tensors, where, depth + 1) for p in value["map"]]  # type: ignore[valid-type]
            if len(dict(pairs)) == len(pairs):
                return dict(pairs)
    elif wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif wanted in (bool, int, str) and type(value) is wanted:
        return value
    elif isinstance(value, dict) and isinstance(value.get("is"), str):
        return _read_object(value, wanted, tensors, where, depth)
    raise RecipeError(f"{where}: expected {getattr(wanted, '__name__', wanted)}, found {_short(value)}.")


def _read_union(value: Any, arguments: Sequence[Any], tensors: Any, where: str, depth: int) -> Any:
    if value is None and type(None) in arguments:
        return None
    rest = [a for a in arguments if a is not type(None)]
    if len(rest) > 1 and isinstance(value, dict):
        rest = [a for a in rest if getattr(a, "__name__", "") == value.get("is")] or rest
    return _read(value, rest[0], tensors, where, depth + 1)


def _read_tuple(value: Any, arguments: Sequence[Any], tensors: Any, where: str, depth: int) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise RecipeError(f"{where}: expected a list, found {_short(value)}.")
    of = [arguments[0]] * len(value) if len(arguments) == 2 and arguments[1] is Ellipsis else arguments
    if len(of) != len(value):
        raise RecipeError(f"{where}: expected {len(of)} values, found {len(value)}.")
    return tuple(
        _read(v, t, tensors, f"{where}[{i}]", depth + 1) for i, (v, t) in enumerate(zip(value, of, strict=True))
    )


def _read_object(value: Mapping[str, Any], wanted: Any, tensors: Any, where: str, depth: int) -> Any:
    name = value["is"]
    cls = _known().get(name)
    if cls is None or not _fits(cls, name, wanted):
        raise RecipeError(f"{where}: expected {getattr(wanted, '__name__', wanted)}, found {_short(name)}.")
    hints, fields = typing.get_type_hints(cls), {f.name for f in dataclasses.fields(cls)} - {_ADDRESS}
    unknown = sorted(set(value) - fields - {"is"})
    if unknown:
        raise RecipeError(f"{where}: {name} has no field {_short(unknown[0])}.")
    read = {k: _read(v, hints[k], tensors, f"{where}.{k}", depth + 1) for k, v in value.items() if k != "is"}
    if isinstance(read.get("prompts"), tuple) and cls is TextEmbeds:
        _check_prompts(read, where)
    try:
        return cls(**read)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise RecipeError(f"{where}: {error}") from None


def _fits(cls: type[Any], name: str, wanted: Any) -> bool:
    if wanted is Operation:
        return name in OPERATIONS
    if wanted is Source:
        return name in SOURCES
    if wanted is ContextTransform:
        return name in TRANSFORMS
    return isinstance(wanted, type) and issubclass(cls, wanted)


def _check_prompts(read: Mapping[str, Any], where: str) -> None:
    """What reading from a host checks, for embeddings that come from a file."""
    from ..embeddings.text_embeds import read_text_embeds

    try:
        for part in ("prompts", "negative"):
            if part == "prompts" or read.get(part):
                read_text_embeds(list(read.get(part, ())), f"{where}.{part}", None)
    except EmbedsError as error:
        raise RecipeError(str(error)) from None


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

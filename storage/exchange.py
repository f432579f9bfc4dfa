"""Sharing embeddings as safetensors: values, names, prompts, tags and notes in files that any tool can read.

The metadata of a file has the key `wan_activation_editor`: JSON with a list of embeddings, each naming its
tensors in the file. A safetensors file of another origin is imported too: every floating point tensor becomes
an embedding, named by the file and its key. Nothing of a file is executed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .codec import dtype_name
from .errors import DamagedError, UnsupportedError
from .identity import Kind
from .packing import pack, unpack
from .records import Description, Listing

if TYPE_CHECKING:
    from .store import EmbeddingStore

KEY = "wan_activation_editor"
FORMAT = 1

MAX_FILE_BYTES = 4 << 30
MAX_EMBEDDINGS = 10_000
MAX_TENSOR_BYTES = 512 << 20
MAX_DIMENSIONS = 5
MAX_TEXT = 100_000


@dataclass(frozen=True)
class Imported:
    """What an import stored: ids, and the names they got."""

    ids: tuple[int, ...]
    names: tuple[str, ...]


def export_safetensors(store: EmbeddingStore, embeddings: Sequence[Listing], path: Path) -> Path:
    """Write embeddings to one file; tensors keep their dtype and shape.

    Raises:
        DamagedError: one of them is damaged in the store.
    """
    tensors: dict[str, torch.Tensor] = {}
    described = []
    for number, listing in enumerate(embeddings):
        stored = store.load(listing.embedding_id)
        packed = pack(stored.value)
        keys = [f"{number:05d}/{role}" for role in packed.roles]
        # tensors of one embedding may be views of each other, which the format refuses
        tensors.update({key: t.clone().contiguous() for key, t in zip(keys, packed.tensors, strict=True)})
        described.append(
            {**describe(listing, stored.entry.negative_prompt), "structure": packed.structure, "tensors": keys}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {KEY: json.dumps({"format": FORMAT, "embeddings": described}), "format": "pt"}
    save_file(tensors, str(path), metadata=metadata)
    return path


def describe(listing: Listing, negative_prompt: str | None) -> dict[str, Any]:
    """What is exported of an embedding beside its values."""
    return {
        "name": listing.name,
        "prompt": listing.prompt,
        "negative_prompt": negative_prompt,
        "kind": listing.kind,
        "form": listing.form,
        "tags": list(listing.tags),
        "note": listing.note or "",
    }


def import_safetensors(store: EmbeddingStore, path: Path, replace: bool = False) -> Imported:
    """Store the embeddings of a file. All are checked before the first is stored.

    Args:
        replace: give names of the file to its embeddings even if other embeddings have them; else a name that is
            taken gets a number.

    Raises:
        UnsupportedError: not a safetensors file, or one beyond the limits of this module, or not finite.
    """
    return store_all(store, list(read_safetensors(path)), replace)


def read_safetensors(path: Path) -> Iterator[tuple[Any, Description]]:
    """Values and descriptions in a file, checked. Errors as `import_safetensors`."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UnsupportedError(f"{path.name} is larger than {MAX_FILE_BYTES >> 30} GB.")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            keys = list(file.keys())
            if not 0 < len(keys) <= 64 * MAX_EMBEDDINGS:
                raise UnsupportedError(f"{path.name} holds {len(keys)} tensors.")
            metadata = (file.metadata() or {}).get(KEY)
            if metadata is None:
                yield from _foreign(file, keys, path)
                return
            for described in _embeddings_in(metadata, path):
                yield _one(file, set(keys), described, path)
    except (SafetensorError, json.JSONDecodeError, DamagedError) as error:
        raise UnsupportedError(f"{path.name} cannot be read: {error}") from error


def _embeddings_in(metadata: str, path: Path) -> list[dict[str, Any]]:
    content = json.loads(metadata)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UnsupportedError(f"{path.name} was written by another version of the pack.")
    described = content.get("embeddings")
    if not isinstance(described, list) or not 0 < len(described) <= MAX_EMBEDDINGS:
        raise UnsupportedError(f"{path.name} names no embeddings.")
    return [d if isinstance(d, dict) else {} for d in described]


def _one(file: Any, keys: set[str], described: dict[str, Any], path: Path) -> tuple[Any, Description]:
    names, structure = described.get("tensors"), described.get("structure")
    if not isinstance(names, list) or not isinstance(structure, str) or len(structure) > MAX_TEXT * 10:
        raise UnsupportedError(f"{path.name}: an embedding is not described.")
    if not all(isinstance(n, str) and n in keys for n in names):
        raise UnsupportedError(f"{path.name}: an embedding names a tensor that is not in the file.")
    value = unpack(structure, [_tensor(file, name, path) for name in names])
    check_packable(value, path)
    return value, description_from(described)


def check_packable(value: Any, path: Path) -> None:
    """Raises UnsupportedError, with the file's name, for a value that the store does not take."""
    try:
        pack(value)
    except UnsupportedError as error:
        raise UnsupportedError(f"{path.name}: {error}") from error


def _foreign(file: Any, keys: Sequence[str], path: Path) -> Iterator[tuple[Any, Description]]:
    for key in keys:
        tensor = _tensor(file, key, path)
        if tensor.is_floating_point() and tensor.dim() >= 2:
            name = path.stem if len(keys) == 1 else f"{path.stem}/{key}"
            yield tensor, Description(name=name, form="tensor")


def _tensor(file: Any, key: str, path: Path) -> torch.Tensor:
    shape = file.get_slice(key).get_shape()
    if len(shape) > MAX_DIMENSIONS or prod(shape) * 8 > 2 * MAX_TENSOR_BYTES:
        raise UnsupportedError(f"{path.name}: the tensor {key} is of shape {shape}, beyond what an embedding has.")
    tensor: torch.Tensor = file.get_tensor(key)
    check_finite(tensor, f"{path.name}: the tensor {key}")
    return tensor


def check_finite(tensor: torch.Tensor, what: str) -> None:
    """Raises UnsupportedError for NaN and Inf."""
    if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
        raise UnsupportedError(f"{what} of {dtype_name(tensor.dtype)} holds NaN or infinite values.")


def description_from(plain: dict[str, Any]) -> Description:
    """A description from a file; what has not the right type or is too long is left out."""

    def text(key: str) -> str | None:
        found = plain.get(key)
        return found[:MAX_TEXT] if isinstance(found, str) and found else None

    tags = plain.get("tags")
    kind: Kind = plain["kind"] if plain.get("kind") in get_args(Kind) else "other"
    return Description(
        name=(text("name") or "")[:200] or None,
        prompt=text("prompt"),
        negative_prompt=text("negative_prompt"),
        kind=kind,
        form=(text("form") or "tensor")[:100],
        tags=tuple(t[:200] for t in tags if isinstance(t, str))[:100] if isinstance(tags, list) else (),
        note=text("note") or "",
    )


def store_all(store: EmbeddingStore, found: Sequence[tuple[Any, Description]], replace: bool) -> Imported:
    """Put values read from a file, with free names unless `replace`."""
    taken = set(store.names())
    ids, names = [], []
    for value, description in found:
        name = description.name
        if name is not None and not replace:
            name = free_name(name, taken)
        if name is not None:
            taken.add(name)
            names.append(name)
        changed = Description(**{**vars(description), "name": name})
        ids.append(store.put(value, changed))
    return Imported(tuple(ids), tuple(names))


def free_name(name: str, taken: set[str]) -> str:
    """The name, or with a number in parentheses where it is taken."""
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name} ({number})", number + 1
    return candidate

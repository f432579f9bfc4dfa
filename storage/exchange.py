"""Sharing embeddings as safetensors: values, names, prompts, tags and notes in files that any tool can read.

The metadata of a file has the key `wan_activation_editor`: JSON with a list of embeddings, each naming its
tensors in the file. A safetensors file of another origin is imported too: every floating point tensor becomes
an embedding, named by the file and its key. Nothing of a file is executed.

A file is read and encoded value by value, within limits, before anything is stored; then all of it is stored or
nothing. Values are stored `exact`: what the store rounded before it exported them comes back in the same form.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from . import entries
from .codec import MAX_TENSOR_BYTES, dtype_name
from .entries import Prepared
from .errors import StoreError, UnsupportedError
from .identity import Kind
from .names import clean_name, free_name
from .packing import MAX_TENSORS, pack, unpack
from .records import Description, Listing

if TYPE_CHECKING:
    from .store import EmbeddingStore

log = logging.getLogger("wanvideo_activation_editor")

KEY = "wan_activation_editor"
FORMAT = 1

EXPORT_BYTES = 256 << 20
EXPORT_EMBEDDINGS = 1000
"""What export puts into one file at most; all of it is in memory for that time."""

MAX_FILE_BYTES = 4 << 30
MAX_TOTAL_BYTES = 1 << 30
"""Values that are read from one file, uncompressed."""
MIN_COST = 4096
"""What a tensor counts at least: about the memory that its description takes."""
MAX_METADATA = 16 << 20
EXPORT_TEXT = MAX_METADATA // 2
"""Prompts, notes and tags in one file; the other half is for negative prompts and structures."""
MAX_EMBEDDINGS = 10_000
MAX_DIMENSIONS = 5
MAX_TEXT = 100_000


@dataclass(frozen=True)
class Imported:
    """What an import stored: ids, and the names they got."""

    ids: tuple[int, ...]
    names: tuple[str, ...]


class Budget:
    """Bytes that may still be read from a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left = MAX_TOTAL_BYTES

    def take(self, size: int) -> None:
        """Raises UnsupportedError when the file would hold more than may be imported at once."""
        self.left -= max(size, MIN_COST)
        if self.left < 0:
            raise UnsupportedError(f"{self.path.name} holds more than {MAX_TOTAL_BYTES >> 20} MB of values; split it.")


def batches(embeddings: Sequence[Listing], limit: int) -> list[list[Listing]]:
    """Embeddings in groups that fit into one file each; one that is larger than a file's limit stands alone."""
    groups: list[list[Listing]] = []
    size = text = 0
    for listing in embeddings:
        length = len(json.dumps(describe(listing, None)))
        full = size + listing.raw_bytes > limit or text + length > EXPORT_TEXT
        if not groups or full or len(groups[-1]) == EXPORT_EMBEDDINGS:
            groups.append([])
            size = text = 0
        groups[-1].append(listing)
        size += listing.raw_bytes
        text += length
    return groups


def export_safetensors(store: EmbeddingStore, embeddings: Sequence[Listing], path: Path) -> Path:
    """Write embeddings, such as one of `batches`, to one file; tensors keep their dtype and shape.

    Raises:
        DamagedError: one of them is damaged in the store.
        StoreError: the file could not be written, for example because the disk is full, or holds too much text.
    """
    tensors: dict[str, torch.Tensor] = {}
    described = []
    for number, listing in enumerate(embeddings):
        stored = store.load(listing.embedding_id)
        packed = pack(stored.value)
        warn_if_not_finite(listing, packed.tensors)
        keys = [f"{number:05d}/{i}/{role}" for i, role in enumerate(packed.roles)]
        tensors.update(zip(keys, packed.tensors, strict=True))
        described.append(
            {**describe(listing, stored.entry.negative_prompt), "structure": packed.structure, "tensors": keys}
        )
    text = json.dumps({"format": FORMAT, "embeddings": described})
    if len(text) > MAX_METADATA:
        raise StoreError(f"{path.name} would hold more than {MAX_METADATA >> 20} MB of text; export fewer at once.")
    metadata = {KEY: text, "format": "pt"}
    with whole_file(path) as part:
        save_file(tensors, str(part), metadata=metadata)
    return path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file that appears under its own name once it is whole.

    Raises:
        StoreError: it could not be written; nothing of it is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        os.replace(part, path)
    except StoreError:
        raise
    except Exception as error:  # each library has its own
        raise StoreError(f"{path.name} could not be written: {first_line(error)}") from error
    finally:
        part.unlink(missing_ok=True)


def first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


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
    """Store the embeddings of a file, all or none.

    Args:
        replace: give names of the file to its embeddings even if other embeddings have them; else a name that is
            taken gets a number.

    Raises:
        UnsupportedError: not a safetensors file, or one beyond the limits of this module, or not finite.
        StoreError: it could not be written; nothing was changed.
    """
    with readable(path):
        found = encoded(read_safetensors(path))
    return store_all(store, found, replace)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever a file makes a reader raise becomes one error that names the file."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UnsupportedError(f"{path.name} is larger than {MAX_FILE_BYTES >> 30} GB.")
        yield
    except Exception as error:
        text = first_line(error)
        raise UnsupportedError(text if text.startswith(path.name) else f"{path.name} cannot be read: {text}") from error


def read_safetensors(path: Path) -> Iterator[tuple[Any, Description]]:
    """Values and descriptions in a file, checked, one after the other. Raises what a crafted file provokes."""
    with safe_open(str(path), framework="pt", device="cpu") as file:
        keys, budget = list(file.keys()), Budget(path)
        metadata = (file.metadata() or {}).get(KEY)
        if metadata is None:
            yield from _foreign(file, keys, budget)
            return
        for described in _embeddings_in(metadata):
            yield _one(file, set(keys), described, budget)


def _embeddings_in(metadata: str) -> list[Any]:
    content = json.loads(metadata) if len(metadata) <= MAX_METADATA else None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UnsupportedError("it was written by another version of the pack.")
    described = content.get("embeddings")
    if not isinstance(described, list) or not 0 < len(described) <= MAX_EMBEDDINGS:
        raise UnsupportedError(f"expected 1 to {MAX_EMBEDDINGS} embeddings.")
    return described


def _one(file: Any, keys: set[str], described: Any, budget: Budget) -> tuple[Any, Description]:
    if not isinstance(described, dict):
        raise UnsupportedError("an embedding is not described.")
    names, structure = described.get("tensors"), described.get("structure")
    if not isinstance(names, list) or not 0 < len(names) <= MAX_TENSORS:
        raise UnsupportedError(f"an embedding does not have 1 to {MAX_TENSORS} tensors.")
    if not all(isinstance(n, str) and n in keys for n in names):
        raise UnsupportedError("an embedding names a tensor that is not in the file.")
    if len(set(names)) < len(names):
        raise UnsupportedError("an embedding names a tensor twice.")
    value = rebuilt(structure, [_tensor(file, name, budget) for name in names])
    return value, description_from(described)


def rebuilt(structure: Any, tensors: Sequence[torch.Tensor]) -> Any:
    """The value of a structure from a file. Raises StoreError for one that is not in order."""
    if not isinstance(structure, str) or len(structure) > MAX_TEXT * 10:
        raise UnsupportedError("an embedding is not described.")
    value = unpack(structure, tensors)
    if sorted(map(id, pack(value).tensors)) != sorted(map(id, tensors)):
        raise UnsupportedError("an embedding does not use each of its tensors once.")
    return value


def _foreign(file: Any, keys: Sequence[str], budget: Budget) -> Iterator[tuple[Any, Description]]:
    stem = budget.path.stem
    found = 0
    for key in keys:
        tensor = _tensor(file, key, budget)
        if tensor.is_floating_point() and tensor.dim() >= 2:
            found += 1
            yield tensor, Description(name=clean_name(stem if len(keys) == 1 else f"{stem}/{key}"), form="tensor")
    if not found:
        raise UnsupportedError("it holds no floating point tensor of two or more dimensions.")


def _tensor(file: Any, key: str, budget: Budget) -> torch.Tensor:
    shape = file.get_slice(key).get_shape()
    if len(shape) > MAX_DIMENSIONS or prod(shape) > MAX_TENSOR_BYTES:
        raise UnsupportedError(f"the tensor {key} is of shape {shape}, beyond what an embedding has.")
    budget.take(prod(shape))  # of the smallest dtype; the rest below
    tensor: torch.Tensor = file.get_tensor(key)
    budget.take(tensor.numel() * (tensor.element_size() - 1))
    check_finite(tensor, f"the tensor {key}")
    return tensor


def warn_if_not_finite(listing: Listing, tensors: Sequence[torch.Tensor]) -> None:
    """At export: one line in the log, since no import takes such values."""
    try:
        for tensor in tensors:
            check_finite(tensor, "a tensor")
    except UnsupportedError as error:
        label = repr(listing.name) if listing.name is not None else listing.embedding_id
        log.warning("Embedding store: %s is exported, but its file cannot be imported: %s", label, error)


def check_finite(tensor: torch.Tensor, what: str) -> None:
    """Raises UnsupportedError for NaN and Inf."""
    values = tensor.float() if tensor.element_size() == 1 else tensor  # float8 has no isfinite
    if tensor.is_floating_point() and not torch.isfinite(values).all():
        raise UnsupportedError(f"{what} of {dtype_name(tensor.dtype)} holds NaN or infinite values.")


def description_from(plain: dict[str, Any]) -> Description:
    """A description from a file; what has not the right type or is too long is left out."""

    def text(key: str) -> str | None:
        found = plain.get(key)
        return found[:MAX_TEXT] if isinstance(found, str) and found else None

    tags = plain.get("tags")
    kind: Kind = plain["kind"] if plain.get("kind") in get_args(Kind) else "other"
    return Description(
        name=clean_name(text("name") or ""),
        prompt=text("prompt"),
        negative_prompt=text("negative_prompt"),
        kind=kind,
        form=(text("form") or "tensor")[:100],
        tags=tuple(t[:200] for t in tags if isinstance(t, str))[:100] if isinstance(tags, list) else (),
        note=text("note") or "",
    )


def encoded(found: Iterable[tuple[Any, Description]]) -> list[tuple[Prepared, Description]]:
    """Values encoded as they come, so that one of them is in memory uncompressed."""
    return [(entries.prepare(value, "exact"), description) for value, description in found]


def store_all(store: EmbeddingStore, found: Sequence[tuple[Prepared, Description]], replacing: bool) -> Imported:
    """Put what was read from a file in one transaction, with free names unless `replacing`."""

    def job() -> Imported:
        taken, items = set(store.index.names), []
        for ready, description in found:
            name = description.name
            if name is not None and not replacing:
                name = free_name(name, taken)
                taken.add(name)
            items.append((ready, replace(description, name=name)))
        ids = store.put_prepared(items)
        return Imported(tuple(ids), tuple(d.name for _, d in items if d.name is not None))

    return store.run(job)

"""Sharing embeddings as safetensors: values, names, prompts, tags and notes in files that any tool can read.

The metadata of a file has the key `wan_activation_editor`: JSON with a list of embeddings, each naming its tensors in
the file, and a sha256 of all of it. A safetensors file of another origin is imported too: tensors that can be a Wan
prompt become embeddings, named by the file and their key. Nothing of a file is executed.

A file is read and encoded value by value, within limits, before anything is stored; then all of it is stored or
nothing. Values are stored `exact`: what the store rounded before it exported them comes back in the same form.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .codec import MAX_TENSOR_BYTES, dtype_name
from .entries import prepare
from .errors import DamagedError, StoreError, UnsupportedError
from .packing import MAX_TENSORS, pack, unpack
from .records import Description, Kind, Listing
from .store import EmbeddingStore
from .text import MAX_TAG, MAX_TAGS, MAX_TEXT, clean_name, free_name, plain, shown

log = logging.getLogger("wanvideo_activation_editor")

KEY = "wan_activation_editor"
FORMAT = 2
EXPORT_BYTES = 256 << 20
EXPORT_EMBEDDINGS = 1000
MAX_FILE_BYTES = 4 << 30
MAX_TOTAL_BYTES = 1 << 30
"""Values that are read from one file, uncompressed."""
MAX_METADATA = 16 << 20
MAX_EMBEDDINGS = 10_000
MAX_FILE_TENSORS = 20_000
WIDTHS = (1536, 2048, 3072, 4096, 5120)
"""Of a text encoder's output, or of a Wan model."""
MAX_ROWS = 512

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Imported:
    """What an import stored: ids, the names they got, and the tensors that cannot be a prompt."""

    ids: tuple[int, ...]
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """Files that were written, and (label, problem) of embeddings that are damaged and left out."""

    files: tuple[Path, ...]
    left_out: tuple[tuple[str, str], ...]


def export_safetensors(store: EmbeddingStore, embeddings: Sequence[Listing], new_file: Callable[[], Path]) -> Exported:
    """Write embeddings to as many files as they need; tensors keep their dtype and shape.

    Args:
        new_file: gives the path of the next file.

    Raises:
        StoreError: a file could not be written, for example because the disk is full.
    """
    files, left_out = [], []
    tensors, described, size = dict[str, torch.Tensor](), list[dict[str, Any]](), 0
    for listing in embeddings:
        try:
            packed = pack(store.load(listing.embedding_id).value)
        except DamagedError as error:
            left_out.append((listing.label, str(error)))
            continue
        about = {f: getattr(listing, f) for f in ("name", "prompt", "kind", "form", "tags", "note")}
        length = listing.raw_bytes + 64 * len(packed.structure) + 256 * len(listing.prompt or "")
        if described and (size + length > EXPORT_BYTES or len(described) == EXPORT_EMBEDDINGS):
            files.append(_write(new_file(), tensors, described))
            tensors, described, size = {}, [], 0
        keys = [f"{len(described):05d}/{i}/{role}" for i, role in enumerate(packed.roles)]
        tensors.update(zip(keys, packed.tensors, strict=True))
        described.append({**about, "structure": packed.structure, "tensors": keys})
        size += length
    if described:
        files.append(_write(new_file(), tensors, described))
    return Exported(tuple(files), tuple(left_out))


def export_table(store: EmbeddingStore, view: str, path: Path) -> Path:
    """Write a view of schema.sql as a Parquet file. Raises StoreError when it cannot be written."""
    part = store.database.beside(".export")  # the only folder that the store's connection may write to
    try:
        with store.database.snapshot() as db:
            quoted = str(part).replace("'", "''")
            db.execute(f"COPY (SELECT * FROM {view}) TO '{quoted}' (FORMAT parquet)")  # noqa: S608
        with whole_file(path) as target:
            target.write_bytes(part.read_bytes())
    finally:
        part.unlink(missing_ok=True)
    return path


def import_safetensors(
    store: EmbeddingStore, path: Path, replacing: bool = False, progress: Progress | None = None
) -> Imported:
    """Store the embeddings of a file, all or none.

    Args:
        replacing: give names of the file to its embeddings even if other embeddings have them; else a name that is
            taken gets a number.
        progress: called with embeddings read and in all; what it raises ends the import before anything is stored.

    Raises:
        UnsupportedError: not a safetensors file, one beyond the limits of this module, one that was changed since it
            was exported, or values that are not finite.
        StoreError: it could not be written; nothing was changed.
    """
    left_out: list[str] = []
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UnsupportedError(f"it is larger than {MAX_FILE_BYTES >> 30} GB.")
        found = [(prepare(value, exact=True), told) for value, told in _read(path, left_out, progress)]
    except (KeyboardInterrupt, SystemExit):
        raise
    except UnsupportedError as error:
        raise UnsupportedError(f"{shown(path.name)} cannot be imported: {error}") from error
    except Exception as error:  # whatever a crafted file makes a reader raise
        if type(error).__name__ == "InterruptProcessingException":  # ComfyUI's, from progress
            raise
        raise UnsupportedError(f"{shown(path.name)} cannot be read: {plain(error, 300)}") from error
    hashes = dict(store.database.read("SELECT name, hash FROM embeddings WHERE name IS NOT NULL"))
    items = []
    for ready, told in found:
        name, own = told.name, ready.hash
        if name is not None and not replacing:  # what is stored under its name already keeps it
            name = free_name(name, lambda each, own=own: hashes.get(each, own) != own)  # type: ignore[misc]
            hashes[name] = own
        items.append((ready, replace(told, name=name)))
    ids = store.put_all(items)
    return Imported(tuple(ids), tuple(d.name for _, d in items if d.name is not None), tuple(left_out))


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
        raise StoreError(f"{shown(path.name)} could not be written: {plain(error, 300)}") from error
    finally:
        part.unlink(missing_ok=True)


def _write(path: Path, tensors: dict[str, torch.Tensor], described: list[dict[str, Any]]) -> Path:
    for key, tensor in tensors.items():
        with contextlib.suppress(UnsupportedError):
            _check_finite(tensor, key)
            continue
        log.warning("Embedding store: %s holds values that are not finite; no import takes them.", shown(key))
    content: dict[str, Any] = {"format": FORMAT, "embeddings": described}
    text = json.dumps({**content, "sha256": _checksum(content, tensors.__getitem__)})
    if len(text) > MAX_METADATA:
        raise StoreError(
            f"{shown(path.name)} would hold more than {MAX_METADATA >> 20} MB of text; export fewer at once."
        )
    with whole_file(path) as part:
        save_file(tensors, str(part), metadata={KEY: text, "format": "pt"})
    return path


def _checksum(content: dict[str, Any], tensor: Callable[[str], torch.Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for described in content["embeddings"]:
        for key in described["tensors"]:
            values = tensor(key).detach().cpu().contiguous()
            digest.update(f"{values.dtype} {list(values.shape)}".encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path, left_out: list[str], progress: Progress | None) -> Iterator[tuple[Any, Description]]:
    """Values and descriptions in a file, checked, one after the other."""
    with safe_open(str(path), framework="pt", device="cpu") as file:
        keys, metadata = list(file.keys()), file.metadata() or {}
        if len(keys) > MAX_FILE_TENSORS:
            raise UnsupportedError(f"it holds {len(keys)} tensors; at most {MAX_FILE_TENSORS} are imported at once.")
        shapes = {key: file.get_slice(key).get_shape() for key in keys}
        total = sum(
            prod(s) for s in shapes.values()
        )  # of the smallest dtype; what is kept is bounded by MAX_FILE_BYTES
        if total > MAX_TOTAL_BYTES:
            raise UnsupportedError(f"it holds more than {MAX_TOTAL_BYTES >> 20} MB of values; split it.")
        if KEY not in metadata:
            yield from _foreign(file, path.stem, shapes, metadata, left_out)
            return
        content = _content(metadata[KEY], shapes)
        for number, described in enumerate(content["embeddings"], 1):
            tensors = [_tensor(file, key) for key in described["tensors"]]
            structure = described.get("structure")
            value = unpack(structure if isinstance(structure, str) else "", tensors)
            if sorted(map(id, pack(value).tensors)) != sorted(map(id, tensors)):
                raise UnsupportedError("an embedding does not use each of its tensors once.")
            if progress:
                progress(number, len(content["embeddings"]))
            yield value, _description(described)
        if content.pop("sha256", None) != _checksum(content, file.get_tensor):
            raise UnsupportedError("its checksum is wrong: it was changed or damaged since it was exported.")


def _content(metadata: str, shapes: dict[str, Any]) -> dict[str, Any]:
    content = json.loads(metadata) if len(metadata) <= MAX_METADATA else None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UnsupportedError("it was written by another version of the pack.")
    described = content.get("embeddings")
    if not isinstance(described, list) or not 0 < len(described) <= MAX_EMBEDDINGS:
        raise UnsupportedError(f"expected 1 to {MAX_EMBEDDINGS} embeddings.")
    used: list[Any] = []
    for item in described:
        names = item.get("tensors") if isinstance(item, dict) else None
        if not isinstance(names, list) or not 0 < len(names) <= MAX_TENSORS:
            raise UnsupportedError(f"an embedding does not have 1 to {MAX_TENSORS} tensors.")
        used += names
    if not all(isinstance(n, str) and n in shapes for n in used) or len(set(used)) < len(used):
        raise UnsupportedError("an embedding names a tensor that is not in the file, or one that is used twice.")
    return content


def _foreign(
    file: Any, stem: str, shapes: dict[str, Any], metadata: dict[str, str], left_out: list[str]
) -> Iterator[tuple[Any, Description]]:
    """Tensors of a file of another origin that can be a Wan prompt, with a trainer's caption where there is one."""
    caption = next((metadata[k] for k in ("caption", "prompt", "caption1") if metadata.get(k)), None)
    found = 0
    for key, shape in shapes.items():
        rows, width = (shape[-2], shape[-1]) if len(shape) in (2, 3) else (0, 0)
        is_prompt = width in WIDTHS and 0 < rows <= MAX_ROWS and (len(shape) == 2 or shape[0] == 1)
        is_prompt &= not (key.endswith((".weight", ".bias")) or "lora" in key.lower())
        tensor = _tensor(file, key) if is_prompt else None
        if tensor is None or not tensor.is_floating_point():
            left_out.append(f"{plain(key, 80)} {shape}")
            continue
        found += 1
        name = clean_name(stem if len(shapes) == 1 else f"{stem}/{key}")
        yield tensor.reshape(rows, width), Description(name=name, prompt=caption and clean_text(caption), form="tensor")
    if not found:
        raise UnsupportedError(
            f"no tensor can be a Wan prompt (up to {MAX_ROWS} rows of {', '.join(map(str, WIDTHS))} numbers). "
            f"It holds {', '.join(left_out[:5]) or 'nothing'}{' ...' if len(left_out) > 5 else ''}."
        )


def _tensor(file: Any, key: str) -> torch.Tensor:
    shape = file.get_slice(key).get_shape()
    if len(shape) > 5 or prod(shape) > MAX_TENSOR_BYTES:
        raise UnsupportedError(f"the tensor {shown(key)} is of shape {shape}, beyond what an embedding has.")
    tensor: torch.Tensor = file.get_tensor(key)
    _check_finite(tensor, f"the tensor {shown(key)}")
    return tensor


def _check_finite(tensor: torch.Tensor, what: str) -> None:
    """Raises UnsupportedError for NaN and Inf."""
    values = tensor.float() if tensor.element_size() == 1 else tensor  # float8 has no isfinite
    if tensor.is_floating_point() and not torch.isfinite(values).all():
        raise UnsupportedError(f"{what} of {dtype_name(tensor.dtype)} holds NaN or infinite values.")


def clean_text(text: str) -> str:
    """Text of a file within the store's limits."""
    return text[:MAX_TEXT].encode(errors="replace").decode()


def _description(told: dict[str, Any]) -> Description:
    """A description from a file; what has not the right type or is too long is cut or left out."""

    def text(key: str) -> str | None:
        found = told.get(key)
        return clean_text(found) if isinstance(found, str) and found else None

    tags = told.get("tags")
    kept = [clean_text(t)[:MAX_TAG] for t in tags if isinstance(t, str)][:MAX_TAGS] if isinstance(tags, list) else []
    kind: Kind = told["kind"] if told.get("kind") in get_args(Kind) else "other"
    return Description(
        name=clean_name(text("name") or ""),
        prompt=text("prompt"),
        kind=kind,
        form=(text("form") or "tensor")[:100],
        tags=kept,
        note=text("note") or "",
    )

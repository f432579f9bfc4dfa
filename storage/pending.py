"""Embeddings that are in the journal and not in the database yet: as records, and as readers see them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any

from .codec import Encoded, decode_bits
from .entries import Index, Prepared
from .errors import StoreError
from .identity import EmbeddingKey
from .journal import Record
from .packing import Packed
from .records import Description, Entry, Part

_UNREADABLE = (ValueError, TypeError, KeyError, IndexError)


@dataclass(frozen=True)
class Waiting:
    """A new embedding: what a put was given, with the id and time that it got."""

    embedding_id: int
    created: datetime
    prepared: Prepared
    description: Description

    def entry(self) -> Entry:
        prepared, description = self.prepared, self.description
        return Entry(
            embedding_id=self.embedding_id,
            embedding_hash=prepared.embedding_hash,
            structure=prepared.packed.structure,
            parts=prepared.parts,
            main_part=prepared.packed.main,
            prompt=description.prompt,
            negative_prompt=description.negative_prompt,
            kind=description.kind,
            form=description.form,
            raw_bytes=prepared.raw_bytes,
            created=self.created,
        )


@dataclass
class Pending:
    """All that waits, in the order of the puts; what one put has brought is taken in together."""

    puts: list[Sequence[Waiting]] = field(default_factory=list)
    entries: dict[int, Entry] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)

    def add(self, items: Sequence[Waiting], index: Index) -> None:
        """Let readers see new embeddings: their values first, then in `index` the ids and names that lead there."""
        self.puts.append(items)
        for item in items:
            self.blobs.update((e.content_hash, e.blob) for e in item.prepared.encoded)
            self.entries[item.embedding_id] = item.entry()
            _show(item, index)

    def over(self, index: Index) -> Index:
        """The database's index with what waits on top of it."""
        if not self.puts:
            return index
        seen = index.draft()
        for item in chain.from_iterable(self.puts):
            _show(item, seen)
        return seen


def _show(item: Waiting, index: Index) -> None:
    index.next_embedding = max(index.next_embedding, item.embedding_id + 1)
    index.id_of[item.prepared.embedding_hash] = item.embedding_id
    if item.description.name is not None:
        index.names[item.description.name] = item.embedding_id
    if item.description.key is not None:
        index.keys[item.description.key.cache_key] = item.embedding_id


def to_record(items: Sequence[Waiting], store: str) -> tuple[bytes, list[bytes]]:
    """Head and body of the journal's record of a put into the store of that identity."""
    plain = {"store": store, "items": [_plain(item) for item in items]}
    head = json.dumps(plain, separators=(",", ":")).encode()
    return head, [e.blob for item in items for e in item.prepared.encoded]


def store_of(head: bytes) -> str | None:
    """Identity of the store that a record was written for; None where the head cannot be read."""
    with contextlib.suppress(*_UNREADABLE):
        return str(json.loads(head)["store"])
    return None


def from_record(record: Record) -> list[Waiting]:
    """Inverse of `to_record`."""
    plain = json.loads(record.head)["items"]
    position = 0

    def taken(size: int) -> bytes:
        nonlocal position
        position += size
        return record.body[position - size : position]

    return [_waiting(item, [taken(part["size"]) for part in item["encoded"]]) for item in plain]


def is_whole(record: Record) -> bool:
    """True if a record can be read and every blob of it passes its checksums."""
    try:
        for item in from_record(record):
            for encoded in item.prepared.encoded:
                decode_bits(encoded.blob)
    except (StoreError, *_UNREADABLE):
        return False
    return True


def _plain(item: Waiting) -> dict[str, Any]:
    prepared = item.prepared
    return {
        "id": item.embedding_id,
        "created": item.created.isoformat(),
        "structure": prepared.packed.structure,
        "roles": prepared.packed.roles,
        "dropped": prepared.packed.dropped,
        "hash": prepared.embedding_hash,
        "encoded": [
            {
                "size": len(e.blob),
                "content_hash": e.content_hash,
                "stored": e.stored,
                "rows": e.rows,
                "columns": e.columns,
                "dtype": e.dtype,
                "shape": e.shape,
                "device": e.device,
                "raw_bytes": e.raw_bytes,
            }
            for e in prepared.encoded
        ],
        "pooled": [None if v is None else v.hex() for v in prepared.pooled],
        "description": asdict(item.description),
    }


def _waiting(plain: dict[str, Any], blobs: Sequence[bytes]) -> Waiting:
    encoded = tuple(
        Encoded(blob=blob, **{**part, "shape": tuple(part["shape"])})
        for blob, part in zip(
            blobs, ({k: v for k, v in e.items() if k != "size"} for e in plain["encoded"]), strict=True
        )
    )
    roles = tuple(plain["roles"])
    described = plain["description"]
    key = described["key"]
    return Waiting(
        embedding_id=plain["id"],
        created=datetime.fromisoformat(plain["created"]),
        prepared=Prepared(
            packed=Packed(plain["structure"], roles, (), tuple(plain["dropped"])),
            encoded=encoded,
            pooled=tuple(None if v is None else bytes.fromhex(v) for v in plain["pooled"]),
            parts=tuple(
                Part(role, e.content_hash, e.dtype, e.shape, e.device) for role, e in zip(roles, encoded, strict=True)
            ),
            embedding_hash=plain["hash"],
        ),
        description=Description(
            **{**described, "tags": tuple(described["tags"]), "key": None if key is None else EmbeddingKey(**key)}
        ),
    )

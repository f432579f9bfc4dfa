"""Rows of embeddings: what is known in memory while the store is open, inserting and reading them."""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from .codec import PRECISIONS, Encoded, Precision, content_hashes, dtype_name, encode
from .database import Cursor, first_row
from .identity import embedding_hash
from .packing import Packed, pack
from .records import Description, Entry, Part, now
from .search import pooled_vector
from .segments import Blob, Segments


@dataclass
class Index:
    """What the writer must know before each put. Only one process has the store open, so this is the truth.

    Readers look things up here, so nothing stands in it that is not committed: a transaction works on a draft.
    """

    segment_of: MutableMapping[str, int] = field(default_factory=dict)
    id_of: MutableMapping[str, int] = field(default_factory=dict)
    names: MutableMapping[str, int] = field(default_factory=dict)
    keys: MutableMapping[str, int] = field(default_factory=dict)
    next_embedding: int = 1
    next_operation: int = 1

    def draft(self) -> Index:
        """This index for a transaction: what is added to the draft shows here once it is adopted."""
        tables: dict[str, Any] = {table: ChainMap({}, getattr(self, table)) for table in _TABLES}
        return replace(self, **tables)

    def adopt(self, draft: Index) -> None:
        """Take over a draft whose transaction is committed."""
        for table in _TABLES:
            getattr(self, table).update(getattr(draft, table).maps[0])
        self.next_embedding, self.next_operation = draft.next_embedding, draft.next_operation

    @classmethod
    def load(cls, cursor: Cursor, earlier: Index) -> Index:
        """The index of the open store. Ids go on from those of `earlier`: none is used twice in a session."""

        def pairs(query: str) -> dict[str, int]:
            return dict(cursor.execute(query).fetchall())

        def following(query: str) -> int:
            return ((first_row(cursor, query) or (None,))[0] or 0) + 1

        return cls(
            pairs("SELECT content_hash, segment FROM contents"),
            pairs("SELECT embedding_hash, embedding_id FROM embedding_entries"),
            pairs("SELECT name, embedding_id FROM embedding_names"),
            pairs("SELECT cache_key, embedding_id FROM embedding_keys"),
            max(earlier.next_embedding, following(_LAST_EMBEDDING)),
            max(earlier.next_operation, following("SELECT max(operation_id) FROM vector_operations")),
        )


_LAST_EMBEDDING = """
    SELECT max(n) FROM (
        SELECT max(embedding_id) AS n FROM embedding_entries
        UNION ALL SELECT max(embedding_id) FROM operation_inputs
        UNION ALL SELECT max(result_id) FROM vector_operations)
"""
"""Operations that stay name embeddings that are gone, so those ids are not given again."""

_UNKNOWN = Description()

_TABLES = ("segment_of", "id_of", "names", "keys")
"""In the order in which a reader goes back through them: a name shows after the tensors it leads to."""


@dataclass(frozen=True)
class Prepared:
    """A value encoded and hashed, ready to be inserted."""

    packed: Packed
    encoded: tuple[Encoded, ...]
    pooled: tuple[bytes | None, ...]
    parts: tuple[Part, ...]
    embedding_hash: str

    @property
    def raw_bytes(self) -> int:
        return sum(e.raw_bytes for e in self.encoded)

    @property
    def stored_bytes(self) -> int:
        return sum(len(e.blob) for e in self.encoded)


def prepare(value: Any, precision: Precision) -> Prepared:
    """Take a value apart and encode its tensors; the expensive half of a put, free of the store.

    Raises:
        UnsupportedError: a value or tensor that cannot be stored.
    """
    packed = pack(value)
    encoded = tuple(encode(tensor, precision) for tensor in packed.tensors)
    parts = tuple(
        Part(role, e.content_hash, e.dtype, e.shape, e.device) for role, e in zip(packed.roles, encoded, strict=True)
    )
    identity = embedding_hash(packed.structure, [(p.role, p.content_hash, p.dtype, p.shape) for p in parts])
    pooled = tuple(map(pooled_vector, packed.tensors))
    return Prepared(replace(packed, tensors=()), encoded, pooled, parts, identity)  # lets go of the tensors


def hashes_of(value: Any) -> list[str]:
    """The embedding hashes that a value has at each precision. Errors as `prepare`."""
    packed = pack(value)
    hashes = [content_hashes(tensor) for tensor in packed.tensors]
    return [
        embedding_hash(
            packed.structure,
            [
                (role, by_precision[precision], dtype_name(tensor.dtype), tensor.shape)
                for role, by_precision, tensor in zip(packed.roles, hashes, packed.tensors, strict=True)
            ],
        )
        for precision in PRECISIONS
    ]


def insert(
    cursor: Cursor,
    index: Index,
    segments: Segments,
    prepared: Prepared,
    description: Description,
    rewrite: frozenset[str] = frozenset(),
    known_prompt_stays: bool = False,
    given_id: int | None = None,
    created: datetime | None = None,
) -> int:
    """Insert what is not there yet, inside the caller's transaction; the embedding's id.

    Args:
        given_id: id that a new embedding has been given already.
        created: time of the put, for what it makes; now by default.
        rewrite: content hashes whose stored blobs are known to be damaged.
        known_prompt_stays: the description's prompts are for an embedding that has none.
    """
    created = created or now()
    for encoded, pooled in zip(prepared.encoded, prepared.pooled, strict=True):
        _insert_content(cursor, index, segments, encoded, pooled, rewrite, created)
    embedding_id = index.id_of.get(prepared.embedding_hash)
    new = embedding_id is None
    if embedding_id is None:
        embedding_id = index.next_embedding if given_id is None else given_id
        cursor.insert(
            "embedding_entries",
            embedding_id,
            prepared.embedding_hash,
            prepared.packed.structure,
            [p.as_row() for p in prepared.parts],
            prepared.packed.main,
            description.prompt,
            description.negative_prompt,
            description.kind,
            description.form,
            prepared.raw_bytes,
            created,
        )
        index.next_embedding = max(index.next_embedding, embedding_id + 1)
        index.id_of[prepared.embedding_hash] = embedding_id
    else:
        _redescribe(cursor, embedding_id, description, known_prompt_stays)
    _describe(cursor, index, embedding_id, new, description, created)
    return embedding_id


def _insert_content(
    cursor: Cursor,
    index: Index,
    segments: Segments,
    encoded: Encoded,
    pooled: bytes | None,
    rewrite: frozenset[str],
    created: datetime,
) -> None:
    key = encoded.content_hash
    known = key in index.segment_of
    if known and key not in rewrite:
        return
    if known and index.segment_of[key] == segments.current:
        segments.seal()  # the damaged table is not touched
    segment = segments.insert(cursor, Blob(key, encoded.blob, pooled))
    if known:
        cursor.execute("UPDATE contents SET segment = ? WHERE content_hash = ?", [segment, key])
    else:
        size = len(encoded.blob)
        cursor.insert("contents", key, segment, encoded.stored, encoded.rows, encoded.columns, size, created)
    index.segment_of[key] = segment


def _redescribe(cursor: Cursor, embedding_id: int, description: Description, known_prompt_stays: bool) -> None:
    """Add what a later put knows: prompts, and kind and form in place of what `Description` says by itself."""
    for column in ("prompt", "negative_prompt"):
        given = getattr(description, column)
        if given is not None:
            kept = f" AND {column} IS NULL" if known_prompt_stays else ""
            cursor.execute(
                f"UPDATE embedding_entries SET {column} = ? WHERE embedding_id = ?{kept}",  # noqa: S608
                [given, embedding_id],
            )
    for column in ("kind", "form"):
        given, unknown = getattr(description, column), getattr(_UNKNOWN, column)
        if given != unknown:
            cursor.execute(
                f"UPDATE embedding_entries SET {column} = ? WHERE embedding_id = ? AND {column} = ?",  # noqa: S608
                [given, embedding_id, unknown],
            )


def _describe(
    cursor: Cursor, index: Index, embedding_id: int, new: bool, description: Description, created: datetime
) -> None:
    if description.name in index.names:
        cursor.execute(
            "UPDATE embedding_names SET embedding_id = ?, note = ?, created = ? WHERE name = ?",
            [embedding_id, description.note, created, description.name],
        )
    elif description.name is not None:
        cursor.insert("embedding_names", description.name, embedding_id, description.note, created)
    if description.name is not None:
        index.names[description.name] = embedding_id
    if description.tags:
        query = "SELECT tag FROM embedding_tags WHERE embedding_id = ?"
        there = set() if new else {tag for (tag,) in cursor.execute(query, [embedding_id]).fetchall()}
        for tag in dict.fromkeys(t for t in description.tags if t not in there):
            cursor.insert("embedding_tags", embedding_id, tag)
    if description.key is not None:
        key = description.key.cache_key
        if key in index.keys:
            cursor.execute("DELETE FROM embedding_keys WHERE cache_key = ?", [key])
        identity = json.dumps(description.key.identity(), sort_keys=True)
        cursor.insert("embedding_keys", key, embedding_id, identity, created)
        index.keys[key] = embedding_id


_COLUMNS = (
    "embedding_id, embedding_hash, structure, parts, main_part, prompt, negative_prompt, kind, form, raw_bytes, created"
)


def read_entries(cursor: Cursor, first: int, last: int) -> list[Entry]:
    """Entries with ids from `first` to `last`, those that exist."""
    query = f"SELECT {_COLUMNS} FROM embedding_entries WHERE embedding_id BETWEEN ? AND ?"  # noqa: S608
    rows = cursor.execute(query, [first, last]).fetchall()
    return [Entry(*[*row[:3], tuple(map(Part.from_row, row[3])), *row[4:]]) for row in rows]

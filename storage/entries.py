"""Writing embeddings as rows, inside a transaction of the store's one writer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from .codec import Encoded, content_hash, dtype_name, encode
from .database import Database
from .packing import Packed, pack
from .records import Description, Operation
from .search import Vectors, pooled
from .text import checked

PART = 4000
"""Bytes of a part. DuckDB keeps values of 4096 bytes and more apart, and copies a whole row group to read one."""
PARTS_AT_ONCE = 128


@dataclass(frozen=True)
class Prepared:
    """A value taken apart, its tensors encoded; `hash` is of the whole value."""

    packed: Packed
    tensors: tuple[Encoded, ...]
    vector: bytes | None

    @property
    def hash(self) -> str:
        return hash_of(self.packed, [t.hash for t in self.tensors])

    @property
    def raw_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.packed.tensors)


def prepare(value: Any, exact: bool = False) -> Prepared:
    """Take a value apart and encode its tensors. Raises UnsupportedError for what cannot be stored."""
    packed = pack(value)
    encoded = tuple(encode(tensor, exact) for tensor in packed.tensors)
    vector = pooled(packed.tensors[packed.main])
    return Prepared(packed, encoded, None if vector is None else vector.astype("<f2").tobytes())


def prepare_operation(operation: Operation) -> Operation:
    """The operation with its inputs and its result encoded, but for ids. Raises UnsupportedError as `prepare`."""

    def ready(value: Any) -> Any:
        return value if value is None or isinstance(value, int) else prepare(value)

    inputs = [replace(i, embedding=ready(i.embedding)) for i in operation.inputs]
    return replace(operation, inputs=inputs, result=ready(operation.result))


class Writer:
    """Inserts what is new of a value, and notes what of it is there already."""

    def __init__(self, database: Database, vectors: Vectors) -> None:
        self._database, self._vectors = database, vectors
        self.damaged: set[int] = set()
        """Content ids whose bytes failed a check in this session; putting the same tensor again replaces them."""

    def insert(self, db: Any, ready: Prepared, told: Description, known_prompt_stays: bool = False) -> int:
        key, packed = None if told.key is None else told.key.hash, ready.packed
        there = db.execute(
            "SELECT embedding_id, hash, name, cache_key FROM embeddings WHERE hash = ? OR name = ? OR cache_key = ?",
            [ready.hash, told.name, key],
        ).fetchall()
        same = {name: embedding_id for embedding_id, hash, name, _ in reversed(there) if hash == ready.hash}
        me = same.get(told.name, same.get(None))
        if me is None and told.name is None and same:
            me = min(same.values())
        if told.name is not None and any(i != me and name == told.name for i, _, name, _ in there):
            db.execute("UPDATE embeddings SET name = NULL WHERE name = ?", [told.name])
        if key is not None and any(i != me and k == key for i, _, _, k in there):
            db.execute("UPDATE embeddings SET cache_key = NULL WHERE cache_key = ?", [key])
        tensors = {t.hash: t for t in ready.tensors}
        query = f"SELECT hash, content_id FROM contents WHERE hash IN ({', '.join('?' * len(tensors))})"  # noqa: S608
        known = dict(db.execute(query, list(tensors)).fetchall())
        new = [h for h in tensors if h not in known]
        numbers = self._database.next_ids(len(new) + (me is None))
        contents = {**known, **dict(zip(new, numbers, strict=False))}
        self._insert_contents(db, ready, contents, known)
        if me is not None:
            db.execute(
                "UPDATE embeddings SET name = coalesce(?, name), prompt = coalesce(?, prompt), note = "
                "coalesce(nullif(?, ''), note), tags = list_sort(list_distinct(tags || ?::VARCHAR[])), "
                "cache_key = coalesce(?, cache_key) WHERE embedding_id = ?",
                [told.name, None if known_prompt_stays else told.prompt, told.note, list(told.tags), key, me],
            )
            return int(me)
        me, main = numbers[-1], ready.tensors[packed.main].hash
        rows(db, "embeddings", [(
            me, ready.hash, packed.structure, contents[main], ready.raw_bytes, told.name, told.prompt, told.note,
            sorted(told.tags), told.kind, told.form, key, now(),
        )])  # fmt: skip
        rows(db, "embedding_parts", [
            (me, i, packed.roles[i], contents[t.hash], t.dtype, list(t.shape), t.device)
            for i, t in enumerate(ready.tensors)
        ])  # fmt: skip
        return me

    def record(self, db: Any, operation: Operation) -> int:
        """Insert an operation that `prepare_operation` has encoded; its id."""

        def number(value: Any, told: Description) -> int | None:
            return self.insert(db, value, told, True) if isinstance(value, Prepared) else value

        o, plain = operation, Description(kind=operation.description.kind, form=operation.description.form)
        ids = [number(i.embedding, plain) for i in o.inputs]
        result_id, (me,) = number(o.result, o.description), self._database.next_ids(1)
        measured = o.duration_ms, o.peak_memory_bytes, o.device, o.node
        rows(db, "vector_operations", [(me, o.type, result_id, *measured, now())])
        rows(db, "operation_inputs", [(me, n, i.role, ids[n], i.weight) for n, i in enumerate(o.inputs)])
        texts = {k: v if isinstance(v, str) else json.dumps(v, default=repr) for k, v in o.parameters.items()}
        rows(db, "operation_parameters", [(me, k, checked(k, v)) for k, v in texts.items()])
        return me

    def _insert_contents(self, db: Any, ready: Prepared, ids: dict[str, int], known: dict[str, int]) -> None:
        """Write the tensors, unless they are known and not damaged."""
        main = ready.tensors[ready.packed.main].hash
        tensors = {ids[t.hash]: t for t in ready.tensors}
        new = {i: t for i, t in tensors.items() if t.hash not in known}
        rows(db, "contents", [
            (i, t.hash, t.stored, t.rows, t.columns, len(t.data), ready.vector if t.hash == main else None)
            for i, t in new.items()
        ])  # fmt: skip
        for content_id in self.damaged & tensors.keys():
            db.execute("DELETE FROM content_parts WHERE content_id = ?", [content_id])
            new[content_id] = tensors[content_id]
            values = [len(new[content_id].data), content_id]
            db.execute("UPDATE contents SET bytes = ? WHERE content_id = ?", values)
            self.damaged.discard(content_id)
        for content_id, tensor in new.items():
            _insert_parts(db, content_id, tensor.data)
        if main in known and ready.vector is not None:  # it may have been another prompt's second tensor until now
            query = "UPDATE contents SET vector = ? WHERE content_id = ? AND vector IS NULL"
            if db.execute(query, [ready.vector, ids[main]]).fetchall()[0][0]:
                self._vectors.clear()


def _insert_parts(db: Any, content_id: int, data: bytes) -> None:
    parts = [data[i : i + PART] for i in range(0, len(data), PART)]
    for start in range(0, len(parts), PARTS_AT_ONCE):  # a list as one parameter takes three times as long
        some = parts[start : start + PARTS_AT_ONCE]
        rows = ", ".join(f"({content_id}, {start + i}, ?)" for i in range(len(some)))
        db.execute(f"INSERT INTO content_parts VALUES {rows}", some)  # noqa: S608


def rows(db: Any, table: str, rows: Sequence[Sequence[Any]]) -> None:
    for some in (rows[i : i + 64] for i in range(0, len(rows), 64)):
        marks = ", ".join(f"({', '.join('?' * len(row))})" for row in some)
        db.execute(f"INSERT INTO {table} VALUES {marks}", [v for row in some for v in row])  # noqa: S608


def count_reads(db: Any, reads: dict[int, tuple[int, datetime]]) -> None:
    given = [list(reads), [n for n, _ in reads.values()], [t for _, t in reads.values()]]
    counted = "(SELECT unnest(?::BIGINT[]) AS i, unnest(?::BIGINT[]) AS n, unnest(?::TIMESTAMP[]) AS t)"
    db.execute(f"UPDATE embedding_usage SET reads = reads + n, used = t FROM {counted} WHERE embedding_id = i", given)  # noqa: S608
    there = "i NOT IN (SELECT embedding_id FROM embedding_usage) AND i IN (SELECT embedding_id FROM embeddings)"
    db.execute(f"INSERT INTO embedding_usage SELECT * FROM {counted} WHERE {there}", given)  # noqa: S608


def now() -> datetime:
    """UTC without a zone: the form in which the store keeps times."""
    return datetime.now(timezone.utc).replace(tzinfo=None)


def value_hash(value: Any) -> str:
    packed = pack(value)
    return hash_of(packed, [content_hash(t) for t in packed.tensors])


def hash_of(packed: Packed, hashes: Sequence[str]) -> str:
    kinds = [(dtype_name(t.dtype), list(t.shape)) for t in packed.tensors]
    return hash_of_parts(packed.structure, [[r, h, *k] for r, h, k in zip(packed.roles, hashes, kinds, strict=True)])


def hash_of_parts(structure: str, parts: Sequence[Sequence[Any]]) -> str:
    """sha256 of a whole value: its structure, and role, hash, dtype and shape of each tensor."""
    return hashlib.sha256(json.dumps([structure, parts]).encode()).hexdigest()

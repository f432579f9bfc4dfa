"""Keeping a store in order: removing, renaming, retagging, finding damage. What removes says first what it would."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from . import codec
from .entries import now
from .errors import DamagedError, StoreError
from .records import Listing
from .store import EmbeddingStore
from .text import checked_name, checked_tags, not_stored, shown

Progress = Callable[[int, int], None]
BATCH_BYTES, BATCH_ROWS = 32 << 20, 1000


# Every value of the tables that loading an embedding reads, without the tensors' bytes.
EVERYTHING = {
    "the list of embeddings": "SELECT bit_xor(hash(e)) FROM embeddings e",
    "the tensors of each embedding": "SELECT bit_xor(hash(p)) FROM embedding_parts p",
    "the list of tensors": "SELECT bit_xor(hash(c)) FROM contents c",
}


@dataclass(frozen=True)
class Removal:
    """What was removed, or with `dry_run` would be; bytes that only these embeddings use."""

    embeddings: Sequence[Listing]
    bytes: int
    dry_run: bool


@dataclass(frozen=True)
class Verification:
    """Tensors that are whole, and (labels of the embeddings, problem) of those that are not."""

    whole: int
    damaged: Sequence[tuple[str, str]]


def delete(store: EmbeddingStore, name: str, dry_run: bool = True) -> Removal:
    """Remove the embedding of a name. Raises KeyError when there is none."""
    return remove(store, [named(store, name).embedding_id], dry_run)


def rename(store: EmbeddingStore, name: str, new_name: str, dry_run: bool = True) -> Listing:
    """Give an embedding another name; what it is now.

    Raises:
        KeyError: nothing has the name.
        StoreError: another embedding has the new name already.
    """
    found, new_name = named(store, name), checked_name(new_name)
    taken = store.id_of(new_name)
    if taken not in (None, found.embedding_id):
        raise StoreError(f"{shown(new_name)} is the name of another embedding. Delete or rename that one first.")
    if not dry_run:
        values = [new_name, found.embedding_id]
        store.write(lambda db: db.execute("UPDATE embeddings SET name = ? WHERE embedding_id = ?", values))
    return found


def retag(store: EmbeddingStore, name: str, tags: Sequence[str], dry_run: bool = True) -> Listing:
    """Replace the tags of an embedding; what it is now. Raises KeyError when nothing has the name."""
    found, tags = named(store, name), checked_tags(tags)
    if not dry_run:
        values = [sorted(tags), found.embedding_id]
        store.write(lambda db: db.execute("UPDATE embeddings SET tags = ? WHERE embedding_id = ?", values))
    return found


def named(store: EmbeddingStore, name: str) -> Listing:
    """The embedding of a name. Raises KeyError when there is none."""
    found = store.listings(names=[name])
    if not found:
        raise KeyError(not_stored(name))
    return found[0]


def cleanup(store: EmbeddingStore, days: int, min_reads: int, dry_run: bool = True, keep_named: bool = True) -> Removal:
    """Remove embeddings last used more than `days` ago and read fewer than `min_reads` times.

    Embeddings with a name are kept unless `keep_named` is False. Later puts use the space again; `compact` gives it
    back to the disk.
    """
    store.flush_reads()
    rows = store.database.read(
        "SELECT embedding_id FROM listing WHERE used < ? AND reads < ? AND NOT (? AND name IS NOT NULL)",
        [now() - timedelta(days=days), min_reads, keep_named],
    )
    return remove(store, [i for (i,) in rows], dry_run)


def evict(
    store: EmbeddingStore, max_bytes: int, dry_run: bool = True, keep_named: bool = True, kind: str | None = None
) -> Removal:
    """Remove what was used longest ago, unnamed embeddings first, until at most `max_bytes` are left (of a kind)."""
    store.flush_reads()
    rows = store.database.read(
        """
        WITH mine AS (SELECT e.embedding_id, name, coalesce(u.used, created) AS used FROM embeddings e
                      LEFT JOIN embedding_usage u USING (embedding_id) WHERE $kind IS NULL OR kind = $kind),
        ranked AS (SELECT embedding_id, row_number() OVER (ORDER BY name IS NOT NULL, used, embedding_id) AS rank
                   FROM mine WHERE name IS NULL OR NOT $keep),
        -- a tensor is freed with the last embedding that uses it, never if one of them stays
        freed AS (SELECT content_id, max(coalesce(rank, 9223372036854775807)) AS rank, any_value(c.bytes) AS bytes
                  FROM embedding_parts p JOIN mine USING (embedding_id) LEFT JOIN ranked USING (embedding_id)
                  JOIN contents c USING (content_id) GROUP BY content_id),
        steps AS (SELECT rank, sum(sum(bytes)) OVER (ORDER BY rank) AS freed FROM freed GROUP BY rank),
        goal AS (SELECT (SELECT coalesce(sum(bytes), 0) FROM freed) - $limit AS bytes)
        SELECT embedding_id FROM ranked, goal WHERE goal.bytes > 0 AND ranked.rank <= coalesce(
            (SELECT min(rank) FROM steps WHERE freed >= (SELECT bytes FROM goal)), 9223372036854775807)
        """,
        {"kind": kind, "keep": keep_named, "limit": max_bytes},  # type: ignore[arg-type]
    )
    return remove(store, [i for (i,) in rows], dry_run)


def remove(store: EmbeddingStore, ids: Iterable[int], dry_run: bool = False) -> Removal:
    """Remove embeddings with all that belongs to them; tensors that others share are kept."""
    doomed = list(ids)
    chosen = store.listings(ids=doomed) if doomed else []
    freed = _freed(store, doomed) if doomed else 0
    if doomed and not dry_run:
        store.write(lambda db: erase(db, doomed))
        store.vectors.clear()
    return Removal(chosen, freed, dry_run)


def verify(store: EmbeddingStore, progress: Progress | None = None) -> Verification:
    """Read every tensor and compare its checksums and its hash; and read what the embeddings are made of.

    Args:
        progress: called with bytes read and bytes in all; what it raises ends the check.
    """
    damaged = []
    for what, query in EVERYTHING.items():
        try:
            store.database.read(query)
        except StoreError as error:
            damaged.append((what, str(error)))
    if damaged:
        return Verification(0, damaged)
    rows = store.database.read(
        "SELECT content_id, bytes, stored, row_count, column_count, hash FROM contents ORDER BY content_id"
    )
    total, done, size, problems = sum(r[1] for r in rows) or 1, 0, 0, dict[int, str]()
    batch: list[Any] = []
    for number, row in enumerate(rows, 1):
        batch.append(row)
        size += row[1]
        if number == len(rows) or size > BATCH_BYTES or len(batch) == BATCH_ROWS:
            problems.update(_problems(store, batch))
            done, size, batch = done + size, 0, []
            if progress:
                progress(done, total)
    store.damaged.update(problems)
    users = "SELECT DISTINCT label FROM listing JOIN embedding_parts USING (embedding_id) WHERE content_id = ?"
    for content_id, problem in problems.items():
        labels = [shown(label, 60) for (label,) in store.database.read(users, [content_id])]
        damaged.append((", ".join(labels) or "no embedding", problem))
    return Verification(len(rows) - len(problems), damaged)


def _problems(store: EmbeddingStore, rows: Sequence[Any]) -> dict[int, str]:
    """Problems of some tensors, read together; one by one where that fails."""
    first, last = rows[0][0], rows[-1][0]
    data: dict[int, list[tuple[int, bytes]]] = {row[0]: [] for row in rows}
    try:
        for content_id, part, some in store.database.read(
            "SELECT content_id, part, data FROM content_parts WHERE content_id BETWEEN ? AND ?", [first, last]
        ):
            if content_id in data:
                data[content_id].append((part, some))
    except StoreError as error:
        if len(rows) == 1:
            return {first: str(error)}
        return {k: v for row in rows for k, v in _problems(store, [row]).items()}
    found = {}
    for content_id, _, *described in rows:
        try:
            codec.verify(b"".join(some for _, some in sorted(data[content_id])), *described)
        except DamagedError as error:
            if store.database.read("SELECT 1 FROM contents WHERE content_id = ?", [content_id]):  # else removed since
                found[content_id] = str(error)
    return found


def _freed(store: EmbeddingStore, ids: Sequence[int]) -> int:
    query = (
        "SELECT coalesce(sum(bytes), 0) FROM contents WHERE content_id IN (SELECT content_id FROM embedding_parts "
        "GROUP BY 1 HAVING bool_and(embedding_id IN (SELECT unnest(?::BIGINT[]))))"
    )
    return int(store.database.read(query, [list(ids)])[0][0])


def erase(db: Any, ids: Sequence[int]) -> None:
    """Delete embeddings inside a transaction, and whatever belongs to none that is left."""
    db.execute("CREATE OR REPLACE TEMP TABLE doomed AS SELECT unnest(?::BIGINT[]) AS id", [list(ids)])
    doomed = "IN (SELECT id FROM doomed)"
    for table in ("embeddings", "embedding_parts", "embedding_usage"):
        db.execute(f"DELETE FROM {table} WHERE embedding_id {doomed}")  # noqa: S608
    similar = f"SELECT embedding_id FROM embedding_similarities WHERE other_id {doomed} OR embedding_id {doomed}"  # noqa: S608
    db.execute(f"DELETE FROM embedding_similarities WHERE embedding_id IN ({similar})")  # noqa: S608
    db.execute("DELETE FROM embedding_analysis WHERE hash NOT IN (SELECT hash FROM embeddings)")
    for table in ("contents", "content_parts"):
        db.execute(f"DELETE FROM {table} WHERE content_id NOT IN (SELECT content_id FROM embedding_parts)")  # noqa: S608
    # Operations stay while any of their embeddings does, so that lineage shows what was removed.
    there = "(SELECT embedding_id FROM embeddings)"
    db.execute(
        f"""CREATE OR REPLACE TEMP TABLE doomed AS SELECT operation_id AS id FROM (
            SELECT operation_id, result_id AS used FROM vector_operations
            UNION ALL SELECT operation_id, embedding_id FROM operation_inputs)
        GROUP BY operation_id HAVING count(used) > 0 AND NOT coalesce(bool_or(used IN {there}), false)"""  # noqa: S608
    )
    for table in ("operation_inputs", "operation_parameters", "vector_operations"):
        db.execute(f"DELETE FROM {table} WHERE operation_id {doomed}")  # noqa: S608
    db.execute("DROP TABLE doomed")

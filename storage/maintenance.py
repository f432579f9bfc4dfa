"""Removing what is no longer wanted, keeping the store under a size, finding damage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from .codec import decode_bits
from .database import Cursor, first_row
from .entries import Index
from .errors import StoreError
from .identity import content_hash
from .records import Listing, now
from .schema import TABLES_OF_EMBEDDING
from .selection import list_embeddings

if TYPE_CHECKING:
    from .store import EmbeddingStore


log = logging.getLogger("wanvideo_activation_editor")


@dataclass(frozen=True)
class Removal:
    """What a clean-up removed, or with `dry_run` would remove."""

    embeddings: tuple[Listing, ...]
    stored_bytes: int
    dry_run: bool


@dataclass(frozen=True)
class Damage:
    """A tensor whose bytes are damaged, and the embeddings that need it."""

    content_hash: str
    problem: str
    embeddings: tuple[str, ...]


@dataclass(frozen=True)
class Verification:
    """Result of reading every blob: tensors that are whole, and those that are not."""

    whole: int
    damaged: tuple[Damage, ...]


def cleanup(
    store: EmbeddingStore, days: int, min_access: int, dry_run: bool = True, keep_named: bool = True
) -> Removal:
    """Remove embeddings last used more than `days` ago and fewer than `min_access` times.

    Embeddings with a name are kept unless `keep_named` is False. The space is used again by later puts;
    `compact` gives it back to the disk.
    """

    def job() -> Removal:
        store.flush_usage()
        limit = now() - timedelta(days=days)
        chosen = [
            e
            for e in list_embeddings(store)
            if e.last_access < limit and e.access_count < min_access and not (keep_named and e.name is not None)
        ]
        return _remove(store, chosen, dry_run)

    return store.run(job)


def evict(store: EmbeddingStore, max_bytes: int, dry_run: bool = True, keep_named: bool = True) -> Removal:
    """Remove what was used longest ago until at most `max_bytes` of blobs are left."""

    def job() -> Removal:
        store.flush_usage()
        return _remove(store, _eviction(store, max_bytes, keep_named), dry_run)

    return store.run(job)


def evict_now(store: EmbeddingStore, max_bytes: int) -> None:
    """Keep a store in memory small, named embeddings last. In a job of the writer."""
    size = "SELECT coalesce(sum(stored_bytes), 0) FROM contents"
    if store.read(lambda cursor: first_row(cursor, size) or (0,))[0] <= max_bytes:
        return
    chosen = _eviction(store, max_bytes * 3 // 4, keep_named=False)
    named = [e.name for e in chosen if e.name is not None]
    if named and not store.dropped_named:
        store.dropped_named = True
        limit = max_bytes >> 20
        log.warning("The embedding store in memory holds %d MB: the longest unused go, first %r.", limit, named[0])
    _remove_now(store, {e.embedding_id for e in chosen})


def evict_captures_now(store: EmbeddingStore, max_bytes: int) -> None:
    """Keep the hidden states under a size; those with a name stay. In a job of the writer."""
    size = "SELECT coalesce(sum(raw_bytes), 0) FROM embedding_entries WHERE kind = 'hidden'"
    if store.read(lambda cursor: first_row(cursor, size) or (0,))[0] <= max_bytes:
        return
    store.flush_usage()
    chosen = _eviction(store, max_bytes, keep_named=True, kind="hidden")
    if chosen:
        log.info("Embedding store: %d cached hidden states were removed, the longest unused.", len(chosen))
        _remove_now(store, {e.embedding_id for e in chosen})


def remove(store: EmbeddingStore, ids: Iterable[int]) -> None:
    """Remove embeddings with their names, tags and cache keys; tensors that others share are kept."""
    doomed = set(ids)
    store.run(lambda: _remove_now(store, doomed))


def forget_name(store: EmbeddingStore, name: str) -> None:
    """Take a name off; the embedding stays. Raises KeyError when there is no such name."""

    def job() -> None:
        if name not in store.index.names:
            raise KeyError(name)
        store.transact(lambda cursor: cursor.execute("DELETE FROM embedding_names WHERE name = ?", [name]))
        store.index.names.pop(name, None)

    store.run(job)


def verify(store: EmbeddingStore, progress: Callable[[int, int], None] | None = None) -> Verification:
    """Read every blob and compare its checksums and its content hash.

    Args:
        progress: called with tensors read and tensors in all.
    """
    store.flush()
    rows = store.read(
        lambda cursor: cursor.execute(
            "SELECT content_hash, stored, row_count, column_count FROM contents ORDER BY segment"
        ).fetchall()
    )
    whole, problems = 0, dict[str, str]()
    for i, (key, *described) in enumerate(rows):
        problem = _problem(store, key, described)
        if problem is None:
            whole += 1
        elif key in store.index.segment_of:  # else it was removed in the meantime
            problems[key] = problem
        if progress:
            progress(i + 1, len(rows))
    store.damaged.update(problems)
    users = _users(store, list(problems)) if problems else {}
    damaged = tuple(Damage(key, text, tuple(users.get(key, ()))) for key, text in problems.items())
    return Verification(whole, damaged)


def _problem(store: EmbeddingStore, key: str, described: list[Any]) -> str | None:
    try:
        stored, bits = decode_bits(store.blob(key))
    except StoreError as error:
        return str(error)
    if [stored, *bits.shape] != described:
        return "The blob is of another dtype or size than the store says."
    return None if content_hash(stored, bits) == key else "The values do not have the hash they were stored under."


def _users(store: EmbeddingStore, hashes: Sequence[str]) -> dict[str, list[str]]:
    rows = store.read(
        lambda cursor: cursor.execute(
            "SELECT DISTINCT p.content_hash, l.label FROM embedding_parts p "
            "JOIN embedding_labels l USING (embedding_id) WHERE p.content_hash IN (SELECT unnest(?)) ORDER BY ALL",
            [list(hashes)],
        ).fetchall()
    )
    users: dict[str, list[str]] = {}
    for key, label in rows:
        users.setdefault(key, []).append(label)
    return users


def _eviction(store: EmbeddingStore, max_bytes: int, keep_named: bool, kind: str | None = None) -> list[Listing]:
    """Embeddings (of a kind) to drop, those without a name first, longest unused first. In a job of the writer."""

    def rows(query: str) -> list[tuple[Any, Any]]:
        return store.read(lambda cursor: cursor.execute(query).fetchall())

    contents = dict(rows("SELECT content_hash, stored_bytes FROM contents"))
    candidates = {e.embedding_id: e for e in list_embeddings(store, kind=kind)}
    parts: dict[int, list[str]] = {}
    users: dict[str, int] = {}
    for embedding_id, key in rows("SELECT embedding_id, content_hash FROM embedding_parts"):
        if embedding_id not in candidates:
            continue
        parts.setdefault(embedding_id, []).append(key)
        users[key] = users.get(key, 0) + 1
    named = set(store.index.names.values())
    size, chosen = sum(contents.get(key, 0) for key in users), []
    for e in sorted(candidates.values(), key=lambda e: (e.embedding_id in named, e.last_access, e.embedding_id)):
        if size <= max_bytes or (keep_named and e.embedding_id in named):
            break
        chosen.append(e)
        for key in parts[e.embedding_id]:
            users[key] -= 1
            if not users[key]:
                size -= contents.get(key, 0)
    return chosen


def _remove(store: EmbeddingStore, chosen: Sequence[Listing], dry_run: bool) -> Removal:
    """In the job that chose them: what was put or named since must not go with them."""
    ids = {e.embedding_id for e in chosen}
    freed = store.read(lambda cursor: _freed(cursor, ids))
    if ids and not dry_run:
        _remove_now(store, ids)
    return Removal(tuple(chosen), sum(freed.values()), dry_run)


_UNSHARED = """
    SELECT content_hash, any_value(c.stored_bytes) FROM embedding_parts p JOIN contents c USING (content_hash)
    GROUP BY content_hash HAVING bool_and(p.embedding_id IN (SELECT unnest(?)))
"""


def _freed(cursor: Cursor, ids: Iterable[int]) -> dict[str, int]:
    """Tensors that only these embeddings use, with their stored bytes."""
    doomed = list(ids)
    return dict(cursor.execute(_UNSHARED, [doomed]).fetchall()) if doomed else {}


def _remove_now(store: EmbeddingStore, ids: set[int]) -> None:
    """Remove embeddings, then give up segments of which at most half is used. In a job of the writer."""
    doomed = list(ids)

    def rows(cursor: Cursor) -> list[str]:
        freed = list(_freed(cursor, doomed))
        for table in TABLES_OF_EMBEDDING:
            cursor.execute(f"DELETE FROM {table} WHERE embedding_id IN (SELECT unnest(?))", [doomed])  # noqa: S608
        cursor.execute("DELETE FROM embedding_similarities WHERE other_id IN (SELECT unnest(?))", [doomed])
        _remove_operations(cursor)
        _delete_contents(store, cursor, freed)
        return freed

    freed = store.transact(rows)
    store.reload()
    store.vectors.remove(freed)
    store.damaged.difference_update(freed)
    for segment in store.read(store.segments.sparse):
        try:
            store.change(partial(_give_up, store, segment))
        except StoreError as error:
            log.warning("Embedding store: segment %d keeps its space, verify the store: %s", segment, error)


def _delete_contents(store: EmbeddingStore, cursor: Cursor, hashes: Sequence[str]) -> None:
    by_segment: dict[int, list[str]] = {}
    for key in hashes:
        by_segment.setdefault(store.index.segment_of[key], []).append(key)
    for segment, keys in by_segment.items():
        store.segments.delete(cursor, segment, keys)
    cursor.execute("DELETE FROM contents WHERE content_hash IN (SELECT unnest(?))", [list(hashes)])


def _remove_operations(cursor: Cursor) -> None:
    """Operations whose result and inputs are all gone; the others stay, so that lineage shows what was removed."""
    there = "(SELECT embedding_id FROM embedding_entries)"
    cursor.execute(
        "CREATE OR REPLACE TEMP TABLE gone AS SELECT operation_id FROM vector_operations o "  # noqa: S608
        f"WHERE (result_id IS NULL OR result_id NOT IN {there}) AND coalesce(result_id, "
        "(SELECT min(embedding_id) FROM operation_inputs i WHERE i.operation_id = o.operation_id)) IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM operation_inputs i "
        f"WHERE i.operation_id = o.operation_id AND i.embedding_id IN {there})"
    )
    for table in ("operation_inputs", "operation_parameters", "vector_operations"):
        cursor.execute(f"DELETE FROM {table} WHERE operation_id IN (SELECT operation_id FROM gone)")  # noqa: S608
    cursor.execute("DROP TABLE gone")


def _give_up(store: EmbeddingStore, segment: int, cursor: Cursor, index: Index) -> None:
    """Move what is still used of a segment to the open one and drop it."""
    used = cursor.execute("SELECT content_hash FROM contents WHERE segment = ?", [segment]).fetchall()
    moved = store.segments.move_out(cursor, segment, [key for (key,) in used])
    for key, number in moved.items():
        cursor.execute("UPDATE contents SET segment = ? WHERE content_hash = ?", [number, key])
        index.segment_of[key] = number

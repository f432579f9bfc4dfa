"""Figures about a store, as dataclasses; reports.py turns them into text."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .database import Cursor, first_row
from .segments import Segments

if TYPE_CHECKING:
    from .store import EmbeddingStore


@dataclass(frozen=True)
class KindMetrics:
    """One line of the view `storage_metrics`."""

    kind: str
    dtype: str
    stored: str
    tensors: int
    distinct_tensors: int
    token_rows: int
    raw_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class Stats:
    """Counts and sizes in bytes.

    Args:
        raw_bytes: all embeddings as they were handed in.
        stored_bytes: blobs, each distinct tensor once.
        file_bytes, log_bytes: the DuckDB file; its write-ahead log and the journal (journal.py).
    """

    path: str | None
    schema_version: int
    embeddings: int
    named: int
    tensors: int
    operations: int
    accesses: int
    segments: int
    raw_bytes: int
    stored_bytes: int
    file_bytes: int
    log_bytes: int
    oldest: datetime | None
    newest: datetime | None
    damaged: int
    by_kind: tuple[KindMetrics, ...]

    @property
    def compression(self) -> float:
        """Bytes handed in for each byte of blob."""
        return self.raw_bytes / self.stored_bytes if self.stored_bytes else 0.0


@dataclass(frozen=True)
class OperationMetrics:
    """One line of the view `operations_by_type`; memory in bytes."""

    operation_type: str
    operations: int
    mean_ms: float | None
    median_ms: float | None
    max_ms: float | None
    mean_peak_memory_bytes: int | None
    max_peak_memory_bytes: int | None
    last_run: datetime


@dataclass(frozen=True)
class LineageStep:
    """An input of the operation that made a result."""

    operation_id: int
    operation_type: str
    role: str | None
    weight: float | None
    input_id: int | None
    input: str | None
    parameters: str | None
    duration_ms: float | None
    created: datetime


def stats(store: EmbeddingStore) -> Stats:
    """Figures of the whole store."""
    store.flush()
    store.flush_usage()

    def query(cursor: Cursor) -> Stats:
        def one(text: str) -> Any:
            row = first_row(cursor, text)
            return row[0] if row else None

        span = first_row(cursor, "SELECT min(created), max(created) FROM embedding_entries") or (None, None)
        kinds = cursor.execute("SELECT * FROM storage_metrics").fetchall()
        return Stats(
            path=None if store.path is None else str(store.path),
            schema_version=int(one("SELECT value FROM meta WHERE key = 'schema_version'")),
            embeddings=one("SELECT count(*) FROM embedding_entries"),
            named=one("SELECT count(*) FROM embedding_names"),
            tensors=one("SELECT count(*) FROM contents"),
            operations=one("SELECT count(*) FROM vector_operations"),
            accesses=int(one("SELECT coalesce(sum(access_count), 0) FROM embedding_usage")),
            segments=len(Segments.numbers(cursor)),
            raw_bytes=int(one("SELECT coalesce(sum(raw_bytes), 0) FROM embedding_entries")),
            stored_bytes=int(one("SELECT coalesce(sum(stored_bytes), 0) FROM contents")),
            file_bytes=_size(store, ""),
            log_bytes=_size(store, ".wal") + _size(store, ".journal"),
            oldest=span[0],
            newest=span[1],
            damaged=len(store.damaged),
            by_kind=tuple(KindMetrics(*row) for row in kinds),
        )

    return store.read(query)


def performance(store: EmbeddingStore) -> list[OperationMetrics]:
    """Operations by type, most frequent first."""
    store.flush()
    rows = store.read(lambda cursor: cursor.execute("SELECT * FROM operations_by_type").fetchall())
    return [OperationMetrics(*row) for row in rows]


def lineage(store: EmbeddingStore, embedding_id: int) -> list[LineageStep]:
    """The operations that made an embedding, one step for each input, newest operation first."""
    store.flush()
    rows = store.read(
        lambda cursor: cursor.execute(
            "SELECT operation_id, operation_type, role, weight, input_id, input, parameters, duration_ms, created "
            "FROM lineage WHERE result_id = ? ORDER BY operation_id DESC, position",
            [embedding_id],
        ).fetchall()
    )
    return [LineageStep(*row) for row in rows]


def ancestors(store: EmbeddingStore, embedding_id: int) -> list[tuple[int, int]]:
    """(depth, embedding id) of everything that an embedding was made from, nearest first."""
    store.flush()
    rows = store.read(
        lambda cursor: cursor.execute(
            "SELECT depth, ancestor_id FROM ancestry WHERE result_id = ? ORDER BY ALL", [embedding_id]
        ).fetchall()
    )
    return [(int(depth), int(ancestor)) for depth, ancestor in rows]


def _size(store: EmbeddingStore, suffix: str) -> int:
    if store.path is None:
        return 0
    file = store.path.with_name(store.path.name + suffix)
    return file.stat().st_size if file.exists() else 0

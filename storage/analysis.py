"""Results about embeddings that are worth keeping: analyses and similarities."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .database import Cursor
from .records import now

if TYPE_CHECKING:
    from .store import EmbeddingStore


def save_analysis(store: EmbeddingStore, embedding_id: int, analysis_type: str, result: Mapping[str, Any]) -> None:
    """Keep the result of an analysis, plain values only; an earlier one of the same type is replaced."""
    text = json.dumps(dict(result), default=repr)

    def job(cursor: Cursor) -> None:
        insert_analysis(cursor, embedding_id, analysis_type, text)

    store.write(job)


def insert_analysis(cursor: Cursor, embedding_id: int, analysis_type: str, text: str) -> None:
    """As `save_analysis`, inside the caller's transaction."""
    cursor.execute(
        "DELETE FROM embedding_analysis WHERE embedding_id = ? AND analysis_type = ?", [embedding_id, analysis_type]
    )
    cursor.insert("embedding_analysis", embedding_id, analysis_type, text, now())


def saved_analysis(store: EmbeddingStore, embedding_id: int, analysis_type: str) -> dict[str, Any] | None:
    """The kept result, or None."""
    store.flush()
    query = "SELECT result FROM embedding_analysis WHERE embedding_id = ? AND analysis_type = ?"
    rows = store.read(lambda cursor: cursor.execute(query, [embedding_id, analysis_type]).fetchall())
    return dict(json.loads(rows[0][0])) if rows else None


def save_similarities(
    store: EmbeddingStore, embedding_id: int, scores: Sequence[tuple[int, float]], metric: str = "cosine"
) -> None:
    """Keep scores of an embedding against others: (other id, score)."""
    others, values = [o for o, _ in scores], [float(v) for _, v in scores]

    def job(cursor: Cursor) -> None:
        cursor.execute(
            "DELETE FROM embedding_similarities WHERE embedding_id = ? AND metric = ? "
            "AND other_id IN (SELECT unnest(?::BIGINT[]))",
            [embedding_id, metric, others],
        )
        cursor.execute(
            "INSERT INTO embedding_similarities SELECT ?, unnest(?::BIGINT[]), ?, unnest(?::DOUBLE[]), ?",
            [embedding_id, others, metric, values, now()],
        )

    if scores:
        store.write(job)


def saved_similarities(store: EmbeddingStore, embedding_id: int, metric: str = "cosine") -> list[tuple[int, float]]:
    """Kept scores of an embedding, largest first."""
    store.flush()
    query = (
        "SELECT other_id, score FROM embedding_similarities WHERE embedding_id = ? AND metric = ? ORDER BY score DESC"
    )
    return store.read(lambda cursor: cursor.execute(query, [embedding_id, metric]).fetchall())

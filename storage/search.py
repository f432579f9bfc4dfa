"""Nearest neighbours by cosine between mean token vectors."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import numpy as np
import torch

from .errors import StoreError

MAX_WIDTH = 16384
CACHED_BYTES = 256 << 20
"""Vectors that are kept in memory after a search; those beyond are read each time."""
CHUNK = 1024
MOST_SECONDS = 30.0
"""A search of the store that takes longer is stopped."""


@contextlib.contextmanager
def limited(db: Any) -> Iterator[None]:
    """Stop what a connection does after 30 seconds.

    Raises:
        StoreError: it was stopped.
    """
    late = threading.Event()

    def stop() -> None:
        late.set()
        db.interrupt()

    timer = threading.Timer(MOST_SECONDS, stop)
    timer.start()
    try:
        yield
    except (duckdb.Error, RuntimeError):
        if late.is_set():
            raise StoreError(
                f"The search took more than {MOST_SECONDS:g} seconds and was stopped. Search for fewer words, or "
                "remove old embeddings with WanVideo Embedding Database."
            ) from None
        raise
    finally:
        timer.cancel()


def pooled(tensor: torch.Tensor) -> Any:
    """Direction of the mean row, float32 [width]; None for what has none.

    That is: integers, rows of one value or of more than 16384, an all-zero or non-finite mean. Zero rows only shorten
    the mean, so padding does not matter.
    """
    if (
        not tensor.is_floating_point()
        or tensor.dim() < 1
        or not 2 <= tensor.shape[-1] <= MAX_WIDTH
        or not tensor.numel()
    ):
        return None
    rows = tensor.detach().reshape(-1, tensor.shape[-1])
    rows = rows.float() if rows.element_size() == 1 else rows  # float8 has no mean
    mean = rows.mean(dim=0, dtype=torch.float32).cpu().numpy()
    norm = np.linalg.norm(mean)
    return np.asarray(mean / norm, np.float32) if np.isfinite(norm) and norm else None


class Vectors:
    """The stored directions, in memory from the first search on; kept up to date by reading what is newer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[int, tuple[Any, Any, int]] = {}

    def clear(self) -> None:
        """Read all again at the next search: something was removed."""
        with self._lock:
            self._known = {}

    def nearest_embeddings(
        self, db: Any, query: Any, without: Sequence[str], among: Sequence[int] | None, count: int
    ) -> dict[int, float]:
        """Cosine by embedding_id of those whose direction is one of the `count` nearest to a unit vector.

        Args:
            db: a snapshot of the store.
            without: hashes of tensors to leave out.
            among: ids of embeddings to look at; None for all.
        """
        query_ids = (
            "SELECT embedding_id, main_id FROM embeddings WHERE main_id NOT IN "
            "(SELECT content_id FROM contents WHERE hash IN (SELECT unnest($without::VARCHAR[]))) "
            "AND ($among IS NULL OR embedding_id IN (SELECT unnest($among::BIGINT[])))"
        )
        rows = db.execute(query_ids, {"among": among, "without": without}).fetchnumpy()
        best = dict(self._nearest(db, query, count, rows["main_id"]))
        pairs = zip(rows["embedding_id"].tolist(), rows["main_id"].tolist(), strict=True)
        return {i: best[content] for i, content in pairs if content in best}

    def _nearest(self, db: Any, query: Any, count: int, among: Any) -> list[tuple[int, float]]:
        """(content_id, cosine) of the `count` of `among` that are nearest, best first."""
        width = int(query.size)
        with self._lock:
            ids, matrix, used = self._known.get(width, (np.empty(0, np.int64), np.empty((0, width), np.float32), 0))
            found = [(ids[:used], matrix[:used] @ query)]
            newer = "column_count = ? AND content_id > ? AND vector IS NOT NULL"
            values = [width, int(ids[used - 1]) if used else -1]
            (count_newer,) = db.execute(f"SELECT count(*) FROM contents WHERE {newer}", values).fetchone()  # noqa: S608
            kept = min(used + count_newer, CACHED_BYTES // (4 * width))
            if kept > len(ids):
                room = max(kept, min(len(ids) * 5 // 4, CACHED_BYTES // (4 * width)))  # not anew for each new vector
                ids, matrix = _grown(ids, room), _grown(matrix, room)
            rows = db.execute(
                f"SELECT content_id, vector FROM contents WHERE {newer} ORDER BY content_id",  # noqa: S608
                values,
            )
            while chunk := rows.fetchmany(CHUNK):
                new = np.frombuffer(b"".join(v for _, v in chunk), "<f2").reshape(len(chunk), width).astype(np.float32)
                numbers = np.array([i for i, _ in chunk], np.int64)
                found.append((numbers, new @ query))
                more = min(len(chunk), kept - used)
                ids[used : used + more], matrix[used : used + more] = numbers[:more], new[:more]
                used += more
            self._known[width] = ids, matrix, used
        numbers, scores = np.concatenate([n for n, _ in found]), np.concatenate([s for _, s in found])
        wanted = np.isin(numbers, among)
        numbers, scores = numbers[wanted], scores[wanted]
        count = min(count, len(numbers))
        if not count:
            return []
        best = np.argpartition(scores, -count)[-count:]
        best = best[np.argsort(-scores[best], kind="stable")]
        return [(int(numbers[i]), float(scores[i])) for i in best]


def _grown(array: Any, count: int) -> Any:
    out = np.empty((count, *array.shape[1:]), array.dtype)
    out[: len(array)] = array
    return out


def kept_scores(db: Any, embedding_id: int, count: int) -> dict[int, float]:
    """Scores that an earlier search computed; empty when there are fewer, or something was stored since."""
    query = (
        "SELECT other_id, score FROM embedding_similarities WHERE embedding_id = ? "
        "AND as_of = (SELECT max(embedding_id) FROM embeddings) ORDER BY score DESC LIMIT ?"
    )
    rows = db.execute(query, [embedding_id, count]).fetchall()
    return dict(rows) if len(rows) == count else {}


def keep_scores(db: Any, embedding_id: int, scores: dict[int, float], as_of: int) -> None:
    """Keep what a search computed while `as_of` was the newest embedding."""
    db.execute("DELETE FROM embedding_similarities WHERE embedding_id = ?", [embedding_id])
    values = [embedding_id, list(scores), list(scores.values()), as_of]
    db.execute("INSERT INTO embedding_similarities SELECT ?, unnest(?::BIGINT[]), unnest(?::DOUBLE[]), ?", values)

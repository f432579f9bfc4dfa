"""Nearest neighbours by cosine between mean token vectors."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

import numpy as np
import torch

MAX_WIDTH = 16384
CACHED_BYTES = 256 << 20
"""Vectors that are kept in memory after a search; those beyond are read each time."""
CHUNK = 1024


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

    def nearest(self, db: Any, query: Any, count: int, among: Collection[int] | None) -> list[tuple[int, float]]:
        """(content_id, cosine) of the `count` directions nearest to a unit vector, best first.

        Args:
            db: a snapshot of the store.
            among: content ids to look at; None for all.
        """
        width = int(query.size)
        with self._lock:
            ids, matrix, used = self._known.get(width, (np.empty(0, np.int64), np.empty((0, width), np.float32), 0))
            limit = CACHED_BYTES // (4 * width)
            found = [(ids[:used], matrix[:used] @ query)]
            last = int(ids[used - 1]) if used else -1
            rows = db.execute(
                "SELECT content_id, vector FROM contents WHERE column_count = ? AND vector IS NOT NULL AND content_id > ? "
                "ORDER BY content_id",
                [width, last],
            )
            while chunk := rows.fetchmany(CHUNK):
                new = np.frombuffer(b"".join(v for _, v in chunk), "<f2").reshape(len(chunk), width).astype(np.float32)
                numbers = np.array([i for i, _ in chunk], np.int64)
                found.append((numbers, new @ query))
                if used + len(chunk) <= limit:
                    if used + len(chunk) > len(ids):
                        room = min(limit, max(2 * len(ids), used + len(chunk)))
                        ids, matrix = _grown(ids, room), _grown(matrix, room)
                    ids[used : used + len(chunk)], matrix[used : used + len(chunk)] = numbers, new
                    used += len(chunk)
                else:
                    limit = 0  # what is kept is the beginning, without gaps
            self._known[width] = ids, matrix, used
        numbers, scores = np.concatenate([n for n, _ in found]), np.concatenate([s for _, s in found])
        if among is not None:
            kept = np.isin(numbers, np.fromiter(among, np.int64, len(among)))
            numbers, scores = numbers[kept], scores[kept]
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

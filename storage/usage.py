"""How often and when embeddings were read: counted in memory, written together now and then."""

from __future__ import annotations

import threading
import time
from datetime import datetime

from .database import Cursor
from .records import now


class Usage:
    """Reads that are not written yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reads: dict[int, tuple[int, datetime]] = {}
        self._taken_at = 0.0

    def touch(self, embedding_id: int) -> None:
        """Count one read."""
        with self._lock:
            count, _ = self._reads.get(embedding_id, (0, None))
            self._reads[embedding_id] = (count + 1, now())

    @property
    def age(self) -> float:
        """Seconds since the counts were last taken."""
        return time.monotonic() - self._taken_at

    def take(self) -> dict[int, tuple[int, datetime]]:
        """The counts, which begin again at 0."""
        with self._lock:
            reads, self._reads = self._reads, {}
            self._taken_at = time.monotonic()
        return reads


def add_usage(cursor: Cursor, reads: dict[int, tuple[int, datetime]]) -> None:
    """Add counts to the table, inside the caller's transaction; ids that are gone are left out."""
    ids, counts, times = list(reads), [c for c, _ in reads.values()], [t for _, t in reads.values()]
    cursor.execute(
        "INSERT INTO embedding_usage SELECT * FROM (SELECT unnest(?) AS id, unnest(?) AS n, unnest(?) AS at) "
        "WHERE id IN (SELECT embedding_id FROM embedding_entries) "
        "ON CONFLICT (embedding_id) DO UPDATE SET access_count = access_count + excluded.access_count, "
        "last_access = excluded.last_access",
        [ids, counts, times],
    )

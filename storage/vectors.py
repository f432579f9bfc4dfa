"""The search matrices of an open store: read once, then kept up to date by puts."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .database import Cursor
from .entries import Prepared
from .search import Match, Vector, VectorIndex
from .segments import Segments

if TYPE_CHECKING:
    from .store import EmbeddingStore


class VectorCache:
    """One VectorIndex for each width. 10,000 tensors of width 4096 take 160 MB, from the first search on."""

    def __init__(self, store: EmbeddingStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._by_width: dict[int, VectorIndex] | None = None

    def nearest(self, query: Vector, count: int) -> list[Match]:
        """Tensors of the query's width by cosine, best first."""
        if self._by_width is None:
            self._store.run(self._load)
        with self._lock:
            index = (self._by_width or {}).get(query.size)
            return index.nearest(query, count) if index else []

    def add(self, prepared: Prepared) -> None:
        """Take in tensors that were just stored; nothing to do before the first search."""
        with self._lock:
            if self._by_width is not None:
                for encoded, vector in zip(prepared.encoded, prepared.pooled, strict=True):
                    if vector is not None:
                        self._index(self._by_width, len(vector) // 2).add(encoded.content_hash, vector)

    def remove(self, content_hashes: Iterable[str]) -> None:
        hashes = list(content_hashes)
        with self._lock:
            for index in (self._by_width or {}).values():
                index.remove(hashes)

    def _load(self) -> None:
        """Read all, while nobody writes."""
        if self._by_width is None:
            self._by_width = self._store.read(self._read)

    def _read(self, cursor: Cursor) -> dict[int, VectorIndex]:
        found: dict[int, VectorIndex] = {}
        widths = dict(cursor.execute("SELECT column_count, count(*) FROM contents GROUP BY ALL").fetchall())
        for segment in Segments.numbers(cursor):
            for content_hash, vector in Segments.pooled(cursor, segment):
                index = self._index(found, len(vector) // 2)
                if not len(index):
                    index.reserve(widths.get(index.width, 0))
                index.add(content_hash, vector)
        return found

    @staticmethod
    def _index(indexes: dict[int, VectorIndex], width: int) -> VectorIndex:
        return indexes.setdefault(width, VectorIndex(width))

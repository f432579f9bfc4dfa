"""Results of measurements by a key of everything they were made from; the least recently used go first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

LIMIT = 32
"""A map is some kilobytes, a reading some megabytes."""


class MeasuredCache:
    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._held: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Any | None:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: str, value: Any) -> None:
        with self._lock:
            self._held[key] = value
            self._held.move_to_end(key)
            while len(self._held) > self._limit:
                self._held.popitem(last=False)


CACHE = MeasuredCache()

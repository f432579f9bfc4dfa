"""Who reads a file, so that it is exchanged while nobody does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Readers:
    """Counts readers. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a condition is entered by Python code, in which an interrupt can come
        self._changed = threading.Condition(self._lock)
        self._reading: set[object] = set()
        self._closed = False

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        reader = object()
        try:
            with self._lock:
                self._changed.wait_for(lambda: not self._closed)
                self._reading.add(reader)
            yield
        finally:
            with self._lock:
                self._reading.discard(reader)  # an interrupt may come before it is there
                self._changed.notify_all()

    @contextlib.contextmanager
    def none(self) -> Iterator[None]:
        try:
            with self._lock:
                self._closed = True
                self._changed.wait_for(lambda: not self._reading)
            yield
        finally:
            with self._lock:
                self._closed = False
                self._changed.notify_all()

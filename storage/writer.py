"""The one thread that writes."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from .errors import StoreError

log = logging.getLogger("wanvideo_activation_editor")
T = TypeVar("T")

IDLE_SECONDS = 5.0
MAX_WAITING_BYTES = 64 << 20


class QueueFullError(StoreError):
    """More is waiting to be written than may be held in memory."""


class Writer:
    """Runs jobs one after another on a thread of its own, begun at the first job.

    Args:
        after: called on the thread after each job, when its result has been handed out.
        idle: called on the thread when nothing came for some seconds, and at the end.
    """

    def __init__(self, after: Callable[[], None], idle: Callable[[], None]) -> None:
        self._after, self._idle = after, idle
        self._condition = threading.Condition()
        self._jobs: deque[tuple[Callable[[], Any], Future[Any], int]] = deque()
        self._waiting_bytes = 0
        self._busy = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], T], size: int = 0) -> Future[T]:
        """Queue a job that holds `size` bytes of memory until it has run.

        Raises:
            StoreError: the writer is closed.
            QueueFullError: `size` is not 0 and the queue holds too many bytes already.
        """
        future: Future[T] = Future()
        with self._condition:
            if self._closed:
                raise StoreError("The embedding store is closed.")
            if size and self._waiting_bytes and self._waiting_bytes + size > MAX_WAITING_BYTES:
                raise QueueFullError(f"{self._waiting_bytes >> 20} MB are waiting to be written already.")
            self._jobs.append((job, future, size))
            self._waiting_bytes += size
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="embedding-store-writer", daemon=True)
                self._thread.start()
            self._condition.notify_all()
        return future

    @property
    def on_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was queued is written; False after `timeout` seconds."""
        if self.on_thread:
            return True
        with self._condition:
            return self._condition.wait_for(lambda: not self._jobs and not self._busy, timeout)

    def close(self) -> None:
        """Write what is queued and end the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            thread = self._thread
        if thread is not None and not self.on_thread:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                came = self._condition.wait_for(lambda: self._jobs or self._closed, IDLE_SECONDS)
                if came and not self._jobs:
                    break
                job, future, size = self._jobs.popleft() if self._jobs else (None, None, 0)
                self._busy = True
            ran = job is not None
            if job is not None and future is not None:
                _settle(job, future)
            job = future = None  # lets go of the tensors
            with self._condition:
                self._waiting_bytes -= size
                self._busy = False
                self._condition.notify_all()
            _quietly(self._after if ran else self._idle)
        _quietly(self._idle)


def _settle(job: Callable[[], Any], future: Future[Any]) -> None:
    try:
        result = job()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def _quietly(task: Callable[[], None]) -> None:
    try:
        task()
    except Exception as error:
        log.warning("Embedding store: housekeeping failed: %s", error)

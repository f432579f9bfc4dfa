"""Writing one at a time: at once on the caller's thread, or later on a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from .errors import StoreError

log = logging.getLogger("wanvideo_activation_editor")
T = TypeVar("T")

IDLE_SECONDS = 2.0
MAX_WAITING_BYTES = 64 << 20

_CLOSED = "The embedding store is closed."


class QueueFullError(StoreError):
    """More is waiting to be written than may be held in memory."""


class Writer:
    """Lets one thread write at a time, in the order of the calls.

    Once the interpreter is ending it starts no threads (from Python 3.12): jobs then run on the caller's.

    Args:
        due: called after each job; True when housekeeping should follow soon.
        housekeeping: called on the background thread when it is due, when nothing came for some seconds, and
            at the end. Nobody waits for it but other writers.
    """

    def __init__(self, due: Callable[[], bool], housekeeping: Callable[[], None]) -> None:
        self._due, self._housekeeping = due, housekeeping
        self._writing = threading.Lock()
        self._owner: int | None = None
        self._condition = threading.Condition()
        self._jobs: deque[tuple[Callable[[], Any], Future[Any], int]] = deque()
        self._waiting_bytes = 0
        self._submitted = self._done = 0
        self._woken = self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def inside(self) -> bool:
        """True in a job."""
        return self._owner == threading.get_ident()

    @property
    def closing(self) -> bool:
        return self._closed

    def run(self, job: Callable[[], T]) -> T:
        """Run a job on this thread, after those that were submitted before.

        Raises:
            StoreError: the writer is closed.
        """
        if self.inside:
            return job()
        with self._condition:
            self._start()
        self.flush()
        with self._alone():
            if self._closed:  # in the meantime: what this job would write to is another store's by now
                raise StoreError(_CLOSED)
            result = job()
        if self._due():
            with self._condition:
                self._woken = True
                self._condition.notify_all()
        return result

    def submit(self, job: Callable[[], T], size: int = 0) -> Future[T]:
        """Queue a job, which holds `size` bytes of memory until it has run, for the background thread.

        Raises:
            StoreError: the writer is closed.
            QueueFullError: the queue holds too many bytes already.
        """
        future: Future[T] = Future()
        with self._condition:
            started = self._start()
            if started:
                if self._waiting_bytes and self._waiting_bytes + size > MAX_WAITING_BYTES:
                    raise QueueFullError(f"{self._waiting_bytes >> 20} MB are waiting to be written already.")
                self._jobs.append((job, future, size))
                self._waiting_bytes += size
                self._submitted += 1
                self._condition.notify_all()
        if not started:
            _settle(lambda: self.run(job), future)
        return future

    def flush(self) -> None:
        """Wait until all that was submitted before is written."""
        last = self._submitted
        if not self.inside and self._done < last:
            with self._condition:
                self._condition.wait_for(lambda: self._done >= last)

    def close(self) -> None:
        """Write what is queued and end the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            thread = self._thread
        if thread is None:
            self._keep_house()
        elif thread is not threading.current_thread():
            thread.join()

    def abandon(self) -> None:
        """In a forked process, which has no background thread: be closed, whatever was waiting."""
        self._writing, self._condition = threading.Lock(), threading.Condition()
        self._jobs.clear()
        self._done, self._closed, self._owner = self._submitted, True, None

    def _start(self) -> bool:
        """False when there can be no background thread, because the interpreter is ending."""
        if self._closed:
            raise StoreError(_CLOSED)
        if self._thread is None:
            thread = threading.Thread(target=self._loop, name="embedding-store-writer", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._writing:
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner = None

    def _loop(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._jobs or self._woken or self._closed, IDLE_SECONDS)
                job, future, size = self._jobs.popleft() if self._jobs else (None, None, 0)
                ending = self._closed and job is None
                self._woken = False
            idle = job is None
            if job is not None and future is not None:
                try:
                    with self._alone():
                        _settle(job, future)
                finally:
                    job = future = None  # lets go of the tensors
                    with self._condition:
                        self._waiting_bytes -= size
                        self._done += 1
                        self._condition.notify_all()
            if idle or self._due():
                self._keep_house()
            if ending:
                return

    def _keep_house(self) -> None:
        try:
            with self._alone():
                self._housekeeping()
        except Exception as error:
            log.warning("Embedding store: housekeeping failed: %s", error)


def _settle(job: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = job()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)

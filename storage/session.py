"""An open file, what is known of it in memory, and transactions on it."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import duckdb

from . import schema
from .database import Cursor, Database, is_damage, transaction
from .entries import Index
from .errors import DamagedError, StoreError
from .segments import Segments
from .writer import Writer

T = TypeVar("T")

_COMMITTED = "COMMIT succeeded"
"""What DuckDB says when only the checkpoint after a commit has failed."""

_WANT_OF_MEMORY = re.compile(r"out of memory|could not allocate|failed to (allocate|pin)", re.I)
"""What it says when memory is short, whatever the class of the error: also of a commit or rollback that failed."""


class Session:
    """Transactions on a file. `JournaledSession` adds puts that are not in it yet, `EmbeddingStore` what users call.

    Args:
        path: the DuckDB file, or None for memory.
        due, housekeeping: see Writer.
    """

    def __init__(self, path: Path | None, due: Callable[[], bool], housekeeping: Callable[[], None]) -> None:
        self.path = None if path is None else path.resolve()
        self.database = Database(self.path)
        self.index = Index()
        """What readers see: the database's index, and what lies on top of it."""
        self._database_index = self.index
        self.segments = Segments()
        self.damaged: set[str] = set()
        """Content hashes that failed their checksum; a later put of the same content writes them anew."""
        self.abandoned = False
        """True in a process that was forked while the store was open."""
        self.generation = 0
        """Counts writes, so that what was read before one is not kept after it."""
        self._writer = Writer(due, housekeeping)
        try:
            try:
                self._load()
            except DamagedError:
                self.database.begin_anew()
                self._load()
            self._opened()
        except BaseException:
            self.database.close()
            raise
        _watch_forks()
        _open_sessions.add(self)

    def abandon(self) -> None:
        """In a forked process: this store is closed, and its file left to the process that opened it."""
        self.abandoned = True
        self._writer.abandon()
        self.database.abandon()

    # what is kept elsewhere before it is in the database; in a job

    def _opened(self) -> None:
        """Take in what an earlier process has left."""

    def _over(self, index: Index) -> Index:
        """The database's index with what lies on top of it."""
        return index

    @property
    def _is_settled(self) -> bool:
        return True

    def _settle(self) -> None:
        """Bring it into the database. Raises StoreError when that fails; nothing is lost then."""

    @property
    def persistent(self) -> bool:
        return self.path is not None

    def read(self, query: Callable[[Cursor], T]) -> T:
        """Run a query on this thread's cursor, after all puts; it must fetch its rows.

        Raises:
            DamagedError: DuckDB found a block of the file damaged.
            StoreError: any other failure.
        """
        if not self._is_settled:
            self._writer.run(self._settle)
        return self._read(query)

    def _read(self, query: Callable[[Cursor], T]) -> T:
        """As `read`, of what is in the database already."""
        if not self.database.is_open:
            self._writer.run(self._reconnect)
        try:
            with self.database.gate.shared():
                return query(self.database.cursor())
        except duckdb.OutOfMemoryException:
            with _store_errors(), self.database.gate.shared(), self.database.room():
                return query(self.database.cursor())
        except (duckdb.FatalException, duckdb.InternalException):
            self._writer.run(self._recover)
        except duckdb.Error as error:
            raise _as_store_error(error) from error
        with _store_errors(), self.database.gate.shared():
            return query(self.database.cursor())

    def write(self, job: Callable[[Cursor], T]) -> T:
        """Run `job` in a transaction, while nobody else writes. Errors as `put`."""
        return self._writer.run(lambda: self.transact(job))

    def run(self, job: Callable[[], T]) -> T:
        """Run `job`, which may use `transact` more than once, while nobody else writes and all is in the database."""

        def settled() -> T:
            self._settle()
            return job()

        return self._writer.run(settled)

    def alone(self, job: Callable[[], T]) -> T:
        """Run `job` while nobody else uses the file; it may close and replace it."""

        def excluded() -> T:
            self._reconnect()
            self._settle()
            with self.database.gate.exclusive():
                return job()

        return self._writer.run(excluded)

    def flush(self) -> None:
        """Wait until all that was handed over is in the database."""
        self._writer.flush()
        if not self._is_settled:
            self._writer.run(self._settle)

    def reload(self) -> None:
        """Read indexes again after the file was replaced or rows were removed. In a job."""
        with self.database.gate.shared():
            self._load()

    def _load(self) -> None:
        cursor = self.database.cursor()
        with _store_errors():
            schema.prepare(cursor)
            self.generation += 1
            self._database_index = Index.load(cursor, earlier=self.index)
            self.index = self._over(self._database_index)
            self.identity = schema.identity(cursor)
            self.segments.load(cursor)

    def transact(self, job: Callable[[Cursor], T]) -> T:
        """A transaction, in a job of the writer. What is known in memory is read again when it fails."""
        self._settle()
        return self._transact(job)

    def _transact(self, job: Callable[[Cursor], T]) -> T:
        self._reconnect()
        try:
            return self._attempt(job)
        except StoreError as error:
            if not _is_want_of_memory(error.__cause__):
                raise
        with self.database.room():
            return self._attempt(job)

    def _attempt(self, job: Callable[[Cursor], T]) -> T:
        for attempt in range(2):
            finished: list[T] = []
            try:
                with self.database.gate.shared():
                    cursor = self.database.cursor()
                    with transaction(cursor):
                        finished.append(job(cursor))
                self.generation += 1
                return finished[0]
            except (duckdb.FatalException, duckdb.InternalException) as error:
                self._recover()
                if finished and _COMMITTED in str(error):
                    return finished[0]
                if attempt:
                    raise _as_store_error(error) from error
            except duckdb.Error as error:
                self._load_after_failure()
                raise _as_store_error(error) from error
            except BaseException:
                self._load_after_failure()
                raise
        raise AssertionError

    def change(self, job: Callable[[Cursor, Index], T]) -> T:
        """As `transact`, for a job that adds to the index it is given; readers see that after the commit."""
        self._settle()
        return self._change(job)

    def _change(self, job: Callable[[Cursor, Index], T]) -> T:
        def drafted(cursor: Cursor) -> tuple[T, Index]:
            draft = self._database_index.draft()
            return job(cursor, draft), draft

        result, draft = self._transact(drafted)
        self._database_index.adopt(draft)
        return result

    def _load_after_failure(self) -> None:
        try:
            with self.database.gate.shared():
                self._load()
        except (StoreError, duckdb.Error):
            self._recover()

    def _reconnect(self) -> None:
        """In a job: open the file again if that failed the last time."""
        if not self.database.is_open:
            self._recover()

    def _recover(self) -> None:
        """Open the file again; DuckDB refuses everything after some failures, such as a full disk in a checkpoint."""
        with self.database.gate.exclusive():
            self.database.reopen()
            self._load()


_open_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


@functools.cache
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_abandon_all)


def _abandon_all() -> None:
    for session in list(_open_sessions):
        session.abandon()


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise _as_store_error(error) from error


def _is_want_of_memory(error: BaseException | None) -> bool:
    return isinstance(error, duckdb.Error) and _WANT_OF_MEMORY.search(str(error)) is not None


def _as_store_error(error: duckdb.Error) -> StoreError:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    lowered = text.lower()
    if is_damage(str(error)):
        return DamagedError(f"A block of the embedding store is damaged: {text}")
    if "no space left" in lowered or "file too large" in lowered:
        return StoreError(f"The disk is full: {text}")
    return StoreError(f"The embedding store failed: {text}")

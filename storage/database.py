"""Opening the DuckDB file: the lock, damaged files, cursors for threads."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from .errors import LockedError, StoreError
from .lock import StoreLock

log = logging.getLogger("wanvideo_activation_editor")

MEMORY_LIMIT = "128MB"
LARGE_MEMORY_LIMIT = "256MB"
"""What DuckDB may use inside `Database.room`, and while it opens or closes the file."""
MAX_STATEMENTS = 512
CHECKPOINT_THRESHOLD = "256MB"
"""Checkpoints are made when a segment is full (segments.py); DuckDB's own come only if those fail."""

_TRANSACTION = ("BEGIN", "COMMIT", "ROLLBACK")
_LOCK = re.compile(r"Could not set lock on file.*?(?:\(PID (\d+)\)|$)", re.S)
_DAMAGE = re.compile(r"Corrupt(ed)? [\w-]+ |Data Corruption|data is corrupt|stored checksum", re.ASCII)
_NOT_A_DATABASE = re.compile(r"not a valid DuckDB database file|Serialization Error")
_CORRUPT_WAL = re.compile(r"Corrupt (Encrypted )?WAL")
"""A log that is damaged. One that cannot be replayed for want of memory, space or permission holds good puts."""
_NEWER = re.compile(r"we can only read versions?")


class Gate:
    """Many users at a time, or one alone: readers share, replacing the file excludes them."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._users = 0
        self._alone: int | None = None

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        me = threading.get_ident()
        with self._condition:
            self._condition.wait_for(lambda: self._alone in (None, me))
            self._users += 1
        try:
            yield
        finally:
            with self._condition:
                self._users -= 1
                self._condition.notify_all()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Not for a thread that is inside `shared`."""
        with self._condition:
            self._condition.wait_for(lambda: self._alone is None)
            self._alone = threading.get_ident()
            self._condition.wait_for(lambda: self._users == 0)
        try:
            yield
        finally:
            with self._condition:
                self._alone = None
                self._condition.notify_all()


class Cursor:
    """A DuckDB cursor that parses each query once; parsing is a third of the time of a small query.

    The optimizer is on for `execute` and off for `insert`, where it finds nothing and takes a tenth of a put.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._statements: dict[str, duckdb.Statement] = {}
        self._optimizing = True

    def execute(self, query: str, values: Sequence[Any] | None = None) -> duckdb.DuckDBPyConnection:
        """Run a query; one without values may hold several statements."""
        if not self._optimizing and query not in _TRANSACTION:
            self._connection.execute("PRAGMA enable_optimizer")
            self._optimizing = True
        if values is None:
            return self._connection.execute(query)
        return self._run(query, values)

    def insert(self, table: str, *values: Any) -> None:
        """Insert one row; with VALUES instead of SELECT a blob of 0.5 MB takes a quarter longer (measured)."""
        if self._optimizing:
            self._connection.execute("PRAGMA disable_optimizer")
            self._optimizing = False
        self._run(f"INSERT INTO {table} SELECT {', '.join('?' * len(values))}", values)

    def _run(self, query: str, values: Sequence[Any]) -> duckdb.DuckDBPyConnection:
        statement = self._statements.get(query)
        if statement is None:
            if len(self._statements) >= MAX_STATEMENTS:
                self._statements.clear()
            (statement,) = self._connection.extract_statements(query)
            self._statements[query] = statement
        return self._connection.execute(statement, values)

    def close(self) -> None:
        self._statements.clear()
        self._connection.close()


class Database:
    """One DuckDB file (or memory, for path None), one connection, a cursor for each thread that asks.

    A connection shared by threads returns rows of other threads' queries, so every thread has its own cursor.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.gate = Gate()
        self._lock = threading.Lock()
        self._local = threading.local()
        self._cursors: dict[threading.Thread, Cursor] = {}
        self._generation = 0
        self._rooms = 0
        self._limit = LARGE_MEMORY_LIMIT
        """What DuckDB keeps to; empty when that is not known."""
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._store_lock = None if path is None else StoreLock(path)
        try:
            self._connect()
        except BaseException:
            self._unlock()
            raise

    def _connect(self) -> None:
        _remove_spilled(self.path)
        self._connection = _connect(self.path)
        self._limit = LARGE_MEMORY_LIMIT
        self.settle_limit()

    def _set_limit(self, limit: str) -> None:
        """Have DuckDB keep to a limit; a store in memory cannot give any back."""
        if self._connection is None or self.path is None:
            return
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(f"SET memory_limit = '{limit}'")
            self._limit = limit
        except duckdb.Error:  # it cannot give as much back just now
            self._limit = ""

    def settle_limit(self) -> None:
        """Have DuckDB keep to the limit of this moment, where it does not yet."""
        with self._lock:
            limit = LARGE_MEMORY_LIMIT if self._rooms else MEMORY_LIMIT
            if self._limit != limit:
                self._set_limit(limit)

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        """Let DuckDB use more memory for what is done inside: a large blob has to fit into it twice."""
        with self._lock:
            self._rooms += 1
        self.settle_limit()
        try:
            yield
        finally:
            with self._lock:
                self._rooms -= 1
            self.settle_limit()

    def _unlock(self) -> None:
        if self._store_lock is not None:
            self._store_lock.release()

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def cursor(self) -> Cursor:
        """This thread's cursor; use it inside `gate.shared()` and fetch results at once."""
        with self._lock:
            if self._connection is None:
                raise StoreError("The embedding store is closed.")
            if getattr(self._local, "generation", None) != self._generation:
                for thread in [t for t in self._cursors if not t.is_alive()]:
                    self._cursors.pop(thread).close()
                self._local.cursor = Cursor(self._connection.cursor())
                self._local.generation = self._generation
                self._cursors[threading.current_thread()] = self._local.cursor
            return self._local.cursor  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close every cursor and the file; DuckDB writes its log into the file when the last one closes."""
        try:
            self.disconnect()
        finally:
            self._unlock()

    def disconnect(self) -> None:
        """As `close`, to open it again soon: the file stays this store's."""
        with self._lock:
            for cursor in self._cursors.values():
                with contextlib.suppress(duckdb.Error):
                    cursor.close()
            self._set_limit(LARGE_MEMORY_LIMIT)
            if self._connection is not None:
                with contextlib.suppress(duckdb.Error):
                    self._connection.close()
            self._cursors, self._connection = {}, None
            self._generation += 1

    def abandon(self) -> None:
        """In a forked process: leave the file to the process that opened it.

        DuckDB would write the log into the file when the last reference to a connection goes. So none ever does: an
        array is not known to Python's garbage collector, and this one holds itself.
        """
        kept = np.empty(3, object)
        kept[:] = kept, self._connection, self._cursors
        self._cursors, self._connection, self._local = {}, None, threading.local()
        self.gate, self._lock = Gate(), threading.Lock()  # the fork may have come while they were held
        if self._store_lock is not None:
            self._store_lock.abandon()

    def begin_anew(self) -> None:
        """Set the damaged file aside and open an empty one in its place."""
        self.disconnect()
        if self.path is not None:
            _set_aside_with_log(self.path)
        self._connect()

    def reopen(self) -> None:
        """Open again, after DuckDB has declared the connection invalid or the file was replaced."""
        self.disconnect()
        self._connect()


def first_row(cursor: Cursor, query: str, values: Sequence[Any] | None = None) -> tuple[Any, ...] | None:
    """The first row of a query, or None. Fetches all: a result left half read keeps DuckDB from checkpoints."""
    rows = cursor.execute(query, values).fetchall()
    return rows[0] if rows else None


@contextlib.contextmanager
def transaction(cursor: Cursor) -> Iterator[None]:
    """Commit at the end, roll back on an exception."""
    cursor.execute("BEGIN", ())
    try:
        yield
        cursor.execute("COMMIT", ())
    except BaseException:
        with contextlib.suppress(duckdb.Error):
            cursor.execute("ROLLBACK")
        raise


def _connect(path: Path | None) -> duckdb.DuckDBPyConnection:
    """Connect; a damaged write-ahead log or file is renamed, never deleted, and a new one begun.

    Only under the store's lock: a file that another process is just creating looks damaged.

    Raises:
        LockedError: a DuckDB client of another kind holds the file.
        StoreError: it cannot be opened for another reason; it is left as it is.
    """
    if path is not None and not _looks_like_duckdb(path):
        _set_aside_with_log(path)
    for _ in range(3):
        try:
            return _plain_connect(path)
        except duckdb.Error as error:
            message = str(error)
            if path is None:
                raise StoreError(f"DuckDB cannot start: {_first_line(message)}") from error
            _raise_if_locked(path, message, error)
            unquoted = _without_paths(message).replace(str(path), "")
            if _CORRUPT_WAL.search(unquoted) and set_aside(path.with_name(path.name + ".wal")):
                continue
            if (is_damage(unquoted) or _NOT_A_DATABASE.search(unquoted)) and _set_aside_with_log(path):
                continue
            if _NEWER.search(unquoted):
                raise StoreError(
                    f"The embedding store {path} was written by another version of DuckDB than {duckdb.__version__}, "
                    "most likely a newer one: update the package duckdb."
                ) from error
            raise StoreError(f"The embedding store {path} cannot be opened: {_first_line(message)}") from error
    raise StoreError(f"The embedding store {path} cannot be opened, nor a new one in its place.")


def _plain_connect(path: Path | None) -> duckdb.DuckDBPyConnection:
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": LARGE_MEMORY_LIMIT,
        "threads": "1",  # every query is small: a second thread costs more in waiting than it works
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_community_extensions": "false",
        "wal_autocheckpoint": CHECKPOINT_THRESHOLD,
    }
    if path is None:
        config["temp_directory"] = ""
    return duckdb.connect(":memory:" if path is None else str(path), config=config)


def _remove_spilled(path: Path | None) -> None:
    """Delete what DuckDB has moved out of memory in a process that was killed. Only under the store's lock."""
    if path is None:
        return
    folder = path.with_name(path.name + ".tmp")
    with contextlib.suppress(OSError):
        for file in folder.glob("duckdb_temp_*"):
            file.unlink()
        folder.rmdir()


def _raise_if_locked(path: Path, message: str, error: Exception) -> None:
    found = _LOCK.search(message)
    if found:
        holder = f"process {found[1]}" if found[1] else "another process"
        raise LockedError(f"The embedding store {path} is in use by {holder}.") from error


def _looks_like_duckdb(path: Path) -> bool:
    """False for a file of another program, for which DuckDB would look for an extension."""
    try:
        with path.open("rb") as file:
            return file.read(12)[8:] == b"DUCK"
    except FileNotFoundError:
        return True
    except OSError:  # on some systems a locked file cannot be read; opening it says why
        return True


def is_damage(message: str) -> bool:
    """True for a message of DuckDB about damaged bytes; a path in it may read as it likes."""
    return _DAMAGE.search(_without_paths(message)) is not None


def _without_paths(message: str) -> str:
    return re.sub(r'"[^"\n]*"', '""', message)


def _set_aside_with_log(path: Path) -> bool:
    set_aside(path.with_name(path.name + ".wal"))
    return set_aside(path)


def free_path(path: Path, label: str) -> Path:
    """A name beside a file's own that is not taken yet, with a label and the time."""
    free = path.with_name(f"{path.name}.{label}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    while free.exists():
        free = free.with_name(free.name + "x")
    return free


def set_aside(path: Path) -> bool:
    """Rename a damaged file so that its bytes stay available; False when there is none."""
    if not path.exists():
        return False
    aside = free_path(path, "damaged")
    path.rename(aside)
    log.error("Embedding store: %s is damaged and was set aside as %s.", path, aside.name)
    return True


def _first_line(message: str) -> str:
    return message.strip().splitlines()[0] if message.strip() else "unknown error"

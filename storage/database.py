"""The DuckDB file of a store: opening it, one writer, many readers, and what its errors mean."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import numpy as np

from .duckdb_errors import SALVAGE, explained, has_given_up
from .errors import DamagedError, LockedError, StoreError, UnsupportedError
from .files import acknowledge, acknowledged, make_file, private_folder
from .readers import Readers
from .schema import column, copy_rows, schema
from .text import plain

log = logging.getLogger("wanvideo_activation_editor")
T = TypeVar("T")

FORMAT = "2"
OPTIONS = {
    "memory_limit": "256MB",
    "threads": "1",
    "wal_autocheckpoint": "64MB",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
ATTACH = "(ROW_GROUP_SIZE 2048)"
"""With parts of 4 KB, 8 MB that a checkpoint rewrites at most. Not kept in the file."""

_INTERRUPTED = re.compile(r"due to the following Python exception:\s+KeyboardInterrupt")
open_stores: dict[str, int] = {}
"""Files that are open, with the process that opened them; a forked process has its parent's."""
_connections: weakref.WeakSet[Database] = weakref.WeakSet()


class Database:
    """An open file. Methods may be called from any thread.

    Raises:
        LockedError: another process has it, whose number is in the message, or this one.
        UnsupportedError: it was written by another version.
        DamagedError, StoreError: it cannot be opened for another reason; the file is left as it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.broken = False
        """DuckDB has given the connection up; the file can be opened again."""
        self.last_id = 0
        self._process, self._open = os.getpid(), False
        self._writing = threading.RLock()
        self._readers = Readers()
        self._idle: list[Any] = []
        try:
            str(self.path).encode()
        except UnicodeEncodeError:
            raise StoreError(f"The path of the embedding store is not UTF-8: {plain(self.path)}.") from None
        holder = open_stores.get(str(self.path))
        if holder is not None:
            whose = "open in this process already" if holder == self._process else _forked(holder)
            raise LockedError(f"The embedding store {plain(self.path)} is {whose}.")
        with self.errors():
            self._connect()
        open_stores[str(self.path)] = self._process
        self._open = True
        _connections.add(self)

    @property
    def is_open(self) -> bool:
        """False once it is closed, and in a process that was forked since."""
        return self._open and os.getpid() == self._process

    def close(self) -> None:
        """Close the file. Does nothing again, or in a process that was forked since."""
        if not self.is_open:
            return
        with self._writing, self._readers.none():
            self._disconnect()
            self._open = False
            del open_stores[str(self.path)]

    def beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def read(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        with self.snapshot() as db:
            rows: list[tuple[Any, ...]] = db.execute(query, values).fetchall()
            return rows

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Any]:
        """A connection of one's own, on which all queries see one moment. Not inside another one."""
        self._check_process()
        with self._readers.one(), self.errors():
            db = self._cursor()
            try:
                db.execute("BEGIN")
                yield db
                db.execute("COMMIT")
            except BaseException:
                _abandon(db)
                raise
            self._idle.append(db)

    def write(self, job: Callable[[Any], T]) -> T:
        """Run a job in one transaction, while nobody else writes; what it wrote is durable when this returns.

        On any exception, an interrupt included, nothing of it is kept.
        """
        self._check_process()
        with self._writing, self.errors():
            self._check_file()
            self._make_log()
            db = self._cursor()
            try:
                db.execute("BEGIN")
                result = job(db)
                self.last_id += 1  # of this change, so that a log that was cut can be told
                db.execute("UPDATE meta SET value = ? WHERE key = 'last_id'", [str(self.last_id)])
                db.execute("COMMIT")
            except BaseException:
                _abandon(db)
                raise
            self._idle.append(db)
            acknowledge(self.path, self._store, self.last_id)
            return result

    def next_ids(self, count: int) -> list[int]:
        """Numbers that no row has had, inside a job."""
        self.last_id += count
        return list(range(self.last_id - count + 1, self.last_id + 1))

    def checkpoint(self) -> None:
        """Bring the log into the file, which frees the space of what was removed."""
        self._check_process()
        with self._writing, self.errors():
            db = self._cursor()
            with contextlib.closing(db), contextlib.suppress(duckdb.TransactionException):  # somebody reads: later
                db.execute("CHECKPOINT store")

    def compact(self, progress: Callable[[int, int], None] | None = None) -> tuple[int, int]:
        """Write the file anew without free space; its size before and after.

        Readers wait. Needs as much free space as the new file takes. The old file stays until the new one is whole.

        Args:
            progress: called with tensors copied and tensors in all; what it raises leaves the store as it was.
        """
        self._check_process()
        with self._writing, self._readers.none(), self.errors():
            self._check_file()
            with private_folder(self.path, ".compact") as folder:
                copy = folder / "copy"
                with contextlib.closing(self._cursor()) as db:
                    db.execute("CHECKPOINT store")
                    before = self.path.stat().st_size
                    db.execute(f"ATTACH {_quoted(copy)} AS copy {ATTACH}")
                    try:
                        copy_rows(db, progress)
                        db.execute("CHECKPOINT copy")
                    finally:
                        with contextlib.suppress(duckdb.Error):  # what an interrupt has left open, in DuckDB 1.5
                            db.rollback()
                        db.execute("DETACH copy")
                copy.chmod(0o600)
                self.broken = True  # until it is open again
                self._disconnect()
                os.replace(copy, self.path)
            self._connect()
            self.broken = False
            return before, self.path.stat().st_size

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """DuckDB's errors as the store's, which say what to do."""
        try:
            yield
        except duckdb.Error as error:
            if _INTERRUPTED.search(str(error)):  # while DuckDB 1.5 imported a module
                raise KeyboardInterrupt from error
            self.broken |= has_given_up(error)
            raise explained(error, self.path) from error
        except RuntimeError as error:
            if str(error) == "Query interrupted":
                raise KeyboardInterrupt from error
            raise
        except OSError as error:
            raise StoreError(f"The embedding store {plain(self.path)}: {plain(error)}") from error

    def _connect(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.path.exists():
            make_file(self.path)
        connection = duckdb.connect(":memory:", config={**OPTIONS, "temp_directory": str(self.beside(".tmp"))})
        try:
            connection.execute(f"ATTACH {_quoted(self.path)} AS store {ATTACH}")
            # Views of a file that somebody else made must not read this machine's files.
            connection.execute(f"SET allowed_directories = [{_quoted(self.path.parent)}]")
            connection.execute("SET enable_external_access = false")
            connection.execute("USE store")
            self._make_log()
            self._check_format(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        shutil.rmtree(self.beside(".tmp"), ignore_errors=True)  # of a process that was killed
        with contextlib.suppress(OSError):
            self.path.chmod(0o600)
            self.beside(".tmp").mkdir(mode=0o700)
        self._identity = self._file_identity()
        self._compare_acknowledged()

    def _check_format(self, connection: Any) -> None:
        tables = column(connection, "SELECT table_name FROM duckdb_tables()")
        if not tables:
            connection.execute(f"BEGIN; {schema()}; COMMIT; CHECKPOINT")  # so that no log takes the tables with it
        elif "meta" not in tables:
            raise UnsupportedError(f"{plain(self.path)} is a DuckDB file, but no embedding store. Choose another path.")
        found = dict(connection.execute("SELECT key, value FROM meta").fetchall())
        self._store = found.get("store", "")
        if found.get("format", FORMAT) != FORMAT:
            raise UnsupportedError(
                f"The embedding store {plain(self.path)} was written by another version of the pack (format "
                f"{plain(found['format'], 20)}; this one reads {FORMAT}). Use that version, or choose another path."
            )
        if "format" not in found or not found.get("last_id", "").isdecimal():
            raise DamagedError(f"{plain(self.path)} has lost its format or the number of its last change. {SALVAGE}")
        self.last_id = int(found["last_id"])

    def _disconnect(self) -> None:
        for db in self._idle:
            db.close()
        self._idle.clear()
        with contextlib.suppress(duckdb.Error):  # a cursor that an interrupt has cut off may hold the file otherwise
            self._connection.execute("USE memory; DETACH store")
        self._connection.close()
        shutil.rmtree(self.beside(".tmp"), ignore_errors=True)

    def _cursor(self) -> Any:
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        db = self._connection.cursor()
        db.execute("USE store")
        return db

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise StoreError(f"The embedding store is {_forked(self._process)}.")
        if not self._open:
            raise StoreError(f"The embedding store {plain(self.path)} is closed.")

    def _file_identity(self) -> tuple[int, int]:
        found = os.stat(self.path)
        return found.st_dev, found.st_ino

    def _check_file(self) -> None:
        """Raises StoreError when the file under the path is no longer the one that is open."""
        with contextlib.suppress(FileNotFoundError):
            if self._file_identity() == self._identity:
                return
        self.broken = True
        raise StoreError(
            f"The embedding store {plain(self.path)} was deleted or replaced while it was open. Nothing was stored; "
            "the file that is there now is opened at the next use."
        )

    def _make_log(self) -> None:
        """DuckDB would make one that all can read, and takes an empty one."""
        with contextlib.suppress(OSError):
            self.beside(".wal").touch(mode=0o600)

    def _compare_acknowledged(self) -> None:
        store, last = acknowledged(self.path)
        if store == self._store and last > self.last_id:
            log.warning(
                "Embedding store %s: the last changes are missing (numbers %d to %d). Its log was cut or damaged, or "
                "an older copy was put in its place.", plain(self.path), self.last_id + 1, last,
            )  # fmt: skip
            acknowledge(self.path, self._store, self.last_id)


def _abandon(db: Any) -> None:
    """End a transaction that failed or was interrupted; closing alone leaves it open in DuckDB 1.5."""
    with contextlib.suppress(duckdb.Error, RuntimeError):
        db.rollback()
    db.close()


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _forked(holder: int) -> str:
    return f"open in process {holder}, from which this one was forked. Use it there, or start this process with spawn"


def _keep_connections() -> None:
    """In a forked process: DuckDB would write the parent's log into the file when the last reference goes."""
    for database in _connections:
        kept = np.empty(2, object)  # holds itself, and Python's garbage collector does not know arrays
        kept[:] = kept, database._connection


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_connections)

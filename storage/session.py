"""An open file, what is known of it in memory, and transactions on it."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import TypeVar

import duckdb

from . import entries, schema
from .database import Cursor, Database, is_damage, set_aside, transaction
from .entries import Index
from .errors import DamagedError, StoreError
from .journal import Journal
from .pending import Pending, Waiting, from_record, is_whole, store_of, to_record
from .segments import Segments
from .writer import Writer

log = logging.getLogger("wanvideo_activation_editor")
T = TypeVar("T")

JOURNAL_BYTES = 8 << 20
"""Size from which the journal is brought into the database while puts go on; in a pause it always is."""

LARGE = 8 << 20
"""Bytes of a put from which it goes into the database at once: its own transaction is not what takes the time."""

_REFUSALS = (
    duckdb.DataError,
    duckdb.IntegrityError,
    duckdb.NotSupportedError,
    duckdb.InvalidInputException,
    duckdb.InvalidTypeException,
    TypeError,
    ValueError,
)
"""How DuckDB says that it cannot take a value; what has to do with the disk or the file is of other classes."""

_COMMITTED = "COMMIT succeeded"
"""What DuckDB says when only the checkpoint after a commit has failed."""


class _AttemptedError(Exception):
    """Rolls back what worked."""


def _is_refusal(error: Exception) -> bool:
    reason = error.__cause__ if isinstance(error, StoreError) else error
    return isinstance(reason, _REFUSALS) and not isinstance(error, DamagedError)


class Session:
    """What the modules of this package work on. `EmbeddingStore` adds what users call.

    Args:
        path: the DuckDB file, or None for memory.
        due, housekeeping: see Writer.
    """

    def __init__(self, path: Path | None, due: Callable[[], bool], housekeeping: Callable[[], None]) -> None:
        self.path = None if path is None else path.resolve()
        self.database = Database(self.path)
        self.index = Index()
        """What readers see: the database's index, and on top of it what waits in the journal."""
        self._database_index = self.index
        self._journal = None if self.path is None else Journal(self.path)
        self._pending = Pending()
        self._journal_is_damaged = False
        """Part of the journal cannot be read: its file is set aside as soon as the rest of it is in the database."""
        self._folding_fails = False
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
            self._recover_journal()
        except BaseException:
            self.database.close()
            raise
        _watch_forks()
        _open_sessions.add(self)

    def abandon(self) -> None:
        """In a forked process: this store is closed, and its file left to the process that opened it."""
        self.abandoned = True
        self._writer.abandon()
        self._pending = Pending()
        if self._journal is not None:
            self._journal.close(remove=False)
        self.database.abandon()

    @property
    def persistent(self) -> bool:
        return self.path is not None

    def read(self, query: Callable[[Cursor], T]) -> T:
        """Run a query on this thread's cursor, after all puts; it must fetch its rows.

        Raises:
            DamagedError: DuckDB found a block of the file damaged.
            StoreError: any other failure.
        """
        if self._pending.puts:
            self._writer.run(self._fold)
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
        """Run `job` while nobody else writes and nothing waits in the journal; it may use `transact` more than once."""

        def settled() -> T:
            self._fold()
            return job()

        return self._writer.run(settled)

    def alone(self, job: Callable[[], T]) -> T:
        """Run `job` while nobody else uses the file; it may close and replace it."""

        def excluded() -> T:
            self._reconnect()
            self._fold()
            with self.database.gate.exclusive():
                return job()

        return self._writer.run(excluded)

    def flush(self) -> None:
        """Wait until all that was handed over is in the database."""
        self._writer.flush()
        if self._pending.puts:
            self._writer.run(self._fold)

    def reload(self) -> None:
        """Read indexes again after the file was replaced or rows were removed. In a job."""
        with self.database.gate.shared():
            self._load()

    def _load(self) -> None:
        cursor = self.database.cursor()
        with _store_errors():
            schema.prepare(cursor)
            self._identity = schema.identity(cursor)
            self.generation += 1
            self._database_index = Index.load(cursor, earlier=self.index)
            self.index = self._pending.over(self._database_index)
            self.segments.load(cursor)

    def transact(self, job: Callable[[Cursor], T]) -> T:
        """A transaction, in a job of the writer. What is known in memory is read again when it fails."""
        self._fold()
        return self._transact(job)

    def _transact(self, job: Callable[[Cursor], T]) -> T:
        self._reconnect()
        try:
            return self._attempt(job)
        except StoreError as error:
            if not isinstance(error.__cause__, duckdb.OutOfMemoryException):
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
        self._fold()
        return self._change(job)

    def _change(self, job: Callable[[Cursor, Index], T]) -> T:
        def drafted(cursor: Cursor) -> tuple[T, Index]:
            draft = self._database_index.draft()
            return job(cursor, draft), draft

        result, draft = self._transact(drafted)
        self._database_index.adopt(draft)
        return result

    # the journal; all of this in a job of the writer

    def _append(self, items: Sequence[Waiting]) -> bool:
        """Make new embeddings durable and visible; False where that is for a transaction to do: without a file, for
        what is large, known already or to be written anew because it is damaged.

        Raises:
            StoreError: the journal cannot be written; nothing was changed.
        """
        hashes = {item.prepared.embedding_hash for item in items}
        size = sum(len(e.blob) for item in items for e in item.prepared.encoded)
        known = len(hashes) < len(items) or any(key in self.index.id_of for key in hashes)
        if self._journal is None or known or self.damaged or size > LARGE:
            return False
        if self._journal.size > 2 * JOURNAL_BYTES:  # the background thread has not come to it
            self._fold()
        try:
            if self._journal.is_lost:  # deleted while it was open
                self._fold()
                self._journal.leave()
            self._journal.append(*to_record(items, self._identity))
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            reason = "The disk is full, nothing was stored" if full else "The embedding store failed"
            raise StoreError(f"{reason}: {error}") from error
        if not self._pending.puts:
            self.index = self._database_index.draft()
        self._pending.add(items, self.index)
        return True

    @property
    def _journal_is_full(self) -> bool:
        return self._journal is not None and bool(self._pending.puts) and self._journal.size >= JOURNAL_BYTES

    def _fold(self) -> None:
        """Bring what waits in the journal into the database, in one transaction.

        A put that DuckDB refuses for what is in it is set aside, so that it does not keep the others waiting.

        Raises:
            StoreError: the database cannot be written, for example because the disk is full; all of it waits on.
        """
        pending, journal = self._pending, self._journal
        if not pending.puts or journal is None:
            return
        try:
            try:
                self._insert_pending(pending.puts, journal.sequence)
            except Exception as error:
                if not _is_refusal(error):
                    raise
                kept, refused = self._sorted_out(pending.puts)
                self._set_puts_aside(journal.path, refused)
                self._insert_pending(kept, journal.sequence)
        except Exception as error:
            raise StoreError(
                f"{len(pending.puts)} puts wait in the embedding store's journal and cannot be brought into its file: "
                f"{error}"
            ) from error
        self.index = self._database_index
        self._pending = Pending()
        if self._journal_is_damaged:
            self._set_journal_aside(journal)
        else:
            journal.rewind()

    def _insert_pending(self, puts: Sequence[Sequence[Waiting]], sequence: int) -> None:
        rewrite = frozenset(self.damaged)

        def insert_all(cursor: Cursor, index: Index) -> None:
            for put in puts:
                self._insert(cursor, index, put, rewrite)
            schema.set_folded(cursor, sequence)

        self._change(insert_all)
        self.damaged.difference_update(e.content_hash for put in puts for item in put for e in item.prepared.encoded)

    def _insert(self, cursor: Cursor, index: Index, put: Sequence[Waiting], rewrite: frozenset[str]) -> None:
        for item in put:
            entries.insert(
                cursor,
                index,
                self.segments,
                item.prepared,
                item.description,
                rewrite,
                given_id=item.embedding_id,
                created=item.created,
            )

    def _sorted_out(self, puts: Sequence[Sequence[Waiting]]) -> tuple[list[Sequence[Waiting]], list[Sequence[Waiting]]]:
        """Puts that DuckDB takes by themselves, and those that it refuses for what is in them; nothing is written."""
        kept: list[Sequence[Waiting]] = []
        refused: list[Sequence[Waiting]] = []
        for put in puts:

            def attempt(cursor: Cursor, index: Index, put: Sequence[Waiting] = put) -> None:
                self._insert(cursor, index, put, frozenset())
                raise _AttemptedError

            try:
                self._change(attempt)
            except _AttemptedError:
                kept.append(put)
            except Exception as error:
                if not _is_refusal(error):
                    raise
                refused.append(put)
        return kept, refused

    def _set_puts_aside(self, path: Path, puts: Sequence[Sequence[Waiting]]) -> None:
        """Keep what the database refuses in a journal of their own, beside that at `path`. In its place, any store
        that can take the puts takes them in.
        """
        if not puts:
            return
        aside = Journal(path)
        aside.path = path.with_name(f"{path.name}.refused-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
        try:
            for put in puts:
                aside.append(*to_record(put, store=""))
        except OSError as error:
            raise StoreError(f"Puts that the database refuses cannot be set aside: {error}") from error
        finally:
            aside.close(remove=False)
        for item in chain.from_iterable(puts):
            log.error(
                "Embedding store: the database refuses embedding %d (%s); it is kept in %s.",
                item.embedding_id,
                item.description.name or "without a name",
                aside.path.name,
            )

    def _fold_quietly(self) -> bool:
        """Fold; False when that fails, which is said once, since the journal keeps what waits."""
        try:
            self._fold()
        except StoreError as error:
            if not self._folding_fails:
                log.warning("%s", error, exc_info=not isinstance(error.__cause__, StoreError))
            self._folding_fails = True
        else:
            self._folding_fails = False
        return not self._folding_fails

    def _recover_journal(self) -> None:
        """Take in what an earlier process has left in the journal."""
        if self._journal is None:
            return

        def is_foreign(head: bytes) -> bool:
            return store_of(head) not in (None, self._identity)

        try:
            records, self._journal_is_damaged = self._journal.read(self._read(schema.folded), is_foreign, is_whole)
        except OSError as error:
            raise StoreError(f"The embedding store's journal cannot be read: {error}") from error
        puts = [from_record(record) for record in records]
        highest = max(self._database_index.id_of.values(), default=0)
        if puts and puts[0][0].embedding_id <= highest:  # of a file that this one was put in the place of
            numbers = count(self._database_index.next_embedding)
            puts = [[replace(item, embedding_id=next(numbers)) for item in put] for put in puts]
        if puts:
            self.index = self._database_index.draft()
            for put in puts:
                self._pending.add(put, self.index)
            self._fold_quietly()
        elif self._journal_is_damaged:
            self._set_journal_aside(self._journal)

    def _set_journal_aside(self, journal: Journal) -> None:
        journal.leave()
        set_aside(journal.path)
        self._journal_is_damaged = False

    def _close_journal(self) -> None:
        if self._journal is not None:
            self._journal.close(remove=not self._pending.puts)

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


def _as_store_error(error: duckdb.Error) -> StoreError:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    lowered = text.lower()
    if is_damage(str(error)):
        return DamagedError(f"A block of the embedding store is damaged: {text}")
    if "no space left" in lowered or "file too large" in lowered:
        return StoreError(f"The disk is full: {text}")
    return StoreError(f"The embedding store failed: {text}")

"""Puts that are durable before they are in the database: the journal of an open store, and bringing it in."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

import duckdb

from . import entries, schema
from .database import Cursor, free_path, set_aside
from .entries import Index
from .errors import DamagedError, StoreError
from .journal import Journal, journal_file
from .pending import Pending, Waiting, from_record, is_whole, store_of, to_record
from .session import Session

log = logging.getLogger("wanvideo_activation_editor")

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


class _AttemptedError(Exception):
    """Rolls back what worked."""


def _is_refusal(error: Exception) -> bool:
    reason = error.__cause__ if isinstance(error, StoreError) else error
    return isinstance(reason, _REFUSALS) and not isinstance(error, DamagedError)


class JournaledSession(Session):
    """A session in which small puts go into a journal first, and many of them into the database in one transaction.

    Arguments as Session. A store in memory has no journal.
    """

    def __init__(self, path: Path | None, due: Callable[[], bool], housekeeping: Callable[[], None]) -> None:
        self._journal = None if path is None else Journal(journal_file(path.resolve()))
        self._pending = Pending()
        self._journal_is_damaged = False
        """Part of the journal cannot be read: its file is set aside as soon as the rest of it is in the database."""
        self._settling_fails = False
        super().__init__(path, due, housekeeping)

    def abandon(self) -> None:
        super().abandon()
        self._pending = Pending()
        if self._journal is not None:
            self._journal.close(remove=False)

    def _over(self, index: Index) -> Index:
        return self._pending.over(index)

    @property
    def _is_settled(self) -> bool:
        return not self._pending.puts

    def _append(self, items: Sequence[Waiting]) -> bool:
        """Make new embeddings durable and visible; False where that is for a transaction to do: without a file, for
        what is large, known already or to be written anew because it is damaged.

        Raises:
            StoreError: the journal cannot be written; nothing was changed.
        """
        hashes = {item.prepared.embedding_hash for item in items}
        size = sum(item.prepared.stored_bytes for item in items)
        known = len(hashes) < len(items) or any(key in self.index.id_of for key in hashes)
        if self._journal is None or known or self.damaged or size > LARGE:
            return False
        if self._journal.size > 2 * JOURNAL_BYTES:  # the background thread has not come to it
            self._settle()
        try:
            if self._journal.is_lost:  # deleted while it was open
                self._settle()
                self._journal.leave()
            self._journal.append(*to_record(items, self.identity))
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

    def _settle(self) -> None:
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
        elif journal.is_foreign:
            journal.leave(remove=True)  # its numbers do not tell that it is in the database
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
        """Puts that DuckDB takes, and those that it refuses for what is in them; nothing is written."""

        def attempt(cursor: Cursor, index: Index) -> None:
            for put in puts:
                self._insert(cursor, index, put, frozenset())
            raise _AttemptedError

        try:
            self._change(attempt)
        except _AttemptedError:
            return list(puts), []
        except Exception as error:
            if not _is_refusal(error):
                raise
        if len(puts) == 1:
            return [], list(puts)
        half = len(puts) // 2
        (kept, refused), (others, also_refused) = self._sorted_out(puts[:half]), self._sorted_out(puts[half:])
        return kept + others, refused + also_refused

    def _set_puts_aside(self, path: Path, puts: Sequence[Sequence[Waiting]]) -> None:
        """Keep what the database refuses in a journal of their own, beside that at `path`. In its place, any store
        that can take the puts takes them in.
        """
        if not puts:
            return
        aside = Journal(free_path(path, "refused"))
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

    def _settle_quietly(self) -> bool:
        """Settle; False when that fails, which is said once, since the journal keeps what waits."""
        try:
            self._settle()
        except StoreError as error:
            if not self._settling_fails:
                log.warning("%s", error, exc_info=not isinstance(error.__cause__, StoreError))
            self._settling_fails = True
        else:
            self._settling_fails = False
        return not self._settling_fails

    def _opened(self) -> None:
        """Take in what an earlier process has left in the journal."""
        if self._journal is None:
            return

        def is_foreign(head: bytes) -> bool:
            return store_of(head) not in (None, self.identity)

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
            self._settle_quietly()
        elif self._journal_is_damaged:
            self._set_journal_aside(self._journal)

    def _set_journal_aside(self, journal: Journal) -> None:
        journal.leave()
        set_aside(journal.path)
        self._journal_is_damaged = False

    def _close_journal(self) -> None:
        if self._journal is not None:
            self._journal.close(remove=not self._pending.puts)

"""The store: put embeddings, get them back, know what was done with them.

with EmbeddingStore.open(path) as store:
    store.put(embeds, Description(name="castle", prompt="a castle at dusk", tags=("gothic",)))
    again = store.get("castle").value
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import torch

from . import entries, operations
from .codec import Precision, available_device, decode
from .entries import Prepared
from .errors import DamagedError, LockedError, StoreError
from .identity import EmbeddingKey
from .journaled import LARGE, JournaledSession
from .names import write_names
from .operations import PreparedOperation
from .packing import size_of, unpack
from .pending import Waiting
from .records import Description, Entry, Operation, Part, Stored, now
from .snapshots import snapshot
from .usage import Usage, add_usage
from .vectors import VectorCache

log = logging.getLogger("wanvideo_activation_editor")

LOCK_RETRIES, LOCK_WAIT = 3, 0.1
NAMES_SECONDS, USAGE_SECONDS = 1.0, 5.0
MAX_KNOWN = 16384
NEIGHBOURS = 32
"""Entries that are read together: one query for 32 takes little longer than one for 1."""

MEMORY_ONLY_BYTES = 96 << 20
"""Size to which a store without a file is kept by dropping what was used longest ago."""


CAPTURE_BYTES = 4 << 30
"""Size to which hidden states without a name are kept, in the same way: they are a cache, and large."""


class EmbeddingStore(JournaledSession):
    """An open store. Methods may be called from any thread; only one thread writes.

    Args:
        path: the DuckDB file, created when missing. None keeps everything in memory, up to 96 MB.

    Raises:
        LockedError: another process holds the file.
        UnsupportedError: it was written by a newer version.
        StoreError: it cannot be opened for another reason.
    """

    def __init__(self, path: Path | str | None) -> None:
        self.vectors = VectorCache(self)
        self._usage = Usage()
        self.dropped_named = False
        """A store without a file has dropped an embedding that had a name, and said so."""
        self._checked_captures = -1
        self._known: dict[int, Entry] = {}
        self._known_lock = threading.Lock()
        self._written_names: frozenset[str] | None = None
        self._names_written_at = 0.0
        super().__init__(None if path is None else Path(path), self._housekeeping_due, self._keep_house)
        self._publish_names()
        atexit.register(self.close)

    @classmethod
    def open(cls, path: Path | str) -> EmbeddingStore:
        """Open a store; a lock is waited for 0.3 s, in case its holder is just closing."""
        for _ in range(LOCK_RETRIES - 1):
            with contextlib.suppress(LockedError):
                return cls(path)
            time.sleep(LOCK_WAIT)
        return cls(path)

    @classmethod
    def open_or_memory(cls, path: Path | str) -> EmbeddingStore:
        """Open a store, or one in memory that ends with the process when the file cannot be had; says so once."""
        try:
            return cls.open(path)
        except (StoreError, OSError) as error:
            log.warning("%s Embeddings are kept in memory only until ComfyUI is started again.", error)
            return cls(None)

    def close(self) -> None:
        """Write what is waiting and close the file. Does nothing again, or in a process forked in the meantime."""
        if self.abandoned:
            return
        try:
            if not self._writer.closing:
                self.flush_usage()
        except Exception as error:
            log.warning("Embedding store: access counts were not written: %s", error)
        finally:
            self._writer.close()
            atexit.unregister(self.close)
            with self.database.gate.exclusive():
                self._close_journal()
                self.database.close()

    def __enter__(self) -> EmbeddingStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # putting

    def put(self, value: Any, description: Description | None = None, precision: Precision = "half") -> int:
        """Store a tensor, or dicts and lists of tensors and plain values; durable when it returns.

        Returns:
            The embedding's id. The same value stored again has the same id and takes no space.

        Raises:
            UnsupportedError: a value that cannot be stored.
            StoreError: it could not be written, for example because the disk is full; nothing was changed.
        """
        return self.put_prepared([(entries.prepare(value, precision), description or Description())])[0]

    def put_prepared(self, items: Sequence[tuple[Prepared, Description]]) -> list[int]:
        """Store values that entries.prepare has encoded, all or none; their ids. Errors as `put`."""
        return self._writer.run(lambda: self._put(items))

    def put_later(
        self,
        value: Any,
        description: Description | None = None,
        precision: Precision = "half",
    ) -> Future[int]:
        """As `put`, but returns once the tensors are copied; encoding and writing happen on the writer's thread.

        Raises:
            QueueFullError: more than 64 MB are waiting already.
        """
        kept = snapshot(value)
        return self._writer.submit(lambda: self.put(kept, description, precision), size_of(kept))

    def record(self, operation: Operation, precision: Precision = "half") -> int:
        """Store an operation with its inputs and its result; its id. Errors as `put`."""
        ready = operations.prepare_operation(operation, precision)
        return self._writer.run(lambda: self._record(ready))

    # getting

    def get(self, name: str, restore_devices: bool = False) -> Stored:
        """The embedding of a name.

        Args:
            restore_devices: put each tensor on the kind of device that it came from, where this machine has one;
                otherwise all are on the CPU.

        Raises:
            KeyError: there is none.
            DamagedError: its bytes on disk are damaged.
        """
        self._writer.flush()
        return self.load(self.index.names[name], restore_devices)

    def find(self, key: EmbeddingKey, restore_devices: bool = False) -> Stored | None:
        """The embedding that was stored under this cache key, or None. Arguments and DamagedError as `get`."""
        self._writer.flush()
        embedding_id = self.index.keys.get(key.cache_key)
        try:
            return None if embedding_id is None else self.load(embedding_id, restore_devices)
        except KeyError:  # removed in the meantime
            return None

    def load(self, embedding_id: int, restore_devices: bool = False) -> Stored:
        """The embedding of an id. Arguments and errors as `get`."""
        entry = self.entry(embedding_id)
        try:
            tensors = [self._tensor(part) for part in entry.parts]
        except StoreError:
            if entry.embedding_hash in self.index.id_of:
                raise
            raise KeyError(embedding_id) from None  # removed in the meantime
        if restore_devices:
            tensors = [t.to(available_device(part.device)) for t, part in zip(tensors, entry.parts, strict=True)]
        self._usage.touch(embedding_id)
        return Stored(entry, unpack(entry.structure, tensors))

    def blob(self, content_hash: str) -> bytes:
        """The compressed bytes of a tensor. Raises DamagedError when they are missing or cannot be read."""
        try:
            return self._fetch(content_hash)
        except StoreError:  # a clean-up may have moved them just then: look again while nobody writes
            return self.run(lambda: self._fetch(content_hash))

    def entry(self, embedding_id: int) -> Entry:
        """What is known of an embedding. Raises KeyError when there is none of that id."""
        self._writer.flush()
        known = self._pending.entries.get(embedding_id) or self._known.get(embedding_id)
        if known is not None:
            return known
        generation, first = self.generation, embedding_id - embedding_id % NEIGHBOURS
        read = self._read(lambda cursor: entries.read_entries(cursor, first, first + NEIGHBOURS - 1))
        found = {entry.embedding_id: entry for entry in read}
        with self._known_lock:
            if generation == self.generation and len(self._known) < MAX_KNOWN:
                self._known.update(found)
        return found[embedding_id]

    def id_of(self, name: str) -> int | None:
        """Id of the embedding that has a name, or None."""
        self._writer.flush()
        return self.index.names.get(name)

    def names(self) -> list[str]:
        """All names, sorted."""
        self._writer.flush()
        return sorted(self.index.names)

    def id_of_value(self, value: Any) -> int | None:
        """Id under which this value is stored, at whatever precision, or None."""
        self._writer.flush()
        return next(filter(None, map(self.index.id_of.get, entries.hashes_of(value))), None)

    def flush_usage(self) -> None:
        """Write access counts that are still in memory."""
        reads = self._usage.take()
        if reads:
            self.write(lambda cursor: add_usage(cursor, reads))

    # inside

    def _load(self) -> None:
        super()._load()
        with self._known_lock:
            self._known.clear()

    def _put(self, items: Sequence[tuple[Prepared, Description]]) -> list[int]:
        first = self.index.next_embedding
        waiting = [Waiting(first + i, now(), prepared, told) for i, (prepared, told) in enumerate(items)]
        if self._append(waiting):
            for prepared, _ in items:
                self.vectors.add(prepared)
            return [item.embedding_id for item in waiting]
        rewrite = frozenset(self.damaged)
        with self._room_for([prepared for prepared, _ in items]):
            ids = self.change(
                lambda cursor, index: [entries.insert(cursor, index, self.segments, *item, rewrite) for item in items]
            )
        for prepared, _ in items:
            self._note_contents(prepared)
        with self._known_lock:
            for embedding_id in ids:
                self._known.pop(embedding_id, None)
        return ids

    def _record(self, ready: PreparedOperation) -> int:
        rewrite = frozenset(self.damaged)
        with self._room_for(ready.values):
            result = self.change(
                lambda cursor, index: operations.insert_operation(cursor, index, self.segments, ready, rewrite)
            )
        for prepared in ready.values:
            self._note_contents(prepared)
        with self._known_lock:
            self._known.clear()
        return result

    def _room_for(self, values: Sequence[Prepared]) -> contextlib.AbstractContextManager[None]:
        large = sum(prepared.stored_bytes for prepared in values) > LARGE
        return self.database.room() if large else contextlib.nullcontext()

    def _note_contents(self, prepared: Prepared) -> None:
        self.damaged.difference_update(e.content_hash for e in prepared.encoded)
        self.vectors.add(prepared)

    def _tensor(self, part: Part) -> torch.Tensor:
        try:
            return decode(self.blob(part.content_hash), part.dtype, part.shape)
        except DamagedError:
            if part.content_hash in self.index.segment_of:
                self.damaged.add(part.content_hash)
            raise

    def _fetch(self, content_hash: str) -> bytes:
        waiting = self._pending.blobs.get(content_hash)
        if waiting is not None:
            return waiting
        segment = self.index.segment_of.get(content_hash)
        if segment is None:
            raise DamagedError(f"The blob {content_hash[:12]} is missing from the store.")
        return self._read(lambda cursor: self.segments.fetch(cursor, segment, content_hash))

    def _housekeeping_due(self) -> bool:
        stale = self.persistent and time.monotonic() - self._names_written_at > NAMES_SECONDS
        return self.segments.filled or self._journal_is_full or not self.persistent or (stale and self._names_changed())

    def _keep_house(self) -> None:
        """What nobody waits for: the journal, a full segment's checkpoint, names beside the file, access counts."""
        if not self._settle_quietly():
            self._publish_names()
            return
        self.database.settle_limit()
        if self.segments.filled:
            self.segments.filled = False
            database, failed = self.database, duckdb.TransactionException
            with database.gate.shared(), database.room(), contextlib.suppress(failed):
                database.cursor().execute("CHECKPOINT")
        if not self.persistent:
            from .maintenance import evict_now

            evict_now(self, MEMORY_ONLY_BYTES)
        elif self._checked_captures != self.generation:
            from .maintenance import evict_captures_now

            evict_captures_now(self, CAPTURE_BYTES)
            self._checked_captures = self.generation
        self._publish_names()
        if self._usage.age > USAGE_SECONDS or self._writer.closing:
            self.flush_usage()

    def _names_changed(self) -> bool:
        return frozenset(self.index.names) != self._written_names

    def _publish_names(self) -> None:
        if self.path is not None and self._names_changed():
            self._written_names = frozenset(self.index.names)
            write_names(self.path, self._written_names)
        self._names_written_at = time.monotonic()

"""A file of puts that are durable but not in the database yet.

A transaction of DuckDB takes several times what it takes to write and sync the same bytes, so a put is acknowledged
once it is here; journaled.py then brings many into the database in one transaction. After that the file is written
from its start again. It is gone once the store is closed.

Each record begins at a multiple of 4096 bytes, so that a write that fails touches no other record:

    magic 4s "WAEJ" | version u32 | sequence u64 | length of head u64 | length of body u64
    crc32 of head u32 | crc32 of all this u32 | head | body

All little-endian. Sequence numbers go up by one; a record whose number does not follow is of an earlier round. The
body carries checksums of its own (codec.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import UnsupportedError

log = logging.getLogger("wanvideo_activation_editor")

MAGIC, VERSION = b"WAEJ", 1
ALIGNMENT = 4096
_HEADER = struct.Struct("<4sIQQQI")
_CRC = struct.Struct("<I")
_START = _HEADER.size + _CRC.size
_CUT_OFF = "Embedding store: the last put in %s was cut off, most likely when the process ended. It is left out."
_sync = getattr(os, "fdatasync", os.fsync)


@dataclass(frozen=True)
class Record:
    sequence: int
    head: bytes
    body: bytes


def journal_file(store: Path) -> Path:
    """Beside the store's file, which is resolved."""
    return store.with_name(store.name + ".journal")


class Journal:
    """The journal of an open store, for one thread at a time. The file is made by the first append.

    Args:
        path: of the journal; see journal_file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sequence = 0
        """Number of the last record."""
        self.is_foreign = False
        """The file that was read is of another store."""
        self._handle = -1
        self._end = 0

    @property
    def size(self) -> int:
        """Bytes of this round's records."""
        return self._end

    def read(
        self, after: int, is_foreign: Callable[[bytes], bool], is_whole: Callable[[Record], bool]
    ) -> tuple[list[Record], bool]:
        """The records that follow number `after`, and whether one of them is damaged, which is left out.

        A last record that is not whole was most likely never acknowledged and is no damage.

        Args:
            is_foreign: tells by the head of a record that it is of another store; then all of them are taken in.
            is_whole: False for a record whose body is damaged.

        Raises:
            UnsupportedError: the file was written by a newer version.
            OSError: it cannot be read.
        """
        self.sequence, self.is_foreign = after, False
        try:
            data = memoryview(self.path.read_bytes())
        except FileNotFoundError:
            return [], False
        self.is_foreign = _first_head(data, is_foreign)
        if self.is_foreign:
            after = 0
        records: list[Record] = []
        damaged, position, previous = False, 0, None
        while (place := _next_record(data, position, previous, after)) is not None:
            sequence, head_size, body_size, checksum = _header(data, place) or (0, 0, 0, 0)
            body_start = place + _START + head_size
            head, body = data[place + _START : body_start], data[body_start : body_start + body_size]
            following = _aligned(body_start + body_size)
            skipped = previous is not None and sequence != previous + 1
            if sequence > after:
                record = Record(sequence, bytes(head), bytes(body))
                whole = len(body) == body_size and zlib.crc32(head) == checksum and is_whole(record)
                if not whole and _next_record(data, following, sequence, after) is None:
                    log.warning(_CUT_OFF, self.path)
                    break
                damaged |= skipped or not whole or (previous is None and place > 0)
                records += [record] if whole else []
                self._end = following
            previous, position = sequence, following
        self.sequence = max(self.sequence, previous or 0)
        return records, damaged

    @property
    def is_lost(self) -> bool:
        """True when the open file has been deleted or renamed: what is appended to it would not be found."""
        try:
            return self._handle >= 0 and not os.path.samestat(os.fstat(self._handle), self.path.stat())
        except FileNotFoundError:
            return True

    def leave(self, remove: bool = False) -> None:
        """Close the file; a new one begins with the next record."""
        self.close(remove)
        self._end, self.is_foreign = 0, False

    def append(self, head: bytes, body: Sequence[bytes]) -> None:
        """Add a record; it is on disk when this returns. On an exception nothing was added, as far as the disk lets
        itself be told.

        Raises:
            OSError: it cannot be written, for example because the disk is full.
        """
        if self._handle < 0:
            self._open()
        header = _HEADER.pack(MAGIC, VERSION, self.sequence + 1, len(head), sum(map(len, body)), zlib.crc32(head))
        parts = [header, _CRC.pack(zlib.crc32(header)), head, *body]
        try:
            os.lseek(self._handle, self._end, os.SEEK_SET)
            for part in (b"".join(parts[:3]), *parts[3:]):
                _write(self._handle, part)
            _sync(self._handle)
        except BaseException:
            self._spoil()
            raise
        self.sequence += 1
        self._end = _aligned(self._end + sum(map(len, parts)))

    def rewind(self) -> None:
        """Begin a new round: every record is in the database."""
        self._end = 0

    def close(self, remove: bool) -> None:
        """Close the file, and delete it if nothing in it is needed."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)
        if remove:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _open(self) -> None:
        new = not self.path.exists()
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        self._handle = os.open(self.path, flags, 0o600)
        if new:
            sync_folder(self.path.parent)

    def _spoil(self) -> None:
        """Make sure that a record which was refused is not found after a crash."""
        with contextlib.suppress(OSError):
            os.lseek(self._handle, self._end, os.SEEK_SET)
            _write(self._handle, bytes(_START))
            _sync(self._handle)


def sync_folder(path: Path) -> None:
    """fsync a folder, where the system can: a new or replaced file in it then outlasts a loss of power."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _header(data: memoryview, position: int) -> tuple[int, int, int, int] | None:
    """Sequence, lengths of head and body, and the head's checksum; None where no record begins."""
    header = data[position : position + _HEADER.size]
    if len(data) < position + _START or header[:4] != MAGIC:
        return None
    if _CRC.unpack_from(data, position + _HEADER.size)[0] != zlib.crc32(header):
        return None
    _, version, sequence, head_size, body_size, checksum = _HEADER.unpack(header)
    if version != VERSION:
        raise UnsupportedError(
            f"The embedding store's journal has version {version}, this version of the pack reads {VERSION}. "
            "Update WanVideo Activation Editor."
        )
    return sequence, head_size, body_size, checksum


def _first_head(data: memoryview, check: Callable[[bytes], bool]) -> bool:
    """What `check` says of the first head that is whole; False when there is none."""
    for place in range(0, len(data), ALIGNMENT):
        _, size, _, checksum = _header(data, place) or (0, 0, 0, -1)
        head = data[place + _START : place + _START + size]
        if zlib.crc32(head) == checksum:
            return check(bytes(head))
    return False


def _next_record(data: memoryview, position: int, previous: int | None, after: int) -> int | None:
    """Where the record that follows `previous` begins: at `position`, or later where its header is damaged."""
    found = _header(data, position)
    if found is not None and (previous is None or found[0] == previous + 1):
        return position
    for place in range(position, len(data), ALIGNMENT):
        found = _header(data, place)
        if found is not None and found[0] > max(after, previous or 0):
            return place
    return None


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]

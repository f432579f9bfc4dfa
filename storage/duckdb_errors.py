"""What DuckDB's errors mean for a person, and what to do about them."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb

from .errors import DamagedError, LockedError, StoreError, UnsupportedError
from .locks import has_no_locks
from .text import plain

SALVAGE = "`wan-activation store salvage FILE NEW` copies what is intact to a new store."
_PID = re.compile(r"Could not set lock on file.*?(?:PID (\d+)|$)", re.S)
_NO_LOCKS = re.compile(r"No locks available|not supported|not implemented|Operation not permitted", re.I)
_NEWER = re.compile(r"version number|newer (version|storage)|database file with version")
_DAMAGED = re.compile(r"checksum|corrupt|not a valid|could not read|deserializ|failed to load|cut off", re.I)


def has_given_up(error: duckdb.Error) -> bool:
    """Whether the connection works no longer, though the file may be opened again."""
    return isinstance(error, duckdb.FatalException) or "has been invalidated" in str(error)


def explained(error: duckdb.Error, path: Path) -> StoreError:
    """The store's error for one of DuckDB's about the file at `path`."""
    text = str(error)
    store = f"The embedding store {plain(path)}"
    first = plain(text.strip().splitlines()[0] if text.strip() else type(error).__name__, 300)
    if locked := _PID.search(text):
        nobody = locked[1] == "0"  # or one in another container, whose number is not seen
        if (locked[1] is None and _NO_LOCKS.search(text)) or (nobody and has_no_locks(path.parent)):
            return StoreError(
                f"The folder of {plain(path)} has no file locks, as on some network drives. Set "
                "WAN_ACTIVATION_STORE to a file on a local disk."
            )
        known = locked[1] and not nobody
        return LockedError(f"{store} is in use by {f'process {locked[1]}' if known else 'another process'}.")
    if has_given_up(error):
        return StoreError(f"{store} failed and is opened again at its next use: {first}")
    if "Unique file handle" in text:
        return LockedError(f"{store} is open in this process already.")
    if "WAL" in text and not isinstance(error, duckdb.OutOfMemoryException):
        return DamagedError(
            f"The log of {plain(path)} is damaged. {SALVAGE} Or keep copies of the file and of its .wal, and move the "
            f".wal away to open the store without what the log holds. ({first})"
        )
    if _NEWER.search(text):
        return UnsupportedError(f"{store} was written by a newer DuckDB: pip install --upgrade duckdb. ({first})")
    size = path.stat().st_size if path.exists() else 0
    if "read" in text and (wanted := re.search(r"location (\d+)", text)) and size <= int(wanted[1]):
        return DamagedError(f"{store} is cut off: it ends at byte {size}, what is needed stands behind. {SALVAGE}")
    if _DAMAGED.search(text):
        return DamagedError(
            f"{store} is damaged: {first} {SALVAGE} If it can be opened, verify tells which embeddings are whole."
        )
    if "No space left" in text:
        return StoreError(f"{store}: the disk is full; nothing was changed.")
    return StoreError(f"{store} failed: {first}")

"""Who holds a store: an operating system's lock on a small file beside it, held while the store is open.

DuckDB's own lock ends when its connection is closed, which compaction does before it replaces the file. This one
stays. The system takes it off when the process ends, however it ends; the file itself is left in place.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from .errors import LockedError

_LOCKED_BYTE = 1 << 20
"""Beyond the text, so that on Windows, where locked bytes cannot be read, others can read the process id."""


_held: set[Path] = set()
"""Locks of this process; another one may have its process id, in a container or on another host."""


def lock_file(store: Path) -> Path:
    return store.with_name(store.name + ".lock")


class StoreLock:
    """The lock of one store, taken at once or not at all. It excludes other processes and this one.

    Args:
        store: the store's file, resolved.

    Raises:
        LockedError: it is held; the message names the process, and the host if it is another.
        OSError: the folder cannot be written, or its file system has no locks.
    """

    def __init__(self, store: Path) -> None:
        path = self._path = lock_file(store)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            _lock(self._handle)
            os.ftruncate(self._handle, 0)
            os.write(self._handle, f"{os.getpid()} {platform.node()}\n".encode())
        except (BlockingIOError, PermissionError) as error:
            os.close(self._handle)
            raise LockedError(f"The embedding store {store} is in use by {_holder(path)}.") from error
        except BaseException:
            os.close(self._handle)
            raise
        _held.add(path)

    def release(self) -> None:
        """Let others have the store. Calling it again does nothing."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            _held.discard(self._path)
            _unlock(handle)
            os.close(handle)

    def abandon(self) -> None:
        """In a forked process: give up its share of the handle; the lock stays that of the process that took it."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            _held.discard(self._path)
            os.close(handle)


def _holder(path: Path) -> str:
    if path in _held:
        return "this process already"
    try:
        process, _, host = path.read_text().strip().partition(" ")
        return f"process {int(process)}" + (f" on {host}" if host and host != platform.node() else "")
    except (OSError, ValueError):
        return "another process"


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)

    def _unlock(handle: int) -> None:
        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(handle: int) -> None:
        """Also for processes that were forked from this one, which share the handle."""
        fcntl.flock(handle, fcntl.LOCK_UN)

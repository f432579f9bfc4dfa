"""Locks of files, as DuckDB takes them."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, whose file systems have locks, and where a file that is open elsewhere is not read
    fcntl = None  # type: ignore[assignment]


def has_no_locks(folder: Path) -> bool:
    """Whether a file of our own, which nobody else can hold, cannot be locked there."""
    if fcntl is None:
        return False
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
    return False


def is_held(path: Path) -> bool:
    """Whether another process has locked a file to write it. Ends a lock that this process has on it.

    Raises:
        OSError: it cannot be read.
    """
    if fcntl is None:
        return False
    with path.open("rb") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EACCES, errno.EAGAIN)
    return False

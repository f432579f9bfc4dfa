"""The files of a store, which only their owner can read, and what is noted beside them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb


def make_file(path: Path) -> None:
    """An empty DuckDB file: DuckDB would make one that all can read, and takes no empty one."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder, "new")
        duckdb.connect(made).close()
        made.chmod(0o600)
        with contextlib.suppress(OSError):  # another process was faster, or a disk without links
            os.link(made, path)


@contextlib.contextmanager
def private_folder(path: Path, suffix: str) -> Iterator[Path]:
    """An empty folder beside a file that only its owner can enter: DuckDB makes files that all can read."""
    folder = path.with_name(re.sub(r"[*?\[]", "_", path.name) + suffix)  # DuckDB takes these for patterns
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def acknowledge(path: Path, store: str, last: int) -> None:
    """Note the newest id of a store beside its file, so that opening can tell when the log was cut."""
    with contextlib.suppress(OSError):
        note = path.with_name(path.name + ".last")
        note.touch(mode=0o600)
        note.write_text(f"{store} {last}\n")


def acknowledged(path: Path) -> tuple[str, int]:
    """Which store, and its newest id, `acknowledge` has noted beside a file; none and 0 if it has not."""
    try:
        store, last = path.with_name(path.name + ".last").read_text(errors="replace").split()
        return store, int(last)
    except (OSError, ValueError):
        return "", 0

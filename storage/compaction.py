"""Giving space back to the disk: the live rows are copied to a new file that replaces the old one.

DuckDB's DELETE and VACUUM free nothing (measured); a copy does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from .database import Cursor, first_row
from .errors import StoreError
from .journal import sync_folder
from .views import create_views

if TYPE_CHECKING:
    from .store import EmbeddingStore


@dataclass(frozen=True)
class Compaction:
    """File sizes in bytes."""

    before: int
    after: int


def compact(store: EmbeddingStore) -> Compaction:
    """Rewrite the file with what is live. Readers wait; the old file stays in place until the new one is whole.

    Raises:
        StoreError: the store is in memory only, the disk has no room for the copy, or a row cannot be read
            (verify says which embedding is damaged). The store is unchanged then.
    """
    if store.path is None:
        raise StoreError("A store that is kept in memory cannot be compacted.")
    store.flush_usage()
    path = store.path
    with store.database.room():
        return store.alone(lambda: _replace(store, path))


def _replace(store: EmbeddingStore, path: Path) -> Compaction:
    copy = path.with_name(f"{path.name}.compact")
    _delete(copy)
    cursor = store.database.cursor()
    try:
        cursor.execute("CHECKPOINT")
        before = path.stat().st_size
        if shutil.disk_usage(path.parent).free < before:
            raise StoreError(f"Compacting needs {before >> 20} MB of free disk space beside {path}.")
        _copy(cursor, path, copy)
    except duckdb.Error as error:
        _delete(copy)
        raise StoreError(
            f"The store could not be copied and was left as it is: {str(error).splitlines()[0]} "
            "Verify it to see what is damaged."
        ) from error
    except BaseException:
        _delete(copy)
        raise
    store.database.disconnect()  # the store's lock stays, so nobody else opens the file that is replaced
    log = path.with_name(path.name + ".wal")
    try:
        if log.exists():
            raise StoreError(f"The log {log.name} could not be written into the store; compacting was given up.")
        with contextlib.suppress(OSError):
            shutil.copymode(path, copy)
        _sync(copy)
        os.replace(copy, path)
        sync_folder(path.parent)
    finally:
        _delete(copy)
        store.database.reopen()
        store.reload()
    return Compaction(before, path.stat().st_size)


def _copy(cursor: Cursor, path: Path, copy: Path) -> None:
    (source,) = first_row(cursor, "SELECT current_database()") or ("store",)
    target = "compacted" if source != "compacted" else "compacted_copy"
    name = str(copy).replace("'", "''")
    cursor.execute(f"ATTACH '{name}' AS {target}")
    try:
        cursor.execute(f"COPY FROM DATABASE {_quoted(source)} TO {target}")
        for (table,) in cursor.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = ? AND NOT temporary", [source]
        ).fetchall():
            counts = [
                first_row(cursor, f"SELECT count(*) FROM {_quoted(database)}.main.{_quoted(table)}")  # noqa: S608
                for database in (source, target)
            ]
            if counts[0] != counts[1]:
                raise StoreError(f"The copy of {table} has {counts[1]} rows instead of {counts[0]}.")
    finally:
        cursor.execute(f"DETACH {target}")
    check = duckdb.connect(str(copy))
    try:
        create_views(Cursor(check))
        check.execute("CHECKPOINT")
    finally:
        check.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _delete(path: Path) -> None:
    for file in (path, path.with_name(path.name + ".wal")):
        file.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """fsync a file."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())

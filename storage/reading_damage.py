"""Copying tables from a damaged file to a new store, in a process of its own, which salvage.py starts."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

import duckdb

from .database import ATTACH, OPTIONS
from .duckdb_errors import has_given_up
from .schema import column

NO_ROOM = 28
"""Exit status when the disk or the memory is full, which says nothing of the file."""
_NO_ROOM = re.compile("No space left|Out of Memory", re.IGNORECASE)
OF_TENSORS = ("contents", "content_parts")


def copy_missing(folder: Path, at_once: int, tried: Iterable[str]) -> None:
    """In a folder, copy what the store `new` has not from `damaged`: tables, then tensors `at_once`.

    Appends to the file `said` the name of each table, and the first content_id of some tensors, before it is tried;
    after it `done`, `part` or `failed`.

    Args:
        tried: names that are left out.
    """
    os.chdir(folder)
    Path("started").touch()
    with Path("said").open("a", encoding="utf-8", buffering=1) as said:  # a line at once, in case of a crash
        _copy(at_once, set(tried), said)


def _copy(at_once: int, tried: set[str], said: TextIO) -> None:
    db = duckdb.connect(":memory:", config=dict(OPTIONS))
    db.execute(f"ATTACH 'new' AS copy {ATTACH}; ATTACH 'damaged' AS store (READ_ONLY)")
    db.execute("SET enable_external_access = false")
    with contextlib.suppress(duckdb.Error, ValueError):
        for last in column(db, "SELECT value::BIGINT FROM store.meta WHERE key = 'last_id'"):
            Path("newest").write_text(str(last))
    copy_table = _copy_at_once if at_once > 1 else _copy_row_by_row
    for table in column(db, "SELECT table_name FROM duckdb_tables() WHERE database_name = 'copy'"):
        if table not in (*OF_TENSORS, "meta") and table not in tried:
            _attempt(said, table, functools.partial(copy_table, db, table))
    missing = "SELECT content_id FROM store.contents WHERE content_id NOT IN (SELECT content_id FROM copy.contents)"
    ids = column(db, f"{missing} ORDER BY content_id")
    for some in (ids[i : i + at_once] for i in range(0, len(ids), at_once)):
        if str(some[0]) not in tried:
            _attempt(said, some[0], functools.partial(_copy_tensors, db, some[0], some[-1]))


def _attempt(said: TextIO, unit: object, job: Callable[[], bool]) -> None:
    said.write(f"{unit}\n")
    try:
        result = "done" if job() else "part"
    except duckdb.Error as error:
        if _NO_ROOM.search(str(error)):
            raise SystemExit(NO_ROOM) from error
        if has_given_up(error):
            raise SystemExit(1) from error
        result = "failed"
    said.write(f"{result}\n")


def _copy_at_once(db: Any, table: str) -> bool:
    _insert(db, table, "true")
    return True


def _copy_row_by_row(db: Any, table: str) -> bool:
    """Leaves out rows that cannot be read, and those whose text is none. Whether that were all."""
    rows, copied = column(db, f"SELECT rowid FROM store.{table}"), 0  # noqa: S608
    for row in rows:
        with contextlib.suppress(duckdb.Error, ValueError):
            db.execute(f"SELECT * FROM store.{table} WHERE rowid = {row}").fetchall()  # noqa: S608
            _insert(db, table, f"rowid = {row}")
            copied += 1
    return copied == len(rows)


def _copy_tensors(db: Any, first: int, last: int) -> bool:
    db.execute("BEGIN")
    try:
        for table in OF_TENSORS:
            _insert(db, table, f"content_id BETWEEN {first} AND {last}")
        db.execute("COMMIT")
    except duckdb.Error:
        with contextlib.suppress(duckdb.Error):
            db.rollback()
        raise
    return True


def _insert(db: Any, table: str, condition: str) -> None:
    db.execute(f"INSERT INTO copy.{table} SELECT * FROM store.{table} WHERE {condition}")  # noqa: S608

"""The tables of a store, which schema.sql describes: making them, and copying their rows to another file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

COPIED_AT_ONCE = 256


def copy_rows(db: Any, progress: Callable[[int, int], None] | None) -> None:
    """Every row of `store` to the empty `copy`, the large ones bit by bit and in order, so that ranges stay close."""
    db.execute(f"USE copy; BEGIN; {schema()}; DELETE FROM meta; COMMIT; USE store")  # noqa: S608
    names = column(db, "SELECT table_name FROM duckdb_tables() WHERE database_name = 'store'")
    ids = column(db, "SELECT content_id FROM contents ORDER BY content_id")
    db.execute("BEGIN")
    for table in names:
        if table not in ("contents", "content_parts"):
            db.execute(f"INSERT INTO copy.{table} SELECT * FROM store.{table}")  # noqa: S608
    for i in range(0, len(ids), COPIED_AT_ONCE):
        some = ids[i : i + COPIED_AT_ONCE]
        for table in ("contents", "content_parts"):
            between = f"content_id BETWEEN {some[0]} AND {some[-1]}"
            db.execute(f"INSERT INTO copy.{table} SELECT * FROM store.{table} WHERE {between}")  # noqa: S608
        if progress:
            progress(i + len(some), len(ids))
    db.execute("COMMIT")


def column(db: Any, query: str) -> list[Any]:
    return [row[0] for row in db.execute(query).fetchall()]


def schema() -> str:
    return (Path(__file__).parent / "schema.sql").read_text(encoding="utf-8")

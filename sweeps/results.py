"""Results of cells as rows of an embedding store, and tables of them as Parquet and CSV."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..storage.entries import prepare
from ..storage.records import Description
from ..storage.store import EmbeddingStore
from .cells import Cell

FORMATS = {"parquet": "FORMAT parquet", "csv": "FORMAT csv, HEADER"}
_TYPES = {bool: "BOOLEAN", int: "BIGINT", float: "DOUBLE"}


class Results:
    """The cells of a store.

    Args:
        store: rows of other sweeps may be in it too; equal cells are shared.
    """

    def __init__(self, store: EmbeddingStore) -> None:
        self._store = store

    def done(self, cells: Iterable[Cell]) -> dict[str, dict[str, Any]]:
        """Results by id, of those cells that have one; an error is one."""
        wanted = {cell.id for cell in cells}
        found = self._store.database.read("SELECT cell, result FROM sweep_cells")
        return {cell: json.loads(result) for cell, result in found if cell in wanted}

    def add(
        self, cell: Cell, result: Mapping[str, Any], strip: bytes | None = None, latents: torch.Tensor | None = None
    ) -> None:
        """Write a cell's result, durable when this returns; one that is there already is replaced.

        Args:
            latents: kept with it, bit for bit.
        """
        kept = None if latents is None else self._store.put_all([(prepare(latents, exact=True), _latents(cell))])[0]

        def job(db: Any) -> None:
            db.execute("DELETE FROM sweep_cells WHERE cell = ?", [cell.id])
            values = [cell.id, cell.to_json(), json.dumps(dict(result)), strip, kept]
            db.execute("INSERT INTO sweep_cells VALUES (?, ?, ?, ?, ?)", values)

        self._store.write(job)

    def latents(self, cell: Cell) -> torch.Tensor | None:
        """The latents that were kept with a cell; None when there are none."""
        found = self._store.database.read("SELECT latents_id FROM sweep_cells WHERE cell = ?", [cell.id])
        if not found or found[0][0] is None:
            return None
        latents: torch.Tensor = self._store.load(found[0][0]).value
        return latents

    def strips(self, cells: Iterable[str]) -> dict[str, bytes]:
        """PNGs of the frames of cells that have pictures, by id."""
        query = "SELECT cell, strip FROM sweep_cells WHERE strip IS NOT NULL AND cell IN (SELECT unnest(?))"
        return {cell: bytes(strip) for cell, strip in self._store.database.read(query, [list(cells)])}


def _latents(cell: Cell) -> Description:
    return Description(prompt=cell.prompt, kind="other", form="LATENT", tags=("sweep",), note=f"cell {cell.id}")


def row(cell: Cell, result: Mapping[str, Any]) -> dict[str, Any]:
    """A cell and its result as one row of the table."""
    operation = dict(cell.operation)
    return {
        "cell": cell.id, "group": cell.group, "kind": cell.kind, "model": cell.model, "prompt": cell.prompt,
        "other": cell.other or cell.recipe, "blocks": cell.blocks, "strength": cell.strength,
        "window_start": cell.window[0], "window_end": cell.window[1], "operation": operation.pop("operation", ""),
        "site": operation.pop("site", ""), "seed": cell.seed, **result, "recipe": cell.to_json(),
    }  # fmt: skip


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as PATH.parquet and PATH.csv, over older ones.

    Raises:
        OSError, duckdb.Error: they cannot be written.
    """
    import duckdb

    names = list(dict.fromkeys(name for row in rows for name in row))
    with duckdb.connect(":memory:") as db:
        types = {n: {type(r[n]) for r in rows if r.get(n) is not None} for n in names}
        kinds = {n: _TYPES.get(next(iter(t)), "VARCHAR") if len(t) == 1 else "VARCHAR" for n, t in types.items()}
        columns = ", ".join(f"{_quoted(n)} {'DOUBLE' if types[n] == {int, float} else kinds[n]}" for n in names)
        db.execute(f"CREATE TABLE cells ({columns})")
        if rows:
            marks = ", ".join("?" * len(names))
            db.executemany(f"INSERT INTO cells VALUES ({marks})", [[r.get(n) for n in names] for r in rows])  # noqa: S608
        for suffix, options in FORMATS.items():
            target, part = path.with_suffix(f".{suffix}"), path.with_suffix(f".{suffix}.part")
            quoted = str(part).replace("'", "''")
            db.execute(f"COPY cells TO '{quoted}' ({options})")
            part.replace(target)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

"""Copying what is intact in a damaged store to a new one. The damaged file is only read.

blocks.py mends a copy of it. The copy is read in a process of its own, since damaged structures can crash DuckDB: first
without the blocks that could not be mended, then with them. What arrives in the new file is checked there: each tensor
by its hash, each embedding by the hash of its whole value.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import blocks, maintenance
from .codec import decode
from .database import open_stores
from .entries import hash_of_parts
from .errors import DamagedError, LockedError, StoreError
from .files import acknowledged
from .locks import is_held
from .reading_damage import NO_ROOM, OF_TENSORS, copy_missing
from .search import pooled
from .store import EmbeddingStore
from .text import plain, shown

CRASHES = 20
"""Of the process that reads, before it is not started again. Each leaves out a table or a tensor."""


@dataclass(frozen=True)
class Salvaged:
    """What a new store holds.

    Args:
        recovered: number of embeddings.
        lost: labels of those that are damaged.
        unchecked: tables that were read from damaged blocks. Hashes check values, nothing checks names, prompts, tags
            and notes.
        missing: what was not read, or not all of it.
    """

    recovered: int
    lost: Sequence[str]
    unchecked: Sequence[str]
    missing: Sequence[str]


def salvage(path: Path, out: Path) -> Salvaged:
    """Write a new store `out` with the embeddings of `path` that are intact. Needs twice the space of `path` there.

    It starts processes of its own: in a script, call it under `if __name__ == "__main__"`.

    Raises:
        StoreError: `out` exists or cannot be written.
        LockedError: the store is open, here or in another process.
        DamagedError: nothing could be read.
    """
    for taken in (out, *(out.with_name(out.name + ending) for ending in (".wal", ".last"))):
        if taken.exists() or taken.is_symlink():
            raise StoreError(f"{plain(taken)} exists already. Choose another name.")
    if str(path.expanduser().resolve()) in open_stores:  # to read it would end its lock
        raise LockedError(f"The embedding store {plain(path)} is open in this process already.")
    try:
        if is_held(path):
            raise LockedError(f"The embedding store {plain(path)} is in use by another process.")
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f"{out.name}.") as folder:
            result = _salvage(path, Path(folder))
            left = Path(folder, "new.wal")
            if left.exists() and left.stat().st_size:
                raise StoreError(f"{plain(out)} could not be written: the disk is full.")
            os.replace(Path(folder, "new"), out)
            return result
    except OSError as error:
        raise StoreError(f"{plain(path)} could not be copied to {plain(out)}: {plain(error)}") from error


def _salvage(path: Path, folder: Path) -> Salvaged:
    damaged, log, original_log = folder / "damaged", folder / "damaged.wal", path.with_name(path.name + ".wal")
    EmbeddingStore(folder / "new").close()
    shutil.copyfile(path, damaged)
    in_file, in_log, cut = blocks.mend_file(damaged), blocks.Doubtful(), False
    if original_log.exists():
        shutil.copyfile(original_log, log)
        in_log = blocks.mend_log(log)
        cut = bool(in_log) or log.stat().st_size < original_log.stat().st_size
    sure = _copy(folder, 256)
    found = sure
    if in_file or in_log:
        blocks.overwrite(damaged, in_file)
        if in_log:
            blocks.overwrite(log, in_log)
        found = _copy(folder, 1, sure) | sure
    if log.exists() and "embeddings" not in found:  # as it was before the damaged entry
        cut = True
        os.truncate(log, min(in_log, default=8) - 8)
        found = _copy(folder, 1, sure) | sure
    if "embeddings" not in found:
        raise DamagedError(f"Nothing of {plain(path)} can be salvaged: the list of embeddings cannot be read.")
    with EmbeddingStore(folder / "new") as store:
        names = "SELECT table_name FROM duckdb_tables() WHERE database_name = 'store'"
        tables = {name for (name,) in store.database.read(names)} - {*OF_TENSORS, "meta"}
        highest = (
            "SELECT max(id) FROM (SELECT greatest(embedding_id, content_id) AS id FROM embedding_parts UNION ALL "
            "SELECT greatest(operation_id, result_id) FROM vector_operations UNION ALL "
            "SELECT greatest(operation_id, embedding_id) FROM operation_inputs UNION ALL "
            "SELECT operation_id FROM operation_parameters UNION ALL SELECT latents_id FROM sweep_cells UNION ALL "
            "SELECT greatest(embedding_id, other_id, as_of) FROM embedding_similarities)"
        )
        store.write(lambda db: store.database.next_ids(store.database.read(highest)[0][0] or 0))
        unsure = found.keys() - sure.keys()
        lost = _without_damage(store, [int(unit) for unit in unsure - tables])
        ((recovered,),) = store.database.read("SELECT count(*) FROM embeddings")
    missing = sorted(table for table in tables if found.get(table) != "done")
    newest = folder / "newest"
    if not cut and newest.exists() and acknowledged(path)[1] > int(newest.read_text()):
        missing.append("the last changes, which the log has lost")
    return Salvaged(recovered, lost, sorted(unsure & tables), missing + ["changes in the damaged log"] * cut)


def _copy(folder: Path, at_once: int, known: Iterable[str] = ()) -> dict[str, str]:
    """What reading_damage.copy_missing copied, `done` or in `part`; it is started again where it crashes."""
    said: dict[str, str] = {}
    told = folder / "said"
    for _ in range(CRASHES):
        told.write_text("")
        process = multiprocessing.get_context("spawn").Process(
            target=copy_missing, args=(folder, at_once, [*known, *said]), daemon=True
        )
        process.start()
        process.join()
        words = told.read_text(encoding="utf-8").split()
        if process.exitcode == NO_ROOM:
            raise StoreError(f"The disk of {plain(folder.parent)} or the memory is full; nothing was written.")
        if process.exitcode and not words and not (folder / "started").exists():
            raise StoreError('The reading process did not start. Call salvage under `if __name__ == "__main__"`.')
        said |= itertools.zip_longest(words[::2], words[1::2], fillvalue="failed")
        if not process.exitcode or not words:
            break
    return {unit: result for unit, result in said.items() if result != "failed"}


def _without_damage(store: EmbeddingStore, unsure: Sequence[int]) -> list[str]:
    """Remove what is damaged; the labels of it. Search vectors of `unsure` tensors are computed anew."""
    maintenance.verify(store)
    rows = store.database.read(
        "SELECT e.embedding_id, e.hash, main_id, structure, role, c.hash, p.dtype, p.shape, p.content_id "
        "FROM embeddings e LEFT JOIN embedding_parts p USING (embedding_id) LEFT JOIN contents c USING (content_id) "
        "ORDER BY e.embedding_id, position"
    )
    lost = []
    for (embedding_id, hash, main, structure), parts in itertools.groupby(rows, lambda row: row[:4]):
        described = [row[4:] for row in parts]
        used = {content_id for *_, content_id in described}
        if hash_of_parts(structure, [d[:4] for d in described]) != hash or main not in used or used & store.damaged:
            lost.append(embedding_id)
    labels = [shown(found.label) for found in store.listings(ids=lost)]
    orphans = "SELECT DISTINCT embedding_id FROM embedding_parts ANTI JOIN embeddings USING (embedding_id)"
    lost += [i for (i,) in store.database.read(orphans)]
    store.write(lambda db: maintenance.erase(db, lost))
    for content_id in unsure:
        store.write(functools.partial(_describe_anew, content_id))
    return labels


def _describe_anew(content_id: int, db: Any) -> None:
    """Compute what no hash checks of a tensor: its length and its search vector."""
    about = "SELECT stored, row_count, column_count FROM contents WHERE content_id = ? AND vector IS NOT NULL"
    for stored, rows, columns in db.execute(about, [content_id]).fetchall():
        parts = "SELECT part, data FROM content_parts WHERE content_id = ?"
        data = b"".join(some for _, some in sorted(db.execute(parts, [content_id]).fetchall()))
        vector = pooled(decode(data, stored, (rows, columns), stored, rows, columns))
        values = [len(data), None if vector is None else vector.astype("<f2").tobytes(), content_id]
        db.execute("UPDATE contents SET bytes = ?, vector = ? WHERE content_id = ?", values)

"""Sharing embeddings and results as Parquet, which DuckDB, pandas, Polars, Spark and others read.

`export_parquet` writes one row for each token row: which embedding and tensor it belongs to, its number, and its
values as float32. What is the same for all rows of a tensor (name, prompt, dtype, shape, ...) is repeated, which
Parquet stores once. float64 and integers do not fit float32 exactly and are refused: use safetensors for them.

`export_operations` writes what was done: one row for each operation and input, as in the view `lineage`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import torch

from .codec import converted, dtype_name, torch_dtype
from .database import Cursor
from .errors import StoreError, UnsupportedError
from .exchange import (
    MAX_EMBEDDINGS,
    MAX_FILE_BYTES,
    MAX_TENSOR_BYTES,
    Imported,
    check_finite,
    check_packable,
    describe,
    description_from,
    store_all,
)
from .packing import pack, unpack
from .records import Description, Listing

if TYPE_CHECKING:
    from .store import EmbeddingStore

EXACT = ("float32", "float16", "bfloat16")
MEMORY_LIMIT = "512MB"
_COLUMNS = {
    "embedding": "INTEGER",
    "description": "VARCHAR",
    "name": "VARCHAR",
    "prompt": "VARCHAR",
    "structure": "VARCHAR",
    "tensor": "INTEGER",
    "role": "VARCHAR",
    "dtype": "VARCHAR",
    "shape": "BIGINT[]",
    "token": "INTEGER",
    "values": "FLOAT[]",
}


def export_parquet(store: EmbeddingStore, embeddings: Sequence[Listing], path: Path) -> Path:
    """Write embeddings to one file; exact for float32, float16 and bfloat16.

    Raises:
        UnsupportedError: a tensor of another dtype.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = _connection()
    try:
        columns = ", ".join(f'"{name}" {kind}' for name, kind in _COLUMNS.items())
        connection.execute(f"CREATE TABLE rows({columns})")
        for number, listing in enumerate(embeddings):
            stored = store.load(listing.embedding_id)
            described = json.dumps(describe(listing, stored.entry.negative_prompt))
            packed = pack(stored.value)
            for i, (role, tensor) in enumerate(zip(packed.roles, packed.tensors, strict=True)):
                fixed = [number, described, listing.name, listing.prompt, packed.structure, i, role]
                _insert_rows(connection, fixed, tensor)
        _copy(Cursor(connection), "SELECT * FROM rows ORDER BY embedding, tensor, token", path)
    finally:
        connection.close()
    return path


def _insert_rows(connection: duckdb.DuckDBPyConnection, fixed: list[Any], tensor: torch.Tensor) -> None:
    name = dtype_name(tensor.dtype)
    if name not in EXACT:
        raise UnsupportedError(f"Parquet export keeps {', '.join(EXACT)} exactly, not {name}. Export as safetensors.")
    width = tensor.shape[-1] if tensor.dim() else 1
    flat = converted(tensor.contiguous(), torch.float32).reshape(-1).numpy()
    fixed = [*fixed, name, list(tensor.shape)]
    marks = ", ".join("?" * len(fixed))
    if not flat.size:
        connection.execute(f"INSERT INTO rows VALUES ({marks}, 0, [])", fixed)  # noqa: S608
        return
    connection.register("flat", {"v": flat, "i": np.arange(flat.size, dtype=np.int64)})
    connection.execute(
        f"INSERT INTO rows SELECT {marks}, (i // {width})::INTEGER AS token, list(v ORDER BY i) "  # noqa: S608
        "FROM flat GROUP BY token",
        fixed,
    )
    connection.unregister("flat")


def export_operations(store: EmbeddingStore, path: Path) -> Path:
    """Write the view `lineage` to a file."""
    store.flush()
    path.parent.mkdir(parents=True, exist_ok=True)
    store.read(lambda cursor: _copy(cursor, "SELECT * FROM lineage ORDER BY operation_id, position", path))
    return path


def import_parquet(store: EmbeddingStore, path: Path, replace: bool = False) -> Imported:
    """Store the embeddings of a file that `export_parquet` wrote. Names as in exchange.import_safetensors.

    The file is read by a DuckDB of its own that may open nothing else.

    Raises:
        UnsupportedError: not such a file, or beyond the limits, or not finite.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UnsupportedError(f"{path.name} is larger than {MAX_FILE_BYTES >> 30} GB.")
    connection = _connection()
    try:
        connection.execute("SET allowed_paths = ?", [[str(path)]])
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        return store_all(store, _read(connection, path), replace)
    except duckdb.Error as error:
        raise UnsupportedError(f"{path.name} cannot be read: {str(error).splitlines()[0]}") from error
    finally:
        connection.close()


def _read(connection: duckdb.DuckDBPyConnection, path: Path) -> list[tuple[Any, Description]]:
    described = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
    if {row[0]: row[1] for row in described} != _COLUMNS:
        raise UnsupportedError(f"{path.name} has other columns than an export of embeddings.")
    sizes = connection.execute(
        "SELECT embedding, tensor, sum(len(values)), count(DISTINCT len(values)), count(*), min(token), max(token), "
        "count(DISTINCT (description, structure, role, dtype, shape)) FROM read_parquet(?) GROUP BY ALL ORDER BY ALL",
        [str(path)],
    ).fetchall()
    if not sizes or len(sizes) > 64 * MAX_EMBEDDINGS:
        raise UnsupportedError(f"{path.name} holds {len(sizes)} tensors.")
    for _, _, values, widths, count, first, last, descriptions in sizes:
        if values * 4 > MAX_TENSOR_BYTES or widths != 1 or descriptions != 1 or (first, last) != (0, count - 1):
            raise UnsupportedError(f"{path.name}: a tensor is incomplete or too large.")
    found: list[tuple[Any, Description]] = []
    for number in sorted({row[0] for row in sizes}):
        found.append(_embedding(connection, path, number))
    return found


def _embedding(connection: duckdb.DuckDBPyConnection, path: Path, number: int) -> tuple[Any, Description]:
    heads = connection.execute(
        "SELECT tensor, any_value(dtype), any_value(shape), any_value(structure), any_value(description) "
        "FROM read_parquet(?) WHERE embedding = ? GROUP BY tensor ORDER BY tensor",
        [str(path), number],
    ).fetchall()
    if [row[0] for row in heads] != list(range(len(heads))):
        raise UnsupportedError(f"{path.name}: an embedding lacks a tensor.")
    tensors = []
    for tensor, dtype, shape, _, _ in heads:
        flat = connection.execute(
            'SELECT unnest("values") AS v FROM (SELECT "values" FROM read_parquet(?) '
            "WHERE embedding = ? AND tensor = ? ORDER BY token)",
            [str(path), number, tensor],
        ).fetchnumpy()["v"]
        values = torch.from_numpy(np.array(flat, np.float32))
        if dtype not in EXACT or any(n < 0 for n in shape) or values.numel() != int(np.prod(shape, dtype=object)):
            raise UnsupportedError(f"{path.name}: a tensor of {dtype} {shape} has {values.numel()} values.")
        check_finite(values, f"{path.name}: a tensor")
        tensors.append(converted(values, torch_dtype(dtype)).reshape(shape))
    try:
        plain = json.loads(heads[0][4])
        value = unpack(heads[0][3], tensors)
        check_packable(value, path)
    except (StoreError, ValueError, TypeError) as error:
        raise UnsupportedError(f"{path.name}: an embedding is not described: {error}") from error
    return value, description_from(plain if isinstance(plain, dict) else {})


def _connection() -> duckdb.DuckDBPyConnection:
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY_LIMIT,
        "threads": "2",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_community_extensions": "false",
    }
    return duckdb.connect(":memory:", config=config)


def _copy(cursor: Cursor, query: str, path: Path) -> None:
    name = str(path).replace("'", "''")
    cursor.execute(f"COPY ({query}) TO '{name}' (FORMAT parquet, COMPRESSION zstd)")

"""Sharing embeddings and results as Parquet, which DuckDB, pandas, Polars, Spark and others read.

`export_parquet` writes one row for each token row: which embedding and tensor it belongs to, its number, and its
values as float32. What is the same for all rows of a tensor (name, prompt, dtype, shape, ...) is repeated, which
Parquet stores once. float64 and integers do not fit float32 exactly and are refused: use safetensors for them.

`export_operations` writes what was done: one row for each operation and input, as in the view `lineage`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import torch

from .codec import MAX_TENSOR_BYTES, converted, dtype_name, torch_dtype
from .database import Cursor
from .errors import UnsupportedError
from .exchange import (
    MAX_DIMENSIONS,
    MAX_EMBEDDINGS,
    MAX_METADATA,
    MAX_TOTAL_BYTES,
    MIN_COST,
    Budget,
    Imported,
    check_finite,
    describe,
    description_from,
    encoded,
    readable,
    rebuilt,
    store_all,
    warn_if_not_finite,
    whole_file,
)
from .packing import pack
from .records import Description, Listing

if TYPE_CHECKING:
    from .store import EmbeddingStore

EXACT = ("float32", "float16", "bfloat16")
EXPORT_BYTES = 128 << 20
"""For one file; as float32 in memory this becomes up to twice as much."""

MEMORY_LIMIT = "1GB"
ROW_GROUP = 2048
"""Rows that are written and read together: 32 MB of values that are 4096 wide."""

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
    """Write embeddings, such as one of `batches` of EXPORT_BYTES, to one file; exact for float32, float16 and bfloat16.

    Raises:
        UnsupportedError: a tensor of another dtype.
        StoreError: the file could not be written, for example because the disk is full.
    """
    with whole_file(path) as part, contextlib.closing(_connection()) as connection:
        columns = ", ".join(f'"{name}" {kind}' for name, kind in _COLUMNS.items())
        connection.execute(f"CREATE TABLE rows({columns})")
        for number, listing in enumerate(embeddings):
            stored = store.load(listing.embedding_id)
            described = json.dumps(describe(listing, stored.entry.negative_prompt))
            packed = pack(stored.value)
            warn_if_not_finite(listing, packed.tensors)
            for i, (role, tensor) in enumerate(zip(packed.roles, packed.tensors, strict=True)):
                fixed = [number, described, listing.name, listing.prompt, packed.structure, i, role]
                _insert_rows(connection, fixed, tensor)
        _copy(Cursor(connection), "FROM rows", part)
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
        "FROM flat GROUP BY token ORDER BY token",
        fixed,
    )
    connection.unregister("flat")


def export_operations(store: EmbeddingStore, path: Path) -> Path:
    """Write the view `lineage` to a file."""
    store.flush()
    with whole_file(path) as part:
        store.read(lambda cursor: _copy(cursor, "SELECT * FROM lineage ORDER BY operation_id, position", part))
    return path


def import_parquet(store: EmbeddingStore, path: Path, replace: bool = False) -> Imported:
    """Store the embeddings of a file that `export_parquet` wrote. Names and errors as in exchange.import_safetensors.

    The file is read by a DuckDB of its own that may open nothing else.
    """
    name = re.sub(r"([*?\[])", r"[\1]", str(path))  # DuckDB takes a path for a pattern
    with readable(path), contextlib.closing(_connection()) as connection:
        connection.execute("SET allowed_paths = ?", [[str(path), name]])
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        found = encoded(_read(connection, name, Budget(path)))
    return store_all(store, found, replace)


def _read(connection: duckdb.DuckDBPyConnection, name: str, budget: Budget) -> Iterator[tuple[Any, Description]]:
    described = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [name]).fetchall()
    if {row[0]: row[1] for row in described} != _COLUMNS:
        raise UnsupportedError("it has other columns than an export of embeddings.")
    for least, values, size in connection.execute(
        "SELECT min(num_values), sum(num_values), sum(total_uncompressed_size) FROM parquet_metadata(?) "
        "GROUP BY path_in_schema",
        [name],
    ).fetchall():
        if least < 0 or values * 4 > MAX_TOTAL_BYTES or size > MAX_TOTAL_BYTES:
            raise UnsupportedError(f"it holds more than {MAX_TOTAL_BYTES >> 20} MB of values; split it.")
    sizes = connection.execute(
        'SELECT embedding, tensor, sum(len("values")), count(DISTINCT len("values")), count(*), '
        "min(token), max(token), count(DISTINCT token), count(DISTINCT (description, structure, role, dtype, shape)), "
        "max(len(description) + len(structure)) FROM read_parquet(?) GROUP BY ALL ORDER BY ALL LIMIT ?",
        [name, MAX_TOTAL_BYTES // MIN_COST + 1],
    ).fetchall()
    if not sizes:
        raise UnsupportedError("it holds no embeddings.")
    for _, _, values, widths, count, first, last, tokens, descriptions, text in sizes:
        if (widths, descriptions, first, last, tokens) != (1, 1, 0, count - 1, count):
            raise UnsupportedError("the rows of a tensor are incomplete or contradict each other.")
        if values * 2 > MAX_TENSOR_BYTES or text > MAX_METADATA:
            raise UnsupportedError("a tensor or its description is larger than an embedding has.")
        budget.take(values * 4)
    numbers = sorted({row[0] for row in sizes})
    if len(numbers) > MAX_EMBEDDINGS:
        raise UnsupportedError(f"it holds more than {MAX_EMBEDDINGS} embeddings.")
    for number in numbers:
        yield _embedding(connection, name, number)


def _embedding(connection: duckdb.DuckDBPyConnection, name: str, number: int) -> tuple[Any, Description]:
    heads = connection.execute(
        "SELECT tensor, any_value(dtype), any_value(shape), any_value(structure), any_value(description) "
        "FROM read_parquet(?) WHERE embedding = ? GROUP BY tensor ORDER BY tensor",
        [name, number],
    ).fetchall()
    if [row[0] for row in heads] != list(range(len(heads))):
        raise UnsupportedError("an embedding lacks a tensor.")
    tensors = []
    for tensor, dtype, shape, _, _ in heads:
        flat = connection.execute(
            'SELECT unnest("values") AS v FROM (SELECT "values" FROM read_parquet(?) '
            "WHERE embedding = ? AND tensor = ? ORDER BY token)",
            [name, number, tensor],
        ).fetchnumpy()["v"]
        if np.ma.is_masked(flat):
            raise UnsupportedError("a tensor holds NULL values.")
        values = torch.from_numpy(np.array(flat, np.float32))
        fits = 0 <= len(shape) <= MAX_DIMENSIONS and min(shape, default=0) >= 0 and values.numel() == prod(shape)
        if dtype not in EXACT or not fits:
            raise UnsupportedError(f"a tensor of {dtype} {shape} has {values.numel()} values.")
        tensors.append(converted(values, torch_dtype(dtype)).reshape(shape))
        check_finite(tensors[-1], "a tensor")
    plain = json.loads(heads[0][4])
    return rebuilt(heads[0][3], tensors), description_from(plain if isinstance(plain, dict) else {})


def _connection() -> duckdb.DuckDBPyConnection:
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY_LIMIT,
        "threads": "2",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_community_extensions": "false",
        "temp_directory": "",  # nothing is written but the file
    }
    return duckdb.connect(":memory:", config=config)


def _copy(cursor: Cursor, query: str, path: Path) -> None:
    name = str(path).replace("'", "''")
    cursor.execute(f"COPY ({query}) TO '{name}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP})")

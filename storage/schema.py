"""Tables, and how a store of an earlier version becomes one of this version.

Tables that hold blobs are made by segments.py. Rules that keep writes small (measured): blobs stand apart from
everything that changes; no foreign key, no index on a counter, no list column that is ever updated. Hashes, names
and cache keys are unique by the one writer's own index (entries.py): an index of DuckDB on each would take a tenth
of the time of a put.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from uuid import uuid4

from .database import Cursor, first_row, transaction
from .errors import UnsupportedError
from .records import now
from .views import create_views

VERSION = 3

VERSION_1 = """
CREATE TABLE meta(key VARCHAR PRIMARY KEY, value VARCHAR NOT NULL);

CREATE TABLE contents(                  -- one row for each distinct tensor
    content_hash VARCHAR NOT NULL,
    segment INTEGER NOT NULL,           -- its blob is in blobs_<segment>
    stored VARCHAR NOT NULL,            -- dtype in the blob
    row_count BIGINT NOT NULL,          -- rows kept, without padding
    column_count BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL,
    created TIMESTAMP NOT NULL);

CREATE TABLE embedding_entries(
    embedding_id BIGINT PRIMARY KEY,
    embedding_hash VARCHAR NOT NULL,    -- identity of the whole value
    structure VARCHAR NOT NULL,         -- JSON of the value, tensors as {"$tensor": i}
    parts STRUCT(role VARCHAR, content_hash VARCHAR, dtype VARCHAR, shape BIGINT[], device VARCHAR)[] NOT NULL,
    main_part INTEGER NOT NULL,         -- the part that searches compare, counted from 0
    prompt VARCHAR,
    negative_prompt VARCHAR,
    kind VARCHAR NOT NULL,              -- raw, projected, hidden, other
    form VARCHAR NOT NULL,              -- host type
    raw_bytes BIGINT NOT NULL,          -- size of the tensors as they were handed in
    created TIMESTAMP NOT NULL);

CREATE TABLE embedding_names(
    name VARCHAR NOT NULL, embedding_id BIGINT NOT NULL, note VARCHAR NOT NULL, created TIMESTAMP NOT NULL);
CREATE TABLE embedding_tags(embedding_id BIGINT NOT NULL, tag VARCHAR NOT NULL);
CREATE TABLE embedding_keys(            -- cache keys, with what they were made from as JSON
    cache_key VARCHAR NOT NULL, embedding_id BIGINT NOT NULL, identity VARCHAR NOT NULL,
    created TIMESTAMP NOT NULL);
CREATE TABLE embedding_usage(
    embedding_id BIGINT PRIMARY KEY, access_count BIGINT NOT NULL, last_access TIMESTAMP NOT NULL);

CREATE TABLE vector_operations(
    operation_id BIGINT PRIMARY KEY,
    operation_type VARCHAR NOT NULL,
    result_id BIGINT,                   -- embedding_id of the result
    duration_ms DOUBLE,
    peak_memory_bytes BIGINT,
    created TIMESTAMP NOT NULL);
CREATE TABLE operation_inputs(
    operation_id BIGINT NOT NULL, position INTEGER NOT NULL, role VARCHAR NOT NULL, embedding_id BIGINT,
    weight DOUBLE);
CREATE TABLE operation_parameters(operation_id BIGINT NOT NULL, name VARCHAR NOT NULL, value VARCHAR);
"""

VERSION_2 = """
CREATE TABLE embedding_analysis(        -- cached results of analyses, JSON
    embedding_id BIGINT NOT NULL, analysis_type VARCHAR NOT NULL, result VARCHAR NOT NULL,
    created TIMESTAMP NOT NULL);
CREATE TABLE embedding_similarities(    -- scores that were computed
    embedding_id BIGINT NOT NULL, other_id BIGINT NOT NULL, metric VARCHAR NOT NULL, score DOUBLE NOT NULL,
    created TIMESTAMP NOT NULL);
ALTER TABLE vector_operations ADD COLUMN device VARCHAR;   -- where it ran, such as cuda
ALTER TABLE vector_operations ADD COLUMN node VARCHAR;     -- node id that did it
"""

TABLES_OF_EMBEDDING = (
    "embedding_entries",
    "embedding_names",
    "embedding_tags",
    "embedding_keys",
    "embedding_usage",
    "embedding_analysis",
    "embedding_similarities",
)
"""Tables whose rows go with an embedding's removal."""

Migration = Callable[[Cursor], None]


def _to_version_2(cursor: Cursor) -> None:
    cursor.execute(VERSION_2)


def _to_version_3(cursor: Cursor) -> None:
    """Identity of the store (journal.py); blobs of format 2 among the others (codec.py)."""
    cursor.execute("INSERT INTO meta VALUES ('store', ?)", [uuid4().hex])


MIGRATIONS: Mapping[int, Migration] = {1: _to_version_2, 2: _to_version_3}
"""Version -> step that brings a store of that version to the next. A step only adds."""


def stored_version(cursor: Cursor) -> int | None:
    """Schema version of the open store; None for an empty one."""
    tables = first_row(cursor, "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'meta'")
    if not tables or not tables[0]:
        return None
    row = first_row(cursor, "SELECT value FROM meta WHERE key = 'schema_version'")
    return int(row[0]) if row else None


def prepare(cursor: Cursor) -> None:
    """Create the schema, or migrate it, in one transaction.

    Raises:
        UnsupportedError: the store was written by a newer version; nothing is changed.
    """
    version = stored_version(cursor)
    if version == VERSION:
        return
    if version is not None and version > VERSION:
        raise UnsupportedError(
            f"The embedding store has schema version {version}, this version of the pack reads up to {VERSION}. "
            "Update WanVideo Activation Editor."
        )
    with transaction(cursor):
        if version is None:
            cursor.execute(VERSION_1)
            cursor.execute("INSERT INTO meta VALUES ('created', ?)", [now().isoformat()])
            version = 1
        while version < VERSION:
            MIGRATIONS[version](cursor)
            version += 1
        create_views(cursor)
        cursor.execute("INSERT OR REPLACE INTO meta VALUES ('schema_version', ?)", [str(VERSION)])


def folded(cursor: Cursor) -> int:
    """Number of the journal's last record that is in the database."""
    row = first_row(cursor, "SELECT value FROM meta WHERE key = 'journal'")
    return int(row[0]) if row else 0


def identity(cursor: Cursor) -> str:
    """What tells this store from others; a copy of its file has the same."""
    row = first_row(cursor, "SELECT value FROM meta WHERE key = 'store'")
    return str(row[0]) if row else ""


def set_folded(cursor: Cursor, sequence: int) -> None:
    """Note that number, inside the transaction that brings the records in."""
    cursor.execute("INSERT OR REPLACE INTO meta VALUES ('journal', ?)", [str(sequence)])

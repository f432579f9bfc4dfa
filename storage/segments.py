"""Blobs in tables of bounded size.

DuckDB rewrites the whole blob column of a table's open row group at every checkpoint, so one large table costs
twenty times what is put into it (measured). Here a table takes at most 256 blobs or 32 MB and is then never
written again; the checkpoint is made at that moment, so each blob is written twice: to the log and to the file.
`USING COMPRESSION uncompressed` keeps DuckDB 2 from compressing zstd frames again, which makes reads 20 times
slower.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .database import Cursor, first_row
from .errors import DamagedError

MAX_BLOBS = 256
MAX_BYTES = 32 << 20


@dataclass(frozen=True)
class Blob:
    """A compressed tensor and, where it has one, its pooled vector (search.py)."""

    content_hash: str
    data: bytes
    pooled: bytes | None


def table(segment: int) -> str:
    return f"blobs_{segment:05d}"


class Segments:
    """The segment tables of an open store. Used by the writer only, but for `fetch` and `pooled`."""

    def __init__(self) -> None:
        self._current = -1
        self._blobs = 0
        self._bytes = 0
        self.filled = False

    def load(self, cursor: Cursor) -> None:
        """Take the state from the store: after opening and after a write that failed."""
        numbers = self.numbers(cursor)
        self._current = numbers[-1] if numbers else -1
        row = first_row(
            cursor, "SELECT count(*), coalesce(sum(stored_bytes), 0) FROM contents WHERE segment = ?", [self._current]
        )
        self._blobs, self._bytes = (int(row[0]), int(row[1])) if row else (0, 0)

    @staticmethod
    def numbers(cursor: Cursor) -> list[int]:
        rows = cursor.execute("SELECT table_name FROM duckdb_tables() WHERE table_name LIKE 'blobs\\_%' ESCAPE '\\'")
        return sorted(int(name.removeprefix("blobs_")) for (name,) in rows.fetchall())

    @property
    def current(self) -> int:
        """Number of the segment that takes the next blob, -1 when there is none yet."""
        return self._current

    def insert(self, cursor: Cursor, blob: Blob) -> int:
        """Insert into the open segment, inside the caller's transaction; its number."""
        full = self._blobs >= MAX_BLOBS or (self._blobs and self._bytes + len(blob.data) > MAX_BYTES)
        if self._current < 0 or full:
            self._current, self._blobs, self._bytes = self._current + 1, 0, 0
            self.filled = self._current > 0
            cursor.execute(
                f"CREATE TABLE {table(self._current)}(content_hash VARCHAR PRIMARY KEY, "
                "data BLOB USING COMPRESSION uncompressed, pooled BLOB USING COMPRESSION uncompressed)"
            )
        cursor.insert(table(self._current), blob.content_hash, blob.data, blob.pooled)
        self._blobs += 1
        self._bytes += len(blob.data)
        return self._current

    def seal(self) -> None:
        """Have the next blob begin a new segment."""
        self._blobs = MAX_BLOBS

    @staticmethod
    def fetch(cursor: Cursor, segment: int, content_hash: str) -> bytes:
        """Raises DamagedError when the blob is not where it should be."""
        row = first_row(
            cursor,
            f"SELECT data FROM {table(segment)} WHERE content_hash = ?",  # noqa: S608
            [content_hash],
        )
        if row is None:
            raise DamagedError(f"The blob {content_hash[:12]} is missing from the store.")
        return bytes(row[0])

    @staticmethod
    def pooled(cursor: Cursor, segment: int) -> Iterator[tuple[str, bytes]]:
        """Content hash and pooled vector of each blob of a segment that has one."""
        rows = cursor.execute(
            f"SELECT content_hash, pooled FROM {table(segment)} WHERE pooled IS NOT NULL"  # noqa: S608
        ).fetchall()
        yield from ((content_hash, bytes(vector)) for content_hash, vector in rows)

    @staticmethod
    def delete(cursor: Cursor, segment: int, hashes: Sequence[str]) -> None:
        """Remove blobs; their space comes back when the segment is dropped or the store is compacted."""
        cursor.execute(f"DELETE FROM {table(segment)} WHERE content_hash IN (SELECT unnest(?))", [list(hashes)])  # noqa: S608

    def sparse(self, cursor: Cursor) -> list[int]:
        """Full segments of which at most half is still in use."""
        rows = cursor.execute("SELECT segment, count(*), sum(stored_bytes) FROM contents GROUP BY segment").fetchall()
        used = {int(segment): (int(count), int(size)) for segment, count, size in rows}
        numbers = [n for n in self.numbers(cursor) if n != self._current]
        return [
            n for n in numbers if used.get(n, (0, 0))[0] <= MAX_BLOBS // 2 and used.get(n, (0, 0))[1] <= MAX_BYTES // 2
        ]

    def move_out(self, cursor: Cursor, segment: int, hashes: Iterable[str]) -> dict[str, int]:
        """Copy the blobs in use to the open segment and drop this one, inside the caller's transaction."""
        moved = {}
        for content_hash in hashes:
            row = first_row(
                cursor,
                f"SELECT data, pooled FROM {table(segment)} WHERE content_hash = ?",  # noqa: S608
                [content_hash],
            )
            if row is None:
                raise DamagedError(f"The blob {content_hash[:12]} is missing from the store.")
            moved[content_hash] = self.insert(cursor, Blob(content_hash, row[0], row[1]))
        cursor.execute(f"DROP TABLE {table(segment)}")
        return moved

"""The store: put embeddings, get them back, know what was done with them.

with EmbeddingStore(path) as store:
    store.put(embeds, Description(name="castle", prompt="a castle at dusk", tags=("gothic",)))
    again = store.get("castle").value

One DuckDB file. A value is encoded, then written in one transaction, which DuckDB's log makes durable; a read is one
snapshot. Nothing runs in the background.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from .codec import content_hash
from .database import Database
from .entries import Prepared, Writer, count_reads, hash_of, now, prepare, prepare_operation, rows, value_hash
from .errors import StoreError, UnsupportedError
from .loading import Loader
from .packing import pack
from .records import Description, EmbeddingKey, Listing, Operation, Stored, described
from .search import Vectors, keep_scores, kept_scores, limited, pooled
from .text import askable, checked, not_stored, plain, query_words, shown

T = TypeVar("T")
_COLUMNS = ", ".join(f.name for f in fields(Listing))
_ORDERS = {"id": "embedding_id", "recent": "used DESC, embedding_id DESC", "name": "name, embedding_id"}


class EmbeddingStore:
    """An open store. Methods may be called from any thread.

    Args:
        path: the DuckDB file, created when missing, with its folder.

    Raises:
        LockedError, UnsupportedError, DamagedError, StoreError: as database.Database; the file is left as it is.
    """

    def __init__(self, path: Path | str) -> None:
        self.database = Database(Path(path))
        self.path = self.database.path
        self.vectors = Vectors()
        self._writer = Writer(self.database, self.vectors)
        self.damaged = self._writer.damaged
        self._loader = Loader(self.database, self.damaged)
        self._reads: dict[int, tuple[int, datetime]] = {}
        self._counting = threading.Lock()
        atexit.register(self.close)

    def close(self) -> None:
        """Write the access counts and close the file. Does nothing again."""
        atexit.unregister(self.close)
        try:
            if not self.database.broken:
                self.flush_reads()
        except StoreError:
            pass  # closed already, forked, or a full disk: counts only
        finally:
            self.database.close()

    def __enter__(self) -> EmbeddingStore:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EmbeddingStore {plain(self.path)}, {'open' if self.database.is_open else 'closed'}>"

    # putting

    def put(self, value: Any, description: Description | None = None, exact: bool = False) -> int:
        """Store a tensor, or dicts and lists of tensors and plain values; durable when it returns.

        A value that is there already takes no space: it keeps its id, unless it has another name.

        Args:
            exact: keep every bit of float32 and float64 too.

        Raises:
            UnsupportedError: a value that cannot be stored, or a description that is none.
            StoreError: it could not be written, for example because the disk is full; nothing was changed.
        """
        told = described(description)
        return self.put_all([(prepare(value, exact), told)])[0]

    def put_all(self, items: Sequence[tuple[Prepared, Description]]) -> list[int]:
        """Store values that `prepare` has encoded, all or none; their ids. Errors as `put`."""
        return self.write(lambda db: [self._writer.insert(db, ready, told) for ready, told in items])

    def record(self, operation: Operation) -> int:
        """Store an operation with its inputs and its result; its id. Errors as `put`."""
        ready = prepare_operation(operation)
        return self.write(lambda db: self._writer.record(db, ready))

    def flush_reads(self) -> None:
        """Write the access counts, which wait for the next write otherwise."""
        if self._reads:
            self.write(lambda db: None)

    def write(self, job: Callable[[Any], T]) -> T:
        """Run a job in one transaction, while nobody else writes; with it go the access counts since the last one."""
        with self._counting:
            reads, self._reads = self._reads, {}

        def whole(db: Any) -> T:
            result = job(db)
            if reads:
                count_reads(db, reads)
            return result

        try:
            return self.database.write(whole)
        except BaseException:
            with self._counting:
                self._reads = {**reads, **self._reads}
            raise

    # getting

    def get(self, name: str, restore_devices: bool = False) -> Stored:
        """The embedding of a name.

        Args:
            restore_devices: put each tensor on the kind of device that it came from, where this machine has one;
                otherwise all are on the CPU.

        Raises:
            KeyError: there is none.
            DamagedError: its bytes on disk are damaged.
        """
        if (found := self._load("name = ?", name, restore_devices)) is None:
            raise KeyError(not_stored(name))
        return found

    def find(self, key: EmbeddingKey) -> Stored | None:
        """The embedding that was stored under this cache key, or None. Raises DamagedError as `get`."""
        return self._load("cache_key = ?", key.hash, False)

    def load(self, embedding_id: int, restore_devices: bool = False) -> Stored:
        """The embedding of an id. Arguments and errors as `get`."""
        if (found := self._load("embedding_id = ?", embedding_id, restore_devices)) is None:
            raise KeyError(f"No embedding has the id {shown(embedding_id)}. listings() lists those that there are.")
        return found

    def names(self) -> list[str]:
        """All names, sorted."""
        return [n for (n,) in self.database.read("SELECT name FROM embeddings WHERE name IS NOT NULL ORDER BY name")]

    def id_of(self, name: str) -> int | None:
        """Id of the embedding that has a name, or None."""
        found = self.database.read("SELECT embedding_id FROM embeddings WHERE name = ?", [askable(name)])
        return int(found[0][0]) if found else None

    def id_of_prompt(self, prompt: str) -> int | None:
        """Id of the newest embedding whose prompt is this, but for outer blanks, or None."""
        query = "SELECT max(embedding_id) FROM embeddings WHERE trim(prompt, ?) = ?"
        found: int | None = self.database.read(query, [" \t\r\n", askable(prompt.strip())])[0][0]
        return found

    def id_of_value(self, value: Any) -> int | None:
        """Id under which this value is stored, or None."""
        packed = pack(value)
        hashes = {hash_of(packed, [content_hash(t, exact) for t in packed.tensors]) for exact in (False, True)}
        query = "SELECT min(embedding_id) FROM embeddings WHERE hash IN (SELECT unnest(?))"
        found: int | None = self.database.read(query, [list(hashes)])[0][0]
        return found

    def listings(
        self,
        text: str = "",
        tag: str = "",
        names: Sequence[str] | None = None,
        named_only: bool = False,
        ids: Iterable[int] | None = None,
        order: str = "id",
        limit: int | None = None,
    ) -> list[Listing]:
        """Embeddings that fit every condition given.

        Args:
            text: at most 16 words that must all occur in the name, the prompt or the note, in any case.
            order: `id`, `recent` (last used first) or `name`.

        Raises:
            UnsupportedError: a text of more than 500 characters or 16 words.
        """
        conditions, values = ["true"], list[Any]()
        for word in query_words(text):
            conditions.append("contains(lower(concat_ws(' ', name, prompt, note)), lower(?))")
            values.append(word)
        if tag:
            conditions.append("list_contains(tags, ?)")
            values.append(checked("tag", tag, 500))
        if named_only:
            conditions.append("name IS NOT NULL")
        for column, given, kind in (("name", names, "VARCHAR"), ("embedding_id", ids, "BIGINT")):
            if given is not None:
                conditions.append(f"{column} IN (SELECT unnest(?::{kind}[]))")
                values.append([askable(v) if isinstance(v, str) else v for v in given])
        query = f"SELECT {_COLUMNS} FROM listing WHERE {' AND '.join(conditions)} ORDER BY {_ORDERS[order]}"  # noqa: S608
        if limit is not None:
            query += f" LIMIT {int(limit)}"
        with self.database.snapshot() as db, limited(db):
            return [Listing(*row) for row in db.execute(query, values).fetchall()]

    def nearest(self, value: Any, count: int = 10, text: str = "", tag: str = "") -> list[tuple[Listing, float]]:
        """Embeddings whose first prompt is nearest to that of `value`, with the cosine, best first.

        Compared are mean token vectors of equal width. Embeddings that hold the same prompt are left out.

        Raises:
            UnsupportedError: `value` holds no tensor, or its first prompt has no direction; or as `listings`.
        """
        main = (packed := pack(value)).tensors[packed.main]
        query = pooled(main)
        if query is None:
            raise UnsupportedError("The embedding to search for is all zero or not finite.")
        filtered = bool(text.strip() or tag)
        me = None if filtered else self.id_of_value(value)
        among = [e.embedding_id for e in self.listings(text, tag)] if filtered else None
        same = [content_hash(main, exact) for exact in (False, True)]
        with self.database.snapshot() as db, limited(db):
            scores = {} if me is None else kept_scores(db, me, count)
            is_new = not scores
            if is_new:
                scores = self.vectors.nearest_embeddings(db, query, same, among, count)
            newest = db.execute("SELECT max(embedding_id) FROM embeddings").fetchall()[0][0]
        if me is not None and scores and is_new:
            self.write(lambda db: keep_scores(db, me, scores, newest))
        listed = self.listings(ids=scores)
        listed.sort(key=lambda e: (-scores[e.embedding_id], e.name is None, e.embedding_id))
        return [(e, scores[e.embedding_id]) for e in listed[:count]]

    # results about embeddings

    def analysis(self, value: Any, kind: str) -> str | None:
        """The report that `save_analysis` kept for this value, or None."""
        query = "SELECT result FROM embedding_analysis WHERE hash = ? AND analysis_type = ?"
        found = self.database.read(query, [value_hash(value), kind])
        return str(found[0][0]) if found else None

    def save_analysis(self, value: Any, kind: str, report: str) -> None:
        """Keep a report about a value; an earlier one of the same kind is replaced."""
        hash = value_hash(value)

        def job(db: Any) -> None:
            db.execute("DELETE FROM embedding_analysis WHERE hash = ? AND analysis_type = ?", [hash, kind])
            rows(db, "embedding_analysis", [(hash, kind, report, now())])

        self.write(job)

    # inside

    def _load(self, condition: str, value: Any, restore_devices: bool) -> Stored | None:
        found = self._loader.load(condition, value, restore_devices)
        if found is not None:
            with self._counting:
                self._reads[found.id] = self._reads.get(found.id, (0, None))[0] + 1, now()
        return found

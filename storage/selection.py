"""Lists of stored embeddings: by text, by tag, by similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .codec import content_hashes
from .packing import pack
from .records import Listing
from .search import pooled

if TYPE_CHECKING:
    from .store import EmbeddingStore

_COLUMNS = (
    "embedding_id, name, prompt, kind, form, tokens, width, dtype, tags, note, access_count, last_access, created, "
    "raw_bytes, stored_bytes"
)
_ORDERS = {"id": "embedding_id, name", "recent": "last_access DESC, embedding_id DESC", "name": "name, embedding_id"}


@dataclass(frozen=True)
class Neighbour:
    """A stored embedding and the cosine of its pooled prompt with the query's, -1..1."""

    embedding: Listing
    cosine: float


def list_embeddings(
    store: EmbeddingStore,
    text: str | None = None,
    tag: str | None = None,
    kind: str | None = None,
    names: Sequence[str] | None = None,
    named_only: bool = False,
    ids: Sequence[int] | None = None,
    order: str = "id",
    limit: int | None = None,
) -> list[Listing]:
    """Embeddings that fit every condition given; one with two names is listed twice.

    Args:
        text: words that must all occur in the prompt, the name or the note, in any case.
        order: `id`, `recent` (last used first) or `name`.
    """
    conditions, values = ["true"], list[Any]()

    def add(condition: str, *given: Any) -> None:
        conditions.append(condition)
        values.extend(given)

    for word in (text or "").split():
        add("contains(lower(concat_ws(' ', prompt, name, note)), lower(?))", word)
    if tag:
        add("list_contains(tags, ?)", tag)
    if kind:
        add("kind = ?", kind)
    if names is not None:
        add("name IN (SELECT unnest(?::VARCHAR[]))", list(names))
    if named_only:
        add("name IS NOT NULL")
    if ids is not None:
        add("embedding_id IN (SELECT unnest(?::BIGINT[]))", list(ids))
    query = f"SELECT {_COLUMNS} FROM embeddings WHERE {' AND '.join(conditions)} ORDER BY {_ORDERS[order]}"  # noqa: S608
    if limit is not None:
        query += f" LIMIT {int(limit)}"
    store.flush()
    rows = store.read(lambda cursor: cursor.execute(query, values).fetchall())
    return [Listing(*[*row[:8], tuple(row[8]), *row[9:]]) for row in rows]


def nearest(
    store: EmbeddingStore,
    value: Any,
    count: int = 10,
    tag: str | None = None,
    text: str | None = None,
    include_same: bool = False,
) -> list[Neighbour]:
    """Stored embeddings whose first prompt is nearest to that of `value`, best first.

    Compared are mean token vectors of equal width, by cosine. Embeddings that hold the same tensor, at
    whatever precision it was stored, are left out unless `include_same`.

    Raises:
        UnsupportedError: `value` holds no tensor.
        ValueError: its first prompt has no direction (all zero, not finite).
    """
    packed = pack(value)
    main = packed.tensors[packed.main]
    query = pooled(main)
    if query is None:
        raise ValueError("The embedding to search for is all zero or not finite.")
    store.flush()
    same = () if include_same else content_hashes(main).values()
    filtered = bool(tag or text)
    wanted = len(store.index.segment_of) if filtered else count + 8
    while True:
        matches = [m for m in store.vectors.nearest(query, wanted) if m.content_hash not in same]
        found = _embeddings_of(store, {m.content_hash: m.cosine for m in matches}, tag, text)
        if len(found) >= count or wanted >= len(store.index.segment_of):
            return found[:count]
        wanted *= 4


def _embeddings_of(
    store: EmbeddingStore, cosines: dict[str, float], tag: str | None, text: str | None
) -> list[Neighbour]:
    """Embeddings whose main part is one of these tensors, best first."""
    query = (
        "SELECT embedding_id, parts[main_part + 1].content_hash FROM embedding_entries "
        "WHERE parts[main_part + 1].content_hash IN (SELECT unnest(?::VARCHAR[]))"
    )
    rows = store.read(lambda cursor: cursor.execute(query, [list(cosines)]).fetchall())
    scores = {embedding_id: cosines[key] for embedding_id, key in rows}
    listed = list_embeddings(store, text=text, tag=tag, ids=list(scores)) if scores else []
    found = [Neighbour(e, scores[e.embedding_id]) for e in listed]
    return sorted(found, key=lambda n: (-n.cosine, n.embedding.name is None, n.embedding.embedding_id))

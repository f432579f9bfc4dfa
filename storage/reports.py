"""Figures of a store as text that a person reads; the views are in schema.sql."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from .maintenance import Removal, Verification
from .records import Listing
from .salvage import Salvaged
from .store import EmbeddingStore
from .text import plain


def size(count: float | None) -> str:
    """Bytes as B, KB, MB or GB (1024)."""
    if count is None:
        return "-"
    value, units = float(count), ["B", "KB", "MB", "GB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns as wide as their widest cell; the first is left-aligned, the others right."""
    texts = [head, *([_cell(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(head))]
    texts.insert(1, ["-" * w for w in widths])
    lines = (
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True)))
        for r in texts
    )
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M")
    return f"{value:.2f}" if isinstance(value, float) else plain(value, 48)


def stats(store: EmbeddingStore) -> str:
    read = store.database.read
    ((embeddings, named, raw, oldest, newest),) = read(
        "SELECT count(*), count(name), coalesce(sum(raw_bytes), 0), min(created), max(created) FROM embeddings"
    )
    ((tensors, stored),) = read("SELECT count(*), coalesce(sum(bytes), 0) FROM contents")
    ((operations,),) = read("SELECT count(*) FROM vector_operations")
    files = [store.path, store.database.beside(".wal")]
    disk = sum(f.stat().st_size for f in files if f.exists())
    lines = [
        f"Embedding store: {plain(store.path)}",
        f"Embeddings: {embeddings} ({named} named), {tensors} distinct tensors",
        f"Operations recorded: {operations}",
        f"Size: {size(raw)} as handed in, {size(stored)} stored ({raw / stored if stored else 0:.2f} to 1), "
        f"{size(disk)} on disk",
    ]
    if oldest:
        lines.append(f"Oldest: {_cell(oldest)}, newest: {_cell(newest)} (UTC)")
    if store.damaged:
        lines.append(f"Damaged tensors found in this session: {len(store.damaged)}. Run verify.")
    rows = read("SELECT kind || ' ' || dtype, stored, tensors, token_rows, bytes FROM storage_metrics")
    if rows:
        lines += [
            "",
            table(["kind and dtype", "kept as", "tensors", "rows", "stored"], [[*r[:4], size(r[4])] for r in rows]),
        ]
    return "\n".join(lines)


def listing(embeddings: Sequence[Listing]) -> str:
    if not embeddings:
        return "The store holds no embeddings."
    rows = [
        [e.label, f"{e.tokens}x{e.width}", e.dtype, e.reads, e.used, size(e.bytes), ", ".join(e.tags) or "-"]
        for e in embeddings
    ]
    return table(["embedding", "size", "dtype", "reads", "last used (UTC)", "stored", "tags"], rows)


def performance(store: EmbeddingStore) -> str:
    rows = store.database.read(
        "SELECT operation_type, runs, mean_ms, median_ms, max_ms, peak_memory_bytes FROM operations_by_type"
    )
    if not rows:
        return "No operations are recorded."
    head = ["operation", "runs", "mean ms", "median ms", "max ms", "max memory"]
    return table(head, [[*row[:5], size(row[5])] for row in rows])


def removal(result: Removal) -> str:
    if not result.embeddings:
        return "Nothing to remove."
    verb = "Would remove" if result.dry_run else "Removed"
    text = f"{verb} {len(result.embeddings)} embedding(s), {size(result.bytes)}."
    if result.dry_run:
        return f"{text} Turn dry_run off to remove them.\n\n{listing(result.embeddings[:50])}"
    return f"{text} Later puts use the space again; compact gives it back to the disk."


def verification(result: Verification) -> str:
    if not result.damaged:
        return f"All {result.whole} tensors are whole."
    lines = [f"{labels}: {problem}" for labels, problem in result.damaged]
    return "\n".join([
        f"{len(lines)} damaged tensor(s), {result.whole} whole.", "", *lines[:200], "",
        "Storing the same embedding again replaces its damaged bytes. Export leaves damaged embeddings out.",
    ])  # fmt: skip


def salvage(result: Salvaged, path: Path) -> str:
    lines = [f"Copied {result.recovered} embedding(s) to {plain(path)}; every value was checked by its hash."]
    if result.lost:
        lines.append(f"Damaged and left out, {len(result.lost)}: {', '.join(result.lost[:200])}.")
    if result.unchecked:
        lines.append(
            f"Read from damaged blocks, with texts that nothing can check: {', '.join(result.unchecked)}. Look over "
            "names, prompts, tags and notes."
        )
    if result.missing:
        lines.append(f"Not read, or not all of it: {', '.join(result.missing)}.")
    return "\n".join(lines)


def neighbours(found: Sequence[tuple[Listing, float]]) -> str:
    if not found:
        return "No stored embedding can be compared with this one."
    rows = [[e.label, f"{cosine:.4f}", e.tokens, ", ".join(e.tags) or "-"] for e, cosine in found]
    return table(["embedding", "cosine", "tokens", "tags"], rows)

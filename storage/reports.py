"""Figures as text that a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from .analytics import OperationMetrics, Stats
from .compaction import Compaction
from .maintenance import Removal, Verification
from .records import Listing
from .selection import Neighbour


def size(count: float | None) -> str:
    """Bytes as B, KB, MB or GB (1024)."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1024 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first is left-aligned, the others right."""
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    return "\n".join([line(head), line(["-" * w for w in widths]), *map(line, rows)])


def stats_report(stats: Stats) -> str:
    lines = [
        f"Embedding store: {stats.path or 'in memory only, lost when ComfyUI ends'}",
        f"Embeddings: {stats.embeddings} ({stats.named} named), {stats.tensors} distinct tensors, "
        f"{stats.accesses} times read",
        f"Operations recorded: {stats.operations}",
        f"Size: {size(stats.raw_bytes)} as handed in, {size(stats.stored_bytes)} stored "
        f"({stats.compression:.2f} to 1), {size(stats.file_bytes + stats.log_bytes)} on disk, "
        f"{stats.segments} segment(s)",
    ]
    if stats.oldest and stats.newest:
        lines.append(f"Oldest: {_time(stats.oldest)}, newest: {_time(stats.newest)} (UTC)")
    if stats.damaged:
        lines.append(f"Damaged tensors found in this session: {stats.damaged}. Run verify.")
    if stats.by_kind:
        rows = [
            [
                f"{k.kind} {k.dtype}",
                k.stored,
                str(k.tensors),
                str(k.token_rows),
                size(k.raw_bytes),
                size(k.stored_bytes),
            ]
            for k in stats.by_kind
        ]
        lines += ["", table(["kind and dtype", "kept as", "tensors", "rows", "handed in", "stored"], rows)]
    return "\n".join(lines)


def recent_report(listings: Sequence[Listing]) -> str:
    if not listings:
        return "The store holds no embeddings."
    rows = [
        [
            _label(e),
            f"{e.tokens}x{e.width}",
            e.dtype,
            str(e.access_count),
            _time(e.last_access),
            size(e.stored_bytes),
            ", ".join(e.tags) or "-",
        ]
        for e in listings
    ]
    return table(["embedding", "size", "dtype", "reads", "last used (UTC)", "stored", "tags"], rows)


def performance_report(metrics: Sequence[OperationMetrics]) -> str:
    if not metrics:
        return "No operations are recorded."
    rows = [
        [
            m.operation_type,
            str(m.operations),
            _ms(m.mean_ms),
            _ms(m.median_ms),
            _ms(m.max_ms),
            size(m.mean_peak_memory_bytes),
            size(m.max_peak_memory_bytes),
        ]
        for m in metrics
    ]
    return table(["operation", "runs", "mean ms", "median ms", "max ms", "mean memory", "max memory"], rows)


def removal_report(removal: Removal) -> str:
    count = len({e.embedding_id for e in removal.embeddings})
    if not count:
        return "Nothing to remove."
    verb = "Would remove" if removal.dry_run else "Removed"
    text = f"{verb} {count} embedding(s), {size(removal.stored_bytes)}."
    if removal.dry_run:
        return f"{text} Turn dry_run off to remove them.\n\n{recent_report(removal.embeddings[:50])}"
    return f"{text} Run compact to give the space back to the disk."


def verification_report(result: Verification) -> str:
    if not result.damaged:
        return f"All {result.whole} tensors are whole."
    lines = [f"{len(result.damaged)} damaged tensor(s), {result.whole} whole.", ""]
    for damage in result.damaged:
        lines.append(f"{', '.join(damage.embeddings) or 'no embedding'}: {damage.problem}")
    return "\n".join([*lines, "", "Storing the same embedding again replaces its damaged bytes."])


def compaction_report(result: Compaction) -> str:
    return f"Compacted: {size(result.before)} before, {size(result.after)} after."


def neighbours_report(neighbours: Sequence[Neighbour]) -> str:
    if not neighbours:
        return "No stored embedding can be compared with this one."
    rows = [
        [_label(n.embedding), f"{n.cosine:.4f}", f"{n.embedding.tokens}", ", ".join(n.embedding.tags) or "-"]
        for n in neighbours
    ]
    return table(["embedding", "cosine", "tokens", "tags"], rows)


def _label(listing: Listing) -> str:
    text = listing.name or listing.prompt or f"#{listing.embedding_id}"
    text = " ".join(text.split())
    return text if len(text) <= 48 else text[:45] + "..."


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M")


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"

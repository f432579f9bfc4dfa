"""What an executed node sends to its page, to be shown on the node; web/js reads it under the same key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..embeddings.difference import Difference
from ..patching.hosts import host_of
from ..patching.strengths import BlockStrengths

TOLD = "wan_activation_editor"


def model_told(model: Any, strengths: BlockStrengths | None = None, **more: Any) -> dict[str, Any]:
    """For `io.NodeOutput(ui=...)`: the model's block count and, of an editing node, the strength of every block.

    Args:
        more: `tables`, or `shown`: strengths to draw as bars, each with its label.
    """
    count = host_of(model).wan_model(model).block_count
    told: dict[str, Any] = {"blocks": count, **more}
    if strengths is not None:
        told["strengths"] = [round(strength, 4) for strength in strengths.resolve(count)]
    return {TOLD: (told,)}


def told_tables(*tables: dict[str, Any]) -> dict[str, Any]:
    """For `io.NodeOutput(ui=...)` of a node without a model."""
    return {TOLD: ({"tables": list(tables)},)}


def bars(edits: Sequence[tuple[str, Sequence[float]]]) -> list[dict[str, Any]]:
    """Strengths of edits by their labels, for `shown`."""
    return [{"label": label, "strengths": [round(s, 4) for s in strengths]} for label, strengths in edits]


def difference_table(caption: str, rows: Sequence[tuple[str, Difference]], note: str = "") -> dict[str, Any]:
    """A table of differences for the node, one row each, and what follows from it."""
    return {
        "caption": caption,
        "note": note,
        "columns": ["", "relative L2", "cosine", "norm ratio", "changed"],
        "rows": [
            [name, d.relative_l2, d.token_cosine, _finite(d.norm_ratio), f"{100 * d.changed_share:.1f}%"]
            for name, d in rows
        ],
    }


def _finite(value: float) -> float | str:
    """JSON has no infinity."""
    return value if math.isfinite(value) else str(value)

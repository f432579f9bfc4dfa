"""A block map as text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..patching.views import ranges

if TYPE_CHECKING:
    from .block_map import BlockMap

TITLES = {
    "share": "share of the whole edit's change",
    "effect": "change of the model's output, relative",
    "motion": "part of the change that differs between frames",
}


def report(found: BlockMap, quantity: str, top: int) -> str:
    """See `BlockMap.report`."""
    order = found.order(quantity)
    values, (low, high) = getattr(found, quantity), found.intervals[quantity]
    levels = "  ".join(f"{f'level {level:.3g}':>22}" for level in found.noise_levels)
    seeds = f"{len(found.seeds)} seed{'s' * (len(found.seeds) != 1)}"
    pairs = f", {found.pairs} prompt pairs" if found.pairs > 1 else ""
    lines = [
        f"{found.model_name}: {len(found.blocks)} of {found.block_count} blocks, {seeds}{pairs}, {found.method}",
        f"{quantity}: {TITLES[quantity]}; mean over seeds and 95% interval",
        "",
        f"{'block':>16}  {levels}",
        "  ".join(["-" * 16, *["-" * 22] * len(found.noise_levels)]),  # the graph editor draws a table from this on
    ]
    for index in order[: top or len(order)]:
        lines.append(
            f"{index:>16}  "
            + "  ".join(_cell(*x) for x in zip(values[:, index], low[:, index], high[:, index], strict=True))
        )
    for control, by_quantity in found.controls.items():
        row = "  ".join(_cell(*x) for x in by_quantity[quantity].T)
        lines.append(f"{control.replace('_', ' '):>16}  {row}")
    if quantity == "share":
        lines += ["", *_sums(found, order, top)]
    if found.finished:
        correlation = found.rank_correlation
        known = "none, all are equal" if math.isnan(correlation) else f"{correlation:.2f}"
        lines += [
            "",
            f"Verified: {len(found.finished)} blocks sampled to the end; rank correlation of their effect with the "
            f"change of the finished latents: {known}.",
        ]
    return "\n".join(lines)


def summary(found: BlockMap) -> str:
    """A block map in two lines."""
    mean = np.nan_to_num(found.share).mean(axis=0)
    top = sorted(found.blocks, key=lambda i: (-mean[i], i))[:6]
    levels = ", ".join(f"{level:.3g}" for level in found.noise_levels)
    seeds = f"{len(found.seeds)} seed{'s' * (len(found.seeds) != 1)}"
    return (
        f"<BlockMap of {found.model_name or 'a model'}: site {found.edit.get('site', 'not known')}, noise levels "
        f"{levels}, blocks {ranges(found.blocks)} of {found.block_count}, {seeds}, {found.method}\n"
        f"  largest shares in blocks {', '.join(map(str, top))}; report() for the table>"
    )


def _sums(found: BlockMap, order: list[int], top: int) -> list[str]:
    count = min(top or len(order), len(order))
    mean, low, high = (float(x.mean()) for x in found.random_blocks(count))
    best = float(found.share[:, order[:count]].sum(axis=-1).mean())
    rest = ", ".join(f"{x:+.2f}" for x in found.interaction)
    return [
        f"The {count} blocks with the largest share have {best:.2f} together; {count} random blocks {mean:.2f} "
        f"({low:.2f} to {high:.2f})."
        if count > 1
        else f"The block with the largest share has {best:.2f}; a random block {mean:.2f} ({low:.2f} to {high:.2f}).",
        f"Interaction, 1 - the sum of all shares, per level: {rest}.",
    ]


def _cell(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return f"{'not measured':>22}"
    if np.isnan(low):
        return f"{value:>22.3f}"
    return f"{value:>7.3f} ({low:>5.2f}..{high:>5.2f})"

"""Block strengths and edits as text for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .strengths import matching_preset

if TYPE_CHECKING:
    from .edit import EditStack
    from .wan_model import WanModel

ROW = 10
SHADES = "□░▒▓■"
NO_EDIT = (
    "This model carries no edit: the editor is bypassed, enable_patching is off, no block is selected, its strength "
    "is 0, or its model output is not connected here."
)


def cell_grid(strengths: Sequence[float]) -> str:
    """Blocks as cells, ten to a row: hollow for none, then a shade for each quarter of strength."""
    cells = [SHADES[math.ceil(s * 4)] for s in strengths]
    rows = []
    for first in range(0, len(cells), ROW):
        row = cells[first : first + ROW]
        rows.append(f"{first:>3}-{first + len(row) - 1:<3} " + " ".join(row))
    return "\n".join(rows)


def block_pattern(strengths: Sequence[float]) -> str:
    """One character per block, groups of ten: filled from half strength up, light below, dot for none."""
    cells = ["█" if s >= 0.5 else "▒" if s > 0 else "·" for s in strengths]
    return " ".join("".join(cells[i : i + 10]) for i in range(0, len(cells), 10))


def strength_summary(strengths: Sequence[float]) -> str:
    """Active count, preset and range in one line."""
    active = [s for s in strengths if s != 0.0]
    if not active:
        return f"0 of {len(strengths)} blocks active"
    low, high = min(active), max(active)
    count = f"{len(active)} of {len(strengths)} blocks active"
    if low != high:
        return f"{count}, strength {low:.2f} to {high:.2f}"
    preset = matching_preset(strengths)
    return f"{count}, strength {low:g}" + (f", preset {preset}" if preset else "")


def block_list(strengths: Sequence[float]) -> str:
    """Active blocks as ranges."""
    return ranges(i for i, s in enumerate(strengths) if s != 0.0)


def ranges(numbers: Iterable[int]) -> str:
    """Numbers that ascend, as `0-4, 7, 30-39`."""
    active = list(numbers)
    starts = [i for i in active if i - 1 not in active]
    ends = [i for i in active if i + 1 not in active]
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)) or "none"


def bar_chart(strengths: Sequence[float], height: int = 10, numbers: bool = True) -> str:
    """Strengths as a column chart of `height` lines, 0 at the bottom and 1 at the top.

    Args:
        strengths: one value in 0..1 per block.
        height: lines of the chart.
        numbers: also list every block with its strength.
    """
    eighths = " ▁▂▃▄▅▆▇█"
    lines = []
    for level in range(height, 0, -1):
        filled = [min(max(s * height - (level - 1), 0.0), 1.0) for s in strengths]
        axis = f"{level / height:4.2f} |" if level in (height, (height + 1) // 2) else "     |"
        # A strength that is not zero stays visible, however small.
        cells = [
            eighths[max(round(f * 8), 1 if s > 0 and level == 1 else 0)] for f, s in zip(filled, strengths, strict=True)
        ]
        lines.append(axis + "".join(cells))
    lines.append("0.00 +" + "-" * len(strengths))
    lines.append("      " + "".join(f"{i:<10}" for i in range(0, len(strengths), ROW)).rstrip())
    lines.append(strength_summary(strengths))
    if numbers:
        for first in range(0, len(strengths), ROW):
            row = strengths[first : first + ROW]
            lines.append(f"{first:>3}-{first + len(row) - 1:<3} " + " ".join(f"{s:.2f}" for s in row))
    return "\n".join(lines)


def model_summary(model: WanModel, host: str) -> str:
    """Class, host and size of a model in one line."""
    width = f"text width {model.text_width or 'not known'}"
    control = f", {len(model.control_blocks)} VACE control blocks" if model.control_blocks else ""
    return f"{model.name} ({host}): {model.block_count} blocks, {width}{control}"


def stack_report(stack: EditStack, block_count: int, visual: bool = True) -> str:
    """Every edit of a stack, in order, with its blocks."""
    if not len(stack):
        return NO_EDIT
    parts = []
    for number, edit in enumerate(stack, 1):
        strengths = edit.strengths.resolve(block_count)
        source = edit.source.describe()
        parts.append(
            f"Edit {number} of {len(stack)}: {edit.label or 'unnamed'}\n"
            f"  {strength_summary(strengths)}\n"
            f"  {edit.operation.name} {'to the hidden state' if edit.captured else f'of the {edit.site}'}, "
            f"branch {edit.branch}, "
            f"sampling {edit.window.start:.0%} to {edit.window.end:.0%}"
            f"{'' if edit.schedule.is_constant else f', schedule {edit.schedule}'}\n"
            + (
                f"  adds a difference captured {source['captured']}, relative L2 {source['relative_l2']:.3f}"
                if edit.captured
                else f"  injects {source['prompts']} prompt(s), {source['tokens']} tokens, {source['dtype']}"
                if edit.text
                else f"  with {edit.source.title}: {', '.join(f'{k} {v}' for k, v in source.items())}"
            )
        )
        transforms = [t.name for t in stack.transforms_of(edit)]
        if transforms:
            parts.append(f"  after projection: {'; '.join(transforms)}")
        if visual:
            parts.append(cell_grid(strengths))
    return "\n".join(parts)

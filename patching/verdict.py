"""Whether an injection can be expected to show, from what is known before sampling."""

from __future__ import annotations

from collections.abc import Sequence

from ..embeddings.difference import ALIKE_RELATIVE_L2
from .edit import Window

LITTLE = 0.05
"""Mean strength over all blocks, below which an injection is said to be small: 2 of 40 blocks at strength 1."""
LATE = 0.5
"""A window that begins here changes detail; composition and motion are decided before."""


def verdict(strengths: Sequence[float], window: Window, relative_l2: float) -> str:
    """What to expect of a prompt injected at these strengths, in a sentence with what to do.

    It is a rule of thumb: which blocks carry what differs between models and prompts, and the Block Map measures it.

    Args:
        strengths: per block.
        window: when the edit acts.
        relative_l2: of the two prompts, before projection.
    """
    chosen = [s for s in strengths if s > 0]
    if not chosen:
        return "no effect: no block has a strength above 0"
    reasons, advice = [], []
    if relative_l2 < ALIKE_RELATIVE_L2:
        reasons.append("the prompts are nearly alike")
        advice.append("use prompts that differ more, or the Embedding Amplifier")
    elif max(chosen) * relative_l2 < ALIKE_RELATIVE_L2 or sum(chosen) / len(strengths) < LITTLE:
        blocks = f"{len(chosen)} of {len(strengths)} blocks"
        reasons.append(f"strength {max(chosen):.2f} in {blocks}")
        advice.append("raise the strength, or choose the blocks that the Block Map puts first")
    if window.start >= LATE:
        reasons.append(f"it begins after {100 * window.start:.0f}% of sampling, when the composition is decided")
        advice.append("let the window begin earlier")
    elif window.end - window.start < 0.1:
        reasons.append(f"it acts in {100 * (window.end - window.start):.0f}% of sampling")
        advice.append("widen the window")
    if not reasons:
        return "different enough to show"
    return f"expect a small effect: {', and '.join(reasons)}. To see more, {'; '.join(advice)}"

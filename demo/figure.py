"""The demo's picture: which blocks are edited, and how far that moves the result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Row = tuple[str, Sequence[float], float, float]


def draw(rows: list[Row], yardstick: float, path: Path, random_weights: bool) -> None:
    """Draw one line per case: its block strengths as cells, its distance from the plain result as a bar.

    Args:
        rows: (name, strength per block, distance from plain, distance from the second prompt).
        yardstick: distance of the second prompt's own result from the plain one.
        path: PNG file to write.
        random_weights: say so in the title.
    """
    names = [name for name, *_ in rows]
    height = 1.4 + 0.3 * len(rows)
    figure, (cells, bars) = plt.subplots(
        1, 2, figsize=(11, height), sharey=True, width_ratios=[3, 2], layout="constrained"
    )
    image = cells.pcolormesh(
        [strengths for _, strengths, *_ in rows], cmap="viridis", vmin=0, vmax=1, edgecolors="white", linewidth=0.6
    )
    cells.set_yticks([i + 0.5 for i in range(len(rows))], names)
    cells.invert_yaxis()
    cells.set_xlabel("transformer block")
    cells.set_title("Strength per block", fontsize=11)
    cells.tick_params(length=0)
    for side in cells.spines.values():
        side.set_visible(False)
    figure.colorbar(image, ax=cells, location="bottom", shrink=0.5, aspect=40, pad=0.01, label="strength")

    distances = [distance for _, _, distance, _ in rows]
    bars.barh([i + 0.5 for i in range(len(rows))], distances, height=0.7, color="#3b528b")
    for i, distance in enumerate(distances):
        label = bars.text(distance + 0.01 * yardstick, i + 0.5, f"{distance:.3f}", va="center", fontsize=8)
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    bars.axvline(yardstick, color="#c8553d", linewidth=1.2, zorder=0)
    bars.text(yardstick, -0.15, "second prompt alone", color="#c8553d", fontsize=8, ha="center", va="bottom")
    bars.set_xlim(0, max([yardstick, *distances]) * 1.15)
    bars.set_xlabel("relative L2 distance of the final latents\nfrom the plain result")
    bars.set_title("Effect of injecting a second prompt\n", fontsize=11)
    for side in ("top", "right"):
        bars.spines[side].set_visible(False)
    if random_weights:
        figure.suptitle("WanPipeline, 40 blocks, random weights", fontsize=9, color="#666666", x=0.01, ha="left")
    figure.savefig(path, dpi=110)
    plt.close(figure)

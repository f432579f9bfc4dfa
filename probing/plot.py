"""A block map as a picture: a heat map blocks x noise levels, and the mean over levels with its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..patching.plot import BACKGROUND, FAINT, GRID, TEXT, colour
from .intervals import bootstrap_interval
from .tables import TITLES

if TYPE_CHECKING:
    from .block_map import BlockMap

WIDTH, ROW, CHART = 960, 36, 190
LEFT, RIGHT, UPPER = 96, 20, 56
_AGAINST = (196, 78, 82)


def heat_map(found: BlockMap, quantity: str = "share") -> Image.Image:
    """See `BlockMap.plot`.

    Raises:
        ValueError: the quantity was not measured.
    """
    found.order(quantity)
    values = getattr(found, quantity)
    top = max(float(np.nanmax(values)), 1e-9)
    levels, count = values.shape
    image = Image.new("RGB", (WIDTH, UPPER + levels * ROW + CHART + 84), BACKGROUND)
    draw, large, small = ImageDraw.Draw(image), ImageFont.load_default(size=18), ImageFont.load_default(size=13)
    draw.text((LEFT, 18), f"{found.model_name}: {TITLES[quantity]}", font=large, fill=TEXT)
    pitch = (WIDTH - LEFT - RIGHT) / count
    for row, level in enumerate(found.noise_levels):
        y = UPPER + row * ROW
        draw.text((LEFT - 10, y + ROW / 2), f"noise {level:.2f}", font=small, fill=FAINT, anchor="rm")
        for index in range(count):
            box = (LEFT + index * pitch + 1, y + 1, LEFT + (index + 1) * pitch - 1, y + ROW - 1)
            value = float(values[row, index])
            if np.isnan(value):
                draw.rectangle(box, outline=GRID)
            else:
                draw.rectangle(box, fill=_AGAINST if value < -0.02 * top else colour(value / top))
    _chart(draw, found, quantity, UPPER + levels * ROW + 26, pitch, small)
    every = max(1, round(26 / pitch))
    y = UPPER + levels * ROW + CHART + 34
    for index in range(0, count, every):
        draw.text((LEFT + (index + 0.5) * pitch, y), str(index), font=small, fill=FAINT, anchor="ma")
    legend = (
        f"block. Colour from 0 to {top:.3g}, red: against the whole. Bars: mean over levels, 95% interval; red line: "
        "random direction."
    )
    draw.text((LEFT, y + 22), legend, font=small, fill=FAINT)
    return image


def _chart(
    draw: ImageDraw.ImageDraw,
    found: BlockMap,
    quantity: str,
    upper: float,
    pitch: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    samples = found.samples[quantity].mean(axis=1)  # [seeds, blocks]
    mean, (low, high) = samples.mean(axis=0), bootstrap_interval(samples)
    top = max(float(np.nanmax(np.where(np.isnan(high), mean, high))), 1e-9)
    bottom = min(float(np.nanmin(np.where(np.isnan(low), mean, low))), 0.0)

    def at(value: float) -> float:
        return upper + CHART * (top - value) / (top - bottom)

    for value in (top, 0.0):
        draw.line((LEFT, at(value), WIDTH - RIGHT, at(value)), fill=GRID)
        draw.text((LEFT - 10, at(value)), f"{value:.3g}", font=font, fill=FAINT, anchor="rm")
    control = float(found.controls["random_direction"][quantity][0].mean())
    if bottom <= control <= top:
        draw.line((LEFT, at(control), WIDTH - RIGHT, at(control)), fill=_AGAINST)
    for index in found.blocks:
        x, half = LEFT + (index + 0.5) * pitch, max(pitch * 0.3, 1)
        ends = sorted((at(float(mean[index])), at(0.0)))
        draw.rectangle((x - half, ends[0], x + half, ends[1]), fill=colour(float(mean[index]) / top))
        if not np.isnan(low[index]):
            draw.line((x, at(float(low[index])), x, at(float(high[index]))), fill=TEXT, width=2)

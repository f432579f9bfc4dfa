"""Block strengths as a picture.

Drawn with Pillow, which every ComfyUI has; matplotlib is no dependency of ComfyUI, and a bar chart does not need it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 960, 400
BACKGROUND, GRID, TEXT, FAINT = (24, 26, 31), (52, 56, 66), (226, 229, 235), (150, 156, 168)
# Viridis at five points (Smith, van der Walt, Firing): reads in grey and with colour-blind eyes.
_SCALE = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=float)


def colour(value: float) -> tuple[int, int, int]:
    """Colour of a strength in 0..1, dark violet to yellow."""
    position = min(max(value, 0.0), 1.0) * (len(_SCALE) - 1)
    low = min(int(position), len(_SCALE) - 2)
    r, g, b = _SCALE[low] + (position - low) * (_SCALE[low + 1] - _SCALE[low])
    return round(r), round(g), round(b)


def bar_plot(
    strengths: Sequence[float],
    title: str = "",
    numbers: bool = True,
    labels: Sequence[str] | None = None,
    axis: str = "block",
    top: float = 1.0,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Image.Image:
    """A bar chart, one bar per block.

    Args:
        strengths: values in 0..top.
        title: line above the chart.
        numbers: write the values above the bars, where there is room.
        labels: text under each bar; block numbers, as many as fit, when None.
        axis: what the bars are, under the chart.
        top: value at the upper end of the axis.
        size: width and height in pixels.
    """
    width, height = size
    image = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(image)
    text, small = ImageFont.load_default(size=18), ImageFont.load_default(size=13)
    left, right, upper, lower = 56, width - 20, 52, height - 58
    draw.text((left, 16), title, font=text, fill=TEXT)
    for tick in range(5):
        y = lower - (lower - upper) * tick / 4
        draw.line((left, y, right, y), fill=GRID)
        draw.text((left - 8, y), f"{top * tick / 4:.3g}", font=small, fill=FAINT, anchor="rm")
    pitch = (right - left) / max(len(strengths), 1)
    every = max(1, round(5 * 20 / pitch / 5) if labels is None and pitch < 26 else 1)
    for i, value in enumerate(strengths):
        x = left + pitch * (i + 0.5)
        bar = (lower - upper) * min(max(value / top, 0.0), 1.0)
        half = max(pitch * 0.38, 1)
        if value > 0:
            draw.rectangle((x - half, min(lower - bar, lower - 2), x + half, lower), fill=colour(value / top))
        if numbers and value > 0:
            _number(image, draw, small, x, lower - bar, f"{value:.2g}" if pitch >= 24 else f"{value:.2f}", pitch)
        if labels is not None:
            draw.text((x, lower + 8), labels[i], font=small, fill=FAINT, anchor="ma")
        elif i % (5 if every > 1 else 1) == 0 or i == len(strengths) - 1:
            draw.text((x, lower + 8), str(i), font=small, fill=FAINT, anchor="ma")
    draw.line((left, lower, right, lower), fill=FAINT)
    draw.text(((left + right) / 2, height - 12), axis, font=small, fill=FAINT, anchor="ms")
    return image


def _number(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    x: float,
    y: float,
    label: str,
    pitch: float,
) -> None:
    """Write a value above its bar, upright where it fits and turned where it does not."""
    if draw.textlength(label, font=font) <= pitch:
        draw.text((x, y - 4), label, font=font, fill=TEXT, anchor="ms")
        return
    strip = Image.new("L", (34, 16))
    ImageDraw.Draw(strip).text((0, 8), label, font=font, fill=255, anchor="lm")
    turned = strip.rotate(90, expand=True)
    image.paste(TEXT, (round(x - 8), max(round(y - 38), 34)), turned)


def as_comfy_image(image: Image.Image) -> torch.Tensor:
    """Pillow image to ComfyUI IMAGE: [1, height, width, 3], float32, 0..1."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0).unsqueeze(0)

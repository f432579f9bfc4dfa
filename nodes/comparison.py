"""WanVideo Comparison: two clips in one, under their names, with how far they differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image, ImageDraw, ImageFont

from ..probing.distances import relative_l2, ssim
from ..storage.text import plain
from .shown import told_tables
from .sockets import CATEGORY, errors_named, shown_schema

BACKGROUND, INK = (24, 26, 31), (226, 229, 235)
MAX_LABEL = 200
BAR = 12
"""A label is a twelfth of the frame's height, and at least 20 pixels; even, as video encoders want it."""


class WanVideoComparison(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return shown_schema(
            node_id="WanVideoComparison",
            display_name="WanVideo Comparison (plain and edited side by side)",
            category=f"{CATEGORY}/Inspection",
            description="Puts two clips beside each other, each under its label, and says how far they differ.",
            inputs=[
                io.Image.Input("images_a", tooltip="Left: the clip without the edit."),
                io.Image.Input("images_b", tooltip="Right: the clip with it, of the same size and length."),
                io.String.Input("label_a", default="plain", tooltip="Written over the left clip."),
                io.String.Input("label_b", default="edited", tooltip="Written over the right clip."),
            ],
            outputs=[
                io.Image.Output(id="images", display_name="images"),
                io.String.Output(id="report", display_name="report"),
            ],
        )

    @classmethod
    def execute(cls, images_a: torch.Tensor, images_b: torch.Tensor, label_a: str, label_b: str) -> io.NodeOutput:
        with errors_named("WanVideo Comparison"):
            label_a, label_b = plain(label_a, MAX_LABEL), plain(label_b, MAX_LABEL)
            if images_a.shape != images_b.shape:
                raise ValueError(
                    f"images_a and images_b must have one size and length: {_size(images_a)} and {_size(images_b)}. "
                    "Decode both from latents of one size, or scale one of them."
                )
            rows = differences(images_a, images_b)
            table = {"caption": f"{label_a} and {label_b}", "columns": ["", "relative L2", "SSIM"], "rows": rows}
            report = "\n".join(
                [
                    f"{label_a} and {label_b}: relative L2 is 0 for equal frames, SSIM 1.",
                    *(f"  {name}: relative L2 {_figure(change)}, SSIM {similar:.3f}" for name, change, similar in rows),
                ]
            )
            both = torch.cat([labelled(images_a, label_a), labelled(images_b, label_b)], dim=2)
        return io.NodeOutput(both, report, ui=told_tables(table))


def differences(a: torch.Tensor, b: torch.Tensor) -> list[list[Any]]:
    """[name, relative L2, SSIM] of the first, middle and last frames of clips [frames, height, width, channels]."""
    last = len(a) - 1
    names = {0: "first frame", last // 2: "middle frame", last: "last frame"} if last else {0: "frame"}
    return [
        [name, _change(a[i], b[i]), 1 - ssim(a[i].movedim(-1, 0), b[i].movedim(-1, 0), 1.0)]
        for i, name in names.items()
    ]


def _change(a: torch.Tensor, b: torch.Tensor) -> float | str:
    return relative_l2(a, b) if a.any() or not b.any() else "inf"


def _figure(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3f}"


def labelled(images: torch.Tensor, label: str) -> torch.Tensor:
    """The frames [frames, height, width, channels] under a bar with the label."""
    _, height, width, channels = images.shape
    bar = max(20, height // BAR) // 2 * 2
    picture = Image.new("RGB", (width, bar), BACKGROUND)
    draw, size = ImageDraw.Draw(picture), bar * 0.6
    while size > 7 and draw.textlength(label, font=ImageFont.load_default(size)) > width - 8:
        size -= 1
    draw.text((width / 2, bar / 2), label, fill=INK, anchor="mm", font=ImageFont.load_default(size))
    head = torch.from_numpy(np.asarray(picture).copy()).to(images) / 255
    if channels > 3:  # opaque
        head = torch.cat([head, torch.ones_like(head[..., :1]).expand(-1, -1, channels - 3)], dim=-1)
    return torch.cat([head[..., :channels].expand(len(images), -1, -1, -1), images], dim=1)


def _size(images: torch.Tensor) -> str:
    frames, height, width = images.shape[:3]
    return f"{frames} frames of {width} x {height}"


NODES = [WanVideoComparison]

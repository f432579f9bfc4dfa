"""Draw docs/images/block_map.png: the tiny model's block map above what its blocks do to the clip, by read-out.

    python tools/block_map_picture.py

The numbers of docs/guides/block-map.md are those that it prints.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import wanvideo_activation_editor as wae
from PIL import Image, ImageDraw, ImageFont
from wanvideo_activation_editor import tiny_wan
from wanvideo_activation_editor.patching.plot import BACKGROUND, FAINT, TEXT, colour
from wanvideo_activation_editor.probing.plot import LEFT, RIGHT, ROW, WIDTH

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "block_map.png"
FIRST, SECOND = "a red circle moving left at night", "a blue square moving right on the sea"
KINDS = ("colour", "shape", "motion", "background")
SEEDS = (0, 1)


def sample(pipe: object, text: str) -> list[Any]:
    latents = pipe(  # type: ignore[operator]
        prompt_embeds=tiny_wan.encode(text).repeat(len(SEEDS), 1, 1),
        negative_prompt_embeds=tiny_wan.encode("").repeat(len(SEEDS), 1, 1),
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="latent",
        **tiny_wan.CALL,
    ).frames
    return [tiny_wan.read(tiny_wan.decode(one[None])) for one in latents]


def read_outs(pipe: object) -> np.ndarray:
    """How far each attribute goes with the second prompt in one block alone, [attributes, blocks], mean over seeds."""
    start, end = sample(pipe, FIRST), sample(pipe, SECOND)
    rows = np.zeros((len(KINDS), 10))
    for index in range(10):
        with wae.inject(pipe, tiny_wan.encode(SECOND), blocks=str(index)):
            clips = sample(pipe, FIRST)
        for clip, one, two in zip(clips, start, end, strict=True):
            far = tiny_wan.moved(clip, one, two)
            rows[:, index] += [far[kind] / len(SEEDS) for kind in KINDS]
    return rows


def drawn(rows: np.ndarray) -> Image.Image:
    image = Image.new("RGB", (WIDTH, 56 + len(KINDS) * ROW + 50), BACKGROUND)
    draw, large, small = ImageDraw.Draw(image), ImageFont.load_default(size=18), ImageFont.load_default(size=13)
    title = "read-outs: how far the clip goes to the second prompt, block alone"
    draw.text((LEFT, 18), title, font=large, fill=TEXT)
    pitch = (WIDTH - LEFT - RIGHT) / rows.shape[1]
    for row, kind in enumerate(KINDS):
        y = 56 + row * ROW
        draw.text((LEFT - 10, y + ROW / 2), kind, font=small, fill=FAINT, anchor="rm")
        for index, value in enumerate(rows[row]):
            x = LEFT + index * pitch
            draw.rectangle((x + 1, y + 1, x + pitch - 1, y + ROW - 1), fill=colour(value))
            draw.text(
                (x + pitch / 2, y + ROW / 2),
                f"{value:.2f}",
                font=small,
                fill="black" if value > 0.6 else TEXT,
                anchor="mm",
            )
    for index in range(rows.shape[1]):
        draw.text(
            (LEFT + (index + 0.5) * pitch, 56 + len(KINDS) * ROW + 8), str(index), font=small, fill=FAINT, anchor="ma"
        )
    return image


def main() -> None:
    pipe = tiny_wan.pipeline()
    texts = tiny_wan.encode(FIRST), tiny_wan.encode(SECOND)
    found = wae.block_map(pipe, *texts, negative_prompt_embeds=tiny_wan.encode(""), verify=10, **tiny_wan.CALL)
    rows = read_outs(pipe)
    sys.stdout.write(f"{found.report()}\n\nread-outs, blocks 0 to 9\n")
    for kind, values in zip(KINDS, rows, strict=True):
        sys.stdout.write(f"{kind:>11}  " + "  ".join(f"{value:5.2f}" for value in values) + "\n")
    above, below = found.plot(), drawn(rows)
    image = Image.new("RGB", (WIDTH, above.height + below.height), BACKGROUND)
    image.paste(above, (0, 0))
    image.paste(below, (0, above.height))
    image.save(OUT, optimize=True)


if __name__ == "__main__":
    main()

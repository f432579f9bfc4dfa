"""The tiny model's pictures: strips of frames under headings, still and moving."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER = "#1b1b1b", "#666666", "#fbfbf9"
GAP, MARGIN, HEAD = 4, 20, 44
COLUMNS = 2


@dataclass(frozen=True)
class Cell:
    """One clip, uint8 [frames, height, width, 3], with a heading and a line of figures."""

    heading: str
    figures: str
    clip: torch.Tensor


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def strip(clip: torch.Tensor) -> Image.Image:
    frames = [Image.fromarray(frame.numpy()) for frame in clip]
    width, height = frames[0].size
    out = Image.new("RGB", (len(frames) * (width + GAP) - GAP, height), PAPER)
    for i, frame in enumerate(frames):
        out.paste(frame, (i * (width + GAP), 0))
    return out


def write_sheet(cells: list[Cell], seeds: int, path: Path) -> Path:
    """Write a PNG: two columns of clips, their frames side by side, each under its heading and figures."""
    strips = [strip(cell.clip) for cell in cells]
    width, height = strips[0].size
    rows = -(-len(cells) // COLUMNS)
    size = (MARGIN + COLUMNS * (width + MARGIN), 76 + rows * (HEAD + height + 12))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 14), "What does a second prompt change, block by block?", INK, font(22))
    note = f"A tiny Wan model of 10 blocks, trained on moving shapes. One seed shown; figures: mean of {seeds} seeds."
    draw.text((MARGIN, 44), note, FAINT, font(13))
    for i, (cell, frames) in enumerate(zip(cells, strips, strict=True)):
        x = MARGIN + (i % COLUMNS) * (width + MARGIN)
        y = 76 + (i // COLUMNS) * (HEAD + height + 12)
        draw.text((x, y + 4), cell.heading, INK, font(15))
        draw.text((x, y + 24), cell.figures, FAINT, font(12))
        sheet.paste(frames, (x, y + HEAD))
    sheet.save(path)
    return path


def write_animation(cells: list[Cell], path: Path, columns: int = 4) -> Path:
    """Write a looping WebP: all clips side by side, each under its heading."""
    side, head = cells[0].clip.shape[1] * 2, 40
    rows = -(-len(cells) // columns)
    size = (columns * (side + 8) + 8, rows * (side + head) + 8)
    pictures = []
    for frame in range(len(cells[0].clip)):
        picture = Image.new("RGB", size, PAPER)
        draw = ImageDraw.Draw(picture)
        for i, cell in enumerate(cells):
            x, y = 8 + (i % columns) * (side + 8), (i // columns) * (side + head)
            before, _, after = cell.heading.partition(": ")
            lines = (before, after) if after else _wrapped(cell.heading)
            for line, text in enumerate(lines):
                draw.text((x, y + 6 + 15 * line), text, INK, font(11))
            enlarged = Image.fromarray(cell.clip[frame].numpy()).resize((side, side), Image.Resampling.BICUBIC)
            picture.paste(enlarged, (x, y + head))
        pictures.append(picture)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=300, loop=0, quality=85)
    return path


def _wrapped(heading: str) -> tuple[str, ...]:
    middle = heading.find(" ", 22)
    return (heading,) if middle < 0 else (heading[:middle], heading[middle + 1 :])

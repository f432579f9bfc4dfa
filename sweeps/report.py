"""A sweep as pictures: a labelled contact sheet, and one HTML file that opens without a server."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from .summary import CONTROLS

Strip = Callable[[str], bytes | None]
"""PNG of a cell's frames, by its id."""

FRAMES, HEIGHT, LABEL, GAP, ROWS = 3, 96, 40, 6, 200
_STYLE = """body{font:14px sans-serif;margin:24px;color:#1b1b1b}table{border-collapse:collapse;margin:12px 0}
td,th{padding:3px 8px;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}img{display:block}
th{position:sticky;top:0;background:#fff}.n{text-align:right;font-variant-numeric:tabular-nums}"""


def strip_of(frames: torch.Tensor | None) -> bytes | None:
    """PNG of the first, middle and last frame side by side, of uint8 [frames, height, width, 3]."""
    if frames is None:
        return None
    chosen = dict.fromkeys(round(i * (len(frames) - 1) / (FRAMES - 1)) for i in range(FRAMES))
    pictures = [Image.fromarray(frames[i].numpy()) for i in chosen]
    width = max(1, round(pictures[0].width * HEIGHT / pictures[0].height))
    out = Image.new("RGB", (len(pictures) * (width + 2) - 2, HEIGHT), "white")
    for i, picture in enumerate(pictures):
        out.paste(picture.resize((width, HEIGHT)), (i * (width + 2), 0))
    held = io.BytesIO()
    out.save(held, "PNG")
    return held.getvalue()


def lines_of(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[int, Mapping[str, Any]]]]:
    """Rows of the sheet: plain clips and edits with their controls, each with its cells by seed."""
    lines: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    labels = {}
    for row in rows:
        key = (row["group"], row["kind"])
        lines.setdefault(key, {})[row["seed"]] = row
        labels[key] = label(row)
    return [(labels[key], cells) for key, cells in lines.items()]


def label(row: Mapping[str, Any]) -> str:
    """What a person calls a row."""
    if row["kind"] == "plain":
        return f"{row['model']}: {row['prompt']}"
    parts = [row["other"], f"blocks {row['blocks']}", f"strength {row['strength']:g}"]
    if row["kind"] == "random_blocks":
        parts[1] = "random blocks"
    if (row["window_start"], row["window_end"]) != (0, 1):
        parts.append(f"window {row['window_start']:g}-{row['window_end']:g}")
    parts += [row[name] for name in ("operation", "site") if row[name]]
    if row["kind"] == "random_direction":
        parts.append("random direction")
    return ", ".join(parts)


def write_sheet(rows: Sequence[Mapping[str, Any]], strip: Strip, path: Path) -> None:
    """Write a PNG: a row for each edit under its label, a column for each seed; at most 200 rows. Without pictures,
    nothing."""
    lines, seeds = lines_of(rows), sorted({row["seed"] for row in rows})
    found = {row["cell"]: strip(row["cell"]) for _, cells in lines[:ROWS] for row in cells.values()}
    pictures = {cell: Image.open(io.BytesIO(png)) for cell, png in found.items() if png}
    if not pictures:
        return
    width = max(p.width for p in pictures.values()) + GAP
    row_height = HEIGHT + LABEL
    image = Image.new("RGB", (GAP + width * len(seeds), 30 + row_height * min(len(lines), ROWS)), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=13)
    for column, seed in enumerate(seeds):
        draw.text((GAP + column * width, 8), f"seed {seed}", "#666666", font)
    for number, (text, cells) in enumerate(lines[:ROWS]):
        y = 30 + number * row_height
        draw.text((GAP, y + 18), text, "#1b1b1b", font)
        for column, seed in enumerate(seeds):
            if seed in cells and cells[seed]["cell"] in pictures:
                image.paste(pictures[cells[seed]["cell"]], (GAP + column * width, y + LABEL))
    image.save(path)


def write_report(
    title: str, rows: Sequence[Mapping[str, Any]], summary: Sequence[Mapping[str, Any]], strip: Strip, path: Path
) -> None:
    """Write the HTML file: intervals, failures, and every clip with its label."""
    seeds = sorted({row["seed"] for row in rows})
    names = [n for n in (summary[0] if summary else {}) if n.endswith("_mean") or n.startswith("read_")]
    words = [n for n in names if not n.endswith("_mean")]
    numbers = [n.removesuffix("_mean") for n in names if n.endswith("_mean")]
    with path.with_suffix(".part").open("w", encoding="utf-8") as file:
        file.write(f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>")
        file.write(f"<h1>{html.escape(title)}</h1><p>{len(rows)} cells, seeds {', '.join(map(str, seeds))}. Mean over ")
        file.write("seeds with its 95% interval; then the difference from each control, paired by seed.</p><table><tr>")
        heads = ["edit", *(f"{n}{c}" for n in numbers for c in ("", *(f" - {k.replace('_', ' ')}" for k in CONTROLS)))]
        file.write("".join(f"<th>{html.escape(h)}" for h in [*heads, *words]))
        for entry in summary:
            name = label({**entry, "kind": "edit"})
            file.write(f"<tr><td>{html.escape(entry['prompt'])}<br>{html.escape(name)}")
            for n in numbers:
                file.write(_number(entry, f"{n}_mean", n))
                file.write("".join(_number(entry, f"{n}_over_{c}", f"{n}_over_{c}") for c in CONTROLS))
            file.write("".join(f"<td>{html.escape(str(entry.get(w, '')))}" for w in words))
        file.write("</table>")
        if failed := [row for row in rows if "error" in row]:
            file.write("<h2>Failed</h2><ul>")
            file.writelines(f"<li>{html.escape(label(r))}, seed {r['seed']}: {html.escape(r['error'])}" for r in failed)
            file.write("</ul>")
        file.write("<h2>Clips</h2><table><tr><th>" + "".join(f"<th>seed {seed}" for seed in seeds))
        for text, cells in lines_of(rows):
            file.write(f"<tr><td>{html.escape(text)}")
            for seed in seeds:
                png = strip(cells[seed]["cell"]) if seed in cells else None
                held = base64.b64encode(png).decode() if png else ""
                file.write(f'<td><img loading=lazy src="data:image/png;base64,{held}">' if held else "<td>")
        file.write("</table>")
    path.with_suffix(".part").replace(path)


def _number(entry: Mapping[str, Any], mean: str, name: str) -> str:
    value, low, high = entry.get(mean), entry.get(f"{name}_low"), entry.get(f"{name}_high")
    if value is None:
        return "<td>"
    return f"<td class=n>{value:.3f}" + ("" if low is None else f"<br>({low:.3f} to {high:.3f})")

"""Draw docs/images/control_vectors.png: clips of the tiny model steered along control vectors, and where they lie.

    python -m tools.control_vector_picture

The strengths are those of tests/ground_truth/test_control_vectors.py, which measures them on 20 captions.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from wanvideo_activation_editor import tiny_wan
from wanvideo_activation_editor.demo.sheet import INK, MARGIN, PAPER, font, strip
from wanvideo_activation_editor.patching.plot import bar_plot
from wanvideo_activation_editor.tiny_wan.measure import Sampler
from wanvideo_activation_editor.vectors.applying import steer
from wanvideo_activation_editor.vectors.pipelines import control_vector

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "control_vectors.png"
FIRST = "a red circle moving left at night"
THINGS = {"colour": "red", "shape": "circle", "motion": "moving left", "background": "at night"}
ENDS = {"colour": "blue", "shape": "square", "motion": "moving right", "background": "on the sea"}
OTHERS = (
    {"colour": "white", "shape": "ring", "motion": "moving up", "background": "on sand"},
    {"colour": "purple", "shape": "triangle", "motion": "growing", "background": "in fog"},
    {"colour": "white", "shape": "star", "motion": "moving down", "background": "in fog"},
    {"colour": "green", "shape": "cross", "motion": "shrinking", "background": "on sand"},
    {"colour": "purple", "shape": "ring", "motion": "growing", "background": "on the sea"},
    {"colour": "green", "shape": "star", "motion": "moving up", "background": "in fog"},
    {"colour": "white", "shape": "cross", "motion": "moving down", "background": "on sand"},
    {"colour": "purple", "shape": "star", "motion": "shrinking", "background": "in fog"},
    {"colour": "yellow", "shape": "ring", "motion": "moving up", "background": "on sand"},
    {"colour": "cyan", "shape": "cross", "motion": "growing", "background": "in fog"},
    {"colour": "orange", "shape": "triangle", "motion": "moving down", "background": "on sand"},
    {"colour": "yellow", "shape": "cross", "motion": "moving up", "background": "in fog"},
)
ROWS: tuple[tuple[str, str, Any, float, str], ...] = (
    ("colour", "attention", "add", 1.0, "all"),
    ("colour", "attention", "add", 2.0, "all"),
    ("shape", "attention", "add", 3.0, "all"),
    ("background", "attention", "set_point", 1.0, "all"),
    ("motion", "context", "add", 1.4, "2-3"),
)
HEAD = 40


def fitted(pipe: Any, kind: str, site: str) -> Any:
    """A control vector of 12 pairs, none of them the caption that is steered."""

    def text(rest: dict[str, str], end: str) -> torch.Tensor:
        return tiny_wan.encode("a " + " ".join({**rest, kind: end}[name] for name in THINGS))

    pairs = [(text(rest, ENDS[kind]), text(rest, THINGS[kind])) for rest in OTHERS]
    call = {name: tiny_wan.CALL[name] for name in ("height", "width", "num_frames")} if site != "context" else {}
    return control_vector(pipe, pairs, site=site, levels=8, origin=f"{THINGS[kind]} to {ENDS[kind]}", **call)


def main() -> None:
    sampler = Sampler()
    strips = [(f'"{FIRST}"', strip(tiny_wan.decode(sampler.latents(FIRST))))]
    for kind, site, operation, strength, blocks in ROWS:
        vector = fitted(sampler.pipe, kind, site)
        with steer(sampler.pipe, vector, strength, operation, blocks=blocks) if strength else nullcontext():
            frames = tiny_wan.decode(sampler.latents(FIRST))
        where = "" if blocks == "all" else f", blocks {blocks}"
        heading = f"{vector.origin}: {operation} {strength:g} at {site}{where}"
        strips.append((heading, strip(frames)))
        sys.stdout.write(f"{heading}: reads {', '.join(r.name for r in tiny_wan.read(frames).values())}\n")
    bars = []
    for kind in ("colour", "background", "motion"):
        vector = fitted(sampler.pipe, kind, "attention")
        values = vector.separability.tolist()
        sys.stdout.write(f"{kind}: separability {', '.join(f'{v:.2f}' for v in values)}\n")
        bars.append(bar_plot(values, f"Separability by block: {vector.origin}", size=(strips[0][1].width, 220)))
    width, height = strips[0][1].size
    out = Image.new("RGB", (width + 2 * MARGIN, len(strips) * (HEAD + height) + len(bars) * 236 + MARGIN), PAPER)
    draw, y = ImageDraw.Draw(out), 0
    for heading, clip in strips:
        draw.text((MARGIN, y + 14), heading, INK, font(14))
        out.paste(clip, (MARGIN, y + HEAD))
        y += HEAD + height
    for plot in bars:
        out.paste(plot, (MARGIN, y + 16))
        y += 236
    out.save(OUT, optimize=True)
    sys.stdout.write(f"{OUT.name}: {OUT.stat().st_size / 1024:.0f} KB\n")


if __name__ == "__main__":
    main()

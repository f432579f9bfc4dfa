"""What an edit changes in the pictures of the tiny trained model: a contact sheet, an animation and a table.

Samples the first prompt, the second, and the first with the second injected into single blocks, thirds of the blocks,
parts of sampling and at part strength. Colour, shape, motion and background are measured from the pixels, on a scale
from 0 (what the first prompt's clip of the same seed shows) to 1 (what the second's shows).
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from tqdm import tqdm

from .. import tiny_wan
from ..tiny_wan.edits import inject
from ..tiny_wan.measure import Sampler, mean, spread
from .sheet import Cell, write_animation, write_sheet

PROMPT = "a red circle moving left at night"
INJECTED = "a blue square moving right on the sea"
BLOCKS = 10
KINDS = ("colour", "shape", "motion", "background")

Figures = dict[str, list[float]]


def cases() -> dict[str, tuple[str, dict[str, Any]]]:
    """Heading and arguments of `inject`, by name."""
    singles = {f"block_{i}": (f"Second prompt in block {i} only", {"blocks": str(i)}) for i in range(BLOCKS)}
    parts = {f"blocks_{part}": (f"Second prompt in blocks {part}", {"blocks": part}) for part in ("0-2", "3-6", "7-9")}
    windows = {
        "first_half": ("All blocks, first half of sampling", {"window": (0.0, 0.5)}),
        "second_half": ("All blocks, second half of sampling", {"window": (0.5, 1.0)}),
    }
    strengths = {f"strength_{s}": (f"All blocks at strength {s}", {"strength": s}) for s in (0.25, 0.5, 0.75)}
    return {**singles, **parts, **windows, **strengths}


def case_names() -> list[str]:
    return list(cases())


def run(arguments: argparse.Namespace) -> None:
    """Sample every case, print the table, write the pictures."""
    sampler = Sampler()
    second = tiny_wan.encode(arguments.inject)
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    chosen = {name: case for name, case in cases().items() if not arguments.only or name in arguments.only}

    def clips(prompt: str) -> list[torch.Tensor]:
        out = []
        for seed in seeds:
            out.append(tiny_wan.decode(sampler.latents(prompt, seed)))
            bar.update()
        return out

    with tqdm(total=(len(chosen) + 2) * len(seeds), desc="Sampling", unit="clip") as bar:
        plain, other = clips(arguments.prompt), clips(arguments.inject)
        results = {}
        for name, (_, options) in chosen.items():
            with inject(sampler.pipe, second, **options):
                results[name] = clips(arguments.prompt)

    ends = [[tiny_wan.read(clip) for clip in group] for group in (plain, other)]

    def figures(group: list[torch.Tensor]) -> Figures:
        rows = [tiny_wan.moved(tiny_wan.read(clip), start, end) for clip, start, end in zip(group, *ends, strict=True)]
        return {kind: [row[kind] for row in rows] for kind in KINDS}

    for title, group in (("First prompt", ends[0]), ("Second prompt", ends[1])):
        seen = [" ".join(reading[kind].name for kind in KINDS) for reading in group]
        print(f"{title + ' reads as':<24} {'; '.join(dict.fromkeys(seen))}")
    print(f"\nMean and standard deviation over {len(seeds)} seeds; 0 = first prompt, 1 = second prompt")
    print("Shape: 0 or 1, whichever of the two is nearer\n")
    print(f"{'':<18}" + "".join(f"{kind:>16}" for kind in KINDS))
    table = {name: figures(group) for name, group in results.items()}
    for name, row in table.items():
        print(f"{name:<18}" + "".join(f"{spread(row[kind]):>16}" for kind in KINDS))

    arguments.output.mkdir(parents=True, exist_ok=True)
    cells = [
        Cell(f"First prompt: {arguments.prompt}", "", plain[0]),
        Cell(f"Second prompt: {arguments.inject}", "", other[0]),
    ]
    for name in _worth_showing(table):
        numbers = "   ".join(f"{kind} {mean(table[name][kind]):.2f}" for kind in KINDS)
        cells.append(Cell(chosen[name][0], f"0 = first prompt, 1 = second:   {numbers}", results[name][0]))
    print(f"\nPictures: {write_sheet(cells, len(seeds), arguments.output / 'contact_sheet.png')}")
    print(f"          {write_animation(cells, arguments.output / 'side_by_side.webp')}")
    print("The model is tiny and trained on moving shapes: block roles of large Wan models differ.")


def _worth_showing(table: dict[str, Figures]) -> list[str]:
    """All cases but single blocks; of these the one that moves each attribute most."""
    singles = [name for name in table if name.startswith("block_")]
    best = set()
    for kind in KINDS:
        effects = {name: mean(table[name][kind]) for name in singles}
        strongest = max(effects, key=lambda name: effects[name], default="")  # called at once
        if effects.get(strongest, 0.0) > 0.3:
            best.add(strongest)
    return [name for name in table if name in best or name not in singles]

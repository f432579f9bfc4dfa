"""What hidden states cost: live two-stream mixing, capture, and addition of captured states.

Time of a conditional model call with mixing or addition over one without, time of a capture over a pass through the
same number of blocks, and extra peak memory in hidden states [1, tokens, dim]. One process; the cases take turns, and
each is compared with the plain call of its own round, so that drift of the machine cancels.

    python benchmarks/hidden_states.py                      # dim 1024, 40 blocks, 1,024 tokens, CPU
    python benchmarks/hidden_states.py --geometry 14b --device cuda --dtype bfloat16
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from injection_overhead import GEOMETRIES, build, held_bytes, peak_bytes, prompt, timed
from wanvideo_activation_editor.patching.capture import HiddenStates
from wanvideo_activation_editor.patching.hosts.diffusers import capture, inject, inject_hidden
from wanvideo_activation_editor.patching.strengths import Explicit

BLOCKS = 40
CAPTURES = (3, 20)

Setting = Callable[[], AbstractContextManager[Any]]


def settings(model: Any, other: torch.Tensor, states: list[HiddenStates]) -> dict[str, tuple[Setting, float | None]]:
    """Cases by name: what is around the call, and the target of its time ratio."""

    def mixing(blocks: str | Explicit) -> Setting:
        return lambda: inject(model, other, blocks, site="hidden")

    def adding(blocks: str, **more: Any) -> Setting:
        return lambda: inject_hidden(model, *states, blocks, 0.5, **more)

    def target(last: int) -> float:
        return 1 + 1.05 * (last + 1) / BLOCKS

    distinct = Explicit(tuple((i + 1) / (BLOCKS + 1) for i in range(BLOCKS)))
    return {
        "plain": (contextlib.nullcontext, None),
        "mixing, 1 block (9)": (mixing("9:0.5"), target(9)),
        "mixing, 10 blocks (0-9)": (mixing("0-9:0.5"), target(9)),
        "mixing, 10 blocks (15-24)": (mixing("15-24:0.5"), target(24)),
        "mixing, 40 blocks": (mixing("all:0.5"), target(39)),
        "mixing, 40 blocks, 40 strengths": (mixing(distinct), target(39)),
        "addition, 1 block": (adding("9"), None),
        "addition, 40 blocks": (adding("all"), None),
        "addition, 40 blocks, norms kept": (adding("all", preserve_norm=True), None),
    }


@contextlib.contextmanager
def only(model: Any, count: int) -> Iterator[None]:
    """The model with its first blocks alone."""
    blocks = model.blocks
    model.blocks = blocks[:count]
    try:
        yield
    finally:
        model.blocks = blocks


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="one is the least noisy")
    parser.add_argument("--no-memory", action="store_true", help="measure time only")
    parser.add_argument(
        "--only", nargs="+", default=[], help="mixing or addition cases to measure, by their full names"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    geometry, device = GEOMETRIES[arguments.geometry], arguments.device
    dtype = getattr(torch, arguments.dtype)
    model, call = build(geometry, device, dtype)
    frames, height, width = geometry["latents"]
    dim, tokens = geometry["heads"] * 128, frames * height * width // 4
    state = tokens * dim * dtype.itemsize
    first, other = prompt(60).to(device, dtype), prompt(80).to(device, dtype)
    latents = torch.randn(1, 16, frames, height, width, device=device, dtype=dtype)

    def capturing(count: int, every: bool = False, embeds: torch.Tensor = first) -> HiddenStates:
        return capture(model, embeds, count, latents=latents, timestep=500.0, every=every)

    states = [capturing(3, embeds=e) for e in (first, other)]
    cases = settings(model, other, states)
    unknown = set(arguments.only) - cases.keys()
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; cases: {'; '.join(cases)}")
    names = [name for name in cases if not arguments.only or name in ("plain", *arguments.only)]
    captures = [] if arguments.only else [(n, every) for n in CAPTURES for every in (False, True)]
    times: dict[str, list[float]] = {name: [] for name in names}
    ratios: dict[tuple[int, bool], list[float]] = {case: [] for case in captures}
    call()
    for turn in range(arguments.rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            with cases[name][0]():
                times[name].append(timed(call, device))
        for count in sorted({count for count, _ in captures}):
            with only(model, count):
                same = timed(call, device)
            for every in (False, True):
                taken = timed(lambda count=count, every=every: capturing(count, every), device)
                ratios[count, every].append(taken / same)

    peaks = {}
    held = held_bytes(device)
    for name in names:
        with cases[name][0]():
            if name.startswith("addition"):
                call()  # the difference stays on the device for the run: it is counted apart, below
            peaks[name] = 0 if arguments.no_memory else peak_bytes(call, device)

    print(
        f"dim {dim}, {BLOCKS} blocks, {tokens} tokens, {arguments.dtype}, {device}, torch {torch.__version__}, ", end=""
    )
    print(f"{torch.get_num_threads()} threads, {arguments.rounds} rounds\n")
    print("| case | median call, s | ratio to plain | quartiles of the ratio | target | extra peak, hidden states |")
    print("|---|---|---|---|---|---|")
    for name in names:
        against = sorted(t / p for t, p in zip(times[name], times["plain"], strict=True))
        low, middle, high = quartiles(against)
        goal = cases[name][1]
        extra = (peaks[name] - peaks["plain"]) / state + name.startswith("addition")
        memory = "not measured" if arguments.no_memory else f"{extra:.2f}"
        print(
            f"| {name} | {statistics.median(times[name]):.3f} | {middle:.3f} | {low:.3f} to {high:.3f} "
            f"| {'' if goal is None else f'{goal:.3f}'} | {memory} |"
        )
    print("\n| capture | time over a pass through the same blocks | quartiles | target |\n|---|---|---|---|")
    for (count, every), measured in ratios.items():
        low, middle, high = quartiles(sorted(measured))
        kept = "every block kept" if every else "the last kept"
        print(f"| {count} blocks, {kept} | {middle:.3f} | {low:.3f} to {high:.3f} | {'' if every else '1.1'} |")
    print(f"\nHeld after the runs: {(held_bytes(device) - held) / state:.2f} hidden states")


def quartiles(ordered: list[float]) -> list[float]:
    return statistics.quantiles(ordered, n=4) if len(ordered) > 1 else ordered * 3


if __name__ == "__main__":
    main()

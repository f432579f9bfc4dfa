"""What control vectors cost: fitting against plain calls, and applying against a plain call.

    python benchmarks/control_vectors.py --threads 1 --rounds 5

Fitting: the calls of 16 pairs x 8 noise levels, both prompts of each, against as many plain calls of the same pipeline;
with --geometry tiny that of the trained tiny model, else of a random one, for which few pairs and levels do.
Applying: dim 1024, one conditional call with every block steered over one without. The cases take turns within a round,
and processor time counts, so that other work on the machine does.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from injection_overhead import GEOMETRIES, build
from wanvideo_activation_editor import ControlVector, control_vector, steer, tiny_wan


def timed(call: Callable[[], Any]) -> float:
    start = time.process_time()
    with torch.no_grad():
        call()
    return time.process_time() - start


def row(name: str, ratios: list[float], target: float) -> None:
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    print(f"| {name} | {middle:.3f} | {low:.3f} to {high:.3f} | {target:g} |")


def random_vector(site: str, blocks: int, width: int) -> ControlVector:
    levels = tuple(n / 8 for n in range(1, 9))
    shape = (blocks, len(levels))
    directions = torch.nn.functional.normalize(torch.randn(*shape, 1, width), dim=-1)
    flat = torch.ones(*shape, 1)
    return ControlVector(
        site, tuple(range(blocks)), levels, directions, torch.ones(shape), 0 * flat, flat,
        torch.full((blocks,), math.nan), torch.ones(*shape, width), torch.zeros(*shape, width), block_count=blocks,
    )  # fmt: skip


def applying(rounds: int, geometry: str) -> None:
    model, call = build(GEOMETRIES[geometry], "cpu", torch.float32)
    width = model.config.num_attention_heads * 128  # type: ignore[union-attr, operator]
    cases: dict[str, Callable[[], Any]] = {}
    for site in ("attention", "hidden"):
        vector = random_vector(site, 40, width)
        for operation in ("add", "ablate", "rotate", "transport"):
            cases[f"{operation} at {site}, 40 blocks"] = lambda v=vector, o=operation: steer(model, v, 0.1, o)
    ratios: dict[str, list[float]] = {name: [] for name in cases}
    timed(call)
    for _ in range(rounds):
        plain = timed(call)
        for name, context in cases.items():
            with context():
                ratios[name].append(timed(call) / plain)
    for name, found in ratios.items():
        row(name, found, 1.02)


def pipeline(geometry: str) -> tuple[Any, dict[str, int]]:
    """A pipeline, and the size of its videos."""
    if geometry == "tiny":
        return tiny_wan.pipeline(), {name: tiny_wan.CALL[name] for name in ("height", "width", "num_frames")}
    model, _ = build(GEOMETRIES[geometry], "cpu", torch.float32)
    frames, height, width = GEOMETRIES[geometry]["latents"]
    pipe = WanPipeline(None, None, None, FlowMatchEulerDiscreteScheduler(shift=5.0), model)
    return pipe, {"height": 8 * height, "width": 8 * width, "num_frames": 4 * frames - 3}


def fitting(rounds: int, pairs: int, levels: int, geometry: str) -> None:
    pipe, call = pipeline(geometry)
    texts = [
        (tiny_wan.encode(f"a blue {shape} {motion} at night"), tiny_wan.encode(f"a red {shape} {motion} at night"))
        for shape in ("circle", "square", "star", "ring")
        for motion in ("moving left", "moving up", "growing", "shrinking")
    ][:pairs]

    def plain() -> None:
        for pair in texts:
            for text in pair:
                pipe(prompt_embeds=text, num_inference_steps=levels, guidance_scale=1.0, output_type="latent",
                     generator=torch.Generator().manual_seed(0), **call)  # fmt: skip

    for site in ("attention", "hidden"):
        for method in ("mean_difference", "transport"):
            ratios = []
            for _ in range(rounds):
                alone = timed(plain)
                fit = timed(
                    lambda s=site, m=method: control_vector(pipe, texts, site=s, method=m, levels=levels, **call)
                )
                ratios.append(fit / alone)
            row(f"fitting, {method} at {site}, {pairs} pairs x {levels} levels", ratios, 1.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--geometry", choices=list(GEOMETRIES), default="small")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--levels", type=int, default=8)
    parser.add_argument("--only", choices=["fitting", "applying"])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print("| case | ratio to plain | quartiles | target |\n|---|---|---|---|")
    with contextlib.suppress(KeyboardInterrupt):
        if given.only != "applying":
            fitting(given.rounds, given.pairs, given.levels, given.geometry)
        if given.only != "fitting":
            applying(given.rounds, given.geometry)


if __name__ == "__main__":
    main()

"""What control vectors cost: fitting against plain calls, and applying against a plain call.

    python benchmarks/control_vectors.py --only applying --blocks 4 --rounds 15
    python benchmarks/control_vectors.py --only fitting --geometry tiny --rounds 3

Fitting: the calls of 16 pairs x 8 noise levels, both prompts of each, against as many plain calls of the same pipeline;
with --geometry tiny that of the trained tiny model, else of a random one, for which few pairs and levels do.
Applying: one conditional call with every block steered over the calls without, before and after it; fewer blocks give
the same ratio in shorter calls, which drift disturbs less. The cases take turns, and processor time counts.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from injection_overhead import GEOMETRIES, build, quartiles, ratios, timed
from wanvideo_activation_editor import ControlVector, control_vector, steer, tiny_wan


def row(name: str, found: list[float], target: float) -> None:
    print(f"| {name} | {quartiles(found)} | {target:g} |", flush=True)


def random_vector(site: str, blocks: int, width: int) -> ControlVector:
    levels = tuple(n / 8 for n in range(1, 9))
    shape = (blocks, len(levels))
    directions = torch.nn.functional.normalize(torch.randn(*shape, 1, width), dim=-1)
    flat = torch.ones(*shape, 1)
    return ControlVector(
        site, tuple(range(blocks)), levels, directions, torch.ones(shape), 0 * flat, flat,
        torch.full((blocks,), math.nan), torch.ones(*shape, width), torch.zeros(*shape, width), block_count=blocks,
    )  # fmt: skip


def applying(rounds: int, geometry: str, blocks: int) -> None:
    model, call = build(GEOMETRIES[geometry], "cpu", torch.float32, blocks)
    width = model.config.num_attention_heads * 128  # type: ignore[union-attr, operator]
    cases: dict[str, Callable[[], Any]] = {"no edit": contextlib.nullcontext}
    for site in ("attention", "hidden"):
        vector = random_vector(site, blocks, width)
        for operation in ("add", "ablate", "rotate", "transport"):
            cases[f"{operation} at {site}"] = lambda v=vector, o=operation: steer(model, v, 0.1, o)
    for name, found in ratios(cases, call, rounds, "cpu").items():
        row(name, found, 1.02)


def pipeline(geometry: str, blocks: int) -> tuple[Any, dict[str, int]]:
    """A pipeline, and the size of its videos."""
    if geometry == "tiny":
        return tiny_wan.pipeline(), {name: tiny_wan.CALL[name] for name in ("height", "width", "num_frames")}
    model, _ = build(GEOMETRIES[geometry], "cpu", torch.float32, blocks)
    frames, height, width = GEOMETRIES[geometry]["latents"]
    pipe = WanPipeline(None, None, None, FlowMatchEulerDiscreteScheduler(shift=5.0), model)
    return pipe, {"height": 8 * height, "width": 8 * width, "num_frames": 4 * frames - 3}


def fitting(rounds: int, pairs: int, levels: int, geometry: str, blocks: int) -> None:
    pipe, call = pipeline(geometry, blocks)
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
            found = []
            for _ in range(rounds):
                alone = timed(plain, "cpu")
                fit = timed(
                    lambda s=site, m=method: control_vector(pipe, texts, site=s, method=m, levels=levels, **call), "cpu"
                )
                found.append(fit / alone)
            row(f"fitting, {method} at {site}, {pairs} pairs x {levels} levels", found, 1.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--geometry", choices=list(GEOMETRIES), default="small")
    parser.add_argument("--blocks", type=int, default=40, help="of the random model")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--levels", type=int, default=8)
    parser.add_argument("--only", choices=["fitting", "applying"])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print("| case | ratio to plain | quartiles | target |\n|---|---|---|---|")
    with contextlib.suppress(KeyboardInterrupt):
        if given.only != "applying":
            fitting(given.rounds, given.pairs, given.levels, given.geometry, given.blocks)
        if given.only != "fitting":
            applying(given.rounds, given.geometry, given.blocks)


if __name__ == "__main__":
    main()

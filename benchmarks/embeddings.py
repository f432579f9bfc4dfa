"""What embedding operations cost: time of each over a plain torch add of two [512, 4096] embeddings.

One process; the operations take turns, and each is compared with an add right before it, so that drift cancels out.
Medians. The amplifier is a search, so its time counts by itself.

    python benchmarks/embeddings.py                  float32, 2 threads
    python benchmarks/embeddings.py --dtype bfloat16
    python benchmarks/embeddings.py --clock cpu --threads 1    one core's time, for a machine that is busy otherwise
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from wanvideo_activation_editor.embeddings.amplification import AMPLIFICATION_MODES, METRICS, amplify
from wanvideo_activation_editor.embeddings.analysis import principal_components
from wanvideo_activation_editor.embeddings.arithmetic import combine, difference_vector
from wanvideo_activation_editor.embeddings.interpolation import interpolate
from wanvideo_activation_editor.patching.transforms import FORCE_MODES, Boost, ForceDifference

TOKENS, WIDTH = 512, 4096
VALUE_SCALE, NEARBY = 0.1, 0.03
ADD = "torch add"


def cases(dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
    """Every operation on embeddings of typical size; the amplifier on prompts that are close, as its users have."""
    torch.manual_seed(0)
    a, b, c, d = (VALUE_SCALE * torch.randn(TOKENS, WIDTH) for _ in range(4))
    near = (a + NEARBY * b).to(dtype)
    a, b, c, d = (x.to(dtype) for x in (a, b, c, d))
    real = torch.ones(TOKENS, 1, dtype=torch.bool)
    table: dict[str, Callable[[], Any]] = {
        ADD: lambda: a + b,
        "difference": lambda: difference_vector(a, b),
        "difference, normalized": lambda: difference_vector(a, b, normalize=True),
        "add, 2 prompts": lambda: combine("add", a, [b], [0.5]),
        "weighted_sum, 2 prompts": lambda: combine("weighted_sum", a, [b], [0.5]),
        "multiply, 2 prompts": lambda: combine("multiply", a, [b], [1.0]),
        "normalize, 2 prompts": lambda: combine("normalize", a, [b], [0.5]),
        "add, 4 prompts": lambda: combine("add", a, [b, c, d], [0.5, -1.0, 2.0]),
        "linear, 5 steps": lambda: interpolate(a, b, 5, "linear"),
        "spherical, 5 steps": lambda: interpolate(a, b, 5, "spherical"),
        "PCA": lambda: principal_components(a),
        "boost": lambda: Boost(10)(a, b, real),
    }
    for mode in FORCE_MODES:
        table[f"force 50%, {mode}"] = partial(ForceDifference(mode, 0.5), a, near, real)
    for mode in AMPLIFICATION_MODES:
        for metric in METRICS:
            table[f"amplify to 60%, {mode}, {metric}"] = partial(amplify, a, near, 60, mode, metric)
    return table


def measure(
    table: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[tuple[float, float]]]:
    """(seconds, seconds of an add right before it) per operation and round; the first round is not counted."""

    def timed(run: Callable[[], Any]) -> float:
        start = clock()
        run()
        return clock() - start

    add = table[ADD]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in table}
    for number in range(rounds + 1):
        for name, run in table.items():
            add()  # brings its memory and the processor to the same state before each pair
            reference, elapsed = timed(add), timed(run)
            if number:
                seconds[name].append((elapsed, reference))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    seconds = measure(cases(getattr(torch, options.dtype)), options.rounds, clock)
    print(
        f"[{TOKENS}, {WIDTH}] {options.dtype}, torch {torch.__version__}, {options.threads} threads, "
        f"{options.clock} time\n"
    )
    print(f"| {'operation':44} | median ms | times an add |\n|{'-' * 46}|----------:|-------------:|")
    for name, values in seconds.items():
        ratio = statistics.median(elapsed / reference for elapsed, reference in values)
        print(f"| {name:44} | {1000 * statistics.median(elapsed for elapsed, _ in values):9.2f} | {ratio:12.2f} |")


if __name__ == "__main__":
    main()

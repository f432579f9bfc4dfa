"""What injection costs: time of a model call with edits over one without, and extra memory.

One process; the cases take turns, and each is compared with the plain call of its own round, so that drift
cancels out. A call is the conditional half of a sampled step: unconditional calls are not edited and cost nothing.

    python benchmarks/injection_overhead.py                       dim 1024, 40 blocks, 1,024 tokens, CPU
    python benchmarks/injection_overhead.py --geometry 14b --device cuda --dtype bfloat16
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from wanvideo_activation_editor import Direction, EditStack, edited, inject
from wanvideo_activation_editor.patching.gains import word_gains
from wanvideo_activation_editor.patching.mask import Box
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.strengths import Explicit
from wanvideo_activation_editor.patching.tokens import parse_tokens

GEOMETRIES: dict[str, dict[str, Any]] = {
    # heads, width of the feed-forward layer, latent frames, height, width (tokens = frames * height * width / 4)
    "small": {"heads": 8, "ffn": 4096, "latents": (4, 32, 32)},
    "14b": {"heads": 40, "ffn": 13824, "latents": (21, 60, 104)},
    "tiny": {"heads": 1, "ffn": 128, "latents": (2, 8, 8)},
}


def build(geometry: dict[str, Any], device: str, dtype: torch.dtype) -> tuple[torch.nn.Module, Callable[[], Any]]:
    """A random Wan transformer of 40 blocks and a function that calls it once."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = WanTransformer3DModel(
            num_attention_heads=geometry["heads"],
            attention_head_dim=128,
            ffn_dim=geometry["ffn"],
            num_layers=40,
        ).eval()
        inputs = {
            "hidden_states": torch.randn(1, 16, *geometry["latents"]),
            "timestep": torch.tensor([500.0]),
            "encoder_hidden_states": prompt(60),
        }
    torch.set_default_dtype(torch.float32)
    return model, lambda: model(**inputs)


def prompt(tokens: int) -> torch.Tensor:
    embeds = torch.zeros(1, 512, 4096)
    embeds[:, :tokens] = torch.randn(1, tokens, 4096)
    return embeds


def cases(model: torch.nn.Module, other: torch.Tensor) -> dict[str, Callable[[], Any]]:
    distinct = Explicit(tuple((i + 1) / 41 for i in range(40)))
    direction = Direction(torch.randn(model.config.num_attention_heads * 128))  # type: ignore[union-attr, operator]
    weighed = word_gains(parse_tokens("3:1.5, 7-9:0.5", most=4), 60, parse_selection("all"))
    return {
        "plain": contextlib.nullcontext,
        "inert (no edit)": lambda: edited(model, EditStack()),
        "1 block": lambda: inject(model, other, "20:0.5"),
        "40 blocks, one strength": lambda: inject(model, other, "all:0.5"),
        "40 blocks, 40 strengths": lambda: inject(model, other, distinct),
        "attention, a direction, one strength": lambda: inject(model, direction, "all:0.5", site="attention"),
        "attention, a direction, 40 strengths": lambda: inject(model, direction, distinct, site="attention"),
        "attention, a prompt": lambda: inject(model, other, "all:0.5", site="attention"),
        "a mask, 1 block": lambda: inject(model, other, "20", mask=Box(right=0.5)),
        "a mask, 40 blocks": lambda: inject(model, other, "all", mask=Box(right=0.5)),
        "words of two weights, 40 blocks": lambda: edited(model, EditStack(tuple(weighed))),
    }


def peak_bytes(call: Callable[[], Any], device: str) -> int:
    """Most memory allocated at once during a call, above what was there before."""
    if device != "cpu":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def held_bytes(device: str) -> int:
    return torch.cuda.memory_allocated() if device != "cpu" else 0


def timed(call: Callable[[], Any], device: str) -> float:
    """Seconds of one call: processor time on the CPU, which other programs hardly disturb, else wall time."""
    if device != "cpu":
        torch.cuda.synchronize()
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="one is the least noisy")
    parser.add_argument("--no-memory", action="store_true", help="measure time only")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    geometry, device = GEOMETRIES[arguments.geometry], arguments.device
    dtype = getattr(torch, arguments.dtype)
    model, call = build(geometry, device, dtype)
    frames, height, width = geometry["latents"]
    dim, tokens = geometry["heads"] * 128, frames * height * width // 4
    other = prompt(80).to(dtype)
    settings = cases(model, other)

    call()
    times: dict[str, list[float]] = {name: [] for name in settings}
    names = list(settings)
    for turn in range(arguments.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            with settings[name]():
                times[name].append(timed(call, device))
    held = held_bytes(device)
    context = 512 * dim * dtype.itemsize
    peaks = {}
    for name, setting in settings.items():
        with setting():
            peaks[name] = 0 if arguments.no_memory else peak_bytes(call, device)

    print(f"dim {dim}, 40 blocks, {tokens} tokens, {arguments.dtype}, {device}, torch {torch.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads, {arguments.rounds} rounds\n")
    print("| case | median call, s | ratio to plain | quartiles of the ratio | extra peak, contexts of [512, dim] |")
    print("|---|---|---|---|---|")
    for name in names:
        ratios = sorted(t / p for t, p in zip(times[name], times["plain"], strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        extra = (peaks[name] - peaks["plain"]) / context
        seconds = statistics.median(times[name])
        memory = "not measured" if arguments.no_memory else f"{extra:.2f}"
        print(f"| {name} | {seconds:.3f} | {middle:.4f} | {low:.4f} to {high:.4f} | {memory} |")
    print(f"\nHeld after the runs: {(held_bytes(device) - held) / context:.2f} contexts")


if __name__ == "__main__":
    main()

"""What injection costs: time of a model call with edits over one without, and extra memory.

One process; the cases take turns, and each is compared with the plain calls before and after it, so that drift
cancels out. A call is the conditional half of a sampled step: unconditional calls are not edited and cost nothing.
Where every block is edited, fewer blocks give the same ratio in shorter calls, which drift disturbs less.

    python benchmarks/injection_overhead.py --blocks 4 --rounds 15 --threads 1    dim 1024, 1,024 tokens, CPU
    python benchmarks/injection_overhead.py --geometry 14b --device cuda --dtype bfloat16
"""

from __future__ import annotations

import argparse
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


def build(
    geometry: dict[str, Any], device: str, dtype: torch.dtype, blocks: int = 40
) -> tuple[torch.nn.Module, Callable[[], Any]]:
    """A random Wan transformer and a function that calls it once."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = WanTransformer3DModel(
            num_attention_heads=geometry["heads"],
            attention_head_dim=128,
            ffn_dim=geometry["ffn"],
            num_layers=blocks,
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


def cases(model: torch.nn.Module, other: torch.Tensor, blocks: int) -> dict[str, Callable[[], Any]]:
    """The plain call is none of them: it is made before and after each."""
    distinct = Explicit(tuple((i + 1) / (blocks + 1) for i in range(blocks)))
    half = str(blocks // 2)
    direction = Direction(torch.randn(model.config.num_attention_heads * 128))  # type: ignore[union-attr, operator]
    weighed = word_gains(parse_tokens("3:1.5, 7-9:0.5", most=4), 60, parse_selection("all"))
    return {
        "no edit": lambda: edited(model, EditStack()),
        "one block": lambda: inject(model, other, f"{half}:0.5"),
        "all blocks, one strength": lambda: inject(model, other, "all:0.5"),
        "all blocks, a strength each": lambda: inject(model, other, distinct),
        "attention, a direction, one strength": lambda: inject(model, direction, "all:0.5", site="attention"),
        "attention, a direction, a strength each": lambda: inject(model, direction, distinct, site="attention"),
        "attention, a prompt": lambda: inject(model, other, "all:0.5", site="attention"),
        "a mask, one block": lambda: inject(model, other, half, mask=Box(right=0.5)),
        "a mask, all blocks": lambda: inject(model, other, "all", mask=Box(right=0.5)),
        "words of two weights, all blocks": lambda: edited(model, EditStack(tuple(weighed))),
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
def ratios(
    settings: dict[str, Callable[[], Any]], call: Callable[[], Any], rounds: int, device: str
) -> dict[str, list[float]]:
    """Per case the time of the call over the mean of the plain calls before and after it."""
    found: dict[str, list[float]] = {name: [] for name in settings}
    call()
    before = timed(call, device)
    for _ in range(rounds):
        for name, setting in settings.items():
            with setting():
                time_taken = timed(call, device)
            after = timed(call, device)
            found[name].append(2 * time_taken / (before + after))
            before = after
    return found


def quartiles(ratios: list[float]) -> str:
    """Median and quartiles, as two cells of a table."""
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return f"{middle:.3f} | {low:.3f} to {high:.3f}"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="one is the least noisy")
    parser.add_argument("--no-memory", action="store_true", help="measure time only")
    parser.add_argument("--only", default="", help="only cases with this in their name")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    geometry, device = GEOMETRIES[arguments.geometry], arguments.device
    dtype = getattr(torch, arguments.dtype)
    model, call = build(geometry, device, dtype, arguments.blocks)
    frames, height, width = geometry["latents"]
    dim, tokens = geometry["heads"] * 128, frames * height * width // 4
    settings = cases(model, prompt(80).to(dtype), arguments.blocks)
    settings = {name: setting for name, setting in settings.items() if arguments.only in name}

    print(f"dim {dim}, {arguments.blocks} blocks, {tokens} tokens, {arguments.dtype}, {device}, ", end="")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.rounds} rounds", flush=True)
    found = ratios(settings, call, arguments.rounds, device)
    held = held_bytes(device)
    plain_peak = 0 if arguments.no_memory else peak_bytes(call, device)
    print("\n| case | ratio to plain | quartiles | extra peak, contexts of [512, dim] |\n|---|---|---|---|")
    for name, setting in settings.items():
        memory = "not measured"
        if not arguments.no_memory:
            with setting():
                memory = f"{(peak_bytes(call, device) - plain_peak) / (512 * dim * dtype.itemsize):.2f}"
        print(f"| {name} | {quartiles(found[name])} | {memory} |", flush=True)
    print(f"\nHeld after the runs: {(held_bytes(device) - held) / (512 * dim * dtype.itemsize):.2f} contexts")


if __name__ == "__main__":
    main()

"""What a block map costs beside trying every block, and a reading of words beside a plain call.

    python benchmarks/probing.py [--blocks 40] [--steps 20] [--seeds 1]

Counts block runs of a small random Wan transformer of diffusers with the real number of blocks, and times both ways in
one process. Of trying every block, four blocks are sampled; the others take as long. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import wanvideo_activation_editor as wae
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from wanvideo_activation_editor.patching.wan_model import discover
from wanvideo_activation_editor.probing.reader import WordReader

TEXT_WIDTH = 64
LEVELS = (0.8, 0.6, 0.4)
# Wan 14B: width, feed-forward width, text tokens, and video tokens of 81 frames at 832 x 480.
WIDTH, FEED_FORWARD, TEXT, VIDEO = 5120, 13824, 512, 32760


def pipeline(blocks: int) -> WanPipeline:
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=4, attention_head_dim=32, in_channels=4, out_channels=4,
        text_dim=TEXT_WIDTH, freq_dim=32, ffn_dim=256, num_layers=blocks, rope_max_seq_len=64,
    ).eval()  # fmt: skip
    vae = AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4,
                           latents_std=[1.0] * 4)  # fmt: skip
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipe = WanPipeline(tokenizer=None, text_encoder=None, vae=vae, scheduler=scheduler, transformer=transformer)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prompt(seed: int) -> torch.Tensor:
    out = torch.zeros(1, 512, TEXT_WIDTH)
    out[0, :20] = torch.randn(20, TEXT_WIDTH, generator=torch.Generator().manual_seed(seed))
    return out


def counted(pipe: WanPipeline, work: Callable[[], object]) -> tuple[int, float]:
    """Block runs and seconds."""
    runs = 0

    def count(*_: object) -> None:
        nonlocal runs
        runs += 1

    handles = [block.register_forward_hook(count) for block in pipe.transformer.blocks]
    started = time.perf_counter()
    work()
    spent = time.perf_counter() - started
    for handle in handles:
        handle.remove()
    return runs, spent


def block_map_cost(blocks: int, steps: int, seeds: int) -> None:
    pipe, main, other = pipeline(blocks), prompt(1), prompt(2)
    call = {"negative_prompt_embeds": prompt(3), "height": 64, "width": 64, "num_frames": 5,
            "num_inference_steps": steps, "guidance_scale": 3.0, "output_type": "latent"}  # fmt: skip

    def sample(seed: int) -> None:
        pipe(prompt_embeds=main, generator=torch.Generator().manual_seed(seed), **call)

    def one_by_one() -> None:
        for seed in range(seeds):
            sample(seed)
            for index in chosen:
                with wae.inject(pipe, other, blocks=str(index)):
                    sample(seed)

    chosen = range(0, blocks, max(blocks // 4, 1))  # the others take as long
    map_runs, map_time = counted(pipe, lambda: wae.block_map(pipe, main, other, LEVELS, seeds, **call))
    part_runs, part_time = counted(pipe, one_by_one)
    whole = (blocks + 1) / (len(chosen) + 1)
    brute_runs, brute_time = round(part_runs * whole), part_time * whole
    print(f"block map, {blocks} blocks, {steps} steps with guidance, {len(LEVELS)} levels, {seeds} seed(s)")
    print(f"  block runs: map {map_runs}, every block sampled to the end {brute_runs}: {map_runs / brute_runs:.3f}")
    print(f"  time: {map_time / brute_time:.3f} of it (1/8 is {1 / 8:.3f})")
    forks = blocks * (blocks + 1) // 2
    plain_forks = blocks * blocks
    print(f"  per level: {forks} block runs for the forks, {plain_forks} without sharing the blocks before them")


def reading_cost() -> None:
    """Per group of tokens: one more cross-attention; its part of a 14B block by operations, and measured here."""
    d, f, t, n = WIDTH, FEED_FORWARD, TEXT, VIDEO
    self_attention = 2 * (4 * n * d * d) + 2 * 2 * n * n * d
    cross = 2 * (2 * n * d * d + 2 * t * d * d) + 2 * 2 * n * t * d
    feed_forward = 2 * 2 * n * d * f
    part = cross / (self_attention + cross + feed_forward)
    print("reading of words, per word and plain call")
    print(f"  by multiplications of a 14B block at {n} video tokens: cross-attention is {part:.3f} of it,")
    print(f"  so that a word costs {1 + part:.3f} of a plain call (target 1.15)")
    pipe, text = pipeline(8), prompt(1)
    x, at = torch.randn(1, 4, 3, 16, 16), torch.tensor([500.0])
    reader = WordReader(discover(pipe.transformer), {"word": [1]}, range(8))
    plain, read = [], []
    with torch.no_grad():
        for _ in range(7):
            plain.append(counted(pipe, lambda: pipe.transformer(x, at, text))[1])
            with reader.reading((3, 8, 8)):
                read.append(counted(pipe, lambda: pipe.transformer(x, at, text))[1])
    ratio = statistics.median(r / p for r, p in zip(read, plain, strict=True))
    print(
        f"  measured on this small model, 3 more cross-attentions (none, word, padding): {ratio:.2f} of a plain call;"
    )
    print("  its text is longer than its video, so cross-attention is most of it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    block_map_cost(args.blocks, args.steps, args.seeds)
    reading_cost()


if __name__ == "__main__":
    main()

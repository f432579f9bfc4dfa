"""Figures of the model card: accuracy through the stock pipeline, and which blocks carry which attribute."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from .codec import CHANNELS, GRID, load_codec
from .data import FRAMES, NAMES, caption_of
from .edits import inject
from .readouts import Reading, accuracy, moved, read
from .text import encode
from .wan_pipeline import CALL, CODEC, TRANSFORMER, decode, pipeline

# Pairs of trained captions that differ in all four attributes.
PAIRS = (
    ("a red circle moving left at night", "a blue square moving right on the sea"),
    ("a yellow star moving up in fog", "a green cross moving down at night"),
    ("a white ring moving right on the sea", "a purple triangle moving left on sand"),
)


class Sampler:
    """Samples clips through the stock pipeline, with noise that depends on the seed alone."""

    def __init__(self, weights: Path = TRANSFORMER) -> None:
        self.pipe = pipeline(weights)

    def latents(self, prompt: str | torch.Tensor, seed: int = 0, negative: str = "") -> torch.Tensor:
        """Latents of one clip, [1, 16, 5, 8, 8], of a caption or of text embeddings [1, 512, 4096]."""
        out: torch.Tensor = self.pipe(
            prompt_embeds=encode(prompt) if isinstance(prompt, str) else prompt,
            negative_prompt_embeds=encode(negative),
            latents=noise([seed]),
            output_type="latent",
            **CALL,
        ).frames
        return out

    def read(self, prompt: str | torch.Tensor, seed: int = 0, negative: str = "") -> dict[str, Reading]:
        return read(decode(self.latents(prompt, seed, negative)))


def noise(seeds: list[int]) -> torch.Tensor:
    """Start of sampling, one clip for each seed."""
    shape = (CHANNELS, FRAMES, GRID, GRID)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def accuracy_of(sampler: Sampler, attributes: torch.Tensor, batch: int = 20) -> dict[str, float]:
    """Part of the clips of these captions that show what they say."""
    codec, videos = load_codec(CODEC), []
    for start in range(0, len(attributes), batch):
        rows = attributes[start : start + batch]
        latents = sampler.pipe(
            prompt_embeds=torch.cat([encode(caption_of(row)) for row in rows]),
            negative_prompt_embeds=encode("").expand(len(rows), -1, -1),
            latents=noise([start + i for i in range(len(rows))]),
            output_type="latent",
            **CALL,
        ).frames
        with torch.no_grad():
            videos.append(codec.decode(latents))
    return accuracy(torch.cat(videos), attributes)


def mean(values: list[float]) -> float:
    """Mean of those that are numbers; NaN if none is."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.mean(known) if known else math.nan


def spread(values: list[float]) -> str:
    """Mean and standard deviation of those that are numbers, as text."""
    known = [value for value in values if not math.isnan(value)]
    return f"{mean(known):.2f} +-{statistics.pstdev(known):.2f}" if known else "same in both"


def block_table(sampler: Sampler, seeds: int = 2) -> str:
    """A table: the second prompt in each block alone and in each third, how far it moves each attribute."""
    count = len(sampler.pipe.transformer.blocks)
    plain = {(text, seed): sampler.read(text, seed) for pair in PAIRS for text in pair for seed in range(seeds)}

    def figures(blocks: str) -> Iterator[dict[str, float]]:
        for first, second in PAIRS:
            for seed in range(seeds):
                editing: AbstractContextManager[object] = (
                    inject(sampler.pipe, encode(second), blocks) if blocks else nullcontext()
                )
                with editing:
                    yield moved(sampler.read(first, seed), plain[first, seed], plain[second, seed])

    lines = [f"{'blocks':<8}" + "".join(f"{kind:>16}" for kind in NAMES)]
    third = count // 3
    for blocks in (
        "all",
        *map(str, range(count)),
        f"0-{third - 1}",
        f"{third}-{2 * third}",
        f"{2 * third + 1}-{count - 1}",
    ):
        found = list(figures(blocks))
        lines.append(f"{blocks:<8}" + "".join(f"{spread([row[kind] for row in found]):>16}" for kind in NAMES))
    return "\n".join(lines)

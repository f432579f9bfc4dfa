"""Effects of many model calls, put together to a block map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..patching.edit import Edit
from ..patching.wan_model import WanModel
from .block_map import PER_BLOCK, BlockMap
from .effects import CallEffects, Method
from .intervals import Array


class Collected:
    """Effects by seed, prompt pair and noise level.

    Args:
        seeds: of the clips.
        levels: noise levels that were asked for.
        pairs: number of prompt pairs.

    Raises:
        ValueError: no seed or no level, or one of them twice.
    """

    def __init__(self, seeds: Sequence[int], levels: Sequence[float], pairs: int = 1) -> None:
        for name, values in (("seeds", seeds), ("noise_levels", levels)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} is {list(values)}; give at least one, and each only once.")
        self._seeds, self._levels, self._pairs = tuple(seeds), tuple(levels), pairs
        self._found: dict[tuple[int, int, float], tuple[float, CallEffects]] = {}

    def add(self, seed: int, pair: int, effects: Mapping[float, tuple[float, CallEffects]]) -> None:
        """What one clip gave: by noise level, the level at which it was measured and the effects there."""
        for level, found in effects.items():
            self._found[seed, pair, level] = found

    def samples(self) -> dict[str, Array]:
        """See `BlockMap.samples`; the mean over prompt pairs."""

        def gather(read: Any) -> Array:
            return np.array(
                [
                    [
                        np.mean([read(self._found[seed, pair, level][1]) for pair in range(self._pairs)], axis=0)
                        for level in self._levels
                    ]
                    for seed in self._seeds
                ],
                dtype=np.float64,
            )

        per_block = {name: gather(lambda e, name=name: getattr(e, name)) for name in PER_BLOCK}
        return {
            **per_block,
            "whole_effect": gather(lambda e: e.whole[0]),
            "whole_motion": gather(lambda e: e.whole[1]),
            "random_effect": gather(lambda e: e.random[0]),
            "random_share": gather(lambda e: e.random[1]),
            "random_motion": gather(lambda e: e.random[2]),
        }

    def result(self, **known: Any) -> BlockMap:
        """The map.

        Args:
            known: `edit`, `model_name`, `identity`, `method` and `finished`; see `BlockMap`.
        """
        at = {level: [s for (_, _, k), (s, _) in self._found.items() if k == level] for level in self._levels}
        levels = tuple(float(np.mean(at[level])) for level in self._levels)
        return BlockMap(self.samples(), levels, self._seeds, pairs=self._pairs, **known)


def measured_blocks(edit: Edit, model: WanModel, verify: int) -> list[int]:
    """Blocks that a map of the edit measures.

    Args:
        verify: how many of them are sampled to the end.

    Raises:
        ValueError: no block; or `verify` is 1 or 2, of which a rank correlation says nothing.
    """
    if verify and verify < 3:
        raise ValueError(f"verify is {verify}; a rank correlation needs at least 3 blocks, or 0 for none.")
    blocks = edit.strengths.active_blocks(model.block_count)
    if not blocks:
        raise ValueError("No block is selected with a strength above 0, so there is nothing to measure.")
    return blocks


def verified_blocks(collected: Collected, measured: Sequence[int], count: int, method: Method) -> list[int]:
    """`count` of the measured blocks, spread evenly over the ranks of their mean effect."""
    if count == 0:
        return []
    name = "share" if method == "integrated_gradients" else "effect"
    mean = collected.samples()[name].mean(axis=(0, 1))
    ordered = sorted(measured, key=lambda i: (-mean[i], i))
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[place] for place in places]

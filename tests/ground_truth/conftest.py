"""The tiny trained model, sampled once for each clip that several tests look at."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from wanvideo_activation_editor import tiny_wan
from wanvideo_activation_editor.tiny_wan import edits
from wanvideo_activation_editor.tiny_wan.measure import Sampler
from wanvideo_activation_editor.tiny_wan.wan_pipeline import TRANSFORMER

FIRST, SECOND = "a red circle moving left at night", "a blue square moving right on the sea"


class Studio(Sampler):
    """Samples, edits and reads clips of the tiny model, on fixed seeds."""

    def __init__(self, weights: Path = TRANSFORMER) -> None:
        super().__init__(weights)
        self.plain = functools.cache(self.read)

    def edited(self, prompt=FIRST, injected=SECOND, seed: int = 0, **options):
        """What the first prompt's clip shows with another injected, a caption or text embeddings."""
        embeds = tiny_wan.encode(injected) if isinstance(injected, str) else injected
        with edits.inject(self.pipe, embeds, **options):
            return self.read(prompt, seed)

    def moved(self, clip, seed: int = 0, first: str = FIRST, second: str = SECOND):
        """0 = as the first caption's clip of this seed, 1 = as the second's."""
        return tiny_wan.moved(clip, self.plain(first, seed), self.plain(second, seed))


@pytest.fixture(scope="session")
def studio() -> Studio:
    return Studio()

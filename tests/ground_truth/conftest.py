"""The tiny trained model, sampled once for each clip that several tests look at."""

from __future__ import annotations

import functools

import pytest
import torch
from wanvideo_activation_editor import tiny_wan
from wanvideo_activation_editor.patching.hosts import diffusers as editor

FIRST, SECOND = "a red circle moving left at night", "a blue square moving right on the sea"


class Studio:
    """Samples and reads clips of the tiny model, on fixed seeds."""

    inject = staticmethod(editor.inject)
    inject_hidden = staticmethod(editor.inject_hidden)
    capture = staticmethod(editor.capture)

    def __init__(self) -> None:
        self.pipe = tiny_wan.pipeline()
        self.plain = functools.cache(self.read)

    def latents(self, prompt, seed: int = 0, negative: str = "") -> torch.Tensor:
        """Latents of a caption, or of text embeddings."""
        return self.pipe(
            prompt_embeds=tiny_wan.encode(prompt) if isinstance(prompt, str) else prompt,
            negative_prompt_embeds=tiny_wan.encode(negative),
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
            **tiny_wan.CALL,
        ).frames

    def read(self, prompt, seed: int = 0, negative: str = ""):
        return tiny_wan.read(tiny_wan.decode(self.latents(prompt, seed, negative)))

    def moved(self, clip, seed: int = 0, first: str = FIRST, second: str = SECOND):
        """0 = as the first caption's clip of this seed, 1 = as the second's."""
        return tiny_wan.moved(clip, self.plain(first, seed), self.plain(second, seed))


@pytest.fixture(scope="session")
def studio() -> Studio:
    return Studio()

"""Edits of a region, of some frames, of one word, and over sampling: read off the pixels of the tiny model's clips."""

from __future__ import annotations

import pytest
import torch
from wanvideo_activation_editor import tiny_wan
from wanvideo_activation_editor.patching.edit import EditStack
from wanvideo_activation_editor.patching.gains import word_gains
from wanvideo_activation_editor.patching.hosts.diffusers import edited
from wanvideo_activation_editor.patching.mask import Box
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.tokens import parse_tokens
from wanvideo_activation_editor.tiny_wan import edits

from .conftest import FIRST

SEA = "a red circle moving left on the sea"
EDGE = 6  # pixels at the left and right border, where no shape is


def ground(latents: torch.Tensor) -> torch.Tensor:
    """Median colour at the left and right edge of every frame: [frames, 2, 3]."""
    clip = tiny_wan.decode(latents).float()  # frames, height, width, 3
    return torch.stack([side.flatten(1, 2).median(dim=1).values for side in (clip[:, :, :EDGE], clip[:, :, -EDGE:])], 1)


@pytest.fixture(scope="module")
def moved(studio):
    """How far the ground is on its way from FIRST's to SEA's, per frame and side, with edits that inject SEA."""
    start, end = ground(studio.latents(FIRST)), ground(studio.latents(SEA))

    def of(*masks, **options) -> torch.Tensor:
        with edits.inject(studio.pipe, tiny_wan.encode(SEA), mask=masks[0] if masks else None, **options):
            found = ground(studio.latents(FIRST))
        return ((found - start) * (end - start)).sum(-1) / ((end - start) ** 2).sum(-1)

    return of


@pytest.mark.parametrize("blocks", ["all", "8"])
@pytest.mark.parametrize("side", [0, 1])
def test_a_second_prompt_in_half_of_the_picture_changes_the_background_there(moved, blocks, side):
    box = Box(right=0.5) if side == 0 else Box(left=0.5)
    far = moved(box, blocks=blocks).mean(0)
    assert far[side] > 0.5 and far[1 - side] < 0.2


def test_a_prompt_from_a_frame_on_changes_the_frames_from_there(moved):
    """Frame 9 begins the fourth of five latent frames."""
    far = moved(Box(first_frame=9), blocks="all").mean(1)
    assert far[:3].max() < 0.25 and far[3:].min() > 0.5


def test_a_schedule_acts_when_its_strength_is_there(moved):
    """The background is decided after the first quarter of sampling (test_effects.py)."""
    early, late = moved(schedule="0.2:1, 0.25:0").mean(), moved(schedule="0.2:0, 0.25:1").mean()
    assert early < 0.2 and late > 0.8
    rising, falling = moved(schedule="0:0, 1:1").mean(), moved(schedule="0:1, 1:0").mean()
    assert abs(rising - falling) > 0.1


@pytest.mark.parametrize("seed", [0, 1])
def test_a_weight_of_0_on_the_colour_word_loses_the_colour_and_on_others_leaves_it(studio, seed):
    """FIRST is `a red circle moving left at night`, a word to a token."""

    def colour(word: int, blocks: str = "all"):
        gains = word_gains(parse_tokens(f"{word}:0"), 7, parse_selection(blocks))
        with edited(studio.pipe, EditStack(tuple(gains))):
            return studio.read(FIRST, seed)["colour"]

    assert colour(1).distances["red"] > 0.5
    others = [colour(word) for word in (0, 2, 3, 4, 5, 6)]
    assert all(found.name == "red" and found.distances["red"] < 0.2 for found in others)
    early, middle = colour(1, "0-2"), colour(1, "3-5")  # blocks do not read it alike
    assert early.name == "red" and early.distances["red"] < 0.1 and middle.distances["red"] > 0.5

"""What help pages, notes and the README say about an effect on the video, on the tiny model."""

from __future__ import annotations

import itertools

import torch
from wanvideo_activation_editor import tiny_wan
from wanvideo_activation_editor.tiny_wan.edits import Boost, amplify, difference_vector, interpolate

from .conftest import FIRST, SECOND

BLUE = "a blue circle moving left at night"
encode = tiny_wan.encode


def names(found) -> str:
    return "a " + " ".join(reading.name for reading in found.values())


def near(first: str, second: str, share: float) -> torch.Tensor:
    """A prompt that goes this share of the way from the first to the second."""
    return torch.lerp(encode(first), encode(second), share)


def blue(studio, clip) -> float:
    """How far the colour has gone from red to blue."""
    return studio.moved(clip, second=BLUE)["colour"]


def test_an_injection_at_a_relative_distance_of_a_tenth_hardly_shows(studio):
    main, other = encode(FIRST), encode(SECOND)
    distance = float((other - main).norm() / main.norm())
    assert distance > 1
    far = studio.moved(studio.edited(injected=near(FIRST, SECOND, 0.1 / distance)))
    assert all(abs(value) < 0.1 for value in far.values())


def test_a_difference_of_prompts_carries_over_what_one_has_and_the_other_has_not(studio):
    def carried(having: str, lacking: str, base: str) -> str:
        return names(studio.read(encode(base) + difference_vector(encode(having), encode(lacking))))

    assert carried(
        "a white ring moving up at night", "a white ring moving up on the sea", "a red circle moving left on the sea"
    ) == ("a red circle moving left at night")
    assert carried(
        "a blue star growing at night", "a red star growing at night", "a red circle moving left on the sea"
    ) == ("a blue circle moving left on the sea")


def test_an_amplified_prompt_shows_more(studio):
    weak = near(FIRST, BLUE, 0.4)
    rows = 7  # as many words
    shown = [blue(studio, studio.edited(injected=weak))]
    for target in (30, 60):
        amplified = torch.zeros_like(weak)
        amplified[0, :rows] = amplify(encode(FIRST)[0, :rows], weak[0, :rows], target, metric="relative_l2").embedding
        shown.append(blue(studio, studio.edited(injected=amplified)))
    assert shown[0] < 0.4
    assert all(after > before + 0.15 for before, after in itertools.pairwise(shown))


def test_a_boosted_prompt_shows_more(studio):
    weak = near(FIRST, BLUE, 0.4)
    shown = [
        blue(studio, studio.edited(injected=weak, transforms=[Boost(factor, True)] if factor else ()))
        for factor in (None, 1.5, 2.5)
    ]
    assert shown[0] < 0.4
    assert all(after > before + 0.15 for before, after in itertools.pairwise(shown))


def test_the_steps_of_an_interpolation_go_from_one_prompt_to_the_other(studio):
    for method in ("linear", "spherical"):
        steps = interpolate(encode(FIRST)[0], encode(BLUE)[0], 5, method)
        assert torch.equal(steps[0], encode(FIRST)[0]) and torch.equal(steps[-1], encode(BLUE)[0])
        found = [studio.read(step[None]) for step in steps[1:-1]]
        shown = [blue(studio, clip) for clip in found]
        assert shown[0] + 0.05 >= 0 and shown[0] + 0.1 < shown[1] < shown[2] - 0.1 and shown[2] < 1.05
        assert all(clip["motion"].name == "moving left" for clip in found)

"""Edits do to the content what they claim. Block roles are those of this file of weights, not of other Wan models."""

from __future__ import annotations

import pytest
import torch
from wanvideo_activation_editor import tiny_wan
from wanvideo_activation_editor.tiny_wan import edits

from .conftest import FIRST, SECOND

BLUE = "a blue circle moving left at night"
SEA = "a red circle moving left on the sea"


def test_all_blocks_at_full_strength_are_the_second_prompt_and_at_none_the_first(studio):
    with edits.inject(studio.pipe, tiny_wan.encode(SECOND)):
        full = studio.latents(FIRST)
    with edits.inject(studio.pipe, tiny_wan.encode(SECOND), strength=0):
        none = studio.latents(FIRST)
    assert torch.equal(full, studio.latents(SECOND))
    assert torch.equal(none, studio.latents(FIRST))
    found = tiny_wan.read(tiny_wan.decode(full))
    assert [reading.name for reading in found.values()] == ["blue", "square", "moving right", "on the sea"]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("kind", "blocks"), [("motion", "2-3"), ("colour", "4-6"), ("shape", "5-6")])
def test_some_blocks_move_one_attribute_and_no_other(studio, kind, blocks, seed):
    far = studio.moved(studio.edited(seed=seed, blocks=blocks), seed)
    assert far.pop(kind) > 0.8
    assert all(abs(value) < 0.2 for value in far.values()), far


@pytest.mark.parametrize("seed", [0, 1])
def test_block_8_moves_the_background_and_dims_the_colour(studio, seed):
    found = studio.edited(seed=seed, blocks="8")
    far = studio.moved(found, seed)
    assert far["background"] > 0.8
    assert abs(far["motion"]) < 0.2 and far["shape"] == 0
    assert 0.2 < far["colour"] < 0.45 and found["colour"].name == "red"  # it is not clean of the colour
    alone = studio.edited(injected=SEA, seed=seed, blocks="8")
    assert [alone[kind].name for kind in ("colour", "motion", "background")] == ["red", "moving left", "on the sea"]


@pytest.mark.parametrize("split", [0.25, 0.5])
def test_windows_act_in_their_part_of_sampling_and_the_last_half_decides(studio, split):
    early, late = (studio.moved(studio.edited(window=window)) for window in ((0.0, split), (split, 1.0)))
    for kind in ("colour", "motion", "background"):
        assert abs(early[kind]) < 0.2
        assert late[kind] > 0.7


def test_an_embedding_difference_steers_the_colour_monotonically(studio):
    rest = [f"{shape} {move} {where}" for shape in ("circle", "star") for move in ("moving left", "growing")
            for where in ("at night", "in fog")]  # fmt: skip
    difference = sum(tiny_wan.encode(f"a blue {r}") - tiny_wan.encode(f"a red {r}") for r in rest) / len(rest)
    steps = [
        studio.moved(studio.read(tiny_wan.encode(FIRST) + scale * difference), second=BLUE)["colour"]
        for scale in (0.0, 0.5, 1.0)
    ]
    assert abs(steps[0]) < 0.05
    assert steps[0] + 0.1 < steps[1] < steps[2]
    assert steps[2] > 0.8


def test_hidden_state_mixing_moves_towards_the_second_prompt(studio):
    half = studio.moved(studio.edited(site="hidden", strength=0.5))
    assert 0.3 < half["background"] < 0.9
    last = studio.moved(studio.edited(site="hidden", blocks="7-9"))
    assert all(far > 0.9 for far in last.values())  # what leaves the last blocks is the second prompt's hidden state
    first = studio.moved(studio.edited(site="hidden", blocks="0-1"))
    assert all(abs(far) < 0.2 for far in first.values())


def test_a_captured_difference_steers_the_colour(studio):
    noise = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(9))
    red, blue = (
        edits.capture(studio.pipe, tiny_wan.encode(text), 10, latents=noise, timestep=900.0, every=True)
        for text in (FIRST, BLUE)
    )

    def with_difference(blocks):
        with edits.inject_hidden(studio.pipe, red, blue, blocks, strength=0.5, reduce="mean"):
            return studio.read(FIRST)

    late, early = with_difference("4-9"), with_difference("0-1")
    assert studio.moved(late, second=BLUE)["colour"] > 0.8
    assert abs(studio.moved(early, second=BLUE)["colour"]) < 0.2
    assert late["motion"].name == "moving left"


@pytest.mark.parametrize("seed", [0, 2])
def test_a_negative_prompt_that_names_the_colour_moves_away_from_it(studio, seed):
    open_colour = "a circle moving left at night"
    before = studio.plain(open_colour, seed)["colour"]
    named = f"a {before.name} circle moving left at night"
    after = studio.edited(prompt=open_colour, injected=named, seed=seed, branch="uncond")
    assert before.distances[before.name] < 0.4
    assert after["colour"].distances[before.name] > 0.7
    assert after["motion"].name == "moving left" and after["background"].name == "at night"

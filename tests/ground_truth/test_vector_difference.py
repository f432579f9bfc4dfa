"""What the help page of Vector Difference says: A - B, added to a third caption, carries over what only A has."""

from __future__ import annotations

import random

import pytest
import torch
from wanvideo_activation_editor import tiny_wan
from wanvideo_activation_editor.embeddings.arithmetic import difference_vector
from wanvideo_activation_editor.tiny_wan.data import HELD_OUT, NAMES, SHAPES, caption
from wanvideo_activation_editor.vectors.applying import steer
from wanvideo_activation_editor.vectors.pipelines import control_vector

from .test_control_vectors import LONG, Clips

A, B = "a blue circle moving left on the sea", "a red circle moving left at night"
LAYOUTS = {"as long as A": ("moving right", "moving up", "moving down"), "a word shorter": ("growing", "shrinking")}


def thirds(motions: tuple[str, ...], count: int = 12) -> list[str]:
    rng = random.Random(5)
    shapes = [shape for shape in SHAPES if not {("red", shape), ("blue", shape)} & HELD_OUT]
    return [caption("red", rng.choice(shapes), rng.choice(motions), "at night") for _ in range(count)]


@LONG
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_attributes_are_carried_over_by_position_and_not_by_the_mean(studio, layout):
    captions, clips = thirds(LAYOUTS[layout]), Clips(studio.pipe, "colour", 1)
    colour, background = (NAMES[kind].index(name) for kind, name in (("colour", "blue"), ("background", "on the sea")))
    plain = clips.read(captions).names()

    def shares(found):
        names = found.names()
        both = (names[:, 0] == colour) & (names[:, 3] == background)
        return float(both.float().mean()), float((names[:, 1:3] == plain[:, 1:3]).float().mean())

    difference = difference_vector(tiny_wan.encode(A)[0], tiny_wan.encode(B)[0])
    added = []
    for text in captions:
        embeds = tiny_wan.encode(text)
        embeds[0, : len(difference)] += difference
        added.append(embeds)
    moved, kept = shares(clips.read(added))
    print(layout, "by position: both", moved, "kept", kept)  # noqa: T201
    assert moved >= 0.9 and kept >= 0.9
    vector = control_vector(studio.pipe, [(tiny_wan.encode(A), tiny_wan.encode(B))], site="context")
    for strength in (0.7, 1.0):
        mean = shares(clips.read(captions, steer(studio.pipe, vector, strength)))
        print(layout, "mean of the span, strength", strength, ": both", mean[0], "kept", mean[1])  # noqa: T201
        assert min(mean) < min(moved, kept)
    assert torch.isfinite(difference).all()

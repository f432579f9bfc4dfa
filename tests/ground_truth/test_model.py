"""The model obeys its captions, and the read-outs tell what is in a clip whatever made it."""

from __future__ import annotations

import pytest
import torch
from wanvideo_activation_editor import tiny_wan
from wanvideo_activation_editor.tiny_wan.data import HELD_OUT, NAMES, caption_of, draw, render
from wanvideo_activation_editor.tiny_wan.readouts import accuracy
from wanvideo_activation_editor.tiny_wan.wan_pipeline import CODEC, load_codec


def test_readouts_are_right_on_rendered_and_on_decoded_clips():
    generator = torch.Generator().manual_seed(5)
    rows = draw(60, generator, None)
    video = render(rows, generator)
    assert accuracy(video, rows)["all"] == 1
    codec = load_codec(CODEC)
    with torch.no_grad():
        decoded = codec.decode(codec.encode(video))
    assert accuracy(decoded, rows)["all"] >= 0.98
    assert (decoded - video).abs().mean() < 0.015


def test_readouts_follow_the_picture_not_its_maker():
    rows = torch.tensor([[0, 0, 0, 0], [2, 1, 1, 2]])
    video = render(rows, torch.Generator().manual_seed(0))
    for row, clip in zip(rows, video, strict=True):
        frames = (255 * clip).round().to(torch.uint8).permute(0, 2, 3, 1)
        backwards = tiny_wan.read(frames.flip(0))
        found = tiny_wan.read(frames)
        assert caption_of(row) == "a " + " ".join(found[kind].name for kind in NAMES)
        assert {found["motion"].name, backwards["motion"].name} == {"moving left", "moving right"}
        assert all(reading.confidence > 0.2 for reading in found.values())


def test_a_clip_without_a_shape_has_no_confident_shape():
    empty = tiny_wan.read(torch.full((5, 96, 96, 3), 20, dtype=torch.uint8))
    assert empty["shape"].confidence == empty["motion"].confidence == 0


@pytest.mark.parametrize(
    "caption",
    [
        "a red circle moving left at night",
        "a blue square moving right on the sea",
        "a white triangle growing on the sea",
        "a purple ring moving down in fog",
    ],
)
def test_a_trained_caption_is_shown(studio, caption):
    found = studio.plain(caption, 0)
    assert "a " + " ".join(found[kind].name for kind in NAMES) == caption


def test_the_captions_leave_out_the_held_out_pairs():
    assert len(tiny_wan.CAPTIONS) + len(tiny_wan.HELD_OUT_CAPTIONS) == 8 * 6 * 6 * 4
    assert not set(tiny_wan.CAPTIONS) & set(tiny_wan.HELD_OUT_CAPTIONS)
    assert all(f" {colour} {shape} " not in text for colour, shape in HELD_OUT for text in tiny_wan.CAPTIONS)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="clips one by one"):
        tiny_wan.decode(torch.zeros(2, 16, 5, 8, 8))
    with pytest.raises(ValueError, match="not finite"):
        tiny_wan.decode(torch.full((1, 16, 5, 8, 8), torch.nan))
    with pytest.raises(ValueError, match="expected uint8"):
        tiny_wan.read(torch.zeros(5, 96, 96, 3))
    with pytest.raises(ValueError, match="at most 512"):
        tiny_wan.encode("word " * 513)

"""Two clips in one: the pictures are kept as they are, and the figures are those of planted differences."""

from __future__ import annotations

import asyncio

import pytest
import torch
import wanvideo_activation_editor


@pytest.fixture(scope="module")
def compare():
    extension = asyncio.run(wanvideo_activation_editor.comfy_entrypoint())
    node = next(c for c in asyncio.run(extension.get_node_list()) if c.define_schema().node_id == "WanVideoComparison")
    return lambda *values: node.execute(*values).result


def clip(frames: int = 5, channels: int = 3) -> torch.Tensor:
    return torch.rand(frames, 48, 64, channels, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize("channels", [3, 4])
def test_both_clips_are_whole_under_their_labels(compare, channels):
    a, b = clip(channels=channels), 1 - clip(channels=channels)
    both, _ = compare(a, b, "plain", "edited")
    frames, height, width, _ = both.shape
    assert (frames, width) == (5, 128) and height > 48 and height % 2 == 0
    assert torch.equal(both[:, height - 48 :, :64], a) and torch.equal(both[:, height - 48 :, 64:], b)
    bar = both[:, : height - 48]
    assert bar[:, :, :64].std() > 0.05 and not torch.equal(bar[:, :, :64], bar[:, :, 64:]), "the labels are written"
    assert torch.equal(bar[0], bar[-1])


def test_figures_are_those_of_what_was_changed(compare):
    a = clip()
    assert compare(a, a.clone(), "a", "b")[1].splitlines()[1:] == [
        f"  {name} frame: relative L2 0.000, SSIM 1.000" for name in ("first", "middle", "last")
    ]
    b = a.clone()
    b[4] *= 1.25  # a quarter of the frame's length
    first, middle, last = compare(a, b, "a", "b")[1].splitlines()[1:]
    assert "relative L2 0.000" in first and "relative L2 0.000" in middle
    assert "relative L2 0.250" in last and float(last.split("SSIM ")[1]) < 1
    assert "relative L2 inf" in compare(torch.zeros_like(a), a, "a", "b")[1]


def test_other_sizes_and_lengths_are_refused(compare):
    with pytest.raises(ValueError, match="5 frames of 64 x 48 and 9 frames of 64 x 48"):
        compare(clip(), clip(9), "a", "b")

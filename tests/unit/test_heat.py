"""The picture of WanVideo Token Reading."""

from __future__ import annotations

import numpy as np
import pytest
from wanvideo_activation_editor.nodes.token_reading import PIXELS, heat_frames
from wanvideo_activation_editor.probing.token_reading import TokenReading


def reading(words: int, frames: int, height: int, width: int) -> TokenReading:
    maps = np.zeros((1, words, frames, height, width))
    for word in range(words):
        maps[0, word, :, word % height, 0] = 1.0
    return TokenReading(
        tuple(f"token {n}" for n in range(words)), {}, np.full((1, 2, words), 1 / words), maps, (0.6,), 0
    )


def test_words_are_below_each_other_16_pixels_a_token_and_bright_where_they_are_read():
    found = heat_frames(reading(2, 3, 4, 6))
    assert found.shape == (3, 2 * 64, 96, 3) and 0 <= found.min() < found.max() <= 1
    for word, top in enumerate((0, 64)):
        rows = found[0, top : top + 64, 1].sum(-1)
        assert rows.argmax() // 16 == word


@pytest.mark.parametrize("words", [60, 300])
def test_a_frame_of_many_words_has_no_more_pixels_than_are_stated(words):
    _, height, width, _ = heat_frames(reading(words, 1, 30, 52)).shape
    assert PIXELS / 4 < height * width <= PIXELS and height % words == 0

"""Text and pictures of block strengths."""

from __future__ import annotations

import torch
from wanvideo_activation_editor.patching.plot import as_comfy_image, bar_plot, colour
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.strengths import Pattern
from wanvideo_activation_editor.patching.views import bar_chart, block_list, block_pattern, cell_grid, strength_summary

RAMP = Pattern("linear_rise", 1.0).resolve(40)


def test_the_grid_has_rows_of_ten_with_one_cell_per_block():
    grid = cell_grid(parse_selection("0-4, 12:0.3").resolve(32)).splitlines()
    assert [line.split()[0] for line in grid] == ["0-9", "10-19", "20-29", "30-31"]
    assert grid[0].count("■") == 5
    assert grid[1].split()[1:] == [*"□□▒□□□□□□□"]
    assert len(grid[3].split()) == 3


def test_the_log_pattern_has_groups_of_ten():
    assert block_pattern(parse_selection("0-9, 15:0.2").resolve(30)) == "██████████ ·····▒···· ··········"


def test_the_summary_counts_and_names_the_preset():
    assert strength_summary((0.0,) * 40) == "0 of 40 blocks active"
    assert strength_summary(parse_selection("mid_blocks:0.5").resolve(40)) == (
        "20 of 40 blocks active, strength 0.5, preset mid_blocks"
    )
    assert "strength 0.03 to 1.00" in strength_summary(RAMP)
    assert "preset" not in strength_summary(RAMP)


def test_blocks_are_listed_as_ranges():
    assert block_list(parse_selection("0-4, 7, 30-39").resolve(40)) == "0-4, 7, 30-39"
    assert block_list((0.0,) * 40) == "none"


def test_the_chart_rises_with_the_strengths():
    lines = bar_chart(RAMP, height=8, numbers=False).splitlines()[:8]
    heights = [sum(line[6 + i] != " " for line in lines) for i in range(40)]
    assert heights == sorted(heights)
    assert heights[0] == 0
    assert heights[1] == 1  # small, but visible
    assert heights[-1] == 8
    assert "1.00" in bar_chart(RAMP, numbers=True).splitlines()[-1]


def column_height(image: torch.Tensor, x: int) -> int:
    """Coloured pixels in one column of the plot, whose background is nearly grey."""
    column = image[0, 60:340, x]
    return int(((column.max(-1).values - column.min(-1).values) > 0.15).sum())


def test_the_image_shows_each_strength_as_a_bar():
    image = as_comfy_image(bar_plot(RAMP, "title", numbers=False))
    assert image.shape == (1, 400, 960, 3)
    assert image.dtype == torch.float32
    assert 0.0 <= float(image.min()) < float(image.max()) <= 1.0
    pitch = (940 - 56) / 40
    heights = [column_height(image, round(56 + pitch * (i + 0.5))) for i in range(40)]
    for i, height in enumerate(heights):
        assert abs(height - RAMP[i] * 290) < 14 or i < 2


def test_the_colour_scale_grows_brighter():
    brightness = [sum(colour(i / 10)) for i in range(11)]
    assert brightness == sorted(brightness)

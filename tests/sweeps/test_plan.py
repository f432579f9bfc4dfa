"""Axes become cells, and what has no meaning is refused with its place."""

from __future__ import annotations

import pytest
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.sweeps import Model, load_plan
from wanvideo_activation_editor.sweeps.cells import Cell

from .conftest import FIRST, SECOND, plan

TOML = f"""
seeds = [5]
blocks = ["each", "thirds", 4, {{top = 2, map = "map.json"}}]
strengths = [0.5, 1.0]
windows = [[0, 1], [0, 0.5]]
operations = [{{}}, {{operation = "Replace", site = "attention"}}]
distances = ["ssim"]
[[pairs]]
prompt = "{FIRST}"
other = "{SECOND}"
[[models]]
name = "one"
[[models]]
name = "two"
source = "weights"
"""


def edits(found):
    return [c for c in found if c.kind == "edit"]


def test_each_combination_of_axes_is_a_cell(tmp_path, block_map):
    (tmp_path / "map.json").write_text(block_map)
    (tmp_path / "fox.toml").write_text(TOML)
    read = load_plan(tmp_path / "fox.toml")
    assert read.name == "fox" and read.models[1].source == str(tmp_path / "weights")
    found = read.cells(read.models[0], 10)
    chosen = list(dict.fromkeys(c.blocks for c in edits(found)))
    assert chosen == [*map(str, range(10)), "0-2", "3-6", "7-9", "3, 8"]  # 4 is one of each
    assert len(edits(found)) == 14 * 2 * 2 * 2
    assert {(c.operation.get("site"), c.window, c.strength, c.seed) for c in edits(found)} == {
        (site, window, strength, 5)
        for site in (None, "attention")
        for window in ((0, 1), (0, 0.5))
        for strength in (0.5, 1)
    }
    assert len({c.id for c in found}) == len(found)
    assert [c.kind for c in found].index("edit") == 1


@pytest.fixture
def block_map() -> str:
    import json

    import numpy as np
    from wanvideo_activation_editor import BlockMap
    from wanvideo_activation_editor.probing.block_map import PER_BLOCK, PER_CALL

    shares = np.zeros((1, 1, 10))
    shares[..., [3, 8]] = 0.4
    samples = {name: shares for name in PER_BLOCK} | {name: np.ones((1, 1)) for name in PER_CALL}
    return json.dumps(BlockMap(samples, (0.5,), (0,)).to_plain())


def test_random_blocks_are_as_many_others_with_the_same_strengths():
    for blocks in ("3", "0-4", "1:0.5, 8", "0-7"):
        found = plan(blocks=[blocks], seeds=6).cells(Model("m"), 10)
        for cell in (c for c in found if c.kind == "random_blocks"):
            mine, others = (parse_selection(text).resolve(10) for text in (blocks, cell.blocks))
            assert sorted(mine) == sorted(others) and mine != others
            shared = sum(a > 0 and b > 0 for a, b in zip(mine, others, strict=True))
            assert shared == max(0, 2 * sum(v > 0 for v in mine) - 10)
    assert not [c for c in plan(blocks=["all"]).cells(Model("m"), 10) if c.kind == "random_blocks"]
    assert {c.kind for c in plan(controls=False).cells(Model("m"), 10)} == {"plain", "edit"}


def test_a_cell_is_itself_after_json():
    for cell in plan(windows=[(0.25, 0.5)]).cells(Model("m"), 10):
        again = Cell.from_json(cell.to_json())
        assert again == cell and again.id == cell.id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": ["7-3"]}, "runs backwards"),
        ({"blocks": "all"}, "blocks: give a list"),
        ({"blocks": []}, "blocks: give a list"),
        ({"blocks": [{"top": 3}]}, 'needs "map"'),
        ({"strengths": [1.5]}, "strengths must be from 0 to 1"),
        ({"windows": [(0.5, 0.5)]}, "window runs from"),
        ({"operations": [{"operation": "Stir"}]}, "no operation 'Stir'"),
        ({"operations": [{"operation": "Add", "speed": 1}]}, "Add:"),
        ({"operations": [{"site": "roof"}]}, "roof"),
        ({"pairs": [("one",)]}, "argument"),
        ({"pairs": [{"prompt": "one", "recipe": "nowhere.safetensors"}]}, "cannot be read"),
        ({"distances": ["miles"]}, "no 'miles'"),
        ({"readout": "eyes"}, "'eyes'"),
        ({"models": ["tiny_wan", "tiny_wan"]}, "same name"),
        ({"call": {"a": object()}}, "call: "),
    ],
)
def test_a_plan_without_meaning_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        plan(**changes)


def test_a_file_without_meaning_is_refused(tmp_path):
    for text, message in (("seeds = ", "bad.toml: "), ("colour = 1", "no key 'colour'"), ("seeds = 1", "pairs")):
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_plan(tmp_path / "bad.toml")


def test_a_block_beyond_the_last_is_refused_before_anything_is_sampled():
    with pytest.raises(ValueError, match="Block 12 is selected, but the model has 10"):
        plan(blocks=["12"]).cells(Model("m"), 10)

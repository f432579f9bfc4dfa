"""The tester's verdict takes into account what an edit does with the prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from wanvideo_activation_editor.patching.edit import Window
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.strengths import Uniform
from wanvideo_activation_editor.patching.verdict import verdict

FAR = 1.2
EXAMPLE = Path(__file__).resolve().parents[2] / "example_workflows" / "11 Debug an injection (wrapper).json"


def of(blocks: str, strength: float = 1.0, window: tuple[float, float] = (0.0, 1.0), distance: float = FAR) -> str:
    return verdict((parse_selection(blocks) * Uniform(strength)).resolve(40), Window(*window), distance)


def test_the_example_that_is_broken_on_purpose_is_said_to_do_little():
    nodes = json.loads(EXAMPLE.read_text(encoding="utf-8"))["nodes"]
    (editor,) = [node for node in nodes if node["type"] == "WanVideoActivationEditor"]
    strength, blocks, _, _, _, start, end, _ = editor["widgets_values"]
    found = of(blocks, strength, (start, end))
    assert found.startswith("expect a small effect: strength 0.20 in 1 of 40 blocks")
    assert "Block Map" in found


@pytest.mark.parametrize("blocks", ["all", "10-29:0.6", "early_blocks", "3-6"])
def test_far_prompts_in_several_blocks_are_different_enough(blocks):
    assert of(blocks) == "different enough to show"


@pytest.mark.parametrize(
    ("found", "reason", "advice"),
    [
        (of("all", distance=0.05), "nearly alike", "Amplifier"),
        (of("all", strength=0.05), "strength 0.05 in 40 of 40", "raise the strength"),
        (of("7"), "strength 1.00 in 1 of 40", "Block Map"),
        (of("all", window=(0.6, 1.0)), "after 60% of sampling", "begin earlier"),
        (of("all", window=(0.1, 0.15)), "5% of sampling", "widen the window"),
    ],
)
def test_each_reason_comes_with_what_to_do(found, reason, advice):
    assert found.startswith("expect a small effect") and reason in found and advice in found


def test_no_block_is_no_effect():
    assert of("none").startswith("no effect") and of("all", strength=0.0).startswith("no effect")

"""The bars of WanVideo Block Strength Builder."""

from __future__ import annotations

import pytest
from wanvideo_activation_editor.patching.strengths import PATTERNS, Pattern

from .editor import STRENGTHS, GraphPage, node, workflow

CURVE = [0.8, 20, 5.0, 5]  # base_strength, peak_block, spread, step_size
RISE = [round(i / 100, 2) for i in range(40)]
CUSTOM = ["custom", *CURVE, *RISE, 7]


def curve(name: str, base: float = 0.8, peak: int = 20, spread: float = 5.0, step: int = 5, seed: int = 0):
    return pytest.approx(Pattern(name, base, peak, spread, step, seed).resolve(40), abs=1e-4)


def hundredths(values: list[float]):
    return pytest.approx(values, abs=0.0051)


# Files


def test_files_of_every_kind(page: GraphPage):
    page.load(workflow(node(STRENGTHS, CUSTOM)))
    assert page.bars() == RISE
    assert page.values() == CUSTOM
    page.load(workflow(node(STRENGTHS, CUSTOM[:-1])))  # before there was a seed
    assert page.values() == [*CUSTOM[:-1], 0]
    page.load(workflow(node(STRENGTHS, ["gaussian_peak"])))
    assert page.bars() == curve("gaussian_peak", 0.5)
    assert page.values()[5:45] == hundredths(page.bars())
    page.load(workflow(node(STRENGTHS)))
    assert page.values() == ["custom", 0.5, 20, 5, 5, *[0] * 40, 0]


def test_strengths_that_disagree_with_the_pattern_are_kept_and_the_pattern_is_shown(page: GraphPage):
    page.load(workflow(node(STRENGTHS, ["random", *CURVE, *RISE, 7])))
    assert page.bars() == curve("random", seed=7)
    assert page.values() == ["random", *CURVE, *RISE, 7]


def test_a_file_in_api_format(page: GraphPage):
    inputs = {f"block_{i}_strength": RISE[i] for i in range(40)}
    given = dict(zip(("base_strength", "peak_block", "spread", "step_size"), CURVE, strict=True))
    page.load({"1": {"class_type": STRENGTHS, "inputs": {"pattern": "random", **given, **inputs, "seed": 7}}})
    assert page.values() == ["random", *CURVE, *RISE, 7]
    assert page.bars() == curve("random", seed=7)
    page.load({"1": {"class_type": STRENGTHS, "inputs": {"pattern": "custom", **given, **inputs}}})
    assert page.bars() == RISE


def test_save_and_reload_keep_the_file(page: GraphPage):
    page.load(workflow(node(STRENGTHS, CUSTOM)))
    first = page.saved()["nodes"]
    page.load(page.saved())
    assert page.saved()["nodes"] == first
    prompt = page.prompt()["1"]["inputs"]
    assert [prompt[f"block_{i}_strength"] for i in range(40)] == RISE
    assert len(prompt) == 46


# Curves


def test_every_pattern_is_drawn_as_python_computes_it(page: GraphPage):
    page.load(workflow(node(STRENGTHS, ["custom", 0.73, 12, 2.5, 7, *RISE, 99])))
    for name in PATTERNS:
        page.choose("pattern", name)
        assert page.bars() == curve(name, 0.73, 12, 2.5, 7, 99), name
        assert page.values()[0] == name


def test_parameters_redraw_the_curve(page: GraphPage):
    page.load(workflow(node(STRENGTHS, ["gaussian_peak", *CURVE])))
    for widget, value, changed in (
        ("base_strength", 0.4, {"base": 0.4}),
        ("peak_block", 3, {"base": 0.4, "peak": 3}),
        ("spread", 11.0, {"base": 0.4, "peak": 3, "spread": 11.0}),
    ):
        page.choose(widget, value)
        assert page.bars() == curve("gaussian_peak", **changed)
    page.choose("pattern", "stepped")
    page.choose("step_size", 3)
    assert page.bars() == curve("stepped", 0.4, step=3)
    page.choose("pattern", "random")
    page.choose("seed", 5)
    assert page.bars() == curve("random", 0.4, seed=5)


def test_custom_starts_from_the_curve_that_was_shown(page: GraphPage):
    page.load(workflow(node(STRENGTHS, ["linear_rise", *CURVE])))
    page.choose("base_strength", 0.5)
    page.choose("pattern", "custom")
    assert page.bars() == hundredths(Pattern("linear_rise", 0.5).resolve(40))
    assert page.values()[0] == "custom"


# Editing


def test_a_drag_sets_a_bar_and_the_pattern(page: GraphPage):
    page.load(workflow(node(STRENGTHS, ["uniform", *CURVE])))
    page.drag(page.bar(7, 0.8), page.bar(7, 0.3))
    values = page.values()
    assert values[0] == "custom"
    assert values[5 + 7] == pytest.approx(0.3, abs=0.02)
    assert values[5:45] == [values[12] if i == 7 else 0.8 for i in range(40)]
    assert page.bars() == values[5:45]


def test_painting_across_draws_a_line_without_gaps(page: GraphPage):
    page.load(workflow(node(STRENGTHS, ["custom"])))
    page.drag(page.bar(5, 0.0), page.bar(25, 1.0), steps=2)
    values = page.values()[5:45]
    assert values[5:26] == pytest.approx([k / 20 for k in range(21)], abs=0.04)
    assert values[:5] == [0] * 5
    assert values[26:] == [0] * 14


def test_a_click_only_focuses(page: GraphPage):
    page.load(workflow(node(STRENGTHS, CUSTOM)))
    page.click(page.bar(7, 0.9))
    assert page.values() == CUSTOM
    assert page.js("() => document.activeElement.getAttribute('aria-label')") == "Strength of block 7"


def test_the_wheel_is_fine_where_the_bars_have_the_focus_and_zooms_elsewhere(page: GraphPage):
    page.load(workflow(node(STRENGTHS, CUSTOM)))
    page.page.mouse.move(*page.bar(7, 0.5))
    page.page.mouse.wheel(0, -100)
    page.settle()
    assert page.js("() => app.canvas.ds.scale") > 1.0
    assert page.values() == CUSTOM
    page.view(1.0)
    page.click(page.bar(7, 0.5))
    for _ in range(3):
        page.page.mouse.wheel(0, -100)
    page.page.mouse.wheel(0, 100)
    page.settle()
    assert page.js("() => app.canvas.ds.scale") == 1.0
    assert page.values()[5 + 7] == 0.09


def test_a_double_click_lets_a_value_be_typed(page: GraphPage):
    page.load(workflow(node(STRENGTHS, CUSTOM)))
    for typed, key, expected in (
        ("0.42", "Enter", 0.42),
        ("0.9", "Escape", 0.42),
        ("7", "Enter", 1),
        ("x", "Enter", 1),
    ):
        page.page.mouse.dblclick(*page.bar(12, 0.5))
        page.page.keyboard.type(typed)
        page.press(key)
        assert page.values()[5 + 12] == expected
    assert page.page.locator(".wan-ae-type").count() == 0
    assert page.page.locator(".graphdialog, .litesearchbox, .p-dialog").count() == 0, "no dialog of the canvas opened"


def test_keys(page: GraphPage):
    page.load(workflow(node(STRENGTHS, CUSTOM)))
    page.click(page.bar(7, 0.5))
    page.press("ArrowUp", "Shift+ArrowUp", "ArrowRight", "ArrowDown", "Home", "ArrowUp", "End", "Delete")
    values = page.values()[5:45]
    assert [values[i] for i in (0, 7, 8, 39)] == [0.01, 0.18, 0.07, 0]
    page.press("ArrowLeft", "0", ".", "5", "Enter", "Enter", "Escape")
    assert page.values()[5 + 38] == 0.5
    assert page.ids() == [1]


def test_undo_takes_one_stroke_back(page: GraphPage):
    page.load(workflow(node(STRENGTHS, CUSTOM)))
    page.drag(page.bar(0, 0.5), page.bar(10, 0.5))
    assert page.values() != CUSTOM
    page.press("Control+z")
    page.settle(20)
    assert page.values() == CUSTOM


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_bars_are_hit_at_any_zoom(page: GraphPage, scale: float):
    page.load(workflow(node(STRENGTHS, CUSTOM)), scale)
    page.drag(page.bar(30, 0.2), page.bar(30, 0.9))
    assert page.values()[5 + 30] == pytest.approx(0.9, abs=0.06)
    assert page.values()[5 + 29] == RISE[29]

"""Colours in the dark and the light theme."""

from __future__ import annotations

import re

import pytest

from .editor import ACTIVATIONS, EDITOR, STRENGTHS, GraphPage, node, workflow

COLOURS = """e => { const s = getComputedStyle(e); return [s.backgroundColor, s.color]; }"""


def luminance(colour: str) -> float:
    """WCAG relative luminance of a CSS colour without transparency."""
    parts = [float(p) for p in re.findall(r"[\d.]+", colour)]
    if colour.startswith("color(srgb"):
        parts = [255 * p for p in parts[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (p / 255 for p in parts)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.fixture(params=["dark", "light"])
def themed(request: pytest.FixtureRequest, page: GraphPage) -> GraphPage:
    choose = "async t => { await app.extensionManager.setting.set('Comfy.ColorPalette', t); }"
    page.js(choose, request.param)
    page.settle(10)
    yield page
    page.js(choose, "dark")


def test_cells_and_bars_are_told_apart_by_brightness_and_can_be_read(themed: GraphPage):
    themed.load(workflow(node(ACTIVATIONS, ["alternating"]), node(STRENGTHS, ["uniform"], 2), node(EDITOR, None, 3)))
    on, on_text = themed.part(".wan-ae-cell", 0).evaluate(COLOURS)
    off, off_text = themed.part(".wan-ae-cell", 1).evaluate(COLOURS)
    assert contrast(on, off) >= 3
    assert contrast(on, on_text) >= 4.5
    assert contrast(off, off_text) >= 3
    bar = themed.part(".wan-ae-bar > i", 0, 2).evaluate(COLOURS)[0]
    assert contrast(bar, themed.part(".wan-ae-bars", 0, 2).evaluate(COLOURS)[0]) >= 3


def test_the_theme_is_that_of_the_page(themed: GraphPage):
    """So that the test above saw two themes."""
    themed.load(workflow(node(ACTIVATIONS, ["none"])))
    background = luminance(themed.part(".wan-ae-cell", 1).evaluate(COLOURS)[0])
    is_light = themed.js("() => app.extensionManager.setting.get('Comfy.ColorPalette')") == "light"
    assert (background > 0.4) == is_light

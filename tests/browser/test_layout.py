"""Examples on a screen of 1280x800: all nodes and their texts are there, and none covers another, badges included."""

from __future__ import annotations

import itertools
import json

import pytest

from .editor import HEIGHT, WIDTH, GraphPage
from .test_examples import FILES

BOXES = """() => app.graph._nodes.map(n => {
    const element = document.querySelector(`[data-node-id="${n.id}"]`); // in Nodes 2.0 all that is drawn
    const [width, height] = element ? [element.offsetWidth, element.offsetHeight]
        : n.flags.collapsed ? [n.boundingRect[2], 30] : [n.size[0], Math.max(n.size[1], n.computeSize()[1]) + 30];
    return [n.type, n.pos[0], n.pos[1] - 30, width, height]; })"""

OPENED = """async data => {
    const canvas = app.canvas;
    canvas.min_font_size_for_lod = 8; // the setting's default
    await app.loadGraphData(data);
    await new Promise(requestAnimationFrame);
    const { scale, offset } = canvas.ds, menu = document.querySelector('.side-tool-bar-container');
    const bar = document.querySelector('.actionbar-container');
    const [left, top] = [menu.getBoundingClientRect().right, bar.getBoundingClientRect().bottom];
    const outside = [...app.graph._nodes, ...app.graph._groups].filter(item => {
        const [x, y, width, height] = item.boundingRect ?? item._bounding;
        return (x + offset[0]) * scale < left || (x + width + offset[0]) * scale > innerWidth
            || (y + offset[1]) * scale < top || (y + height + offset[1]) * scale > innerHeight;
    });
    return { texts: !canvas.low_quality, scale, outside: outside.map(item => item.title) }; }"""


def overlap(a: list[float], b: list[float]) -> bool:
    return a[1] < b[1] + b[3] and b[1] < a[1] + a[3] and a[2] < b[2] + b[4] and b[2] < a[2] + a[4]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_node_covers_another(page: GraphPage, path):
    page.load(json.loads(path.read_text(encoding="utf-8")), scale=0.5)

    def covered() -> list[tuple[str, str]]:
        boxes = page.js(BOXES)
        assert len(boxes) > 10
        return [(a[0], b[0]) for a, b in itertools.combinations(boxes, 2) if overlap(a, b)]

    page.until(lambda: covered() == [])
    assert covered() == [], [b for b in page.js(BOXES) if "Note" in b[0]]
    page.page.keyboard.press("Escape")
    page.problems.clear()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_opens_whole_and_with_its_texts(page: GraphPage, path):
    """On a screen of 1280x800, in what the menus leave free. "Fit view" has wider margins, and hides the texts."""
    if page.vue:
        pytest.skip("Nodes 2.0 always draws texts, and the older one moves everything apart by a fifth")
    page.page.set_viewport_size({"width": 1280, "height": 800})
    try:
        page.settle()
        opened = page.js(OPENED, json.loads(path.read_text(encoding="utf-8")))
        assert opened["texts"] and opened["scale"] > 8 / 14
        assert opened["outside"] == []
    finally:
        page.page.keyboard.press("Escape")
        page.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
        page.problems.clear()

"""No node of an example covers another, with the badges that the front end draws."""

from __future__ import annotations

import itertools
import json

import pytest

from .editor import GraphPage
from .test_examples import FILES

BOXES = """() => app.graph._nodes.map(n => {
    const drawn = document.querySelector(`[data-node-id="${n.id}"]`)?.offsetHeight ?? 0;
    return [n.type, n.pos[0], n.pos[1] - 30, n.size[0], Math.max(drawn, n.size[1] + 30, n.computeSize()[1] + 30)]; })"""


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

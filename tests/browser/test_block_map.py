"""The block map on the viewer: what is measured is drawn, and a click on a column chooses its block."""

from __future__ import annotations

import json
from typing import Any

from ..comfyui.test_probing import block_map, view
from ..comfyui.workflows import FOX, Workflow, WrapperHost
from .editor import ACTIVATIONS, EDITOR, GraphPage
from .test_editor_status import queue

CELLS = """e => [...e.querySelectorAll('[role=gridcell]')].map(c => [c.title, c.style.outline !== ''])"""
BLOCKS, LEVELS = 30, 2


def measured(page: GraphPage) -> tuple[int, int, dict[str, Any]]:
    """Run a map, beside an editor with the viewer's strengths and a builder's choice; ids of viewer and builder."""
    host, flow = WrapperHost(page.server), Workflow()
    viewer = view(flow, block_map(host, flow))
    builder = flow.add(ACTIVATIONS, preset="all")
    embeds = host.embeds(flow, FOX)
    given = {"block_activations": builder, "block_strengths": [viewer[0], 2], "injection_strength": 1.0}
    flow.add(EDITOR, model=host.load(flow), text_embeds=embeds, injection_embeds=embeds, **given)
    page.load(flow)
    file = page.saved()  # 1.35.9's Nodes 2.0 puts all nodes of an API file in one place
    page.load({**file, "nodes": [{**n, "pos": [500 * int(n["id"]), 100]} for n in file["nodes"]]})
    assert page.line(int(viewer[0])) == "Run the node to see the map"
    found = json.loads(queue(page).output(viewer[0], "block_map")[0])
    return int(viewer[0]), int(builder[0]), found


def click(page: GraphPage, viewer: int, *blocks: int) -> None:
    page.js("id => app.canvas.centerOnNode(app.graph.getNodeById(id))", viewer)
    page.settle()
    for block in blocks:
        page.click(page.centre(page.part("[role=gridcell]", block, viewer)))


def chosen(page: GraphPage, builder: int) -> list[int]:
    return [block for block, on in enumerate(page.cells(builder)) if on]


def test_the_map_is_drawn_and_a_click_chooses_blocks(page: GraphPage):
    viewer, builder, found = measured(page)
    cells = page.picture(viewer).evaluate(CELLS)
    assert len(cells) == LEVELS * BLOCKS
    shown = [title.split(": ")[1].split(" (")[0] for title, _ in cells]
    assert shown == [f"share {value:.3f}" for row in found["values"] for value in row]
    click(page, viewer, 3)
    assert chosen(page, builder) == [3], "in place of the preset"
    box = page.part("[role=gridcell]", 0, viewer).bounding_box()
    assert box["width"] >= 5 and box["height"] >= 10, "large enough to hit"
    click(page, viewer, BLOCKS - 1)
    assert chosen(page, builder) == [3, BLOCKS - 1]
    marked = [i for i, (_, on) in enumerate(page.picture(viewer).evaluate(CELLS)) if on]
    assert marked == [3, BLOCKS - 1, BLOCKS + 3, 2 * BLOCKS - 1], "the whole column"
    given = page.prompt()[str(builder)]["inputs"]
    assert given["preset"] == "custom"
    assert [i for i in range(40) if given[f"block_{i}"]] == [3, BLOCKS - 1]
    (editor,) = (int(n["id"]) for n in page.saved()["nodes"] if n["type"] == EDITOR)
    assert page.cells(editor)[:BLOCKS] == [i in (3, BLOCKS - 1) for i in range(BLOCKS)]

    click(page, viewer, 3)
    assert chosen(page, builder) == [BLOCKS - 1]
    told = {False: "No strength for blocks 29: raise top", True: f"1 of {BLOCKS} blocks in "}
    assert page.line(viewer).startswith(told[BLOCKS - 1 in found["top"]])
    strong = found["top"][0]
    click(page, viewer, *({BLOCKS - 1, strong} - {strong}), *({strong} - {BLOCKS - 1}))
    assert chosen(page, builder) == [strong] and page.line(viewer).startswith(told[True])
    click(page, viewer, *({strong} - {BLOCKS - 1}), *({BLOCKS - 1} - {strong}))

    page.js("id => app.graph.remove(app.graph.getNodeById(id))", builder)
    click(page, viewer, 7, 8)
    page.until(lambda: page.line(viewer).endswith(": 7-8, 29"))
    assert page.line(viewer) in ("Copied: 7-8, 29", "block_activations: 7-8, 29")

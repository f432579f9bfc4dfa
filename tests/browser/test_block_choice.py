"""The grid on the nodes that edit blocks: it writes block_activations, and shows what a run resolved."""

from __future__ import annotations

from typing import Any

import pytest

from .editor import ACTIVATIONS, EDITOR, STRENGTHS, GraphPage, node, workflow
from .test_editor_status import Host, build, host, link, queue  # noqa: F401  (a fixture)

CHOOSE = """e => [e.value, e.disabled]"""


def menu(page: GraphPage, node_id: int = 1) -> list[Any]:
    """What the preset menu shows, and whether it is out of use."""
    return page.part(".wan-ae-tools select", 0, node_id).evaluate(CHOOSE)


def fresh(page: GraphPage, kind: str) -> int:
    """A node as the menu makes it; its id."""
    page.js("kind => { const n = LiteGraph.createNode(kind); n.pos = [300, 180]; app.graph.add(n); }", kind)
    page.settle()
    return page.ids()[-1]


def unlink(page: GraphPage, node_id: int, name: str) -> None:
    page.js(
        "([id, name]) => { const n = app.graph.getNodeById(id);"
        " n.disconnectInput(n.inputs.findIndex(i => i.name === name)); }",
        [node_id, name],
    )
    page.settle()


def block_activations(page: GraphPage, node_id: int = 1) -> str:
    return page.of_node("n.widgets.find(w => w.name === 'block_activations').value", node_id)


def test_a_fresh_editor_edits_the_middle_blocks(page: GraphPage):
    page.js(
        "() => { const n = LiteGraph.createNode('WanVideoActivationEditor'); n.pos = [300, 180]; app.graph.add(n); }"
    )
    page.settle()
    new = page.ids()[0]
    assert page.values(new) == [0.5, "mid_blocks", True, "off", "context", 0, 1, "cond", "", "real", ""]
    assert page.line(new) == "20 of 40 blocks selected"
    assert [i for i, on in enumerate(page.cells(new)) if on] == list(range(10, 30))
    assert menu(page, new) == ["mid_blocks", False]


@pytest.mark.parametrize(
    "kind", ["WanVideoDirectInjector", "WanVideoLatentInjector", "WanVideoAdvancedActivationEditor"]
)
def test_every_editing_node_has_the_grid(page: GraphPage, kind: str):
    page.load(workflow(node(kind)))
    assert block_activations(page) == "mid_blocks"
    assert sum(page.cells()) == 20
    page.click(page.cell(0))
    assert block_activations(page) == "0, 10-29"


def test_the_grid_writes_the_text_and_the_text_the_grid(page: GraphPage):
    page.load(workflow(node(EDITOR, [0.5, "10-19:0.4, 20-29", True, "off", "context", 0, 1, "cond"])))
    assert menu(page) == ["", False]
    page.click(page.cell(25))
    assert block_activations(page) == "10-19:0.4, 20-24, 26-29", "other blocks keep their strength"
    page.drag(page.cell(10), page.cell(19))
    assert block_activations(page) == "20-24, 26-29"
    page.choose("block_activations", "sparse")
    assert [i for i, on in enumerate(page.cells()) if on] == list(range(0, 40, 4))
    assert menu(page) == ["sparse", False]
    page.part(".wan-ae-tools select").select_option("first_half")
    page.settle()
    assert block_activations(page) == "first_half"
    assert page.line() == "20 of 40 blocks selected"
    page.part(".wan-ae-tools button", 1).click()
    page.settle()
    assert block_activations(page) == "none"
    assert page.values() == [0.5, "none", True, "off", "context", 0, 1, "cond", "", "real", ""]


def test_a_linked_choice_is_shown_and_cannot_be_painted(page: GraphPage):
    saved = [0.5, "0" * 40, True, "off", "context", 0, 1, "cond", "", "real", ""]
    page.load(workflow(node(EDITOR, saved, pos=[300, -60]), node(ACTIVATIONS, ["sparse"], 2)))  # on the screen
    page.js(link, [2, "block_activations"])
    page.settle(10)
    assert [i for i, on in enumerate(page.cells()) if on] == list(range(0, 40, 4))
    assert menu(page) == ["sparse", True]
    page.click(page.cell(1))
    page.click(page.cell(4, 2))
    assert [i for i, on in enumerate(page.cells()) if on] == list(range(0, 40, 4))[:1] + list(range(8, 40, 4))
    assert page.values() == saved
    if page.vue:
        drawn = page.page.locator('[data-node-id="1"] input').evaluate_all("all => all.map(e => e.value)")
        assert "0" * 40 not in drawn
    unlink(page, 1, "block_activations")
    assert (sum(page.cells()), menu(page)) == (0, ["", False])


def test_a_muted_builder_is_told(page: GraphPage):
    """Front ends to 1.35 leave the input out of the prompt, so that the run is refused."""
    page.load(workflow(node(EDITOR, [0.5, "first_half"]), node(ACTIVATIONS, ["sparse"], 2), node(STRENGTHS, node_id=3)))
    page.js(link, [2, "block_activations"])
    page.js(link, [3, "block_strengths"])

    def line(mode: int, node_id: int) -> str:
        page.js("([mode, id]) => { app.graph.getNodeById(id).mode = mode; }", [mode, node_id])
        page.settle()
        return page.line()

    assert line(2, 3) == "10 of 40 blocks selected", "strengths are optional"
    assert line(2, 2) == "block_activations is linked to a muted node: unmute it, or remove the link"
    assert page.prompt()["1"]["inputs"].get("block_activations", "first_half") == "first_half"
    assert line(4, 2) == "20 of 40 blocks selected"
    assert page.prompt()["1"]["inputs"]["block_activations"] == "first_half"
    assert line(0, 2) == "10 of 40 blocks selected"


def test_a_default_choice_beside_strengths_of_a_map_is_told(page: GraphPage):
    page.load(workflow(node(EDITOR), node("WanVideoBlockMapViewer", None, 2)))
    page.js(
        "() => { const [to, from] = [1, 2].map(i => app.graph.getNodeById(i));"
        " from.connect(from.outputs.findIndex(o => o.name === 'block_strengths'), to,"
        " to.inputs.findIndex(i => i.name === 'block_strengths')); }"
    )
    page.settle()
    assert page.line() == "Blocks come from a link; block_activations leaves out all but 20"
    page.choose("block_activations", "all")
    assert page.line() == "Blocks come from a link"


def test_blocks_that_strengths_have_and_the_choice_leaves_out_are_counted(page: GraphPage):
    page.load(workflow(node(EDITOR), node(STRENGTHS, ["uniform", 1], 2)))
    page.js(link, [2, "block_strengths"])
    page.settle()
    assert page.line() == "20 of 40 blocks selected; block_activations leaves out 20 of block_strengths"
    page.choose("block_activations", "all")
    assert page.line() == "40 of 40 blocks selected"


def test_a_run_teaches_the_blocks_of_the_model_and_they_stay(page: GraphPage, host: Host):  # noqa: F811
    """At log level off; through undo, a cached run and a reload."""
    flow, builder, editor, _ = build(host, log_level="off")
    flow[builder]["inputs"]["preset"] = "mid_blocks"
    page.load(flow)
    builder, editor = int(builder), int(editor)
    first, last = (7, 22) if host.blocks == 30 else (3, 8)
    active = last - first + 1

    def assert_told(blocks: int = host.blocks) -> None:
        assert page.line(editor) == f"{active} of {blocks} blocks selected"
        for shown in (builder, editor):
            assert [i for i, on in enumerate(page.cells(shown)) if on] == list(range(first, last + 1))
            assert (
                len(page.picture(shown).query_selector_all(".wan-ae-cell.wan-ae-beyond:not([hidden])")) == 40 - blocks
            )
        assert page.of_node("n.title", builder).endswith(f"({active} active)")

    queue(page)
    assert_told()
    page.choose("injection_strength", 0.25, editor)
    page.js(
        "() => { const t = app.extensionManager.workflow.activeWorkflow?.changeTracker;"
        " (t?.captureCanvasState ?? t?.checkState)?.call(t); }"
    )
    page.js("() => app.extensionManager.workflow.activeWorkflow?.changeTracker?.undo()")
    page.until(lambda: page.of_node("n?.widgets[0].value", editor) == 0.5)
    page.settle(10)
    assert page.of_node("n.widgets[0].value", editor) == 0.5
    assert_told()
    queue(page)
    assert_told()
    saved = page.saved()
    page.reset()
    page.load(saved)
    page.settle(10)
    assert_told()


def test_a_run_tells_a_choice_that_comes_from_elsewhere(page: GraphPage, host: Host):  # noqa: F811
    """The page cannot know what a node of another pack hands over."""
    flow, builder, editor, _ = build(host)
    flow[builder] = {"class_type": "PrimitiveString", "inputs": {"value": "3-5"}}
    page.load(flow)
    assert page.line(int(editor)) == "Blocks come from a link"
    assert sum(page.cells(int(editor))) == 0
    queue(page)
    assert page.line(int(editor)) == f"Blocks come from a link: 3 of {host.blocks} in the last run"
    assert [i for i, on in enumerate(page.cells(int(editor))) if on] == [3, 4, 5]


def test_another_model_is_not_taken_for_the_last(page: GraphPage, host: Host):  # noqa: F811
    flow, _, editor, _ = build(host)
    page.load(flow)
    queue(page)
    assert page.line(int(editor)) == f"10 of {host.blocks} blocks selected"
    unlink(page, int(editor), "model")
    assert page.line(int(editor)) == "10 of 40 blocks selected"
    assert page.of_node("n.properties.wan_activation_editor_last_run ?? null", int(editor)) is None


SCHEDULE = [0.5, "mid_blocks", True, "off", "context", 0, 1, "cond", "0:0.2, 0.5:0.8, 1:1", "real", ""]


def test_a_schedule_is_drawn_as_a_curve_while_there_is_one(page: GraphPage):
    page.load(workflow(node(EDITOR, SCHEDULE)))
    curve = page.part(".wan-ae-curve svg")
    assert curve.get_attribute("aria-label") == "Schedule: 0.2 at 0%, 0.8 at 50%, 1 at 100%"
    write = "text => { const w = app.graph.getNodeById(1).widgets.find(w => w.name === 'schedule'); "
    write += "w.value = text; w.callback(text); }"
    page.js(write, "0:2")
    page.settle()
    assert "has a number outside 0 to 1" in page.part(".wan-ae-line.warning").text_content()
    page.js(write, "")
    page.settle()
    assert page.values()[8:] == ["", "real", ""]
    assert page.page.locator(".wan-ae-curve").count() == 0

"""The grid of WanVideo Block Activation Builder: files, pointer, keys, touch, history."""

from __future__ import annotations

from typing import Any

import pytest

from .editor import ACTIVATIONS, EDITOR, STRENGTHS, GraphPage, node, workflow

EVEN = [i % 2 == 0 for i in range(40)]
ODD = [not on for on in EVEN]
NONE = [False] * 40
EARLY = [i < 10 for i in range(40)]


def blocks(*on: int) -> list[bool]:
    return [i in on for i in range(40)]


def shown_and_saved(page: GraphPage, preset: str, cells: list[bool]) -> None:
    page.until(lambda: page.cells() == cells and page.values() == [preset, *cells])
    assert page.cells() == cells
    assert page.values() == [preset, *cells]


# Files


def test_a_file_with_the_preset_alone(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["alternating"])))
    shown_and_saved(page, "alternating", EVEN)


def test_a_file_with_all_values(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["custom", *ODD])))
    shown_and_saved(page, "custom", ODD)


def test_a_file_without_values_and_one_with_nulls(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS)))
    shown_and_saved(page, "custom", NONE)
    page.load(workflow(node(ACTIVATIONS, ["custom", None, True])))
    assert page.cells() == blocks(1)


def test_switches_that_disagree_with_the_preset_are_kept_and_the_preset_is_shown(page: GraphPage):
    """As Python decides it, and as older versions and a front end without the script may have saved it."""
    page.load(workflow(node(ACTIVATIONS, ["alternating", *ODD])))
    assert page.cells() == EVEN
    assert page.values() == ["alternating", *ODD]


def test_a_file_saved_with_forty_rows_shrinks_and_other_sizes_stay(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["all"], size=[270, 1018])))
    assert page.of_node("n.size[1]") < 350
    page.load(workflow(node(ACTIVATIONS, ["all"], size=[500, 320])))
    # Nodes 2.0 of the pinned front end scales a file's layout
    assert page.of_node("n.size[0]") >= 500
    assert page.of_node("n.size[1]") >= 320


@pytest.mark.parametrize("preset", ["custom", "alternating"])
def test_a_file_in_api_format(page: GraphPage, preset: str):
    inputs = {"preset": preset, **{f"block_{i}": ODD[i] for i in range(40)}}
    page.load({"1": {"class_type": ACTIVATIONS, "inputs": inputs}})
    assert page.values() == [preset, *ODD]
    assert page.cells() == (ODD if preset == "custom" else EVEN)
    page.load({"1": {"class_type": ACTIVATIONS, "inputs": {"preset": preset}}})
    assert page.cells() == (NONE if preset == "custom" else EVEN)


def test_save_and_reload_keep_the_file(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["custom", *ODD], title="Mine")))
    first = page.saved()["nodes"]
    page.load(page.saved())
    assert page.saved()["nodes"] == first
    prompt = page.prompt()["1"]["inputs"]
    assert prompt == {"preset": "custom", **{f"block_{i}": ODD[i] for i in range(40)}}


# Preset and cells


def test_preset_to_cells_and_back(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["custom"])))
    page.choose("preset", "early_blocks")
    shown_and_saved(page, "early_blocks", EARLY)
    page.click(page.cell(3))
    without = [on and i != 3 for i, on in enumerate(EARLY)]
    shown_and_saved(page, "custom", without)
    page.click(page.cell(3))
    shown_and_saved(page, "custom", EARLY)
    page.choose("preset", "none")
    shown_and_saved(page, "none", NONE)


def test_custom_starts_from_what_was_shown(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["alternating", *ODD])))
    page.choose("preset", "custom")
    shown_and_saved(page, "custom", EVEN)


def test_the_preset_as_the_user_chooses_it(page: GraphPage):
    """Through the combo's own control, not from script."""
    page.load(workflow(node(ACTIVATIONS, ["custom"])))
    if page.vue:
        page.page.locator('[data-node-id="1"]').get_by_role("combobox").first.click()
        page.page.get_by_role("option", name="alternating").first.click()
    else:
        x, _ = page.centre(page.picture())
        page.page.mouse.click(x, page.part(".wan-ae-tools").evaluate("e => e.getBoundingClientRect().top") - 20)
        page.page.locator(".litecontextmenu .litemenu-entry", has_text="alternating").click()
    page.settle()
    shown_and_saved(page, "alternating", EVEN)
    if page.vue:  # the combo shows what an edit of the grid does to it
        page.click(page.cell(1))
        assert "custom" in page.page.locator('[data-node-id="1"]').inner_text()


def test_buttons(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["alternating"])))
    for name, expected in (("Invert", ODD), ("All", [True] * 40), ("None", NONE)):
        page.click(page.centre(page.picture().query_selector(f"button:text-is('{name}')")))
        shown_and_saved(page, "custom", expected)


# Pointer


def test_a_drag_paints_what_the_first_cell_decides(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["custom", *blocks(12)])))
    before = page.of_node("[...n.pos]")
    page.drag(page.cell(10), page.cell(15))
    shown_and_saved(page, "custom", blocks(*range(10, 16)))
    page.drag(page.cell(15), page.cell(13), page.cell(33))
    shown_and_saved(page, "custom", blocks(10, 11, 12))
    assert page.of_node("[...n.pos]") == before, "the node did not move"


def test_a_drag_of_one_jump_leaves_no_gap(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["custom"])))
    page.drag(page.cell(0), page.cell(9), steps=1)
    shown_and_saved(page, "custom", blocks(*range(10)))


def test_shift_click_selects_a_range(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["custom", *blocks(30)])))
    page.click(page.cell(5))
    page.click(page.cell(18), modifiers=["Shift"])
    shown_and_saved(page, "custom", blocks(*range(5, 19), 30))
    page.click(page.cell(7), modifiers=["Shift"])  # the range is drawn anew from its first cell
    shown_and_saved(page, "custom", blocks(5, 6, 7, 30))


def test_a_range_starts_from_what_is_there_now(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["custom"])))
    page.click(page.cell(0))
    page.click(page.cell(3), modifiers=["Shift"])
    page.js(
        """() => { const n = app.graph.getNodeById(1), w = n.widgets.find(w => w.name === 'preset');
        w.value = 'all'; w.callback('all', app.canvas, n); }"""
    )
    page.settle()
    page.click(page.cell(5), modifiers=["Shift"])
    assert page.cells() == [True] * 40, "the preset chosen in between is not undone"


def test_toggles_saved_as_numbers_are_read_as_python_does(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["custom", *[0] * 20, *[1] * 20])))
    assert page.cells() == [False] * 20 + [True] * 20
    page.click(page.cell(39))
    shown_and_saved(page, "custom", blocks(*range(20, 39)))


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_cells_are_hit_at_any_zoom(page: GraphPage, scale: float):
    page.load(workflow(node(ACTIVATIONS, ["custom"])), scale)
    for block in (0, 13, 29):
        page.click(page.cell(block))
    page.drag(page.cell(31), page.cell(34))
    shown_and_saved(page, "custom", blocks(0, 13, 29, 31, 32, 33, 34))


def test_the_wheel_zooms_the_canvas(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["all"])))
    page.page.mouse.move(*page.cell(15))
    page.page.mouse.wheel(0, -100)
    page.settle()
    assert page.js("() => app.canvas.ds.scale") > 1.0
    shown_and_saved(page, "all", [True] * 40)


def test_touch_and_pinch(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["custom"])))
    page.page.touchscreen.tap(*page.cell(4))
    page.settle()
    shown_and_saved(page, "custom", blocks(4))
    session = page.page.context.new_cdp_session(page.page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        fingers = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    touch("touchStart", page.cell(20))
    touch("touchMove", page.cell(21))
    touch("touchMove", page.cell(22))
    touch("touchEnd")
    page.settle()
    shown_and_saved(page, "custom", blocks(4, 20, 21, 22))
    touch("touchStart", page.cell(30))
    touch("touchStart", page.cell(30), page.cell(35))  # a second finger: a pinch, not a stroke
    touch("touchMove", page.cell(31), page.cell(36))
    touch("touchEnd")
    page.settle()
    shown_and_saved(page, "custom", blocks(4, 20, 21, 22))
    page.load(workflow(node(ACTIVATIONS, ["alternating"])))
    touch("touchStart", page.cell(30))
    touch("touchStart", page.cell(30), page.cell(35))
    touch("touchEnd")
    shown_and_saved(page, "alternating", EVEN)  # the preset stays, which fits models of any block count


# Keyboard


def test_keys(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["custom"])))
    page.click(page.cell(11))
    page.press("ArrowRight", "Space", "ArrowDown", "Enter", "Home", "Space", "End", "Space")
    shown_and_saved(page, "custom", blocks(0, 11, 12, 22, 39))
    page.press("ArrowUp", "Space", "Shift+ArrowLeft", "Shift+ArrowLeft", "Shift+ArrowRight")
    shown_and_saved(page, "custom", blocks(0, 11, 12, 22, 28, 29, 39))
    focused = "() => [document.activeElement.dataset.block, document.activeElement.matches(':focus-visible')]"
    assert page.js(focused) == ["28", True]
    page.press("Delete", "Backspace")
    assert page.ids() == [1], "the node was not deleted"
    assert not page.js("() => app.extensionManager.shiftDown"), "the page has seen the end of Shift"


def test_names_for_screen_readers(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["sparse"])))
    grid = page.part(".wan-ae-grid")
    assert grid.get_attribute("role") == "grid"
    assert grid.get_attribute("aria-label")
    assert len(grid.query_selector_all('[role="row"] > [role="gridcell"][aria-selected="true"]')) == 10
    assert page.part(".wan-ae-cell", 7).get_attribute("aria-label") == "Block 7"
    assert len(grid.query_selector_all('[tabindex="0"]')) == 1


# Title


def test_the_title_counts_and_is_not_saved(page: GraphPage):
    for given, name in ((None, "WanVideo Block Activation Builder"), ("Mine", "Mine"), ("Mine (7 active)", "Mine")):
        page.load(workflow(node(ACTIVATIONS, ["alternating"], **({"title": given} if given else {}))))
        assert page.of_node("n.title") == f"{name} (20 active)"
        assert page.saved()["nodes"][0].get("title") == (name if given else None)
        page.click(page.cell(1))
        assert page.of_node("n.title") == f"{name} (21 active)"


def test_a_title_of_any_length_gets_its_count(page: GraphPage):
    for title in ("(" + "1" * 60_000, "(1 active" * 8_000):
        page.load(workflow(node(ACTIVATIONS, ["alternating"], title=title)))
        assert page.of_node("n.title") == f"{title} (20 active)"
        assert page.saved()["nodes"][0]["title"] == title


# The rest of the editor


IN_PAGE = "id => app.graph.getNodeById(id).widgets.find(w => w.type === 'WAN_ACTIVATION_EDITOR').element.isConnected"


def test_undo_and_redo(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["custom"])))
    page.click(page.cell(2))
    page.drag(page.cell(10), page.cell(13))
    both = blocks(2, 10, 11, 12, 13)
    shown_and_saved(page, "custom", both)
    page.press("Control+z")
    shown_and_saved(page, "custom", blocks(2))
    page.until(lambda: page.js(IN_PAGE, 1))  # not the picture of the node before, which Nodes 2.0 leaves there
    page.click(page.cell(5))
    shown_and_saved(page, "custom", blocks(2, 5))
    page.press("Control+z")
    shown_and_saved(page, "custom", blocks(2))
    page.until(lambda: page.js(IN_PAGE, 1))
    if page.vue and page.js("() => window.__COMFYUI_FRONTEND_VERSION__").startswith("1.35."):
        return  # its node grows by some pixels after an undo, which counts as a new change and ends redo
    page.press("Control+y")
    shown_and_saved(page, "custom", blocks(2, 5))


def test_copy_and_paste(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["custom", *ODD], title="Mine")))
    page.page.mouse.click(1200, 700)  # the page copies what is selected when the canvas has the focus
    page.settle(10)
    page.js("() => app.canvas.selectItems([app.graph.getNodeById(1)])")
    page.press("Control+c")
    page.press("Control+v")
    page.until(lambda: len(page.ids()) == 2)
    copied = [i for i in page.ids() if i != 1]
    assert len(copied) == 1
    page.view(1.0)
    assert page.values(copied[0]) == ["custom", *ODD]
    assert page.cells(copied[0]) == ODD
    page.click(page.cell(0, copied[0]))
    assert page.values(copied[0])[1] is True
    assert page.values(1) == ["custom", *ODD], "the copy has cells of its own"


def test_subgraph(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["custom", *ODD])))
    page.js(
        "() => { const n = app.graph.getNodeById(1); app.canvas.selectItems([n]);"
        " app.graph.convertToSubgraph(new Set([n])) }"
    )
    page.settle(10)
    inner = "app.graph._nodes[0].subgraph._nodes[0]"
    assert page.js(f"() => {inner}.widgets_values ?? {inner}.serialize().widgets_values") == ["custom", *ODD]
    page.load(page.saved())
    page.js("() => { const host = app.graph._nodes[0]; app.canvas.openSubgraph(host.subgraph, host); }")
    page.view(1.0)
    page.settle(10)
    inside = page.js("() => app.canvas.graph._nodes[0].id")
    cell = page.page.locator(".wan-ae-cell:visible").nth(0)
    cell.click()
    page.settle()
    values = page.js("id => app.canvas.graph.getNodeById(id).serialize().widgets_values", inside)
    assert values == ["custom", True, *ODD[1:]]
    page.js("() => app.canvas.setGraph(app.graph.rootGraph ?? app.rootGraph)")


def test_collapse_bypass_resize_and_removal(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["custom", *ODD])))
    page.js("() => { const n = app.graph.getNodeById(1); n.collapse(); }")
    page.settle()
    page.js("() => { const n = app.graph.getNodeById(1); n.collapse(); n.mode = 4; n.setSize([620, 300]); }")
    page.settle(10)
    assert page.page.locator(".wan-ae-cell:visible").count() == 40
    page.click(page.cell(0))
    shown_and_saved(page, "custom", [True, *ODD[1:]])
    page.js("() => app.graph.remove(app.graph.getNodeById(1))")
    page.settle(10)
    assert page.page.locator(".wan-ae").count() == 0


def inputs(kind: str, linked: dict[str, int]) -> list[dict[str, Any]]:
    """Input slots as files hold them that were saved with a socket for every row."""
    names = {ACTIVATIONS: ["preset", *(f"block_{i}" for i in range(40))],
             STRENGTHS: ["pattern", "base_strength", *(f"block_{i}_strength" for i in range(40))]}[kind]  # fmt: skip
    type_of = "BOOLEAN" if kind == ACTIVATIONS else "FLOAT"
    return [
        {"name": name, "type": type_of if "block" in name else "COMBO", "link": linked.get(name), "shape": 7,
         "localized_name": name, "widget": {"name": name}} for name in names
    ]  # fmt: skip


def slots(page: GraphPage) -> list[str]:
    return page.of_node("n.inputs.map(i => i.name)")


@pytest.mark.parametrize(
    ("kind", "visible"),
    [
        (ACTIVATIONS, ["preset"]),
        (STRENGTHS, ["pattern", "base_strength", "peak_block", "spread", "step_size", "seed"]),
    ],
)
def test_rows_have_no_sockets(page: GraphPage, kind: str, visible: list[str]):
    page.load(workflow(node(kind)))
    assert slots(page) == visible
    page.load(workflow(node(kind, inputs=inputs(kind, {}))))
    assert slots(page) == visible
    assert [i["name"] for i in page.saved()["nodes"][0]["inputs"]] == visible
    assert len(page.values()) == 40 + len(visible)


def with_links(kind: str, row: str, origin: dict[str, Any], type_of: str) -> dict[str, Any]:
    origin = {**origin, "outputs": [{"name": type_of, "type": type_of, "links": [1]}]}
    slot = [i["name"] for i in inputs(kind, {})].index(row)
    return workflow(node(kind, ["custom"], inputs=inputs(kind, {row: 1})), origin, links=[[1, 2, 0, 1, slot, type_of]])


def test_a_link_to_a_row_stays_as_the_file_has_it(page: GraphPage):
    page.load(with_links(ACTIVATIONS, "block_5", node("PrimitiveBoolean", [True], 2, pos=[0, 600]), "BOOLEAN"))
    for _ in range(2):
        assert slots(page) == ["preset", "block_5"]
        assert page.prompt()["1"]["inputs"]["block_5"] == ["2", 0]
        assert "linked" in page.part(".wan-ae-cell", 5).get_attribute("class")
        assert page.page.get_by_text("block_5", exact=True).count() == page.draws_linked_rows
        assert page.page.get_by_text("block_4", exact=True).count() == 0
        page.load(page.saved())
    page.js("() => { const n = app.graph.getNodeById(1); n.disconnectInput(1); }")
    page.load(page.saved())
    assert slots(page) == ["preset"]
    assert page.prompt()["1"]["inputs"]["block_5"] is False


def test_linked_rows_are_drawn_in_the_order_of_the_file(page: GraphPage):
    origin = node("PrimitiveFloat", [0.5], 2, pos=[0, 600])
    origin["outputs"] = [{"name": "FLOAT", "type": "FLOAT", "links": [1, 2]}]
    linked = {"block_3_strength": 1, "block_7_strength": 2}
    slot = [i["name"] for i in inputs(STRENGTHS, {})].index
    links = [[link, 2, 0, 1, slot(row), "FLOAT"] for row, link in linked.items()]
    page.load(workflow(node(STRENGTHS, ["custom"], inputs=inputs(STRENGTHS, linked)), origin, links=links))
    for _ in range(2):
        if page.draws_linked_rows:
            labels = [page.page.get_by_text(name, exact=True) for name in ("step_size", *linked, "seed")]
            places = [label.bounding_box()["y"] for label in labels]
            assert places == sorted(places) and len(set(places)) == 4
        for row in linked:
            assert page.prompt()["1"]["inputs"][row] == ["2", 0]
        assert [i["name"] for i in page.saved()["nodes"][0]["inputs"] if i["link"]] == list(linked)
        page.load(page.saved())


def test_a_link_to_a_row_in_a_subgraph(page: GraphPage):
    page.load(with_links(STRENGTHS, "block_7_strength", node("PrimitiveFloat", [0.5], 2, pos=[0, 600]), "FLOAT"))
    page.js(
        "() => { app.canvas.selectItems(app.graph._nodes); app.graph.convertToSubgraph(app.canvas.selectedItems); }"
    )
    for _ in range(2):
        prompt = page.prompt()
        (builder,) = (entry for entry in prompt.values() if entry["class_type"] == STRENGTHS)
        assert prompt[builder["inputs"]["block_7_strength"][0]]["class_type"] == "PrimitiveFloat"
        page.load(page.saved())


@pytest.mark.parametrize(
    ("kind", "row", "type_of", "value", "widget"),
    [
        (ACTIVATIONS, "block_5", "BOOLEAN", True, ["toggle", None]),
        (STRENGTHS, "block_7_strength", "FLOAT", 0.35, ["number", 1]),
    ],
)
def test_a_primitive_drives_a_row(page: GraphPage, kind: str, row: str, type_of: str, value: Any, widget: list[Any]):
    """The front end's own node, which takes its widget from what it is linked to."""
    page.load(with_links(kind, row, node("PrimitiveNode", [value, "fixed"], 2, pos=[0, 600]), type_of))
    page.settle()
    assert page.of_node("n.widgets[0].value", 2) == value
    assert page.of_node("[n.widgets[0].type, n.widgets[0].options.max ?? null]", 2) == widget
    assert page.prompt()["1"]["inputs"][row] == value


def test_a_row_that_does_not_exist_does_not_keep_a_file_from_opening(page: GraphPage):
    data = with_links(ACTIVATIONS, "block_5", node("PrimitiveBoolean", [True], 2, pos=[0, 600]), "BOOLEAN")
    next(i for i in data["nodes"][0]["inputs"] if i["link"])["name"] = "block_40"
    page.load(data)
    assert page.ids() == [1, 2]
    assert page.values() == ["custom", *NONE]


def test_a_link_to_a_row_in_api_format(page: GraphPage):
    page.load({
        "1": {"class_type": STRENGTHS, "inputs": {"pattern": "custom", "block_3_strength": ["2", 0]}},
        "2": {"class_type": "PrimitiveFloat", "inputs": {"value": 0.5}},
    })  # fmt: skip
    assert page.prompt()["1"]["inputs"]["block_3_strength"] == ["2", 0]


def test_a_linked_cell_keeps_its_value_and_a_linked_preset_locks_the_grid(page: GraphPage):
    primitive = node("PrimitiveBoolean", [True], 2, pos=[0, 600])
    data = with_links(ACTIVATIONS, "block_5", primitive, "BOOLEAN")
    data["nodes"].append(node("PrimitiveString", ["all"], 3, pos=[0, 700]))
    page.load(data)
    page.drag(page.cell(4), page.cell(6))
    assert page.cells() == blocks(4, 6)
    assert "linked" in page.part(".wan-ae-cell", 5).get_attribute("class")
    page.js("""() => { const n = app.graph.getNodeById(1), slot = n.inputs.findIndex(i => i.name === 'preset');
        const from = app.graph.getNodeById(3); from.outputs[0].type = '*'; from.connect(0, n, slot) }""")
    page.settle()
    page.click(page.cell(20))
    assert page.cells() == blocks(4, 6)
    assert "preset comes from a link" in page.part(".wan-ae-note").evaluate("e => e.textContent")


def test_the_renderer_may_change_under_the_grid(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["custom", *NONE])))
    page.click(page.cell(3))
    values = [3]
    switch = "on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
    try:
        for vue in (not page.vue, page.vue):
            page.js(switch, vue)
            page.settle(20)
            values.append(len(values) * 7)
            page.click(page.cell(values[-1]))
            shown_and_saved(page, "custom", blocks(*values))
            assert page.page.locator(".wan-ae-cell:visible").count() == 40
    finally:
        page.js(switch, page.vue)
        page.settle(10)


LISTENERS = """() => {
    const add = EventTarget.prototype.addEventListener;
    window.ours = [];
    window.restoreListeners = () => { EventTarget.prototype.addEventListener = add; };
    EventTarget.prototype.addEventListener = function (...args) {
        if (new Error().stack.includes('/activation-editor/js/')) window.ours.push(this);
        return add.apply(this, args);
    };
}"""


def test_forty_preset_changes_leave_no_error_and_no_listener(page: GraphPage):
    page.load(workflow(node(ACTIVATIONS, ["custom"])))
    page.js(LISTENERS)
    page.js(
        """async () => { const n = app.graph.getNodeById(1), w = n.widgets[0];
        for (let k = 0; k < 40; k++) { w.value = w.options.values[k % w.options.values.length];
            w.callback(w.value, app.canvas, n); if (k % 5 === 0) await new Promise(requestAnimationFrame); } }"""
    )
    page.settle()
    page.js("() => window.restoreListeners()")
    assert page.js("() => window.ours.length") == 0
    assert page.js("() => document.querySelectorAll('#wan-activation-editor-style').length") == 1


def test_listeners_go_with_the_node(page: GraphPage):
    page.js(LISTENERS)
    page.load(workflow(node(ACTIVATIONS), node(STRENGTHS, None, 2), node(EDITOR, None, 3)))
    assert page.js("() => window.ours.length") > 20
    assert page.js("() => window.ours.every(target => target.closest?.('.wan-ae')?.isConnected)")
    page.load(workflow())
    page.settle(10)
    page.js("() => window.restoreListeners()")
    assert not page.js("() => window.ours.some(target => target.isConnected)")

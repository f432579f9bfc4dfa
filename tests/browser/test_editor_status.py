"""The status of WanVideo Activation Editor, and graphs that are run from the page."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ..comfyui.workflows import FOX, HOSTS, Host, Workflow, edit
from .editor import ACTIVATIONS, EDITOR, STRENGTHS, GraphPage, node, workflow


@pytest.fixture(params=list(HOSTS))
def host(request: pytest.FixtureRequest, page: GraphPage) -> Host:
    return HOSTS[request.param](page.server)


def build(host: Host, **inputs: Any) -> tuple[Workflow, str, str, str]:
    """A workflow with a builder of blocks 0 to 9 before the editor; ids of builder, editor and digest."""
    flow = Workflow()
    toggles = {f"block_{i}": i < 10 for i in range(40)}
    given = edit(
        block_activations=lambda f: f.add(ACTIVATIONS, preset="custom", **toggles), injection_strength=0.5, **inputs
    )
    digest = flow.add("TestDigest", samples=host.branch(flow, FOX, given))[0]
    builder, editor = (next(k for k, n in flow.items() if n["class_type"] == kind) for kind in (ACTIVATIONS, EDITOR))
    return flow, builder, editor, digest


link = """([from, name]) => { const n = app.graph.getNodeById(1);
    app.graph.getNodeById(from).connect(0, n, n.inputs.findIndex(i => i.name === name)); }"""


def queue(page: GraphPage) -> Any:
    """Queue what the page shows, and wait for the result."""
    known = set(page.server.call("/history"))
    page.js("() => app.queuePrompt(0, 1)")
    end = time.monotonic() + 60
    while not (new := set(page.server.call("/history")) - known):
        assert time.monotonic() < end, "the page's prompt did not run"
        time.sleep(0.05)
    result = page.server.result(new.pop()).checked()
    page.settle(10)
    return result


def listen(page: GraphPage) -> None:
    page.js(
        """async () => { const { api } = await import('/scripts/api.js'); window.told = [];
        if (!window.listening) api.addEventListener('wan_activation_editor.status', e => window.told.push(e.detail));
        window.listening = true; }"""
    )


def test_a_run_from_the_page_gives_the_latents_of_the_api_and_is_shown(page: GraphPage, host: Host):
    flow, _, _, digest = build(host)
    through_api = page.server.run(flow).checked().output(digest, "sha256")
    flow, builder, editor, digest = build(host, log_level="basic")
    page.load(flow)
    listen(page)
    assert page.line(int(editor)) == "10 of 40 blocks selected"
    assert page.cells(int(builder)) == [i < 10 for i in range(40)]
    assert queue(page).output(digest, "sha256") == through_api
    page.until(lambda: len(page.js("() => window.told")) >= 3)  # the history may be ahead of the page's messages
    told = page.js("() => window.told")
    assert [m["phase"] for m in told] == ["step", "step", "end"]
    assert {m["node"] for m in told} == {editor}
    assert page.line(int(editor)) == f"2 steps, 10 of {host.blocks} blocks, output change {told[-1]['change']:.3f}"
    bars = page.part(".wan-ae-picture path", 0, int(editor)).get_attribute("d")
    assert bars.count("M") == 10, "a bar for every block that changed"
    dimmed = page.picture(int(builder)).query_selector_all(".wan-ae-cell.wan-ae-beyond")
    assert len(dimmed) == 40 - host.blocks
    count = page.part(".wan-ae-note", 0, int(builder)).evaluate("e => [e.textContent, e.scrollWidth <= e.clientWidth]")
    assert count == [f"10 of {host.blocks} active", True], "beside the buttons, where no title cuts it"
    page.choose("injection_strength", 0.0, int(editor))
    assert page.line(int(editor)) == "No block selected: the model passes unchanged"


def test_off_sends_nothing_while_sampling(page: GraphPage, host: Host):
    flow, _, editor, _ = build(host, log_level="off")
    page.load(flow)
    listen(page)
    queue(page)
    assert page.js("() => window.told") == []
    assert page.line(int(editor)) == f"10 of {host.blocks} blocks selected"


def test_the_plan_follows_the_widgets(page: GraphPage):
    page.load(workflow(node(EDITOR, [0.5, "0" * 40, True, "off", "context", 0, 1, "cond"])))
    assert page.line() == "No block selected: the model passes unchanged"
    for text, line in (
        ("mid_blocks", "20 of 40 blocks selected"),
        ("0-9:0.5, !3", "9 of 40 blocks selected"),
        ("none", "No block selected: the model passes unchanged"),
        ("45", "Selects blocks after 39"),
        ("5-", 'block_activations: position 1: "5-" is no block (7), range (3-9), step (/4), exclusion (!12), '
               "preset, or string of 0 and 1"),
    ):  # fmt: skip
        page.choose("block_activations", text)
        assert page.line() == line
    page.choose("block_activations", "45")
    page.choose("enable_patching", False)
    assert page.line() == "Patching is off"


def test_the_plan_follows_linked_builders(page: GraphPage):
    page.load(
        workflow(
            node(EDITOR, [0.5, "all"]), node(STRENGTHS, ["stepped", 1, 20, 5, 10], 2), node(ACTIVATIONS, ["none"], 3)
        )
    )
    page.js(link, [2, "block_strengths"])
    page.settle()
    assert page.line() == "20 of 40 blocks selected"
    page.choose("base_strength", 0, 2)
    assert page.line() == "No block selected: the model passes unchanged"
    page.choose("base_strength", 1, 2)
    page.js(link, [3, "block_activations"])
    page.settle()
    assert page.line() == "No block selected: the model passes unchanged", "none is a choice"
    page.choose("preset", "first_half", 3)
    assert page.line() == "10 of 40 blocks selected; block_activations leaves out 10 of block_strengths"


SEND = """message => comfyAPI.api.api.dispatchEvent(
    new CustomEvent('wan_activation_editor.status', { detail: message }))"""


def test_messages_reach_the_editor_of_the_workflow_that_runs(page: GraphPage):
    """What the server sends, as Observer messages have it."""
    page.load({**workflow(node(EDITOR)), "id": "0b7a3c4e-5a10-4f6e-9d2b-1f1f4f6f9a01"})
    planned = page.line()
    own = page.js("() => (app.rootGraph ?? app.graph).id")
    message = {"node": "1", "step": 2, "active": 3, "blocks": 30, "change": 0.125, "changes": [0.1] * 30}
    page.js(SEND, {**message, "workflow": "0b7a3c4e-5a10-4f6e-9d2b-1f1f4f6f9a02", "phase": "step"})
    page.settle()
    assert page.line() == planned
    page.js(SEND, {**message, "workflow": own, "phase": "step"})
    assert page.line() == "Step 2, 3 of 30 blocks, output change 0.125"
    page.js(SEND, {**message, "workflow": own, "phase": "stopped"})
    assert page.line() == "Stopped after 2 steps, 3 of 30 blocks, output change 0.125"
    page.js(SEND, {**message, "workflow": own, "phase": "stopped", "step": 0})
    page.settle()
    assert page.line() == "Stopped before the edit acted"


def test_an_editor_saves_as_without_the_script(page: GraphPage):
    values = [0.5, "7", True, "basic", "context", 0.1, 0.9, "both", "", "real", ""]
    page.load(workflow(node(EDITOR, values)))
    assert page.values() == values
    assert set(page.prompt()["1"]["inputs"]) == {
        "injection_strength", "block_activations", "enable_patching", "log_level", "injection_mode", "start_percent",
        "end_percent", "branch", "schedule", "tokens", "prompt",
    }  # fmt: skip

"""Errors on the node that they concern: those of a run, and those of a refused prompt."""

from __future__ import annotations

import time

from .editor import GraphPage, node, workflow
from .test_editor_status import Host, build, host, queue  # noqa: F401  (a fixture)


def errors(page: GraphPage) -> list[str]:
    return page.js(
        "() => [...document.querySelectorAll('.wan-ae-error')]"
        ".filter(e => e.getClientRects().length).map(e => e.innerText)"
    )


def fail(page: GraphPage) -> None:
    """Queue what the page shows, which does not end well."""
    known = set(page.server.call("/history"))
    page.js("() => app.queuePrompt(0, 1)")
    end = time.monotonic() + 30
    page.settle(10)
    while not errors(page) and time.monotonic() < end:
        page.settle()
    page.until(lambda: set(page.server.call("/history")) != known, seconds=2)
    page.page.keyboard.press("Escape")  # the front end's own dialog
    page.settle()


def size(page: GraphPage, node_id: int) -> list[float]:
    return page.of_node("[...n.size]", node_id)


def test_an_error_of_a_run_is_on_the_node_until_the_next(page: GraphPage, host: Host):  # noqa: F811
    flow, _, editor, _ = build(host)
    flow[editor]["inputs"]["block_activations"] = "3, 47"
    page.load(flow)
    before = size(page, int(editor))
    saved = page.values(int(editor))
    fail(page)
    (text,) = errors(page)
    assert text.startswith("WanVideo Activation Editor")
    assert f"the model has {host.blocks} blocks" in text
    assert size(page, int(editor))[1] > before[1]
    assert page.values(int(editor)) == saved
    box = page.page.locator(".wan-ae-error").bounding_box()
    assert box["height"] >= 28 and box["width"] > 250
    assert page.of_node("n.properties.wan_activation_editor_last_run.blocks", int(editor)) == host.blocks
    page.choose("block_activations", "3", int(editor))
    queue(page)
    page.until(lambda: not errors(page))
    assert errors(page) == []
    assert size(page, int(editor)) == before
    assert page.line(int(editor)) == f"1 of {host.blocks} blocks selected"
    page.problems.clear()  # the front end logs the refusal


def test_a_refused_prompt_is_explained_on_the_node(page: GraphPage, host: Host):  # noqa: F811
    flow, _, editor, _ = build(host)
    flow[editor]["inputs"]["block_activations"] = "5-"
    page.load(flow)
    fail(page)
    (text,) = errors(page)
    assert text.startswith("block_activations, position 1: '5-' is not a block (7), a range (3-9)")
    assert text.count("'5-' is not a block") == 1, "not once for each input that the check reads"
    page.problems.clear()


def test_every_missing_input_is_named(page: GraphPage):
    page.load(workflow(node("WanVideoInjectionTester")))
    fail(page)
    (text,) = errors(page)
    assert sorted(text.splitlines()) == ["Required input is missing: model", "Required input is missing: text_embeds"]
    page.problems.clear()


def test_a_refusal_stays_while_the_rest_of_the_prompt_runs(page: GraphPage, host: Host):  # noqa: F811
    flow, _, editor, _ = build(host)
    flow[editor]["inputs"]["block_activations"] = "mid_blok"
    page.load(flow)
    page.js(
        "() => { const [from, to] = ['WanVideoBlockActivationBuilder', 'PreviewAny'].map(t => LiteGraph.createNode(t));"
        " app.graph.add(from); app.graph.add(to); from.connect(0, to, 0); }"
    )
    known = set(page.server.call("/history"))
    page.js("() => app.queuePrompt(0, 1)")
    page.until(lambda: set(page.server.call("/history")) != known, seconds=30)
    page.settle(20)
    (text,) = errors(page)
    assert "mid_blok" in text
    page.page.keyboard.press("Escape")
    page.problems.clear()


def test_errors_of_prompts_in_a_queue_are_those_of_the_one_that_runs(page: GraphPage):
    """Without a server: what it answers and sends, in the orders in which it may."""
    page.load(workflow(node("WanVideoActivationEditor")))
    script = """async () => {
        const { watchErrors } = await import('/extensions/activation-editor/js/errors.js');
        const api = new EventTarget(), answers = [], seen = [];
        api.queuePrompt = async () => answers.shift();
        watchErrors(api, () => app.graph, () => true, () => {});
        const send = (type, detail) => api.dispatchEvent(new CustomEvent(type, { detail }));
        const refused = { 1: { class_type: 'WanVideoActivationEditor', errors: [{ message: 'refused' }] } };
        const queue = async (id, nodes = {}) => {
            answers.push({ prompt_id: id, node_errors: nodes });
            await api.queuePrompt();
        };
        const failed = text => send('execution_error', { node_id: '1', exception_message: text });
        const look = () => seen.push(document.querySelector('.wan-ae-error')?.innerText ?? '');
        await queue('a'); send('execution_start', { prompt_id: 'a' }); await queue('b'); failed('a failed'); look();
        send('execution_start', { prompt_id: 'b' }); look();
        failed('b failed'); look();
        await queue('c', refused); look();
        send('execution_start', { prompt_id: 'other' }); look();
        send('execution_start', { prompt_id: 'c' }); look();
        await queue('d', refused); await queue('e', refused);
        send('execution_start', { prompt_id: 'd' }); look();
        send('execution_start', { prompt_id: 'e' }); look();
        await queue('f'); look();
        return seen; }"""
    refused = "refused"
    assert page.js(script) == ["a failed", "", "b failed", refused, "", refused, refused, refused, ""]


def test_a_panel_without_content_is_offered_to_no_app(page: GraphPage):
    page.load(workflow(node("WanVideoComparison")))
    assert page.of_node("n.widgets.filter(w => !w.options.disabled).map(w => w.name)") == ["label_a", "label_b"]

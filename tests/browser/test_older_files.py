"""Files of earlier packs with the same node ids: nodes found, links joined, a notice for what has no counterpart."""

from __future__ import annotations

from typing import Any

from .editor import GraphPage

ZEROS = "0" * 40
TEXT = "WANVIDEOTEXTEMBEDS"


def old(number: int, kind: str, values: list[Any], inputs: list[tuple], outputs: list[tuple]) -> dict[str, Any]:
    """A node as those files hold it: (name, type, link) of inputs, (name, type, links) of outputs."""
    return {
        "id": number, "type": kind, "pos": [420 * (number - 1) + 40, 80], "size": [380, 200], "flags": {},
        "order": number, "mode": 0, "properties": {}, "widgets_values": values,
        "inputs": [{"name": n, "type": t, "link": link} for n, t, link in inputs],
        "outputs": [{"name": n, "type": t, "links": links} for n, t, links in outputs],
    }  # fmt: skip


OLD_FILE = {
    "last_node_id": 5, "last_link_id": 5, "groups": [], "config": {}, "extra": {}, "version": 0.4,
    "nodes": [
        old(1, "WanVideoBlockActivationBuilder", ["early_blocks"], [], [("block_activations", "WAN_ACTIVATION", [1])]),
        old(2, "WanVideoActivationEditor", [0.5, True, False],
            [("model", "WANVIDEOMODEL", None), ("text_embeds", TEXT, None), ("injection_embeds", TEXT, 3),
             ("activation_pattern", "WAN_ACTIVATION", 1)],
            [("model", "WANVIDEOMODEL", [4]), ("text_embeds", TEXT, [5])]),
        old(3, "WanVideoVectorArithmetic", ["weighted_sum", 0.5, 0.25, 0.25, 0.0],
            [("embeddings_1", TEXT, None), ("embeddings_2", TEXT, None)], [("result", TEXT, [3])]),
        old(4, "WanVideoActivationDebugger", ["detailed", True],
            [("model", "MODEL", 4), ("text_embeds", "CONDITIONING", 5)], [("debug_report", "STRING", None)]),
    ],
    "links": [
        [1, 1, 0, 2, 3, "WAN_ACTIVATION"], [3, 3, 0, 2, 2, TEXT], [4, 2, 0, 4, 0, "MODEL"],
        [5, 2, 1, 4, 1, "CONDITIONING"],
    ],
}  # fmt: skip

LINKED = """() => Object.fromEntries(app.graph._nodes.map(node => [node.type,
    node.inputs.filter((_, i) => node.isInputConnected(i)).map(input => input.name)]))"""
NOTICES = """() => Object.fromEntries(app.graph._nodes.map(node => [node.type,
    (node.widgets ?? []).filter(w => w.name === 'older_file_notice').map(w => w.element.textContent)[0] ?? null]))"""


def values(page: GraphPage, kind: str) -> list[Any]:
    return next(n["widgets_values"] for n in page.saved()["nodes"] if n["type"] == kind)


def test_an_older_file_opens_joined_and_says_what_it_lost(page: GraphPage):
    page.load(OLD_FILE)
    linked = page.js(LINKED)
    assert linked["WanVideoActivationEditor"] == ["injection_embeds", "block_activations"]
    assert linked["WanVideoInjectionTester"] == ["model", "text_embeds"]
    assert values(page, "WanVideoActivationEditor")[:5] == [0.5, ZEROS, True, "off", "context"]
    assert values(page, "WanVideoVectorArithmetic")[:4] == ["weighted_sum", 0.5, 0.5, 0]
    notices = page.js(NOTICES)
    assert "the base had weight 0.5" in notices["WanVideoVectorArithmetic"]
    assert "was WanVideoActivationDebugger" in notices["WanVideoInjectionTester"]
    assert notices["WanVideoActivationEditor"] is None


def test_a_notice_stays_with_the_file_until_it_is_dismissed(page: GraphPage):
    page.load(OLD_FILE)
    saved = page.saved()
    page.load(saved)
    assert page.js(NOTICES)["WanVideoVectorArithmetic"]
    assert values(page, "WanVideoVectorArithmetic")[:4] == ["weighted_sum", 0.5, 0.5, 0], "converted once"
    page.js(
        "() => app.graph._nodes.find(n => n.type === 'WanVideoVectorArithmetic').widgets"
        ".find(w => w.name === 'older_file_notice').element.querySelector('button').click()"
    )
    assert page.js(NOTICES)["WanVideoVectorArithmetic"] is None
    page.load(page.saved())
    assert page.js(NOTICES)["WanVideoVectorArithmetic"] is None
    assert page.js(NOTICES)["WanVideoInjectionTester"]

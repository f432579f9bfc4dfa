"""A bypassed node (Ctrl+B) hands on the input that its output derives from."""

from __future__ import annotations

from typing import Any

import pytest

from .editor import GraphPage, node, workflow

HANDED_ON = {
    "WanVideoEmbeddingAmplifier": "injection_embeds",
    "WanVideoVectorDifference": "text_embeds_a",
    "WanVideoVectorArithmetic": "base_embeds",
    "WanVideoVectorInterpolation": "start_embeds",
    "WanVideoActivationEditor": "text_embeds",
    "WanVideoAdvancedActivationEditor": "text_embeds",
    "WanVideoDirectInjector": "text_embeds",
    "WanVideoProjectionBooster": "text_embeds",
}
EMBEDS = "WANVIDEOTEXTEMBEDS"


def sockets(info: dict[str, Any]) -> list[str]:
    """Inputs of a node that take text embeds."""
    given = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    types = {name: f"{spec[0]} {spec[1].get('template', {}).get('allowed_types', '')}" for name, spec in given.items()
             if isinstance(spec[0], str)}  # fmt: skip
    return [name for name, kind in types.items() if EMBEDS in kind]


def several(page: GraphPage) -> dict[str, list[str]]:
    """This pack's nodes that take several text embeds and hand text embeds on."""
    found = {}
    for name, info in page.server.call("/object_info").items():
        handed_on = any(kind in (EMBEDS, "COMFY_MATCHTYPE_V3") for kind in info["output"])
        if info["category"].startswith("WanVideo/Activation Editor") and handed_on and len(sockets(info)) > 1:
            found[name] = sockets(info)
    return found


LINK = """([kind, names]) => {
    const n = app.graph.getNodeById(1), sink = app.graph.getNodeById(2);
    names.forEach((name, i) => app.graph.getNodeById(3 + i).connect(0, n, n.inputs.findIndex(s => s.name === name)));
    const slot = n.outputs.findIndex(o => !['model', 'info'].includes(o.name));
    n.connect(slot, sink, sink.inputs.findIndex(s => s.name === 'text_embeds'));
}"""


def test_every_such_node_is_in_the_table(page: GraphPage):
    assert sorted(several(page)) == sorted(HANDED_ON)


@pytest.mark.parametrize("kind", HANDED_ON)
def test_bypassing_hands_on_what_the_output_derives_from(page: GraphPage, kind: str):
    names = several(page)[kind]
    encoders = [node("WanVideoTextEncode", None, 3 + i) for i in range(len(names))]
    page.load(workflow(node(kind), node("WanVideoSampler", None, 2), *encoders))
    page.js(LINK, [kind, names])
    page.settle()
    wanted = str(3 + names.index(HANDED_ON[kind]))
    types = page.of_node("n.inputs.map(i => i.type)")

    def handed_on() -> str:
        return page.prompt()["2"]["inputs"]["text_embeds"][0]

    assert handed_on() == "1"
    page.js("() => { app.graph.getNodeById(1).mode = 4; }")
    assert handed_on() == wanted
    saved = page.saved()
    assert [i["type"] for i in saved["nodes"][0]["inputs"]] == types, "the file keeps the sockets' types"
    page.load(saved)
    page.settle()
    assert handed_on() == wanted
    page.js("() => { app.graph.getNodeById(1).mode = 0; }")
    assert handed_on() == "1"

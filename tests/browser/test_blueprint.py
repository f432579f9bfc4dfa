"""The subgraph blueprint: placed by the front end, set from outside, and the edit that the nodes themselves make."""

from __future__ import annotations

import json

import pytest

from ..comfyui.server import REPOSITORY
from ..comfyui.tiny_models import VAE
from ..comfyui.workflows import FOX, MOON, Host, Workflow, edit
from .editor import ACTIVATIONS, EDITOR, STRENGTHS, GraphPage, node, workflow
from .test_editor_status import build, host, queue  # noqa: F401  (a fixture)
from .test_search import names, open_search, search

NAME = "Inject a second prompt (Wan)"

PLACE = """async name => {
    const all = await (await fetch('/api/global_subgraphs')).json();
    const id = Object.keys(all).find(key => all[key].name === name);
    const { nodes, definitions } = JSON.parse((await (await fetch('/api/global_subgraphs/' + id)).json()).data);
    const before = new Set(app.graph._nodes);
    app.canvas._deserializeItems({ nodes, subgraphs: definitions.subgraphs, reroutes: [], links: [], groups: [] },
        { position: [300, 180] });
    return Number(app.graph._nodes.find(n => !before.has(n)).id);
}"""

REPLACE = """([editor, blueprint]) => {
    const old = app.graph.getNodeById(editor), node = app.graph.getNodeById(blueprint);
    for (const name of ['model', 'text_embeds', 'injection_embeds']) {
        const slot = old.inputs.findIndex(i => i.name === name), link = app.graph.links.get(old.inputs[slot].link);
        const origin = app.graph.getNodeById(link.origin_id);
        origin.connect(link.origin_slot, node, node.inputs.findIndex(i => i.name === name));
    }
    for (const [slot, output] of old.outputs.entries())
        for (const id of [...output.links ?? []]) {
            const link = app.graph.links.get(id);
            node.connect(slot, app.graph.getNodeById(link.target_id), link.target_slot);
        }
    app.graph.remove(old);
}"""

WIRE = """([placed, sources]) => { const node = app.graph.getNodeById(placed);
    for (const [name, [id, slot]] of Object.entries(sources))
        app.graph.getNodeById(Number(id)).connect(slot, node, node.inputs.findIndex(i => i.name === name));
    const preview = LiteGraph.createNode('PreviewAny');
    app.graph.add(preview);
    node.connect(1, preview, 0);
    return String(preview.id); }"""

SET = """([id, values]) => { const n = app.graph.getNodeById(id);
    for (const [name, v] of Object.entries(values)) {
        const w = n.widgets.find(w => w.name.replace(/^\\d+: /, '') === name);
        w.value = v; w.callback?.(v, app.canvas, n);
    } }"""


def promoted(page: GraphPage, node_id: int) -> dict[str, object]:
    return page.of_node("Object.fromEntries(n.widgets.map(w => [w.name.replace(/^\\d+: /, ''), w.value]))", node_id)


def test_it_holds_the_ids_and_inputs_of_the_nodes():
    data = json.loads((REPOSITORY / "subgraphs" / f"{NAME}.json").read_text(encoding="utf-8"))
    (inner,) = data["definitions"]["subgraphs"]
    assert [n["type"] for n in inner["nodes"]] == ["WanVideoBlockActivationBuilder", "WanVideoActivationEditor"]
    assert data["nodes"][0]["type"] == inner["id"]


def test_rows_of_blocks_are_not_in_the_way_of_promotion(page: GraphPage):
    """The panel of a subgraph's widgets lists those of its nodes that are not disabled, in both front ends."""
    listed = "(n.updateComputedDisabled(), n.widgets.filter(w => !w.computedDisabled).map(w => w.name))"
    page.load(workflow(node(ACTIVATIONS), node(STRENGTHS, node_id=2)))
    assert page.of_node(listed) == ["preset", "blocks"]
    assert not [name for name in page.of_node(listed, 2) if name.startswith("block_")]


PANEL = "document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s.get('rightSidePanel')"


def test_a_picture_that_cannot_be_promoted_promotes_its_choice(page: GraphPage):
    """Newer front ends promote no widget without a socket; 1.35.9 promotes the picture itself."""
    if not page.is_new:
        pytest.skip("it can be promoted here")
    page.load(workflow(node(ACTIVATIONS, ["late_blocks"])))
    page.js("() => app.canvas.selectNode(app.graph.convertToSubgraph(new Set(app.graph._nodes)).node)")
    page.js(f"() => {PANEL}.openPanel('subgraph')")
    page.page.click("[data-nodeid] >> text=blocks >> xpath=ancestor::*[@data-nodeid] >> button")
    page.settle()
    (outside,) = page.js("() => app.graph._nodes[0].widgets.map(w => [w.name, w.value])")
    page.js(f"() => {PANEL}.closePanel()")
    page.js("() => { const w = app.graph._nodes[0].widgets[0]; w.value = 'early_blocks'; w.callback?.(w.value); }")
    (saved,) = page.prompt().values()
    assert outside == ["blocks", "late_blocks"] and saved["inputs"]["preset"] == "early_blocks"


def test_it_is_placed_with_preset_strength_and_window(page: GraphPage):
    placed = page.js(PLACE, NAME)
    page.settle()
    assert page.of_node("n.title", placed) == NAME
    assert promoted(page, placed) == {
        "preset": "mid_blocks", "injection_strength": 0.5, "start_percent": 0, "end_percent": 1,
    }  # fmt: skip


OPEN = """id => { const c = app.canvas, n = app.graph.getNodeById(id); c.openSubgraph(n.subgraph, n); }"""
CLOSE = "() => app.canvas.setGraph(app.rootGraph ?? app.graph.rootGraph)"


def test_a_preset_that_is_set_outside_is_lit_inside(page: GraphPage):
    placed = page.js(PLACE, NAME)
    page.settle()
    page.js(SET, [placed, {"preset": "late_blocks", "injection_strength": 0.25}])
    page.js(OPEN, placed)
    page.settle(10)
    ids = dict(page.js("() => app.canvas.graph._nodes.map(n => [n.type, Number(n.id)])"))
    try:
        read = "e => [...e.querySelectorAll('.wan-ae-cell')].findIndex(c => c.getAttribute('aria-selected') === 'true')"
        shown = (
            "([id, read]) => eval(read)(app.canvas.graph.getNodeById(id)"
            ".widgets.find(w => w.type === 'WAN_ACTIVATION_EDITOR').element)"
        )
        assert [page.js(shown, [ids[kind], read]) for kind in (ACTIVATIONS, EDITOR)] == [30, 30]
        line = page.js(shown, [ids[EDITOR], "e => e.querySelector('.wan-ae-line').textContent"])
        assert line == "10 of 40 blocks selected"
    finally:
        page.js(CLOSE)
        page.settle()


def test_it_makes_the_edit_that_the_nodes_make(page: GraphPage, host: Host):  # noqa: F811
    wanted = host.digest(FOX, edit(block_activations="first_half", injection_strength=0.25))
    flow, builder, editor, digest = build(host)
    page.load(flow)
    placed = page.js(PLACE, NAME)
    page.js(REPLACE, [int(editor), placed])
    page.js("id => app.graph.remove(app.graph.getNodeById(id))", int(builder))
    page.js(SET, [placed, {"preset": "first_half", "injection_strength": 0.25}])
    page.settle()
    result = queue(page)
    assert result.output(digest, "sha256")[0] == wanted
    assert (
        page.of_node(
            "n.subgraph._nodes.find(i => i.type === 'WanVideoActivationEditor')"
            ".properties.wan_activation_editor_last_run.blocks",
            placed,
        )
        == host.blocks
    )


def test_the_comparison_samples_both_from_one_seed(page: GraphPage, host: Host):  # noqa: F811
    """Without an edit both clips are one; with it they differ."""
    flow = Workflow()
    model, main, other = host.load(flow), host.embeds(flow, FOX), host.embeds(flow, MOON)
    given = {"injection_strength": 1.0, "block_activations": "all"}
    editor = flow.add(EDITOR, model=model, text_embeds=main, injection_embeds=other, **given)
    if host.name == "native":
        text = "positive"
        latents = flow.add("EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=1)
        same = {"negative": other, "latent_image": latents, "vae": flow.add("VAELoader", vae_name=VAE)}
    else:
        text = "text_embeds"
        vae = flow.add("WanVideoVAELoader", model_name=VAE, precision="fp32")
        same = {"image_embeds": host.empty_video(flow), "vae": vae}
    page.load(flow)
    reports = []
    for edited in ([model, main], [editor, [editor[0], 1]]):
        placed = page.js(PLACE, f"Compare plain and edited (Wan, {host.name})")
        page.js(SET, [placed, {"steps": 2, "seed": 7}])
        plain = {"model": model, text: main, "edited_model": edited[0], f"edited_{text}": edited[1]}
        reports.append(page.js(WIRE, [placed, {**plain, **same}]))
    page.settle()
    result = queue(page)
    plain, changed = (result.output(node_id, "text")[0].splitlines()[1:] for node_id in reports)
    assert len(plain) == 3 and all("relative L2 0.000, SSIM 1.000" in line for line in plain)
    assert not any("relative L2 0.000" in line for line in changed)


@pytest.mark.parametrize("query", ["second prompt (wan)", "inject a second prompt"])
def test_the_search_finds_it(page: GraphPage, query: str):
    if page.vue:
        pytest.skip("the search is one in both renderers")
    page.load(workflow(node("WanVideoModelLoader")))
    open_search(page, 900, 700)
    found = search(page, query)
    page.page.keyboard.press("Escape")
    assert found == NAME
    assert NAME not in names(page)

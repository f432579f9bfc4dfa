"""The words that people use, typed into the search of both front ends: the right node comes first."""

from __future__ import annotations

from typing import Any

import pytest

from .editor import ACTIVATIONS, EDITOR, STRENGTHS, GraphPage, node, workflow

ADD, DIFFERENCE, BETWEEN = "WanVideoVectorArithmetic", "WanVideoVectorDifference", "WanVideoVectorInterpolation"
STORE, LOAD, FIND = "WanVideoStoreEmbedding", "WanVideoLoadEmbedding", "WanVideoSearchEmbeddings"
TESTER, VIEWER, ANALYZER = "WanVideoInjectionTester", "WanVideoBlockActivationViewer", "WanVideoEmbeddingAnalyzer"
COMPARISON = "WanVideoComparison"
CAPTURE, ACTADD, AMPLIFIER = "WanVideoLatentEncoder", "WanVideoLatentInjector", "WanVideoEmbeddingAmplifier"

QUERIES = {
    "inject prompt": EDITOR, "inject second prompt": EDITOR, "second prompt": EDITOR, "two prompts": EDITOR,
    "mix prompts": EDITOR, "blend prompts": EDITOR, "combine prompts": EDITOR, "prompt injection": EDITOR,
    "block prompt": EDITOR, "prompt per block": EDITOR, "layer prompt": EDITOR, "style injection": EDITOR,
    "style prompt": EDITOR, "activation patching": EDITOR, "activation editor": EDITOR, "prompt per layer": EDITOR,
    "transformer blocks": EDITOR, "cross attention edit": EDITOR,
    "choose blocks": ACTIVATIONS, "select blocks": ACTIVATIONS, "block preset": ACTIVATIONS, "pick layers": ACTIVATIONS,
    "block weight": STRENGTHS, "weight per block": STRENGTHS, "strength curve": STRENGTHS, "layer weight": STRENGTHS,
    "debug injection": TESTER, "compare prompts": TESTER, "why no effect": TESTER, "prompt distance": TESTER,
    "which blocks": VIEWER, "edited blocks": VIEWER, "prompt statistics": ANALYZER, "embedding stats": ANALYZER,
    "subtract prompts": DIFFERENCE, "prompt difference": DIFFERENCE, "concept vector": DIFFERENCE,
    "style vector": DIFFERENCE, "steering vector": DIFFERENCE, "add prompts": ADD, "prompt arithmetic": ADD,
    "slerp": BETWEEN, "interpolate prompts": BETWEEN, "prompt travel": BETWEEN, "prompt morph": BETWEEN,
    "amplify prompt": AMPLIFIER, "push prompts apart": AMPLIFIER, "boost prompt": "WanVideoProjectionBooster",
    "capture hidden state": CAPTURE, "record activations": CAPTURE, "activation addition": ACTADD,
    "add hidden state": ACTADD, "save embeds": STORE, "save prompt": STORE, "cache prompt": STORE, "load embeds": LOAD,
    "reuse prompt": LOAD, "without text encoder": LOAD, "find prompt": FIND, "similar prompts": FIND,
    "before after": COMPARISON, "style transfer": EDITOR, "regional prompt": EDITOR, "mask prompt": EDITOR,
    "attention couple": EDITOR, "xy plot": "WanVideoBlockMap", "interpretability": "WanVideoBlockMap",
    "delete embedding": "WanVideoEmbeddingDatabase", "rename embedding": "WanVideoEmbeddingDatabase",
    "ip adapter": "WanVideoImageInjection",
    "compare videos": COMPARISON, "clean up store": "WanVideoEmbeddingDatabase",
    "export prompts": "WanVideoExportEmbeddings",
}  # fmt: skip

FIRST = """() => { const all = [...document.querySelectorAll('.p-autocomplete-option, [data-testid=result-item]')]
    .map(e => e.innerText.split('\\n')[0].replace(/\\u00a0/g, ' ').trim());
    return all[0] ?? null; }"""


def names(page: GraphPage) -> dict[str, str]:
    """Display name -> id of every node."""
    return {str(n["display_name"]): name for name, n in page.server.call("/object_info").items()}


def open_search(page: GraphPage, x: float, y: float) -> None:
    """By a double click on the canvas; once more where a search that is still closing has taken it."""
    box = page.page.locator("input:focus")
    for _ in range(3):
        page.page.mouse.dblclick(x, y)
        for _ in range(30):
            page.page.wait_for_timeout(100)
            if box.is_visible():
                page.page.wait_for_timeout(300)
                return
    box.wait_for(timeout=1000)


def search(page: GraphPage, query: str) -> str | None:
    """What stands first for a query in the open search, once it has stopped changing."""
    box = page.page.locator("input:focus")
    box.wait_for(timeout=10000)
    box.fill(query, timeout=3000)
    seen: list[Any] = []
    while len(seen) < 3 or len(set(seen[-3:])) > 1 or (seen[-1] is None and len(seen) < 30):
        page.page.wait_for_timeout(120)
        seen.append(page.js(FIRST))
        assert len(seen) < 60, query
    return seen[-1]


@pytest.fixture
def classic(page: GraphPage) -> GraphPage:
    if page.vue:
        pytest.skip("the search is one in both renderers")
    return page


def test_every_query_finds_its_node_first(classic: GraphPage):
    assert len(QUERIES) >= 40
    known = {**names(classic), "Inject a second prompt (Wan)": EDITOR}  # the blueprint that holds it
    open_search(classic, 900, 600)
    found = {query: known.get(search(classic, query) or "") for query in QUERIES}
    classic.page.keyboard.press("Escape")
    assert {q: n for q, n in found.items() if n != QUERIES[q]} == {}


SOURCES = {"WanVideoModelLoader": 0, "WanVideoTextEncode": 0, "UNETLoader": 0, "CLIPTextEncode": 0}


OUTPUT = """() => { const n = app.graph.getNodeById(1), [x, y] = n.getOutputPos(0), ds = app.canvas.ds;
    const box = app.canvas.canvas.getBoundingClientRect();
    return [(x + ds.offset[0]) * ds.scale + box.x, (y + ds.offset[1]) * ds.scale + box.y]; }"""


@pytest.mark.parametrize("kind", SOURCES)
def test_a_dragged_wire_finds_the_editor(classic: GraphPage, kind: str):
    """Dropped on the empty canvas, which opens the search for nodes that take what it carries."""
    classic.load(workflow(node(kind, None, pos=[200, 180])))
    classic.js("() => app.extensionManager.setting.set('Comfy.LinkRelease.Action', 'search box')")
    places = [classic.js(OUTPUT)]  # the page may still move its view
    while len(places) < 4 or places[-1] != places[-4]:
        classic.page.wait_for_timeout(150)
        places.append(classic.js(OUTPUT))
        assert len(places) < 60, places
    x, y = places[-1]
    for _ in range(3):  # 1.58.1 takes the first press after a node was placed from the search
        classic.drag((x, y), (x + 200, y + 160), (x + 420, y + 300))
        classic.page.wait_for_timeout(600)
        if classic.page.locator("input:focus").is_visible():
            break
    known = names(classic)
    assert known.get(search(classic, "activation editor") or "") == EDITOR
    classic.page.keyboard.press("Enter")
    classic.until(lambda: len(classic.ids()) == 2)
    links = classic.saved()["links"]
    name = "model" if kind in ("WanVideoModelLoader", "UNETLoader") else "text_embeds"
    (link,) = links
    other = next(n for n in classic.saved()["nodes"] if n["type"] == EDITOR)
    assert other["inputs"][link[4]]["name"] == name
    classic.problems.clear()

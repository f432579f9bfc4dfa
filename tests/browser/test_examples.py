"""The example workflows in the graph editor: every node is known, every link joined, every value as in the file."""

from __future__ import annotations

import json

from ..comfyui.server import REPOSITORY
from .editor import GraphPage

FILES = sorted((REPOSITORY / "example_workflows").glob("*.json"))


def test_examples_open_without_missing_nodes(page: GraphPage):
    for path in FILES:
        data = json.loads(path.read_text(encoding="utf-8"))
        page.load(data)
        unknown = page.js(
            "() => app.graph._nodes.filter(n => !LiteGraph.registered_node_types[n.type]).map(n => n.type)"
        )
        assert unknown == [], path.stem
        saved = page.saved()
        assert len(saved["nodes"]) == len(data["nodes"]), path.stem
        ends = {(link[1], link[2], link[3]) for link in saved["links"]}
        assert ends == {(link[1], link[2], link[3]) for link in data["links"]}, path.stem
        given = {n["id"]: n["widgets_values"] for n in data["nodes"]}
        for node in saved["nodes"]:
            if node["type"].startswith("WanVideo") and node["type"] != "WanVideoLoadEmbedding":
                known = len(given[node["id"]])
                assert node["widgets_values"][:known] == given[node["id"]], (path.stem, node["type"])
    page.page.keyboard.press("Escape")  # the list of models that are not here
    page.problems.clear()  # which the page also looks for on the web

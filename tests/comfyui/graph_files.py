"""Workflow files as the graph editor saves them, turned into API workflows the way the front end does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .workflows import Workflow

ALWAYS, MUTED, BYPASSED = 0, 2, 4
FRONT_END_ONLY = {"MarkdownNote", "Note"}
_WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def widget_values(inputs: Mapping[str, Any], values: Iterator[Any], prefix: str = "") -> dict[str, Any]:
    """`widgets_values` by name. A menu whose choice brings inputs of its own is followed by these.

    Args:
        inputs: of a definition, by `required` and `optional`.
        values: those of the file that are left.
        prefix: of the names.
    """
    found: dict[str, Any] = {}
    for part in ("required", "optional"):
        for name, (kind, *rest) in inputs.get(part, {}).items():
            options = rest[0] if rest else {}
            dynamic = kind == "COMFY_DYNAMICCOMBO_V3"
            if (isinstance(kind, str) and kind not in _WIDGETS and not dynamic) or options.get("forceInput"):
                continue
            found[prefix + name] = value = next(values, None)
            if kind == "INT" and options.get("control_after_generate", name in ("seed", "noise_seed")):
                next(values, None)  # what happens to the seed after a run
            for choice in options["options"] if dynamic else ():
                if choice["key"] == value:
                    found |= widget_values(choice["inputs"], values, f"{prefix}{name}.")
    return {name: value for name, value in found.items() if value is not None}


def api_workflow(graph: Mapping[str, Any], definitions: Mapping[str, Any]) -> Workflow:
    """The nodes that run, with their values and links.

    Args:
        graph: the file's content; without subgraphs.
        definitions: the server's /object_info.

    Raises:
        KeyError: a node of the file does not exist on the server.
    """
    flow = Workflow()
    nodes = {node["id"]: node for node in graph["nodes"]}
    links = {link[0]: _source(link, graph, nodes) for link in graph["links"]}
    for node in graph["nodes"]:
        if node["type"] in FRONT_END_ONLY or node["mode"] in (MUTED, BYPASSED):
            continue
        values = widget_values(definitions[node["type"]]["input"], iter(node["widgets_values"]))
        linked = {i["name"]: source for i in node["inputs"] if (source := links.get(i.get("link"))) is not None}
        flow[str(node["id"])] = {"class_type": node["type"], "inputs": {**values, **linked}}
    return flow


def _source(link: list[Any], graph: Mapping[str, Any], nodes: Mapping[int, Any]) -> list[Any] | None:
    """Where a link begins: a bypassed node hands on its first input of the output's type."""
    _, origin, slot, _, _, kind = link
    node = nodes[origin]
    if node["mode"] != BYPASSED:
        return [str(origin), slot]
    by_id = {other[0]: other for other in graph["links"]}
    for given in node["inputs"]:
        if given.get("link") is not None and kind in given["type"].split(","):
            return _source(by_id[given["link"]], graph, nodes)
    return None


def read(path: Path) -> dict[str, Any]:
    graph: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return graph

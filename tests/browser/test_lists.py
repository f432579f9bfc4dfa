"""Menus of stored embeddings follow what a run stores, renames or deletes, without pressing R."""

from __future__ import annotations

from typing import Any

from ..comfyui.workflows import FOX, HOSTS, Workflow
from .editor import GraphPage
from .test_editor_status import queue

STORE, LOAD, DATABASE = "WanVideoStoreEmbedding", "WanVideoLoadEmbedding", "WanVideoEmbeddingDatabase"


def menu(page: GraphPage, node_id: str) -> list[str]:
    read = "id => app.graph.getNodeById(id).widgets.find(w => w.name === 'embedding').options.values"
    found: list[str] = page.js(read, int(node_id))
    return found


def run(page: GraphPage, kind: str, **inputs: Any) -> str:
    """Run a node of the store beside a Load node from the page; id of the Load node."""
    flow = Workflow()
    if kind == STORE:
        inputs["text_embeds"] = HOSTS["wrapper"](page.server).embeds(flow, FOX)
    flow.add(kind, **inputs)
    load = flow.add(LOAD, embedding="(nothing stored yet)", device="offload", dtype="stored")[0]
    page.load(flow)
    queue(page)
    return load


def test_the_menu_follows_the_store(page: GraphPage):
    name = f"fox of {page.js('() => window.__COMFYUI_FRONTEND_VERSION__')} {page.vue}"
    load = run(page, STORE, name=name, tags="", note="")
    page.until(lambda: name in menu(page, load))
    assert name in menu(page, load)
    changed = {"cleanup_days": 30, "cleanup_min_access": 5, "dry_run": False}
    load = run(page, DATABASE, action="rename", name=name, new_name=f"{name}, renamed", **changed)
    page.until(lambda: name not in menu(page, load))
    assert name not in menu(page, load) and f"{name}, renamed" in menu(page, load)
    load = run(page, DATABASE, action="delete", name=f"{name}, renamed", **changed)
    page.until(lambda: f"{name}, renamed" not in menu(page, load))
    assert f"{name}, renamed" not in menu(page, load)

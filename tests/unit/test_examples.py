"""Example workflows: every link joins what it says, and values of this pack's nodes fit their inputs."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
import wanvideo_activation_editor

FOLDER = Path(wanvideo_activation_editor.__file__).resolve().parent / "example_workflows"
SOCKETS = ("MODEL", "LATENT", "CONDITIONING", "WANVIDEO", "BLOCK_STRENGTHS", "LATENT_EMBEDS", "WANVIDIMAGE", "IMAGE")
KINDS = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool, "COMBO": str}


def test_names_are_numbered_titles():
    """The browser of templates shows a file's name as it is, and sorts by it."""
    names = sorted(path.stem for path in FOLDER.glob("*.json"))
    assert len(names) >= 11
    for number, name in enumerate(names, 1):
        assert re.fullmatch(rf"{number:02} [A-Z].{{8,40}} \((wrapper|native)\)", name), name


def test_the_view_that_opens_can_be_read():
    """ComfyUI 0.8.0's front end hides text below 8 px, of 14 at a scale of 1."""
    for path in FOLDER.glob("*.json"):
        view = json.loads(path.read_text(encoding="utf-8"))["extra"]["ds"]
        assert view["scale"] > 8 / 14, path.stem


def test_reports_need_no_other_node():
    for path in FOLDER.glob("*.json"):
        kinds = {node["type"] for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]}
        assert "PreviewAny" not in kinds, path.stem


@pytest.fixture(scope="module")
def schemas() -> dict:
    extension = asyncio.run(wanvideo_activation_editor.comfy_entrypoint())
    return {s.node_id: s for s in (n.define_schema() for n in asyncio.run(extension.get_node_list()))}


@pytest.fixture(params=sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def workflow(request) -> dict:
    return json.loads(request.param.read_text(encoding="utf-8"))


def is_widget(given) -> bool:
    return hasattr(given, "default") and not given.get_io_type().startswith(SOCKETS)


def test_links_join_what_they_say(workflow):
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, source, output, target, place, kind in workflow["links"]:
        assert link in nodes[source]["outputs"][output]["links"]
        assert nodes[source]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][place]["link"] == link
        accepted = nodes[target]["inputs"][place]["type"].split(",")
        assert kind in accepted or accepted == ["*"]
    linked = {i["link"] for node in nodes.values() for i in node["inputs"]} - {None}
    assert linked == {link[0] for link in workflow["links"]}
    assert workflow["last_link_id"] >= max(linked) and workflow["last_node_id"] >= max(nodes)


def test_values_fit_the_inputs_of_this_packs_nodes(workflow, schemas):
    seen = 0
    for node in workflow["nodes"]:
        if node["type"] not in schemas:
            continue
        seen += 1
        schema = schemas[node["type"]]
        widgets = [i for i in schema.inputs if is_widget(i)]
        values = node["widgets_values"]
        assert len(values) <= len(widgets), node["type"]
        assert all(i.optional for i in widgets[len(values) :]), "added after the file was saved"
        for given, value in zip(widgets, values, strict=False):
            assert isinstance(value, KINDS[given.get_io_type()]), f"{node['type']}.{given.id}"
            later = given.id in ("file", "embedding")  # names of what is written or stored before the node runs
            if given.get_io_type() == "COMBO" and not later:
                assert value in given.options, f"{node['type']}.{given.id}"
            if given.get_io_type() in ("INT", "FLOAT"):
                assert given.min <= value <= given.max, f"{node['type']}.{given.id}"
        sockets = [i.id for i in schema.inputs if not is_widget(i)]
        assert [i["name"] for i in node["inputs"] if "widget" not in i] == sockets, node["type"]
        assert [o["name"] for o in node["outputs"]] == [o.id for o in schema.outputs]
    assert seen


def test_every_example_has_a_small_thumbnail():
    for path in FOLDER.glob("*.json"):
        picture = path.with_suffix(".jpg")
        assert picture.exists(), "python -m tools.thumbnails"
        assert picture.stat().st_size < 60_000

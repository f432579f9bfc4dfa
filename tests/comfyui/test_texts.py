"""Text that no log can hold, in every text input of every node, over the server's HTTP API."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

import pytest

from .server import RejectedError
from .workflows import FOX, FRAMES, MOON, Host, Workflow, output

PACK = "custom_nodes.activation-editor"


def text_inputs(host: Host) -> Iterator[tuple[str, str, dict[str, Any], Collection[str]]]:
    """Each node of the pack with each of its text inputs, its inputs as the server describes them, and the required."""
    for node, about in sorted(host.server.call("/object_info").items()):
        if about["python_module"] == PACK:
            required = about["input"].get("required", {})
            inputs = {**required, **about["input"].get("optional", {})}
            for name, (kind, *_) in inputs.items():
                if kind == "STRING":
                    yield node, name, inputs, required


SMALL = {"width": 64, "height": 64, "num_frames": FRAMES, "seeds": 1, "steps": 1, "use_cache": False}


def values(host: Host, flow: Workflow, inputs: dict[str, Any], required: Collection[str]) -> dict[str, Any]:
    """Links and defaults for every required input, so that the node runs; of the others, defaults for what they fit."""
    model, embeds = host.load(flow), host.embeds(flow, FOX)
    sockets = {
        "IMAGE": lambda: flow.add("EmptyImage", width=16, height=16, batch_size=1, color=0),
        "LATENT_EMBEDS": lambda: host.capture(flow, model, FOX, 1),
        "CONTROL_VECTOR": lambda: flow.add("TestMakeVector", model=model, site="attention", seed=1),
        "CLIP_VISION_OUTPUT": lambda: output(flow.add("TestClipImage", seed=1), 1),
    }
    given: dict[str, Any] = {}
    for name, (kind, *spec) in inputs.items():
        about = spec[0] if spec else {}
        options = kind if isinstance(kind, list) else about.get("options")
        if name == "model":
            given[name] = model
        elif name in SMALL:
            given[name] = SMALL[name]
        elif "embeds" in name and name != "image_embeds":
            given[name] = host.embeds(flow, MOON) if "injection" in name or "negative" in name else embeds
        elif "default" in about:
            given[name] = about["default"]
        elif options:
            given[name] = options[0]
        elif name in required:
            given[name] = next(make() for one, make in sockets.items() if one in kind.split(","))
    return given


def reached(host: Host, flow: Workflow, node: str, name: str) -> bool:
    """Whether the text came to the node: it ran, it raised, or it refused this input when it was asked beforehand."""
    try:
        result = host.server.run(flow)
    except RejectedError as refused:
        told = json.loads(str(refused))["node_errors"].values()
        errors = [error for of_node in told if of_node["class_type"] == node for error in of_node["errors"]]
        of_this = [e["extra_info"].get("input_name") for e in errors if e["type"] == "custom_validation_failed"]
        return name in of_this and len(of_this) == len(errors)
    return result.error is None or result.error["node_type"] == node


@pytest.mark.parametrize(
    "text", ["\ud800", "\u202e\x00", "7:" + "1" * 1_000_000], ids=["surrogate", "controls", "megabyte"]
)
def test_no_text_ends_the_server(host: Host, text: str):
    """The prompt worker is a thread: an error that cannot be written ends it, and no later run is answered."""
    asked, missed = 0, []
    for node, name, inputs, required in text_inputs(host):
        flow = Workflow()
        shown = flow.add(node, **{**values(host, flow, inputs, required), name: text})
        flow.add("TestShow", value=shown)
        asked += 1
        if not reached(host, flow, node, name):
            missed.append((node, name))
    assert asked > 40
    assert not missed
    assert host.digest(FOX, steps=1) == host.reference(FOX, steps=1)

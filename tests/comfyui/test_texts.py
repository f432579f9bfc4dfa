"""Text that no log can hold, in every text input of every node, over the server's HTTP API."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from .server import RejectedError
from .workflows import FOX, Host, Workflow

PACK = "custom_nodes.activation-editor"


def text_inputs(host: Host) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each node of the pack with each of its text inputs, and its inputs as the server describes them."""
    for node, about in sorted(host.server.call("/object_info").items()):
        if about["python_module"] == PACK:
            inputs = {**about["input"].get("required", {}), **about["input"].get("optional", {})}
            for name, (kind, *_) in inputs.items():
                if kind == "STRING":
                    yield node, name, inputs


def values(inputs: dict[str, Any], model: Any, embeds: Any) -> dict[str, Any]:
    """Links and defaults for what they fit; the rest stays open."""
    given: dict[str, Any] = {}
    for name, (kind, *spec) in inputs.items():
        about = spec[0] if spec else {}
        if name == "model":
            given[name] = model
        elif "embeds" in name:
            given[name] = embeds
        elif isinstance(kind, list) and kind:
            given[name] = about.get("default", kind[0])
        elif "default" in about:
            given[name] = about["default"]
        elif kind == "COMBO" and about.get("options"):
            given[name] = about["options"][0]
    return given


@pytest.mark.parametrize(
    "text", ["\ud800", "\u202e\x00", "7:" + "1" * 1_000_000], ids=["surrogate", "controls", "megabyte"]
)
def test_no_text_ends_the_server(host: Host, text: str):
    """The prompt worker is a thread: an error that cannot be written ends it, and no later run is answered."""
    asked = 0
    for node, name, inputs in text_inputs(host):
        flow = Workflow()
        given = values(inputs, host.load(flow), host.embeds(flow, FOX))
        shown = flow.add(node, **{**given, name: text})
        flow.add("TestShow", value=shown)
        asked += 1
        with contextlib.suppress(RejectedError):
            host.server.run(flow)
    assert asked > 30
    assert host.digest(FOX, steps=1) == host.reference(FOX, steps=1)

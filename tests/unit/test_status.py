"""Messages of a running edit to the page; tests/browser has the real server and page."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import torch
from wanvideo_activation_editor.nodes.sockets import address
from wanvideo_activation_editor.patching.edit import Edit
from wanvideo_activation_editor.patching.hosts.status import EVENT, observer_for
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.sources import Direction

HIDDEN = SimpleNamespace(unique_id="3:12", extra_pnginfo={"workflow": {"id": "w1"}})


def edit(hidden) -> Edit:
    return Edit(Direction(torch.ones(4)), parse_selection("all"), reports_to=address(hidden))


def server(monkeypatch, client: str | None) -> list[tuple]:
    """Stands in for ComfyUI's `server` module; returns what is sent."""
    sent: list[tuple] = []
    instance = SimpleNamespace(client_id=client, send_sync=lambda *args: sent.append(args))
    module = SimpleNamespace(PromptServer=SimpleNamespace(instance=instance))
    monkeypatch.setitem(sys.modules, "server", module)
    return sent


def test_messages_go_to_the_page_that_queued_the_workflow(monkeypatch):
    sent = server(monkeypatch, "page 1")
    observer_for(edit(HIDDEN))({"phase": "step", "step": 1})
    assert sent == [(EVENT, {"node": "3:12", "workflow": "w1", "phase": "step", "step": 1}, "page 1")]


def test_a_workflow_without_a_page_sends_nothing(monkeypatch):
    sent = server(monkeypatch, None)
    observer_for(edit(HIDDEN))({"phase": "step"})
    assert sent == []


def test_outside_of_a_server_or_a_prompt_there_is_no_sender(monkeypatch):
    assert observer_for(edit(SimpleNamespace(unique_id=None))) is None
    monkeypatch.delitem(sys.modules, "server", raising=False)
    assert observer_for(edit(HIDDEN)) is None

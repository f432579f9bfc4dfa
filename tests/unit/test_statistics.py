"""Log levels and what is measured for them."""

from __future__ import annotations

import logging
import re

import pytest
import torch
from wanvideo_activation_editor.embeddings.text_embeds import read_text_embeds
from wanvideo_activation_editor.patching.edit import Edit
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.statistics import StepStatistics, effective_log_level


def edit(level: str) -> Edit:
    return Edit(read_text_embeds(torch.ones(2, 4)), parse_selection("all"), log_level=level)


@pytest.mark.parametrize(
    ("level", "environment", "expected"),
    [
        ("off", {}, "off"),
        ("basic", {}, "basic"),
        ("off", {"WAN_ACTIVATION_DEBUG": "1"}, "basic"),
        ("off", {"WAN_ACTIVATION_VERBOSE": "true"}, "verbose"),
        ("trace", {"WAN_ACTIVATION_VERBOSE": "1"}, "trace"),
        ("off", {"WAN_ACTIVATION_VERBOSE": "0", "WAN_ACTIVATION_DEBUG": "off"}, "off"),
    ],
)
def test_the_environment_raises_the_level(monkeypatch, level, environment, expected):
    for name in ("WAN_ACTIVATION_DEBUG", "WAN_ACTIVATION_VERBOSE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert effective_log_level(edit(level)) == expected


def test_an_unknown_level_is_an_error():
    with pytest.raises(ValueError, match="log_level must be one of"):
        edit("loud")


def test_figures_are_over_the_touched_rows_and_logged_once_per_call(caplog):
    caplog.set_level(logging.INFO, "wanvideo_activation_editor")
    statistics = StepStatistics()
    statistics.begin(lambda: "Step 1")
    main = torch.full((2, 4, 8), 3.0)
    edited = main.clone()
    edited[0] = 9.0  # untouched
    edited[1, 0, :4] *= -1
    for block in (4, 5):
        statistics.record(block, "key", main, edited, rows=[1], trace=True)
    statistics.record(6, "another", main, edited, rows=[1])
    (called,) = caplog.messages  # where from, once
    assert re.search(r"^Block 4 was called through .*test_figures_are_over_the_touched_rows\w+:\d+$", called)
    caplog.clear()
    statistics.begin(lambda: "Step 2")
    assert [m.split(":")[0] for m in caplog.messages] == ["Step 1, block 4", "Step 1, block 5", "Step 1, block 6"]
    assert "context changed by 0.7071 (relative L2)" in caplog.messages[0]
    assert "norm 16.97 before, 16.97 after" in caplog.messages[0]
    assert "[2, 4, 8] torch.float32 on cpu" in caplog.messages[0]
    assert "torch" not in caplog.messages[2]
    statistics.flush()
    assert len(caplog.messages) == 3

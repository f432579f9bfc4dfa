"""What the server's log says about edits."""

from __future__ import annotations

import re

import pytest

from .workflows import FOX, Host, Workflow, edit

OURS = ("WanVideo Activation Editor", "wan_activation_editor", "changed by more than")
BLOCK_LINE = re.compile(r"Step at sigma [0-9.]+, block \d+: [a-z_ ]+ changed by [0-9.]+ \(relative L2\), norm .*")


def log_of(host: Host, *edits, **kwargs) -> str:
    return host.run(FOX, *edits, **kwargs).checked().log


def test_off_says_nothing(host: Host):
    log = log_of(host, edit())
    assert not any(words in log for words in OURS)


def test_basic_says_once_which_blocks_of_which_model_are_edited(host: Host):
    log = log_of(host, edit(log_level="basic", block_activations="first_half"), steps=4)
    half = host.blocks // 2
    assert log.count(f"{half} of {host.blocks} blocks of WanModel hooked, blend, branch cond, window 0-1") == 1
    assert "█" * 10 in log
    assert "injected against main prompt: relative L2" in log
    assert not BLOCK_LINE.search(log)


@pytest.mark.parametrize("level", ["verbose", "trace"])
def test_verbose_and_trace_report_every_edited_block_at_every_step(host: Host, level):
    log = log_of(host, edit(log_level=level, block_activations="0-2"), steps=4)
    lines = BLOCK_LINE.findall(log)
    assert len(lines) == 4 * 3
    assert sum("block 1:" in line for line in lines) == 4
    assert all(("float32 on cpu" in line) == (level == "trace") for line in lines)
    called = re.findall(r"Block 0 was called through .*", log)
    assert len(called) == (level == "trace") and all("WanModel.forward" in line for line in called)


def test_logging_does_not_change_the_result(host: Host):
    half = edit(injection_strength=0.5)
    assert host.digest(FOX, {**half, "log_level": "trace"}) == host.reference(FOX, half)


@pytest.mark.parametrize(
    ("variable", "words"), [("WAN_ACTIVATION_DEBUG", "WanModel hooked, blend"), ("WAN_ACTIVATION_VERBOSE", "block 0:")]
)
def test_the_environment_raises_the_level_of_every_editor(host: Host, variable, words):
    def environment(text: str):
        return lambda flow, model: flow.add("TestEnvironment", value=model, name=variable, text=text)

    quiet_edit = edit(block_activations="0-2")
    try:
        loud = log_of(host, quiet_edit, after=environment("1"))
    finally:
        quiet = log_of(host, quiet_edit, after=environment(""))
    assert words in loud
    assert not any(w in quiet for w in OURS)


def test_prompts_that_are_nearly_alike_are_warned_about(host: Host):
    log = log_of(host, edit(FOX))
    assert "the prompts are nearly alike" in log


def test_a_selection_of_no_block_is_warned_about(host: Host):
    log = log_of(host, edit(block_activations="none"))
    assert "no block is selected" in log


def test_the_stack_is_in_the_model_and_its_description_in_the_embeds(host: Host):
    flow = Workflow()
    embeds = host.embeds(flow, FOX)
    model, embeds = host.edit(flow, host.load(flow), embeds, edit(), lambda text: host.embeds(flow, text))
    probe = flow.add("TestLeftovers", model=model)[0]
    shown = flow.add("TestShow", value=embeds)[0]
    result = host.server.run(flow).checked()
    assert "wan_activation_editor" in result.output(probe, "options")
    description = result.output(shown, "text")[0]
    assert "'wan_activation_editor': {'version': 1, 'edits': [{'site': 'context'" in description

"""What remains after a run that ended early: nothing."""

from __future__ import annotations

import pytest

from .server import RunFailedError
from .workflows import FOX, MOON, Host, Workflow, edit


@pytest.fixture
def untouched(host: Host):
    """Afterwards: the same cached model, nothing attached to it, and the next plain and edited runs are right."""
    plain, before = host.reference(), host.leftovers()
    yield
    after = host.leftovers()
    assert after["hooks"] == after["forwards"] == []
    assert after == before
    assert host.digest(FOX) == plain
    assert host.digest(FOX, edit()) == host.reference(MOON)


@pytest.mark.parametrize("call", [1, 4])
def test_nothing_remains_after_an_exception_inside_a_block(host: Host, untouched, call):
    with pytest.raises(RunFailedError, match="stopped in the middle of a block"):
        host.run(FOX, edit(), after=host.stop_in_block(call, "raise"), steps=4).checked()


def test_a_stop_iteration_inside_a_block_is_told(host: Host, untouched):
    """Where ComfyUI's coroutine turns it into another error, which does not say where it comes from."""
    with pytest.raises(RunFailedError, match="StopIteration was raised while sampling: stopped in the middle"):
        host.run(FOX, edit(), after=host.stop_in_block(2, "raise StopIteration"), steps=4).checked()


def test_nothing_remains_after_an_interrupt(host: Host, untouched):
    result = host.interrupted(4, FOX, edit(), steps=4)
    assert result.interrupted
    assert not any("sha256" in output for output in result.outputs.values())


def test_nothing_remains_after_another_node_failed(host: Host, untouched):
    flow = Workflow()
    flow.add("TestFail", value=host.branch(flow, FOX, edit()))
    with pytest.raises(RunFailedError, match="a node after the sampler failed"):
        host.server.run(flow).checked()


def test_nothing_remains_when_one_of_two_branches_fails(host: Host, untouched):
    flow = Workflow()
    for after in (None, host.stop_in_block(2, "raise")):
        latents = host.branch(flow, FOX, edit(block_activations="even"), after=after)
        flow.add("TestDigest", samples=latents)
    with pytest.raises(RunFailedError, match="stopped in the middle of a block"):
        host.server.run(flow).checked()


def test_these_tests_would_see_a_hook_that_stays(host: Host):
    """A hook of a helper node that waits for a call that never comes."""
    host.run(FOX, after=host.stop_in_block(10_000, "raise")).checked()
    assert host.leftovers()["hooks"]
    host.server.free()
    assert not host.leftovers()["hooks"]

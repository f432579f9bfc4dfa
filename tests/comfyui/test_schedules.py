"""Strength that changes over sampling, on both hosts."""

from __future__ import annotations

import pytest

from .server import RejectedError
from .workflows import FOX, Host, edit

MODES = ("context", "hidden_states")


@pytest.mark.parametrize("mode", MODES)
def test_a_schedule_of_1_is_none_and_of_0_is_no_edit(host: Host, mode):
    some = {"block_activations": "1-3", "injection_mode": mode}
    assert host.digest(FOX, edit(**some, schedule="0:1, 0.5:1")) == host.reference(FOX, edit(**some))
    assert host.digest(FOX, edit(**some, schedule="0.3:0")) == host.reference()


@pytest.mark.parametrize("mode", MODES)
def test_a_schedule_of_0_and_1_is_a_window(host: Host, mode):
    """Three editors in a row: with a window each, or with a schedule each."""
    some = {"block_activations": "1-3", "injection_mode": mode}
    late = host.digest(FOX, edit(**some, start_percent=0.5), steps=4)
    early = host.digest(FOX, edit(**some, end_percent=0.5), steps=4)
    assert host.digest(FOX, edit(**some, schedule="0.45:0, 0.5:1"), steps=4) == late
    assert host.digest(FOX, edit(**some, schedule="0.45:1, 0.5:0"), steps=4) == early
    assert late != early


def test_the_strength_follows_the_line(host: Host):
    """At progress 0 and 0.5, the two steps of a run, to the rounding of the noise levels."""
    by_step = (
        edit(block_activations="1-3", injection_strength=0.25, end_percent=0.5),
        edit(block_activations="1-3", injection_strength=0.75, start_percent=0.5),
    )
    scheduled = edit(block_activations="1-3", schedule="0.02:0.25, 0.48:0.75")
    assert host.digest(FOX, scheduled, steps=2) == host.digest(FOX, *by_step, steps=2)


def test_a_schedule_that_cannot_be_read_is_refused_before_the_run(host: Host):
    with pytest.raises(RejectedError, match=r"position 6: '0.5' is no point"):
        host.run(FOX, edit(schedule="0:1, 0.5"))

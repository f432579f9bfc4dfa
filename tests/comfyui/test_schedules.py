"""Strength that changes over sampling, on both hosts."""

from __future__ import annotations

import re

import pytest

from .server import RejectedError
from .workflows import FOX, Host, NativeHost, edit

MODES = ("context", "hidden_states")
STEPS, SHIFT = 6, 5.0


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


def steps_of(native: NativeHost, scheduler: str, **inputs) -> list[float]:
    """Noise levels of the steps in which an edit acts."""
    given = edit(block_activations="0", log_level="verbose", **inputs)
    log = native.run(FOX, given, steps=STEPS, cfg=1.0, scheduler=scheduler).checked().log
    return [float(level) for level in re.findall(r"Step at sigma ([\d.]+), block 0:", log)]


def test_the_same_window_acts_at_the_same_noise_levels_with_every_scheduler(native: NativeHost):
    """Of every scheduler that this ComfyUI has: where 1 - u is in the window, and flow matching shifts u to sigma."""
    info = native.server.call("/object_info/KSampler")["KSampler"]["input"]["required"]
    kind, *spec = info["scheduler"]
    schedulers = kind if isinstance(kind, list) else spec[0]["options"]
    assert {"simple", "normal", "karras", "exponential", "sgm_uniform", "ddim_uniform", "beta"} <= set(schedulers)
    schedules = set()
    for scheduler in schedulers:
        levels = steps_of(native, scheduler)
        assert len(levels) >= STEPS - 1 and levels == sorted(levels, reverse=True), scheduler
        schedules.add(tuple(levels))
        done = {sigma: 1 - sigma / (SHIFT - (SHIFT - 1) * sigma) for sigma in levels}
        clear = [sigma for sigma in levels if all(abs(done[sigma] - edge) > 2e-3 for edge in (0.25, 0.75))]
        acted = steps_of(native, scheduler, start_percent=0.25, end_percent=0.75)
        assert [s for s in acted if s in clear] == [s for s in clear if 0.25 <= done[s] < 0.75], scheduler
        assert len(acted) < len(levels), scheduler
        first = steps_of(native, scheduler, end_percent=0.01)
        assert first == [s for s in levels if done[s] < 0.01 or s >= 0.999], scheduler
    assert len(schedules) > 5, "most space their steps in a way of their own"

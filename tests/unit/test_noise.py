"""The rule that turns noise levels into parts of sampling, over the schedulers of diffusers."""

from __future__ import annotations

import diffusers
import pytest
import torch
from wanvideo_activation_editor.patching.edit import Window
from wanvideo_activation_editor.patching.hosts.attachment import progress
from wanvideo_activation_editor.patching.noise import progress_at, shift_of

SHIFTS = (1.0, 3.0, 5.0, 8.0)
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


def schedulers(shift: float):
    yield diffusers.UniPCMultistepScheduler(**FLOW, flow_shift=shift)
    yield diffusers.DPMSolverMultistepScheduler(**FLOW, flow_shift=shift)
    yield diffusers.DEISMultistepScheduler(**FLOW, flow_shift=shift)
    yield diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    yield diffusers.FlowMatchEulerDiscreteScheduler(shift=shift, use_karras_sigmas=True)
    yield diffusers.FlowMatchLCMScheduler(shift=shift)


@pytest.mark.parametrize("shift", SHIFTS)
def test_progress_is_the_inverse_of_the_shift(shift):
    for u in (1.0, 0.9, 0.5, 0.1, 0.0):
        sigma = shift * u / (1 + (shift - 1) * u)
        assert progress_at(sigma, shift) == pytest.approx(1 - u, abs=1e-3 * max(1, shift))


@pytest.mark.parametrize("shift", SHIFTS)
def test_every_scheduler_of_diffusers_is_read_by_its_noise_level(shift):
    for scheduler in schedulers(shift):
        scheduler.set_timesteps(8)
        assert shift_of(scheduler) == shift
        found = [progress(t.reshape(1), scheduler) for t in scheduler.timesteps]
        assert found == sorted(found) and found[0] == 0.0 and found[-1] < 1.0
        for t, done in zip(scheduler.timesteps, found, strict=True):
            if done:
                sigma = shift * (1 - done) / (1 + (shift - 1) * (1 - done))
                assert sigma == pytest.approx(float(t) / 1000, abs=1.01e-3)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("steps", [4, 8, 50])
def test_evenly_spaced_steps_are_at_their_share_and_the_first_step_at_the_beginning(shift, steps):
    scheduler = diffusers.UniPCMultistepScheduler(**FLOW, flow_shift=shift)
    scheduler.set_timesteps(steps)
    at = [progress(t.reshape(1), scheduler) for t in scheduler.timesteps]
    assert at == pytest.approx([i / steps for i in range(steps)], abs=4e-3)
    assert Window(0.0, 0.01).contains(at[0]) and not Window(0.01, 1.0).contains(at[0])


def test_without_a_flow_shift_the_index_decides():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(8, mu=1.0)
    assert shift_of(scheduler) is None
    assert [progress(t.reshape(1), scheduler) for t in scheduler.timesteps] == [i / 8 for i in range(8)]
    assert torch.is_tensor(scheduler.timesteps)

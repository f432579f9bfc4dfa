"""Strength that changes over sampling."""

from __future__ import annotations

import contextlib

import pytest
import torch
from wanvideo_activation_editor.patching.hosts.diffusers import inject
from wanvideo_activation_editor.patching.sources import Direction

from .conftest import hook_count

DIRECTION = Direction(torch.randn(32, generator=torch.Generator().manual_seed(5)))
SITES = ("context", "attention", "hidden")


@pytest.mark.parametrize("site", SITES)
def test_a_schedule_of_1_is_none_and_of_0_no_edit_bit_for_bit(sampler, main, other, site):
    plain = sampler(main)
    with inject(sampler.pipe, other, "1-2:0.6", site=site):
        steady = sampler(main)
    with inject(sampler.pipe, other, "1-2:0.6", site=site, schedule="0:1, 0.4:1"):
        assert torch.equal(sampler(main), steady)
    with inject(sampler.pipe, other, "1-2:0.6", site=site, schedule="0:0"):
        assert torch.equal(sampler(main), plain)
    assert not torch.equal(steady, plain) and hook_count(sampler.pipe.transformer) == 0


@pytest.mark.parametrize("source", ["prompt", "direction"])
@pytest.mark.parametrize("site", SITES)
def test_each_step_has_the_strength_of_its_place(sampler, main, other, site, source):
    what = other if source == "prompt" else DIRECTION
    with inject(sampler.pipe, what, "1-2", 0.5, site=site, schedule="0:0.2, 0.25:0.4, 0.5:0.6, 0.75:0.8"):
        by_point = sampler(main, steps=4)
    with inject(sampler.pipe, what, "1-2", 0.5, site=site, schedule="0:0.2, 0.75:0.8"):
        by_line = sampler(main, steps=4)
    with contextlib.ExitStack() as windows:
        for step in range(4):
            window = (step / 4, (step + 1) / 4)
            windows.enter_context(inject(sampler.pipe, what, "1-2", 0.1 * (step + 1), site=site, window=window))
        by_step = sampler(main, steps=4)
    assert torch.allclose(by_point, by_step, atol=1e-5)
    assert torch.allclose(by_line, by_step, atol=5e-3)  # noise levels are rounded
    assert not torch.allclose(by_line, sampler(main, steps=4), atol=5e-2)


def test_a_rising_and_a_falling_schedule_are_the_windows_where_they_are_0_or_1(sampler, main, other):
    with inject(sampler.pipe, other, "1-3", schedule="0:0, 0.25:0, 0.5:1"):
        rising = sampler(main, steps=4)
    with inject(sampler.pipe, other, "1-3", window=(0.5, 1)):
        late = sampler(main, steps=4)
    with inject(sampler.pipe, other, "1-3", schedule="0.25:1, 0.5:0"):
        falling = sampler(main, steps=4)
    with inject(sampler.pipe, other, "1-3", window=(0, 0.5)):
        early = sampler(main, steps=4)
    assert torch.equal(rising, late) and torch.equal(falling, early) and not torch.equal(rising, falling)


def test_the_window_still_says_where_it_acts(sampler, main, other):
    with inject(sampler.pipe, other, "1-3", window=(0, 0.5), schedule="0:1, 0.5:1, 0.75:0.1"):
        both = sampler(main, steps=4)
    with inject(sampler.pipe, other, "1-3", window=(0, 0.5)):
        assert torch.equal(sampler(main, steps=4), both)


def test_a_schedule_needs_the_scheduler_and_is_read_before_sampling(sampler, other):
    transformer = sampler.pipe.transformer
    with pytest.raises(ValueError, match="pass the pipeline"), inject(transformer, other, schedule="0:0, 1:1"):
        pass
    with pytest.raises(ValueError, match=r"schedule, position 1: '1:2'"), inject(sampler.pipe, other, schedule="1:2"):
        pass
    assert hook_count(transformer) == 0

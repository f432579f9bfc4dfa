"""Features of diffusers beside edits: right, or refused by name, and no false warning."""

from __future__ import annotations

import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig, apply_group_offloading
from wanvideo_activation_editor.patching.hosts.diffusers import inject

from .conftest import Sampler, make_transformer


def offloaded(tmp_path, count: int, disk: bool) -> Sampler:
    sampler, cpu = Sampler(make_transformer()), torch.device("cpu")
    where = {"offload_to_disk_path": str(tmp_path / str(count))} if disk else {}
    apply_group_offloading(
        sampler.pipe.transformer,
        onload_device=cpu,
        offload_device=cpu,
        offload_type="block_level",
        num_blocks_per_group=count,
        **where,
    )
    return sampler


@pytest.mark.parametrize("disk", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_group_offload(tmp_path, main, other, count, disk, caplog):
    sampler = offloaded(tmp_path, count, disk)
    wanted = sampler(other)
    with inject(sampler.pipe, other):
        assert torch.equal(sampler(main), wanted)
    if count == 1:
        with inject(sampler.pipe, other, site="hidden"):
            assert torch.equal(sampler(main), wanted)
    else:
        with (
            pytest.raises(ValueError, match=f"group offloading of {count} blocks a group"),
            inject(sampler.pipe, other, site="hidden"),
        ):
            pass
    assert "has replaced the forward" not in caplog.text


def test_a_cache_of_diffusers_is_no_other_pack_and_blurs_windows(main, other, caplog):
    sampler = Sampler(make_transformer(), steps=4)
    sampler.pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e-6))
    with inject(sampler.pipe, other):
        sampler(main)
    assert not caplog.records
    with inject(sampler.pipe, other, window=(0, 0.5)):
        sampler(main)
    assert "the edit reaches past its window 0-0.5" in caplog.text
    assert "has replaced the forward" not in caplog.text


def test_a_forward_that_another_pack_replaced_is_named(main, other, caplog):
    sampler = Sampler(make_transformer())
    block = sampler.pipe.transformer.blocks[2]
    forward = block.forward
    block.forward = lambda *args: forward(*args)
    with inject(sampler.pipe, other):
        sampler(main)
    assert "has replaced the forward of blocks 2" in caplog.text

"""A fork is the whole model call with the edit in one block, without the runs that it need not make."""

from __future__ import annotations

import pytest
import torch
from wanvideo_activation_editor.embeddings.text_embeds import read_text_embeds
from wanvideo_activation_editor.patching.edit import Edit, EditStack
from wanvideo_activation_editor.patching.hosts.diffusers import edited
from wanvideo_activation_editor.patching.runtime import Run
from wanvideo_activation_editor.patching.sources import Direction
from wanvideo_activation_editor.patching.strengths import Uniform
from wanvideo_activation_editor.patching.wan_model import discover
from wanvideo_activation_editor.probing.forks import Forks, ModelCall, at_block, branch_rows, first_tensor

from ..hosts.conftest import hook_count, make_transformer, prompt_embeds

BLOCKS = 6
LATENTS = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def direction(seed: int = 5) -> Direction:
    return Direction(torch.randn(32, generator=torch.Generator().manual_seed(seed)))


def prompt():
    return read_text_embeds(prompt_embeds(2, 20), "other")


EDITS = {
    "context": lambda: Edit(prompt(), Uniform(1.0)),
    "part of the context": lambda: Edit(prompt(), Uniform(0.6)),
    "attention": lambda: Edit(prompt(), Uniform(0.8), site="attention"),
    "values": lambda: Edit(prompt(), Uniform(1.0), site="values"),
    "second stream": lambda: Edit(prompt(), Uniform(0.7), site="hidden"),
    "whole second stream": lambda: Edit(prompt(), Uniform(1.0), site="hidden"),
    "direction": lambda: Edit(direction(), Uniform(0.5), site="hidden"),
    "direction in self-attention": lambda: Edit(direction(), Uniform(0.5), site="self_attention"),
}


@pytest.fixture
def call() -> ModelCall:
    model = discover(make_transformer(BLOCKS))
    kwargs = {"hidden_states": LATENTS, "timestep": torch.tensor([700.0]), "encoder_hidden_states": prompt_embeds(1)}
    return ModelCall(model, (), kwargs, branch_rows("cond", 1), 0.7, lambda stack: Run(stack, model))


@pytest.fixture
def runs(call):
    """Block runs, block by block; a run of the second stream is one as well."""
    counts = [0] * BLOCKS

    def counter(index):
        def count(*_):
            counts[index] += 1

        return count

    for index, block in enumerate(call.model.blocks):
        block.register_forward_hook(counter(index))
    return counts


def whole_call(call: ModelCall, edit: Edit | None = None) -> torch.Tensor:
    """By the public way, with every block run."""
    with torch.no_grad(), edited(call.model.module, EditStack((edit,) if edit else ())):
        return first_tensor(call.model.module(**call.kwargs))


@pytest.mark.parametrize("blocks", [range(BLOCKS), [1, 2, 5]], ids=str)
@pytest.mark.parametrize("name", EDITS)
@torch.no_grad()
def test_every_fork_is_the_whole_call_with_the_edit_in_that_block_bit_for_bit(call, name, blocks):
    edit, plain = EDITS[name](), whole_call(call)
    forks = Forks(call, edit)
    for index in blocks:
        fork = forks.fork(index)
        assert torch.equal(fork, whole_call(call, at_block(edit, index, BLOCKS)))
        assert not torch.equal(fork, plain)
    with forks.answered():
        assert torch.equal(call.output(), plain)
    assert torch.equal(whole_call(call), plain)


@torch.no_grad()
def test_forks_and_the_plain_call_run_each_block_once_per_fork_before_it_and_once_more(call, runs):
    forks = Forks(call, EDITS["context"]())
    for index in range(BLOCKS):
        forks.fork(index)
    with forks.answered():
        call.output()
    assert runs == [index + 1 + 1 for index in range(BLOCKS)]  # forks 0..index, and the plain pass
    assert sum(runs) == BLOCKS * (BLOCKS + 1) // 2 + BLOCKS


@torch.no_grad()
def test_a_host_that_changes_the_state_between_blocks_gets_the_same_forks(call):
    def add(module, args, output):
        return output + 0.5

    # What a host adds after a block comes from outside of it: here from a wrapper around the block in the list.
    class Adding(torch.nn.Module):
        def __init__(self, block):
            super().__init__()
            self._orig_mod = block

        def forward(self, *args, **kwargs):
            return self._orig_mod(*args, **kwargs).mul_(1.5)

    blocks = call.model.module.blocks
    for index in range(BLOCKS):
        blocks[index] = Adding(blocks[index])
    edit = EDITS["context"]()
    forks, listed = Forks(call, edit), list(blocks)
    for index in range(BLOCKS):
        assert torch.equal(forks.fork(index), whole_call(call, at_block(edit, index, BLOCKS)))
    assert list(blocks) == listed


@pytest.mark.parametrize("name", EDITS)
@torch.no_grad()
def test_after_an_error_in_a_block_the_model_is_as_it_was(call, name):
    plain, before = whole_call(call), hook_count(call.model.module)
    listed = list(call.model.module.blocks)
    forks = Forks(call, EDITS[name]())
    forks.fork(1)

    def fail(*_):
        raise KeyboardInterrupt

    hook = call.model.blocks[4].register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        forks.fork(2)
    hook.remove()
    assert hook_count(call.model.module) == before
    assert list(call.model.module.blocks) == listed
    assert torch.equal(whole_call(call), plain)


@torch.no_grad()
def test_a_block_that_the_host_leaves_out_is_an_error_that_names_it(call):
    blocks = call.model.module.blocks
    forks, third = Forks(call, EDITS["context"]()), blocks[3]
    blocks[3] = torch.nn.Identity()
    blocks[3].forward = lambda x, *args: x
    with pytest.raises(RuntimeError, match=r"without running block 3.*Turn off step caches"):
        forks.fork(3)
    blocks[3] = third
    forks.fork(3)
    with pytest.raises(ValueError, match="Block 2 is behind block 3"):
        forks.fork(2)

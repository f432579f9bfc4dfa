"""A second image in chosen blocks of models that read CLIP image tokens."""

from __future__ import annotations

import pytest
import torch
from wanvideo_activation_editor.patching.edit import EditStack
from wanvideo_activation_editor.patching.hosts.diffusers import edited
from wanvideo_activation_editor.patching.operations import Replace
from wanvideo_activation_editor.patching.sources import Image, Zero

from .conftest import Sampler, hook_count, make_transformer
from .test_sites import Noise, call, edit, run


def image(seed: int, rows: int = 1) -> torch.Tensor:
    return torch.randn(1, 257, 48, generator=torch.Generator().manual_seed(seed)).expand(rows, -1, -1)


FIRST, SECOND = {"encoder_hidden_states_image": image(6, 3)}, {"encoder_hidden_states_image": image(7, 3)}


@pytest.fixture(scope="module")
def model():
    return make_transformer(4, image_dim=48, added_kv_proj_dim=32)


def injected(blocks: str = "all", seed: int = 7, operation=None, branch="cond", **more):
    return edit("image_tokens", Image(image(seed)), blocks, operation, branch, **more)


def test_every_block_at_full_strength_is_the_second_image(model):
    found, second, first = run(model, injected(), **FIRST), call(model, **SECOND), call(model, **FIRST)
    assert torch.equal(found[1], second[1]) and not torch.equal(first[1], second[1])
    assert torch.equal(found[0], first[0]) and torch.equal(found[2], first[2])
    both = run(model, injected(branch="both"), **FIRST)
    assert torch.equal(both[:2], second[:2]) and hook_count(model) == 0


def test_strength_0_and_the_same_image_change_nothing(model):
    first = call(model, **FIRST)
    assert torch.equal(run(model, injected("all:0"), **FIRST), first)
    assert torch.equal(run(model, injected("all", seed=6), **FIRST), first)
    assert torch.equal(run(model, injected("1-2:0.5", seed=6), **FIRST), first)


def test_blocks_and_strengths_differ(model):
    found = [run(model, injected(blocks), **FIRST)[1] for blocks in ("1", "2", "1-2", "1-2:0.5")]
    assert all(not torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])
    two = run(model, injected("1"), injected("2"), **FIRST)
    assert torch.equal(two[1], found[2])


def test_other_rows_stay_whatever_an_operation_does(model):
    first, found = call(model, **FIRST), run(model, injected("all", operation=Noise()), **FIRST)
    assert [torch.equal(a, b) for a, b in zip(first, found, strict=True)] == [True, False, True]


def test_without_image_tokens_nothing_of_the_image_is_left(model):
    """Replaced by zeros, they are the same whatever the image was."""
    gone = edit("image_tokens", Zero(), "all", Replace())
    assert torch.equal(run(model, gone, **FIRST)[1], run(model, gone, **SECOND)[1])


def test_recipes_hold_images():
    stack = EditStack((injected("1-2:0.5"),))
    again = EditStack.from_plain(*stack.to_plain())
    assert torch.equal(again.edits[0].source.tokens, stack.edits[0].source.tokens)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(2, 257, 48), r"not torch.float32 \[2, 257, 48\]"),
        (torch.zeros(257, 48, dtype=torch.long), "floating point"),
        (torch.full((257, 48), float("nan")), "NaN"),
        ("picture", "not str"),
    ],
)
def test_what_is_no_image_is_an_error(tokens, message):
    with pytest.raises(ValueError, match=message):
        Image(tokens)


def test_models_and_calls_without_images_are_errors(model):
    with (
        pytest.raises(ValueError, match="reads no CLIP image"),
        edited(Sampler(make_transformer(4)).pipe, EditStack((injected(),))),
    ):
        pass
    with pytest.raises(RuntimeError, match="gets no CLIP image while sampling"):
        run(model, injected())
    with pytest.raises(ValueError, match=r"has \[12, 48\] tokens and values, but .* reads \[257, 48\]"):
        run(model, edit("image_tokens", Image(torch.ones(12, 48)), "1"), **FIRST)
    assert hook_count(model) == 0

"""Control vectors on a diffusers transformer: what they touch, at every site and with every operation."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import pytest
import torch
from wanvideo_activation_editor.patching.edit import EditStack, Window
from wanvideo_activation_editor.patching.hosts.diffusers import edited, inject
from wanvideo_activation_editor.patching.mask import Box
from wanvideo_activation_editor.patching.schedule import parse_schedule
from wanvideo_activation_editor.patching.sites import SITES
from wanvideo_activation_editor.patching.steering import STEERING
from wanvideo_activation_editor.vectors import ControlVectorError, add
from wanvideo_activation_editor.vectors.applying import make_operation, plane, steer, steering_edit, turn

from ..control_vectors.conftest import make_vector
from .conftest import Sampler, hook_count, make_transformer, prompt_embeds

MAIN, NEGATIVE, OTHER = prompt_embeds(1), prompt_embeds(9, 5), prompt_embeds(2, 20)
BLOCKS = 4
OPERATIONS = sorted(set(STEERING) - {"turn"})


def vector_at(site: str, seed: int = 0, **more):
    if site == "context":
        shape = dict(width=MAIN.shape[-1], blocks=(0,), levels=(1.0,), block_count=0)
    else:
        shape = dict(width=32, blocks=tuple(range(BLOCKS)), block_count=BLOCKS)
    return make_vector(seed, site=site, identity="", **shape, **more)


@pytest.fixture(scope="module")
def sample():
    return Sampler(make_transformer(BLOCKS))


def calls_of(sample, **more) -> list[torch.Tensor]:
    """The model's outputs in one step: with the prompt, with the negative prompt."""
    outputs: list[torch.Tensor] = []
    with sample.pipe.transformer.register_forward_hook(lambda m, a, out: outputs.append(out[0].clone())):
        sample(MAIN, negative=NEGATIVE, steps=1, **more)
    assert len(outputs) == 2
    return outputs


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("site", sorted(SITES))
def test_an_operation_touches_its_branch_alone_and_nothing_at_strength_0(sample, site, operation):
    vector, plain, hooks = vector_at(site), calls_of(sample), hook_count(sample.pipe.transformer)
    with steer(sample.pipe, vector, 0.0, operation):
        assert all(map(torch.equal, calls_of(sample), plain))
    for branch, touched in (("cond", [True, False]), ("uncond", [False, True]), ("both", [True, True])):
        with steer(sample.pipe, vector, 2.0, operation, branch=branch):
            found = calls_of(sample)
        assert [not torch.equal(a, b) for a, b in zip(found, plain, strict=True)] == touched
        assert all(torch.isfinite(out).all() for out in found)
    assert hook_count(sample.pipe.transformer) == hooks
    assert all(map(torch.equal, calls_of(sample), plain))


@pytest.mark.parametrize("site", ["attention", "hidden", "context"])
def test_a_turn_touches_its_branch_alone_and_turning_back_undoes_it(sample, site):
    first, second, plain = vector_at(site), vector_at(site, 1), calls_of(sample)
    with turn(sample.pipe, first, second, 40.0):
        found = calls_of(sample)
        with turn(sample.pipe, first, second, -40.0):
            back = calls_of(sample)
    assert not torch.equal(found[0], plain[0]) and torch.equal(found[1], plain[1])
    away = (found[0] - plain[0]).norm()
    assert (back[0] - plain[0]).norm() < 1e-3 * away


@pytest.mark.parametrize("site", ["attention", "hidden"])
def test_an_addition_is_what_it_says_at_the_block(sample, site):
    """At the last block's output, and with strengths per block and relative to the scale."""
    vector = vector_at(site, transport=False)
    module = SITES[site].module(sample.pipe.transformer.blocks[3])
    seen: list[torch.Tensor] = []
    with (
        steer(sample.pipe, vector, -0.4, blocks="3:0.5"),
        module.register_forward_hook(lambda m, a, out: seen.append(out.clone())),
    ):
        sample(MAIN, steps=1)
    with module.register_forward_hook(lambda m, a, out: seen.append(out.clone())):
        sample(MAIN, steps=1)
    step = -0.2 * vector.scale[3, 1] * vector.directions[3, 1, 0]  # noise level 1: clamped to the last
    assert torch.allclose(seen[0] - seen[2], step.expand_as(seen[0]), atol=1e-5)
    assert torch.equal(seen[1], seen[3])


def test_the_direction_follows_the_noise_level_of_each_step(sample):
    """Fitted at two levels it serves any number of steps."""
    vector, seen = vector_at("hidden", transport=False), []
    module = sample.pipe.transformer.blocks[3]
    sigmas: list[float] = []
    with (
        sample.pipe.transformer.register_forward_pre_hook(
            lambda m, a, k: sigmas.append(float(k["timestep"].max()) / 1000), with_kwargs=True
        ),
        module.register_forward_hook(lambda m, a, out: seen.append(out.clone())),
        steer(sample.pipe, vector, 1.0, blocks="3"),
        module.register_forward_hook(lambda m, a, out: seen.append(out.clone())),
    ):
        sample(MAIN, steps=7, guidance=1.0)
    assert len(sigmas) == 7
    for before, after, sigma in zip(seen[::2], seen[1::2], sigmas, strict=True):
        t = min(max((sigma - 0.2) / 0.6, 0.0), 1.0)
        u = torch.lerp(vector.directions[3, 0, 0], vector.directions[3, 1, 0], t)
        step = torch.lerp(vector.scale[3, 0], vector.scale[3, 1], t) * u / u.norm()
        assert torch.allclose(after - before, step.expand_as(before), atol=1e-4)


def test_a_vector_of_the_text_is_the_prompt_changed_by_hand(sample):
    vector = vector_at("context")
    step = 0.7 * vector.scale[0, 0] * vector.directions[0, 0, 0]
    by_hand = MAIN + step * (MAIN != 0).any(-1, keepdim=True)
    only = MAIN.clone()
    only[:, 3:5] += step
    for tokens, wanted in (("", sample(by_hand)), ("3-4", sample(only))):
        with steer(sample.pipe, vector, 0.7, tokens=tokens):
            assert torch.allclose(sample(MAIN), wanted, atol=1e-5)
    with steer(sample.pipe, vector, 0.7, blocks="1-2"):
        some = sample(MAIN)
    with inject(sample.pipe, by_hand, blocks="1-2"):
        assert torch.allclose(some, sample(MAIN), atol=1e-5)


@pytest.mark.parametrize("site", ["context", "attention", "hidden"])
def test_windows_schedules_and_plain_values(sample, site):
    vector = vector_at(site)
    with steer(
        sample.pipe, vector, 1.5, "rotate", angle=30.0, blocks="1-2:0.5", window=(0.3, 1.0), schedule="0:1, 1:0"
    ):
        wanted = sample(MAIN)
    assert not torch.equal(wanted, sample(MAIN))
    edit = steering_edit(
        vector,
        make_operation("rotate", 1.5, angle=30.0),
        "1-2:0.5",
        window=Window(0.3),
        schedule=parse_schedule("0:1, 1:0"),
    )
    values, tensors = EditStack((edit,)).to_plain()
    stack = EditStack.from_plain(json.loads(json.dumps(values)), {k: t.clone() for k, t in tensors.items()})
    with edited(sample.pipe, stack):
        assert torch.equal(sample(MAIN), wanted)


def test_a_plane_is_saved_too(sample):
    edit = steering_edit(plane(vector_at("hidden"), vector_at("hidden", 1)), make_operation("turn", 1.0))
    with edited(sample.pipe, EditStack((edit,))):
        wanted = sample(MAIN)
    with edited(sample.pipe, EditStack.from_plain(*EditStack((edit,)).to_plain())):
        assert torch.equal(sample(MAIN), wanted)


def test_all_means_the_blocks_of_the_vector_with_a_strength_too(sample):
    vector = make_vector(site="hidden", identity="", blocks=(1, 3), block_count=BLOCKS)
    found = []
    for blocks, strength in (("1:0.5, 3:0.5", 1.0), ("all:0.5", 1.0), (" ALL:0.5 ", 1.0), ("all", 0.5), ([1, 3], 0.5)):
        with steer(sample.pipe, vector, strength, blocks=blocks):
            found.append(sample(MAIN))
    assert all(torch.equal(out, found[0]) for out in found[1:]) and not torch.equal(found[0], sample(MAIN))
    plain = sample(MAIN)
    with steer(sample.pipe, vector, blocks="none"):
        assert torch.equal(sample(MAIN), plain)
    for blocks in ("all:2", "all:", "all, !3"):
        with pytest.raises(ValueError, match=r"all|block"), steer(sample.pipe, vector, blocks=blocks):
            pass


def test_what_does_not_fit_is_refused_with_both_named(sample):
    pipe, vector = sample.pipe, vector_at("hidden")
    wrong = [
        (dataclasses.replace(vector, block_count=9), {}, ("9 blocks", "has 4")),
        (make_vector(site="hidden", width=48, blocks=(0, 1), identity=""), {}, ("48 wide", "32 wide")),
        (
            make_vector(site="context", width=48, blocks=(0,), levels=(1.0,), block_count=0, identity=""),
            {},
            ("48 wide", "width 64"),
        ),
        (dataclasses.replace(vector, identity="diffusers:0"), {}, ("weights diffusers:0", "other_model")),
        (make_vector(site="hidden", identity="", blocks=(1, 3)), {"blocks": "0-1"}, ("block 0", "blocks 1, 3")),
        (vector_at("hidden", transport=False), {"operation": "transport"}, ("without a transport",)),
        (vector_at("hidden", k=2), {"operation": "rotate"}, ("needs 1 direction", "has 2")),
        (vector, {"operation": "blur"}, ("operation must be one of",)),
        (vector, {"one_sided": False}, ("has the options unit", "one_sided")),
        (vector, {"strength": float("nan")}, ("strength",)),
    ]
    for given, options, words in wrong:
        with pytest.raises(ValueError) as caught, steer(pipe, given, **options):
            pass
        assert all(word in str(caught.value) for word in words), caught.value
    with steer(pipe, dataclasses.replace(vector, identity="diffusers:0"), other_model=True):
        pass
    with steer(pipe, dataclasses.replace(vector, identity="ComfyUI:0")):
        pass
    with pytest.raises(ControlVectorError, match="nothing is left"), turn(pipe, vector, vector):
        pass


@pytest.mark.parametrize("site", ["hidden", "context"])
def test_a_sum_acts_as_both_of_its_terms(sample, site):
    levels = {} if site == "context" else {"levels": (0.5,)}
    a, b = (vector_at(site, seed, transport=False, **levels) for seed in (0, 1))
    with steer(sample.pipe, a, 0.6), steer(sample.pipe, b, 0.6):
        both = sample(MAIN)
    with steer(sample.pipe, add(a, b), 0.6):
        assert torch.allclose(sample(MAIN), both, atol=1e-4)


def test_changes_of_the_text_in_other_blocks_do_not_meet(sample):
    """Each block reads the prompt as the edits of that block alone change it."""
    a, b = vector_at("context", 0), vector_at("context", 1)
    step = [0.7 * v.scale[0, 0] * v.directions[0, 0, 0] * (MAIN != 0).any(-1, keepdim=True) for v in (a, b)]
    with steer(sample.pipe, a, 0.7, blocks="0-1"), steer(sample.pipe, b, 0.7, blocks="1-2"):
        found = sample(MAIN)
    with (
        inject(sample.pipe, MAIN + step[0], blocks="0"),
        inject(sample.pipe, MAIN + step[0] + step[1], blocks="1"),
        inject(sample.pipe, MAIN + step[1], blocks="2"),
    ):
        assert torch.allclose(found, sample(MAIN), atol=1e-5)


@pytest.mark.parametrize("site", ["context", "attention", "hidden"])
def test_a_mask_keeps_a_change_to_its_region(sample, site):
    """At the block that is edited; one mask is all of the video, one nothing, one the first frame."""
    vector, module = vector_at(site), SITES["attention"].module(sample.pipe.transformer.blocks[3])
    block = sample.pipe.transformer.blocks[3]
    module = {"context": block.attn2, "hidden": block}.get(site, module)
    grid = (2, 2, 2)

    def at_block(mask=None, strength=2.0):
        seen: list[torch.Tensor] = []
        with (
            steer(sample.pipe, vector, strength, blocks="3", mask=mask),
            module.register_forward_hook(lambda m, a, out: seen.append(out.clone())),
        ):
            sample(MAIN, negative=NEGATIVE, steps=1, guidance=1.0)
        return seen[-1][0].unflatten(0, grid)

    plain, whole = at_block(strength=0.0), at_block()
    assert torch.equal(at_block(torch.ones(1, 32, 32)), whole) and not torch.equal(whole, plain)
    first = torch.stack([torch.ones(32, 32), *[torch.zeros(32, 32)] * 4])
    part = at_block(first)
    assert torch.equal(part[1], plain[1]) and not torch.equal(part[0], plain[0])


@pytest.mark.parametrize("site", ["keys", "values"])
def test_padding_of_the_text_is_left_alone(sample, site):
    module, seen = SITES[site].module(sample.pipe.transformer.blocks[2]), []
    for strength in (0.0, 2.0):
        with (
            steer(sample.pipe, vector_at(site), strength, blocks="2"),
            module.register_forward_hook(lambda m, a, out: seen.append(out[0].clone())),
        ):
            sample(MAIN, steps=1, guidance=1.0)
    plain, found = seen
    assert torch.equal(found[12:], plain[12:]) and not torch.equal(found[:12], plain[:12])


def test_vectors_of_the_text_in_two_regions_do_not_meet(sample):
    """And one without a mask acts inside and outside of another's, in any order."""
    a, b = vector_at("context", 0), vector_at("context", 1)

    def out(*vectors: tuple) -> torch.Tensor:
        """Of the cross-attention of block 3: [frames, height, width, dim]."""
        seen = []
        with contextlib.ExitStack() as contexts:
            for vector, mask in vectors:
                contexts.enter_context(steer(sample.pipe, vector, 2.0, blocks="3", mask=mask))
            attention = sample.pipe.transformer.blocks[3].attn2
            contexts.enter_context(attention.register_forward_hook(lambda *call: seen.append(call[-1].clone())))
            sample(MAIN, negative=NEGATIVE, steps=1, guidance=1.0)
        return seen[-1][0].unflatten(0, (2, 2, 2))

    left, right = Box(right=0.5), Box(left=0.5)
    first, second, whole = out((a, left))[:, :, 0], out((b, right))[:, :, 1], out((b, None))
    for vectors in ([(a, left), (b, right)], [(b, right), (a, left)]):
        both = out(*vectors)
        assert torch.equal(both[:, :, 0], first) and torch.equal(both[:, :, 1], second)
    together = out((a, None), (b, None))
    for vectors in ([(a, left), (b, None)], [(b, None), (a, left)]):
        both = out(*vectors)
        assert torch.equal(both[:, :, 1], whole[:, :, 1])
        assert torch.allclose(both[:, :, 0], together[:, :, 0], atol=1e-5)

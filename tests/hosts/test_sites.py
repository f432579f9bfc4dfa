"""Every site, source and operation: what an edit touches, and that it touches nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wanvideo_activation_editor.embeddings.text_embeds import read_text_embeds
from wanvideo_activation_editor.patching.edit import Edit, EditStack, Window
from wanvideo_activation_editor.patching.hosts.diffusers import inject
from wanvideo_activation_editor.patching.operations import Add, Blend, Replace
from wanvideo_activation_editor.patching.runtime import Run
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.sites import SITES
from wanvideo_activation_editor.patching.sources import Direction, Prompt, SecondStream
from wanvideo_activation_editor.patching.wan_model import discover

from .conftest import Sampler, hook_count, make_transformer, prompt_embeds

NEGATIVE, MAIN, EXTRA, OTHER = prompt_embeds(9, 5), prompt_embeds(1), prompt_embeds(4, 7), prompt_embeds(2, 20)
ROWS = {"uncond": [(0, 0)], "cond": [(1, 0)]}  # row 2 is another pack's
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "inject.md"
X = torch.randn(3, 4, 2, 4, 4, generator=torch.Generator().manual_seed(3))
PROMPT = read_text_embeds(OTHER)
DIRECTION = Direction(torch.randn(32, generator=torch.Generator().manual_seed(5)))


class Noise:
    """What a careless operation may return."""

    name = "noise"

    def __call__(self, x: torch.Tensor, value: torch.Tensor, strength: float) -> torch.Tensor:
        return 3 * torch.randn(x.shape, dtype=x.dtype)


def sources(site: str) -> list:
    """One of each source that has a value at a site."""
    found = [Prompt(PROMPT)] if site in Prompt.sites else []
    found += [SecondStream(PROMPT)] if site in SecondStream.sites else []
    return [*found, DIRECTION]


COMBINATIONS = [(site, source) for site in SITES for source in sources(site)]
IDS = [f"{site}-{type(source).__name__}" for site, source in COMBINATIONS]


@pytest.fixture(scope="module")
def model():
    return make_transformer(4)


@pytest.fixture(scope="module")
def image_model():
    """With image tokens before the text in the context, as image-to-video models have."""
    return make_transformer(4, image_dim=48, added_kv_proj_dim=32)


def call(model, prompts=(NEGATIVE, MAIN, EXTRA), **more) -> torch.Tensor:
    return model(
        hidden_states=X, timestep=torch.tensor([500] * 3), encoder_hidden_states=torch.cat(prompts), **more
    ).sample


def run(model, *edits: Edit, progress: float = 0.0, **more) -> torch.Tensor:
    with Run(EditStack(edits), discover(model)) as active:
        active.begin(ROWS, progress=lambda clock: progress)
        return call(model, **more)


def edit(site, source, blocks="1-2", operation=None, branch="cond", **more) -> Edit:
    return Edit(source, parse_selection(blocks), site, operation, branch=branch, **more)


@settings(deadline=None, max_examples=120)
@given(
    st.sampled_from(COMBINATIONS),
    st.sampled_from(["cond", "uncond", "both"]),
    st.sampled_from(["0", "3", "1-2:0.3", "all"]),
    st.integers(0, 2**32 - 1),
)
def test_rows_of_other_branches_stay_whatever_an_operation_does(model, combination, branch, blocks, seed):
    torch.manual_seed(seed)
    plain, edited = call(model), run(model, edit(*combination, blocks, Noise(), branch))
    touched = {"cond": [1], "uncond": [0], "both": [0, 1]}[branch]
    for row in range(3):
        assert torch.equal(edited[row], plain[row]) == (row not in touched)
    assert hook_count(model) == 0


@pytest.mark.parametrize(("site", "source"), COMBINATIONS, ids=IDS)
def test_image_tokens_stay_whatever_an_operation_does(image_model, site, source):
    images = {"encoder_hidden_states_image": torch.randn(3, 257, 48, generator=torch.Generator().manual_seed(6))}
    seen: list[torch.Tensor] = []

    def read(module, args, kwargs):
        seen.append(kwargs.get("encoder_hidden_states", args[1] if len(args) > 1 else None)[:, :-512].clone())

    handles = [b.attn2.register_forward_pre_hook(read, with_kwargs=True) for b in image_model.blocks]
    plain = run(image_model, **images)
    expected = seen[0]
    edited = run(image_model, edit(site, source, "all", Noise()), **images)
    for handle in handles:
        handle.remove()
    assert expected.shape[1] == 257 and all(torch.equal(tokens[:1], expected[:1]) for tokens in seen)
    assert all(torch.equal(tokens, expected) for tokens in seen if len(tokens) == 3)
    assert not torch.equal(edited[1], plain[1]) and torch.equal(edited[0], plain[0])


@pytest.mark.parametrize(("site", "source"), COMBINATIONS, ids=IDS)
def test_strength_0_no_block_and_outside_the_window_are_bit_identical_to_nothing(model, site, source):
    plain = call(model)
    assert torch.equal(run(model, edit(site, source, "0-3:0")), plain)
    assert torch.equal(run(model, edit(site, source, "none")), plain)
    assert torch.equal(run(model, edit(site, source, window=Window(0.5, 1))), plain)
    assert not torch.equal(run(model, edit(site, source, window=Window(0.5, 1)), progress=0.7)[1], plain[1])


@pytest.mark.parametrize("site", Prompt.sites)
def test_a_prompt_injected_into_itself_changes_nothing(model, site):
    plain = call(model)
    assert torch.equal(run(model, edit(site, Prompt(read_text_embeds(MAIN)), "all")), plain)
    assert torch.allclose(run(model, edit(site, Prompt(read_text_embeds(MAIN)), "all:0.5")), plain, atol=1e-5)


@pytest.mark.parametrize("sites", [("context",), ("attention",), ("keys", "values"), ("heads",)])
def test_every_way_of_reading_the_other_prompt_is_exact(model, sites):
    """The text enters a block through keys and values alone, so swapping both, or what follows, is the other prompt."""
    swapped = run(model, *(edit(site, Prompt(PROMPT), "all") for site in sites))
    assert torch.equal(swapped[1], call(model, (NEGATIVE, OTHER, EXTRA))[1])


def test_edits_at_one_site_act_in_the_order_of_the_stack(model):
    add, blend = edit("attention", DIRECTION), edit("attention", Prompt(PROMPT))
    only_blend = run(model, blend)
    assert torch.equal(run(model, add, blend), only_blend), "a blend at 1 overwrites what was added before"
    assert not torch.equal(run(model, blend, add)[1], only_blend[1])


@pytest.mark.parametrize("site", SITES)
def test_a_direction_is_added_to_each_token(model, site):
    at, strength = SITES[site], 0.5
    before, after = [], []

    def read(into):
        def hook(module, args, *rest):
            kwargs = rest[0] if at.end == "argument" else {}
            if at.end == "argument":
                into.append(kwargs.get("encoder_hidden_states", args[1] if len(args) > 1 else None).clone())
            else:
                into.append((args[0] if at.end == "input" else rest[-1]).clone())

        return hook

    def watch(into):
        module = at.module(model.blocks[1])
        if at.end == "output":
            return module.register_forward_hook(read(into))
        return module.register_forward_pre_hook(read(into), with_kwargs=at.end == "argument")

    with watch(before):
        call(model)
    with Run(EditStack((edit(site, DIRECTION, "1:0.5"),)), discover(model)) as active:
        active.begin(ROWS, progress=lambda clock: 0.0)
        with watch(after):  # registered last, so it sees what the edit left
            call(model)
    (a,), (b,) = before, after
    wanted = a.clone()
    wanted[1] = torch.add(a[1], DIRECTION.vector, alpha=strength)
    assert torch.equal(b, wanted)


def test_combinations_without_a_meaning_are_refused_with_what_would_work():
    with pytest.raises(ValueError, match=r"site must be one of context, attention, hidden"):
        edit("nowhere", DIRECTION)
    with pytest.raises(ValueError, match=r"A prompt has no value at site hidden\. It has one at context"):
        edit("hidden", Prompt(PROMPT))
    with pytest.raises(ValueError, match=r"A second stream has no value at site attention"):
        edit("attention", SecondStream(PROMPT))
    with pytest.raises(
        ValueError, match=r"add\w* works with a difference, but a prompt is a state. Use Blend or Replace"
    ):
        edit("context", Prompt(PROMPT), operation=Add())
    with pytest.raises(ValueError, match=r"blend works with a state, but a direction is a difference. Use Add"):
        edit("context", DIRECTION, operation=Blend())


@pytest.mark.parametrize("bad", [lambda x: x[..., :-1], lambda x: x.double(), lambda x: None])
def test_an_operation_that_returns_something_else_is_named(model, bad):
    class Bad:
        name = "bad"

        def __call__(self, x, value, strength):
            return bad(x)

    with pytest.raises(TypeError, match="the operation bad returned"):
        run(model, edit("attention", DIRECTION, operation=Bad()))


def test_replace_is_a_blend_at_full_strength(model):
    half = run(model, edit("context", Prompt(PROMPT), "1-2:0.5", Replace()))
    assert torch.equal(half, run(model, edit("context", Prompt(PROMPT), "1-2"))) and not torch.equal(half, call(model))


def test_inject_takes_any_operation_at_any_site(model, main, other):
    class Negate:
        name = "negate"

        def __call__(self, x, value, strength):
            return -x

    plain = call(model)
    with inject(model, other, "1-2", site="attention", operation=Negate()):
        negated = call(model)
    assert not torch.equal(negated, plain) and torch.equal(call(model), plain)
    with pytest.raises(ValueError, match="has merged its projections"):
        fused = make_transformer(2)
        for block in fused.blocks:
            block.attn2.fuse_projections()
        with inject(fused, other, "1", site="keys"):
            pass


def test_a_site_inside_of_compiled_blocks_is_reached(main, other):
    """Compiled code does not see hooks that come later: the model runs eagerly for such an edit, and only for it."""
    plain, compiled = Sampler(make_transformer(3)), Sampler(make_transformer(3))
    compiled.pipe.transformer.compile_repeated_blocks(backend="eager")
    before = compiled(main)
    with inject(plain.pipe, other, "1:0.5", site="attention"):
        wanted = plain(main)
    with inject(compiled.pipe, other, "1:0.5", site="attention"):
        assert torch.equal(compiled(main), wanted)
    with inject(compiled.pipe, other, "1:0", site="attention"):
        assert torch.equal(compiled(main), before)
    assert torch.equal(compiled(main), before) and not torch.equal(before, wanted)


def test_the_guide_says_what_goes_with_what():
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|[^|]*\| ?([a-z, ]*) ?\| add \|$", GUIDE.read_text("utf-8"), re.MULTILINE)
    told = {name: bool(text.strip()) for names, text in rows for name in re.findall(r"[a-z_]+", names)}
    assert told == {site: site in (*Prompt.sites, *SecondStream.sites) for site in SITES}
    assert all(site in Direction.sites for site in SITES)


def test_an_operation_may_change_its_arguments_in_place(model):
    class Careless:
        name = "careless"

        def __call__(self, x, value, strength):
            value.mul_(0)
            return x.mul_(0.5)

    class Careful:
        name = "careful"

        def __call__(self, x, value, strength):
            return x * 0.5

    for site, source in COMBINATIONS:
        again = [run(model, edit(site, source, "1-2", op())) for op in (Careless, Careful, Careless)]
        assert torch.equal(again[0], again[1]) and torch.equal(again[0], again[2]), site


def test_a_callers_tensor_may_change_afterwards(model):
    mine, prompt = torch.ones(32), OTHER.clone()
    direction = Direction(mine)
    with inject(model, prompt, 1):
        wanted = call(model)
        prompt.zero_()
        assert torch.equal(call(model), wanted)
    mine.zero_()
    assert torch.equal(direction.vector, torch.ones(32))


def test_what_is_no_edit_is_said_when_it_is_made():
    blocks = parse_selection("1")
    for wrong, message in (
        (lambda: Edit(PROMPT, "1:0.5"), "strengths: BlockStrengths"),
        (lambda: Edit(PROMPT, blocks, window=(0, 0.5)), "window: Window"),
        (lambda: Edit(None, blocks), "source: a Prompt"),
        (lambda: Edit(DIRECTION, blocks, "hidden", Add), "operation: an object"),
        (lambda: Edit(DIRECTION, blocks, "hidden", lambda x, v, s: x), "operation: an object"),
    ):
        with pytest.raises(TypeError, match=message):
            wrong()


def test_blocks_do_not_share_what_a_source_gives_each_of_them(model):
    """A source may make its tensors as they are asked for, and let them go."""

    class PerBlock(Direction):
        def tensor(self, block):
            return torch.full((1, 1, 32), float(block))

    one_by_one = [edit("hidden", Direction(torch.full((32,), float(b))), str(b)) for b in range(4)]
    together = edit("hidden", PerBlock(torch.ones(32)), "all")
    assert torch.equal(run(model, together), run(model, *one_by_one))

"""Edits of some tokens of the text, and of a part of the video."""

from __future__ import annotations

import contextlib

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from wanvideo_activation_editor.embeddings.text_embeds import read_text_embeds
from wanvideo_activation_editor.patching.edit import Edit, EditStack
from wanvideo_activation_editor.patching.hosts.diffusers import inject
from wanvideo_activation_editor.patching.mask import Box, Mask, MaskError
from wanvideo_activation_editor.patching.runtime import Run
from wanvideo_activation_editor.patching.sources import Image, Prompt
from wanvideo_activation_editor.patching.tokens import parse_tokens
from wanvideo_activation_editor.patching.wan_model import discover

from .conftest import Sampler, hook_count, make_transformer, prompt_embeds
from .test_sites import DIRECTION, Noise, call, run
from .test_sites import edit as edit_at

MAIN, OTHER, THIRD = prompt_embeds(1), prompt_embeds(2, 20), prompt_embeds(3, 8)
PROMPT = read_text_embeds(OTHER)
GRID = (2, 2, 2)  # of X in test_sites
TEXT_SITES = ("context", "keys", "values")
VIDEO_SITES = ("attention", "hidden", "self_attention", "queries", "heads", "feed_forward")
LEFT = Box(right=0.5)


@pytest.fixture(scope="module")
def model():
    return make_transformer(4)


@contextlib.contextmanager
def watched(model, block: int):
    """What a block reads as text, and what it leaves, call by call."""
    read, left = [], []

    def before(module, args, kwargs):
        read.append(kwargs.get("encoder_hidden_states", args[1] if len(args) > 1 else None).clone())

    def after(module, args, output):
        left.append(output.clone())

    handles = (
        model.blocks[block].attn2.register_forward_pre_hook(before, with_kwargs=True),
        model.blocks[block].register_forward_hook(after),
    )
    yield read, left
    for handle in handles:
        handle.remove()


def after_block(model, *edits, block: int = 1, **more) -> torch.Tensor:
    with Run(EditStack(edits), discover(model)) as active, watched(model, block) as (_, left):
        active.begin({"uncond": [(0, 0)], "cond": [(1, 0)]}, progress=lambda clock: 0.0, grid=GRID)
        call(model, **more)
    return left[0]


def part(site, source, blocks="1", operation=None, tokens=None, mask=None, **more) -> Edit:
    chosen = None if tokens is None else parse_tokens(tokens)
    return edit_at(site, source, blocks, operation, tokens=chosen, mask=mask, **more)


# Tokens of the text


@pytest.mark.parametrize("site", TEXT_SITES)
def test_real_tokens_of_a_prompt_and_all_tokens_are_what_it_was_without(model, site):
    whole = run(model, part(site, Prompt(PROMPT), "1-2:0.7"))
    for tokens in ("real", "all"):
        assert torch.equal(run(model, part(site, Prompt(PROMPT), "1-2:0.7", tokens=tokens)), whole)
    # Every row that a token of either prompt is in, by number.
    assert torch.equal(run(model, part(site, Prompt(PROMPT), "1-2:0.7", tokens="0-19")), whole)
    assert torch.equal(
        run(model, part(site, DIRECTION, "1-2:0.7", tokens="all")), run(model, part(site, DIRECTION, "1-2:0.7"))
    )


@pytest.mark.parametrize(("tokens", "places"), [
    ("3-5", {3, 4, 5}), ("real", set(range(12))), ("padding", set(range(12, 512))), ("real, 2:0", set(range(12)) - {2}),
])  # fmt: skip
def test_other_tokens_stay_whatever_an_operation_does(model, tokens, places):
    """Row 1 is the prompt's."""
    with watched(model, 1) as (read, _):
        call(model)
        run(model, part("context", DIRECTION, operation=Noise(), tokens=tokens))
    plain, edited = read
    changed = (plain != edited).any(dim=-1)
    assert {int(i) for i in changed[1].nonzero()[:, 0]} == places and not changed[0].any() and not changed[2].any()


def test_image_tokens_do_not_count():
    model = make_transformer(4, image_dim=48, added_kv_proj_dim=32)
    images = {"encoder_hidden_states_image": torch.randn(3, 257, 48, generator=torch.Generator().manual_seed(6))}
    with watched(model, 1) as (read, _):
        call(model, **images)
        run(model, part("context", DIRECTION, operation=Noise(), tokens="0"), **images)
    changed = (read[0] != read[1]).any(dim=-1)
    assert changed.nonzero().tolist() == [[1, 257]]


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 18), st.sampled_from(TEXT_SITES), st.sampled_from(["1-2", "0:0.3, 3"]))
def test_two_edits_of_disjoint_tokens_are_one_of_both(model, cut, site, blocks):
    first = part(site, DIRECTION, blocks, tokens=f"0-{cut - 1}")
    second = part(site, DIRECTION, blocks, tokens=f"{cut}-511")
    assert torch.equal(run(model, first, second), run(model, part(site, DIRECTION, blocks)))


def test_a_weight_scales_the_strength(model):
    half = run(model, part("context", Prompt(PROMPT), "1:0.5", tokens="2-3"))
    assert torch.allclose(run(model, part("context", Prompt(PROMPT), "1", tokens="2-3:0.5")), half, atol=1e-6)
    assert torch.equal(run(model, part("context", Prompt(PROMPT), "1", tokens="2-3:0")), call(model))


def test_words_are_found_by_the_pipelines_tokenizer(sampler):
    class Tokenizer:
        def __call__(self, text, add_special_tokens):
            return {"input_ids": text.split()}

        def convert_ids_to_tokens(self, ids):
            return ["▁" + word for word in ids]

    with inject(sampler.pipe, OTHER, "1", tokens="1"):
        expected = sampler(MAIN)
    with (
        pytest.raises(ValueError, match="Pass the pipeline with its tokenizer"),
        inject(sampler.pipe, OTHER, tokens='"red"'),
    ):
        pass
    sampler.pipe.register_modules(tokenizer=Tokenizer())
    with inject(sampler.pipe, OTHER, "1", tokens='"red"', prompt="a red fox"):
        assert torch.equal(sampler(MAIN), expected)
    with (
        pytest.raises(ValueError, match="Its words: 1 a, 2 red"),
        inject(sampler.pipe, OTHER, tokens='"dog"', prompt="a red"),
    ):
        pass


@pytest.mark.parametrize("site", VIDEO_SITES)
def test_tokens_at_a_site_of_the_video_are_refused(site):
    with pytest.raises(ValueError, match="tokens are of the text"):
        part(site, DIRECTION, tokens="3")
    part(site, DIRECTION, tokens="real")


def test_a_token_beyond_the_last_is_an_error(model):
    with pytest.raises(ValueError, match="there is no token 512; the model reads 512"):
        run(model, part("context", DIRECTION, tokens="512"))
    assert hook_count(model) == 0


# Parts of the video


@pytest.mark.parametrize("source", ["prompt", "direction"])
@pytest.mark.parametrize("site", ["context", *VIDEO_SITES])
def test_a_mask_of_0_is_no_edit_and_of_1_the_edit_without_one(sampler, site, source):
    what = OTHER if source == "prompt" else DIRECTION
    if source == "prompt" and site in ("self_attention", "queries", "feed_forward"):
        pytest.skip("a prompt has no value there")
    plain = sampler(MAIN)
    with inject(sampler.pipe, what, "1-2:0.7", site=site):
        whole = sampler(MAIN)
    for mask, expected in ((torch.zeros(8, 8), plain), (torch.ones(5, 32, 32), whole), (Box(), whole)):
        with inject(sampler.pipe, what, "1-2:0.7", site=site, mask=mask):
            assert torch.equal(sampler(MAIN), expected)
    assert hook_count(sampler.pipe.transformer) == 0


@pytest.mark.parametrize("site", ["context", "attention", "hidden"])
@pytest.mark.parametrize("box", [LEFT, Box(bottom=0.5), Box(first_frame=1), Box(last_frame=0, right=0.5)])
def test_right_after_the_block_nothing_outside_of_the_mask_has_changed(model, site, box):
    plain, edited = after_block(model), after_block(model, part(site, DIRECTION, mask=box))
    changed = (plain != edited).any(dim=-1)
    inside = box.weights(GRID) > 0
    assert torch.equal(changed[1], inside) and not changed[0].any() and not changed[2].any()


def test_two_prompts_in_two_regions_each_have_their_own(model):
    right = Box(left=0.5)
    left = after_block(model, part("context", Prompt(PROMPT), mask=LEFT))
    other = after_block(model, part("context", Prompt(read_text_embeds(THIRD)), mask=right))
    both = after_block(
        model, part("context", Prompt(PROMPT), mask=LEFT), part("context", Prompt(read_text_embeds(THIRD)), mask=right)
    )
    inside = LEFT.weights(GRID) > 0
    assert torch.equal(both[1, inside], left[1, inside]) and torch.equal(both[1, ~inside], other[1, ~inside])


def test_a_weight_between_0_and_1_mixes_the_two_answers(model):
    """By hand: the mean of cross-attention's outputs with either text, through the same block."""
    whole = after_block(model, part("attention", Prompt(PROMPT), "1:0.25"))
    masked = after_block(model, part("context", Prompt(PROMPT), mask=Mask(torch.full((1, 1), 0.25))))
    assert torch.allclose(masked, whole, atol=1e-5) and not torch.equal(masked, after_block(model))


def after_attention(model, *edits) -> torch.Tensor:
    """The hidden state between cross-attention and feed-forward of block 1, in the prompt's row: [tokens, dim]."""
    seen = []
    handle = model.blocks[1].norm3.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    after_block(model, *edits)
    handle.remove()
    return seen[0][1]


WEIGHTS = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0]), min_size=4, max_size=4)
STRENGTH = st.sampled_from([0.001, 0.3, 1.0])


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(WEIGHTS, STRENGTH), min_size=2, max_size=3), st.randoms())
def test_masks_that_meet_mix_by_weight_in_any_order(model, layers, random):
    """By hand: o + sum of M (o' - o), divided by the sum of M x strength of the prompts where that is above 1."""
    sources = [Prompt(PROMPT), Prompt(read_text_embeds(THIRD)), DIRECTION][: len(layers)]
    plain, edits, alone = after_attention(model), [], []
    for what, (weights, strength) in zip(sources, layers, strict=True):
        blocks = f"1:{strength}"
        edits.append(part("context", what, blocks, mask=Mask(torch.tensor(weights).reshape(2, 2))))
        alone.append(after_attention(model, part("context", what, blocks)) - plain)
    masks = [edit.mask.weights(GRID)[:, None] for edit in edits]
    taken = sum(m * s for m, what, (_, s) in zip(masks, sources, layers, strict=True) if what is not DIRECTION)
    expected = plain + sum(m * change for m, change in zip(masks, alone, strict=True)) / taken.clamp(min=1)
    one_alone = sum(m > 0 for m in masks) == 1
    expected = torch.where(one_alone, plain + sum(m * c for m, c in zip(masks, alone, strict=True)), expected)
    random.shuffle(edits)
    assert torch.allclose(after_attention(model, *edits), expected, atol=2e-5)


def test_a_mask_beside_a_second_image():
    model = make_transformer(4, image_dim=48, added_kv_proj_dim=32)
    random = torch.Generator().manual_seed(6)
    images = {"encoder_hidden_states_image": torch.randn(3, 257, 48, generator=random)}
    image = part("image_tokens", Image(torch.randn(257, 48, generator=random)))
    for edits in ((part("context", Prompt(PROMPT), mask=Box()), image), (image, part("context", Prompt(PROMPT)))):
        assert torch.equal(
            after_block(model, *edits, **images), after_block(model, image, part("context", Prompt(PROMPT)), **images)
        )


def test_a_prompts_own_tokens_stay_its_own_after_an_edit_of_the_padding(model):
    padding, real = part("context", DIRECTION, tokens="padding"), part("context", Prompt(PROMPT), tokens="real")
    numbers = part("context", Prompt(PROMPT), tokens="0-19")
    assert torch.equal(after_block(model, padding, real), after_block(model, padding, numbers))


def test_an_edit_inside_of_a_masked_one_is_counted_once(model):
    edits = part("attention", DIRECTION, "1"), part("context", Prompt(PROMPT), "1", mask=LEFT)
    with Run(EditStack(edits), discover(model)) as active:
        active.begin({"uncond": [(0, 0)], "cond": [(1, 0)]}, progress=lambda clock: 0.0, grid=GRID)
        call(model)
        assert [edit.edited for edit in active._edits] == [1, 1]


@pytest.mark.parametrize(("pixels", "tokens"), [(3, 2), (5, 4), (2, 3), (7, 7)])
def test_pixels_that_straddle_tokens_count_by_their_area(pixels, tokens):
    for covered in range(pixels + 1):
        mask = Mask((torch.arange(pixels) < covered).float()[None])
        box = Box(right=covered / pixels).weights((1, 1, tokens)) if covered else torch.zeros(tokens)
        assert torch.allclose(mask.weights((1, 1, tokens)), box, atol=2e-6)


def test_a_mask_and_what_it_leaves_share_the_picture_with_nothing_left_over(model):
    """Soft complementary masks of one prompt are the prompt everywhere."""
    soft = torch.tensor([[0.3, 0.9]])
    whole = after_attention(model, part("context", Prompt(PROMPT)))
    edits = [part("context", Prompt(PROMPT), mask=Mask(mask)) for mask in (soft, 1 - soft)]
    assert torch.allclose(after_attention(model, *edits), whole, atol=1e-5)


@pytest.mark.parametrize("first", ["masked", "inner"])
@pytest.mark.parametrize("inner", ["values", "attention", "queries", "prompt at attention"])
def test_edits_inside_of_cross_attention_act_on_both_answers(model, inner, first):
    source = Prompt(read_text_embeds(THIRD)) if " " in inner else DIRECTION
    other = part(inner.split()[-1], source, "1:0.5")
    whole, masked = part("context", Prompt(PROMPT)), part("context", Prompt(PROMPT), mask=Box())
    order = (lambda *edits: edits) if first == "masked" else (lambda *edits: edits[::-1])
    assert torch.equal(after_block(model, *order(masked, other)), after_block(model, *order(whole, other)))
    nothing = part("context", Prompt(PROMPT), mask=Mask(torch.zeros(1, 1)))
    assert torch.equal(after_block(model, *order(nothing, other)), after_block(model, other))


def test_a_masked_edit_asks_cross_attention_once_more_in_its_blocks(model):
    asked = [0] * 4
    handles = [
        block.attn2.register_forward_hook(lambda *_, i=i: asked.__setitem__(i, asked[i] + 1))
        for i, block in enumerate(model.blocks)
    ]
    after_block(model, part("context", DIRECTION, "1-2", mask=LEFT))
    for handle in handles:
        handle.remove()
    assert asked == [1, 2, 2, 1]


def test_cross_attention_is_a_tenth_of_a_14b_blocks_work():
    """In operations of its matrix products, at 832 x 480 and 81 frames."""
    dim, tokens = 5120, 21 * 30 * 52
    with torch.device("meta"):
        block = WanTransformerBlock(dim, 13824, 40, cross_attn_norm=True)
        video, text = torch.empty(1, tokens, dim), torch.empty(1, 512, dim)
        turns = (torch.empty(1, tokens, 1, 128), torch.empty(1, tokens, 1, 128))
        with FlopCounterMode(display=False) as whole:
            block(video, text, torch.empty(1, 6, dim), turns)
        with FlopCounterMode(display=False) as part:
            block.attn2(video, text)
    assert 0.085 < part.get_total_flops() / whole.get_total_flops() < 0.095


def test_rows_of_the_other_branch_stay_whatever_an_operation_does(model):
    plain = call(model)
    with Run(EditStack((part("context", DIRECTION, "all", Noise(), mask=LEFT),)), discover(model)) as active:
        active.begin({"uncond": [(0, 0)], "cond": [(1, 0)]}, progress=lambda clock: 0.0, grid=GRID)
        edited = call(model)
    assert (
        torch.equal(edited[0], plain[0]) and torch.equal(edited[2], plain[2]) and not torch.equal(edited[1], plain[1])
    )


def test_tokens_in_a_region(model):
    """Both at once: what is changed of the text, and who reads it."""
    whole = after_block(model, part("context", DIRECTION, tokens="2-3"))
    masked = after_block(model, part("context", DIRECTION, tokens="2-3", mask=LEFT))
    inside = LEFT.weights(GRID) > 0
    assert torch.equal(masked[1, inside], whole[1, inside])
    assert torch.equal(masked[1, ~inside], after_block(model)[1, ~inside])


# The mask itself


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31))
def test_frames_and_pixels_are_averaged_as_the_vae_packs_them(frames, height, width, seed):
    pixels = torch.rand(4 * frames - 3, 4 * height, 6 * width, generator=torch.Generator().manual_seed(seed))
    weights = Mask(pixels).weights((frames, height, width)).reshape(frames, height, width)
    for k in range(frames):
        of_frame = pixels[:1] if k == 0 else pixels[4 * k - 3 : 4 * k + 1]
        for y in range(height):
            for x in range(width):
                cell = of_frame[:, 4 * y : 4 * y + 4, 6 * x : 6 * x + 6]
                assert abs(float(cell.mean() - weights[k, y, x])) < 2e-6


@settings(deadline=None)
@given(st.data())
def test_a_box_is_the_mask_of_its_pixels(data):
    frames, height, width = (data.draw(st.integers(1, 4)) for _ in range(3))
    x = sorted(data.draw(st.lists(st.integers(0, 8 * width), min_size=2, max_size=2, unique=True)))
    y = sorted(data.draw(st.lists(st.integers(0, 8 * height), min_size=2, max_size=2, unique=True)))
    first = data.draw(st.integers(0, 4 * frames - 4))
    last = data.draw(st.one_of(st.none(), st.integers(first, 20)))
    pixels = torch.zeros(4 * frames - 3, 8 * height, 8 * width)
    pixels[first : None if last is None else last + 1, y[0] : y[1], x[0] : x[1]] = 1
    box = Box(x[0] / 8 / width, y[0] / 8 / height, x[1] / 8 / width, y[1] / 8 / height, first, last)
    assert torch.allclose(
        box.weights((frames, height, width)), Mask(pixels).weights((frames, height, width)), atol=2e-6
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mask(torch.rand(2, 3, 4, 5)), r"expected \[frames, height, width\]"),
        (lambda: Mask(torch.rand(0, 3, 4)), "expected"),
        (lambda: Mask(torch.full((2, 2), 1.5)), "outside 0 to 1"),
        (lambda: Mask(torch.full((2, 2), float("nan"))), "outside 0 to 1"),
        (lambda: Mask([1]), "got list"),
        (lambda: Box(0.5, right=0.5), "has no area"),
        (lambda: Box(right=1.5), "has no area"),
        (lambda: Box(first_frame=4, last_frame=2), "frames 4 to 2 are none"),
        (lambda: Box(first_frame=5).weights((2, 2, 2)), "begins at frame 5, but the last one is 4"),
        (
            lambda: Mask(torch.rand(4, 8, 8)).weights((2, 2, 2)),
            r"has 4 frames, but the model samples 5 \(2 latent frames\)",
        ),
    ],
)
def test_what_is_no_mask_is_an_error(make, message):
    with pytest.raises(MaskError, match=message):
        make()


def test_a_mask_that_a_blur_left_a_little_above_1_is_one():
    assert torch.equal(Mask(torch.full((8, 8), 1.0000002)).weights((1, 2, 2)), torch.ones(4))


@pytest.mark.parametrize("site", ["keys", "values"])
def test_a_mask_at_a_site_of_the_text_is_refused(site):
    with pytest.raises(ValueError, match="A mask is of the video"):
        part(site, DIRECTION, mask=LEFT)


def test_a_mask_of_other_frames_is_an_error_that_leaves_no_hook():
    sampler = Sampler(make_transformer())
    with pytest.raises(MaskError, match="has 9 frames"), inject(sampler.pipe, OTHER, mask=torch.ones(9, 4, 4)):
        sampler(MAIN)
    assert hook_count(sampler.pipe.transformer) == 0

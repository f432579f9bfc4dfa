"""What a value is on a screen: a few lines that say what it is, and no tensor."""

from __future__ import annotations

import numpy as np
import torch
from wanvideo_activation_editor import BlockMap, Direction, Edit, EditStack, TokenReading, Window
from wanvideo_activation_editor.embeddings.text_embeds import read_text_embeds
from wanvideo_activation_editor.patching.capture import HiddenStates
from wanvideo_activation_editor.patching.mask import Box
from wanvideo_activation_editor.patching.schedule import parse_schedule
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.strengths import Explicit
from wanvideo_activation_editor.patching.tokens import parse_tokens
from wanvideo_activation_editor.patching.transforms import Boost
from wanvideo_activation_editor.vectors.applying import make_operation, steering_edit

from ..control_vectors.conftest import make_vector


def is_short(text: str, lines: int = 2) -> bool:
    return len(text.splitlines()) <= lines and max(map(len, text.splitlines())) < 200 and "tensor" not in text


def block_map(blocks: int = 40, measured: range = range(40), **more) -> BlockMap:
    share = np.full((2, 3, blocks), np.nan)
    share[..., measured] = np.linspace(0, 0.1, len(measured))
    samples = {name: share for name in ("share", "effect", "motion")}
    one = dict.fromkeys(
        ("whole_effect", "whole_motion", "random_effect", "random_share", "random_motion"), np.ones((2, 3))
    )
    return BlockMap(samples={**samples, **one}, noise_levels=(0.8, 0.6, 0.4), seeds=(0, 1), **more)


def test_a_block_map_names_its_levels_and_its_top_blocks():
    text = repr(block_map(model_name="WanModel", edit={"site": "attention"}))
    assert is_short(text)
    for part in (
        "WanModel",
        "site attention",
        "0.8, 0.6, 0.4",
        "blocks 0-39 of 40",
        "2 seeds",
        "blocks 39, 38, 37",
        "report()",
    ):
        assert part in text
    assert "blocks 10-19 of 40" in repr(block_map(measured=range(10, 20)))


def test_a_block_map_of_what_has_no_effect_is_shown_too():
    found = block_map()
    before = repr(found)
    found.samples["share"][:, 1] = np.nan
    assert is_short(repr(found)) and repr(found) == before, "the other levels rank the blocks"


def test_a_reading_names_its_words():
    words = ("red", "circle", "padding")
    found = TokenReading(words, {"red": (1,)}, np.ones((1, 30, 3)), np.ones((1, 3, 2, 4, 4)), (0.6,), 7, "WanModel")
    assert is_short(repr(found))
    for part in ("WanModel", "'red', 'circle', 'padding'", "noise levels 0.6", "blocks 0-29", "seed 7", "report()"):
        assert part in repr(found)
    many = tuple(f"token {i}" for i in range(512))
    assert is_short(repr(TokenReading(many, {}, np.ones((1, 30, 512)), np.ones((1, 512, 1, 1, 1)), (0.6,), 7)))


def test_a_control_vector_names_where_it_was_fitted():
    text = repr(make_vector(blocks=(1, 2, 3), levels=(0.2, 0.8), model_name="WanModel", origin="night"))
    assert is_short(text, lines=1)
    for part in (
        "WanModel",
        "site attention",
        "blocks 1-3",
        "noise levels 0.2, 0.8",
        "width 32",
        "mean_difference",
        "'night'",
    ):
        assert part in text
    levels = tuple(i / 16 for i in range(1, 9))
    assert "noise levels 8 from 0.0625 to 0.5" in repr(make_vector(levels=levels))
    assert is_short(repr(make_vector(origin="a + " * 500)), lines=1)


def test_hidden_states_name_their_blocks_and_shape():
    states = tuple(torch.zeros(1, 24, 32, dtype=torch.float16) for _ in range(3))
    text = repr(HiddenStates(states, (0, 1, 2), (2, 3, 4), 1.0, 5, model_name="WanModel"))
    assert is_short(text, lines=1)
    for part in ("WanModel", "blocks 0-2", "[1, 24, 32] float16", "2 x 3 x 4", "noise level 1", "seed 5"):
        assert part in text


def test_a_stack_has_a_line_for_each_edit():
    prompt = read_text_embeds(torch.ones(1, 8, 16), "embeds")
    stack = EditStack(
        (
            Edit(
                prompt,
                parse_selection("1-2:0.5") * 1.0,
                label="inject",
                window=Window(0, 0.5),
                transforms=(Boost(2.0),),
            ),
            Edit(Direction(torch.ones(32)), Explicit((0.0, 1.0)), site="attention", mask=Box(0, 0, 0.5, 1)),
            steering_edit(
                make_vector(origin="night"),
                make_operation("add", 0.4),
                "1",
                tokens=parse_tokens("real"),
                schedule=parse_schedule("0:0.2, 1:1"),
            ),
        )
    )
    whole, first, second, third = repr(stack).splitlines()
    assert is_short(repr(stack), lines=4) and whole == "<EditStack, 3 edits>"
    assert (
        first
        == f"  <Edit inject: a prompt, blend at context, blocks 1-2:0.5, branch cond, window 0-0.5, {Boost(2.0).name}>"
    )
    assert second.startswith(
        "  <Edit: a direction, addition at attention, blocks 1:1, branch cond, Box {'box': [0, 0, 0.5, 1]"
    )
    assert third.startswith(
        "  <Edit steer: the control vector (night), add 0.4 at attention, blocks 1, branch cond, schedule"
    )
    assert repr(EditStack()) == "<EditStack, 0 edits>"
    assert "blocks none" in repr(Edit(prompt, parse_selection("") * 1.0))

"""Reading embeddings from every form hosts use, and measuring differences."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from wanvideo_activation_editor.embeddings.difference import difference, mean_difference
from wanvideo_activation_editor.embeddings.text_embeds import (
    EmbedsError,
    TextEmbeds,
    pad_tokens,
    read_text_embeds,
    trim_padding,
)
from wanvideo_activation_editor.patching.edit import Edit, EditStack, Window
from wanvideo_activation_editor.patching.selection import parse_selection


def rows(tokens: int, seed: int = 0, width: int = 16) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


PROMPT = rows(7)
PADDED = pad_tokens(PROMPT, 512)


@pytest.mark.parametrize(
    "value",
    [
        {"prompt_embeds": [PROMPT]},
        {"prompt_embeds": [PADDED], "negative_prompt_embeds": [rows(3, 1)], "echoshot": False},
        {"prompt_embeds": PADDED[None]},
        {"prompt_embeds": PROMPT},
        [[PADDED[None], {"pooled_output": None}]],
        PROMPT,
        PADDED[None],
        [PROMPT],
    ],
)
def test_every_form_reads_as_the_same_prompt(value):
    embeds = read_text_embeds(value)
    assert len(embeds.prompts) == 1
    assert torch.equal(embeds.prompts[0], PROMPT)


def test_several_prompts_negative_and_flags():
    embeds = read_text_embeds(
        {
            "prompt_embeds": [rows(4), rows(9, 1)],
            "negative_prompt_embeds": [rows(2, 2)],
            "echoshot": True,
            "prompt": "a",
        }
    )
    assert embeds.token_counts == (4, 9)
    assert torch.equal(embeds.negative[0], rows(2, 2))
    assert embeds.echoshot
    assert embeds.prompt == "a"
    assert read_text_embeds(torch.stack([rows(4), rows(4, 1)])).token_counts == (4, 4)


def test_five_hundred_and_twelve_tokens_fit_and_one_more_does_not():
    assert read_text_embeds(rows(512)).token_counts == (512,)
    assert read_text_embeds(pad_tokens(rows(512), 600)).token_counts == (512,)
    with pytest.raises(EmbedsError, match="inj, prompt 1: has 513 tokens"):
        read_text_embeds(rows(513), "inj")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "got NoneType"),
        ("prompt", "got str"),
        ({"samples": PROMPT}, "got dict"),
        ([], "holds no prompt"),
        ({"prompt_embeds": []}, "holds no prompt"),
        ({"prompt_embeds": None}, "holds no prompt"),
        ({"prompt_embeds": ["a"]}, "got str"),
        (rows(3)[0], r"got a tensor \[16\]"),
        (torch.ones(2, 2, dtype=torch.int64), "floating point"),
        (torch.full((2, 4), float("inf")), "NaN or infinite"),
        ({"prompt_embeds": [PROMPT, torch.full((2, 16), float("nan"))]}, "prompt 2: holds NaN"),
    ],
)
def test_unusable_values_name_the_input(value, message):
    with pytest.raises(EmbedsError, match=f"text_b.*{message}"):
        read_text_embeds(value, "text_b")


@given(st.integers(1, 30), st.integers(0, 30))
def test_padding_and_trimming_are_inverse(tokens, padding):
    prompt = rows(tokens, seed=tokens)
    assert torch.equal(trim_padding(pad_tokens(prompt, tokens + padding)), prompt)


def test_an_empty_prompt_keeps_one_row():
    assert trim_padding(torch.zeros(512, 16)).shape == (1, 16)


def test_padding_never_cuts():
    with pytest.raises(EmbedsError, match="has 7 tokens, but the model reads 6"):
        pad_tokens(PROMPT, 6)


def test_known_differences():
    a = torch.tensor([[3.0, 4.0]])
    same, double, opposite = difference(a, a), difference(a, 2 * a), difference(a, -a)
    assert (same.relative_l2, same.token_cosine, same.norm_ratio, same.changed_share) == (0, pytest.approx(1), 1, 0)
    assert (double.relative_l2, double.token_cosine, double.norm_ratio) == (1, pytest.approx(1), 2)
    assert (opposite.relative_l2, opposite.token_cosine, opposite.changed_share) == (2, pytest.approx(-1), 1)
    assert difference(torch.zeros(2, 4), torch.tensor([[0.02, 0.005, 0, 0.5]] * 2)).changed_share == 0.5


def test_the_changed_share_is_diluted_by_padding_and_the_others_hardly():
    a, b = rows(8), rows(8, 1)
    real, padded = difference(a, b), difference(pad_tokens(a, 512), pad_tokens(b, 512))
    assert real.changed_share > 0.9
    assert padded.changed_share == pytest.approx(real.changed_share * 8 / 512)
    assert padded.relative_l2 == pytest.approx(real.relative_l2)
    assert padded.norm_ratio == pytest.approx(real.norm_ratio)
    assert padded.token_cosine == pytest.approx(real.token_cosine)


def test_prompts_of_unequal_length_are_compared_over_the_longer():
    assert difference(rows(3), rows(8, 1)).tokens == 8
    assert mean_difference([rows(3), rows(5)], [rows(4, 1)]).tokens == 5


@given(st.floats(0.01, 100))
def test_relative_l2_and_cosine_do_not_depend_on_scale(scale):
    a, b = rows(6), rows(6, 1)
    one, other = difference(a, b), difference(a * scale, b * scale)
    assert other.relative_l2 == pytest.approx(one.relative_l2, rel=1e-4)
    assert other.token_cosine == pytest.approx(one.token_cosine, abs=1e-4)


def test_prompts_that_are_nearly_alike_are_told():
    assert difference(PROMPT, PROMPT + 0.01 * rows(7, 1)).alike
    assert not difference(PROMPT, rows(7, 1)).alike


def test_the_stack_is_its_own_copy_and_holds_plain_cpu_tensors():
    source = TextEmbeds((rows(4).requires_grad_() * 2,)).detached()
    stack = EditStack().append(Edit(source, parse_selection("all")))
    options = {"nested": {"stack": stack}}
    assert copy.deepcopy(options)["nested"]["stack"] is stack
    assert copy.copy(stack) is stack
    assert not source.prompts[0].requires_grad
    assert not hasattr(stack, "to")  # hosts call .to() on whatever has it


def test_a_description_is_plain_data():
    import json

    edit = Edit(read_text_embeds(PROMPT), parse_selection("3-5:0.5"), window=Window(0.1, 0.5), branch="both", label="x")
    told = json.loads(json.dumps(EditStack((edit,)).describe()))
    assert told["edits"][0]["strengths"] == "3-5:0.5"
    assert told["edits"][0]["window"] == [0.1, 0.5]
    assert told["edits"][0]["source"]["tokens"] == [7]


@pytest.mark.parametrize(("start", "end"), [(-0.1, 1), (0, 1.1), (0.5, 0.5), (0.6, 0.4), (float("nan"), 1)])
def test_windows_outside_sampling_are_errors(start, end):
    with pytest.raises(ValueError, match="window runs"):
        Window(start, end)


@given(st.integers(1, 100), st.floats(0.05, 0.95))
def test_adjacent_windows_share_no_step_and_miss_none(steps, cut):
    for i in range(steps):
        assert Window(0, cut).contains(i / steps) != Window(cut, 1).contains(i / steps)
        assert Window().contains(i / steps)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x.to_sparse(), "stored as sparse_coo"),
        (lambda x: x[0].to_sparse_csr(), "stored as sparse_csr"),
        (lambda x: torch.nested.nested_tensor([x[0], x[0, :2]]), "nested"),
        (lambda x: x.to("meta"), "without values"),
        (lambda x: torch.complex(x, x).conj(), "floating point"),
        (lambda x: x * 3e4, "values up to .* Amplify less"),
        (lambda x: x.to(torch.float16) * torch.finfo(torch.float16).max, "values up to|NaN or infinite"),
    ],
)
def test_tensors_of_another_kind_are_refused_by_name(make, message):
    value = make(torch.randn(1, 4, 4096, generator=torch.Generator().manual_seed(0)))
    for shape in (value, [value], {"prompt_embeds": [value]}, [[value, {}]]):
        with pytest.raises(EmbedsError, match=f"injection_embeds.*({message})"):
            read_text_embeds(shape, "injection_embeds")


def test_gradients_and_pending_signs_are_resolved():
    x = torch.randn(4, 4096, generator=torch.Generator().manual_seed(0))
    for value, wanted in ((x.clone().requires_grad_(), x), (torch._neg_view(x), -x)):
        (read,) = read_text_embeds(value).prompts
        assert torch.equal(read, wanted) and not read.requires_grad and not read.is_neg()

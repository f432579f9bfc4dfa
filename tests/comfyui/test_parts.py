"""Edits of some tokens and of a part of the video, on both hosts."""

from __future__ import annotations

import pytest

from .server import RejectedError
from .test_compile import compiled
from .test_hidden_states import block_swap
from .workflows import FOX, FRAMES, MOON, Host, NativeHost, Workflow, WrapperHost, edit, output

MODES = ("context", "hidden_states")
SOME = {"block_activations": "1-3"}


def mask(**inputs):
    return lambda flow: flow.add("TestMask", **inputs)


def by_word(host: Host, tokens: str, prompt: str = FOX, **more):
    """An editor that knows the text."""
    encoder = lambda flow: output(flow.add("TestTextEncoder"), int(isinstance(host, WrapperHost)))  # noqa: E731
    return edit(tokens=tokens, prompt=prompt, text_encoder=encoder, **SOME, **more)


def test_real_and_all_tokens_are_what_it_was_before(host: Host):
    whole = host.reference(FOX, edit(**SOME))
    assert host.digest(FOX, edit(**SOME, tokens="all")) == whole
    assert host.digest(FOX, edit(**SOME, tokens="0-19")) == whole
    assert host.digest(FOX, edit(**SOME, tokens="padding")) == host.reference()


def test_words_are_their_numbers(host: Host):
    """FOX is `a red fox in the snow`."""
    numbered = host.digest(FOX, edit(**SOME, tokens="1-2, 5:0.5"))
    assert host.digest(FOX, by_word(host, '"Red fox", word 6:0.5')) == numbered
    assert numbered not in (host.reference(), host.reference(FOX, edit(**SOME)))


@pytest.mark.parametrize(
    ("tokens", "prompt", "message"),
    [
        ('"blue"', FOX, 'The prompt does not have "blue". Its words: 1 a, 2 red, 3 fox, 4 in, 5 the, 6 snow'),
        ("word 9", FOX, "There is no word 9"),
        ('"red"', "a red fox", "the text has 4 tokens with the end token, but text_embeds 7"),
        ("512", FOX, "there is no token 512"),
    ],
)
def test_what_the_prompt_does_not_have_is_an_error(host: Host, tokens, prompt, message):
    result = host.run(FOX, by_word(host, tokens, prompt))
    assert message in result.error["exception_message"]
    assert host.leftovers()["hooks"] == []


def test_tokens_that_cannot_be_read_are_refused_before_the_run(host: Host):
    with pytest.raises(RejectedError, match="tokens, position 1: 'red' is not"):
        host.run(FOX, edit(tokens="red"))


@pytest.mark.parametrize("mode", MODES)
def test_a_mask_of_0_is_no_edit_and_of_1_the_edit_without_one(host: Host, mode):
    some = {**SOME, "injection_mode": mode}
    assert host.digest(FOX, edit(**some, mask=mask(value=0.0))) == host.reference()
    whole = host.reference(FOX, edit(**some))
    assert host.digest(FOX, edit(**some, mask=mask())) == whole
    assert host.digest(FOX, edit(**some, mask=mask(frames=FRAMES))) == whole
    parts = host.digests(
        ((FOX, edit(**some, mask=mask(right=0.5))), {}),
        ((FOX, edit(**some, mask=mask(left=0.5))), {}),
        ((FOX, edit(**some, mask=mask(frames=FRAMES, first=1))), {}),
    )
    assert len({*parts, whole, host.reference()}) == 5
    assert host.leftovers()["hooks"] == []


def test_two_masks_that_cover_the_picture_are_one_edit_of_all(host: Host):
    """Every block, so that nothing carries over but what both have."""
    halves = edit(mask=mask(right=0.5)), edit(mask=mask(left=0.5))
    assert host.digest(FOX, *halves) == host.reference(FOX, edit()) == host.reference(MOON)


def test_a_mask_of_other_frames_is_an_error(host: Host):
    result = host.run(FOX, edit(mask=mask(frames=9)))
    assert "mask: has 9 frames, but the model samples 5 (2 latent frames)" in result.error["exception_message"]
    assert host.leftovers()["hooks"] == []


@pytest.mark.parametrize("how", ["block swap", "compiled blocks"])
def test_a_mask_with_block_swap_and_compiled_blocks(wrapper: WrapperHost, how):
    load = block_swap(wrapper) if how == "block swap" else compiled(wrapper)
    whole = wrapper.reference(FOX, edit(**SOME))  # compiled blocks run eagerly, for they are edited inside
    assert wrapper.digest(FOX, edit(**SOME, mask=mask()), load=load) == whole
    assert wrapper.digest(FOX, edit(**SOME, mask=mask(value=0.0)), load=load) == wrapper.reference()


def test_comfyuis_own_tokenizer_finds_the_words(native: NativeHost):
    """Of a text with a weight, which ComfyUI cuts in pieces of its own."""
    flow = Workflow()
    probe = flow.add("TestWords", prompt="a (red fox:1.3) redder than the red cat, slow pan", phrase="Red")
    result = native.server.run(flow).checked()
    words = ["a", "red", "fox", "redder", "than", "the", "red", "cat", "slow", "pan"]
    assert result.output(probe[0], "words") == words
    assert [text.strip("\u2581") for text in result.output(probe[0], "texts")] == ["red", "red"]
    pieces, tokens = result.output(probe[0], "tokens")
    assert pieces + 1 == tokens  # the end

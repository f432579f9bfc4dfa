"""Readings of words are exact: parts of a whole that an explicit softmax gives as well."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
import wanvideo_activation_editor as wae
from wanvideo_activation_editor.patching.wan_model import discover
from wanvideo_activation_editor.probing.reader import WordReader
from wanvideo_activation_editor.probing.token_reading import TokenReading, word_tokens

from ..hosts.conftest import hook_count, make_transformer, prompt_embeds

LATENTS = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
WORDS = {"first": [0, 1, 2], "second": [3], "rest": [4, 5, 6, 7, 8, 9, 10, 11]}
GRID = (3, 4, 4)


def call(transformer, text):
    with torch.no_grad():
        return transformer(LATENTS, torch.tensor([700.0]), text, return_dict=False)[0]


def softmax_parts(attention, x, text):
    """Each group's part of the output of cross-attention, by an attention map."""
    heads = attention.heads

    def split(t):
        return t.unflatten(-1, (heads, -1)).transpose(1, 2)

    q, k = attention.norm_q(attention.to_q(x)), attention.norm_k(attention.to_k(text))
    v = attention.to_v(text)
    weights = torch.softmax(split(q) @ split(k).mT / (q.shape[-1] // heads) ** 0.5, dim=-1)
    parts = []
    for group in [*WORDS.values(), list(range(12, text.shape[1]))]:
        mixed = (weights[..., group] @ split(v)[..., group, :]).transpose(1, 2).flatten(2)
        parts.append(mixed @ attention.to_out[0].weight.T)
    return parts


def test_shares_and_maps_are_those_of_an_explicit_softmax():
    transformer, text = make_transformer(4), prompt_embeds(1)
    inputs, plain = {}, call(transformer, text)

    def note(index):
        return lambda module, args, kwargs, output: inputs.__setitem__(index, (args, kwargs))

    hooks = [
        block.attn2.register_forward_hook(note(index), with_kwargs=True)
        for index, block in enumerate(transformer.blocks)
    ]
    call(transformer, text)
    for hook in hooks:
        hook.remove()
    before = hook_count(transformer)
    reader = WordReader(discover(transformer), WORDS, [0, 2, 3])
    with reader.reading(GRID) as found:
        assert torch.equal(call(transformer, text), plain)
    assert hook_count(transformer) == before
    assert sorted(found) == [0, 2, 3]
    for index, reading in found.items():
        args, kwargs = inputs[index]
        given = {**dict(zip(("hidden_states", "encoder_hidden_states"), args, strict=False)), **kwargs}
        with torch.no_grad():
            parts = softmax_parts(
                transformer.blocks[index].attn2, given["hidden_states"], given["encoder_hidden_states"]
            )
        whole = sum(parts)
        for n, part in enumerate(parts):
            local = (part * whole).sum(-1)[0] / (whole * whole).sum()
            assert torch.allclose(reading.maps[n].flatten(), local, atol=1e-5)
            assert float(reading.shares[n]) == pytest.approx(float(local.sum()), abs=1e-5)
        assert float(reading.shares.sum()) == pytest.approx(1.0, abs=1e-5)
        assert reading.shares.abs().min() > 1e-4 and len(set(reading.shares.tolist())) == 4


def test_a_word_whose_values_are_zero_has_no_share():
    transformer, text = make_transformer(3), prompt_embeds(1)

    def silence(module, args, output):
        output = output.clone()
        output[:, WORDS["second"]] = 0
        return output

    transformer.blocks[1].attn2.to_v.register_forward_hook(silence)
    with WordReader(discover(transformer), WORDS, [0, 1]).reading(GRID) as found:
        call(transformer, text)
    assert found[1].shares[1] == 0 and (found[1].maps[1] == 0).all()
    assert abs(found[0].shares[1]) > 1e-3


def read(sampler, main, words=WORDS, levels=(0.9, 0.5), **options) -> TokenReading:
    return wae.read_words(
        sampler.pipe,
        main,
        words,
        levels,
        negative_prompt_embeds=sampler.negative,
        height=32,
        width=32,
        num_frames=9,
        num_inference_steps=4,
        guidance_scale=3.0,
        **options,
    )


def test_a_pipeline_is_read_at_its_noise_levels_and_left_as_it_was(sampler, main):
    before = hook_count(sampler.pipe.transformer)
    told = []
    found = read(sampler, main, blocks="1-4", progress=lambda done, total: told.append((done, total)))
    assert found.words == ("first", "second", "rest", "padding")
    assert found.share.shape == (2, 6, 4) and found.blocks == [1, 2, 3, 4]
    assert found.share[:, 1:5].sum(-1) == pytest.approx(np.ones((2, 4)), abs=1e-5)
    assert found.maps.shape == (2, 4, 3, 2, 2)
    assert found.maps.sum((2, 3, 4)) == pytest.approx(np.nanmean(found.share, axis=1), abs=1e-5)
    assert hook_count(sampler.pipe.transformer) == before
    assert told == [(n, 8) for n in range(1, 9)]
    assert found.video("first").shape == (3, 32, 32, 3) and found.video("padding").dtype == np.uint8
    assert "padding" in found.report() and "<img" in found._repr_html_()
    with pytest.raises(KeyError, match="No word 'dog' was read"):
        found.video("dog")


def test_an_interrupt_leaves_nothing(sampler, main):
    transformer, before = sampler.pipe.transformer, hook_count(sampler.pipe.transformer)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(sampler, main, progress=stop)
    assert hook_count(transformer) == before


def test_a_reading_goes_through_plain_values_and_back(sampler, main):
    found = read(sampler, main)
    values, arrays = found.to_plain()
    again = TokenReading.from_plain(json.loads(json.dumps(values)), arrays)
    assert again.report() == found.report() and np.array_equal(again.maps, found.maps)
    assert again.tokens == found.tokens and again.identity == found.identity != ""
    for damaged in ({}, {**values, "words": ["one"]}):
        with pytest.raises(ValueError, match=r"[Tt]oken reading"):
            TokenReading.from_plain(damaged, arrays)


PROMPT = "a red circle, a red star"
# As a fast tokenizer gives them: a space belongs to the word behind it, the end of the text is (0, 0).
OFFSETS = [(0, 1), (1, 5), (5, 9), (9, 12), (12, 13), (13, 15), (15, 19), (19, 24), (0, 0)]


def test_words_are_found_by_the_offsets_of_their_tokens():
    assert word_tokens(["circle", "red star"], PROMPT, OFFSETS, 9) == {
        "circle": [2, 3],
        "red star": [6, 7],
        "other tokens": [0, 1, 4, 5, 8],
    }
    every = word_tokens(None, PROMPT, OFFSETS, 9)
    assert every["red"] == [1] and every["red (2)"] == [6] and every["other tokens"] == [4, 8]
    assert sorted(t for tokens in every.values() for t in tokens) == list(range(9))
    assert word_tokens(None, None, None, 2) == {"token 0": [0], "token 1": [1]}


def test_every_word_is_read_once_whatever_its_case_and_hyphens():
    prompt = "A well-lit lit padding is a lit room"
    offsets = [m.span() for m in re.finditer(r"\w+|-", prompt)]
    assert word_tokens(None, prompt, offsets, len(offsets)) == {
        "A": [0], "well-lit": [1, 2, 3], "lit": [4], '"padding"': [5], "is": [6], "a": [7], "lit (2)": [8], "room": [9],
    }  # fmt: skip


def test_words_that_cannot_be_read_are_refused(sampler, main):
    with pytest.raises(ValueError, match="'dog' is not in the prompt"):
        word_tokens(["dog"], PROMPT, OFFSETS, 9)
    with pytest.raises(ValueError, match="'padding' is a row of every reading"):
        word_tokens({"padding": [0]}, None, None, 9)
    with pytest.raises(ValueError, match="Give token numbers"):
        word_tokens(["red"], PROMPT, None, 9)
    with pytest.raises(ValueError, match=r"tokens \[40\], but the prompt has 12"):
        read(sampler, main, {"far": [40]})
    with pytest.raises(ValueError, match="Token 1 is in 'one' and in 'two'"):
        read(sampler, main, {"one": [0, 1], "two": [1]})
    with pytest.raises(ValueError, match="No block is selected"):
        read(sampler, main, blocks="none")


def test_the_tiny_model_reads_the_word_for_the_motion_in_the_blocks_that_carry_the_motion():
    from wanvideo_activation_editor import tiny_wan

    pipe, text = tiny_wan.pipeline(), "a red circle moving left at night"
    call = {"negative_prompt_embeds": tiny_wan.encode(""), **tiny_wan.CALL}
    words = {word: [n] for n, word in enumerate(text.split())}
    found = wae.read_words(pipe, tiny_wan.encode(text), words, (0.6,), **call)
    left = found.share[0, :, found.words.index("left")]
    right = tiny_wan.encode("a red circle moving right at night")
    carry = wae.block_map(pipe, tiny_wan.encode(text), right, (0.6,), 1, **call).order()[:2]
    assert set(np.argsort(-left)[:2]) == set(carry)
    assert left[carry].min() > 0.8

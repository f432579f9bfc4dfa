"""Learned tokens: the distillation task of the tiny random model, and what is made of them."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from wanvideo_activation_editor.vectors import ControlVectorError
from wanvideo_activation_editor.vectors.learned_tokens import LearnedTokens, load_learned_tokens, save_learned_tokens
from wanvideo_activation_editor.vectors.training import learn_tokens

from .conftest import Sampler, make_transformer, prompt_embeds

MAIN, OTHER = prompt_embeds(1, 12), prompt_embeds(2, 20)
LATENTS = torch.randn(64, 4, 2, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def pipe():
    return Sampler(make_transformer(6)).pipe


def test_8_tokens_beside_a_prompt_give_what_another_prompt_gives(pipe):
    before = {name: p.clone() for name, p in pipe.transformer.named_parameters()}
    found = learn_tokens(pipe, OTHER, MAIN, 8, latents=LATENTS)
    assert found.error <= 0.20
    assert found.baseline_error > 2 * found.error
    assert (found.tokens.shape, found.position) == ((8, 64), "append")
    assert all(torch.equal(p, before[name]) and p.requires_grad for name, p in pipe.transformer.named_parameters())
    assert all(p.grad is None for p in pipe.transformer.parameters())


def test_a_fixed_norm_is_kept_and_a_seed_repeats(pipe):
    options = dict(steps=5, norm="fixed", latents=LATENTS)
    a, b = (learn_tokens(pipe, OTHER, MAIN, 3, **options) for _ in range(2))
    assert torch.equal(a.tokens, b.tokens)
    size = MAIN[0, :12].norm(dim=-1).mean()
    assert torch.allclose(a.tokens.norm(dim=-1), size.expand(3), rtol=1e-5)


def test_rows_go_beside_the_prompt_or_in_its_place():
    rows, prompt = torch.ones(2, 64), MAIN[0, :12]
    made = LearnedTokens(rows)
    assert torch.equal(made.added_to(prompt, weight=0.5), torch.cat([prompt, 0.5 * rows]))
    assert torch.equal(made.added_to(prompt, "prepend"), torch.cat([rows, prompt]))
    assert torch.equal(made.added_to(prompt, "replace"), rows)
    with pytest.raises(ControlVectorError, match="64 wide, but the prompt is 48"):
        made.added_to(prompt[:, :48])
    with pytest.raises(ControlVectorError, match="511 tokens and 2 were learned"):
        made.added_to(torch.ones(511, 64))
    with pytest.raises(ControlVectorError, match="position"):
        made.added_to(prompt, "behind")


def test_a_file_gives_them_back_bit_for_bit_and_damage_is_refused(tmp_path):
    given = LearnedTokens(torch.randn(3, 64), "fixed", "prepend", 0.25, origin="ünicode")
    path = tmp_path / "t.safetensors"
    save_learned_tokens(path, given)
    found = load_learned_tokens(path)
    assert torch.equal(found.tokens, given.tokens)
    assert dataclasses.replace(found, tokens=torch.ones(1, 1)).to_plain()[0] == given.to_plain()[0]
    data, rng, refused = path.read_bytes(), random.Random(0), 0
    length = 8 + int.from_bytes(data[:8], "little")
    for _ in range(200):
        damaged = bytearray(data)
        damaged[rng.randrange(length)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            assert load_learned_tokens(path).tokens.shape[1] > 0
        except ControlVectorError:
            refused += 1
    assert refused > 100


def test_what_cannot_be_learned_is_refused(pipe):
    for options, words in (
        ({"count": 0}, "count has to be"),
        ({"rate": float("nan")}, "rate"),
        ({"prompt": [MAIN, MAIN], "target": LATENTS[:3]}, "2 prompts for 3 clips"),
        ({"position": "behind", "latents": LATENTS}, "position"),
        ({"target": MAIN, "latents": LATENTS}, "nothing to learn"),
    ):
        with pytest.raises(ControlVectorError, match=words):
            learn_tokens(pipe, **{"target": OTHER, "prompt": MAIN, "steps": 1, **options})

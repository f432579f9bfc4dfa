"""The worked example of embedding arithmetic on the output of a real text encoder.

The encoder is transformers' UMT5 in small, with random weights: attention, relative positions and feed-forward mix the
tokens as in the large one, while the words' meaning is only their identity. What must hold is the algebra on real
encoder output: a direction found on one pair of prompts shows in another prompt.
"""

from __future__ import annotations

import hashlib
import re

import pytest
import torch
from transformers import UMT5Config, UMT5EncoderModel
from wanvideo_activation_editor.embeddings.arithmetic import combine, difference_vector

GOTHIC = "a gothic castle at dusk under a stormy sky"
GRASSY = "a grassy castle at daytime under a clear sky"
BEACH = "a sandy beach with waves"
HELD_OUT = (
    ("an old gothic abbey at dusk under a stormy moon", "an old grassy abbey at daytime under a clear moon"),
    ("gothic towers, dusk, stormy light", "grassy towers, daytime, clear light"),
)
VOCABULARY = 4096


def token_ids(text: str) -> torch.Tensor:
    """One id per word from a hash, the end token last. [1, tokens]."""
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    ids = [2 + int.from_bytes(hashlib.sha256(w.encode()).digest()[:4], "little") % (VOCABULARY - 2) for w in words]
    return torch.tensor([[*ids, 1]])


@pytest.fixture(scope="module")
def encode():
    torch.manual_seed(0)
    config = UMT5Config(
        vocab_size=VOCABULARY, d_model=256, d_kv=32, d_ff=512, num_layers=4, num_heads=8, dropout_rate=0.0
    )
    encoder = UMT5EncoderModel(config).eval()

    def run(text: str) -> torch.Tensor:
        with torch.no_grad():
            return encoder(token_ids(text)).last_hidden_state[0]

    return run


def pooled(tokens: torch.Tensor) -> torch.Tensor:
    return tokens.float().mean(dim=0)


def toward(tokens: torch.Tensor, direction: torch.Tensor) -> float:
    return torch.cosine_similarity(pooled(tokens), direction, dim=0).item()


@pytest.fixture(scope="module")
def style(encode):
    return difference_vector(encode(GOTHIC), encode(GRASSY))


def test_the_beach_with_half_the_style_is_nearer_to_the_gothic_direction(encode, style):
    beach = encode(BEACH)
    result = combine("add", beach, [style], [0.5])
    assert result.shape == style.shape, "the castle prompts have more tokens"
    direction = pooled(style)
    assert toward(result, direction) > toward(beach, direction) + 0.1
    assert (pooled(result) - pooled(encode(GOTHIC))).norm() < (pooled(result) - pooled(encode(GRASSY))).norm()


@pytest.mark.parametrize("pair", HELD_OUT, ids=["abbey", "towers"])
def test_the_direction_holds_for_prompts_that_it_was_not_made_of(encode, style, pair):
    direction = pooled(encode(pair[0])) - pooled(encode(pair[1]))
    beach = encode(BEACH)
    plus, minus = (combine("add", beach, [style], [w]) for w in (0.5, -0.5))
    assert toward(plus, direction) > toward(beach, direction) > toward(minus, direction)


def test_an_unrelated_direction_does_not_show(encode, style):
    unrelated = pooled(encode("seven bright violins near Paris")) - pooled(encode("seven quiet trumpets near Oslo"))
    beach = encode(BEACH)
    result = combine("add", beach, [style], [0.5])
    gothic = pooled(style)
    moved = abs(toward(result, unrelated) - toward(beach, unrelated))
    assert moved < 0.5 * (toward(result, gothic) - toward(beach, gothic))

"""Words to text embeddings: a stand-in for Wan's UMT5 encoder, with its width and its 512 rows.

Each word has one fixed random vector, and each position another, drawn from a hash: no file, no training, and any text
can be encoded, whether the model was trained on its words or not.
"""

from __future__ import annotations

import functools
import hashlib
import re

import torch

WIDTH = 4096
ROWS = 512
WORD_SCALE, POSITION_SCALE = 0.2, 0.05


@functools.cache
def vector(name: str) -> torch.Tensor:
    """The fixed random vector of a name, [4096]."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def word_vector(word: str) -> torch.Tensor:
    return WORD_SCALE * vector(word)


def position_vector(position: int) -> torch.Tensor:
    return POSITION_SCALE * vector(f"<{position}>")


def words(text: str) -> list[str]:
    """Lower-case words and punctuation marks."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def encode(text: str) -> torch.Tensor:
    """Embeddings of a text, [1, 512, 4096] in fp32: one row per word, zero rows after the last. "" is all zeros.

    Raises:
        ValueError: more than 512 words.
    """
    found = words(text)
    if len(found) > ROWS:
        raise ValueError(f"The text has {len(found)} words; Wan's prompts have at most {ROWS}.")
    out = torch.zeros(1, ROWS, WIDTH)
    for position, word in enumerate(found):
        out[0, position] = word_vector(word) + position_vector(position)
    return out

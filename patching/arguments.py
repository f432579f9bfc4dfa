"""What Python callers may write for blocks and prompts."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..embeddings.text_embeds import MAX_TOKENS, TextEmbeds, read_text_embeds
from .selection import parse_selection
from .strengths import BlockStrengths, Explicit, as_block_strengths

Blocks = str | int | Iterable[int] | Mapping[int, float] | BlockStrengths
"""A selection (see selection.py), one block, several, strengths per block, or BlockStrengths."""


def chosen_blocks(blocks: Blocks) -> BlockStrengths:
    """The strength of every block.

    Raises:
        ValueError: no blocks, or a list that holds something else than their numbers; the message says what to write.
    """
    if isinstance(blocks, BlockStrengths):
        return blocks
    if isinstance(blocks, str):
        return parse_selection(blocks)
    if isinstance(blocks, Mapping):
        try:
            return as_block_strengths(blocks)
        except ValueError as error:
            raise ValueError(f"blocks: {error}".replace("block_strengths", "the mapping")) from None
    try:
        numbers = [_number(b) for b in (blocks if isinstance(blocks, Iterable) else [blocks])]
    except TypeError:
        raise ValueError(
            f"blocks: {blocks!r} does not name blocks by their numbers, as 3, [1, 2] or range(10, 30) do. Strengths go "
            "into a mapping, {1: 0.5, 2: 1.0}, or into a selection, '1:0.5, 2'."
        ) from None
    if numbers and not 0 <= min(numbers) <= max(numbers) < 1000:
        raise ValueError(f"blocks: {blocks!r} names a block that no model has; they are counted from 0.")
    return Explicit(tuple(1.0 if i in set(numbers) else 0.0 for i in range(max(numbers, default=-1) + 1)))


def _number(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


@torch.no_grad()
def given_prompt(target: Any, prompt: Any) -> TextEmbeds:
    """The prompt of a pipeline: text, which it encodes, or embeddings [tokens, width] or [batch, tokens, width].

    Raises:
        ValueError: text, but no pipeline with a text encoder.
        EmbedsError: something else, with what to give.
    """
    if isinstance(prompt, str):
        if getattr(target, "text_encoder", None) is None:
            raise ValueError(
                "A prompt given as text needs a pipeline with its text encoder. Give the pipeline instead of its "
                "transformer, or the embeddings that pipe.encode_prompt returns."
            )
        prompt, _ = target.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=MAX_TOKENS)
    return read_text_embeds(prompt.clone() if torch.is_tensor(prompt) else prompt, "embeds").detached()

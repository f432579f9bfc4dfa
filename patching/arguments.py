"""What Python callers may write for blocks, windows and prompts."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..embeddings.text_embeds import MAX_TOKENS, EmbedsError, TextEmbeds, read_text_embeds
from .edit import Window
from .selection import Selection, parse_selection
from .strengths import BlockStrengths, Explicit, as_block_strengths

log = logging.getLogger("wanvideo_activation_editor")

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
        return parse_selection(blocks, "blocks")
    if isinstance(blocks, Mapping):
        return as_block_strengths(blocks, "blocks")
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


def warn_without_block(strengths: BlockStrengths, edit: str) -> None:
    """Say that no block is chosen, when it was left blank: `none` and a strength of 0 are choices."""
    if strengths == Explicit(()) or (isinstance(strengths, Selection) and strengths.is_blank()):
        log.warning("%s: no block is chosen, so nothing changes.", edit)


def _number(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def given_window(window: Any) -> Window:
    """The window of a pair (start, end).

    Raises:
        ValueError: something else, or no part of sampling.
    """
    if isinstance(window, Window):
        return window
    try:
        start, end = (float(x) for x in window)
        return Window(start, end)
    except (TypeError, ValueError):
        raise ValueError(
            f"window: {window!r} is no part of sampling. Give (start, end) with 0 <= start < end <= 1, as (0, 0.5) has."
        ) from None


_NO_ENCODER = {
    False: "a prompt given as text needs a pipeline with its text encoder. Give the pipeline instead of its "
    "transformer, or the embeddings that pipe.encode_prompt returns.",
    True: "this pipeline has no text encoder, so give embeddings, as pipe.encode_prompt of one that has it returns "
    "them. For the tiny model, tiny_wan.encode(text) makes them.",
}
_INSTEAD = {
    "ControlVector": " A control vector acts through steer(pipe, vector).",
    "HiddenStates": " Hidden states go into inject_hidden(pipe, main, injection, blocks).",
    "Edit": " An Edit acts through edited(pipe, EditStack((edit,))).",
    "EditStack": " An EditStack acts through edited(pipe, stack).",
}
"""For what is no prompt, by the name of its class, as vectors/ is not known here."""


@torch.no_grad()
def encoded(target: Any, prompt: Any, name: str) -> torch.Tensor | list[torch.Tensor] | TextEmbeds:
    """What a prompt of a pipeline is as embeddings: text is encoded, embeddings are given back.

    Text gets 512 rows, as in a pipeline's own call: padding counts in attention.

    Raises:
        ValueError: text, but no pipeline with a text encoder.
        EmbedsError: neither text nor embeddings.
    """
    if isinstance(prompt, str):
        if getattr(target, "text_encoder", None) is None:
            raise ValueError(f"{name}: {_NO_ENCODER[hasattr(target, 'text_encoder')]}")
        found: torch.Tensor = target.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=MAX_TOKENS
        )[0]
        return found
    several = isinstance(prompt, list | tuple) and len(prompt) > 0 and all(map(torch.is_tensor, prompt))
    if not (torch.is_tensor(prompt) or isinstance(prompt, TextEmbeds) or several):
        raise EmbedsError(
            f"{name}: expected a prompt as text, or embeddings [tokens, 4096] or [batch, tokens, 4096] as "
            f"pipe.encode_prompt gives them, got {type(prompt).__name__}.{_INSTEAD.get(type(prompt).__name__, '')}"
        )
    return list(prompt) if several else prompt  # type: ignore[no-any-return]


def batch_of(prompt: Any, name: str) -> torch.Tensor:
    """Embeddings as a batch [batch, tokens, width].

    Raises:
        EmbedsError: no tensor, or one of another number of dimensions.
    """
    if not torch.is_tensor(prompt) or prompt.dim() not in (2, 3):
        got = f"a tensor {list(prompt.shape)}" if torch.is_tensor(prompt) else f"a {type(prompt).__name__}"
        raise EmbedsError(f"{name}: expected embeddings [tokens, 4096] or [batch, tokens, 4096], got {got}.")
    return prompt[None] if prompt.dim() == 2 else prompt


def given_prompt(target: Any, prompt: Any, name: str = "embeds") -> TextEmbeds:
    """The prompt of a pipeline: text, which it encodes, or embeddings [tokens, width] or [batch, tokens, width].

    Raises:
        ValueError: text, but no pipeline with a text encoder.
        EmbedsError: something else, with what to give.
    """
    found = encoded(target, prompt, name)
    return read_text_embeds(found.clone() if torch.is_tensor(found) else found, name).detached()

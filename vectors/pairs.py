"""Pairs of prompts that differ in one concept: reading them, and where in the text they differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .control_vector import ControlVectorError

MAX_PAIRS = 10_000
MAX_BYTES = 1 << 26


def read_pairs(path: str | Path) -> list[tuple[str, str]]:
    """Pairs from a file of JSON lines, each `{"positive": "a red car", "negative": "a blue car"}`.

    Raises:
        ControlVectorError: a line is not such an object; the message says which.
        OSError: the file cannot be read.
    """
    source = Path(path)
    if source.stat().st_size > MAX_BYTES:
        raise ControlVectorError(f"{source.name} is larger than {MAX_BYTES >> 20} MB.")
    pairs: list[tuple[str, str]] = []
    try:
        text = source.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ControlVectorError(f"{source.name} is not UTF-8: {error.reason}.") from None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise ControlVectorError(f"{source.name}, line {number}: not JSON.") from None
        sides = [value.get(name) for name in ("positive", "negative")] if isinstance(value, dict) else [None]
        if any(not isinstance(side, str) or not side.strip() for side in sides):
            raise ControlVectorError(f'{source.name}, line {number}: expected {{"positive": text, "negative": text}}.')
        pairs.append((sides[0], sides[1]))  # type: ignore[arg-type]  # checked above
    return checked_pairs(pairs, source.name)


def checked_pairs(pairs: Sequence[Any], name: str = "pairs") -> list[tuple[Any, Any]]:
    """Pairs of two prompts, strings or tensors.

    Raises:
        ControlVectorError: none, too many, one that is no pair, or one whose prompts are equal.
    """
    if not 0 < len(pairs) <= MAX_PAIRS:
        raise ControlVectorError(f"{name}: {len(pairs)} pairs; give 1 to {MAX_PAIRS}.")
    for number, pair in enumerate(pairs, 1):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ControlVectorError(f"{name}: number {number} is no pair (positive, negative).")
        if all(isinstance(side, str) for side in pair) and pair[0].strip() == pair[1].strip():
            raise ControlVectorError(f"{name}: number {number} has the same prompt twice, {pair[0]!r}.")
    return [(pair[0], pair[1]) for pair in pairs]


def differing_spans(
    positive: Sequence[Any] | torch.Tensor, negative: Sequence[Any] | torch.Tensor
) -> tuple[slice, slice]:
    """Where two texts differ: what lies between their common beginning and their common end.

    Args:
        positive, negative: token numbers, or embeddings [tokens, width] without padding. An encoder that mixes tokens
            leaves no equal embeddings, and the spans are the whole texts.

    Returns:
        the span of each; of a text that only lacks words, all of it.
    """

    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if torch.is_tensor(a) else a == b

    shorter = min(len(positive), len(negative))
    first = next((i for i in range(shorter) if not same(positive[i], negative[i])), shorter)
    last = next((i for i in range(shorter - first) if not same(positive[-1 - i], negative[-1 - i])), shorter - first)
    spans = [slice(first, len(text) - last) for text in (positive, negative)]
    if any(span.start == span.stop for span in spans):
        return slice(0, len(positive)), slice(0, len(negative))
    return spans[0], spans[1]


def real_rows(embeds: torch.Tensor) -> torch.Tensor:
    """Embeddings [1, tokens, width] or [tokens, width] without the zero rows at their end, [tokens, width]."""
    rows = embeds[0] if embeds.dim() == 3 else embeds
    real = (rows != 0).any(dim=-1).nonzero()
    return rows[: int(real[-1]) + 1] if len(real) else rows[:1]

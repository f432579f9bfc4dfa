"""Operations on whole text inputs, prompt by prompt, and writing their results back into the host's value."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from .text_embeds import (
    MAX_TOKENS,
    RAW_WIDTH,
    EmbedsError,
    TextEmbeds,
    is_conditioning,
    is_wrapper_embeds,
    pad_tokens,
    read_text_embeds,
)

SEQUENCE_KEY = "interpolated_sequence"
LAYOUT_KEY = "interpolation"
"""Where a sequence of prompts and its division into steps stand in a host's value, see sequence.py."""

log = logging.getLogger("wanvideo_activation_editor")


def read_truncated(value: Any, name: str) -> TextEmbeds:
    """Read embeddings of any length; prompts of more than 512 tokens are cut, with a warning.

    Raises:
        EmbedsError: as `read_text_embeds`, but for the length.
    """
    embeds = read_text_embeds(value, name, max_tokens=None)
    for number, tokens in enumerate(embeds.token_counts, 1):
        if tokens > MAX_TOKENS:
            log.warning(
                "%s, prompt %d: has %d tokens; those after the first %d are cut.", name, number, tokens, MAX_TOKENS
            )
    return replace(embeds, prompts=tuple(p[:MAX_TOKENS] for p in embeds.prompts))


def check_matching(inputs: Mapping[str, TextEmbeds]) -> None:
    """Every input must have as many prompts as the first, of the same width.

    Args:
        inputs: embeddings by the name of the input that they came from.

    Raises:
        EmbedsError: they differ; the message says which input is which.
    """
    spaces = {(e.width, e.space) for e in inputs.values()}
    if len(spaces) > 1:
        raise EmbedsError(
            f"{_listed({name: _space(e) for name, e in inputs.items()})}. Raw and projected embeddings do not mix: "
            "connect outputs of the same text encoder."
        )
    counts = {name: len(e.prompts) for name, e in inputs.items()}
    if len(set(counts.values())) > 1:
        numbers = {name: f"{count} prompt{'s' if count > 1 else ''}" for name, count in counts.items()}
        raise EmbedsError(
            f"{_listed(numbers)}. Prompts are combined one by one: use as many in each input ('|' separates them)."
        )


def _space(embeds: TextEmbeds) -> str:
    raw = embeds.space == "raw" and embeds.width == RAW_WIDTH
    return f"{embeds.width} wide ({'raw T5 embeddings' if raw else 'projected into a model, or of another encoder'})"


def _listed(facts: Mapping[str, str]) -> str:
    return ", ".join(f"{name} has {fact}" if "prompt" in fact else f"{name} is {fact}" for name, fact in facts.items())


def promptwise(function: Callable[..., torch.Tensor], inputs: Mapping[str, TextEmbeds]) -> tuple[torch.Tensor, ...]:
    """function(prompt of input 1, prompt of input 2, ...) for each prompt, in order.

    Raises:
        EmbedsError: as `check_matching`, and whatever the function raises, with the prompt's number if there are
            several.
    """
    check_matching(inputs)
    groups = list(zip(*(e.prompts for e in inputs.values()), strict=True))
    results = []
    for number, group in enumerate(groups, 1):
        try:
            results.append(function(*group))
        except EmbedsError as error:
            raise error if len(groups) == 1 else type(error)(f"prompt {number}: {error}") from None
    return tuple(results)


def title(embeds: TextEmbeds, name: str) -> str:
    """The prompt's text in quotes, or in brackets if it describes an operation; else the name of the input."""
    if not embeds.prompt:
        return name
    return f"({embeds.prompt})" if '"' in embeds.prompt else f'"{embeds.prompt}"'


def write_text_embeds(base: Any, prompts: tuple[torch.Tensor, ...], prompt: str) -> Any:
    """The host's value with other prompts in it; every other key is kept, and the value itself is not changed.

    A sequence in the wrapper's dict is dropped, for its steps hold the prompts before the change.

    Args:
        base: WANVIDEOTEXTEMBEDS, CONDITIONING, a tensor or a list of tensors.
        prompts: tensors [tokens, width], as many as the base has.
        prompt: text that describes them, kept under `prompt` where the form has room for it.
    """
    if is_wrapper_embeds(base):
        base = {key: value for key, value in base.items() if key not in (SEQUENCE_KEY, LAYOUT_KEY)}
        form = base["prompt_embeds"]
        if torch.is_tensor(form):
            form = form[..., :MAX_TOKENS, :]  # the wrapper reads no more
        return {**base, "prompt_embeds": _like(form, prompts), "prompt": prompt}
    if is_conditioning(base):
        rest = iter(prompts)
        return [
            [_like(tensor, tuple(next(rest) for _ in range(_count(tensor)))), {**extra, "prompt": prompt}]
            for tensor, extra in base
        ]
    return _like(base, prompts)


def _count(tensor: torch.Tensor) -> int:
    return tensor.shape[0] if tensor.dim() == 3 else 1


def _like(form: Any, prompts: tuple[torch.Tensor, ...]) -> Any:
    """Prompts as the form that the host uses: a list stays a list, padded tensors stay padded to their length."""
    if not torch.is_tensor(form):
        return list(prompts)
    length = max(form.shape[-2], *(len(p) for p in prompts)) if prompts else form.shape[-2]
    padded = [pad_tokens(p, length) for p in prompts]
    return torch.stack(padded) if form.dim() == 3 else padded[0]

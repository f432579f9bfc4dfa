"""Reading text embeddings from what hosts pass around.

Three forms mean the same: the wrapper's dict (`prompt_embeds` is a list of [tokens, 4096] tensors trimmed
to real tokens, or one [prompts, 512, 4096] tensor from its bridge node), ComfyUI's CONDITIONING
(`[[tensor [1, >=512, 4096], {...}], ...]`, zero rows after the last token), and a bare tensor, as diffusers
pipelines take it. `TextEmbeds` is the one form the rest of the pack works on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

MAX_TOKENS = 512
"""Text length of every Wan model: T5 tokens that cross-attention reads."""

MAX_VALUE = 1e4
"""Largest size of a value: in the projection's float16 more would become infinite."""

RAW_WIDTH = 4096
"""Width of UMT5-XXL embeddings, before a model's own projection."""

Space = Literal["raw", "projected"]


class EmbedsError(ValueError):
    """Text embeddings that cannot be used; the message names the input and what to do."""


@dataclass(frozen=True, eq=False)
class TextEmbeds:
    """The prompts of one text input.

    Args:
        prompts: one tensor [tokens, width] per prompt, without trailing zero rows.
        negative: the negative prompt in the same form, when the host value carries it.
        space: `raw` T5 embeddings, or `projected` into the model's width.
        prompt: source text, when known.
        echoshot: True when prompts are EchoShot segments, whose token counts matter.
        given_lengths: rows of each prompt as it came, padding included.
    """

    prompts: tuple[torch.Tensor, ...]
    negative: tuple[torch.Tensor, ...] = ()
    space: Space = "raw"
    prompt: str | None = None
    echoshot: bool = False
    given_lengths: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        return self.prompts[0].shape[-1]

    @property
    def token_counts(self) -> tuple[int, ...]:
        return tuple(p.shape[0] for p in self.prompts)

    def detached(self) -> TextEmbeds:
        """The same embeddings as CPU tensors without autograd history; nothing is shared with a GPU."""

        def cpu(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
            return tuple(t.detach().to("cpu").contiguous() for t in tensors)

        return replace(self, prompts=cpu(self.prompts), negative=cpu(self.negative))

    def describe(self) -> dict[str, Any]:
        """Counts and names as plain values."""
        return {
            "prompts": len(self.prompts),
            "tokens": list(self.token_counts),
            "width": self.width,
            "space": self.space,
            "dtype": str(self.prompts[0].dtype).removeprefix("torch."),
            "prompt": self.prompt,
        }


def is_conditioning(value: Any) -> bool:
    """True for ComfyUI's CONDITIONING: a list of [tensor, dict] pairs."""
    return isinstance(value, list | tuple) and all(
        isinstance(c, list | tuple) and len(c) == 2 and torch.is_tensor(c[0]) and isinstance(c[1], Mapping)
        for c in value
    )


def is_wrapper_embeds(value: Any) -> bool:
    """True for ComfyUI-WanVideoWrapper's WANVIDEOTEXTEMBEDS."""
    return isinstance(value, Mapping) and "prompt_embeds" in value


def read_text_embeds(value: Any, name: str = "text_embeds", max_tokens: int | None = MAX_TOKENS) -> TextEmbeds:
    """Read embeddings from WANVIDEOTEXTEMBEDS, CONDITIONING, a tensor, or a list of tensors.

    Tensors may be [tokens, width], [1, tokens, width] or [prompts, tokens, width]. Trailing zero rows are
    padding and are dropped. Nothing is copied or moved.

    Args:
        value: what a socket or a caller passed.
        name: name of the input, for error messages.
        max_tokens: most tokens of a prompt; None for a main prompt of ComfyUI, which reads any number.

    Raises:
        EmbedsError: another type, a sparse, nested or empty (meta) tensor, no prompt, NaN, Inf or values above
            MAX_VALUE, too many tokens.
    """
    if isinstance(value, TextEmbeds):
        return value
    if is_wrapper_embeds(value):
        negative = value.get("negative_prompt_embeds")
        prompts, lengths = _prompts(value["prompt_embeds"], name, max_tokens)
        return TextEmbeds(
            prompts=prompts,
            negative=_prompts(negative, f"{name} (negative prompt)", max_tokens)[0] if _has_items(negative) else (),
            prompt=value.get("prompt") if isinstance(value.get("prompt"), str) else None,
            echoshot=bool(value.get("echoshot", False)),
            given_lengths=lengths,
        )
    text: str | None = None
    if is_conditioning(value) and len(value):
        text, value = _source_text(value), [c[0] for c in value]
    if torch.is_tensor(value) or (isinstance(value, list | tuple) and all(map(torch.is_tensor, value))):
        prompts, lengths = _prompts(value, name, max_tokens)
        return TextEmbeds(prompts=prompts, prompt=text, given_lengths=lengths)
    raise EmbedsError(
        f"{name}: expected text embeddings (WANVIDEOTEXTEMBEDS from a WanVideo text encoder, or CONDITIONING "
        f"from CLIP Text Encode), got {type(value).__name__}."
    )


def _source_text(conditioning: Any) -> str | None:
    """The text that every part of a CONDITIONING says it is of."""
    texts = {extra.get("prompt") for _, extra in conditioning}
    text = texts.pop()
    return text if isinstance(text, str) and not texts else None


def _has_items(value: Any) -> bool:
    return value is not None and len(value) > 0


def _prompts(value: Any, name: str, max_tokens: int | None) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
    """The prompts without padding, and their lengths with it."""
    tensors: list[torch.Tensor] = []
    for item in [value] if torch.is_tensor(value) else (value or ()):
        if torch.is_tensor(item):
            item = _plain(item, name)
        if not torch.is_tensor(item) or item.dim() not in (2, 3):
            got = f"a tensor {list(item.shape)}" if torch.is_tensor(item) else type(item).__name__
            raise EmbedsError(f"{name}: expected tensors [tokens, {RAW_WIDTH}], got {got}.")
        tensors.extend([item] if item.dim() == 2 else item.unbind(0))
    if not tensors:
        raise EmbedsError(f"{name}: holds no prompt. Give the output of a text encoder.")
    checked = tuple(_checked(t, f"{name}, prompt {i + 1}", max_tokens) for i, t in enumerate(tensors))
    return checked, tuple(t.shape[0] for t in tensors)


def _plain(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """The tensor without a record of gradients or a pending sign; values in rows and columns, or an error."""
    kind = "without values (meta)" if tensor.is_meta else "nested" if tensor.is_nested else None
    if kind is None and tensor.layout != torch.strided:
        kind = f"stored as {str(tensor.layout).removeprefix('torch.')}"
    if kind is not None:
        raise EmbedsError(
            f"{name}: is a tensor {kind}, but embeddings are ordinary tensors. Convert it, for example with "
            "to_dense(), or encode the prompt again."
        )
    return tensor.detach().resolve_neg()


def _checked(tensor: torch.Tensor, name: str, max_tokens: int | None) -> torch.Tensor:
    if not tensor.is_floating_point():
        raise EmbedsError(f"{name}: expected floating point values, got {tensor.dtype}.")
    if not tensor.numel():
        raise EmbedsError(f"{name}: holds no token. Encode the prompt again.")
    if tensor.itemsize == 1:
        raise EmbedsError(f"{name}: is {tensor.dtype}, which cannot be computed with. Convert it to bfloat16.")
    largest = float(tensor.abs().amax())
    if not math.isfinite(largest):
        raise EmbedsError(f"{name}: holds NaN or infinite values. Encode the prompt again.")
    if largest > MAX_VALUE:
        raise EmbedsError(
            f"{name}: holds values up to {largest:.3g}, which grow past what the model can compute with; those of UMT5 "
            f"are below 100. Amplify less, to values below {MAX_VALUE:g}."
        )
    tensor = trim_padding(tensor)
    if max_tokens is not None and tensor.shape[0] > max_tokens:
        raise EmbedsError(
            f"{name}: has {tensor.shape[0]} tokens, but Wan models read at most {max_tokens}. Shorten the prompt."
        )
    return tensor


def trim_padding(tensor: torch.Tensor) -> torch.Tensor:
    """Drop trailing rows that are zero; at least one row stays. [tokens, width] -> [real tokens, width]."""
    real = tensor.abs().amax(dim=-1).nonzero()
    count = int(real[-1]) + 1 if len(real) else 1
    return tensor[:count]


def pad_tokens(tensor: torch.Tensor, length: int) -> torch.Tensor:
    """Append zero rows up to `length` tokens. [tokens, width] -> [length, width].

    Raises:
        EmbedsError: it is longer already.
    """
    check_fits(tensor, length)
    missing = length - tensor.shape[0]
    return torch.cat([tensor, tensor.new_zeros(missing, tensor.shape[1])]) if missing else tensor


def check_fits(tensor: torch.Tensor, length: int) -> None:
    """Raise EmbedsError when a prompt [tokens, width] has more than `length` tokens."""
    if tensor.shape[0] > length:
        raise EmbedsError(f"A prompt has {tensor.shape[0]} tokens, but the model reads {length} here. Shorten it.")

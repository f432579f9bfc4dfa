"""Inputs that say which part an edit touches: tokens of the text, a region of the video."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..embeddings.text_embeds import TextEmbeds
from ..patching.mask import Mask
from ..patching.tokens import Tokens, TokensError, parse_tokens
from ..patching.words import Words, check_count, words_of

WanTextEncoder = io.Custom("WANTEXTENCODER")


def tokens_input() -> Any:
    return io.String.Input(
        "tokens",
        default="real",
        optional=True,
        tooltip='Tokens of the main prompt that are edited: real, all, padding, "a phrase", word 3, 12-15, each with '
        "an optional :weight.",
    )


def mask_input() -> Any:
    return io.Mask.Input(
        "mask",
        optional=True,
        tooltip="Region of the video that is edited: one frame for all, or as many frames as the video has.",
    )


def words_inputs() -> list[Any]:
    """What it takes to find words among tokens."""
    return [
        io.String.Input(
            "prompt",
            default="",
            optional=True,
            tooltip="Text of text_embeds, needed where words are named.",
        ),
        io.MultiType.Input(
            "text_encoder",
            [io.Clip, WanTextEncoder],
            optional=True,
            tooltip="CLIP or WANTEXTENCODER that encodes the prompt, needed where words are named.",
        ),
    ]


def words_named(
    parsed: Tokens, main: TextEmbeds, branch: str, prompt: str, text_encoder: Any, name: str = "tokens"
) -> Words | None:
    """The words of the prompt that is edited; None when `parsed`, of the input `name`, names none.

    Raises:
        TokensError: words are named, and the prompt is not known.
    """
    if parsed.is_located:
        return None
    text = prompt.strip() or (main.prompt or "")
    if text_encoder is None or not text:
        missing = " and ".join(
            n for n, there in (("text_encoder", text_encoder is not None), ("prompt", text)) if not there
        )
        raise TokensError(f"{name}: {parsed} names words. Connect {missing}, or give token numbers.")
    prompts = main.negative if branch == "uncond" and main.negative else main.prompts
    if branch == "both" or len(prompts) > 1:
        raise TokensError(
            f"{name}: {parsed} names words of one prompt, but "
            + ("both branches are edited. Use one editor for each" if branch == "both" else f"there are {len(prompts)}")
            + ", or give token numbers."
        )
    words = words_of(text_encoder, text)
    if branch != "uncond" or main.negative:  # a negative CONDITIONING does not come here
        check_count(words, len(prompts[0]))
    return words


def read_tokens(text: str, main: TextEmbeds, branch: str, prompt: str, text_encoder: Any) -> Tokens | None:
    """What a `tokens` input says, in token numbers; None for all tokens."""
    if not text.strip():
        return None
    parsed = parse_tokens(text)
    return parsed.located(words_named(parsed, main, branch, prompt, text_encoder))


def read_mask(mask: Any) -> Mask | None:
    """What a MASK says."""
    return None if mask is None else Mask(mask)

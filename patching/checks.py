"""What can be wrong with edits, found before sampling starts."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ..embeddings import TextEmbeds
from .edit import Edit, EditStack
from .grid import format_grid
from .sites import SITES
from .sources import CapturedDifference, Direction, SecondStream
from .wan_model import WanModel

log = logging.getLogger("wanvideo_activation_editor")


def check_width(embeds: TextEmbeds, model: WanModel, subject: str) -> None:
    """Raise ValueError unless the embeddings are as wide as the text that the model projects.

    Args:
        subject: beginning of the message: what the embeddings are, with its verb.
    """
    if embeds.width != model.text_width:
        raise ValueError(
            f"{subject} {embeds.width} wide, but {model.name} projects text of width {model.text_width}. "
            "Encode the prompt with the text encoder that belongs to this model (UMT5-XXL)."
        )


def check_prompt_count(injected: int, main: int, found: str) -> None:
    """Raise ValueError unless one prompt is injected, or as many as the main text input has.

    Args:
        found: beginning of the message: what there is instead.
    """
    if injected not in (1, main):
        raise ValueError(f"{found}. Inject one prompt, or as many as the main text input has.")


def check_captured_width(width: int, model: WanModel, subject: str) -> None:
    """Raise ValueError unless captured states are as wide as the model's hidden state."""
    if model.width not in (None, width):
        raise ValueError(
            f"{subject}: the hidden states are {width} wide, but that of {model.name} is {model.width} wide. "
            "Capture them from this model."
        )


def check_direction(source: Direction, site: str, model: WanModel, subject: str) -> None:
    """Raise ValueError unless a direction fits the model: one vector, or one per block, of the model's width."""
    if source.vector.dim() == 2 and len(source.vector) != model.block_count:
        raise ValueError(
            f"{subject}: the direction has vectors for {len(source.vector)} blocks, but {model.name} has "
            f"{model.block_count}."
        )
    if model.width not in (None, source.width):
        raise ValueError(
            f"{subject}: the direction is {source.width} wide, but {site} of {model.name} is {model.width} wide."
        )


def check_stack(
    stack: Iterable[Edit],
    model: WanModel,
    *,
    prompt_count: int | None = None,
    context_tokens: int | None = None,
) -> None:
    """Check every edit against the model, before sampling starts.

    Args:
        stack: the edits.
        model: the transformer.
        prompt_count: prompts of the main text input, when known.
        context_tokens: text tokens that the model reads, when known.

    Raises:
        ValueError: a block that the model lacks, embeddings of another width, a number of prompts that does not
            match, or more tokens than fit. The message says what to do.
    """
    for edit in stack:
        label = edit.name
        try:
            edit.strengths.resolve(model.block_count)
        except ValueError as error:
            raise type(error)(f"{label}: {error}") from None
        for index in edit.strengths.active_blocks(model.block_count):
            SITES[edit.site].module(model.blocks[index])
        if isinstance(edit.source, CapturedDifference):
            check_captured_width(edit.source.width, model, label)
        if isinstance(edit.source, Direction):
            check_direction(edit.source, edit.site, model, label)
        source = edit.text
        if source is None:
            continue
        streams = isinstance(edit.source, SecondStream)
        if streams and model.control_blocks:
            raise ValueError(
                f"{label}: {model.name} is a VACE model, whose control blocks add to the hidden state; a second stream "
                "cannot follow them. Use injection_mode context."
            )
        if streams and getattr(model.module, "audio_injector", None) is not None:
            raise ValueError(
                f"{label}: {model.name} is an S2V model, whose audio layers change the hidden state between blocks; a "
                "second stream cannot follow them. Use injection_mode context."
            )
        check_width(source, model, f"{label}: the injected embeddings are")
        if prompt_count is not None:
            count = len(source.prompts)
            check_prompt_count(count, prompt_count, f"{label}: {count} prompts are injected into {prompt_count}")
        if context_tokens is not None and max(source.token_counts) > context_tokens:
            raise ValueError(
                f"{label}: the injected prompt has {max(source.token_counts)} tokens, but the main prompt's context "
                f"holds {context_tokens}. Shorten the injected prompt."
            )


def check_frames(edit: Edit, frames: int, setting: str, remedy: str) -> None:
    """Raise ValueError unless a captured difference fits what a host samples at a time.

    Args:
        edit: one of any kind.
        frames: latent frames of a model call.
        setting: what makes the host sample a part of the video, and `remedy`, how to undo it; for the message.
    """
    grid = edit.captured.grid if edit.captured is not None else None
    if grid is not None and grid[0] != frames:
        raise ValueError(
            f"{edit.name}: {setting} samples {frames} latent frames at a time, but the hidden states were captured on "
            f"{format_grid(grid)} tokens. Capture with num_frames = {4 * (frames - 1) + 1}, set reduce to mean, or "
            f"{remedy}."
        )


def warn_about_cache(stack: EditStack) -> None:
    """Say that a step cache (TeaCache, MagCache, EasyCache, LazyCache) blurs the edits' windows, if they have any."""
    for edit in stack:
        if not edit.window.is_full:
            log.warning(
                "%s: a step cache replays results of earlier steps, so the edit reaches past its window %g-%g. "
                "Disconnect the cache for exact windows.",
                edit.name,
                edit.window.start,
                edit.window.end,
            )

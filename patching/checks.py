"""What can be wrong with edits, found before sampling starts."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from .concepts import Concept
from .edit import Edit, EditStack
from .grid import format_grid
from .sites import Site, site_of
from .sources import SecondStream
from .wan_model import WanModel

log = logging.getLogger("wanvideo_activation_editor")


def check_prompt_count(injected: int, main: int, found: str) -> None:
    """Raise ValueError unless one prompt is injected, or as many as the main text input has.

    Args:
        found: beginning of the message: what there is instead.
    """
    if injected not in (1, main):
        raise ValueError(f"{found}. Inject one prompt, or as many as the main text input has.")


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
        try:
            edit.strengths.resolve(model.block_count)
        except ValueError as error:
            raise type(error)(f"{edit.name}: {error}") from None
        chosen = edit.strengths.active_blocks(model.block_count)
        acts = edit.acts_on(model.block_count)
        if acts and model.control_blocks and edit.text is not None and edit.site not in ("context", "hidden"):
            raise ValueError(
                f"{edit.name}: {model.name} is a VACE model. A prompt reaches its control blocks at site context "
                "alone; use that."
            )
        edit.source.check(model, edit.site, edit.name)
        if acts and isinstance(edit.source, SecondStream):
            edit.source.check_alone(model, edit.name)
        for index in chosen:
            _check_site(site_of(edit.site), model, index, edit.name)
        if isinstance(edit.source, Concept):
            edit.source.check_blocks(chosen, edit.name)
        source = edit.text
        if source is None:
            continue
        if prompt_count is not None:
            count = len(source.prompts)
            check_prompt_count(count, prompt_count, f"{edit.name}: {count} prompts are injected into {prompt_count}")
        if context_tokens is not None and max(source.token_counts) > context_tokens:
            raise ValueError(
                f"{edit.name}: the injected prompt has {max(source.token_counts)} tokens, but the main prompt's "
                f"context holds {context_tokens}. Shorten the injected prompt."
            )


def _check_site(site: Site, model: WanModel, index: int, edit: str) -> None:
    """Raise ValueError unless block `index` has the site."""
    if site.end == "keyword" or site.of_control:
        if not site.is_in(model.blocks, [block for block, _ in model.control_blocks]):
            raise ValueError(f"{edit}: {model.name} has no {site.name} ({site.meaning}).")
    else:
        site.module(model.blocks[index])


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
    """Say that a step cache (TeaCache, MagCache, EasyCache, LazyCache) blurs windows and schedules."""
    for edit in stack:
        if edit.is_timed:
            log.warning(
                "%s: a step cache replays results of earlier steps, so the edit reaches past its window %g-%g, and its "
                "schedule is followed only where the model runs. Turn the cache off for exact timing.",
                edit.name,
                edit.window.start,
                edit.window.end,
            )

"""What a run says about edits that had no effect, or cannot have one."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .edit import Edit

if TYPE_CHECKING:
    from .active import ActiveEdit

log = logging.getLogger("wanvideo_activation_editor")


def warn_if_unused(edits: Iterable[ActiveEdit]) -> None:
    """After a sampling: name the edits that did nothing."""
    acted = False
    for active in edits:
        if active.blocks and active.calls == 0:
            # One of two samplers in a row may rightly see no step of a window.
            log.log(
                logging.INFO if active.edit.is_timed else logging.WARNING,
                "%s had no effect: no model call of this run fell in its branch and window (%s).",
                active.edit.label or "An edit",
                where(active.edit),
            )
        elif active.blocks and not active.edited and active.site.end == "keyword":
            log.warning(
                "%s had no effect: the %s that is connected came in none of its steps (%s). It has a part of sampling "
                "of its own, at the node that adds it.",
                active.edit.label or "An edit",
                active.edit.site,
                where(active.edit),
            )
            continue
        acted = acted or bool(active.blocks and active.calls)
    if acted and not any(active.edited for active in edits):
        log.warning(
            "WanVideo Activation Editor had no effect: the host ran none of the selected blocks. "
            "A cache (TeaCache, MagCache, EasyCache) or skip-layer guidance may have skipped them."
        )


def skipped_message(edit: str, blocks: set[int], setting: str) -> str:
    """For blocks that a hidden edit, by its name, is to change and that the host leaves out."""
    return (
        f"{edit}: {setting} skips block {', '.join(map(str, sorted(blocks)))}, whose hidden state is to be edited. "
        "Choose other blocks, or change the skipped ones."
    )


def where(edit: Edit) -> str:
    captured = f" of a difference captured {edit.captured.origin}" if edit.captured else ""
    window = f"window {edit.window.start:g}-{edit.window.end:g}"
    schedule = "" if edit.schedule.is_constant else f", schedule {edit.schedule}"
    return f"{edit.operation.name}{captured}, branch {edit.branch}, {window}{schedule}"


def unreached_message(active: ActiveEdit, model: str) -> str:
    """For an edit none of whose modules the model calls."""
    paths = " or ".join(active.site.paths)
    return (
        f"{active.edit.name}: {model} ran without calling {f'{paths} of its blocks' if paths else 'the chosen blocks'} "
        "as modules, so nothing was edited. This model, or another pack on it, runs its blocks in a way of its own, "
        "which cannot be edited. Remove the edit, or what replaces the blocks."
    )

"""Other code that has changed the modules which a run hooks, found when the run begins."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from torch import nn

from .wan_model import WanModel, unwrap

log = logging.getLogger("wanvideo_activation_editor")


def replaced_by(module: nn.Module) -> str | None:
    """Name of the Python module whose function stands in place of a module's own `forward`; None when none does.

    Hooks of accelerate and diffusers (offload, caches, context parallelism) call the original and are not counted.
    """
    given = vars(module).get("forward")
    if given is None or hasattr(module, "_hf_hook") or hasattr(module, "_diffusers_hook"):
        return None
    if getattr(given, "__self__", None) is module and given.__func__ is type(module).forward:
        return None
    function: Any = getattr(given, "func", given)  # functools.partial
    return str(getattr(function, "__module__", None) or type(function).__module__)


def warn_about_replaced_forwards(model: WanModel, edited: Iterable[int]) -> None:
    """Say once which other code has replaced the `forward` of the text projection or of edited blocks."""
    blocks: dict[str, list[int]] = {}
    for index in edited:
        owner = replaced_by(unwrap(model.blocks[index]))
        if owner is not None:
            blocks.setdefault(owner, []).append(index)
    places = {owner: f"forward of blocks {', '.join(map(str, found))}" for owner, found in blocks.items()}
    projection = replaced_by(model.projection)
    if projection is not None:
        places[projection] = "forward of the text projection"
    for owner, place in places.items():
        log.warning(
            "%s has replaced the %s of %s, and may overwrite what is injected there. If the injection has no effect, "
            "disable that pack, and reload the model.",
            owner,
            place,
            model.name,
        )

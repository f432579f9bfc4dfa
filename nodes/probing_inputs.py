"""What the nodes that measure share: inputs, their texts, and keys of results by content."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..patching.edit import KEY
from ..patching.fingerprint import UnidentifiedError, fingerprint
from .hidden import ImageEmbeds, pixels_input
from .sockets import ACTIVATIONS_TOOLTIP, refusal

LEVELS_TOOLTIP = "Noise levels, 1 (only noise) to 0 (finished), separated by commas. Each is one step of a plain run."


def size_inputs() -> list[Any]:
    return [
        ImageEmbeds.Input(
            "image_embeds",
            optional=True,
            tooltip="The sampler's image_embeds, for a WANVIDEOMODEL; they give the size.",
        ),
        pixels_input("width", 832),
        pixels_input("height", 480),
        io.Int.Input(
            "num_frames", default=81, min=1, max=10000, step=4, optional=True, tooltip="Frames of the video: 4 n + 1."
        ),
    ]


def blocks_input() -> Any:
    return io.String.Input("block_activations", default="all", tooltip=ACTIVATIONS_TOOLTIP)


def use_cache_input() -> Any:
    return io.Boolean.Input(
        "use_cache",
        default=True,
        optional=True,
        tooltip="Use an earlier result of the same model, prompts and settings.",
    )


def parse_levels(text: str) -> list[float]:
    """Noise levels written as `0.8, 0.6`.

    Raises:
        ValueError: something else, or a level out of range.
    """
    try:
        levels = [float(part) for part in re.split(r"[,\s]+", text.strip()) if part]
    except ValueError:
        raise ValueError(f"noise_levels: {text!r} is no list of numbers such as 0.8, 0.6, 0.4.") from None
    if not levels or not all(0 < level <= 1 for level in levels) or len(set(levels)) < len(levels):
        raise ValueError(f"noise_levels: {text!r}; give different numbers above 0 and at most 1, as in 0.8, 0.6, 0.4.")
    return levels


def progress() -> Callable[[int, int], None]:
    """Moves the node's progress bar, and raises if the user interrupts."""
    from comfy.model_management import throw_exception_if_processing_interrupted
    from comfy.utils import ProgressBar

    bar = ProgressBar(1)

    def at(done: int, total: int) -> None:
        bar.update_absolute(done, total)
        throw_exception_if_processing_interrupted()

    return at


def check_levels(text: Any) -> bool | str:
    if isinstance(text, str):
        try:
            parse_levels(text)
        except ValueError as error:
            return refusal(error)
    return True


def cache_key(kind: str, identity: str, inputs: Any, settings: Any) -> str:
    """Fingerprint of all inputs, or "" if unavailable."""
    try:
        return fingerprint((kind, identity, inputs, settings)) if identity else ""
    except UnidentifiedError:
        return ""


def content_of(text_embeds: Any) -> Any:
    """What tells one text input from another."""
    if isinstance(text_embeds, dict):
        return {k: v for k, v in text_embeds.items() if k != KEY}
    if isinstance(text_embeds, list):
        return [[tensor, {k: v for k, v in extra.items() if k not in (KEY, "uuid")}] for tensor, extra in text_embeds]
    return text_embeds

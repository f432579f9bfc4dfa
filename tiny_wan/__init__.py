"""A real Wan model of a few megabytes, trained on moving shapes: what an edit does can be seen and measured.

    from wanvideo_activation_editor import tiny_wan

    pipe = tiny_wan.pipeline()
    latents = pipe(
        prompt_embeds=tiny_wan.encode("a red circle moving left at night"),
        negative_prompt_embeds=tiny_wan.encode(""),
        output_type="latent",
        **tiny_wan.CALL,
    ).frames
    frames = tiny_wan.decode(latents)  # uint8 [5, 96, 96, 3]
    tiny_wan.read(frames)["colour"].name  # "red"

See weights/README.md for what it was trained on and what it must not be used to claim. Nothing is loaded before it is
asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import CAPTIONS, HELD_OUT_CAPTIONS
    from .readouts import Reading, moved, read
    from .text import encode
    from .wan_pipeline import CALL, decode, pipeline

_HOME = {
    "CALL": "wan_pipeline",
    "CAPTIONS": "data",
    "HELD_OUT_CAPTIONS": "data",
    "Reading": "readouts",
    "decode": "wan_pipeline",
    "encode": "text",
    "moved": "readouts",
    "pipeline": "wan_pipeline",
    "read": "readouts",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(_HOME)


__all__ = [
    "CALL",
    "CAPTIONS",
    "HELD_OUT_CAPTIONS",
    "Reading",
    "decode",
    "encode",
    "moved",
    "pipeline",
    "read",
]

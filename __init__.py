"""WanVideo Activation Editor: block-level prompt injection for Wan video models in ComfyUI and diffusers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> ComfyExtension:
    """Called by ComfyUI once, when it loads the pack."""
    from .nodes import ActivationEditorExtension

    return ActivationEditorExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]

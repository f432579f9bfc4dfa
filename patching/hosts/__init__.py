"""The hosts that run Wan models.

Each module has owns, wan_model, with_stack, projection_weights, capture and identity.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from . import comfy_native, wan_video_wrapper


def host_of(model: Any) -> ModuleType:
    """The host module of a value from a MODEL or WANVIDEOMODEL socket.

    Raises:
        TypeError: it is neither.
    """
    for host in (wan_video_wrapper, comfy_native):
        if host.owns(model):
            return host
    raise TypeError(
        f"model: expected WANVIDEOMODEL (WanVideo Model Loader) or MODEL (a loaded Wan diffusion model), "
        f"got {type(model).__name__}."
    )

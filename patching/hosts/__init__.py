"""The hosts that run Wan models, each a module of the form of `protocol.Host`."""

from __future__ import annotations

from typing import Any

from . import comfy_native, diffusers, wan_video_wrapper
from .protocol import GraphHost, Host

_wrapper: GraphHost = wan_video_wrapper
_native: GraphHost = comfy_native
_diffusers: Host = diffusers
GRAPH_HOSTS = (_wrapper, _native)
HOSTS = (_wrapper, _native, _diffusers)


def host_of(model: Any) -> GraphHost:
    """The host of a value from a MODEL or WANVIDEOMODEL socket.

    Raises:
        TypeError: no host owns it.
    """
    for host in GRAPH_HOSTS:
        if host.owns(model):
            return host
    raise TypeError(
        f"model: expected WANVIDEOMODEL (WanVideo Model Loader) or MODEL (a loaded Wan diffusion model), "
        f"got {type(model).__name__}."
    )

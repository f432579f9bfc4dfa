"""The edits that demo, measurements and tests apply to the tiny model: the one place that imports them."""

from __future__ import annotations

from ..embeddings.amplification import amplify
from ..embeddings.arithmetic import difference_vector
from ..embeddings.interpolation import interpolate
from ..patching.hosts.diffusers import capture, inject, inject_hidden
from ..patching.transforms import Boost

__all__ = ["Boost", "amplify", "capture", "difference_vector", "inject", "inject_hidden", "interpolate"]

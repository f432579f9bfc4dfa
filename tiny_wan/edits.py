"""The edits that demo, measurements and tests apply to the tiny model: the one place that imports them."""

from __future__ import annotations

from ..embeddings import amplify, difference_vector, interpolate
from ..patching import Boost
from ..patching.hosts.diffusers import capture, inject, inject_hidden

__all__ = ["Boost", "amplify", "capture", "difference_vector", "inject", "inject_hidden", "interpolate"]

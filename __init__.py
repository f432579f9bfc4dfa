"""WanVideo Activation Editor: edits inside the transformer blocks of Wan video models, in ComfyUI and diffusers.

The Python API is loaded when it is used:

    import wanvideo_activation_editor as wae

    with wae.inject(pipe, "a castle in a meadow", blocks="10-29:0.6"):
        video = pipe("a castle at dusk").frames
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

    from . import tiny_wan
    from .patching.edit import Edit, EditStack, Window
    from .patching.hosts.diffusers import capture, edited, inject, inject_hidden
    from .patching.mask import Box, Mask
    from .patching.operations import Add, Blend, Replace, Scale
    from .patching.plain import RecipeError, load_recipe, save_recipe
    from .patching.sites import SITES
    from .patching.sources import CapturedDifference, Direction, Image, Prompt, SecondStream, Zero
    from .patching.transforms import Boost, ForceDifference
    from .probing.block_map import BlockMap
    from .probing.distances import frame_cosine, relative_l2, ssim, temporal_difference
    from .probing.pipelines import block_map
    from .probing.token_reading import TokenReading
    from .probing.words import read_words
    from .storage.records import Description, EmbeddingKey
    from .storage.store import EmbeddingStore
    from .sweeps import sweep
    from .vectors import ControlVector, ControlVectorError, load_control_vector, save_control_vector
    from .vectors.applying import steer, turn
    from .vectors.learned_tokens import LearnedTokens, load_learned_tokens, save_learned_tokens
    from .vectors.pairs import read_pairs
    from .vectors.pipelines import calibrate, control_vector
    from .vectors.training import learn_tokens

WEB_DIRECTORY = "./web"
__version__ = "0.1.0"

_API = {
    "patching.edit": ("Edit", "EditStack", "Window"),
    "patching.hosts.diffusers": ("capture", "edited", "inject", "inject_hidden"),
    "patching.operations": ("Add", "Blend", "Replace", "Scale"),
    "patching.mask": ("Box", "Mask"),
    "patching.plain": ("RecipeError", "load_recipe", "save_recipe"),
    "patching.sites": ("SITES",),
    "patching.sources": ("CapturedDifference", "Direction", "Image", "Prompt", "SecondStream", "Zero"),
    "patching.transforms": ("Boost", "ForceDifference"),
    "sweeps": ("sweep",),
    "vectors": ("ControlVector", "ControlVectorError", "load_control_vector", "save_control_vector"),
    "vectors.applying": ("steer", "turn"),
    "vectors.learned_tokens": ("LearnedTokens", "load_learned_tokens", "save_learned_tokens"),
    "vectors.pairs": ("read_pairs",),
    "vectors.pipelines": ("calibrate", "control_vector"),
    "vectors.training": ("learn_tokens",),
    "probing.block_map": ("BlockMap",),
    "probing.distances": ("frame_cosine", "relative_l2", "ssim", "temporal_difference"),
    "probing.pipelines": ("block_map",),
    "probing.token_reading": ("TokenReading",),
    "probing.words": ("read_words",),
    "storage.records": ("Description", "EmbeddingKey"),
    "storage.store": ("EmbeddingStore",),
}
_MODULES = {name: module for module, names in _API.items() for name in names}

__all__ = [
    "SITES",
    "WEB_DIRECTORY",
    "Add",
    "Blend",
    "BlockMap",
    "Boost",
    "Box",
    "CapturedDifference",
    "ControlVector",
    "ControlVectorError",
    "Description",
    "Direction",
    "Edit",
    "EditStack",
    "EmbeddingKey",
    "EmbeddingStore",
    "ForceDifference",
    "Image",
    "LearnedTokens",
    "Mask",
    "Prompt",
    "RecipeError",
    "Replace",
    "Scale",
    "SecondStream",
    "TokenReading",
    "Window",
    "Zero",
    "__version__",
    "block_map",
    "calibrate",
    "capture",
    "comfy_entrypoint",
    "control_vector",
    "edited",
    "frame_cosine",
    "inject",
    "inject_hidden",
    "learn_tokens",
    "load_control_vector",
    "load_learned_tokens",
    "load_recipe",
    "read_pairs",
    "read_words",
    "relative_l2",
    "save_control_vector",
    "save_learned_tokens",
    "save_recipe",
    "ssim",
    "steer",
    "sweep",
    "temporal_difference",
    "tiny_wan",
    "turn",
]


def __getattr__(name: str) -> Any:
    if name == "tiny_wan":
        return importlib.import_module(".tiny_wan", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


async def comfy_entrypoint() -> ComfyExtension:
    """Called by ComfyUI once, when it loads the pack."""
    from .nodes import ActivationEditorExtension

    return ActivationEditorExtension()

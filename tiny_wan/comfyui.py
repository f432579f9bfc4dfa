"""Files with which a ComfyUI runs the tiny model on its own nodes: the model, a VAE decoder and text embeddings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from .comfy_vae import load, native_state
from .model import native_state as native_transformer
from .text import encode, words
from .wan_pipeline import TRANSFORMER, WEIGHTS

MODEL = "models/diffusion_models/tiny_wan_shapes.safetensors"
VAE = "models/vae/tiny_wan_shapes_vae.safetensors"
TEXTS = "input/wanvideo_embeddings/tiny_wan_shapes.safetensors"
EMPTY = "empty"  # name of the empty prompt
# Two prompts that differ in everything, what lies between them, and colours alone.
SUGGESTED = (
    "a red circle moving left at night",
    "a blue square moving right on the sea",
    "a blue circle moving left at night",
    "a red square moving left at night",
    "a red circle moving right at night",
    "a red circle moving left on the sea",
    "a circle moving left at night",
    "a yellow star moving up in fog",
    "a green cross moving down at night",
    "a white ring moving right on the sea",
    "a purple triangle moving left on sand",
    "a red shape",
    "a blue shape",
)


def write_files(comfyui: Path, captions: Sequence[str] = (), weights: Path = TRANSFORMER) -> dict[str, Path]:
    """Write all files into a ComfyUI, over older ones of their names.

    Args:
        comfyui: the folder that ComfyUI's main.py is in, or its base directory.
        captions: more texts, beside SUGGESTED and the empty one.

    Returns:
        Paths by "model", "vae" and "texts".

    Raises:
        ValueError: the folder is no ComfyUI, or a text is too long.
    """
    from safetensors.torch import load_file

    if not (comfyui / "models").is_dir():
        raise ValueError(f"{comfyui} has no folder 'models': give the folder that ComfyUI's main.py is in.")
    contents = {
        "model": (MODEL, native_transformer(load_file(weights))),
        "vae": (VAE, native_state(load(WEIGHTS / "comfy_vae.safetensors"))),
        "texts": (TEXTS, texts([*SUGGESTED, *captions])),
    }
    return {kind: _write(comfyui / name, tensors) for kind, (name, tensors) in contents.items()}


def texts(captions: Sequence[str]) -> dict[str, torch.Tensor]:
    """Embeddings by text, one row [4096] a word; Load Embedding adds the zero rows up to 512."""
    rows = {text: encode(text)[0, : max(1, len(words(text)))].contiguous() for text in captions}
    return {EMPTY: encode("")[0, :1].contiguous(), **rows}


def _write(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write a file whole or not at all."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(dict(tensors), part)
    os.replace(part, path)
    return path

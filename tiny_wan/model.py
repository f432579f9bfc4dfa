"""The transformer's shape, its start before training, and its names in Wan's own checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .codec import CHANNELS
from .text import WIDTH

DIM = 128
BLOCKS = 10
# One head of 128, as native ComfyUI gives a Wan model dim // 128 heads.
CONFIG: dict[str, Any] = {
    "num_attention_heads": 1,
    "attention_head_dim": DIM,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "text_dim": WIDTH,
    "ffn_dim": 256,
    "num_layers": BLOCKS,
    "rope_max_seq_len": 64,
}


def build() -> Any:
    """A `WanTransformer3DModel` of diffusers in this shape."""
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(**CONFIG)


@torch.no_grad()
def initialise(model: Any, seed: int) -> None:
    """Weights from which few steps suffice: the prediction starts as 0.85 of the noisy latents.

    The patch embedding is an isometry and the output projection its transpose; gates are open, and what the blocks
    write starts small.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" in name:
            parameter.fill_(1)
        elif parameter.dim() == 2:
            parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
            if "to_out" in name or "ffn.net.2" in name:
                parameter.mul_(0.1)
    conditions = model.condition_embedder
    conditions.text_embedder.linear_1.weight.normal_(0, 1 / 13, generator=generator)
    conditions.time_proj.weight.mul_(0.1)
    for block in model.blocks:
        block.scale_shift_table.zero_()
        block.scale_shift_table[:, [2, 5]] = 1
    model.scale_shift_table.zero_()
    isometry, _ = torch.linalg.qr(torch.randn(DIM, 4 * CHANNELS, generator=generator))
    model.patch_embedding.weight.copy_(isometry.view(DIM, CHANNELS, 1, 2, 2))
    transposed = isometry.view(DIM, CHANNELS, 4).permute(2, 1, 0).reshape(4 * CHANNELS, DIM)
    model.proj_out.weight.copy_(0.6 * transposed)


def load_transformer(path: Path) -> Any:
    """The transformer of a file, in fp32, ready to sample."""
    from safetensors.torch import load_file

    model = build()
    model.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return model.eval().requires_grad_(False)


_NATIVE = (
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("attn1.", "self_attn."),
    ("attn2.", "cross_attn."),
    ("to_out.0", "o"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    (".norm2.", ".norm3."),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
)


def native_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameters under the names of Wan's original checkpoints, which ComfyUI's loaders read."""

    def name_of(key: str) -> str:
        if key == "scale_shift_table":
            return "head.modulation"
        key = key.replace("scale_shift_table", "modulation")
        for ours, theirs in _NATIVE:
            key = key.replace(ours, theirs)
        return re.sub("^proj_out", "head.head", key)

    return {name_of(key): value for key, value in state.items()}

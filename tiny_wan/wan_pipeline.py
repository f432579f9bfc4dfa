"""The trained weights as a stock `WanPipeline` of diffusers."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from .codec import CHANNELS, GRID, Codec, load_codec
from .data import FRAMES
from .model import load_transformer
from .objective import SHIFT

WEIGHTS = Path(__file__).parent / "weights"
TRANSFORMER, CODEC = WEIGHTS / "transformer.safetensors", WEIGHTS / "codec.safetensors"
# The host's sizes: 8 pixels per latent row and column, 4 frames per latent frame after the first. What the codec makes
# of these latents has 5 key frames of 96 x 96.
CALL: dict[str, Any] = {
    "height": 8 * GRID,
    "width": 8 * GRID,
    "num_frames": 4 * (FRAMES - 1) + 1,
    "num_inference_steps": 8,
    "guidance_scale": 2.0,
}


class CodecVAE(nn.Module):
    """The codec where a pipeline looks for Wan's VAE: with it, `output_type="np"` gives the 5 key frames."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec
        self.config = SimpleNamespace(
            z_dim=CHANNELS,
            latents_mean=[0.0] * CHANNELS,
            latents_std=[1.0] * CHANNELS,
            scale_factor_temporal=4,
            scale_factor_spatial=8,
        )

    @property
    def dtype(self) -> torch.dtype:
        return self.codec.mean.dtype

    @property
    def device(self) -> torch.device:
        return self.codec.mean.device

    def decode(self, latents: torch.Tensor, return_dict: bool = True) -> Any:
        video = (2 * self.codec.decode(latents) - 1).transpose(1, 2)
        return SimpleNamespace(sample=video) if return_dict else (video,)


@functools.cache
def _codec() -> Codec:
    return load_codec(CODEC)


def pipeline(weights: Path = TRANSFORMER) -> Any:
    """A new `WanPipeline` with the tiny transformer, on the CPU in fp32, without tokenizer and text encoder.

    Call it with `prompt_embeds` and `negative_prompt_embeds` from `encode`, and with `**CALL`.
    """
    from diffusers import UniPCMultistepScheduler, WanPipeline

    pipe = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=CodecVAE(load_codec(CODEC)),
        transformer=load_transformer(weights),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def decode(latents: torch.Tensor) -> torch.Tensor:
    """Latents of one clip, [1, 16, 5, 8, 8] or [16, 5, 8, 8] -> uint8 [5, 96, 96, 3].

    Raises:
        ValueError: latents of another shape, or with values that are not finite.
    """
    one = latents[None] if latents.dim() == 4 else latents
    if one.dim() != 5 or (len(one), one.shape[1], *one.shape[3:]) != (1, CHANNELS, GRID, GRID):
        raise ValueError(
            f"latents: expected those of one clip, [1, {CHANNELS}, frames, {GRID}, {GRID}], got {list(latents.shape)}. "
            'Sample with **CALL and output_type="latent", and decode clips one by one.'
        )
    if not torch.isfinite(one).all():
        raise ValueError("latents: some values are not finite, so there is no picture in them.")
    video = _codec().decode(one.float().cpu())[0].clamp(0, 1)
    return (255 * video).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

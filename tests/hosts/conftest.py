"""Tiny random Wan models and a real pipeline of diffusers."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

TEXT_WIDTH = 64


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Give every parameter values large enough that each block matters (several start as zeros or ones)."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
        with torch.no_grad():
            parameter.copy_(1 + 0.1 * noise if "norm" in name else noise * (0.05 if fan_in == 1 else fan_in**-0.5))


def make_transformer(layers: int = 6, seed: int = 0, cls: type = WanTransformer3DModel, **config):
    model = cls(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=config.pop("in_channels", 4),
        out_channels=4,
        text_dim=TEXT_WIDTH,
        freq_dim=32,
        ffn_dim=64,
        num_layers=layers,
        rope_max_seq_len=32,
        **config,
    )
    randomise(model, seed)
    return model.eval()


def prompt_embeds(seed: int, tokens: int = 12, width: int = TEXT_WIDTH) -> torch.Tensor:
    """[1, 512, width], zero rows after the last token, as `encode_prompt` returns it."""
    out = torch.zeros(1, 512, width)
    out[0, :tokens] = torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))
    return out


class Sampler:
    """Samples latents through a real WanPipeline."""

    def __init__(self, transformer, transformer_2=None, steps: int = 3, guidance: float = 3.0) -> None:
        scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
        if transformer_2 is not None:
            scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        vae = AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4,
                               latents_std=[1.0] * 4)  # fmt: skip
        self.pipe = WanPipeline(
            tokenizer=None,
            text_encoder=None,
            vae=vae,
            scheduler=scheduler,
            transformer=transformer,
            transformer_2=transformer_2,
            boundary_ratio=0.5 if transformer_2 is not None else None,
        )
        self.pipe.set_progress_bar_config(disable=True)
        self.steps, self.guidance = steps, guidance
        self.negative = prompt_embeds(99, tokens=5)

    def __call__(self, embeds: torch.Tensor, **kwargs) -> torch.Tensor:
        return self.pipe(
            prompt_embeds=embeds,
            negative_prompt_embeds=kwargs.pop("negative", self.negative),
            height=32,
            width=32,
            num_frames=5,
            num_inference_steps=kwargs.pop("steps", self.steps),
            guidance_scale=kwargs.pop("guidance", self.guidance),
            generator=torch.Generator().manual_seed(7),
            output_type="latent",
            **kwargs,
        ).frames


@pytest.fixture(scope="session")
def main() -> torch.Tensor:
    return prompt_embeds(1)


@pytest.fixture(scope="session")
def other() -> torch.Tensor:
    return prompt_embeds(2, tokens=20)


@pytest.fixture
def sampler() -> Sampler:
    return Sampler(make_transformer())


def hook_count(module: torch.nn.Module) -> int:
    """Hooks of any kind on a module and its children."""
    return sum(
        len(getattr(m, name))
        for m in module.modules()
        for name in ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks")
    )

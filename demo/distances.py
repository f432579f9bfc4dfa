"""How far does a second prompt move the result, preset by preset and curve by curve?

Samples one video plain, then with the second prompt injected into the blocks of every preset at full strength and along
every strength pattern, and prints the relative L2 distance of each result from the plain one. The distance to the
result of the second prompt alone is the yardstick.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..patching.selection import parse_selection
from ..patching.strengths import PATTERNS, PRESETS, BlockStrengths, Pattern
from ..tiny_wan.edits import inject
from ..tiny_wan.text import WIDTH, encode
from .figure import Row, draw

PROMPT = "A lighthouse on a cliff at dusk, waves below, gothic towers behind it"
INJECTED = "A sunny meadow full of red poppies, children flying kites, bright daylight"
NEGATIVE = "blurry, low quality"


def random_pipeline(blocks: int = 40, seed: int = 0) -> Any:
    """A real WanPipeline whose transformer has Wan's structure, 40 blocks and random weights of width 128."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    generator = torch.Generator().manual_seed(seed)
    transformer = WanTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=16,
        out_channels=16,
        text_dim=WIDTH,
        ffn_dim=256,
        num_layers=blocks,
        rope_max_seq_len=64,
    )
    for name, parameter in transformer.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 400
        with torch.no_grad():
            parameter.copy_(1 + 0.1 * noise if "norm" in name else noise * fan_in**-0.5)
    vae = AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    return WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=transformer.eval(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )


def load_pipeline(folder: str) -> Any:
    """diffusers Wan weights, on the GPU where there is one, offloaded as they need."""
    from diffusers import WanPipeline

    on_gpu = torch.cuda.is_available()
    pipe = WanPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16 if on_gpu else torch.float32)
    if on_gpu:
        pipe.enable_model_cpu_offload()
    return pipe


def cases(strength: float) -> list[tuple[str, BlockStrengths]]:
    """Every preset at `strength`, then every pattern with that base."""
    presets: list[tuple[str, BlockStrengths]] = [(name, parse_selection(name) * strength) for name in PRESETS]
    return presets + [(name, Pattern(name, strength)) for name in PATTERNS]


def relative_l2(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def run(arguments: argparse.Namespace) -> None:
    """Sample every preset and pattern, print the table, draw the picture; with --model also write videos."""
    if arguments.model:
        pipe = load_pipeline(arguments.model)
        prompt, negative = pipe.encode_prompt(arguments.prompt, arguments.negative, max_sequence_length=512)
        injected, _ = pipe.encode_prompt(arguments.inject, do_classifier_free_guidance=False, max_sequence_length=512)
        print(f"Weights: {arguments.model}")
    else:
        pipe = random_pipeline()
        prompt, negative, injected = map(encode, (arguments.prompt, arguments.negative, arguments.inject))
        print(
            "Weights are random: the figures show that injection acts where it should, not what a trained model does."
        )
    pipe.set_progress_bar_config(disable=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    width, height, frames = arguments.size

    def sample(embeds: torch.Tensor, name: str) -> torch.Tensor:
        latents: torch.Tensor = pipe(
            prompt_embeds=embeds,
            negative_prompt_embeds=negative,
            width=width,
            height=height,
            num_frames=frames,
            num_inference_steps=arguments.steps,
            guidance_scale=arguments.guidance,
            generator=torch.Generator().manual_seed(arguments.seed),
            output_type="latent",
        ).frames
        if arguments.model:
            write_video(pipe, latents, arguments.output / f"{name}.mp4")
        return latents.float().cpu()

    blocks = len(pipe.transformer.blocks)
    chosen = [(n, s) for n, s in cases(arguments.strength) if not arguments.only or n in arguments.only]
    rows: list[Row] = []
    with tqdm(total=len(chosen) + 2, desc="Sampling", unit="video") as bar:
        plain, other = sample(prompt, "plain"), None
        bar.update()
        other = sample(injected, "second_prompt")
        bar.update()
        for name, chosen_blocks in chosen:
            with inject(pipe, injected, chosen_blocks):
                result = sample(prompt, name)
            rows.append((name, chosen_blocks.resolve(blocks), relative_l2(result, plain), relative_l2(result, other)))
            bar.update()

    print(f"\n{'blocks':<18}{'active':>7}{'mean strength':>15}{'from plain':>12}{'from 2nd prompt':>17}")
    for name, strengths, from_plain, from_other in rows:
        active = sum(s > 0 for s in strengths)
        mean = sum(strengths) / blocks
        print(f"{name:<18}{active:>4}/{blocks}{mean:>15.3f}{from_plain:>12.4f}{from_other:>17.4f}")
    yardstick = relative_l2(other, plain)
    print(f"{'second prompt':<18}{'':>7}{'':>15}{yardstick:>12.4f}{0:>17.4f}")
    print("\nDistances are relative L2 norms of the final latents.")
    picture = arguments.output / "presets_and_patterns.png"
    draw(rows, yardstick, picture, random_weights=not arguments.model)
    print(f"Picture: {picture}")


def write_video(pipe: Any, latents: torch.Tensor, path: Path) -> None:
    """Decode latents with the pipeline's VAE, as the pipeline does, and write an MP4."""
    from diffusers.utils import export_to_video

    vae = pipe.vae
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(latents.device, vae.dtype)
    std = torch.tensor(vae.config.latents_std).view(shape).to(latents.device, vae.dtype)
    with torch.no_grad():
        video = vae.decode(latents.to(vae.dtype) * std + mean, return_dict=False)[0]
    export_to_video(pipe.video_processor.postprocess_video(video, output_type="np")[0], str(path), fps=16)

"""How far does a second prompt move the result, preset by preset and curve by curve?

Samples one video plain, then with the second prompt injected into the blocks of every preset at full strength and along
every strength pattern, and prints the relative L2 distance of each result from the plain one. The distance to the
result of the second prompt alone is the yardstick.

    python demo/run.py                      a small random model, seconds on a CPU
    python demo/run.py --model DIR          diffusers Wan weights in DIR; also writes videos
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import re
from pathlib import Path
from typing import Any

import torch
from figure import draw
from tqdm import tqdm
from wanvideo_activation_editor.patching import PATTERNS, PRESETS, BlockStrengths, Pattern, parse_selection
from wanvideo_activation_editor.patching.hosts.diffusers import inject

PROMPT = "A lighthouse on a cliff at dusk, waves below, gothic towers behind it"
INJECTED = "A sunny meadow full of red poppies, children flying kites, bright daylight"
NEGATIVE = "blurry, low quality"
TEXT_WIDTH = 4096


def word_embeddings(text: str) -> torch.Tensor:
    """Stand-in for a text encoder: one fixed random vector per word and position. -> [1, 512, 4096], zero padded."""
    out = torch.zeros(1, 512, TEXT_WIDTH)
    for i, word in enumerate(re.findall(r"\w+|[^\w\s]", text.lower())):
        for part, weight in ((word, 0.2), (f"<{i}>", 0.05)):
            seed = int.from_bytes(hashlib.sha256(part.encode()).digest()[:7], "little")
            out[0, i] += weight * torch.randn(TEXT_WIDTH, generator=torch.Generator().manual_seed(seed))
    return out


def random_pipeline(blocks: int = 40, seed: int = 0) -> Any:
    """A real WanPipeline whose transformer has Wan's structure, 40 blocks and random weights of width 128."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    generator = torch.Generator().manual_seed(seed)
    transformer = WanTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=16,
        out_channels=16,
        text_dim=TEXT_WIDTH,
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


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a diffusers Wan pipeline")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--inject", default=INJECTED, help="the second prompt")
    parser.add_argument("--negative", default=NEGATIVE)
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these presets and patterns only")
    parser.add_argument("--steps", type=int, help="default 8, with --model 30")
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--size", type=int, nargs=3, metavar=("WIDTH", "HEIGHT", "FRAMES"))
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--output", type=Path, default=Path("demo-output"))
    arguments = parser.parse_args()
    known = [name for name, _ in cases(1.0)]
    if unknown := set(arguments.only or ()) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}. Choose from: {', '.join(known)}")
    arguments.steps = arguments.steps or (30 if arguments.model else 8)
    arguments.size = arguments.size or ([832, 480, 81] if arguments.model else [128, 128, 9])
    return arguments


def main() -> None:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    if arguments.model:
        pipe = load_pipeline(arguments.model)
        prompt, negative = pipe.encode_prompt(arguments.prompt, arguments.negative, max_sequence_length=512)
        injected, _ = pipe.encode_prompt(arguments.inject, do_classifier_free_guidance=False, max_sequence_length=512)
        print(f"Weights: {arguments.model}")
    else:
        pipe = random_pipeline()
        prompt, negative, injected = map(word_embeddings, (arguments.prompt, arguments.negative, arguments.inject))
        print(
            "Weights are random: the figures show that injection acts where it should, not what a trained model does."
        )
    pipe.set_progress_bar_config(disable=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    width, height, frames = arguments.size

    def sample(embeds: torch.Tensor, name: str) -> torch.Tensor:
        latents = pipe(
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
    rows = []
    with tqdm(total=len(chosen) + 2, desc="Sampling", unit="video") as bar:
        plain, other = sample(prompt, "plain"), None
        bar.update()
        other = sample(injected, "second_prompt")
        bar.update()
        for name, strengths in chosen:
            with inject(pipe, injected, strengths):
                result = sample(prompt, name)
            rows.append((name, strengths.resolve(blocks), relative_l2(result, plain), relative_l2(result, other)))
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


if __name__ == "__main__":
    main()

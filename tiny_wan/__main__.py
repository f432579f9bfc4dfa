"""Give the tiny model to ComfyUI, or measure how well it obeys its captions.

python -m wanvideo_activation_editor.tiny_wan --comfyui DIR
python -m wanvideo_activation_editor.tiny_wan --measure 200
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from .comfyui import write_files
from .data import draw
from .wan_pipeline import TRANSFORMER


def main() -> int:
    from .measure import Sampler, accuracy_of, block_table

    parser = argparse.ArgumentParser(
        prog="python -m wanvideo_activation_editor.tiny_wan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--comfyui", type=Path, metavar="DIR", help="write model, VAE decoder and text embeddings into this ComfyUI"
    )
    parser.add_argument("--captions", nargs="+", default=[], metavar="TEXT", help="with --comfyui: more texts")
    parser.add_argument("--measure", type=int, metavar="CLIPS", help="accuracy on trained and on held-out pairs")
    parser.add_argument("--blocks", action="store_true", help="what each block carries, over several pairs")
    parser.add_argument("--weights", type=Path, default=TRANSFORMER, help="another transformer.safetensors")
    arguments = parser.parse_args()
    write = sys.stdout.write
    if not (arguments.comfyui or arguments.measure or arguments.blocks):
        parser.error("give --comfyui DIR, --measure CLIPS or --blocks")
    if arguments.captions and not arguments.comfyui:
        parser.error("--captions goes with --comfyui")
    if arguments.comfyui:
        try:
            paths = write_files(arguments.comfyui, arguments.captions, arguments.weights)
        except ValueError as error:
            parser.error(str(error))
        write(f"{paths['model']}: load it with Load Diffusion Model.\n")
        write(f"{paths['vae']}: load it with Load VAE.\n")
        write(f"{paths['texts']}: store its prompts with WanVideo Import Embeddings.\n")
    if arguments.measure:
        sampler = Sampler(arguments.weights)
        for name, held_out in (("trained pairs", False), ("held-out pairs", True)):
            attributes = draw(arguments.measure, torch.Generator().manual_seed(77 + held_out), held_out)
            found = accuracy_of(sampler, attributes)
            write(f"{name}, {arguments.measure} clips: " + ", ".join(f"{k} {v:.3f}" for k, v in found.items()) + "\n")
    if arguments.blocks:
        write(block_table(Sampler(arguments.weights)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

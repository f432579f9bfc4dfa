"""Give the tiny model to ComfyUI, or measure how well it obeys its captions.

python -m wanvideo_activation_editor.tiny_wan --comfyui DIR
python -m wanvideo_activation_editor.tiny_wan --measure 200
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

from .data import draw
from .model import native_state
from .wan_pipeline import TRANSFORMER

FILE = "tiny_wan_shapes.safetensors"


def write_native(comfyui: Path, weights: Path = TRANSFORMER) -> Path:
    """Write the checkpoint under Wan's own parameter names into ComfyUI's models/diffusion_models.

    Raises:
        ValueError: the folder is no ComfyUI.
    """
    from safetensors.torch import load_file, save_file

    models = comfyui / "models"
    if not models.is_dir():
        raise ValueError(f"{comfyui} has no folder 'models': give the folder that ComfyUI's main.py is in.")
    path = models / "diffusion_models" / FILE
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    save_file(native_state(load_file(weights)), part)
    os.replace(part, path)
    return path


def main() -> int:
    from .measure import Sampler, accuracy_of, block_table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, metavar="DIR", help="write the native checkpoint into this ComfyUI")
    parser.add_argument("--measure", type=int, metavar="CLIPS", help="accuracy on trained and on held-out pairs")
    parser.add_argument("--blocks", action="store_true", help="what each block carries, over several pairs")
    parser.add_argument("--weights", type=Path, default=TRANSFORMER, help="another transformer.safetensors")
    arguments = parser.parse_args()
    write = sys.stdout.write
    if not (arguments.comfyui or arguments.measure or arguments.blocks):
        parser.error("give --comfyui DIR, --measure CLIPS or --blocks")
    if arguments.comfyui:
        try:
            path = write_native(arguments.comfyui, arguments.weights)
        except ValueError as error:
            parser.error(str(error))
        write(f"{path}: load it with Load Diffusion Model.\n")
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

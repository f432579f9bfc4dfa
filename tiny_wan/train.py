"""Train the codec and the transformer from nothing, on clips made as training goes.

    python -m wanvideo_activation_editor.tiny_wan.train --output DIR [--seed 0] [--steps 4000] [--device cuda]

The same command continues from DIR's checkpoint. Every step draws its clips, captions and noise from (seed, step), so
an interrupted run goes on with the batches that an uninterrupted one has. DIR gets `codec.safetensors`,
`comfy_vae.safetensors`, `transformer.safetensors` and `log.jsonl`.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from .codec import Codec, load_codec, save, train_decoder
from .comfy_vae import FrameDecoder
from .data import caption_of, draw, render
from .model import build, initialise
from .muon import Muon
from .objective import PLACES, Captions, Trainee, noise_levels, sample
from .readouts import accuracy

CODEC_STEPS = 2500
VAE_STEPS = 1200
DECAY = 0.995  # of the moving average that is delivered
CONSTANT = 0.5  # part of training before the learning rate falls
REPORT = 100  # steps between two lines of the log
LOOK = 500  # steps between two looks at the accuracy


class Training:
    """One run: the trainee, its optimisers, the moving average of its weights, and the step it is at."""

    def __init__(self, codec: Codec, arguments: argparse.Namespace) -> None:
        self.codec, self.arguments = codec, arguments
        torch.manual_seed(arguments.seed)
        model = build()
        initialise(model, arguments.seed)
        self.trainee = Trainee(model, Captions()).to(arguments.device)
        self.model = model
        matrices: list[nn.Parameter] = []
        text: list[nn.Parameter] = []
        others = list(self.trainee.probes.parameters())
        for name, parameter in model.named_parameters():
            if name.startswith("blocks") and parameter.dim() == 2:
                matrices.append(parameter)
            else:
                (text if name.endswith("text_embedder.linear_1.weight") else others).append(parameter)
        # The text projection's rows are long and few words use them: it moves at 3 % of the rate.
        groups = [{"params": others, "base": 1.5e-3}, {"params": text, "base": 4.5e-5}]
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0),
            Muon(matrices, lr=0.0),
        ]
        for group in self.optimisers[1].param_groups:
            group["base"] = arguments.lr
        self.clipped = others + text
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.step = 0
        if arguments.compile:
            model.compile_repeated_blocks()

    def one_step(self) -> dict[str, Any]:
        """Forward, backward and update on one batch; returns its figures."""
        arguments, device = self.arguments, self.arguments.device
        generator = torch.Generator().manual_seed(arguments.seed * 1_000_003 + self.step + 1)
        progress = self.step / arguments.steps
        rate = min(1, (self.step + 1) / 100) * min(1, max(0.01, (1 - progress) / (1 - CONSTANT)))
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["base"] * rate
        self.trainee.attention.padding(min(1, self.step / 800))

        attributes = draw(arguments.batch, generator)
        clean = self.codec.encode(render(attributes, generator)).to(device)
        texts = self.trainee.captions.draw(attributes, generator)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        sigma = noise_levels(arguments.batch, generator).to(device)
        level = sigma.view(-1, 1, 1, 1, 1)
        velocity, place_loss, guesses = self.trainee((1 - level) * clean + level * noise, sigma, texts)
        errors = (velocity - (noise - clean)).pow(2).mean((1, 2, 3, 4))
        loss = errors.mean()
        (loss + 0.2 * place_loss).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.clipped, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self.trainee.zero_grad(set_to_none=True)
        self.step += 1
        self._update_average()
        places = place_score(guesses)
        noisy = errors.detach()[sigma > 0.8]
        return {"loss": float(loss.detach()), "loss_noisy": float(noisy.mean()), "place": places}

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(DECAY, (1 + self.step) / (20 + self.step))
        state = self.model.state_dict()
        torch._foreach_lerp_(list(self.average.values()), [state[name] for name in self.average], 1 - decay)

    def look(self, count: int = 48) -> dict[str, float]:
        """Accuracy of the averaged weights on trained combinations."""
        trained = {name: value.clone() for name, value in self.model.state_dict().items()}
        generator = torch.Generator().manual_seed(99)
        attributes = draw(count, generator)
        self.model.load_state_dict(self.average)
        self.trainee.eval()
        latents = sample(self.trainee, [caption_of(row) for row in attributes], generator)
        self.trainee.train()
        self.model.load_state_dict(trained)
        with torch.no_grad():
            return accuracy(self.codec.decode(latents.cpu()), attributes)

    def save(self, folder: Path) -> None:
        """Write the averaged weights, and everything needed to continue."""
        from safetensors.torch import save_file

        _replace(folder / "transformer.safetensors", lambda path: save_file(contiguous(self.average), path))
        state = {
            "trainee": self.trainee.state_dict(),
            "average": self.average,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "arguments": vars(self.arguments) | {"output": str(folder)},
        }
        _replace(folder / "checkpoint.pt", functools.partial(torch.save, state))

    def resume(self, folder: Path) -> None:
        """Continue from a checkpoint, where there is one.

        Raises:
            ValueError: it was made with another seed, batch or number of steps.
        """
        path = folder / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.arguments.device, weights_only=True)
        for name in ("seed", "batch", "steps", "lr"):
            if (before := state["arguments"][name]) != (now := getattr(self.arguments, name)):
                raise ValueError(
                    f"{path} was made with --{name} {before}, not {now}: give {before}, or another --output."
                )
        self.trainee.load_state_dict(state["trainee"])
        self.average = state["average"]
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step = state["step"]


def place_score(guesses: list[torch.Tensor]) -> float:
    """How many tokens a probe places rightly, mean over frame, row and column."""
    places = PLACES.unbind(1)
    right = [(guess == place.to(guess.device)).float().mean() for guess, place in zip(guesses, places, strict=True)]
    return float(sum(right) / len(right))


def contiguous(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace("_orig_mod.", ""): value.cpu().contiguous() for name, value in state.items()}


def _replace(path: Path, write: Any) -> None:
    """Write a file whole or not at all."""
    part = path.with_suffix(".part")
    write(part)
    os.replace(part, path)


def make_codec(folder: Path, steps: int) -> Codec:
    """The folder's codec; trained first, where it has none. It is the same for every `--seed`."""
    from tqdm import tqdm

    path = folder / "codec.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        codec = Codec()
        codec.fit_encoder()
        train_decoder(codec.decoder, codec, 0, steps, functools.partial(tqdm, desc="Decoder", unit="step"))
        save(codec, path)
    return load_codec(path)


def make_frame_decoder(folder: Path, codec: Codec, steps: int, compiled: bool) -> None:
    """The folder's decoder for ComfyUI, where it has none. It is the same for every `--seed`."""
    from tqdm import tqdm

    path = folder / "comfy_vae.safetensors"
    if path.exists():
        return
    torch.manual_seed(0)
    decoder = FrameDecoder()
    trained = cast(nn.Module, torch.compile(decoder)) if compiled else decoder
    train_decoder(trained, codec, 0, steps, functools.partial(tqdm, desc="Decoder for ComfyUI", unit="step"))
    save(decoder, path)


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for weights, checkpoint and log")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=0.02, help="of Muon; AdamW's follows the same course")
    parser.add_argument("--codec-steps", type=int, default=CODEC_STEPS)
    parser.add_argument("--vae-steps", type=int, default=VAE_STEPS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="where no C++ compiler is at hand")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    from tqdm import tqdm

    arguments = parse_arguments(given)
    arguments.output.mkdir(parents=True, exist_ok=True)
    codec = make_codec(arguments.output, arguments.codec_steps)
    make_frame_decoder(arguments.output, codec, arguments.vae_steps, arguments.compile)
    training = Training(codec, arguments)
    training.resume(arguments.output)
    figures: list[dict[str, float]] = []
    seen: dict[str, float] = {}
    with (
        (arguments.output / "log.jsonl").open("a", encoding="utf-8") as log,
        tqdm(total=arguments.steps, initial=training.step, desc="Transformer", unit="step", mininterval=2) as bar,
    ):
        while training.step < arguments.steps:
            figures.append(training.one_step())
            bar.update()
            last = training.step == arguments.steps
            if training.step % LOOK == 0 or last:
                seen = training.look()
                training.save(arguments.output)
            if training.step % REPORT == 0 or last:
                mean = {name: sum(row[name] for row in figures) / len(figures) for name in figures[0]}
                bar.set_postfix(loss=f"{mean['loss']:.3f}", accuracy=seen.get("all", 0.0))
                log.write(json.dumps({"step": training.step, **mean, "accuracy": seen}) + "\n")
                log.flush()
                figures.clear()


if __name__ == "__main__":
    main()

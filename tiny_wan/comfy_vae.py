"""A decoder of the latents that ComfyUI loads as a Wan VAE, so that Load VAE and VAE Decode show the clips.

It has the layers of Wan 2.1's VAE at width 12. Every layer sees one frame alone: each latent frame gives one picture of
64 x 64 pixels, and Wan's four frames per latent frame repeat it. Trained on the codec's latents; see weights/README.md.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .codec import CHANNELS

DIM = 12
WIDTHS = (4 * DIM, 4 * DIM, 4 * DIM, 2 * DIM, DIM)  # of the middle, then of the four stages
BLOCKS = 3  # residual blocks in a stage of Wan's decoder; its encoder has one fewer
# Residual blocks that are trained; the others pass on what they get.
TRAINED = ("middle.0", "upsamples.0", "upsamples.4", "upsamples.8", "upsamples.12")
# ComfyUI takes latents to the scale of Wan's VAE before it decodes. These are the mean and standard deviation that Wan
# publishes with that VAE; the first layer takes them back.
MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)


class _Norm(nn.Module):
    """Wan's RMS norm over channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = len(self.gamma) ** 0.5 * self.gamma.view(1, -1, 1, 1)
        out: torch.Tensor = F.normalize(x, dim=1) * scale
        return out


def _convolution(before: int, after: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, padding=size // 2)


class _Residual(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        last = _convolution(after, after)
        nn.init.zeros_(last.weight)
        self.residual = nn.Sequential(
            _Norm(before),
            nn.SiLU(),
            _convolution(before, after),
            _Norm(after),
            nn.SiLU(),
            nn.Identity(),  # dropout in Wan's numbering
            last,
        )
        self.shortcut = _convolution(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.shortcut(x) + self.residual(x)
        return out


class _Upscale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.Upsample(scale_factor=2.0), _convolution(width, width // 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.resample(x)
        return out


def _stages() -> list[tuple[str, int, int]]:
    """Layers of the decoder's stages in order: name, width before and after. Upscalers halve the width."""
    layers, index = [], 0
    for stage, after in enumerate(WIDTHS[1:]):
        before = WIDTHS[stage] // 2 if stage else WIDTHS[0]
        for _ in range(BLOCKS):
            layers.append((f"upsamples.{index}", before, after))
            before, index = after, index + 1
        if stage < 3:
            layers.append((f"upsamples.{index}", after, after // 2))
            index += 1
    return layers


UPSCALERS = {"upsamples.3": True, "upsamples.7": True, "upsamples.11": False}  # whether time is upscaled too


class FrameDecoder(nn.Module):
    """The trained part, in two dimensions, under the names of Wan's VAE decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _convolution(CHANNELS, WIDTHS[0])
        self.middle = nn.ModuleDict({"0": _Residual(WIDTHS[0], WIDTHS[0])})
        self.upsamples = nn.ModuleDict()
        for name, before, after in _stages():
            if name in TRAINED:
                self.upsamples[name.split(".")[1]] = _Residual(before, after)
            elif name in UPSCALERS:
                self.upsamples[name.split(".")[1]] = _Upscale(before)
        self.head = nn.Sequential(_Norm(WIDTHS[-1]), nn.SiLU(), _convolution(WIDTHS[-1], 3))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """[count, 16, rows, columns] -> pictures [count, 3, 8 rows, 8 columns] in 0..1, not clamped."""
        x = self.conv1(latents)
        for block in (*self.middle.values(), *self.upsamples.values()):
            x = block(x)
        out: torch.Tensor = self.head(x)
        return out


def load(path: Path) -> FrameDecoder:
    """The decoder of a file, in fp32."""
    from safetensors.torch import load_file

    decoder = FrameDecoder()
    decoder.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return decoder.eval().requires_grad_(False)


def _last_frame(weight: torch.Tensor, frames: int) -> torch.Tensor:
    """A two-dimensional kernel as a causal one in three, that looks at the newest frame alone."""
    out = weight.new_zeros(*weight.shape[:2], frames, *weight.shape[2:])
    out[:, :, -1] = weight
    return out


def native_state(decoder: FrameDecoder) -> dict[str, torch.Tensor]:
    """All parameters of a Wan 2.1 VAE of this width, under the names that ComfyUI's loader reads.

    What is not trained passes its input on. The encoder is not a number (NaN) throughout: there is none, and what
    VAE Encode gives must not look like latents.
    """
    out: dict[str, torch.Tensor] = {}
    for name, value in decoder.state_dict().items():
        if name.startswith("head.2"):  # ComfyUI expects -1..1
            value = 2 * value - (1 if name.endswith("bias") else 0)
        if name.endswith("gamma"):
            value = value.view(-1, 1, 1, 1)
        elif value.dim() == 4 and ".resample." not in name:
            value = _last_frame(value, value.shape[-1])
        out[f"decoder.{name}"] = value
    for name, before, after in [("middle.0", *WIDTHS[:2]), ("middle.2", *WIDTHS[:2]), *_stages()]:
        if name not in TRAINED and name not in UPSCALERS:
            out.update(_residual(f"decoder.{name}", before, after, 0.0))
    for name, in_time in UPSCALERS.items():
        if in_time:  # both new frames are the old one
            width = out[f"decoder.{name}.resample.1.weight"].shape[1]
            twice = torch.eye(width).repeat(2, 1)[:, :, None, None]
            out[f"decoder.{name}.time_conv.weight"] = _last_frame(twice, 3)
            out[f"decoder.{name}.time_conv.bias"] = torch.zeros(2 * width)
    out.update(_attention("decoder.middle.1", WIDTHS[0], 0.0))
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    out["conv2.weight"], out["conv2.bias"] = torch.diag(1 / std)[:, :, None, None, None], -mean / std
    out.update(_encoder())
    return {name: value.half().contiguous() for name, value in out.items()}


def _filled(name: str, shape: tuple[int, ...], value: float) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.full(shape, value), f"{name}.bias": torch.full(shape[:1], value)}


def _residual(name: str, before: int, after: int, value: float) -> dict[str, torch.Tensor]:
    out = {
        f"{name}.residual.0.gamma": torch.full((before, 1, 1, 1), value),
        f"{name}.residual.3.gamma": torch.full((after, 1, 1, 1), value),
        **_filled(f"{name}.residual.2", (after, before, 3, 3, 3), value),
        **_filled(f"{name}.residual.6", (after, after, 3, 3, 3), value),
    }
    return out | (_filled(f"{name}.shortcut", (after, before, 1, 1, 1), value) if before != after else {})


def _attention(name: str, width: int, value: float) -> dict[str, torch.Tensor]:
    return {
        f"{name}.norm.gamma": torch.full((width, 1, 1), value),
        **_filled(f"{name}.to_qkv", (3 * width, width, 1, 1), value),
        **_filled(f"{name}.proj", (width, width, 1, 1), value),
    }


def _encoder() -> dict[str, torch.Tensor]:
    nan, widths, index = float("nan"), (DIM, *WIDTHS[:0:-1]), 0
    out = _filled("encoder.conv1", (DIM, 3, 3, 3, 3), nan)
    for stage, (before, after) in enumerate(itertools.pairwise(widths)):
        for width in (before, after):
            out.update(_residual(f"encoder.downsamples.{index}", width, after, nan))
            index += 1
        if stage < 3:
            out.update(_filled(f"encoder.downsamples.{index}.resample.1", (after, after, 3, 3), nan))
            if stage > 0:
                out.update(_filled(f"encoder.downsamples.{index}.time_conv", (after, after, 3, 1, 1), nan))
            index += 1
    for i in (0, 2):
        out.update(_residual(f"encoder.middle.{i}", widths[-1], widths[-1], nan))
    out.update(_attention("encoder.middle.1", widths[-1], nan))
    out["encoder.head.0.gamma"] = torch.full((widths[-1], 1, 1, 1), nan)
    out.update(_filled("encoder.head.2", (2 * CHANNELS, widths[-1], 3, 3, 3), nan))
    out.update(_filled("conv1", (2 * CHANNELS, 2 * CHANNELS, 1, 1, 1), nan))
    return out

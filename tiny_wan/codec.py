"""The latent code of the clips, in place of Wan's VAE: 16 channels for each 12 x 12 pixels of a key frame.

Encoding is linear: the first 16 principal components of patches. Decoding is a small convolutional network, trained to
give back the picture from latents with noise on them, so that outlines stay clean and patches leave no seams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn

from .data import FRAMES, SIZE, draw, render

CHANNELS = 16
GRID = 8  # latent rows and columns
PATCH = SIZE // GRID
PIXELS = 3 * PATCH * PATCH


def patches(video: torch.Tensor) -> torch.Tensor:
    """[count, frames, 3, SIZE, SIZE] -> [count, frames, GRID, GRID, PIXELS]."""
    count, frames = video.shape[:2]
    cut = video.reshape(count, frames, 3, GRID, PATCH, GRID, PATCH)
    return cut.permute(0, 1, 3, 5, 2, 4, 6).reshape(count, frames, GRID, GRID, PIXELS)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.second(nn.functional.silu(self.first(nn.functional.silu(x))))
        return out


def _upscale(width: int, to: int, factor: int) -> list[nn.Module]:
    return [nn.Conv2d(width, to * factor**2, 3, padding=1), nn.PixelShuffle(factor)]


class Codec(nn.Module):
    """The encoder's mean and matrix, and the decoder."""

    mean: torch.Tensor
    matrix: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(PIXELS))
        self.register_buffer("matrix", torch.zeros(PIXELS, CHANNELS))
        self.decoder = nn.Sequential(
            nn.Conv2d(CHANNELS, 64, 3, padding=1),
            _Residual(64),
            _Residual(64),
            *_upscale(64, 32, 3),
            _Residual(32),
            *_upscale(32, 16, 2),
            _Residual(16),
            *_upscale(16, 3, 2),
        )

    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """[count, frames, 3, SIZE, SIZE] in 0..1 -> latents [count, 16, frames, GRID, GRID]."""
        return ((patches(video) - self.mean) @ self.matrix).permute(0, 4, 1, 2, 3).contiguous()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """[count, 16, frames, GRID, GRID] -> video [count, frames, 3, SIZE, SIZE]; not clamped."""
        count = len(latents)
        pictures: torch.Tensor = self.decoder(latents.transpose(1, 2).flatten(0, 1))
        return pictures.view(count, -1, *pictures.shape[1:])

    @torch.no_grad()
    def fit_encoder(self, clips: int = 1500) -> None:
        """Principal components of patches, with the larger ones damped, so that latents have mean 0 and variance 1."""
        generator = torch.Generator().manual_seed(1)
        rows = patches(render(draw(clips, generator), generator)).reshape(-1, PIXELS)
        has_edge = rows.view(-1, 3, PATCH**2).std(-1).sum(-1) > 0.12
        rows = torch.cat([rows[~has_edge][::6], rows[has_edge]])
        self.mean.copy_(rows.mean(0))
        centred = (rows - self.mean).double()
        values, axes = torch.linalg.eigh(centred.T @ centred / len(rows))
        self.matrix.copy_((axes.flip(1) * values.clamp_min(1e-12).flip(0) ** -0.25)[:, :CHANNELS])
        latents = self.encode(render(draw(500, generator), generator))
        offset = latents.mean((0, 2, 3, 4))
        self.mean.add_(torch.linalg.pinv(self.matrix).T @ offset)
        self.matrix.div_((latents - offset.view(1, -1, 1, 1, 1)).pow(2).mean().sqrt())


def train_decoder(
    decoder: nn.Module, codec: Codec, seed: int, steps: int, progress: Callable[[Iterable[int]], Iterable[int]]
) -> None:
    """Train a decoder of the codec's latents on clips made as it goes.

    Latents get noise of a random size up to a third of their own, as a sampler's latents are never exact.

    Args:
        decoder: takes latents [count, 16, GRID, GRID] and gives pictures [count, 3, size, size] in 0..1, of any size.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0)
    for step in progress(range(steps)):
        optimiser.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 50) * min(1, 2 * (1 - step / steps))
        video = render(draw(12, generator), generator)
        frames = torch.randint(FRAMES, (12, 2), generator=generator)
        video = torch.stack([clip[chosen] for clip, chosen in zip(video, frames, strict=True)])
        latents = codec.encode(video)
        noise = torch.randn(latents.shape, generator=generator)
        latents = latents + 0.33 * torch.rand(len(video), 1, 1, 1, 1, generator=generator) * noise
        decoded = decoder(latents.transpose(1, 2).flatten(0, 1))
        difference = decoded - scaled(video.flatten(0, 1), decoded.shape[-1])
        loss = difference.abs().mean() + 2 * difference.square().mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()


def scaled(pictures: torch.Tensor, size: int) -> torch.Tensor:
    """Pictures [count, 3, rows, columns] at another size."""
    if pictures.shape[-1] == size:
        return pictures
    return nn.functional.interpolate(pictures, (size, size), mode="bilinear", antialias=True)


def save(module: nn.Module, path: Path) -> None:
    """Write a module's parameters in fp16."""
    from safetensors.torch import save_file

    save_file({name: value.half().contiguous() for name, value in module.state_dict().items()}, path)


def load_codec(path: Path) -> Codec:
    """The codec of a file, in fp32."""
    from safetensors.torch import load_file

    codec = Codec()
    codec.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return codec.eval()

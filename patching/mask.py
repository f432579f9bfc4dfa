"""Which part of the picture and which frames an edit touches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import adaptive_avg_pool2d

from .grid import Grid


class MaskError(ValueError):
    """A mask that fits no video, or not this one; the message says what would."""


@dataclass(frozen=True, eq=False)
class Mask:
    """Weights of the pixels of a video, or of every frame of it.

    Args:
        values: [frames, height, width] or [height, width], 0 to 1, of any height and width.

    Raises:
        MaskError: another shape, or a value outside 0 to 1.
    """

    values: torch.Tensor

    def __post_init__(self) -> None:
        v = self.values
        if not torch.is_tensor(v) or v.dim() not in (2, 3) or not v.numel():
            got = f"a tensor {list(v.shape)}" if torch.is_tensor(v) else type(v).__name__
            raise MaskError(f"mask: expected [frames, height, width] or [height, width], got {got}.")
        v = v.detach().to("cpu", torch.float32)
        if not bool(((v >= -1e-4) & (v <= 1 + 1e-4)).all()):  # a blur leaves 1.0000001
            raise MaskError("mask: has values outside 0 to 1.")
        v = v.clamp(0, 1)
        object.__setattr__(self, "values", (v if v.dim() == 3 else v[None]).contiguous())

    def weights(self, grid: Grid) -> torch.Tensor:
        """Weight of each token of a video, in the order of the model: [frames * height * width], float32.

        Pixels are averaged over a token's area. Frames follow Wan's VAE: latent frame 0 is frame 0, latent frame k the
        mean of frames 4k-3 to 4k.

        Raises:
            MaskError: more than one frame, and not as many as the video has.
        """
        frames, height, width = grid
        pooled = adaptive_avg_pool2d(self.values[None], (height, width))[0]
        if len(pooled) == 1:
            out = pooled.expand(frames, height, width)
        elif len(pooled) == 4 * (frames - 1) + 1:
            rest = pooled[1:].reshape(frames - 1, 4, height, width).mean(dim=1)
            out = torch.cat([pooled[:1], rest])
        else:
            raise MaskError(
                f"mask: has {len(pooled)} frames, but the model samples {4 * (frames - 1) + 1} ({frames} latent "
                "frames) at a time. Give as many, or one for all."
            )
        return (out.double() * 1e6).round().div(1e6).float().reshape(-1)  # averages of 0 and 1 are exactly those

    def describe(self) -> dict[str, object]:
        return {"mask": list(self.values.shape), "mean": float(self.values.mean())}


@dataclass(frozen=True)
class Box:
    """A rectangle, as fractions of the picture, in some frames.

    Args:
        left, top, right, bottom: its edges, 0 to 1 from the upper left corner.
        first_frame, last_frame: frames of the video, both included; None for up to its end.

    Raises:
        MaskError: it has no area or no frame.
    """

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0
    first_frame: int = 0
    last_frame: int | None = None

    def __post_init__(self) -> None:
        if not (0.0 <= self.left < self.right <= 1.0 and 0.0 <= self.top < self.bottom <= 1.0):
            raise MaskError(
                f"mask: a box from {self.left:g}, {self.top:g} to {self.right:g}, {self.bottom:g} has no area inside "
                "of the picture, which is 0 to 1 in both directions."
            )
        if self.first_frame < 0 or (self.last_frame is not None and self.last_frame < self.first_frame):
            raise MaskError(f"mask: frames {self.first_frame} to {self.last_frame} are none.")

    def weights(self, grid: Grid) -> torch.Tensor:
        """As `Mask.weights`: the share of each token's area and frames that is inside.

        Raises:
            MaskError: it begins after the last frame.
        """
        frames, height, width = grid
        times = torch.arange(4 * (frames - 1) + 1)
        inside = (times >= self.first_frame) & (times <= (times[-1] if self.last_frame is None else self.last_frame))
        if self.first_frame > times[-1]:
            raise MaskError(f"mask: the box begins at frame {self.first_frame}, but the last one is {int(times[-1])}.")
        of_frames = torch.cat([inside[:1].double(), inside[1:].double().reshape(-1, 4).mean(dim=1)])
        y, x = _covered(self.top, self.bottom, height), _covered(self.left, self.right, width)
        out = of_frames[:, None, None] * y[:, None] * x
        return (out * 1e6).round().div(1e6).float().reshape(-1)

    def describe(self) -> dict[str, object]:
        frames = [self.first_frame, self.last_frame]
        return {"box": [self.left, self.top, self.right, self.bottom], "frames": frames}


def _covered(start: float, end: float, count: int) -> torch.Tensor:
    """Share of each of `count` equal cells of 0..1 that lies between start and end."""
    edges = torch.arange(count + 1, dtype=torch.float64) / count
    overlap = edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)
    return overlap.clamp(min=0) * count


def shares(weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """How much of each layer to lay over those before, so that every layer has its weight in the end.

    Where weights sum to more than 1 they are divided by their sum; what they leave of 1 is the ground's. Where weights
    of one token do not meet they are what they were, exactly.

    Args:
        weights: of each layer, from the lowest, at each token: [tokens], 0 to 1.
    """
    total = torch.stack(list(weights)).sum(dim=0).clamp(min=1.0)
    above, out = torch.zeros_like(total), []
    for layer in reversed(weights):
        own = layer / total
        out.append(torch.where(own > 0, (own / (1 - above).clamp(min=1e-9)).clamp(max=1.0), 0.0))
        above = above + own
    return out[::-1]


def as_mask(value: Mask | Box | torch.Tensor | None) -> Mask | Box | None:
    """Read what `inject` takes as `mask`."""
    return value if value is None or isinstance(value, Mask | Box) else Mask(value)

"""Which part of the picture and which frames an edit touches."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

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
        rows, columns = _areas(height, self.values.shape[1]), _areas(width, self.values.shape[2])
        pooled = torch.stack([rows @ frame.double() @ columns.T for frame in self.values])
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
        return (out * 1e6).round().div(1e6).float().reshape(-1)  # averages of 0 and 1 are exactly those

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


def _areas(cells: int, pixels: int) -> torch.Tensor:
    """Share of each of `cells` equal cells that each of `pixels` equal pixels covers: [cells, pixels]."""
    ends = torch.arange(pixels + 1, dtype=torch.float64) / pixels
    return torch.stack([_covered(float(a), float(b), cells) for a, b in pairwise(ends)], dim=1)


def _covered(start: float, end: float, count: int) -> torch.Tensor:
    """Share of each of `count` equal cells of 0..1 that lies between start and end."""
    edges = torch.arange(count + 1, dtype=torch.float64) / count
    overlap = edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)
    return overlap.clamp(min=0) * count


def as_mask(value: Mask | Box | torch.Tensor | None) -> Mask | Box | None:
    """Read what `inject` takes as `mask`."""
    return value if value is None or isinstance(value, Mask | Box) else Mask(value)

"""Colour, shape, motion and background of a clip, measured from its pixels alone.

The border gives the background; what differs from it by more than half of the strongest difference is the shape; its
centroid and area over the frames give the motion, and templates of the same area the shape. Nothing is trained, and
nothing knows the caption.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .data import BACKGROUNDS, COLOURS, GROWTH, NAMES, SHADE, SHAPES, SIZE, TRAVEL, coverage

FAINT = 0.08  # colour difference below which a clip shows no shape


@dataclass(frozen=True)
class Reading:
    """One attribute of a clip.

    Attributes:
        name: the nearest name of the grammar.
        distances: distance from every name. Colour and background: Euclidean in RGB of 0..1. Shape: 1 - overlap
            (intersection over union) with its template. Motion: Euclidean in (dx, dy, change of radius), each in
            units of what the training clips do.
        confidence: 1 - nearest / second nearest distance, 0 (undecided, or no shape to be seen) to 1.
        value: what was measured: RGB of 0..1 for colour and background, the three coordinates for motion, the
            overlap with each shape's template for shape.
    """

    name: str
    distances: dict[str, float]
    confidence: float
    value: tuple[float, ...]


@dataclass(frozen=True)
class Measurement:
    """Readings of several clips as tensors, one row a clip: `values` and `distances` per attribute, `contrast`."""

    values: dict[str, torch.Tensor]
    distances: dict[str, torch.Tensor]
    contrast: torch.Tensor

    def names(self) -> torch.Tensor:
        """Indices of the nearest names, [count, 4], in the order of NAMES."""
        return torch.stack([self.distances[kind].argmin(1) for kind in NAMES], 1)


def measure(video: torch.Tensor) -> Measurement:
    """Measure clips [count, frames, 3, 96, 96] with values of 0..1."""
    video = video.float().clamp(0, 1)
    ground = _border_colour(video)
    difference = (video - ground[:, None, :, None, None] * SHADE).norm(dim=2)
    top = difference.flatten(1).quantile(0.99, dim=1).clamp_min(1e-6)
    relative = (difference / top.view(-1, 1, 1, 1)).clamp(0, 1)
    mask = (relative > 0.5).float()
    area = mask.sum((2, 3)).clamp_min(1)
    x, y = _centroid(mask)

    core = (relative > 0.8).float()[:, :, None]
    colour = (video * core).sum((1, 3, 4)) / core.sum((1, 3, 4)).clamp_min(1)
    radius = (area / math.pi).sqrt()
    ends = [(x[:, -1] - x[:, 0]) / TRAVEL, (y[:, -1] - y[:, 0]) / TRAVEL, (radius[:, -1] - radius[:, 0]) / GROWTH]
    motion = torch.stack(ends, 1)
    overlap = torch.stack([_overlap(shape, relative, x, y, area) for shape in SHAPES], 1)
    values = {"colour": colour, "shape": overlap, "motion": motion, "background": ground}
    steps = torch.tensor([[-1.0, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1]])
    distances = {
        "colour": torch.cdist(colour, torch.tensor(list(COLOURS.values()))),
        "shape": 1 - overlap,
        "motion": torch.cdist(motion, steps),
        "background": torch.cdist(ground, torch.tensor(list(BACKGROUNDS.values()))),
    }
    return Measurement(values, distances, top)


def read(frames: torch.Tensor) -> dict[str, Reading]:
    """Read one clip: uint8 [frames, 96, 96, 3] -> {"colour", "shape", "motion", "background"}.

    Raises:
        ValueError: frames of another shape or type.
    """
    if frames.dtype != torch.uint8 or frames.dim() != 4 or tuple(frames.shape[1:]) != (SIZE, SIZE, 3):
        raise ValueError(
            f"frames: expected uint8 [frames, {SIZE}, {SIZE}, 3], as decode() gives one clip, "
            f"got {frames.dtype} {list(frames.shape)}."
        )
    found = measure(frames.permute(0, 3, 1, 2)[None] / 255)
    seen = float(found.contrast[0]) > FAINT
    out = {}
    for kind, names in NAMES.items():
        row = found.distances[kind][0]
        nearest, second = row.sort().values[:2].tolist()
        confident = 1 - nearest / max(second, 1e-6) if seen or kind == "background" else 0.0
        out[kind] = Reading(
            names[int(row.argmin())],
            dict(zip(names, row.tolist(), strict=True)),
            confident,
            tuple(found.values[kind][0].tolist()),
        )
    return out


def moved(clip: Mapping[str, Reading], first: Mapping[str, Reading], second: Mapping[str, Reading]) -> dict[str, float]:
    """How far each attribute has gone from what `first` shows (0) to what `second` shows (1).

    The measured value is projected onto the line between the two; of the shape it is only said which of the two names
    is nearer (0 or 1). NaN for attributes that `first` and `second` share.
    """
    out = {}
    for kind in NAMES:
        start, end, here = (torch.tensor(reading[kind].value) for reading in (first, second, clip))
        apart = first[kind].name != second[kind].name
        if not apart:
            out[kind] = math.nan
        elif kind == "shape":
            distances = clip[kind].distances
            out[kind] = float(distances[second[kind].name] < distances[first[kind].name])
        else:
            out[kind] = float((here - start) @ (end - start) / (end - start).square().sum())
    return out


def accuracy(video: torch.Tensor, attributes: torch.Tensor) -> dict[str, float]:
    """Part of the clips that show what `attributes` [count, 4] say, per attribute, and in all four at once."""
    right = measure(video).names() == attributes
    out = {kind: float(right[:, column].float().mean()) for column, kind in enumerate(NAMES)}
    return {**out, "all": float(right.all(1).float().mean())}


def _border_colour(video: torch.Tensor) -> torch.Tensor:
    """Median colour of a border of two pixels over all frames, [count, 3]."""
    edges = [video[..., :2, :], video[..., -2:, :], video[..., :2], video[..., -2:]]
    border = torch.cat([edge.flatten(3) for edge in edges], 3)
    return border.transpose(1, 2).flatten(2).median(-1).values


def _centroid(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x and y in pixels, each [count, frames]."""
    pixels = torch.arange(SIZE) + 0.5
    total = mask.sum((2, 3)).clamp_min(1)
    return (mask * pixels).sum((2, 3)) / total, (mask * pixels.view(-1, 1)).sum((2, 3)) / total


@functools.cache
def _template(shape: str) -> tuple[float, float]:
    """Area in squared radii and offset of the centroid from the centre in radii (down), of a large specimen."""
    centre, radius = torch.tensor(SIZE / 2), torch.tensor(24.0)
    mask = coverage(shape, centre, centre, radius)[None, None]
    _, y = _centroid(mask)
    return float(mask.sum() / radius**2), float((y - centre) / radius)


def _overlap(shape: str, relative: torch.Tensor, x: torch.Tensor, y: torch.Tensor, area: torch.Tensor) -> torch.Tensor:
    """Intersection over union with the template of the same area and centroid, over all frames. -> [count]."""
    area_factor, offset = _template(shape)
    radius = (area / area_factor).sqrt()
    template = coverage(shape, x, y - offset * radius, radius)
    union = torch.maximum(template, relative).sum((1, 2, 3)).clamp_min(1)
    return torch.minimum(template, relative).sum((1, 2, 3)) / union

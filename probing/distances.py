"""Distances between two videos or their latents that need no trained network: any callable `(a, b) -> float` is one.

Tensors are [..., frames, height, width] as latents are, unless a function says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

Distance = Callable[[torch.Tensor, torch.Tensor], float]


def relative_l2(a: torch.Tensor, b: torch.Tensor) -> float:
    """|b - a| / |a|: 0 for equal tensors.

    Raises:
        ValueError: shapes differ, or `a` is 0 everywhere and `b` is not.
    """
    a, b = _pair(a, b)
    norm, distance = float(a.norm()), float((b - a).norm())
    if norm == 0.0 and distance > 0.0:
        raise ValueError("relative_l2: the first tensor is 0 everywhere, so no distance is relative to it.")
    return distance / norm if norm else 0.0


def frame_cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """1 - the cosine between a frame of `a` and the same frame of `b`, mean over frames: 0 to 2.

    Raises:
        ValueError: shapes differ, or have no frames.
    """
    a, b = _pair(a, b, dims=3)
    one, two = (x.movedim(-3, 0).flatten(1) for x in (a, b))
    same = (one == two).all(dim=1)
    cosine = functional.cosine_similarity(one, two, dim=1)
    return float(torch.where(same, torch.zeros_like(cosine), 1 - cosine).mean())


def ssim(a: torch.Tensor, b: torch.Tensor, peak: float | None = None) -> float:
    """1 - the structural similarity of frames, with a Gaussian window of 11 and sigma 1.5: 0 for equal tensors, to 2.

    Each channel of each frame is one picture. Source: Wang, Bovik, Sheikh, Simoncelli, Image Quality Assessment: From
    Error Visibility to Structural Similarity, 2004.

    Args:
        a, b: [..., height, width]; [frames, height, width, 3] in uint8 is read as such.
        peak: range of the values; 255 for uint8, else the range of `a`.

    Raises:
        ValueError: shapes differ, or pictures are smaller than 3 x 3.
    """
    if a.dtype == torch.uint8 and a.dim() == 4 and a.shape[-1] == 3:
        peak = 255.0 if peak is None else peak
        a, b = a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2)
    a, b = _pair(a, b, dims=2)
    height, width = a.shape[-2:]
    size = min(11, (min(height, width) - 1) // 2 * 2 + 1)
    if size < 3:
        raise ValueError(f"ssim: pictures of {height} x {width} are too small; it needs 3 x 3.")
    peak = peak or float(a.max() - a.min()) or 1.0
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    line = torch.exp(-(offsets**2) / (2 * 1.5**2)).to(a)
    window = (torch.outer(line, line) / line.sum() ** 2)[None, None]

    def mean(x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x.reshape(-1, 1, height, width), window)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    similar = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return 1 - float((similar / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())


def temporal_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Energy of b's changes from frame to frame over that of a's, as a logarithm: 0 where both move as much, above 0
    where `b` moves more.

    Raises:
        ValueError: shapes differ, there is one frame only, or one of them does not move.
    """
    a, b = _pair(a, b, dims=3)
    if a.shape[-3] < 2:
        raise ValueError("temporal_difference: one frame has no motion.")
    energy_a, energy_b = (float(x.diff(dim=-3).square().sum()) for x in (a, b))
    if energy_a == energy_b:
        return 0.0
    if not energy_a or not energy_b:
        raise ValueError("temporal_difference: one of the two videos does not move at all.")
    return float(torch.log(torch.tensor(energy_b / energy_a, dtype=torch.float64)))


def motion_energy(x: torch.Tensor) -> float:
    """Part of the energy of x [..., frames, height, width] in differences between frames: |x - mean over frames|^2
    over |x|^2.

    0 where all frames are equal, 1 where they cancel; n frames of noise have (n - 1) / n. It is the energy of the
    differences of all pairs of frames over n |x|^2. 0 for a tensor of zeros.
    """
    x = x.double()
    energy = float(x.square().sum())
    return float((x - x.mean(dim=-3, keepdim=True)).square().sum()) / energy if energy else 0.0


DISTANCES: dict[str, Distance] = {
    "relative_l2": relative_l2,
    "frame_cosine": frame_cosine,
    "ssim": ssim,
    "temporal_difference": temporal_difference,
}


def _pair(a: torch.Tensor, b: torch.Tensor, dims: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    if a.shape != b.shape:
        raise ValueError(f"A distance needs two tensors of one shape, not {list(a.shape)} and {list(b.shape)}.")
    if a.dim() < dims:
        raise ValueError(f"A tensor {list(a.shape)} has no [..., frames, height, width].")
    return a.detach().double().cpu(), b.detach().double().cpu()

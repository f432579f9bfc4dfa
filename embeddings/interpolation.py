"""Ways between two prompts: along the line, along the arc, along the line with soft ends.

Each function takes prompts [tokens, width] and a position t in 0..1, and returns the prompt at t in the dtype and on
the device of `start`. Positions 0 and 1 are exactly the ends (zero-padded to one length). Computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch

from .arithmetic import SHORTEST_TOKEN
from .precision import returned, working

Method = Literal["linear", "spherical", "cubic"]
METHODS: tuple[Method, ...] = get_args(Method)

SMALLEST_SINE = 1e-3
"""Below this sine two directions count as parallel: the arc and its chord differ by less than 1e-6 there."""


def linear(start: torch.Tensor, end: torch.Tensor, t: float) -> torch.Tensor:
    """(1 - t) * start + t * end."""
    a, b = working(start, end)
    return returned(torch.lerp(a, b, t), start, "Linear interpolation")


def cubic(start: torch.Tensor, end: torch.Tensor, t: float) -> torch.Tensor:
    """The line at 3 t^2 - 2 t^3: the cubic Hermite curve whose speed is zero at both ends (smoothstep)."""
    a, b = working(start, end)
    return returned(torch.lerp(a, b, t * t * (3.0 - 2.0 * t)), start, "Cubic interpolation")


def slerp(start: torch.Tensor, end: torch.Tensor, t: float) -> torch.Tensor:
    """Token by token: the direction moves along the great circle at constant speed, the norm along the line.

    Tokens that are parallel, opposite or zero have no unique arc; they are interpolated linearly.

    Source: Shoemake 1985, "Animating rotation with quaternion curves".
    """
    a, b = working(start, end)
    if t in (0.0, 1.0):
        return returned(b if t else a, start, "Spherical interpolation")
    norm_a, norm_b = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (a, b))
    tiny = torch.finfo(a.dtype).tiny
    unit_a, unit_b = a / norm_a.clamp_min(tiny), b / norm_b.clamp_min(tiny)
    # 2 atan2 keeps the precision that acos of a cosine loses near 0 and pi (Kahan).
    angle = 2 * torch.atan2(
        torch.linalg.vector_norm(unit_a - unit_b, dim=-1, keepdim=True),
        torch.linalg.vector_norm(unit_a + unit_b, dim=-1, keepdim=True),
    )
    sine = torch.sin(angle)
    direction = (torch.sin((1 - t) * angle) * unit_a + torch.sin(t * angle) * unit_b) / sine.clamp_min(tiny)
    curved = (sine > SMALLEST_SINE) & (norm_a > SHORTEST_TOKEN) & (norm_b > SHORTEST_TOKEN)
    out = torch.where(curved, direction * torch.lerp(norm_a, norm_b, t), torch.lerp(a, b, t))
    return returned(out, start, "Spherical interpolation")


FUNCTIONS: dict[str, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "linear": linear,
    "spherical": slerp,
    "cubic": cubic,
}


def positions(steps: int, include_endpoints: bool = True) -> list[float]:
    """`steps` evenly spaced positions: 0 and 1 among them, or all strictly between.

    Raises:
        ValueError: fewer than 2 steps with the ends, or fewer than 1 without.
    """
    if steps < (2 if include_endpoints else 1):
        raise ValueError(f"An interpolation needs at least 2 steps, not {steps}.")
    if include_endpoints:
        return [i / (steps - 1) for i in range(steps)]
    return [(i + 1) / (steps + 1) for i in range(steps)]


def interpolate(
    start: torch.Tensor,
    end: torch.Tensor,
    steps: int,
    method: Method = "linear",
    include_endpoints: bool = True,
) -> list[torch.Tensor]:
    """The prompts at evenly spaced positions from start to end, all of one length.

    Raises:
        ValueError: an unknown method or too few steps.
    """
    if method not in FUNCTIONS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}.")
    return [FUNCTIONS[method](start, end, t) for t in positions(steps, include_endpoints)]

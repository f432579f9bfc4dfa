"""Changes to an injected prompt in the model's own space, after its text projection.

A transform is a frozen object called as `transform(main, injection, real)` on one row of the text batch: two tensors
[text tokens, dim] of one dtype and device, and a bool tensor [text tokens, 1] that is True where the main or the
injected prompt has a token. It returns a tensor of that shape, equal to `injection` wherever `real` is False, changes
neither input, and does not wait for the device. The runtime calls it once per model call and touched row, before any
operation blends the result into the main context; rows and tokens that an edit leaves alone never reach it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch

from ..embeddings.difference import CHANGED_THRESHOLD

ForceMode = Literal["additive", "replace", "blend"]
FORCE_MODES: tuple[ForceMode, ...] = get_args(ForceMode)

TOLERANCE = 0.005
"""Largest distance of a forced difference from its target, as a share."""

_BISECTIONS = 24
_RANGE = 16.0  # natural logarithm: forced steps from 1e-7 to 1e7 times the prompts' own difference


class ContextTransform(Protocol):
    """See the module's description."""

    @property
    def name(self) -> str: ...

    def __call__(self, main: torch.Tensor, injection: torch.Tensor, real: torch.Tensor) -> torch.Tensor: ...

    def check(self, main: torch.Tensor, injection: torch.Tensor, result: torch.Tensor, real: torch.Tensor) -> None:
        """Raise ValueError when `result` is not what the transform promises. May wait for the device."""


def real_share(main: torch.Tensor, other: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Share of elements of real tokens that differ by more than 0.01, a scalar tensor 0..1; 0 without tokens."""
    changed = ((other.float() - main.float()).abs() > CHANGED_THRESHOLD) & real
    return changed.sum(dtype=torch.float32) / (real.sum(dtype=torch.float32) * main.shape[-1]).clamp_min(1)


def apply_transforms(
    transforms: Sequence[ContextTransform],
    main: torch.Tensor,
    injection: torch.Tensor,
    real: torch.Tensor,
    check: bool = False,
) -> torch.Tensor:
    """The injection after every transform, in order. See the module's description for the shapes.

    Args:
        check: also have each transform verify its result, which waits for the device.

    Raises:
        ValueError: with `check`, a transform did not give what it promises.
    """
    result = injection
    for transform in transforms:
        before, result = result, transform(main, result, real)
        if check:
            transform.check(main, before, result, real)
    return result


@dataclass(frozen=True)
class Boost:
    """main + factor * (injection - main); with `preserve_norm` each token is scaled back to the injection's norm.

    A factor of 1 changes nothing, bit for bit.
    """

    factor: float = 10.0
    preserve_norm: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise ValueError(f"boost_factor must be a number above 0, not {self.factor!r}.")

    @property
    def name(self) -> str:
        return f"boost {self.factor:g}" + (", norms kept" if self.preserve_norm else "")

    def __call__(self, main: torch.Tensor, injection: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        if self.factor == 1.0:
            return injection
        a, b = main.float(), injection.float()
        boosted = torch.lerp(a, b, self.factor)
        if self.preserve_norm:
            norm = torch.linalg.vector_norm(boosted, dim=-1, keepdim=True)
            wanted = torch.linalg.vector_norm(b, dim=-1, keepdim=True)
            boosted = boosted * torch.where(norm > 0, wanted / norm, norm)
        different = real & (injection != main).any(dim=-1, keepdim=True)
        return torch.where(different, boosted.to(injection.dtype), injection)

    def check(self, main: torch.Tensor, injection: torch.Tensor, result: torch.Tensor, real: torch.Tensor) -> None:
        if not torch.isfinite(result).all():
            raise ValueError(
                f"the boost (WanVideo Projection Booster) leaves the range of {result.dtype}. Set a boost_factor below "
                f"{self.factor:g}."
            )


@dataclass(frozen=True)
class ForceDifference:
    """The injection moved along its difference from main until a share of elements differs by more than 0.01.

    With u the unit direction of injection - main per token and d its length, the result is main + c u, where

    - additive: c = s, the same step for every token;
    - replace: c = d + s, the injection moved on (or back, never beyond main) by the same step for every token;
    - blend: c = s d, the lerp weight; above 1 it goes beyond the injection.

    s is solved by bisection on the device, with the rounding of the context's dtype in the measured share, which
    rises with s in each mode. Of the elements that cross the threshold in the last interval, the first ones do, as
    many as are wanted.

    Args:
        mode: additive, replace or blend.
        target: share of elements of real tokens, 0..1.
    """

    mode: ForceMode
    target: float

    def __post_init__(self) -> None:
        if self.mode not in FORCE_MODES:
            raise ValueError(f"injection_mode must be one of {', '.join(FORCE_MODES)}, not {self.mode!r}.")
        if not 0.0 < self.target < 1.0:
            raise ValueError(f"difference_target must be above 0% and below 100%, not {100 * self.target:g}%.")

    @property
    def name(self) -> str:
        return f"force {100 * self.target:g}% ({self.mode})"

    @torch.no_grad()
    def __call__(self, main: torch.Tensor, injection: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        a = main.float()
        direction = injection.float() - a
        length = torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
        direction = torch.where(real & (length > 0), direction / length.clamp_min(1e-30), torch.zeros_like(direction))
        # Mean length over real tokens that differ: the unit of s.
        moved = (real & (length > 0)).float()
        unit = (length * moved).sum() / moved.sum().clamp_min(1)

        wanted = (self.target * main.shape[-1] * real.sum()).round()
        work, below, above = torch.empty_like(a), torch.empty_like(main), torch.empty_like(main)

        def move(y: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
            """Write the candidate at y to `out`; where it differs from main."""
            out.copy_(torch.addcmul(a, direction, self._steps(y, length, unit), out=work))
            # Outside of real tokens the direction is zero, so nothing counts there.
            return work.copy_(out).sub_(a).abs_() > CHANGED_THRESHOLD

        low = torch.full((), -_RANGE, device=main.device)
        high = torch.full((), _RANGE, device=main.device)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            enough = torch.count_nonzero(move(middle, above)) >= wanted
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        # Many elements may cross the threshold within the last interval: only as many as wanted do.
        fewer, more = move(low, below), move(high, above)
        crossing = (more & ~fewer).flatten().cumsum(0).view_as(fewer)
        taken = fewer | (crossing <= wanted - torch.count_nonzero(fewer))
        return torch.where(real, torch.where(taken, above, below), injection)

    def _steps(self, y: torch.Tensor, length: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
        """Length of the step per token [tokens, 1] for a position y of the search; rises with y."""
        if self.mode == "additive":
            return (unit * y.exp()).expand_as(length)
        if self.mode == "replace":
            return (length + unit * y.sinh()).clamp_min(0)
        return length * y.exp()

    def check(self, main: torch.Tensor, injection: torch.Tensor, result: torch.Tensor, real: torch.Tensor) -> None:
        head = f"difference_target {100 * self.target:g}% cannot be reached with injection_mode {self.mode}: "
        if not torch.isfinite(result).all():
            raise ValueError(f"{head}the result leaves the range of {result.dtype}. Set a smaller difference_target.")
        reached = real_share(main, result, real).item()
        if abs(reached - self.target) <= TOLERANCE:
            return
        most = ((main != injection) & real).sum().item() / max(real.sum().item() * main.shape[-1], 1)
        if self.target > most:
            raise ValueError(
                f"{head}at most {100 * most:.1f}% of the values of the two prompts differ at all after projection. Set "
                "difference_target below that, or inject a prompt that differs more."
            )
        raise ValueError(
            f"{head}the nearest share is {100 * reached:.1f}%, by the resolution of {main.dtype} and "
            f"{main.shape[-1]} values per token. Choose that difference_target, or inject a prompt that differs more."
        )


TRANSFORMS: dict[str, type[Any]] = {cls.__name__: cls for cls in (Boost, ForceDifference)}
"""Transforms that a file may name."""

"""What an edit does with the tensor at its site and the value of its source.

An operation is an object with a `name`, called as `operation(x, value, strength)`. x is [rows, tokens, dim]: only the
rows of the edit's branch and the tokens that it selects, so whatever an operation does stays there. value is of the
same shape, or broadcasts to it. It returns a tensor of x's shape and dtype and does not wait for the device. `pure`
says that it never changes its arguments; without it they are copies. `takes` says which values have a meaning for it: a
`state`, a `difference`, or with None (and without the attribute) either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from .sources import Gives


class Operation(Protocol):
    """See the module's description."""

    @property
    def name(self) -> str: ...

    def __call__(self, x: torch.Tensor, value: torch.Tensor, strength: float) -> torch.Tensor: ...


@dataclass(frozen=True)
class Blend:
    """(1 - strength) x + strength value; at strength 1 the value itself, bit for bit."""

    takes: ClassVar[Gives] = "state"
    pure: ClassVar[bool] = True
    name: ClassVar[str] = "blend"

    def __call__(self, x: torch.Tensor, value: torch.Tensor, strength: float) -> torch.Tensor:
        return _as(value, x) if strength == 1.0 else torch.lerp(x, value.to(x.dtype), strength)


@dataclass(frozen=True)
class Replace:
    """The value in place of x; the strength says only where, by not being 0."""

    takes: ClassVar[Gives] = "state"
    pure: ClassVar[bool] = True
    name: ClassVar[str] = "replace"

    def __call__(self, x: torch.Tensor, value: torch.Tensor, strength: float) -> torch.Tensor:
        return _as(value, x)


def _as(value: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The value itself where it is like x already."""
    return value if value.shape == x.shape and value.dtype == x.dtype else value.to(x.dtype).expand_as(x)


@dataclass(frozen=True)
class Add:
    """x + strength * scale * value; with `preserve_norm` each token is scaled back to its norm before.

    A few channels of Wan's hidden states are much larger than all others, so an addition can change norms a lot.
    Source: Turner et al., Activation Addition: Steering Language Models Without Optimization, 2023.

    Args:
        preserve_norm: scale tokens back.
        scale: signed factor.

    Raises:
        ValueError: the scale is not a finite number.
    """

    preserve_norm: bool = False
    scale: float = 1.0

    takes: ClassVar[Gives] = "difference"
    pure: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ValueError(f"scale must be a finite number, not {self.scale!r}.")

    @property
    def name(self) -> str:
        scaled = "" if self.scale == 1.0 else f" times {self.scale:g}"
        return f"addition{scaled}" + (" (norms kept)" if self.preserve_norm else "")

    def __call__(self, x: torch.Tensor, value: torch.Tensor, strength: float) -> torch.Tensor:
        factor = strength * self.scale
        if torch.is_tensor(factor):  # that a gradient is taken of
            out = x + factor * value.to(x.dtype)
        else:
            out = torch.add(x, value.to(x.dtype), alpha=factor)
        if self.preserve_norm:
            before = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
            after = torch.linalg.vector_norm(out, dim=-1, keepdim=True, dtype=torch.float32)
            out.mul_(torch.where(after > 0, before / after, after))
        return out


@dataclass(frozen=True)
class Scale:
    """value + weight (x - value), with weight 1 + strength (factor - 1): x times the factor when the value is Zero.

    Args:
        factor: 1 changes nothing, 0 leaves the value.

    Raises:
        ValueError: the factor is not a finite number from 0 on.
    """

    factor: float = 1.0

    takes: ClassVar[Gives] = "state"
    pure: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor >= 0):
            raise ValueError(f"A factor is a number from 0 on, not {self.factor!r}.")

    @property
    def name(self) -> str:
        return f"scale by {self.factor:g}"

    def weight(self, strength: float) -> float:
        """What is left of x at a strength."""
        return 1.0 + strength * (self.factor - 1.0)

    def __call__(self, x: torch.Tensor, value: torch.Tensor, strength: float) -> torch.Tensor:
        return value + self.weight(strength) * (x - value)


OPERATIONS: dict[str, type[Operation]] = {cls.__name__: cls for cls in (Blend, Replace, Add, Scale)}
"""Operations that a file may name. Your own class goes in under its name, so that its edits can be saved."""

"""What an edit does with the main and the injected context.

An operation is a frozen object called as `operation(main, injection, strength)` on two tensors
[batch, tokens, dim] of one dtype and device. It returns a tensor of that shape, changes neither input,
and must return values equal to `main` wherever `main` and `injection` are equal: rows and tokens that
an edit leaves alone (the unconditional rows, CLIP image tokens) are the same in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


class Operation(Protocol):
    """See the module's description."""

    @property
    def name(self) -> str: ...

    def __call__(self, main: torch.Tensor, injection: torch.Tensor, strength: float) -> torch.Tensor: ...


@dataclass(frozen=True)
class Blend:
    """(1 - strength) * main + strength * injection; at strength 1 the injection itself, bit for bit."""

    name: str = "blend"

    def __call__(self, main: torch.Tensor, injection: torch.Tensor, strength: float) -> torch.Tensor:
        return injection if strength == 1.0 else torch.lerp(main, injection, strength)

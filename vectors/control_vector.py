"""Control vectors: the direction in which a concept lies, at one site of a model, by block and noise level.

A vector comes from pairs of prompts that differ in the concept alone (fitting.py) and acts through the operations of
patching/steering.py. At site `context` it lies in the space of the text embeddings, before the model, and has neither
blocks nor noise levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from ..patching.sites import SITES
from ..patching.views import ranges

CONTEXT = "context"


class ControlVectorError(ValueError):
    """A control vector, or what is asked of it, makes no sense; the message says what and why."""


@dataclass(frozen=True, eq=False)
class ControlVector:
    """A concept's direction. B blocks, L noise levels, k directions, D channels; all tensors are float32 on the CPU.

    Args:
        site: where it was measured; see `patching.sites.SITES`. `context` means the text embeddings.
        blocks: the blocks that the tensors' first dimension stands for, ascending; (0,) at `context`.
        levels: noise levels from 1 (only noise) to 0 of the second dimension, ascending; (1.0,) at `context`.
        directions: [B, L, k, D], orthonormal over k.
        scale: [B, L], mean norm of a token there: the unit of relative strengths.
        neutral: [B, L, k], mean projection of the negative prompts' tokens onto the directions.
        positive: [B, L, k], of the positive prompts'.
        separability: [B], probability that a positive prompt of a pair left out of the fit projects further than a
            negative one (area under the ROC curve; 0.5 is chance); NaN where none was left out.
        transport_scale, transport_shift: [B, L, D], a and b of a x + b, the map from negative to positive tokens;
            None when it was not fitted. a is above 0.
        block_count: of the model; 0 when it is not known, and at `context`.
        model_name: of the model, for people.
        identity: of the model's weights, `host:digest`; empty when it is not known.
        method: how the directions were fitted.
        origin: from what, for people.

    Raises:
        ControlVectorError: the values do not fit together.
    """

    site: str
    blocks: tuple[int, ...]
    levels: tuple[float, ...]
    directions: torch.Tensor
    scale: torch.Tensor
    neutral: torch.Tensor
    positive: torch.Tensor
    separability: torch.Tensor
    transport_scale: torch.Tensor | None = None
    transport_shift: torch.Tensor | None = None
    block_count: int = 0
    model_name: str = ""
    identity: str = ""
    method: str = "mean_difference"
    origin: str = ""

    def __post_init__(self) -> None:
        if self.site not in SITES:
            raise ControlVectorError(f"site must be one of {', '.join(SITES)}, not {self.site!r}.")
        _check_axis("blocks", self.blocks, 0, 10_000)
        _check_axis("levels", self.levels, 0.0, 1.0)
        d = self.directions
        if not torch.is_tensor(d) or d.dim() != 4 or 0 in d.shape:
            raise ControlVectorError(f"directions: expected a tensor [blocks, levels, k, channels], got {_found(d)}.")
        b, n, k, dim = d.shape
        if dim <= 2 * k:
            raise ControlVectorError(f"directions: {k} of them in {dim} channels are too many.")
        if (b, n) != (len(self.blocks), len(self.levels)):
            raise ControlVectorError(
                f"directions: {b} blocks and {n} levels, but {len(self.blocks)} and {len(self.levels)} are named."
            )
        shapes = {"directions": (b, n, k, dim), "scale": (b, n), "neutral": (b, n, k), "positive": (b, n, k)}
        shapes |= {"separability": (b,), "transport_scale": (b, n, dim), "transport_shift": (b, n, dim)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is None and name.startswith("transport"):
                continue
            if not torch.is_tensor(value) or tuple(value.shape) != shape or not value.is_floating_point():
                raise ControlVectorError(f"{name}: expected a float tensor {list(shape)}, got {_found(value)}.")
            value = value.detach().to("cpu", torch.float32, copy=False).contiguous()
            if not torch.isfinite(value).all() and name != "separability":
                raise ControlVectorError(f"{name} holds NaN or infinite values.")
            object.__setattr__(self, name, value)
        if (self.transport_scale is None) != (self.transport_shift is None):
            raise ControlVectorError("transport_scale and transport_shift go together.")
        if self.transport_scale is not None and (self.transport_scale <= 0).any():
            raise ControlVectorError("transport_scale is a ratio of spreads and has to be above 0.")
        if (self.scale < 0).any():
            raise ControlVectorError("scale is a norm and cannot be negative.")
        gram = self.directions @ self.directions.transpose(-1, -2)
        if not torch.allclose(gram, torch.eye(k).expand_as(gram), atol=1e-3):
            raise ControlVectorError("directions are not orthonormal.")
        if self.site == CONTEXT and (self.blocks, self.levels) != ((0,), (1.0,)):
            raise ControlVectorError("At site context a control vector has blocks (0,) and levels (1.0,).")
        if self.block_count and self.block_count <= self.blocks[-1]:
            raise ControlVectorError(f"block {self.blocks[-1]} of a model of {self.block_count} blocks.")

    @property
    def width(self) -> int:
        """Channels."""
        return self.directions.shape[-1]

    @property
    def count(self) -> int:
        """Directions at each block and level."""
        return self.directions.shape[2]

    @property
    def has_transport(self) -> bool:
        return self.transport_scale is not None

    def __neg__(self) -> ControlVector:
        """What fitting swapped pairs gives: the opposite direction, and the inverse of the transport."""
        a, b = self.transport_scale, self.transport_shift
        return replace(
            self,
            directions=-self.directions,
            neutral=-self.positive,
            positive=-self.neutral,
            transport_scale=None if a is None else 1 / a,
            transport_shift=None if a is None or b is None else -b / a,
            origin=f"minus ({self.origin})",
        )

    def __repr__(self) -> str:
        few = ", ".join(f"{level:.3g}" for level in self.levels)
        many = f"{len(self.levels)} from {self.levels[0]:.3g} to {self.levels[-1]:.3g}"
        return (
            f"<ControlVector of {self.model_name or 'a model'}: site {self.site}, blocks {ranges(self.blocks)}, "
            f"noise levels {few if len(self.levels) < 4 else many}, width {self.width}, {self.method}, "
            f"origin {self.origin!r:.80}>"
        )

    def describe(self) -> dict[str, Any]:
        """Everything but the tensors, as plain values."""
        return {
            "site": self.site,
            "blocks": list(self.blocks),
            "levels": list(self.levels),
            "block_count": self.block_count,
            "model_name": self.model_name,
            "identity": self.identity,
            "method": self.method,
            "origin": self.origin,
        }

    def to_plain(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """JSON values and named tensors; `from_plain` reads them back."""
        named = {name: getattr(self, name) for name in TENSORS}
        return self.describe(), {name: value for name, value in named.items() if value is not None}

    @classmethod
    def from_plain(cls, values: Any, tensors: Any) -> ControlVector:
        """What `to_plain` gave.

        Raises:
            ControlVectorError: the values are not those of a control vector; the message says which and why.
        """
        from .files import read_plain

        return read_plain(values, tensors)

    def __deepcopy__(self, memo: dict[int, Any]) -> ControlVector:
        return self


def check_vector(value: Any, name: str) -> None:
    """Raise ControlVectorError, which says what to give, unless the value of an argument is a control vector."""
    if isinstance(value, ControlVector):
        return
    instead = " A tensor goes through inject(pipe, Direction(tensor), site=...)." if torch.is_tensor(value) else ""
    raise ControlVectorError(
        f"{name}: expected a ControlVector, as control_vector() and load_control_vector() give it, got "
        f"{type(value).__name__}.{instead}"
    )


TENSORS = (
    "directions",
    "scale",
    "neutral",
    "positive",
    "separability",
    "transport_scale",
    "transport_shift",
)


def _check_axis(name: str, values: Any, low: float, high: float) -> None:
    kind = int if isinstance(low, int) else float
    if not isinstance(values, tuple) or not values or any(type(v) is not kind for v in values):
        raise ControlVectorError(f"{name}: expected a tuple of {kind.__name__} values.")
    if any(not low <= v <= high for v in values) or any(math.isnan(v) for v in values):
        raise ControlVectorError(f"{name} has to lie in {low:g} to {high:g}.")
    if any(a >= b for a, b in pairwise(values)):
        raise ControlVectorError(f"{name} has to ascend.")


def _found(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if torch.is_tensor(value) else type(value).__name__

"""Concepts as sources of edits: directions by block and noise level, and what operations need to know of them.

The runtime moves one tensor per block to the device. It holds everything for that block, [levels, k + 3, channels]:
a row of numbers, the k directions, and the two rows of the transport.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch

from .sites import SITES
from .sources import SOURCES, Gives
from .wan_model import WanModel


class Reading(NamedTuple):
    """A concept at one block and noise level; k directions, D channels.

    `scale` [], `neutral` and `positive` [k], `directions` [k, D], `transport_scale` and `transport_shift` [D].
    """

    scale: torch.Tensor
    neutral: torch.Tensor
    positive: torch.Tensor
    directions: torch.Tensor
    transport_scale: torch.Tensor
    transport_shift: torch.Tensor


def pack(
    directions: torch.Tensor,
    scale: torch.Tensor,
    neutral: torch.Tensor,
    positive: torch.Tensor,
    transport: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """The values of a concept as one tensor [blocks, levels, k + 3, D].

    Args:
        directions: [blocks, levels, k, D], with D above 2 k.
        scale: [blocks, levels].
        neutral, positive: [blocks, levels, k].
        transport: a and b, each [blocks, levels, D].
    """
    b, n, k, width = directions.shape
    numbers = torch.zeros(b, n, 1, width)
    numbers[..., 0, 0], numbers[..., 0, 1 : k + 1], numbers[..., 0, k + 1 : 2 * k + 1] = scale, neutral, positive
    none = torch.zeros(b, n, width)
    rows = [numbers, directions, *(row[:, :, None] for row in transport or (none + 1, none))]
    return torch.cat(rows, 2).float().contiguous()


def unpack(value: torch.Tensor) -> Reading:
    """What `Concept.at` made, [1, 1, k + 3, D], read apart."""
    rows = value[0, 0]
    k = len(rows) - 3
    numbers = rows[0]
    return Reading(
        numbers[0], numbers[1 : k + 1], numbers[k + 1 : 2 * k + 1], rows[1 : k + 1], rows[k + 1], rows[k + 2]
    )


@dataclass(frozen=True, eq=False)
class Concept:
    """Directions at one site, by block and noise level.

    Between levels values are linear, beyond them those of the nearest one.

    Args:
        site: where they were measured, and act.
        blocks: the blocks that `values` has, in order.
        levels: the noise levels that it has, 1 (only noise) to 0, ascending.
        values: see `pack`.
        has_transport: the last two rows are a transport.
        block_count: of the model they were measured in.
        origin: for people.
        unit_rows: the directions are orthonormal, and are made so between levels too.

    Raises:
        ValueError: the values do not fit together.
    """

    site: str
    blocks: tuple[int, ...]
    levels: tuple[float, ...]
    values: torch.Tensor
    has_transport: bool = False
    block_count: int = 0
    origin: str = ""
    unit_rows: bool = True

    gives: ClassVar[Gives] = "concept"

    def __post_init__(self) -> None:
        v = self.values
        if self.site not in SITES:
            raise ValueError(f"site must be one of {', '.join(SITES)}, not {self.site!r}.")
        if not torch.is_tensor(v) or v.dim() != 4 or v.dtype != torch.float32 or v.shape[2] < 4:
            raise ValueError("A concept is a float32 tensor [blocks, levels, k + 3, channels].")
        if tuple(v.shape[:2]) != (len(self.blocks), len(self.levels)) or v.shape[3] <= 2 * (v.shape[2] - 3):
            raise ValueError(
                f"A concept of {len(self.blocks)} blocks and {len(self.levels)} levels has values {list(v.shape)}."
            )
        if not self.blocks or not self.levels or any(a >= b for a, b in pairwise(self.levels)):
            raise ValueError("A concept needs blocks, and noise levels that ascend.")
        if not torch.isfinite(v).all():
            raise ValueError("A concept holds NaN or infinite values.")
        object.__setattr__(self, "_row_of", {block: row for row, block in enumerate(self.blocks)})

    @property
    def sites(self) -> tuple[str, ...]:
        return (self.site,)

    @property
    def title(self) -> str:
        return f"the control vector ({self.origin})" if self.origin else "the control vector"

    @property
    def count(self) -> int:
        """Directions."""
        return self.values.shape[2] - 3

    @property
    def width(self) -> int:
        return self.values.shape[3]

    def tensor(self, block: int) -> torch.Tensor:
        """What block `block` gets, [levels, k + 3, channels] on the CPU.

        Raises:
            KeyError: it has no values for it.
        """
        rows: dict[int, int] = self._row_of  # type: ignore[attr-defined]
        return self.values[rows[block]]

    def at(self, tensor: torch.Tensor, sigma: float) -> torch.Tensor:
        """The values at a noise level, [1, 1, k + 3, channels]."""
        lower, upper, weight = between(self.levels, sigma)
        value = tensor[lower] if lower == upper else torch.lerp(tensor[lower], tensor[upper], weight)
        if lower != upper and self.unit_rows:
            value[1:-2] = orthonormal(value[1:-2])
        return value[None, None]

    def check(self, model: WanModel, site: str, edit: str) -> None:
        if self.block_count not in (0, model.block_count):
            raise ValueError(
                f"{edit}: {self.title} was fitted on a model of {self.block_count} blocks, but {model.name} has "
                f"{model.block_count}. Fit one on this model."
            )
        if model.width not in (None, self.width) and site != "context":
            raise ValueError(
                f"{edit}: {self.title} is {self.width} wide, but {site} of {model.name} is {model.width} wide. "
                "Fit one on this model."
            )

    def check_blocks(self, chosen: Sequence[int], edit: str) -> None:
        """Raise ValueError when an edit chooses a block that it has no values for."""
        missing = [str(block) for block in chosen if block not in self.blocks]
        if missing:
            raise ValueError(
                f"{edit}: {self.title} has no direction for block {', '.join(missing)}; it was fitted on blocks "
                f"{', '.join(map(str, self.blocks))}. Choose among those, or fit it on more."
            )

    def describe(self) -> dict[str, Any]:
        return {
            "control_vector": self.origin,
            "blocks": list(self.blocks),
            "levels": list(self.levels),
            "directions": self.count,
            "width": self.width,
        }


def between(levels: Sequence[float], level: float) -> tuple[int, int, float]:
    """The levels around one, and how far it is from the first to the second; clamped at the ends."""
    if level <= levels[0]:
        return 0, 0, 0.0
    for upper in range(1, len(levels)):
        if level == levels[upper]:
            return upper, upper, 0.0
        if level < levels[upper]:
            low, high = levels[upper - 1], levels[upper]
            return upper - 1, upper, (level - low) / (high - low)
    return len(levels) - 1, len(levels) - 1, 0.0


def orthonormal(rows: torch.Tensor) -> torch.Tensor:
    """Unit rows [k, D], each without what it has in common with those before (Gram and Schmidt); waits for nothing."""
    done: list[torch.Tensor] = []
    for row in rows:
        for other in done:
            row = row - (row @ other) * other
        done.append(row / torch.linalg.vector_norm(row).clamp_min(1e-30))
    return torch.stack(done)


SOURCES["Concept"] = Concept

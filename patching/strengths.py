"""Strength per block: presets, curves and the algebra that combines them.

A `BlockStrengths` is written before the model is seen, so it stays symbolic: `even` or a Gaussian
curve means something for 30, 40 and 48 blocks alike. `resolve(count)` turns it into one strength per
block of a model with `count` blocks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DEFAULT_BLOCK_COUNT = 40

PRESETS = (
    "all",
    "none",
    "first_half",
    "second_half",
    "early_blocks",
    "mid_blocks",
    "late_blocks",
    "alternating",
    "sparse",
)

PATTERNS = (
    "uniform",
    "linear_decay",
    "linear_rise",
    "gaussian_peak",
    "inverse_gaussian",
    "sine_wave",
    "stepped",
    "random",
    "focus_early",
    "focus_mid",
    "focus_late",
)


class BlockRangeError(ValueError):
    """A selection names a block that the model does not have."""


def is_within(value: Any, low: float, high: float) -> bool:
    """True for a number from `low` to `high`; False for NaN, and for what is no number."""
    try:
        return bool(low <= value <= high)
    except (TypeError, ValueError, RuntimeError):  # text; arrays and tensors of several numbers
        return False


def check_strength(value: Any, what: str = "strength") -> float:
    """Return `value` as a float in 0..1, or raise ValueError naming `what`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be a number from 0 to 1, not {value!r}.") from None
    if not 0.0 <= number <= 1.0:  # False for NaN too
        raise ValueError(f"{what} must be from 0 to 1, not {number:g}.")
    return number


def check_block(index: int, count: int) -> None:
    """Raise BlockRangeError unless 0 <= index < count."""
    if not 0 <= index < count:
        raise BlockRangeError(
            f"Block {index} is selected, but the model has {count} blocks (0 to {count - 1}). "
            f"Remove it from the selection or choose a preset, which fits any model."
        )


def preset_blocks(name: str, count: int) -> range:
    """Blocks that a preset names in a model of `count` blocks.

    early_blocks, mid_blocks and late_blocks (first quarter, middle half, last quarter) share no block
    and cover all; so do first_half and second_half.
    """
    quarter, half = count // 4, count // 2
    ranges = {
        "all": range(count),
        "none": range(0),
        "first_half": range(half),
        "second_half": range(half, count),
        "early_blocks": range(quarter),
        "mid_blocks": range(quarter, count - quarter),
        "late_blocks": range(count - quarter, count),
        "alternating": range(0, count, 2),
        "sparse": range(0, count, 4),
    }
    if name not in ranges:
        raise ValueError(f"Unknown preset {name!r}. Presets: {', '.join(PRESETS)}.")
    return ranges[name]


def matching_preset(strengths: Sequence[float]) -> str | None:
    """Name of the preset whose blocks are exactly the non-zero ones, or None."""
    active = [i for i, s in enumerate(strengths) if s != 0.0]
    for name in PRESETS:
        if list(preset_blocks(name, len(strengths))) == active:
            return name
    return None


def uniform_random(seed: int, count: int) -> list[float]:
    """`count` numbers in [0, 1) from mulberry32, a 32-bit generator that JavaScript repeats exactly.

    Source: Tommy Ettinger, mulberry32 (public domain).
    """
    state, out = seed & 0xFFFFFFFF, []
    for _ in range(count):
        state = (state + 0x6D2B79F5) & 0xFFFFFFFF
        t = ((state ^ (state >> 15)) * (state | 1)) & 0xFFFFFFFF
        t ^= (t + (((t ^ (t >> 7)) * (t | 61)) & 0xFFFFFFFF)) & 0xFFFFFFFF
        out.append(((t ^ (t >> 14)) & 0xFFFFFFFF) / 4294967296)
    return out


class BlockStrengths(ABC):
    """One strength per block, for a model whose block count is not known yet."""

    @abstractmethod
    def resolve(self, count: int) -> tuple[float, ...]:
        """Strengths in 0..1 of blocks 0..count-1.

        Raises:
            BlockRangeError: a block beyond count-1 has a strength other than 0.
        """

    def active_blocks(self, count: int) -> list[int]:
        """Indices of the blocks whose strength is not 0."""
        return [i for i, s in enumerate(self.resolve(count)) if s != 0.0]

    def __mul__(self, other: BlockStrengths | float) -> BlockStrengths:
        factor = other if isinstance(other, BlockStrengths) else Uniform(other)
        return Product((self, factor))

    __rmul__ = __mul__


@dataclass(frozen=True)
class Uniform(BlockStrengths):
    """The same strength in every block."""

    strength: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", check_strength(self.strength))

    def resolve(self, count: int) -> tuple[float, ...]:
        return (self.strength,) * count

    def __str__(self) -> str:
        return f"{self.strength:g}"


@dataclass(frozen=True)
class Explicit(BlockStrengths):
    """Strengths given block by block; a missing tail and a tail of zeros both mean 0."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        checked = tuple(check_strength(v, f"strength of block {i}") for i, v in enumerate(self.values))
        object.__setattr__(self, "values", checked)

    def resolve(self, count: int) -> tuple[float, ...]:
        for i, value in enumerate(self.values):
            if value != 0.0:
                check_block(i, count)
        return (self.values + (0.0,) * count)[:count]

    def __str__(self) -> str:
        return ", ".join(f"{i}:{v:g}" for i, v in enumerate(self.values) if v) or "none"


@dataclass(frozen=True)
class Pattern(BlockStrengths):
    """A named curve over the blocks of whatever model it meets.

    Args:
        name: one of PATTERNS.
        base: strength at the top of the curve, 0..1.
        peak: block at the centre of gaussian_peak and inverse_gaussian.
        spread: standard deviation of those two, in blocks.
        step: run length of stepped, in blocks.
        seed: seed of random.
    """

    name: str
    base: float = 0.5
    peak: int = 20
    spread: float = 5.0
    step: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in PATTERNS:
            raise ValueError(f"Unknown pattern {self.name!r}. Patterns: {', '.join(PATTERNS)}.")
        object.__setattr__(self, "base", check_strength(self.base, "base strength"))
        if not (math.isfinite(self.spread) and self.spread > 0):
            raise ValueError(f"spread must be above 0 blocks, not {self.spread!r}.")
        if self.step < 1:
            raise ValueError(f"step size must be at least 1 block, not {self.step!r}.")

    def resolve(self, count: int) -> tuple[float, ...]:
        return tuple(self._curve(count))

    def _curve(self, count: int) -> Iterable[float]:
        b, blocks, last = self.base, range(count), max(count - 1, 1)
        if self.name == "uniform":
            return [b] * count
        if self.name == "linear_decay":
            return [b * (1 - i / last) for i in blocks]
        if self.name == "linear_rise":
            return [b * (i / last) for i in blocks]
        if self.name in ("gaussian_peak", "inverse_gaussian"):
            bell = [math.exp(-((i - self.peak) ** 2) / (2 * self.spread**2)) for i in blocks]
            return [b * g if self.name == "gaussian_peak" else b * (1 - g) for g in bell]
        if self.name == "sine_wave":
            return [b * (0.5 + 0.5 * math.sin(2 * math.pi * i / count)) for i in blocks]
        if self.name == "stepped":
            return [b if (i // self.step) % 2 == 0 else 0.0 for i in blocks]
        if self.name == "random":
            return [b * u for u in uniform_random(self.seed, count)]
        focus = preset_blocks(self.name.removeprefix("focus_") + "_blocks", count)
        return [b if i in focus else 0.1 * b for i in blocks]

    def __str__(self) -> str:
        return f"{self.name}({self.base:g})"


@dataclass(frozen=True)
class Product(BlockStrengths):
    """Block by block product, as when a selection masks a curve or a strength scales both."""

    factors: tuple[BlockStrengths, ...]

    def resolve(self, count: int) -> tuple[float, ...]:
        columns = zip(*(f.resolve(count) for f in self.factors), strict=True)
        return tuple(math.prod(column) for column in columns)

    def __str__(self) -> str:
        return " x ".join(str(f) for f in self.factors)


def as_block_strengths(value: Any, name: str = "block_strengths") -> BlockStrengths:
    """Read what a BLOCK_STRENGTHS socket may carry.

    Args:
        value: a BlockStrengths, a sequence of floats, or a mapping of block index to float.
        name: of the input or argument, for errors.

    Raises:
        ValueError: anything else, or a strength outside 0..1.
    """
    if isinstance(value, BlockStrengths):
        return value
    if isinstance(value, Mapping):
        try:
            table = {int(k): v for k, v in value.items()}
        except (TypeError, ValueError):
            raise ValueError(f"{name} must map block numbers to strengths, as {{1: 0.5}} does.") from None
        if table and min(table) < 0:
            raise ValueError(f"{name} names block {min(table)}; blocks are counted from 0.")
        if table and max(table) > 1000:
            raise ValueError(f"{name} names block {max(table)}; no Wan model has as many.")
        return Explicit(tuple(table.get(i, 0.0) for i in range(max(table, default=-1) + 1)))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return Explicit(tuple(value))
    raise ValueError(f"{name} must come from WanVideo Block Strength Builder, not {type(value).__name__}.")

"""Strengths of evenly spaced effect: how much of a change a strength makes, found with few evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..patching.plot import BACKGROUND, FAINT, GRID, TEXT, colour
from .control_vector import ControlVectorError

EVALUATIONS = 10
_TOLERANCE = 0.03  # of a gap; within it a level needs no evaluation of its own
_NOISE = 0.02  # of the limit; a fall of the response by less is no fall


@dataclass(frozen=True)
class Calibration:
    """The response of a video to a strength.

    Args:
        strengths: ascending; the effects at them are evenly spaced, from the first gap above 0 up to `reached`.
        effects: the effects that are expected at them.
        measured: (strength, effect) of each evaluation, by strength.
        limit: effect that was asked for.
        monotone: the effect rises with the strength wherever it was measured.
    """

    strengths: tuple[float, ...]
    effects: tuple[float, ...]
    measured: tuple[tuple[float, float], ...]
    limit: float
    monotone: bool

    @property
    def reached(self) -> float:
        """Effect at the last strength."""
        return self.effects[-1]

    def report(self) -> str:
        """For people."""
        lines = [f"strength {s:.3g}: effect {e:.3f}" for s, e in zip(self.strengths, self.effects, strict=True)]
        if self.reached < self.limit * 0.999:
            lines.append(
                f"The effect did not reach the limit of {self.limit:g}: it was {self.reached:.3f} at strength "
                f"{self.strengths[-1]:.3g}."
            )
        if not self.monotone:
            lines.append(
                "The effect does not rise with the strength everywhere: a stronger edit changed the video less. Levels "
                "are taken from the rising part. Choose other blocks, or a lower limit."
            )
        lines.append(f"{len(self.measured)} evaluations.")
        return "\n".join(lines)

    def __str__(self) -> str:
        """The strengths, as a node hands them on: "0.12, 0.25, 0.4"."""
        return ", ".join(f"{s:.4g}" for s in self.strengths)

    def plot(self) -> Image.Image:
        """The response curve, the evaluations as dots and the levels as lines."""
        return _plot(self)


def calibrate_response(
    effect: Callable[[float], float],
    levels: int = 5,
    limit: float = 0.5,
    *,
    start: float = 0.25,
    highest: float = 10.0,
    evaluations: int = EVALUATIONS,
) -> Calibration:
    """Find strengths of evenly spaced effect.

    The strength is doubled from `start` until the effect reaches `limit`; the evaluations that are left go where the
    curve through what is known is least certain. The curve is a monotone cubic (Fritsch and Carlson 1980).

    Args:
        effect: how much a strength changes the result, 0 at 0; called at most `evaluations` times.
        levels: number of strengths, 2 to 9.
        limit: effect at the last one.
        start, highest: first and largest strength that is tried.
        evaluations: at least 4.

    Raises:
        ControlVectorError: an argument out of range; an effect that is no number, or none at any strength.
    """
    if not 2 <= levels <= 9:
        raise ControlVectorError(f"levels must lie in 2 to 9, not {levels}.")
    if not (0 < limit < math.inf and 0 < start <= highest < math.inf and evaluations >= 4):
        raise ControlVectorError("limit and start have to be above 0, highest at least start, evaluations at least 4.")
    known: dict[float, float] = {0.0: 0.0}

    def evaluate(strength: float) -> float:
        found = float(effect(strength))
        if not math.isfinite(found) or found < 0:
            raise ControlVectorError(
                f"The effect of strength {strength:.4g} is {found}, which is no measure of change."
            )
        known[strength] = found
        return found

    strength = start
    while evaluate(strength) < limit and strength < highest and len(known) <= evaluations:
        strength = min(2 * strength, highest)
    while len(known) <= evaluations and (wanted := _next(known, levels, limit)) is not None:
        evaluate(wanted)
    rising, monotone = _rising(known, limit)
    if len(rising) < 2:
        raise ControlVectorError(
            f"No strength up to {max(known):g} changed anything. Check the edit's blocks, window and branch."
        )
    curve = Curve(rising)
    reached = min(limit, rising[-1][1])
    effects = [reached * n / levels for n in range(1, levels + 1)]
    measured = tuple(sorted((s, e) for s, e in known.items() if s > 0))
    return Calibration(tuple(map(curve.strength_at, effects)), tuple(effects), measured, limit, monotone)


def _rising(known: dict[float, float], limit: float) -> tuple[list[tuple[float, float]], bool]:
    """The points that the curve goes through, each with more effect than those before; and whether that is all.

    What lies beyond the first point at the limit is of no use for the levels below it.
    """
    rising, monotone = [(0.0, 0.0)], True
    for strength, found in sorted(known.items())[1:]:
        if found > rising[-1][1]:
            if rising[-1][1] < limit:
                rising.append((strength, found))
        elif found < rising[-1][1] - _NOISE * limit:
            monotone = False
    return rising, monotone


def _next(known: dict[float, float], levels: int, limit: float) -> float | None:
    """The strength to look at next, of a level in the widest gap of effects; None when all levels are known."""
    rising, _ = _rising(known, limit)
    if len(rising) < 2:
        return None
    reached = min(limit, rising[-1][1])
    curve, gap = Curve(rising), reached / levels
    best: tuple[float, float] | None = None
    for low, high in pairwise(rising):
        within = [
            n * gap for n in range(1, levels + 1) if low[1] + _TOLERANCE * gap < n * gap < high[1] - _TOLERANCE * gap
        ]
        if within and (best is None or high[1] - low[1] > best[0]):
            best = high[1] - low[1], within[len(within) // 2]
    return None if best is None else curve.strength_at(best[1])


class Curve:
    """A monotone cubic through points of rising strength and effect (Fritsch and Carlson 1980)."""

    def __init__(self, points: list[tuple[float, float]]) -> None:
        self._x, self._y = (np.array(values, dtype=np.float64) for values in zip(*points, strict=True))
        steps = np.diff(self._x)
        slopes = np.diff(self._y) / steps
        tangents = np.empty(len(points))
        tangents[0], tangents[-1] = slopes[0], slopes[-1]
        if len(points) > 2:
            left, right = 2 * steps[1:] + steps[:-1], steps[1:] + 2 * steps[:-1]
            tangents[1:-1] = (left + right) / (left / slopes[:-1] + right / slopes[1:])
            tangents[0] = _end(steps[0], steps[1], slopes[0], slopes[1])
            tangents[-1] = _end(steps[-1], steps[-2], slopes[-1], slopes[-2])
        self._tangents = tangents

    def effect_at(self, strength: float) -> float:
        i = int(np.clip(np.searchsorted(self._x, strength) - 1, 0, len(self._x) - 2))
        width = self._x[i + 1] - self._x[i]
        t = (strength - self._x[i]) / width
        low, high = self._y[i], self._y[i + 1]
        first, last = width * self._tangents[i], width * self._tangents[i + 1]
        return float(
            (1 + 2 * t) * (1 - t) ** 2 * low
            + t * (1 - t) ** 2 * first
            + t * t * (3 - 2 * t) * high
            + t * t * (t - 1) * last
        )

    def strength_at(self, effect: float) -> float:
        """The strength of an effect that the curve has, by bisection."""
        low, high = 0.0, float(self._x[-1])
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.effect_at(middle) < effect else (low, middle)
        return high


def _end(near: float, far: float, slope: float, next_slope: float) -> float:
    """Tangent at an end: that of a parabola through three points, as long as it keeps the curve monotone."""
    tangent = ((2 * near + far) * slope - near * next_slope) / (near + far)
    return float(min(max(tangent, 0.0), 3 * slope))


def _plot(found: Calibration, size: tuple[int, int] = (960, 480)) -> Image.Image:
    image = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(image)
    text, small = ImageFont.load_default(size=18), ImageFont.load_default(size=13)
    left, right, upper, lower = 70, size[0] - 24, 52, size[1] - 64
    widest = max(s for s, _ in found.measured)
    tallest = max(found.limit, *(e for _, e in found.measured)) * 1.05

    def at(strength: float, effect: float) -> tuple[float, float]:
        return left + (right - left) * strength / widest, lower - (lower - upper) * effect / tallest

    title = "Effect by strength" + ("" if found.monotone else ": not monotone")
    draw.text((left, 16), title, font=text, fill=TEXT)
    for tick in range(5):
        y, x = at(0, tallest * tick / 4)[1], at(widest * tick / 4, 0)[0]
        draw.line((left, y, right, y), fill=GRID)
        draw.text((left - 8, y), f"{tallest * tick / 4:.2g}", font=small, fill=FAINT, anchor="rm")
        draw.text((x, lower + 8), f"{widest * tick / 4:.3g}", font=small, fill=FAINT, anchor="ma")
    for strength, effect in zip(found.strengths, found.effects, strict=True):
        draw.line((*at(strength, 0), *at(strength, effect)), fill=FAINT)
        draw.line((*at(0, effect), *at(strength, effect)), fill=FAINT)
    rising, _ = _rising({0.0: 0.0, **dict(found.measured)}, found.limit)
    curve = Curve(rising)
    steps = [rising[-1][0] * n / 200 for n in range(201)]
    draw.line([at(s, curve.effect_at(s)) for s in steps], fill=colour(0.75), width=3)
    for strength, effect in found.measured:
        x, y = at(strength, effect)
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour(1.0))
    legend = f"strength. Dots: {len(found.measured)} evaluations. Lines: the levels, at equal steps of effect."
    draw.text((left, lower + 34), legend, font=small, fill=FAINT)
    return image

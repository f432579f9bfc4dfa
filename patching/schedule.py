"""The grammar of `schedule`: how an edit's strength changes over sampling.

Points `progress:multiplier`, separated by commas or spaces, as in `0:0.2, 0.5:0.8, 1:1`. Progress is the fraction of
sampling done, as for a window, and rises from point to point; a multiplier is 0 to 1. Between two points the multiplier
lies on their line; before the first and after the last it is theirs. Nothing at all is a multiplier of 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .selection import NUMBER, check_length

_POINT = re.compile(r"[^\s,]+")
_NUMBER = re.compile(NUMBER)

ROUNDING = 4e-3  # schedulers round their noise levels; a step of a 100-step run is 0.01


class ScheduleError(ValueError):
    """The text is no schedule; the message gives position, token and what is allowed."""


@dataclass(frozen=True)
class Schedule:
    """A piecewise linear multiplier of the strength over sampling; without points it is 1 throughout.

    Args:
        points: (progress, multiplier), progress rising.

    Raises:
        ValueError: progress that does not rise, or a number outside 0 to 1.
    """

    points: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        for point in self.points:
            if not all(0.0 <= number <= 1.0 for number in point):  # True for no NaN
                raise ValueError(f"schedule: {point[0]:g}:{point[1]:g} has a number outside 0 to 1.")
        for (before, _), (after, _) in zip(self.points, self.points[1:], strict=False):
            if after <= before:
                raise ValueError(f"schedule: progress has to rise, but {after:g} follows {before:g}.")

    @property
    def is_constant(self) -> bool:
        """True when it multiplies by 1 throughout."""
        return all(multiplier == 1.0 for _, multiplier in self.points)

    @property
    def is_zero(self) -> bool:
        """True when it multiplies by 0 throughout."""
        return bool(self.points) and all(multiplier == 0.0 for _, multiplier in self.points)

    def at(self, progress: float) -> float:
        """The multiplier at `progress` (0..1); a point counts as reached when the noise level's rounding is all that is
        between."""
        if not self.points:
            return 1.0
        nearest = min(self.points, key=lambda point: abs(progress - point[0]))
        if abs(progress - nearest[0]) <= ROUNDING:
            return nearest[1]
        if progress < self.points[0][0]:
            return self.points[0][1]
        for (a, low), (b, high) in zip(self.points, self.points[1:], strict=False):
            if progress < b:
                return low + (high - low) * (progress - a) / (b - a)
        return self.points[-1][1]

    def __str__(self) -> str:
        return ", ".join(f"{progress!r}:{multiplier!r}" for progress, multiplier in self.points)


def parse_schedule(text: str) -> Schedule:
    """Parse a schedule.

    Raises:
        ScheduleError: with the 1-based position and the token that could not be read.
    """
    if not isinstance(text, str):
        raise ScheduleError(f"schedule must be text, not {type(text).__name__}.")
    check_length("schedule", text, ScheduleError)
    points: list[tuple[float, float]] = []
    for match in _POINT.finditer(text):
        progress, _, multiplier = match[0].lower().partition(":")
        where = f"schedule, position {match.start() + 1}: {match[0]!r}"
        if not (_NUMBER.fullmatch(progress) and _NUMBER.fullmatch(multiplier)):
            raise ScheduleError(f"{where} is no point; write progress:multiplier, as in 0:0.2, 0.5:0.8, 1:1.")
        point = float(progress), float(multiplier)
        if not all(0.0 <= number <= 1.0 for number in point):
            raise ScheduleError(f"{where} has a number outside 0 to 1.")
        if points and point[0] <= points[-1][0]:
            raise ScheduleError(f"{where} does not come after {points[-1][0]:g}; progress has to rise.")
        points.append(point)
    return Schedule(tuple(points))

"""Finding where a continuous function takes a value, when it need not be monotone."""

from __future__ import annotations

from collections.abc import Callable

_INTERVALS = 24
_HALVINGS = 40


class TargetSearch:
    """A function on 0..limit, known on a grid and bisected between its points.

    Args:
        function: continuous, or a step function with steps smaller than `tolerance`.
        preferred: where two places have the target, the grid interval nearest to this one wins. It is a grid point.
        limit: end of the interval; the grid has 24 equal parts.
        tolerance: distance of the value from the target at which a bisection ends.
    """

    def __init__(self, function: Callable[[float], float], preferred: float, limit: float, tolerance: float) -> None:
        self._function = function
        self._preferred = preferred
        self._tolerance = tolerance
        grid = sorted({*(limit * i / _INTERVALS for i in range(_INTERVALS)), preferred, limit})
        self._points = [(x, function(x)) for x in grid]

    def extremes(self) -> tuple[float, float]:
        """Places of the least and of the largest value on the grid."""
        values = [(value, x) for x, value in self._points]
        return min(values)[1], max(values)[1]

    def solve(self, target: float) -> tuple[float, float]:
        """(place, value there) with the value as near to `target` as the function comes."""
        intervals = [
            (left, right)
            for left, right in zip(self._points, self._points[1:], strict=False)
            if min(left[1], right[1]) <= target <= max(left[1], right[1])
        ]
        if not intervals:
            return min(self._points, key=lambda point: abs(point[1] - target))
        left, right = min(intervals, key=lambda interval: min(abs(x - self._preferred) for x, _ in interval))
        rising = left[1] <= right[1]
        for _ in range(_HALVINGS):
            x = (left[0] + right[0]) / 2
            point = x, self._function(x)
            if abs(point[1] - target) <= self._tolerance:
                return point
            # The target stays between the two ends, whatever the function does in between.
            if (point[1] <= target) == rising:
                left = point
            else:
                right = point
        return min((left, right), key=lambda point: abs(point[1] - target))

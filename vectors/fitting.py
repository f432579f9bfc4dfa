"""From tokens of positive and negative prompts to a control vector."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, get_args

import torch

from .control_vector import ControlVector, ControlVectorError
from .moments import Moments

Method = Literal["mean_difference", "standardised", "pca", "transport"]
METHODS: tuple[Method, ...] = get_args(Method)

_Place = tuple[int, float]  # block and noise level


class Fit:
    """Takes in tokens, place by place, and gives the vector at the end.

    The methods, with m+ and m- the means over all tokens, pairs and seeds:
    - `mean_difference`: along m+ - m-;
    - `standardised`: along (m+ - m-) / sd, channel by channel, so that large channels do not decide;
    - `pca`: the first principal components of the pairs' differences (Zou et al. 2023, Representation Engineering);
    - `transport`: along m+ - m-, with the map a x + b, a = sd+ / sd- and b = m+ - a m- (AcT, 2410.23054).

    Args:
        method: see above.
        held_out: numbers of pairs that do not take part until separability is measured on them.
        components: directions, of `pca` alone.

    Raises:
        ControlVectorError: an unknown method, or several directions of one that gives one.
    """

    def __init__(self, method: Method, held_out: Sequence[int] = (), components: int = 1) -> None:
        if method not in METHODS:
            raise ControlVectorError(f"method must be one of {', '.join(METHODS)}, not {method!r}.")
        if components < 1 or (components > 1 and method != "pca"):
            raise ControlVectorError(f"Method {method} gives one direction, not {components}. Use method pca.")
        self.method, self.held_out, self.components = method, frozenset(held_out), components
        spread = method in ("standardised", "transport")
        self._moments: dict[tuple[_Place, bool, bool], Moments] = defaultdict(lambda: Moments(spread))
        self._means: dict[tuple[_Place, bool], list[tuple[int, torch.Tensor]]] = defaultdict(list)

    def add(self, block: int, level: float, pair: int, positive: bool, tokens: torch.Tensor) -> None:
        """Take in the tokens [count, channels] that a prompt of pair `pair` has at a block and noise level.

        Raises:
            ControlVectorError: they hold NaN or infinite values.
        """
        left_out = pair in self.held_out
        mean = self._moments[(block, level), positive, left_out].add(tokens)
        if left_out or self.method == "pca":
            self._means[(block, level), positive].append((pair, mean.cpu()))

    def result(self, site: str, *, block_count: int = 0, model_name: str = "", identity: str = "", origin: str = "") -> ControlVector:  # fmt: skip  # noqa: E501
        """The control vector.

        Raises:
            ControlVectorError: nothing was measured at some place, or the prompts do not differ there.
        """
        places = sorted({place for place, _, _ in self._moments})
        blocks = tuple(sorted({block for block, _ in places}))
        levels = tuple(sorted({level for _, level in places}))
        missing = [(b, s) for b in blocks for s in levels if (b, s) not in places]
        if missing or not places:
            raise ControlVectorError(f"Nothing was measured at {missing or 'any block'}: the host left blocks out.")
        rows = [[self._at((b, s)) for s in levels] for b in blocks]

        def stack(index: int) -> torch.Tensor:
            return torch.stack([torch.stack([row[index] for row in line]) for line in rows]).float()

        transport = self.method == "transport"
        return ControlVector(
            site,
            blocks,
            levels,
            stack(0),
            stack(1),
            stack(2),
            stack(3),
            torch.tensor([self._separability(b, levels) for b in blocks]),
            stack(4) if transport else None,
            stack(5) if transport else None,
            block_count=block_count,
            model_name=model_name,
            identity=identity,
            method=self.method,
            origin=origin,
        )

    def _at(self, place: _Place) -> list[torch.Tensor]:
        sides = [
            self._moments[place, positive, False].merged(self._moments[place, positive, True])
            for positive in (True, False)
        ]
        plus, minus = sides
        u = self._directions(place, plus, minus, everything=True)
        ends = [u @ side.centre() for side in (minus, plus)]
        scale = torch.tensor((plus.norm() * plus.count + minus.norm() * minus.count) / (plus.count + minus.count))
        out = [u, scale, *ends]
        if self.method == "transport":
            a = _ratio(plus.deviation(), minus.deviation())
            out += [a, plus.centre() - a * minus.centre()]
        return out

    def _directions(self, place: _Place, plus: Moments, minus: Moments, everything: bool) -> torch.Tensor:
        """Unit directions [k, channels] in float64."""
        away = plus.centre() - minus.centre()
        if not torch.isfinite(away).all():
            raise ControlVectorError(f"Block {place[0]} gave NaN or infinite values at noise level {place[1]:g}.")
        if self.method == "pca":
            pairs = self._pair_differences(place, everything)
            u: torch.Tensor = torch.linalg.svd(pairs, full_matrices=False).Vh[: self.components]
            if len(u) < self.components:
                raise ControlVectorError(f"{len(pairs)} differences give no {self.components} directions.")
            signs = torch.where(u @ away < 0, -1.0, 1.0).double()
            u = u * signs[:, None]
        elif self.method == "standardised":
            total = plus.count + minus.count
            squares = (plus.deviation().square() * plus.count + minus.deviation().square() * minus.count) / total
            deviation = squares.sqrt()
            u = (away / (deviation + 1e-4 * deviation.mean()).clamp_min(1e-30))[None]
        else:
            u = away[None]
        if float(away.norm()) <= 1e-7 * max(plus.norm(), minus.norm()):
            raise ControlVectorError(
                f"The positive and negative prompts do not differ in block {place[0]} at noise level {place[1]:g}. "
                "Give prompts that differ, or leave the block out."
            )
        unit: torch.Tensor = u / u.norm(dim=-1, keepdim=True)
        return unit

    def _pair_differences(self, place: _Place, everything: bool) -> torch.Tensor:
        sides = [
            [mean.double() for pair, mean in self._means[place, positive] if everything or pair not in self.held_out]
            for positive in (True, False)
        ]
        return torch.stack(sides[0]) - torch.stack(sides[1])

    def _separability(self, block: int, levels: Sequence[float]) -> float:
        """Mean over levels of the area under the ROC curve on pairs left out of the direction."""
        found = []
        for level in levels:
            place = block, level
            left = [
                torch.stack([mean.double() for pair, mean in self._means[place, positive] if pair in self.held_out])
                for positive in (True, False)
                if any(pair in self.held_out for pair, _ in self._means[place, positive])
            ]
            if len(left) < 2:
                return math.nan
            u = self._directions(
                place, self._moments[place, True, False], self._moments[place, False, False], everything=False
            )[0]
            found.append(area_under_curve(left[0] @ u, left[1] @ u))
        return sum(found) / len(found)


def area_under_curve(positive: torch.Tensor, negative: torch.Tensor) -> float:
    """Probability that a positive value is larger than a negative one; ties count half."""
    difference = positive[:, None] - negative[None]
    return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())


def _ratio(plus: torch.Tensor, minus: torch.Tensor) -> torch.Tensor:
    """sd+ / sd-, 1 in channels that do not vary."""
    floor = 1e-6 * max(float(plus.max()), float(minus.max()), 1e-30)
    return torch.where((plus > floor) & (minus > floor), plus / minus.clamp_min(1e-30), torch.ones_like(plus))

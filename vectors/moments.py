"""Means and spreads of tokens, updated call by call, so that no token has to be kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(eq=False)
class Moments:
    """Running mean and spread of tokens, on the device that they are on, in float32.

    Source: Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979.

    Args:
        spread: keep the spread too.
    """

    spread: bool = True
    count: int = 0
    mean: torch.Tensor | None = None
    squares: torch.Tensor | None = None  # sums of squared distances from the mean
    norms: torch.Tensor | None = None  # sum of the tokens' norms

    def add(self, tokens: torch.Tensor) -> torch.Tensor:
        """Take in tokens [count, channels]; their own mean [channels] is returned."""
        n = len(tokens)
        mean = tokens.mean(0, dtype=torch.float32)
        norms = torch.linalg.vector_norm(tokens, dim=-1, dtype=torch.float32).sum()
        squares = (tokens.float() - mean).square_().sum(0) if self.spread else None
        self._merge(n, mean, squares, norms)
        return mean

    def merged(self, other: Moments) -> Moments:
        """Those of the tokens of both."""
        out = Moments(self.spread, self.count, self.mean, self.squares, self.norms)
        if other.mean is not None and other.norms is not None:
            out._merge(other.count, other.mean, other.squares, other.norms)
        return out

    def _merge(self, n: int, mean: torch.Tensor, squares: torch.Tensor | None, norms: torch.Tensor) -> None:
        if self.mean is None or self.norms is None:
            self.count, self.mean, self.squares, self.norms = n, mean, squares, norms
            return
        total = self.count + n
        away = mean - self.mean
        if self.squares is not None and squares is not None:
            self.squares = self.squares + squares + away.square() * (self.count * n / total)
        self.mean = self.mean + away * (n / total)
        self.norms = self.norms + norms
        self.count = total

    def deviation(self) -> torch.Tensor:
        """Standard deviation of each channel, [channels] in float64 on the CPU."""
        assert self.squares is not None  # noqa: S101  # asked only of moments with a spread
        return (self.squares.double().cpu() / max(self.count, 1)).sqrt()

    def centre(self) -> torch.Tensor:
        """The mean, [channels] in float64 on the CPU."""
        assert self.mean is not None  # noqa: S101  # asked only after tokens were added
        return self.mean.double().cpu()

    def norm(self) -> float:
        """Mean norm of a token."""
        return float(self.norms) / self.count if self.norms is not None else 0.0

"""Figures about one prompt: values, token norms, and how many dimensions its tokens really use."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

NEAR_ZERO = 1e-3
"""Magnitude below which a value counts as near zero."""


@dataclass(frozen=True)
class Statistics:
    """Values of one prompt [tokens, width].

    Args:
        mean, std, minimum, maximum: over all values; std is the population's.
        norm: L2 norm of the whole prompt.
        token_norm_mean, token_norm_std, token_norm_min, token_norm_max: of the tokens' L2 norms.
        near_zero: share of values with magnitude below 0.001, 0..1.
    """

    mean: float
    std: float
    minimum: float
    maximum: float
    norm: float
    token_norm_mean: float
    token_norm_std: float
    token_norm_min: float
    token_norm_max: float
    near_zero: float


def statistics(tensor: torch.Tensor) -> Statistics:
    """Statistics of a prompt [tokens, width], without its padding rows."""
    values = tensor.detach().float()
    norms = torch.linalg.vector_norm(values, dim=-1)
    return Statistics(
        mean=values.mean().item(),
        std=values.std(correction=0).item(),
        minimum=values.min().item(),
        maximum=values.max().item(),
        norm=torch.linalg.vector_norm(values).item(),
        token_norm_mean=norms.mean().item(),
        token_norm_std=norms.std(correction=0).item(),
        token_norm_min=norms.min().item(),
        token_norm_max=norms.max().item(),
        near_zero=(values.abs() < NEAR_ZERO).float().mean().item(),
    )


@dataclass(frozen=True)
class PrincipalComponents:
    """Result of a principal component analysis of a prompt's tokens.

    Args:
        explained_variance: share of the variance per component, falling, sums to 1; empty without variance.
        effective_rank: exp of the entropy of the normalised singular values; between 1 and the rank.
    """

    explained_variance: tuple[float, ...]
    effective_rank: float

    def components_for(self, share: float) -> int:
        """Number of leading components that together explain `share` (0..1) of the variance."""
        total = 0.0
        for count, part in enumerate(self.explained_variance, 1):
            total += part
            if total >= share - 1e-9:
                return count
        return len(self.explained_variance)


def principal_components(tensor: torch.Tensor) -> PrincipalComponents:
    """PCA of the tokens [tokens, width] as observations, from the singular values of the tokens minus their mean.

    They are the square roots of the eigenvalues of the tokens' inner products [tokens, tokens], which in float64 is as
    exact as a decomposition of the tokens in float32, and much faster. With fewer than two distinct tokens there is no
    variance: no component, effective rank 0.
    """
    values = tensor.detach().to("cpu", torch.float64)
    centred = values - values.mean(dim=0)
    variance = torch.linalg.eigvalsh(centred @ centred.T).flip(0)
    # Rounding of the mean leaves eigenvalues of about (eps * size) squared where there is no variance at all.
    floor = (torch.finfo(torch.float32).eps * max(values.shape) * values.abs().max()).square()
    variance = variance[variance > torch.maximum(floor, variance[0] * 1e-12)]
    if not len(variance):
        return PrincipalComponents((), 0.0)
    return PrincipalComponents(tuple((variance / variance.sum()).tolist()), effective_rank(variance.sqrt()))


def effective_rank(singular_values: torch.Tensor) -> float:
    """exp(-sum p ln p) with p the singular values over their sum; a matrix with r equal ones has r.

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality", EUSIPCO.

    Raises:
        ValueError: no singular value is above zero.
    """
    positive = singular_values[singular_values > 0].double()
    if not len(positive):
        raise ValueError("The effective rank of a zero matrix is not defined.")
    p = positive / positive.sum()
    return math.exp(-(p * p.log()).sum().item())


def highest_variance_dimensions(tensor: torch.Tensor, count: int = 10) -> list[tuple[int, float]]:
    """(dimension, variance over the tokens) of the `count` dimensions that vary most, falling."""
    variance = tensor.detach().float().var(dim=0, correction=0)
    top = torch.topk(variance, min(count, len(variance)))
    return list(zip(top.indices.tolist(), top.values.tolist(), strict=True))

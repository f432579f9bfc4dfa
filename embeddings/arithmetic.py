"""Text embeddings as vectors: differences, sums, products, unit tokens.

Every function takes prompts [tokens, width] of one width. Shorter ones are padded with zero rows, values are
computed in float32, and the result has the dtype and device of the first argument, the base. A result that
does not fit that dtype is an EmbedsError that names the operation. Inputs are never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch

from .precision import returned, working

ArithmeticOperation = Literal["add", "weighted_sum", "multiply", "normalize"]
ARITHMETIC_OPERATIONS: tuple[ArithmeticOperation, ...] = get_args(ArithmeticOperation)

SHORTEST_TOKEN = 1e-12
"""L2 norm below which a token has no direction; normalisation makes it zero."""


def unit_tokens(tensor: torch.Tensor) -> torch.Tensor:
    """Each token divided by its L2 norm; tokens without a direction become zero. [tokens, width] -> same."""
    return tensor * _unit_factors(tensor)


def _unit_factors(tensor: torch.Tensor) -> torch.Tensor:
    norms = torch.linalg.vector_norm(tensor, dim=-1, keepdim=True)
    return torch.where(norms > SHORTEST_TOKEN, 1 / norms, torch.zeros_like(norms))


def difference_vector(a: torch.Tensor, b: torch.Tensor, normalize: bool = False, scale: float = 1.0) -> torch.Tensor:
    """scale * (a - b), the direction from prompt b to prompt a.

    Args:
        a: the base, [tokens, width].
        b: what is subtracted.
        normalize: give each token of the difference unit L2 norm before it is scaled.
        scale: factor on the result.

    Source: steering by a difference of activations, Turner et al. 2023 (arXiv:2308.10248).
    """
    x, y = working(a, b)
    out = x - y
    if normalize:
        out.mul_(_unit_factors(out))
    return returned(out if scale == 1.0 else out.mul_(scale), a, "Vector difference")


def add(base: torch.Tensor, operands: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """base + sum of weight * operand."""
    return returned(_weighted(base, operands, weights), base, "Add")


def weighted_sum(base: torch.Tensor, operands: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """base + sum of weight * operand, divided by the sum of the weights' magnitudes; the base's weight is 1."""
    total = 1.0 + sum(abs(w) for w in weights)
    out = _weighted(base, operands, weights)
    return returned(out if total == 1.0 else out.div_(total), base, "Weighted sum")


def multiply(base: torch.Tensor, operands: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """base * (weight * operand) * ..., element by element. Tokens that one of them lacks become zero."""
    out, *others = working(base, *operands)
    for other, weight in zip(others, weights, strict=True):
        out = out * other
        out = out if weight == 1.0 else out.mul_(weight)
    return returned(out, base, "Multiply")


def normalize(base: torch.Tensor, operands: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """The sum that `add` gives, with unit L2 norm per token."""
    out = _weighted(base, operands, weights)
    factors = _unit_factors(out)
    return returned(out.mul_(factors) if operands else out * factors, base, "Normalize")


def combine(
    operation: ArithmeticOperation, base: torch.Tensor, operands: Sequence[torch.Tensor], weights: Sequence[float]
) -> torch.Tensor:
    """The operation of that name.

    Raises:
        ValueError: an unknown operation.
    """
    functions = {"add": add, "weighted_sum": weighted_sum, "multiply": multiply, "normalize": normalize}
    if operation not in functions:
        raise ValueError(f"operation must be one of {', '.join(functions)}, not {operation!r}.")
    return functions[operation](base, operands, weights)


def _weighted(base: torch.Tensor, operands: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    out, *others = working(base, *operands)
    for number, (other, weight) in enumerate(zip(others, weights, strict=True)):
        # The first addition makes a new tensor; the base itself is never written to.
        out = torch.add(out, other, alpha=weight) if number == 0 else out.add_(other, alpha=weight)
    return out

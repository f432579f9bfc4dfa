"""Arithmetic of control vectors.

A vector counts as its direction times its scale, which is what relative strength 1 adds; so sums are linear, and
adding the sum of two is adding both. Vectors of one site, width and model go together; the blocks have to be the same,
and noise levels are those of the first vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..patching.capture import HiddenStates
from ..patching.concepts import between
from .control_vector import TENSORS, ControlVector, ControlVectorError

NOTHING = 1e-3
"""Length of a result, in units of its longest term, below which only rounding is left of it."""


def add(first: ControlVector, *others: ControlVector, weights: Sequence[float] | None = None) -> ControlVector:
    """The weighted sum.

    Args:
        weights: one per vector; all 1 by default.

    Raises:
        ControlVectorError: the vectors do not go together, have more than one direction, or cancel each other out.
    """
    vectors = (first, *others)
    factors = _weights(weights, len(vectors))
    origin = " + ".join(f"{w:g} ({v.origin})" for w, v in zip(factors, vectors, strict=True))
    return _combined(_aligned(vectors, "add"), torch.tensor(factors, dtype=torch.float64), origin)


def subtract(first: ControlVector, second: ControlVector) -> ControlVector:
    """The difference. Raises as `add`."""
    return add(first, second, weights=(1.0, -1.0))


def scale(vector: ControlVector, factor: float) -> ControlVector:
    """A vector that is `factor` times as long; a negative one points the other way.

    Raises:
        ControlVectorError: the factor is 0 or no number, or the length leaves what float32 holds.
    """
    if not math.isfinite(factor) or factor == 0:
        raise ControlVectorError(f"A control vector cannot be scaled by {factor!r}: nothing would be left.")
    turned = vector if factor > 0 else -vector
    length = turned.scale * abs(factor)
    if not length.isfinite().all() or ((length == 0) & (turned.scale > 0)).any():
        raise ControlVectorError(f"A control vector cannot be scaled by {factor!r}: its length leaves float32.")
    return replace(turned, scale=length, origin=f"{factor:g} ({vector.origin})")


def project(vector: ControlVector, onto: Sequence[ControlVector]) -> ControlVector:
    """What a vector has in common with the space that others span.

    Raises:
        ControlVectorError: as `add`, or it is orthogonal to them.
    """
    origin = f"({vector.origin}) within ({_names(onto)})"
    aligned, within = _within(vector, onto, "project")
    return _combined(aligned, torch.cat([torch.zeros_like(within[..., :1]), within], -1), origin, beside_first=True)


def orthogonalise(vector: ControlVector, against: Sequence[ControlVector]) -> ControlVector:
    """A vector without what it has in common with the space that others span.

    Raises:
        ControlVectorError: as `add`, or it lies in that space.
    """
    origin = f"({vector.origin}) without ({_names(against)})"
    aligned, within = _within(vector, against, "orthogonalise")
    return _combined(aligned, torch.cat([torch.ones_like(within[..., :1]), -within], -1), origin)


def one_level(
    directions: torch.Tensor, blocks: Sequence[int], *, site: str, block_count: int, origin: str, level: float = 1.0,
    model_name: str = "", identity: str = "",
) -> ControlVector:  # fmt: skip
    """A control vector of given vectors, for every noise level; their norms become its scale.

    Args:
        directions: [blocks, channels], not 0.

    Raises:
        ControlVectorError: a vector is 0, or `ControlVector` refuses the values.
    """
    norms = directions.float().norm(dim=-1)
    if (norms == 0).any():
        raise ControlVectorError(f"{origin}: the difference is zero. Take it from two prompts that differ.")
    b = len(directions)
    return ControlVector(
        site, tuple(blocks), (level,), (directions.float() / norms[:, None])[:, None, None], norms[:, None],
        torch.zeros(b, 1, 1), norms[:, None, None], torch.full((b,), math.nan), block_count=block_count,
        origin=origin, model_name=model_name, identity=identity, method="difference",
    )  # fmt: skip


def of_hidden_states(states: HiddenStates) -> ControlVector:
    """The mean token of captured hidden states, as a vector for every noise level.

    It holds all that they show; the difference of two, or the rest beside others, is a direction to steer along.
    """
    means = torch.stack([state.float().mean(dim=(0, 1)) for state in states.states])
    return one_level(
        means,
        states.blocks,
        site="hidden",
        block_count=0,
        origin=f"hidden states of {states.prompt or 'a prompt'}",
        level=float(states.sigma),
        model_name=states.model_name,
    )


def at_levels(vector: ControlVector, levels: tuple[float, ...]) -> ControlVector:
    """A vector at other noise levels: interpolated linearly between its own, with unit directions."""
    if levels == vector.levels:
        return vector
    read: dict[str, Any] = {}
    for name in TENSORS:
        value = getattr(vector, name)
        if value is not None and name != "separability":
            around = [between(vector.levels, level) for level in levels]
            read[name] = torch.stack([torch.lerp(value[:, a], value[:, b], w) for a, b, w in around], 1)
    read["directions"] = torch.nn.functional.normalize(read["directions"], dim=-1)
    return replace(vector, levels=levels, **read)


def _weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    factors = (1.0,) * count if weights is None else tuple(float(w) for w in weights)
    if len(factors) != count or not all(map(math.isfinite, factors)):
        raise ControlVectorError(f"{count} vectors need as many finite weights, not {list(factors)}.")
    if not any(factors):
        raise ControlVectorError("All weights are 0: nothing is left.")
    return factors


def _names(vectors: Sequence[ControlVector]) -> str:
    return ", ".join(v.origin for v in vectors)


def _aligned(vectors: Sequence[ControlVector], what: str) -> list[ControlVector]:
    """The vectors at the levels of the first."""
    first = vectors[0]
    for number, other in enumerate(vectors, 1):
        if other.count > 1:
            raise ControlVectorError(f"{what}: vector {number} has {other.count} directions; use vectors of one.")
        for name, meaning in (("site", "site"), ("width", "width"), ("block_count", "number of blocks")):
            mine, theirs = getattr(first, name), getattr(other, name)
            if mine != theirs and not (name == "block_count" and 0 in (mine, theirs)):
                raise ControlVectorError(f"{what}: vector 1 has {meaning} {mine}, vector {number} has {theirs}.")
        if first.identity and other.identity and first.identity != other.identity:
            raise ControlVectorError(
                f"{what}: vector 1 is of {first.model_name} ({first.identity}), vector {number} of "
                f"{other.model_name} ({other.identity}). Fit both on one model."
            )
        if other.blocks != first.blocks:
            apart = sorted(set(first.blocks) ^ set(other.blocks))
            raise ControlVectorError(
                f"{what}: only one of vectors 1 and {number} has block {', '.join(map(str, apart))}. "
                "Fit both on the same blocks."
            )
    return [at_levels(vector, first.levels) for vector in vectors]


def _lengths(vectors: Sequence[ControlVector]) -> torch.Tensor:
    """The vectors at their lengths, [B, L, D, n] in float64."""
    return torch.stack([v.directions[:, :, 0].double() * v.scale[..., None].double() for v in vectors], -1)


def _within(
    vector: ControlVector, others: Sequence[ControlVector], what: str
) -> tuple[list[ControlVector], torch.Tensor]:
    """The vectors aligned, and [B, L, n], the multiples of the others whose sum is nearest to the first."""
    if not others:
        raise ControlVectorError(f"{what} needs at least one other vector.")
    aligned = _aligned((vector, *others), what)
    whole, span = _lengths(aligned[:1]), _lengths(aligned[1:])
    return aligned, (torch.linalg.pinv(span, rtol=1e-6) @ whole)[..., 0]


def _combined(
    vectors: Sequence[ControlVector], factors: torch.Tensor, origin: str, beside_first: bool = False
) -> ControlVector:
    """The sum of multiples of aligned vectors; raises when it vanishes somewhere.

    Args:
        factors: [n] or [B, L, n].
        beside_first: the sum vanishes also where it is nothing beside the first vector.
    """
    first, terms = vectors[0], _lengths(vectors)
    factors = factors.double().expand(*terms.shape[:2], -1)
    total = (terms * factors[..., None, :]).sum(-1)
    norms = total.norm(dim=-1)
    longest = (terms.norm(dim=2) * factors.abs()).amax(-1)
    if beside_first:
        longest = torch.maximum(longest, terms[..., 0].norm(dim=-1))
    vanished = (norms <= NOTHING * longest).any(1)
    if vanished.any():
        where = ", ".join(str(first.blocks[i]) for i in vanished.nonzero()[:, 0].tolist())
        raise ControlVectorError(f"{origin}: nothing is left" + (f" in block {where}." if first.block_count else "."))
    # A projection onto the sum is the sum of projections.
    shares = factors * torch.stack([v.scale for v in vectors], -1).double() / norms[..., None]
    sums: dict[str, Any] = {
        name: (shares * torch.stack([getattr(v, name)[..., 0] for v in vectors], -1)).sum(-1, keepdim=True).float()
        for name in ("neutral", "positive")
    }
    return replace(
        next((v for v in vectors if v.identity), first),
        directions=(total / norms[..., None]).float()[:, :, None],
        scale=norms.float(),
        separability=torch.full_like(first.separability, math.nan),
        transport_scale=None,
        transport_shift=None,
        method="arithmetic",
        origin=origin,
        **sums,
    )

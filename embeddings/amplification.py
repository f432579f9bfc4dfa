"""Moving an injected prompt until it differs from the main one by a target, with its token norms kept.

A mode names two token sets A and V; the candidates are

    I(s) = n * (A + s V) / |A + s V|     token by token, n = the injection's token norm, s from 0 to infinity

- push_apart: A = main, V = injection - main. s = 1 is the injection itself.
- maximize_diff: V = injection - main in the 30% of dimensions where it varies most over the tokens, else 0;
  A = injection - V. s = 1 is the injection itself.
- orthogonalize: A = main, V = the part of the injection that is orthogonal to main.

The target difference is read in one of three metrics, in percent, over real tokens:

- changed_share: elements that differ by more than 0.01;
- relative_l2: 100 |I - main| / |main|;
- cosine: 100 (1 - mean cosine of the tokens that both prompts have).

s is solved for: s = k tan(phi), phi from 0 to pi/2, is bracketed on a grid and bisected. For relative_l2 and cosine the
metric is a function of a few inner products per token. For changed_share the search runs on a sample of the elements,
and each candidate is then measured on all of them, in the dtype that is returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from .difference import CHANGED_THRESHOLD
from .precision import returned, working
from .target_search import TargetSearch
from .text_embeds import EmbedsError

AmplificationMode = Literal["push_apart", "maximize_diff", "orthogonalize"]
Metric = Literal["changed_share", "relative_l2", "cosine"]
AMPLIFICATION_MODES: tuple[AmplificationMode, ...] = get_args(AmplificationMode)
METRICS: tuple[Metric, ...] = get_args(Metric)

TOLERANCE = 0.5
"""Largest distance from the target, in percentage points."""

VARYING_SHARE = 0.3
"""Share of dimensions that maximize_diff moves."""

_CLOSE = 0.1  # the solver stops at this distance from the target, in percentage points
_SAMPLE = 1 << 15
_PART = 1 << 15  # elements that are measured at a time
_CORRECTIONS = 8
_LIMIT = math.pi / 2


class UnreachableTargetError(EmbedsError):
    """No scale gives the target difference; the message says which differences the mode can reach."""


@dataclass(frozen=True, eq=False)
class Amplified:
    """An injection whose difference from the main prompt is the target.

    Args:
        embedding: [tokens, width], dtype and device of the injection given.
        before: difference of the injection given, in percent.
        after: difference of `embedding`, measured on it, in percent.
        scale: s of the mode's formula; infinity is V alone. None when nothing had to change.
    """

    embedding: torch.Tensor
    before: float
    after: float
    scale: float | None


def measure(main: torch.Tensor, injection: torch.Tensor, metric: Metric = "changed_share") -> float:
    """Difference of two prompts [tokens, width] in percent; the shorter one is padded with zero rows.

    Raises:
        ValueError: an unknown metric.
        EmbedsError: main is zero, so nothing is relative to it.
    """
    _check_metric(metric)
    both = min(len(main), len(injection))
    a, b = working(main, injection)
    if metric == "changed_share":
        return _changed(b, a)
    if metric == "cosine":
        return 100.0 * (1.0 - float(torch.cosine_similarity(a[:both], b[:both], dim=-1).double().mean()))
    norm = float(torch.linalg.vector_norm(a))
    if norm == 0:
        raise EmbedsError("The main prompt is all zeros, so no difference can be relative to it.")
    return 100.0 * float(torch.linalg.vector_norm(b - a)) / norm


def amplify(
    main: torch.Tensor,
    injection: torch.Tensor,
    target: float,
    mode: AmplificationMode = "push_apart",
    metric: Metric = "changed_share",
) -> Amplified:
    """Move `injection` so that it differs from `main` by `target` percent, within 0.5 points.

    An injection that differs by less is moved away from main, one that differs by more is moved towards it. One that is
    at the target is returned as it is. Norms of its tokens are kept to the rounding of its dtype.

    Args:
        main: [tokens, width].
        injection: [tokens, width].
        target: percent, in `metric`.
        mode: see the module's description.
        metric: see the module's description.

    Raises:
        UnreachableTargetError: identical prompts, or a target outside of what the mode can reach.
        ValueError: an unknown mode or metric.
    """
    _check_metric(metric)
    before = measure(main, injection, metric)
    if abs(before - target) <= TOLERANCE:
        return Amplified(injection, before, before, None)
    path = _Path(main, injection, mode)
    estimate = _sampled_share(path) if metric == "changed_share" else _token_difference(path, metric)

    def exact(phi: float) -> float:
        return measure(main, path.at(phi), metric)

    search = TargetSearch(estimate, path.identity, _LIMIT, tolerance=_CLOSE / 10)
    best: tuple[float, float] | None = None
    offset = 0.0  # what the search's estimate lacks, corrected by measuring
    for _ in range(_CORRECTIONS):
        tried, reached = search.solve(target - offset)
        after = exact(tried)
        if best is None or abs(after - target) < abs(best[1] - target):
            best = tried, after
        if abs(after - target) <= _CLOSE or abs(after - reached - offset) < 1e-6:
            break
        offset = after - reached
    phi, after = best  # type: ignore[misc]
    if abs(after - target) > TOLERANCE:
        search = TargetSearch(exact, path.identity, _LIMIT, tolerance=_CLOSE)
        phi, after = search.solve(target)
    if abs(after - target) > TOLERANCE:
        lowest, highest = map(exact, search.extremes())
        if lowest <= target <= highest:
            raise UnreachableTargetError(
                f"the target of {target:g}% ({metric}) is skipped by {mode}: the difference jumps past it, and the "
                f"nearest is {after:.1f}%. Set target_difference to that, or choose another mode or metric."
            )
        word = "above" if target > after else "below"
        raise UnreachableTargetError(
            f"the target of {target:g}% ({metric}) is {word} what {mode} can reach with token norms kept: "
            f"from {lowest:.1f}% to at most {highest:.1f}% (the prompts differ by {before:.1f}% now). "
            "Set target_difference within that range, or choose another amplification_mode or metric."
        )
    embedding = returned(path.at(phi), injection, "Amplify")
    return Amplified(embedding, before, after, path.scale(phi))


def _check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, not {metric!r}.")


def _changed(values: torch.Tensor, main: torch.Tensor) -> float:
    """Share of changed elements in percent, counted in parts that stay in the processor's cache."""
    count = 0
    for a, b in zip(*(torch.split(x.reshape(-1), _PART) for x in (values, main)), strict=True):
        count += int(torch.count_nonzero((a - b).abs_() > CHANGED_THRESHOLD))
    return 100.0 * count / main.numel()


class _Path:
    """The candidates of one mode, by angle phi: 0 is A, pi/2 is V, each at the injection's token norms."""

    def __init__(self, main: torch.Tensor, injection: torch.Tensor, mode: str) -> None:
        self.injection = injection
        self.both = min(len(main), len(injection))
        inner, self.main = working(injection, main)
        self.norms = torch.linalg.vector_norm(inner, dim=-1, keepdim=True)
        d = inner - self.main
        if not torch.linalg.vector_norm(d):
            raise UnreachableTargetError(
                "main_embeds and injection_embeds are identical, so there is no direction to move along. "
                "Use two prompts that differ."
            )
        if not torch.count_nonzero(inner):
            raise UnreachableTargetError("injection_embeds is all zeros, and norms are kept. Inject another prompt.")
        a, v = _directions(mode, self.main, inner, d)
        aa, vv = _inner(a, a), _inner(v, v)
        shared = slice(self.both) if vv[: self.both].any() else slice(None)
        self.unit = math.sqrt(aa[shared].sum().item() / vv[shared].sum().item()) or 1.0
        # A token that is zero in one of the two has one direction only, at every angle.
        self.start, self.direction = _filled(a, v, aa == 0), _filled(v, a, vv == 0)
        av = _inner(self.start, self.direction)
        self._products = torch.where(aa > 0, aa, vv), av, torch.where(vv > 0, vv, aa)
        self._buffer = torch.empty_like(a)

    def weights(self, phi: float) -> tuple[float, float]:
        """Factors of A and V, up to the token's norm; exact at both ends."""
        if phi == _LIMIT:
            return 0.0, self.unit
        return math.cos(phi), math.sin(phi) * self.unit

    def scale(self, phi: float) -> float:
        """s of the module's formula."""
        return math.inf if phi == _LIMIT else self.unit * math.tan(phi)

    @property
    def identity(self) -> float:
        """The angle of s = 1."""
        return math.atan2(1.0, self.unit)

    def at(self, phi: float) -> torch.Tensor:
        """The candidate, in the injection's shape and dtype. The next call overwrites it."""
        a, b = self.weights(phi)
        out = torch.mul(self.start, a, out=self._buffer).add_(self.direction, alpha=b)
        norms = torch.linalg.vector_norm(out, dim=-1, keepdim=True)
        out.mul_(torch.where(norms > 0, self.norms / norms, norms))
        return out[: len(self.injection)].to(self.injection.dtype)

    def norm_factor(self, phi: float) -> torch.Tensor:
        """n / |a A + b V| per token, from inner products alone, float64 [tokens]."""
        a, b = self.weights(phi)
        aa, av, vv = self._products
        squared = (a * a * aa + 2 * a * b * av + b * b * vv).clamp_min_(0)
        return torch.where(squared > 0, self.norms.squeeze(-1) * squared.rsqrt(), squared)


def _directions(
    mode: str, main: torch.Tensor, injection: torch.Tensor, d: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A and V of a mode; d = injection - main may be written to."""
    if mode == "push_apart":
        return main, d
    if mode == "maximize_diff":
        spread = d.square().mean(dim=0) - (d.mean(dim=0).square() if len(d) > 1 else 0)
        chosen = torch.zeros_like(spread)
        chosen[torch.topk(spread, max(1, round(VARYING_SHARE * len(spread)))).indices] = 1
        v = d.mul_(chosen)
        return injection - v, v
    if mode == "orthogonalize":
        # The orthogonal part of d is that of the injection; d is free of the large common part.
        share = _inner(d, main) / _inner(main, main).clamp_min(torch.finfo(torch.float32).tiny)
        size = torch.linalg.vector_norm(d)
        v = d.addcmul_(main, share.to(d.dtype).unsqueeze(-1), value=-1)
        if torch.linalg.vector_norm(v) <= 1e-5 * size:
            raise UnreachableTargetError(
                "injection_embeds is parallel to main_embeds: no orthogonal part is left to scale. Use push_apart."
            )
        return main, v
    raise ValueError(f"amplification_mode must be one of {', '.join(AMPLIFICATION_MODES)}, not {mode!r}.")


def _filled(tokens: torch.Tensor, others: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    return torch.where(empty.unsqueeze(-1), others, tokens) if empty.any() else tokens


def _inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner product per token, float64. [tokens, width] twice -> [tokens]."""
    inner: torch.Tensor = torch.linalg.vecdot(a, b)
    return inner.double()


def _sampled_share(path: _Path) -> Callable[[float], float]:
    """The share of changed elements by angle, in percent, estimated on a fixed sample of each token's elements."""
    tokens, width = path.main.shape
    sample, dtype = (path.start, path.direction, path.main), path.injection.dtype
    count = max(1, _SAMPLE // tokens)
    if count < width:
        index = torch.randint(width, (tokens, count), generator=torch.Generator().manual_seed(0)).to(path.main.device)
        sample = path.start.gather(1, index), path.direction.gather(1, index), path.main.gather(1, index)
    start, direction, main = sample

    def share(phi: float) -> float:
        a, b = path.weights(phi)
        factor = path.norm_factor(phi).to(start.dtype).unsqueeze(-1)
        values = torch.mul(start, a).add_(direction, alpha=b).mul_(factor)
        return _changed(values.to(dtype).to(main.dtype), main)

    return share


def _token_difference(path: _Path, metric: str) -> Callable[[float], float]:
    """The relative L2 or cosine difference by angle, in percent, from inner products per token."""
    start_main, direction_main, main_main = (_inner(x, path.main) for x in (path.start, path.direction, path.main))
    norms = path.norms.squeeze(-1).double()
    lengths = (norms * main_main.sqrt()).clamp_min(1e-16)

    def difference(phi: float) -> float:
        a, b = path.weights(phi)
        inner = path.norm_factor(phi) * (a * start_main + b * direction_main)
        if metric == "relative_l2":
            squared = (norms.square() + main_main - 2 * inner).sum().clamp_min(0)
            return 100.0 * math.sqrt(squared.item() / main_main.sum().item())
        return 100.0 * (1.0 - float((inner / lengths)[: path.both].mean()))

    return difference

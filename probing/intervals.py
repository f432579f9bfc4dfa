"""Bootstrap intervals for means over few seeds, and rank correlation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

RESAMPLES = 4000
_Z = 1.959963984540054
# Student's t at 97.5 % by degrees of freedom.
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
      2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484,
      2.0452, 2.0423)  # fmt: skip


def bootstrap_interval(samples: Array, resamples: int = RESAMPLES) -> Array:
    """95 % interval of the mean over the first axis.

    Whole entries of the first axis are drawn, so that what was measured with one seed stays together (paired). The
    percentile interval is too narrow for few seeds: its distance from the mean is widened by what Student's t has over
    the normal distribution, and by n over n - 1. Source: Hesterberg, What Teachers Should Know About the Bootstrap,
    2015, section 4.3.

    Args:
        samples: [seeds, ...].

    Returns:
        [2, ...]: lower and upper end; NaN for one seed, of which nothing can be said.
    """
    n = len(samples)
    if n < 2:
        return np.full((2, *samples.shape[1:]), np.nan)
    mean = samples.mean(axis=0)
    drawn = np.random.default_rng(0).integers(0, n, (resamples, n))
    weights = np.stack([np.bincount(row, minlength=n) for row in drawn]) / n
    flat = samples.reshape(n, -1)
    means = weights @ flat
    spread = np.percentile(means, [2.5, 97.5], axis=0) - flat.mean(axis=0)
    t = _T[n - 2] if n - 2 < len(_T) else _Z
    widened: Array = mean + (spread * (t / _Z) * math.sqrt(n / (n - 1))).reshape(2, *samples.shape[1:])
    return widened


def ranks(values: Array) -> Array:
    """Ranks from 0, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Array = (last - (counts + 1) / 2)[inverse]
    return shared


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's rank correlation; NaN where one of the two is constant."""
    x, y = ranks(np.asarray(a)), ranks(np.asarray(b))
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])

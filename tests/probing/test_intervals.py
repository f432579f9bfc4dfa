"""Intervals cover what they claim to, on numbers whose mean is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from wanvideo_activation_editor.patching.operations import Add, Blend
from wanvideo_activation_editor.probing.effects import RandomDirection
from wanvideo_activation_editor.probing.intervals import bootstrap_interval, rank_correlation, ranks


@pytest.mark.parametrize("seeds", [3, 4, 8, 20])
@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_95_percent_intervals_cover_the_mean_in_at_least_90_percent_of_studies(seeds, kind):
    rng = np.random.default_rng(seeds)
    shape = seeds, 1500  # each column is a study of its own
    samples = rng.normal(2.0, 1.0, shape) if kind == "normal" else rng.gamma(4.0, 0.5, shape)
    low, high = bootstrap_interval(samples)
    covered = ((low <= 2.0) & (high >= 2.0)).mean()
    assert 0.90 <= covered <= 0.995
    assert (low < high).all()


def test_an_interval_shrinks_with_seeds_and_one_seed_has_none():
    rng = np.random.default_rng(0)
    widths = [np.diff(bootstrap_interval(rng.normal(size=(n, 200))), axis=0).mean() for n in (4, 16, 64)]
    assert widths[0] > 2 * widths[1] > 3 * widths[2]
    assert np.isnan(bootstrap_interval(np.ones((1, 3)))).all()
    assert np.array_equal(bootstrap_interval(np.ones((5, 3))), np.ones((2, 3)))


def test_entries_of_a_seed_are_drawn_together():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(6, 1))
    low, high = bootstrap_interval(np.concatenate([one, one + 3.0, one], axis=1))
    assert low[1] - low[0] == pytest.approx(3.0) and low[2] == low[0] and high[2] == high[0]


def test_rank_correlation_is_spearmans():
    a = np.array([3.0, 1.0, 2.0, 2.0])
    assert ranks(a).tolist() == [3.0, 0.0, 1.5, 1.5]
    assert rank_correlation(np.arange(5.0), np.exp(np.arange(5.0))) == pytest.approx(1.0)
    assert rank_correlation(np.arange(5.0), -np.arange(5.0)) == pytest.approx(-1.0)
    x, y = np.random.default_rng(1).normal(size=(2, 30))
    differences = ranks(x) - ranks(y)
    assert rank_correlation(x, y) == pytest.approx(1 - 6 * (differences**2).sum() / (30 * (30**2 - 1)))
    assert math.isnan(rank_correlation(np.ones(4), x[:4]))


@pytest.mark.parametrize("operation", [Blend(), Add()])
def test_the_random_direction_has_the_norms_and_angles_of_the_edits_own_change(operation):
    x, value = torch.randn(2, 2, 7, 64)
    own = operation(x, value, 0.6) - x
    control = RandomDirection(operation, seed=3)
    random = control(x, value, 0.6) - x
    assert torch.allclose(random.norm(dim=-1), own.norm(dim=-1), rtol=1e-4)
    assert torch.allclose(random @ random.mT, own @ own.mT, atol=1e-3)
    assert torch.nn.functional.cosine_similarity(random, own, dim=-1).abs().mean() < 0.3
    assert torch.equal(random, control(x, value, 0.6) - x)
    assert not torch.allclose(random, RandomDirection(operation, seed=4)(x, value, 0.6) - x)

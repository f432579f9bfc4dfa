"""Analysis figures against matrices whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from wanvideo_activation_editor.embeddings.analysis import (
    effective_rank,
    highest_variance_dimensions,
    principal_components,
    statistics,
)
from wanvideo_activation_editor.embeddings.report import pca_report, shape_report, statistics_report


def low_rank(rank: int, tokens: int = 60, width: int = 128, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, rank, generator=generator) @ torch.randn(rank, width, generator=generator)


@given(st.integers(1, 12), st.integers(0, 1000))
def test_components_of_a_matrix_of_known_rank(rank, seed):
    pca = principal_components(low_rank(rank, seed=seed))
    assert len(pca.explained_variance) == rank
    assert sum(pca.explained_variance) == pytest.approx(1.0)
    assert list(pca.explained_variance) == sorted(pca.explained_variance, reverse=True)
    assert 1 <= pca.effective_rank <= rank + 1e-9
    assert pca.components_for(1.0) == rank
    assert pca.components_for(0.9) <= pca.components_for(0.95) <= rank


def test_explained_variance_agrees_with_torch_pca_lowrank():
    x = low_rank(6) + 0.1 * low_rank(60, seed=1)
    torch.manual_seed(0)
    _, singular, _ = torch.pca_lowrank(x, q=20, niter=6)
    expected = singular.double().square() / (x - x.mean(0)).double().square().sum()
    assert principal_components(x).explained_variance[:6] == pytest.approx(expected[:6].tolist(), rel=1e-3)


def test_a_shift_of_all_tokens_changes_no_component():
    x = low_rank(4)
    shifted = principal_components(x + 3.0)
    assert shifted.explained_variance[:4] == pytest.approx(principal_components(x).explained_variance, rel=1e-3)


@pytest.mark.parametrize("tensor", [torch.randn(1, 16), torch.randn(1, 16).expand(9, 16), torch.zeros(3, 16)])
def test_equal_tokens_have_no_component(tensor):
    pca = principal_components(tensor)
    assert (pca.explained_variance, pca.effective_rank, pca.components_for(0.9)) == ((), 0.0, 0)
    assert "none" in pca_report(tensor)


def test_effective_rank_of_known_spectra():
    """Roy and Vetterli 2007: r equal singular values give r; p = (3/4, 1/4) gives exp of its entropy."""
    assert effective_rank(torch.ones(7) * 5) == pytest.approx(7)
    assert effective_rank(torch.tensor([2.0, 0.0, 0.0])) == pytest.approx(1)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(torch.tensor([3.0, 1.0])) == pytest.approx(math.exp(entropy))
    with pytest.raises(ValueError, match="zero matrix"):
        effective_rank(torch.zeros(3))


def test_statistics_by_hand():
    s = statistics(torch.tensor([[3.0, 4.0], [0.0, 0.0005]], dtype=torch.float64))
    assert (s.minimum, s.maximum, s.near_zero) == (0.0, 4.0, 0.5)
    assert s.mean == pytest.approx(7.0005 / 4)
    assert s.norm == pytest.approx(5.0)
    assert (s.token_norm_max, s.token_norm_min) == (pytest.approx(5.0), pytest.approx(0.0005))
    assert s.token_norm_std == pytest.approx(2.49975)
    assert s.std == pytest.approx(torch.tensor([3.0, 4.0, 0.0, 0.0005]).std(correction=0).item())


def test_the_dimensions_that_vary_most_come_first():
    x = torch.zeros(4, 6)
    x[:, 4], x[:, 1] = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([2.0, -2.0, 2.0, -2.0])
    assert highest_variance_dimensions(x, 2) == [(1, 4.0), (4, 1.0)]
    assert len(highest_variance_dimensions(x, 10)) == 6


def test_reports_hold_the_figures():
    x = low_rank(3).to(torch.bfloat16)
    assert shape_report(x) == "  Shape: 60 tokens x 128, bfloat16 on cpu, 15 KiB"
    assert f"std {statistics(x).std:.5g}" in statistics_report(x)
    assert f"effective rank {principal_components(x).effective_rank:.2f}" in pca_report(x)

"""Distances against values that can be written down."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from wanvideo_activation_editor import frame_cosine, relative_l2, ssim, temporal_difference
from wanvideo_activation_editor.probing.distances import DISTANCES, motion_energy

X = torch.randn(1, 4, 5, 16, 16, generator=torch.Generator().manual_seed(0))
Y = torch.randn(1, 4, 5, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", DISTANCES)
def test_a_video_has_no_distance_from_itself_and_some_from_another(name):
    assert DISTANCES[name](X, X.clone()) == 0.0
    assert abs(DISTANCES[name](X, X + Y)) > 0.01
    with pytest.raises(ValueError, match="two tensors of one shape"):
        DISTANCES[name](X, Y[..., :8])


def test_relative_l2():
    assert relative_l2(X, 1.5 * X) == pytest.approx(0.5, rel=1e-6)
    assert relative_l2(torch.zeros(2), torch.zeros(2)) == 0.0
    assert relative_l2(X.half(), (2 * X).half()) == pytest.approx(1.0, rel=1e-2)
    with pytest.raises(ValueError, match="0 everywhere"):
        relative_l2(torch.zeros(2), torch.ones(2))


def test_the_cosine_is_taken_frame_by_frame():
    assert frame_cosine(X, 3 * X) == pytest.approx(0.0, abs=1e-9)
    one = X.clone()
    one[:, :, 2] *= -1
    assert frame_cosine(X, one) == pytest.approx(2 / 5)
    by_hand = [
        1 - float((a * b).sum() / (a.norm() * b.norm())) for a, b in zip(X[0].unbind(1), Y[0].unbind(1), strict=True)
    ]
    assert frame_cosine(X, Y) == pytest.approx(sum(by_hand) / 5, rel=1e-5)


def test_ssim_of_its_definition():
    """One picture of one window: the statistics can be taken by hand."""
    a, b = X[0, 0, 0, :11, :11].double(), Y[0, 0, 0, :11, :11].double()
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / 4.5)
    w = torch.tensor(np.outer(line, line) / line.sum() ** 2)
    peak = 2.0
    ma, mb = (w * a).sum(), (w * b).sum()
    va, vb, cov = (w * a * a).sum() - ma**2, (w * b * b).sum() - mb**2, (w * a * b).sum() - ma * mb
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    known = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    assert ssim(a, b, peak) == pytest.approx(1 - float(known), rel=1e-9)
    assert ssim(a, -a, peak) > 1.5


def test_ssim_reads_clips_of_frames_and_orders_damage():
    clip = (torch.rand(3, 32, 32, 3, generator=torch.Generator().manual_seed(2)) * 255).to(torch.uint8)
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(3))
    little, much = ((clip + s * noise).clamp(0, 255).to(torch.uint8) for s in (10, 80))
    assert 0 < ssim(clip, little) < ssim(clip, much) < 2
    with pytest.raises(ValueError, match="too small"):
        ssim(torch.zeros(2, 2), torch.zeros(2, 2))


def test_temporal_difference_is_0_at_equal_motion_and_signed():
    assert temporal_difference(X, X + 3.0) == pytest.approx(0.0, abs=1e-6)
    assert temporal_difference(X, 2 * X) == pytest.approx(math.log(4))
    assert temporal_difference(2 * X, X) == pytest.approx(-math.log(4))
    with pytest.raises(ValueError, match="one frame has no motion"):
        temporal_difference(X[:, :, :1], Y[:, :, :1])
    with pytest.raises(ValueError, match="does not move"):
        temporal_difference(X, torch.ones_like(X))


def test_motion_energy_is_the_part_that_differs_between_frames():
    still = X[:, :, :1].expand_as(X)
    assert motion_energy(still) == pytest.approx(0.0, abs=1e-12)
    assert motion_energy(X - X.mean(dim=2, keepdim=True)) == pytest.approx(1.0)
    moving = X - X.mean(dim=2, keepdim=True)
    moving = moving * (still.norm() / moving.norm())
    assert motion_energy(still + moving) == pytest.approx(0.5, rel=1e-5)
    pairs = sum(float((X[:, :, s] - X[:, :, t]).double().square().sum()) for s in range(5) for t in range(s))
    assert motion_energy(X) == pytest.approx(pairs / (5 * float(X.double().square().sum())))
    assert motion_energy(torch.zeros(2, 3, 4, 4)) == 0.0

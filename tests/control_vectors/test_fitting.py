"""What fitting finds, where the answer is known."""

from __future__ import annotations

import json
import math

import pytest
import torch
from wanvideo_activation_editor.vectors import ControlVectorError
from wanvideo_activation_editor.vectors.fitting import METHODS, Fit, area_under_curve
from wanvideo_activation_editor.vectors.moments import Moments
from wanvideo_activation_editor.vectors.pairs import checked_pairs, differing_spans, read_pairs

WIDTH = 256


def planted(method="mean_difference", pair_noise=0.0, swap=False, held_out=(), components=1, massive=0.0):
    """A fit of 32 pairs whose tokens differ by a unit direction; each token has noise of norm 1 of its own.

    Args:
        pair_noise: norm of what else the prompts of a pair differ by.
        massive: spread of one channel of every token.
    """
    generator = torch.Generator().manual_seed(0)

    def units(*shape):
        return torch.nn.functional.normalize(torch.randn(*shape, WIDTH, generator=generator), dim=-1)

    u, fit = units(), Fit(method, held_out, components)
    for pair in range(32):
        base, away = units(1), u + pair_noise * units()
        for positive in (True, False):
            tokens = base + units(40) + (0.5 if positive else -0.5) * away
            tokens[:, 7] += massive * torch.randn(40, generator=generator)
            fit.add(3, 0.5, pair, positive != swap, tokens)
    return fit.result("hidden", block_count=4), u


@pytest.mark.parametrize("method", ["mean_difference", "transport", "standardised", "pca"])
def test_a_planted_direction_is_found_from_32_pairs_with_noise_of_equal_norm(method):
    found, u = planted(method)
    assert float(found.directions[0, 0, 0] @ u) > 0.99
    # What pairs themselves differ by averages out with their number alone: 1 / sqrt(1 + 1/32) = 0.985 at best.
    found, u = planted(method, pair_noise=1.0)
    assert float(found.directions[0, 0, 0] @ u) > 0.97


@pytest.mark.parametrize("method", METHODS)
def test_swapped_pairs_give_the_exact_negative(method):
    found, back = planted(method)[0], planted(method, swap=True)[0]
    assert torch.equal(back.directions, -found.directions)
    assert torch.equal(back.scale, found.scale)
    assert torch.equal(back.neutral, -found.positive) and torch.equal(back.positive, -found.neutral)
    if method == "transport":
        inverse = -found
        assert torch.allclose(back.transport_scale, inverse.transport_scale, rtol=1e-4)
        assert torch.allclose(back.transport_shift, inverse.transport_shift, atol=1e-4)


def test_without_noise_directions_and_ends_are_exact():
    fit, u = Fit("mean_difference"), torch.nn.functional.normalize(torch.arange(8.0) + 1, dim=0)
    for level, length in ((0.2, 1.0), (0.9, 3.0)):
        for pair in range(4):
            for positive in (True, False):
                fit.add(2, level, pair, positive, torch.full((5, 8), float(pair)) + length * u * positive)
    found = fit.result("hidden", block_count=3)
    assert (found.blocks, found.levels) == ((2,), (0.2, 0.9))
    assert torch.allclose(found.directions, u.expand(1, 2, 1, 8), atol=1e-6)
    assert torch.allclose((found.positive - found.neutral)[0, :, 0], torch.tensor([1.0, 3.0]), atol=1e-5)


def test_massive_channels_do_not_decide_a_standardised_direction():
    plain, u = planted("mean_difference", massive=50.0)
    standardised, _ = planted("standardised", massive=50.0)
    assert abs(float(plain.directions[0, 0, 0][7])) > 0.7  # noise in the massive channel
    assert float(standardised.directions[0, 0, 0] @ u) > 0.9


def test_separability_is_measured_on_pairs_left_out():
    found, _ = planted(pair_noise=1.0, held_out=range(3, 32, 4))
    assert float(found.separability) > 0.7
    generator = torch.Generator().manual_seed(5)
    chance = []
    for _ in range(20):  # two prompts that do not differ but for noise
        fit = Fit("mean_difference", range(3, 32, 4))
        for pair in range(32):
            for positive in (True, False):
                fit.add(0, 0.5, pair, positive, torch.randn(4, WIDTH, generator=generator))
        chance.append(float(fit.result("hidden", block_count=1).separability))
    assert abs(sum(chance) / 20 - 0.5) < 0.06
    assert math.isnan(float(planted()[0].separability))


def test_area_under_the_curve_by_counting():
    assert area_under_curve(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0])) == 0.75
    assert area_under_curve(torch.tensor([1.0]), torch.tensor([1.0])) == 0.5


def test_pca_gives_orthonormal_directions():
    found, _ = planted("pca", components=3)
    u = found.directions[0, 0]
    assert torch.allclose(u @ u.T, torch.eye(3), atol=1e-5)


def test_transport_maps_the_negative_tokens_to_the_positive_mean_and_spread():
    generator = torch.Generator().manual_seed(1)
    fit, sides = Fit("transport"), {}
    for positive in (True, False):
        tokens = torch.randn(500, 16, generator=generator, dtype=torch.double) * (2.0 if positive else 0.5) + positive
        sides[positive] = tokens
        for part, pair in zip(tokens.split(100), range(5), strict=True):
            fit.add(0, 0.5, pair, positive, part.float())
    found = fit.result("hidden", block_count=1)
    mapped = sides[False] * found.transport_scale[0, 0] + found.transport_shift[0, 0]
    assert torch.allclose(mapped.mean(0), sides[True].mean(0), atol=1e-4)
    assert torch.allclose(mapped.std(0), sides[True].std(0), atol=1e-4)


def test_running_moments_are_those_of_all_tokens_at_once():
    tokens = 100 + torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    running, other = Moments(), Moments()
    for part in tokens[:700].split([1, 99, 200, 400]):
        running.add(part)
    other.add(tokens[700:])
    both = running.merged(other)
    assert both.count == 1000 and running.count == 700
    assert torch.allclose(both.centre(), tokens.double().mean(0), atol=1e-5)
    assert torch.allclose(both.deviation(), tokens.double().std(0, unbiased=False), rtol=1e-4)
    assert math.isclose(both.norm(), float(tokens.norm(dim=-1).mean()), rel_tol=1e-5)


def test_prompts_that_do_not_differ_are_refused():
    fit = Fit("mean_difference")
    for positive in (True, False):
        fit.add(2, 0.5, 0, positive, torch.ones(3, 8))
    with pytest.raises(ControlVectorError, match="do not differ in block 2"):
        fit.result("hidden", block_count=3)
    with pytest.raises(ControlVectorError, match="method must be one of"):
        Fit("guess")
    with pytest.raises(ControlVectorError, match="gives one direction"):
        Fit("mean_difference", components=2)


# Pairs


def test_pairs_are_read_from_json_lines(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"positive": "a", "negative": "b"}\n\n{"positive": "ü", "negative": "d", "more": 1}\n', "utf-8")
    assert read_pairs(path) == [("a", "b"), ("ü", "d")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "line 2: not JSON"),
        ('{"positive": "a"}', "line 2: expected"),
        ('{"positive": "a", "negative": 3}', "line 2: expected"),
        ('{"positive": " ", "negative": "b"}', "line 2: expected"),
        ('["a", "b"]', "line 2: expected"),
        ('{"positive": "a", "negative": "a"}', "number 2 has the same prompt twice"),
        ("[" * 100_000, "line 2: not JSON"),
    ],
)
def test_lines_that_are_no_pairs_are_named(tmp_path, line, words):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"positive": "a", "negative": "b"}) + "\n" + line)
    with pytest.raises(ControlVectorError, match=words):
        read_pairs(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ControlVectorError, match="not UTF-8"):
        read_pairs(path)
    path.write_text("")
    with pytest.raises(ControlVectorError, match="0 pairs"):
        read_pairs(path)
    with pytest.raises(ControlVectorError, match="number 1 is no pair"):
        checked_pairs(["a"])


@pytest.mark.parametrize(
    ("positive", "negative", "spans"),
    [
        ("a red circle", "a blue circle", ((1, 2), (1, 2))),
        ("a dark red circle", "a blue circle", ((1, 3), (1, 2))),
        ("a red circle", "a circle", ((0, 3), (0, 2))),  # nothing to compare with: the whole texts
        ("a b", "c d", ((0, 2), (0, 2))),
        ("a a a", "a a", ((0, 3), (0, 2))),
    ],
)
def test_spans_are_what_lies_between_common_beginning_and_end(positive, negative, spans):
    found = differing_spans(positive.split(), negative.split())
    assert tuple((span.start, span.stop) for span in found) == spans

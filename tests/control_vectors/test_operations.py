"""What the operations do to tokens, with massive channels as Wan's hidden states have them."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from wanvideo_activation_editor.patching.concepts import Concept, pack
from wanvideo_activation_editor.patching.operations import OPERATIONS
from wanvideo_activation_editor.patching.steering import (
    STEERING,
    Ablate,
    AddVector,
    Rotate,
    SetPoint,
    Transport,
    Turn,
)
from wanvideo_activation_editor.vectors.applying import concept_of, plane

from .conftest import make_vector

WIDTH = 1024


def tokens(seed=0, count=200) -> torch.Tensor:
    x = torch.randn(2, count, WIDTH, generator=torch.Generator().manual_seed(seed))
    x[..., 7] *= 300
    x[..., 123] *= 120
    return x


def concept(seed=0, k=1, neutral=0.5, positive=2.5, scale=3.0, transport=None) -> Concept:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(WIDTH, k, generator=generator)).Q.T.contiguous()[None, None]
    ends = [torch.full((1, 1, k), value) for value in (neutral, positive)]
    return Concept(
        "hidden", (0,), (0.5,), pack(directions, torch.tensor([[scale]]), *ends, transport), transport is not None
    )


def value_of(given: Concept, sigma=0.5) -> torch.Tensor:
    return given.at(given.tensor(given.blocks[0]), sigma)


def along(x, given: Concept, row=0) -> torch.Tensor:
    return x.double() @ given.values[0, 0, 1 + row].double()


def angle_to(x, given: Concept) -> torch.Tensor:
    u = given.values[0, 0, 1].double()
    part = x.double() @ u
    return torch.rad2deg(torch.atan2((x.double() - part[..., None] * u).norm(dim=-1), part))


def close(a, b, tolerance=1e-5) -> bool:
    """Relative to the tokens' norms."""
    return ((a.double() - b.double()).norm(dim=-1) / b.double().norm(dim=-1)).max() <= tolerance


@pytest.mark.parametrize("name", sorted(STEERING))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_strength_0_nothing_changes_and_else_something_does(name, dtype):
    given = concept(k=2 if name == "turn" else 1, transport=(torch.full((1, 1, WIDTH), 2.0), torch.ones(1, 1, WIDTH)))
    x, value = tokens().to(dtype), value_of(given)
    before = x.clone()
    assert torch.equal(STEERING[name](amount=0.0)(x, value, 1.0), before)
    assert torch.equal(STEERING[name](amount=1.0)(x, value, 0.0), before)
    out = STEERING[name](amount=1.0)(x, value, 1.0)
    assert out.dtype == dtype and out.shape == x.shape and not torch.equal(out, before)
    assert torch.equal(x, before)  # its argument is left alone
    assert name in {cls.name for cls in OPERATIONS.values()}


def test_add_moves_every_token_by_the_strength_in_units_of_the_scale():
    x, given = tokens(), concept(scale=3.0)
    for unit, length in (("relative", 3.0), ("absolute", 1.0)):
        moved = AddVector(-0.5, unit)(x, value_of(given), 0.8) - x
        assert torch.allclose(along(moved, given), torch.tensor(-0.4 * length, dtype=torch.double), atol=1e-4)
        assert close(x + moved, x - 0.4 * length * given.values[0, 0, 1])


def test_ablation_leaves_the_neutral_level_and_twice_is_once():
    x, given = tokens(), concept(neutral=0.5)
    once = Ablate(1.0, one_sided=False)(x, value_of(given), 1.0)
    assert (along(once, given) - 0.5).abs().max() <= 1e-5 * x.norm(dim=-1).max()
    assert close(Ablate(1.0, one_sided=False)(once, value_of(given), 1.0), once)
    away = once - x
    assert close(x + along(away, given)[..., None].float() * given.values[0, 0, 1], once)  # nothing else changes
    zero = Ablate(1.0, one_sided=False, to_zero=True)(x, value_of(given), 1.0)
    assert along(zero, given).abs().max() <= 1e-5 * x.norm(dim=-1).max()


def test_one_sided_ablation_leaves_tokens_below_the_neutral_level_bit_for_bit():
    x, given = tokens(), concept(neutral=0.5)
    out = Ablate(1.0)(x, value_of(given), 1.0)
    below = along(x, given) < 0.5 - 1e-3
    assert 20 < below.sum() < x.shape[0] * x.shape[1] - 20
    assert torch.equal(out[below], x[below])
    assert (along(out, given)[~below] - 0.5).abs().max() <= 1e-3


def test_of_a_part_removed_in_bf16_at_most_two_thousandths_stay():
    """With large channels in the direction as well, as fitted ones have them."""
    x, given = tokens().bfloat16(), concept(neutral=0.0)
    out = Ablate(1.0, one_sided=False)(x, value_of(given), 1.0)
    assert along(out, given).abs().mean() <= 0.002 * along(x, given).abs().mean()


def test_several_directions_are_ablated_at_once():
    x, given = tokens(), concept(k=3, neutral=0.5)
    out = Ablate(1.0, one_sided=False)(x, value_of(given), 1.0)
    for row in range(3):
        assert (along(out, given, row) - 0.5).abs().max() <= 1e-5 * x.norm(dim=-1).max()


@pytest.mark.parametrize(("amount", "level", "share"), [(1, 2.5, 1), (0.25, 2.5, 0.25), (-1, -1.5, 1), (2, 4.5, 1)])
def test_set_point_sets_the_projection(amount, level, share):
    x, given = tokens(), concept(neutral=0.5, positive=2.5)
    out = SetPoint(amount)(x, value_of(given), 1.0)
    wanted = along(x, given) + share * (level - along(x, given))
    assert (along(out, given) - wanted).abs().max() <= 1e-5 * x.norm(dim=-1).max()


@pytest.mark.parametrize("angle", [0.5, 20, 60])
@pytest.mark.parametrize("sign", [1, -1])
def test_rotate_moves_by_its_angle_and_keeps_the_norm(angle, sign):
    x, given = tokens(), concept()
    out = Rotate(float(sign), angle)(x, value_of(given), 1.0)
    moved = angle_to(x, given) - angle_to(out, given)
    assert (moved - sign * angle).abs().max() <= 1e-4
    assert (out.norm(dim=-1) / x.norm(dim=-1) - 1).abs().max() <= 1e-5
    assert close(Rotate(-float(sign), angle)(out, value_of(given), 1.0), x)


def test_rotate_stops_on_the_direction_and_scales_by_its_radius():
    x, given = tokens(), concept()
    out = Rotate(1.0, 180.0, radius=1.5)(x, value_of(given), 1.0)
    assert (angle_to(out, given)).max() <= 1e-3
    assert (out.norm(dim=-1) / x.norm(dim=-1) - 1.5).abs().max() <= 1e-5
    zero = torch.zeros(1, 1, WIDTH)
    assert torch.equal(Rotate(1.0)(zero, value_of(given), 1.0), zero)
    parallel = given.values[:1, 0, 1:2] * 5
    assert close(Rotate(1.0)(parallel, value_of(given), 1.0), parallel)


def test_transport_at_1_gives_the_targets_mean_and_spread():
    source, target = tokens(0), 2 + 0.5 * tokens(1)
    stats = [(t.flatten(0, 1).double().mean(0), t.flatten(0, 1).double().std(0)) for t in (source, target)]
    a = stats[1][1] / stats[0][1]
    b = stats[1][0] - a * stats[0][0]
    given = concept(transport=(a.float()[None, None], b.float()[None, None]))
    out = Transport(1.0)(source, value_of(given), 1.0).flatten(0, 1).double()
    assert ((out.mean(0) - stats[1][0]).abs() / stats[1][1]).max() <= 1e-5
    assert (out.std(0) / stats[1][1] - 1).abs().max() <= 1e-5
    with pytest.raises(ValueError, match="fitted without a transport"):
        Transport(1.0).check_source(concept())


def planes(angle: float):
    first = make_vector(0, width=WIDTH, transport=False)
    u = first.directions[..., 0, :]
    rest = torch.randn(u.shape, generator=torch.Generator().manual_seed(4))
    rest = torch.nn.functional.normalize(rest - (rest * u).sum(-1, keepdim=True) * u, dim=-1)
    second = math.cos(math.radians(angle)) * u + math.sin(math.radians(angle)) * rest
    return first, dataclasses.replace(first, directions=second[..., None, :])


@pytest.mark.parametrize("sigma", [0.2, 0.5], ids=["at a level", "between levels"])
@pytest.mark.parametrize("phi", [-120.0, 30.0, 90.0])
def test_turning_back_undoes_a_turn_and_norms_stay(phi, sigma):
    x, given = tokens(), plane(*planes(70))
    value = given.at(given.tensor(1), sigma)
    there = Turn(1.0, phi)(x, value, 1.0)
    assert close(Turn(-1.0, phi)(there, value, 1.0), x) and close(Turn(1.0, -phi)(there, value, 1.0), x)
    assert (there.norm(dim=-1) / x.norm(dim=-1) - 1).abs().max() <= 1e-5
    assert not close(there, x, 1e-3)


@pytest.mark.parametrize("apart", [5.0, 70.0, 90.0, 150.0])
def test_a_turn_by_the_angle_between_them_makes_the_first_parallel_to_the_second(apart):
    first, second = planes(apart)
    given = plane(first, second)
    a, b = first.directions[0, 0], second.directions[0, 0]
    out = Turn(1.0)((3 * a)[None], given.at(given.tensor(1), 0.2), 1.0)[0]
    assert (out / 3 - b).abs().max() <= 1e-5
    explicit = Turn(1.0, apart)((3 * a)[None], given.at(given.tensor(1), 0.2), 1.0)[0]
    assert (explicit / 3 - b).abs().max() <= 1e-5


def test_between_levels_values_are_linear_directions_unit_and_ends_clamped():
    vector = make_vector(k=2, levels=(0.2, 0.5, 0.9), width=64)
    given = concept_of(vector)
    tensor = given.tensor(3)
    for sigma, row in ((0.0, 0), (0.2, 0), (0.5, 1), (0.9, 2), (1.0, 2)):
        assert torch.equal(given.at(tensor, sigma)[0, 0], tensor[row])
    read = given.at(tensor, 0.8)[0, 0]
    assert torch.allclose(read[0], 0.25 * tensor[1, 0] + 0.75 * tensor[2, 0])
    assert torch.allclose(read[-2:], 0.25 * tensor[1, -2:] + 0.75 * tensor[2, -2:])
    assert torch.allclose(read[1:3] @ read[1:3].T, torch.eye(2), atol=1e-6)
    first = 0.25 * tensor[1, 1] + 0.75 * tensor[2, 1]
    assert torch.allclose(read[1], first / first.norm(), atol=1e-6)


@pytest.mark.parametrize("wrong", [dict(amount=float("nan")), dict(amount=1e9), dict(amount=float("-inf"))])
def test_strengths_that_are_no_numbers_are_refused(wrong):
    for operation in STEERING.values():
        with pytest.raises(ValueError, match="strength must be"):
            operation(**wrong)
    with pytest.raises(ValueError, match="angle"):
        Rotate(1.0, 181.0)
    with pytest.raises(ValueError, match="radius"):
        Rotate(1.0, 20.0, 0.0)
    with pytest.raises(ValueError, match="angle"):
        Turn(1.0, float("nan"))

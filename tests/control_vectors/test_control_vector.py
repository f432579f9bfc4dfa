"""The value, its file, and its arithmetic."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest
import torch
from wanvideo_activation_editor.vectors import (
    ControlVector,
    ControlVectorError,
    add,
    load_control_vector,
    orthogonalise,
    project,
    save_control_vector,
    scale,
    subtract,
)
from wanvideo_activation_editor.vectors.arithmetic import at_levels, one_level

from .conftest import make_vector


def same(a: ControlVector, b: ControlVector) -> bool:
    (va, ta), (vb, tb) = a.to_plain(), b.to_plain()
    return (
        va == vb
        and ta.keys() == tb.keys()
        and all(torch.equal(ta[k].view(torch.int32), tb[k].view(torch.int32)) for k in ta)
    )


def values(v: ControlVector) -> torch.Tensor:
    return v.directions[:, :, 0] * v.scale[..., None]


# The file


@pytest.mark.parametrize("transport", [True, False])
def test_a_file_gives_the_vector_back_bit_for_bit(tmp_path, transport):
    given = make_vector(k=2, transport=transport)
    given = dataclasses.replace(given, separability=torch.tensor([float("nan"), 0.75]))
    save_control_vector(tmp_path / "v.safetensors", given)
    assert same(load_control_vector(tmp_path / "v.safetensors"), given)
    values, tensors = given.to_plain()
    assert same(ControlVector.from_plain(json.loads(json.dumps(values)), tensors), given)


def test_a_damaged_file_is_refused_or_loads_as_it_was(tmp_path, vector):
    path = tmp_path / "v.safetensors"
    save_control_vector(path, vector)
    data, rng, refused = path.read_bytes(), random.Random(1), 0
    length = 8 + int.from_bytes(data[:8], "little")
    for trial in range(400):
        damaged = bytearray(data)
        if trial % 4 == 0:
            damaged = damaged[: rng.randrange(len(damaged))]
        else:
            for _ in range(rng.choice((1, 1, 3))):
                damaged[rng.randrange(length)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            loaded = load_control_vector(path)
        except ControlVectorError as error:
            refused += 1
            assert str(error)
        else:
            assert torch.isfinite(loaded.directions).all() and loaded.width == vector.width
    assert refused > 200


JSON = [None, True, -1, 3, 1e400, 0.5, "x", [], [1], [0.2, 0.1], ["a"], {}, {"a": 1}, [None], [1, 3], [True, False]]


def test_values_of_other_kinds_are_refused(vector):
    plain, tensors = vector.to_plain()
    wrong = [torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64), torch.full((2, 2), float("nan")), None, "x"]
    for name in plain:
        for value in JSON:
            try:
                made = ControlVector.from_plain({**plain, name: value}, tensors)
            except ControlVectorError:
                continue
            assert made.describe()[name] == value  # names, and the same blocks
    for name in tensors:
        for value in wrong:
            with pytest.raises(ControlVectorError):
                ControlVector.from_plain(plain, {**tensors, name: value})
        if not name.startswith("transport"):
            with pytest.raises(ControlVectorError, match=name):
                ControlVector.from_plain(plain, {k: v for k, v in tensors.items() if k != name})
    for extra in ({"more": 1}, {}):
        with pytest.raises(ControlVectorError):
            ControlVector.from_plain(extra, tensors)
    with pytest.raises(ControlVectorError, match="object"):
        ControlVector.from_plain([], tensors)


def test_a_value_that_is_no_direction_is_refused(vector):
    with pytest.raises(ControlVectorError, match="orthonormal"):
        dataclasses.replace(vector, directions=2 * vector.directions)
    with pytest.raises(ControlVectorError, match="block 3 of a model of 3"):
        dataclasses.replace(vector, block_count=3)
    with pytest.raises(ControlVectorError, match="site must be one of"):
        dataclasses.replace(vector, site="nowhere")
    with pytest.raises(ControlVectorError, match="ascend"):
        dataclasses.replace(vector, levels=(0.8, 0.2))


# Arithmetic


def test_sums_are_linear():
    a, b = make_vector(0), make_vector(1)
    assert torch.allclose(values(add(a, b)), values(a) + values(b), atol=1e-6)
    assert torch.allclose(values(add(a, b, weights=(2, -0.5))), 2 * values(a) - 0.5 * values(b), atol=1e-5)
    back = subtract(add(a, b), b)
    for name in ("directions", "scale", "neutral", "positive"):
        assert torch.allclose(getattr(back, name), getattr(a, name), atol=1e-4), name
    assert torch.allclose(values(scale(a, -3.0)), -3 * values(a), atol=1e-6)
    for factor in (1e-60, 1e60):
        with pytest.raises(ControlVectorError, match="leaves float32"):
            scale(a, factor)


def test_a_projection_onto_a_sum_is_known_from_its_terms():
    a, b = make_vector(0), make_vector(1)
    tokens = torch.randn(32)
    at = [dataclasses.replace(v, neutral=(v.directions @ tokens)) for v in (a, b)]
    for made in (add(*at), subtract(*at), orthogonalise(at[0], at[1:]), project(at[0], at[1:])):
        assert torch.allclose(made.neutral, made.directions @ tokens, atol=1e-5)


def test_a_sum_belongs_to_the_model_that_one_of_its_terms_names():
    made = add(make_vector(0, identity="", block_count=0), make_vector(1))
    assert (made.identity, made.block_count) == ("diffusers:1", 4)


@pytest.mark.parametrize("weights", [(1e-6, 1e-6), (0.0, 1e-6), (1e-6, -2e-6)])
def test_small_weights_leave_a_small_sum(weights):
    a, b = make_vector(0), make_vector(1)
    made, whole = add(a, b, weights=weights), add(a, b, weights=[1e6 * w for w in weights])
    assert torch.allclose(made.directions, whole.directions, atol=1e-6)
    assert torch.allclose(1e6 * made.scale, whole.scale, rtol=1e-5)


def test_projection_and_rest_are_orthogonal_and_add_up():
    a, others = make_vector(0), [make_vector(1), make_vector(2)]
    part, rest = project(a, others), orthogonalise(a, others)
    assert torch.allclose(values(part) + values(rest), values(a), atol=1e-5)
    for other in others:
        assert (rest.directions * other.directions).sum(-1).abs().max() < 1e-6
    assert torch.allclose(values(project(part, others)), values(part), atol=1e-5)
    with pytest.raises(ControlVectorError, match="nothing is left"):
        orthogonalise(part, others)
    with pytest.raises(ControlVectorError, match="nothing is left"):
        project(rest, others)


def test_what_vanishes_is_an_error():
    a = make_vector(0)
    for make in (
        lambda: subtract(a, a),
        lambda: scale(a, 0.0),
        lambda: add(a, a, weights=(0, 0)),
        lambda: orthogonalise(a, [a]),
        lambda: orthogonalise(a, [scale(a, 2), scale(a, -1)]),
    ):
        with pytest.raises(ControlVectorError, match="nothing"):
            make()


def test_the_negative_of_a_vector_swaps_its_prompts(vector):
    turned = -vector
    assert torch.equal(turned.directions, -vector.directions)
    assert torch.equal(turned.neutral, -vector.positive) and torch.equal(turned.positive, -vector.neutral)
    x = torch.randn(32)
    there = vector.transport_scale * x + vector.transport_shift
    assert torch.allclose(turned.transport_scale * there + turned.transport_shift, x.expand_as(there), atol=1e-3)


def test_vectors_that_do_not_go_together_are_refused_with_both_named():
    a = make_vector(0)
    for other, words in (
        (make_vector(1, width=48), ("width 32", "has 48")),
        (make_vector(1, site="hidden"), ("site attention", "has hidden")),
        (make_vector(1, block_count=9), ("number of blocks 4", "has 9")),
        (make_vector(1, blocks=(1, 2)), ("block 2, 3",)),
        (make_vector(1, identity="diffusers:2", model_name="other"), ("tiny (diffusers:1)", "other (diffusers:2)")),
        (make_vector(1, k=2), ("has 2 directions",)),
    ):
        with pytest.raises(ControlVectorError) as caught:
            add(a, other)
        assert all(word in str(caught.value) for word in words), caught.value


def test_levels_are_read_off_linearly_and_clamped(vector):
    read = at_levels(vector, (0.1, 0.35, 0.9))
    assert torch.equal(read.scale[:, 0], vector.scale[:, 0]) and torch.equal(read.scale[:, 2], vector.scale[:, 1])
    assert torch.allclose(read.scale[:, 1], 0.75 * vector.scale[:, 0] + 0.25 * vector.scale[:, 1])
    assert torch.allclose(read.directions.norm(dim=-1), torch.ones(()))


def test_given_vectors_keep_their_length():
    given = torch.randn(2, 32)
    made = one_level(given, (0, 2), site="hidden", block_count=3, origin="x")
    assert torch.allclose(values(made)[:, 0], given, atol=1e-6)
    with pytest.raises(ControlVectorError, match="zero"):
        one_level(given * torch.tensor([[1.0], [0.0]]), (0, 2), site="hidden", block_count=3, origin="x")

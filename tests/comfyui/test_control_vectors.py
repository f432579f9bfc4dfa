"""Control vectors through their nodes, in the hosts' own sampling."""

from __future__ import annotations

import itertools
import json
import time

import numpy as np
import pytest

from .server import RunFailedError
from .test_parts import mask
from .workflows import FOX, MOON, SHARP, Host, Workflow, output

nonces = itertools.count(10**8)
SMALL = {"width": 64, "height": 64, "num_frames": 5}
POSITIVE = ["a red fox in the snow", "a red car at night", "a red kite over the sea", "a red door in fog"]
NEGATIVE = [text.replace("red", "blue") for text in POSITIVE]
SITES = ["context", "attention", "hidden", "self_attention", "feed_forward", "queries", "keys", "values", "heads"]


def prompts(host: Host, flow: Workflow, texts: list[str]):
    """Several prompts in one text input, as each host has them."""
    if host.name == "wrapper":
        return host.embeds(flow, "|".join(texts))
    return host.embeds(flow, "&".join(texts))


def fitted(host: Host, flow: Workflow, positive=POSITIVE, negative=NEGATIVE, load=None, **inputs):
    given = {
        "site": "attention", "method": "mean_difference", "block_activations": "all", "steps": 2, "seeds": 1, "seed": 0,
        **SMALL, **inputs,
    }  # fmt: skip
    return flow.add(
        "WanVideoControlVector",
        model=(load or host.load)(flow),
        positive_embeds=prompts(host, flow, positive),
        negative_embeds=prompts(host, flow, negative),
        **given,
    )


def told(host: Host, make) -> dict:
    flow = Workflow()
    node = flow.add("TestVectors", **make(flow))
    return json.loads(host.server.run(flow).checked().output(node[0], "text")[0])


def steering(vector, operation="add", strength=1.0, blocks="all", **inputs):
    """For `after`-like use: an edit of the sampler's model."""

    def apply(flow: Workflow, model):
        made = vector(flow, model)
        embeds = inputs.pop("text_embeds", None)
        return output(
            flow.add(
                "WanVideoControlVectorApply",
                model=model,
                text_embeds=embeds(flow) if embeds else apply.embeds(flow),
                control_vector=made,
                operation=operation,
                strength=strength,
                block_activations=blocks,
                **{name: value(flow) if callable(value) else value for name, value in inputs.items()},
            ),
            0,
        )

    return apply


def digest(host: Host, vector, *args, **inputs) -> str:
    apply = steering(vector, *args, **inputs)
    apply.embeds = lambda flow: host.embeds(flow, FOX)
    return host.digest(FOX, after=apply)


def made_at(site: str, seed: int = 0, width: int = 0):
    return lambda flow, model: flow.add("TestMakeVector", model=model, site=site, seed=seed, width=width)


@pytest.mark.parametrize("site", ["attention", "hidden_states", "context"])
def test_swapped_pairs_give_the_exact_negative_and_the_model_is_left_as_it_was(host: Host, site):
    before = host.reference(FOX, name="before fitting")
    found = told(
        host,
        lambda flow: {
            "a": fitted(host, flow, site=site, use_cache=False),
            "b": fitted(host, flow, NEGATIVE, POSITIVE, site=site, use_cache=False),
        },
    )
    assert found["negative"] and found["finite"] and found["cosine"] == pytest.approx(-1, abs=1e-5)
    if site == "context":
        assert (found["blocks"], found["width"]) == ([0], 4096)
    else:
        assert found["blocks"] == list(range(host.blocks)) and found["block_count"] == host.blocks
        assert found["levels"] == pytest.approx([5 / 6, 1.0], abs=2e-3)
        assert found["identity"]
    assert all(0 <= value <= 1 for value in found["separability"])
    assert host.digest(FOX) == before


@pytest.mark.parametrize("site", ["context", "hidden"])
def test_a_vector_acts_in_its_mask_and_on_its_tokens(host: Host, site):
    def out(**part) -> str:
        return digest(host, made_at(site), "add", 1.0, "1-2", **part)

    whole = out()
    assert out(mask=mask(value=0.0)) == host.reference() and out(mask=mask()) == whole
    assert len({whole, host.reference(), out(mask=mask(right=0.5)), out(mask=mask(left=0.5))}) == 4
    if site == "context":
        assert out(tokens="0-511") == out(tokens="all")
        assert len({host.reference(), out(tokens="all"), out(tokens="1-2")}) == 3


def test_a_fitted_vector_steers_and_is_stored_bit_for_bit(host: Host):
    vector = lambda flow, model: fitted(host, flow)  # noqa: E731
    assert digest(host, vector, "add", 1.0) != host.reference()
    assert digest(host, vector, "add", 0.0) == host.reference()
    name = f"red {host.name} {next(nonces)}"
    flow = Workflow()
    flow.add("WanVideoStoreControlVector", control_vector=fitted(host, flow), name=name, tags="", note="a note")
    host.server.run(flow).checked()
    found = told(
        host, lambda flow: {"a": fitted(host, flow), "b": output(flow.add("WanVideoLoadControlVector", name=name), 0)}
    )
    assert found["equal"]


@pytest.mark.parametrize("site", SITES)
def test_strength_0_is_bit_equal_and_others_differ_at_every_site(host: Host, site):
    """Every operation at one site, one at the others; tests/hosts has each with each."""
    seen = {host.reference()}
    for operation in ("add", "ablate", "set_point", "rotate", "transport") if site == "attention" else ("rotate",):
        assert digest(host, made_at(site), operation, 0.0) == host.reference(), operation
        changed = digest(host, made_at(site), operation, 1.5, one_sided=False)
        assert changed not in seen, operation
        seen.add(changed)


@pytest.mark.parametrize("site", SITES)
def test_an_edit_of_a_branch_that_is_not_run_changes_nothing(host: Host, site):
    apply = steering(made_at(site), "add", 2.0, branch="uncond")
    apply.embeds = lambda flow: host.embeds(flow, FOX)
    assert host.digest(FOX, after=apply, cfg=1.0) == host.digest(FOX, cfg=1.0)
    other = steering(made_at(site), "add", 2.0, branch="uncond")
    other.embeds = apply.embeds
    assert host.digest(FOX, after=other) != host.reference()


def test_turning_back_undoes_a_turn(host: Host):
    def turned(angle, again=None):
        def turn(flow, model):
            vectors = [made_at("hidden", seed)(flow, model) for seed in (0, 1)]
            for phi in (angle, again):
                if phi is not None:
                    model = output(
                        flow.add(
                            "WanVideoControlVectorTurn",
                            model=model,
                            text_embeds=host.embeds(flow, FOX),
                            from_vector=vectors[0],
                            to_vector=vectors[1],
                            angle=phi,
                            block_activations="1-2",
                        ),
                        0,
                    )
            return model

        return turn

    assert host.digest(FOX, after=turned(40.0)) != host.reference()
    assert host.digest(FOX, after=turned(0.0)) not in (host.reference(), host.digest(FOX, after=turned(40.0)))


def test_fitting_can_be_interrupted_and_leaves_nothing(host: Host):
    flow = Workflow()
    load = lambda flow: host.stop_in_block(3, "wait")(flow, host.load(flow))  # noqa: E731
    flow.add("TestShow", value=output(fitted(host, flow, load=load, use_cache=False), 1))
    start, run = host.server.log_size(), host.server.submit(flow)
    end = time.monotonic() + 60
    while "waiting for an interrupt" not in host.server.log(start):
        assert time.monotonic() < end, host.server.log(start)[-4000:]
        time.sleep(0.02)
    host.server.call("/interrupt", {})
    assert host.server.result(run, start).interrupted
    assert host.leftovers()["hooks"] == [] and host.digest(FOX) == host.reference()


def test_arithmetic_and_hidden_states_as_vectors(host: Host):
    def minus(flow):
        model = host.load(flow)
        a, b = made_at("hidden", 0)(flow, model), made_at("hidden", 1)(flow, model)
        added = flow.add("WanVideoControlVectorArithmetic", base_vector=a, operation="add", operand_1=b)
        back = flow.add("WanVideoControlVectorArithmetic", base_vector=added, operation="subtract", operand_1=b)
        return {"a": a, "b": back}

    assert told(host, minus)["cosine"] == pytest.approx(1, abs=1e-4)

    def captured(flow, model):
        sides = [host.capture(flow, model, text, 2) for text in (MOON, SHARP)]
        return flow.add(
            "WanVideoControlVectorArithmetic", base_vector=sides[0], operation="subtract", operand_1=sides[1]
        )

    assert digest(host, captured, "add", 0.5) != host.reference()


def calibrated(host: Host, vector: dict, levels: int = 2, **inputs) -> tuple[list[float], str]:
    """Strengths and the report."""
    flow = Workflow()
    model = host.load(flow)
    node = flow.add(
        "WanVideoCalibrateStrength",
        model=model,
        text_embeds=host.embeds(flow, FOX),
        control_vector=flow.add("TestMakeVector", model=model, site="hidden", seed=0, width=0, **vector),
        operation="add",
        block_activations="1-2",
        levels=levels,
        limit=0.2,
        steps=2,
        seeds=1,
        **SMALL,
        **inputs,
    )
    shown = [flow.add("TestShow", value=output(node, number))[0] for number in (0, 2)]
    result = host.server.run(flow).checked()
    strengths = [float(x) for x in result.output(shown[0], "text")[0].split(",")]
    return strengths, result.output(shown[1], "text")[0]


def test_calibration_reports_levels_and_draws_them(host: Host):
    strengths, report = calibrated(host, {}, levels=3)
    assert len(strengths) == 3 and all(np.diff([0, *strengths]) > 0)
    assert "evaluations" in report and "effect 0.2" in report


def test_what_does_not_fit_is_refused_with_both_named(host: Host):
    for make, words in (
        (lambda flow: fitted(host, flow, POSITIVE[:2]), "2 positive prompts and 4 negative"),
        (lambda flow: fitted(host, flow, POSITIVE, POSITIVE), "do not differ"),
    ):
        flow = Workflow()
        flow.add("TestShow", value=output(make(flow), 1))
        with pytest.raises(RunFailedError, match=words):
            host.server.run(flow).checked()
    with pytest.raises(RunFailedError, match="48 wide"):
        digest(host, made_at("hidden", width=48))


def map_of(host: Host, vector: dict, **inputs) -> str:
    flow = Workflow()
    model = host.load(flow)
    given = {
        "injection_strength": 1.0, "block_activations": "all", "noise_levels": "0.6", "seeds": 1, "seed": next(nonces),
        **SMALL, **inputs,
    }  # fmt: skip
    node = flow.add(
        "WanVideoBlockMap",
        model=model,
        text_embeds=host.embeds(flow, FOX),
        injection_embeds=host.embeds(flow, FOX),
        control_vector=flow.add("TestMakeVector", model=model, site="attention", seed=0, width=0, **vector),
        **given,
    )
    shown = flow.add("TestShow", value=output(node, 1))
    return host.server.run(flow).checked().output(shown[0], "text")[0]


def test_a_block_map_measures_a_control_vector(host: Host):
    report = map_of(host, {}, block_activations="1-2")
    assert "2 of" in report and "random direction" in report


def test_a_map_of_all_blocks_is_of_those_that_the_vector_was_fitted_on(host: Host):
    assert f"{host.blocks - 2} of {host.blocks} blocks" in map_of(host, {"first_block": 2})


def test_a_control_vector_of_other_weights_is_measured_only_on_request(host: Host):
    foreign = {"identity": {"native": "ComfyUI", "wrapper": "ComfyUI-WanVideoWrapper"}[host.name] + ":0"}
    with pytest.raises(RunFailedError, match=r"WanVideo Block Map.*fitted on.*other_model"):
        map_of(host, foreign)
    assert "random direction" in map_of(host, foreign, other_model=True)
    with pytest.raises(RunFailedError, match=r"WanVideo Calibrate Strength.*fitted on.*other_model"):
        calibrated(host, foreign)
    assert len(calibrated(host, foreign, other_model=True)[0]) == 2

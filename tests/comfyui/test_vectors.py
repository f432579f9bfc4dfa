"""Embedding arithmetic, amplification, boosting and forcing on real samplers."""

from __future__ import annotations

import itertools
import re

import pytest

from .workflows import FOX, MOON, Host, Workflow, edit, output

GOTHIC = "a gothic castle at dusk under a stormy sky"
GRASSY = "a grassy castle at daytime under a clear sky"
BEACH = "a sandy beach with waves"
TOKENS = {GOTHIC: 10, GRASSY: 10, BEACH: 6, FOX: 7, MOON: 8}  # words and the end token

_names = (f"recording {i}" for i in itertools.count())


def style(flow: Workflow, host: Host) -> list:
    """The concept vector: gothic dusk minus grassy daytime."""
    return flow.add(
        "WanVideoVectorDifference",
        text_embeds_a=host.embeds(flow, GOTHIC),
        text_embeds_b=host.embeds(flow, GRASSY),
        normalize=False,
        scale=1.0,
    )


def steps(flow: Workflow, start: list, end: list, **inputs) -> list:
    defaults = {"steps": 3, "method": "linear", "include_endpoints": True}
    return flow.add("WanVideoVectorInterpolation", start_embeds=start, end_embeds=end, **{**defaults, **inputs})


def boost(factor: float, inject: str = MOON, **inputs):
    """As one of the editors of a branch."""
    given = edit(inject, node="WanVideoProjectionBooster", boost_factor=factor, preserve_norm=True, **inputs)
    return {k: v for k, v in given.items() if k not in ("block_activations", "enable_patching")}


def force(target: float = 50.0, mode: str = "blend", blocks: str = "all", inject: str | None = MOON, **inputs):
    given = edit(
        inject, node="WanVideoDirectInjector", injection_prompt="", difference_target=target, injection_mode=mode,
        block_activations=blocks, **inputs,
    )  # fmt: skip
    return {k: v for k, v in given.items() if k != "enable_patching"}


def encoded(host: Host, build):
    """For `encode`: the empty prompt comes from `build(flow)`, others from the host's encoder."""
    return lambda flow, prompt, *args, **kwargs: (
        build(flow) if prompt == "" else host.embeds(flow, prompt, *args, **kwargs)
    )


def test_every_node_in_one_workflow_into_the_sampler(host: Host):
    flow = Workflow()
    model, beach, concept = host.load(flow), host.embeds(flow, BEACH), style(flow, host)
    gothic_beach = flow.add(
        "WanVideoVectorArithmetic", base_embeds=beach, operation="add", operand_1=concept, weight_1=0.5
    )
    sequence = steps(flow, beach, gothic_beach, method="spherical")
    middle = flow.add("WanVideoSequenceSelect", sequence=sequence, step=1)
    analysed = flow.add("WanVideoEmbeddingAnalyzer", text_embeds=middle, analysis_type="all", store_in_db=True)
    amplified = flow.add(
        "WanVideoEmbeddingAmplifier",
        main_embeds=beach,
        injection_embeds=gothic_beach,
        target_difference=90.0,
        amplification_mode="push_apart",
        metric="relative_l2",
    )
    whole = {"block_activations": "all", "enable_patching": True, "log_level": "off", "injection_mode": "context"}
    editor = flow.add(
        "WanVideoActivationEditor",
        model=model, text_embeds=beach, injection_embeds=amplified, injection_strength=0.5, **whole,
    )  # fmt: skip
    booster = flow.add(
        "WanVideoProjectionBooster",
        model=editor, text_embeds=output(editor, 1), injection_embeds=amplified, boost_factor=5.0, preserve_norm=True,
    )  # fmt: skip
    injector = flow.add(
        "WanVideoDirectInjector",
        model=model, text_embeds=beach, injection_embeds=concept, injection_prompt="", difference_target=40.0,
        injection_mode="additive", block_activations="all",
    )  # fmt: skip
    branches = {
        "beach": (model, beach),
        "concept": (model, concept),
        "gothic beach": (model, gothic_beach),
        "sequence": (model, sequence),
        "middle": (model, output(analysed, 1)),
        "amplified": (model, amplified),
        "injected": (editor, output(editor, 1)),
        "boosted": (booster, output(booster, 1)),
        "forced": (injector, output(injector, 1)),
    }
    digests = {
        name: flow.add("TestDigest", samples=host.sample(flow, m, e, "blurry", 3.0, 2))[0]
        for name, (m, e) in branches.items()
    }
    info = flow.add("TestShow", value=output(amplified, 1))[0]
    boost_info = flow.add("TestShow", value=output(booster, 2))[0]
    result = host.server.run(flow).checked()
    assert all(result.output(d, "finite") == [True] for d in digests.values())
    hashes = {name: result.output(d, "sha256")[0] for name, d in digests.items()}
    assert len(set(hashes.values())) == len(hashes), hashes
    (report,) = result.output(analysed[0], "text")
    assert "effective rank" in report
    assert "90.0" in result.output(info, "text")[0]
    assert "After projection, boosted" in result.output(boost_info, "text")[0]
    assert "boost 5, norms kept" in result.log
    assert "force 40% (additive)" in result.log


def test_adding_nothing_samples_the_base_itself(host: Host):
    def nothing(flow):
        base = host.embeds(flow, FOX)
        return flow.add(
            "WanVideoVectorArithmetic", base_embeds=base, operation="add", operand_1=style(flow, host), weight_1=0.0
        )

    assert host.digest("", encode=encoded(host, nothing)) == host.reference(FOX)


@pytest.mark.parametrize(("step", "prompt"), [(0, FOX), (2, MOON)])
def test_the_ends_of_a_sequence_are_the_prompts(host: Host, step, prompt):
    def end(flow):
        sequence = steps(flow, host.embeds(flow, FOX), host.embeds(flow, MOON), method="spherical")
        return flow.add("WanVideoSequenceSelect", sequence=sequence, step=step)

    assert host.digest("", encode=encoded(host, end)) == host.reference(prompt)


def test_all_steps_as_a_list_sample_once_per_step(host: Host):
    flow = Workflow()
    sequence = steps(flow, host.embeds(flow, FOX), host.embeds(flow, MOON))
    every = output(flow.add("WanVideoSequenceSelect", sequence=sequence, step=0), 1)
    digest = flow.add("TestDigest", samples=host.sample(flow, host.load(flow), every, "blurry, low quality", 3.0, 2))
    hashes = host.server.run(flow).checked().output(digest[0], "sha256")
    assert len(hashes) == 3
    assert (hashes[0], hashes[2]) == (host.reference(FOX), host.reference(MOON))


def test_a_sequence_plays_in_the_sampler(host: Host):
    def sequence(flow):
        return steps(flow, host.embeds(flow, FOX), host.embeds(flow, MOON))

    played = host.digest("", encode=encoded(host, sequence))
    assert played not in (host.reference(FOX), host.reference(MOON))


def test_two_steps_of_conditioning_each_have_half_of_sampling(native: Host):
    def two(flow):
        return steps(flow, native.embeds(flow, FOX), native.embeds(flow, MOON), steps=2)

    # Three steps: none of them lies on the boundary, where ComfyUI applies both conditionings.
    halves = native.digest(FOX, edit(start_percent=0.5), steps=3)
    assert native.digest("", encode=encoded(native, two), steps=3) == halves


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_the_booster_acts_on_either_side_of_the_editor(host: Host, first):
    half = edit(injection_strength=0.5)
    order = (boost(8.0), half) if first else (half, boost(8.0))
    boosted = host.digest(FOX, *order)
    assert boosted == host.reference(FOX, half, boost(8.0))
    assert boosted != host.reference(FOX, half)


def test_a_boost_of_one_and_a_booster_without_an_editor_change_nothing(host: Host):
    half = edit(injection_strength=0.5)
    assert host.digest(FOX, half, boost(1.0)) == host.reference(FOX, half)
    assert host.digest(FOX, boost(10.0)) == host.reference(FOX)


def record(flow: Workflow, host: Host, model: list, embeds: list, after: list, block: int) -> tuple[str, list]:
    """Sample while a block's context is recorded; returns the recording's name and the latents."""
    name = next(_names)
    probe = flow.add("TestContextProbe", model=model, block=block, name=name, after=after, nonce=0)
    latents = host.sample(flow, probe, embeds, "blurry", 3.0, 2)
    return name, flow.add("TestContextEnd", samples=latents, name=name)


@pytest.mark.parametrize("mode", ["additive", "replace", "blend"])
@pytest.mark.parametrize("target", [15.0, 60.0])
def test_the_direct_injector_reaches_its_target_in_the_block(host: Host, mode, target):
    flow = Workflow()
    model, embeds = host.load(flow), host.embeds(flow, FOX)
    plain, latents = record(flow, host, model, embeds, embeds, block=4)
    edited, described = host.edit(flow, model, embeds, force(target, mode, "2-6"), lambda text: host.embeds(flow, text))
    forced, latents = record(flow, host, edited, described, latents, block=4)
    change = flow.add(
        "TestContextChange", first=plain, second=forced, tokens=max(TOKENS[FOX], TOKENS[MOON]), after=latents
    )
    flow.add("TestDigest", samples=change)
    result = host.server.run(flow).checked()
    shares, rest = result.output(change[0], "shares"), result.output(change[0], "rest")
    touched = [s for s in shares if s > 0]
    assert len(touched) == len(shares) / 2, "half of the rows are the negative prompt's"
    assert touched == pytest.approx([target / 100] * len(touched), abs=0.005)
    assert max(rest) == 0, "padding rows are the main prompt's"


def test_a_forced_run_leaves_nothing(host: Host):
    before, model = host.digest(FOX), host.leftovers()
    first = host.digest(FOX, force(50.0, "replace"), boost(4.0))
    assert host.digest(FOX, force(50.0, "replace"), boost(4.0)) == first
    assert first != before
    assert host.leftovers() == model
    assert host.digest(FOX) == before


def test_forcing_obeys_selection_and_window(host: Host):
    assert host.digest(FOX, force(blocks="none")) == host.reference(FOX)
    assert host.digest(FOX, force(blocks="all:0")) == host.reference(FOX)
    results = [host.digest(FOX, force(**kw)) for kw in ({}, {"blocks": "0-3"}, {"start_percent": 0.5})]
    assert len({*results, host.reference(FOX)}) == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (force(inject=None), "WanVideo Direct Injector: there is no direction to inject. Connect injection_embeds"),
        (force(inject=FOX), "WanVideo Direct Injector: text_embeds and injection_embeds are identical"),
    ],
    ids=["no direction", "identical"],
)
def test_a_direct_injector_without_a_direction_fails_before_sampling(host: Host, given, message):
    result = host.run(FOX, given)
    assert result.error["node_type"] == "WanVideoDirectInjector"
    assert message in result.error["exception_message"]


def test_a_target_that_cannot_be_reached_names_the_maximum(host: Host):
    """The two prompts share all words but one, so that most tokens are equal."""
    result = host.run(FOX, force(80.0, inject="a blue fox in the snow"))
    assert result.error["node_type"] == host.sampler
    message = result.error["exception_message"]
    assert re.match(r"WanVideo Direct Injector \(node \d+\): difference_target 80% cannot be reached", message)
    assert "at most 14." in message
    assert host.digest(FOX) == host.reference(FOX)

"""Blocks and strengths, as the builder nodes and both editors hand them over."""

from __future__ import annotations

import pytest

from .workflows import FOX, MOON, SHARP, Host, Workflow, edit

PRESETS = [
    "all", "none", "first_half", "second_half", "early_blocks", "mid_blocks", "late_blocks", "alternating", "sparse"
]  # fmt: skip


def built_strengths(**inputs):
    """An editor whose strengths come from the builder alone."""
    build = lambda flow: flow.add("WanVideoBlockStrengthBuilder", **{"base_strength": 1.0, **inputs})  # noqa: E731
    return edit(block_activations="0" * 40, block_strengths=build)


def built_activations(**inputs):
    return edit(block_activations=lambda flow: flow.add("WanVideoBlockActivationBuilder", **inputs))


def test_a_uniform_curve_at_full_strength_equals_the_injected_prompt(host: Host):
    assert host.digest(FOX, built_strengths(pattern="uniform"), steps=1) == host.reference(MOON, steps=1)


def test_a_uniform_curve_equals_the_same_injection_strength(host: Host):
    half = host.reference(FOX, edit(injection_strength=0.5), steps=1)
    assert host.digest(FOX, built_strengths(pattern="uniform", base_strength=0.5), steps=1) == half


def test_strengths_given_block_by_block_equal_the_same_selection(host: Host):
    given = built_strengths(pattern="custom", block_3_strength=0.25, block_10_strength=1.0)
    assert host.digest(FOX, given, steps=1) == host.reference(FOX, edit(block_activations="3:0.25, 10"), steps=1)


def test_every_block_may_have_its_own_strength(host: Host):
    curve = [round(0.02 * (i + 1), 2) for i in range(host.blocks)]
    given = built_strengths(pattern="custom", **{f"block_{i}_strength": s for i, s in enumerate(curve)})
    written = edit(block_activations=", ".join(f"{i}:{s}" for i, s in enumerate(curve)))
    assert host.digest(FOX, given, steps=1) == host.digest(FOX, written, steps=1)


def test_a_selection_masks_a_curve(host: Host):
    masked = {**built_strengths(pattern="uniform", base_strength=0.5), "block_activations": "5-9"}
    assert host.digest(FOX, masked, steps=1) == host.reference(FOX, edit(block_activations="5-9:0.5"), steps=1)


def test_a_string_of_0_and_1_equals_the_grammar_and_may_be_longer_than_the_model(host: Host):
    bits = "1" * 10 + "0" * 30
    assert host.digest(FOX, edit(block_activations=bits), steps=1) == host.reference(
        FOX, edit(block_activations="0-9"), steps=1
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_alone_is_a_valid_prompt_and_means_what_the_grammar_says(host: Host, preset):
    """No switch is given, as in an API workflow."""
    built = host.digest(FOX, built_activations(preset=preset), steps=1)
    assert built == host.reference(FOX, edit(block_activations=preset), steps=1)
    assert (built == host.reference(steps=1)) == (preset == "none")
    assert (built == host.reference(MOON, steps=1)) == (preset == "all")


def test_switches_choose_blocks_when_the_preset_is_custom(host: Host):
    switches = built_activations(preset="custom", block_0=True, block_5=True, block_6=False)
    assert host.digest(FOX, switches, steps=1) == host.reference(FOX, edit(block_activations="0, 5"), steps=1)


def test_a_named_preset_wins_over_the_switches(host: Host):
    switches = built_activations(preset="sparse", block_1=True)
    assert host.digest(FOX, switches, steps=1) == host.reference(FOX, edit(block_activations="sparse"), steps=1)


def test_the_per_block_editor_equals_the_editor_at_the_same_settings(host: Host):
    other = edit(node="WanVideoAdvancedActivationEditor", block_activations="even", uniform_strength=0.5)
    assert host.digest(FOX, other, steps=1) == host.reference(
        FOX, edit(block_activations="even", injection_strength=0.5), steps=1
    )


def test_the_per_block_editor_takes_a_curve_in_place_of_its_uniform_strength(host: Host):
    curve = built_strengths(pattern="linear_rise")["block_strengths"]
    other = edit(node="WanVideoAdvancedActivationEditor", block_strengths=curve, uniform_strength=0.1)
    assert host.digest(FOX, other, steps=1) == host.digest(FOX, edit(block_strengths=curve), steps=1)


def test_two_editors_on_different_blocks_act_together(host: Host):
    even, odd = edit(block_activations="even"), edit(block_activations="odd")
    assert host.digest(FOX, even, odd, steps=1) == host.reference(MOON, steps=1)


def test_editors_apply_in_order(host: Host):
    assert host.digest(FOX, edit(MOON), edit(SHARP), steps=1) == host.reference(SHARP, steps=1)
    first = host.digest(FOX, edit(MOON, injection_strength=0.5), edit(SHARP, injection_strength=0.5), steps=1)
    second = host.digest(FOX, edit(SHARP, injection_strength=0.5), edit(MOON, injection_strength=0.5), steps=1)
    assert first != second


def test_editors_compose_from_different_node_classes(host: Host):
    even = edit(block_activations="even")
    odd = edit(node="WanVideoAdvancedActivationEditor", block_activations="odd", uniform_strength=1.0)
    assert host.digest(FOX, even, odd, steps=1) == host.reference(MOON, steps=1)


def test_the_inspection_nodes_describe_the_edits(host: Host):
    flow = Workflow()
    embeds = host.embeds(flow, FOX)
    encode = lambda text: host.embeds(flow, text)  # noqa: E731
    model, embeds = host.edit(flow, host.load(flow), embeds, edit(block_activations="even"), encode)
    curve = flow.add("WanVideoBlockStrengthBuilder", pattern="gaussian_peak", base_strength=1.0)
    nodes = {
        "view": flow.add("WanVideoBlockActivationViewer", model=model, show_visual=True, text_embeds=embeds),
        "test": flow.add("WanVideoInjectionTester", model=model, text_embeds=embeds, show_details=True),
        "plot": flow.add("WanVideoStrengthVisualizer", block_strengths=curve, show_numbers=True, graph_height=10),
    }
    outputs = host.server.run(flow).checked().outputs
    view, test = ("".join(outputs[nodes[n][0]]["text"]) for n in ("view", "test"))
    assert f"{host.blocks // 2} of {host.blocks} blocks" in view
    assert "alternating" in view
    assert "1 edit(s) described" in view
    assert "After projection" in test
    assert outputs[nodes["plot"][0]]["images"]


def test_the_tester_tells_what_the_hooks_did(host: Host):
    """The same graph in turns: the editor is cached, the tester is not; a run that fails counts too."""
    flow = Workflow()
    embeds = host.embeds(flow, FOX)
    chosen = edit(block_activations="1-3", start_percent=0.5)
    edited, described = host.edit(flow, host.load(flow), embeds, chosen, lambda text: host.embeds(flow, text))
    (test, _) = flow.add("WanVideoInjectionTester", model=edited, text_embeds=described, show_details=True)

    def told() -> str:
        return "".join(host.server.run(flow).checked().outputs[test]["text"])

    assert "not sampled since it was made" in told()
    flow.add("TestDigest", samples=host.sample(flow, edited, described, "", 3.0, 4))
    host.server.run(flow).checked()
    assert "its hooks changed blocks 6 times in 2 model calls since it was made" in told()

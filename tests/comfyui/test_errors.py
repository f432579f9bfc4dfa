"""Bad input: an error that names the node, what is wrong and what to do, before sampling starts."""

from __future__ import annotations

import re

import pytest

from .server import RejectedError
from .workflows import BLURRY, FOX, MOON, Host, Workflow, WrapperHost, edit

EDITORS = ["WanVideoActivationEditor", "WanVideoAdvancedActivationEditor"]


def failure(host: Host, *args, **kwargs) -> str:
    """The message of a run that must fail in one of the pack's nodes, before any sampler."""
    result = host.run(*args, **kwargs)
    assert result.error, "the run went through"
    assert result.error["node_type"].startswith("WanVideo")
    assert result.error["node_type"] not in (host.sampler, "WanVideoModelLoader"), result.error["exception_message"]
    assert "Sampling start" not in result.log
    assert not result.outputs
    return result.error["exception_message"]


@pytest.mark.parametrize("node", EDITORS)
@pytest.mark.parametrize(
    ("text", "position", "token"),
    [
        ("3-9, frog, 12", 6, "frog"),
        ("9-3", 1, "9-3"),
        ("7:1.5", 1, "7:1.5"),
        ("/0", 1, "/0"),
        ("5 !6:0.5", 3, "!6:0.5"),
    ],
)
def test_a_malformed_selection_is_refused_before_the_queue(host: Host, node, text, position, token):
    with pytest.raises(RejectedError) as refused:
        host.run(FOX, edit(node=node, block_activations=text))
    assert f"position {position}" in str(refused.value)
    assert token in str(refused.value)


def test_a_malformed_selection_from_another_node_fails_in_the_editor(host: Host):
    linked = edit(block_activations=lambda flow: flow.add("PrimitiveString", value="3-9, frog"))
    message = failure(host, FOX, linked)
    assert "WanVideo Activation Editor: block_activations, position 6: 'frog'" in message


@pytest.mark.parametrize("node", EDITORS)
def test_a_block_beyond_the_models_last_says_how_many_there_are(host: Host, node):
    message = failure(host, FOX, edit(node=node, block_activations=f"3, {host.blocks}"))
    assert f"Block {host.blocks} is selected, but the model has {host.blocks} blocks" in message
    assert f"(0 to {host.blocks - 1})" in message


def test_a_0_1_string_beyond_the_models_last_block_is_refused_too(wrapper: WrapperHost):
    message = failure(wrapper, FOX, edit(block_activations="0" * 39 + "1"))
    assert "Block 39 is selected, but the model has 30 blocks" in message


def test_a_missing_injection_names_the_input(host: Host):
    message = failure(host, FOX, edit(None))
    assert "injection_embeds is not connected" in message
    assert "enable_patching" in message


@pytest.mark.parametrize("strength", [-0.1, 1.5])
def test_a_strength_outside_0_to_1_is_refused_before_the_queue(host: Host, strength):
    with pytest.raises(RejectedError, match="injection_strength"):
        host.run(FOX, edit(injection_strength=strength))


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_a_strength_outside_0_to_1_from_another_node_fails_in_the_editor(host: Host, strength):
    message = failure(host, FOX, edit(injection_strength=lambda flow: flow.add("PrimitiveFloat", value=strength)))
    assert "strength must be from 0 to 1" in message
    assert f"{strength:g}" in message


def test_a_strength_that_is_no_number_is_refused(host: Host):
    message = failure(host, FOX, edit(injection_strength=float("nan")))
    assert "strength must be from 0 to 1, not nan" in message


def test_a_window_without_length_is_refused(host: Host):
    message = failure(host, FOX, edit(start_percent=0.5, end_percent=0.5))
    assert "its start must be at least 0 and below its end" in message


def encoded(host: Host, **options):
    return edit(inject=lambda flow: host.embeds(flow, options.pop("prompt", MOON), **options))


def test_embeddings_of_another_width_name_both_widths(host: Host):
    message = failure(host, FOX, encoded(host, width=2048))
    assert "2048 wide" in message
    assert "width 4096" in message
    assert "UMT5-XXL" in message


def test_more_than_512_tokens_are_refused(host: Host):
    message = failure(host, FOX, encoded(host, prompt="word " * 520))
    assert re.search(r"injection_embeds.* has 521 tokens, but Wan models read at most 512", message)


def test_a_model_that_is_no_wan_model_is_refused(native: Host):
    message = failure(native, FOX, edit(), load=lambda flow: flow.add("TestImageModel"))
    assert "UNetModel is not a Wan model" in message
    assert "Use a Wan 2.1 or 2.2 model" in message


def test_a_wrapper_model_with_conditioning_names_the_bridge(wrapper: WrapperHost, native: Host):
    message = failure(wrapper, FOX, edit(), encode=native.embeds)
    assert "text_embeds is CONDITIONING, but the model is a WANVIDEOMODEL" in message
    assert "WanVideo TextEmbed Bridge" in message


def test_a_native_model_with_wrapper_embeds_asks_for_conditioning(wrapper: WrapperHost, native: Host):
    message = failure(native, FOX, edit(), encode=wrapper.embeds)
    assert "text_embeds is WANVIDEOTEXTEMBEDS, but the model is a native MODEL" in message
    assert "CLIP Text Encode" in message


def test_echoshot_prompts_of_other_token_counts_are_refused(wrapper: WrapperHost):
    message = failure(wrapper, "[1] a red fox runs [2] a red fox sleeps", edit("[1] one moon [2] two moons shine"))
    assert "EchoShot" in message
    assert "[5, 5]" in message
    assert "[3, 4]" in message
    assert "Use prompts of equal token counts" in message


def test_prompts_of_another_number_are_refused(wrapper: WrapperHost):
    message = failure(wrapper, f"{FOX} | {BLURRY} | {FOX}", edit(f"{MOON} | {FOX}"))
    assert "2 prompts are injected into 3" in message


def test_an_edited_model_without_text_embeds_at_the_sampler_is_refused(wrapper: WrapperHost):
    flow = Workflow()
    encode = lambda text: wrapper.embeds(flow, text)  # noqa: E731
    model, embeds = wrapper.edit(flow, wrapper.load(flow), wrapper.embeds(flow, FOX), edit(), encode)
    latents = wrapper.sample(flow, model, embeds, BLURRY, 1.0, 2)
    del flow[latents[0]]["inputs"]["text_embeds"]
    flow.add("TestDigest", samples=latents)
    result = wrapper.server.run(flow)
    assert "Connect the editor's text_embeds output to the sampler" in result.error["exception_message"]
    assert "Sampling start" not in result.log


def test_embeds_that_changed_after_the_editor_are_checked_again_at_the_sampler(wrapper: WrapperHost):
    """The editor saw one prompt; the sampler gets three."""
    flow = Workflow()
    encode = lambda text: wrapper.embeds(flow, text)  # noqa: E731
    two = f"{FOX} | {MOON}"
    model, _ = wrapper.edit(flow, wrapper.load(flow), wrapper.embeds(flow, two), edit(two), encode)
    three = wrapper.embeds(flow, f"{FOX} | {MOON} | {FOX}")
    flow.add("TestDigest", samples=wrapper.sample(flow, model, three, BLURRY, 1.0, 2))
    result = wrapper.server.run(flow)
    assert "2 prompts are injected into 3" in result.error["exception_message"]
    assert "Sampling start" not in result.log
    assert wrapper.leftovers()["hooks"] == []


def test_the_next_run_after_an_error_is_right(host: Host):
    failure(host, FOX, edit(block_activations="99"))
    assert host.digest(FOX, edit()) == host.reference(MOON)
    assert host.digest(FOX) == host.reference()

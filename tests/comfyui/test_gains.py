"""Weights of words and gains of streams, on both hosts."""

from __future__ import annotations

import pytest

from .server import RejectedError
from .test_variants import control_condition, control_video, i2v, vace
from .test_wrapper_samplers import with_nag
from .workflows import FOX, Host, Workflow, WrapperHost, edit, output


def gain(stream: str = "text", value: float = 0.5, blocks: str = "all", **more):
    node = edit(None, node="WanVideoConditioningGain", stream=stream, gain=value, block_activations=blocks, **more)
    return {k: v for k, v in node.items() if k != "enable_patching"}


def weight(weights: str, blocks: str = "all", **more):
    node = edit(None, node="WanVideoPromptWeight", weights=weights, block_activations=blocks, **more)
    return {k: v for k, v in node.items() if k != "enable_patching"}


def known(host: Host) -> dict:
    """What it takes to find the words of FOX, `a red fox in the snow`."""
    encoder = lambda flow: output(flow.add("TestTextEncoder"), int(isinstance(host, WrapperHost)))  # noqa: E731
    return {"prompt": FOX, "text_encoder": encoder}


def test_a_gain_of_1_and_a_weight_of_1_change_nothing(host: Host):
    assert host.digest(FOX, gain(value=1.0), weight("0-6:1")) == host.reference()
    assert host.digest(FOX, gain(value=0.5, blocks="none")) == host.reference()
    assert host.leftovers()["hooks"] == []


def test_a_gain_of_1_and_a_weight_of_1_pass_the_model_on(host: Host):
    flow, checks = Workflow(), {}
    model, embeds = host.load(flow), host.embeds(flow, FOX)
    for name, given in (("gain", gain(value=1.0)), ("weight", weight("0-6:1")), ("half", gain(value=0.5))):
        edited, _ = host.edit(flow, model, embeds, given, lambda _: embeds)
        checks[name] = flow.add("TestIsSame", first=model, second=edited)[0]
    result = host.server.run(flow).checked()
    assert {name: result.output(node, "same") for name, node in checks.items()} == {
        "gain": [True], "weight": [True], "half": [False],
    }  # fmt: skip


def test_gains_follow_blocks_and_branch(host: Host):
    found = host.digests(
        ((FOX, gain()), {}),
        ((FOX, gain(blocks="1-3")), {}),
        ((FOX, gain(branch="uncond")), {}),
        ((FOX, gain(branch="both")), {}),
        ((FOX, gain(schedule="0:0, 0.4:0, 0.48:1")), {}),
    )
    assert len({*found, host.reference()}) == 6
    assert host.digest(FOX, gain(branch="cond"), gain(branch="uncond")) == found[3]


def test_words_are_weighed_by_name_or_number(host: Host):
    named = host.digest(FOX, weight('red:2, "the snow":0', **known(host)))
    assert named == host.digest(FOX, weight("1:2, 4-5:0"))
    assert named != host.reference()


@pytest.mark.parametrize(
    ("weights", "message"),
    [("blue:2", 'does not have "blue". Its words: 1 a, 2 red, 3 fox'), ("12:2", "there is no token 12")],
)
def test_words_that_the_prompt_does_not_have(host: Host, weights, message):
    assert message in host.run(FOX, weight(weights, **known(host))).error["exception_message"]


def test_weights_that_cannot_be_read_are_refused_before_the_run(host: Host):
    with pytest.raises(RejectedError, match="weights, position 1: 'red:5' has a weight outside 0 to 4"):
        host.run(FOX, weight("red:5"))


def test_at_gain_0_the_image_does_not_matter(host: Host):
    gone = gain("clip_image", 0.0, branch="both")
    (first, second) = (host.digest(FOX, gone, **i2v(host, seed)) for seed in (0, 1))
    assert first == second
    assert host.digest(FOX, **i2v(host, 0)) != host.digest(FOX, **i2v(host, 1))


def test_at_gain_0_vace_is_vace_of_strength_0(host: Host):
    silent = vace(host)
    if host.name == "wrapper":
        silent["image_embeds"] = lambda flow: of_strength_0(flow, control_video(flow))
    else:
        silent["condition"] = lambda flow, *links: control_of_strength_0(flow, *links)
    expected = host.digest(FOX, **silent)
    assert host.digest(FOX, gain("vace", 0.0, branch="both"), **vace(host)) == expected
    assert host.digest(FOX, **vace(host)) != expected


def of_strength_0(flow, link):
    flow[link[0]]["inputs"]["strength"] = 0.0
    return link


def control_of_strength_0(flow, *links):
    found = control_condition(flow, *links)
    of_strength_0(flow, found[0])
    return found


def test_a_stream_that_the_model_does_not_have_is_an_error_that_lists_those_it_has(host: Host):
    message = host.run(FOX, gain("clip_image")).error["exception_message"]
    assert "WanVideo Conditioning Gain" in message and "has no clip_image. It has text" in message


def test_models_without_its_modules_have_no_audio_face_or_reference(host: Host):
    for stream in ("audio", "face", "reference"):
        assert f"has no {stream}. It has text." in host.run(FOX, gain(stream)).error["exception_message"]


def test_nags_negative_prompt_keeps_its_voice(wrapper: WrapperHost):
    """What it adds in the first block of the first call is bit for bit the same, whatever the gain of the prompt."""
    flow, found = Workflow(), []
    encode = with_nag(wrapper)
    model, embeds, after = wrapper.load(flow), encode(flow, FOX), None
    for name, given in (("plain", None), ("gain", gain(value=0.5, branch="both")), ("weight", weight("1-3:2"))):
        own, text = (model, embeds) if given is None else wrapper.edit(flow, model, embeds, given, lambda _: None)
        probe = flow.add("TestNegativeProbe", model=own, name=name, after=after or embeds)
        latents = wrapper.sample(flow, probe, text, "", 1.0, 1)
        after = flow.add("TestNegativeEnd", model=probe, samples=latents, name=name)
        found.append((after[0], flow.add("TestDigest", samples=after)[0]))
    result = wrapper.server.run(flow).checked()
    assert len({result.output(end, "negative")[0] for end, _ in found}) == 1
    assert len({result.output(digest, "sha256")[0] for _, digest in found}) == 3

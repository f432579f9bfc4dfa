"""Gains of sound, faces and references, on the wrapper's own models for them; their encoders are stood in for."""

from __future__ import annotations

from typing import Any

import pytest

from . import tiny_models
from .test_gains import gain
from .workflows import FOX, SIZE, Link, Workflow, WrapperHost, output

Model = dict[str, Any]
"""Arguments of `digest` for a model and its stream."""


def talking(host: WrapperHost, scale: float = 1.0) -> Model:
    def node(flow: Workflow) -> Link:
        return flow.add("TestTalking", scale=scale)

    return {
        "load": lambda flow: host.load(flow, fantasytalking_model=flow.add("TestTalking")),
        "fantasytalking_embeds": lambda flow: output(node(flow), 1),
    }


def voices(host: WrapperHost, scale: float = 1.0) -> Model:
    def node(flow: Workflow, **more: Any) -> Link:
        return flow.add("TestMultiTalk", model=tiny_models.WRAPPER_MULTITALK, **more)

    return {
        "load": lambda flow: host.load(flow, multitalk_model=node(flow)),
        "multitalk_embeds": lambda flow: output(node(flow, scale=scale), 1),
    }


def humo(host: WrapperHost, scale: float = 1.0) -> Model:
    """Of 5 latent frames: the wrapper pads shorter sounds to that many."""

    def video(flow: Workflow) -> Link:
        return flow.add("WanVideoEmptyEmbeds", num_frames=17, **SIZE)

    return {
        "load": lambda flow: host.load(flow, checkpoint=tiny_models.WRAPPER_HUMO),
        "image_embeds": lambda flow: flow.add("TestHuMoSound", embeds=video(flow), scale=scale),
    }


def portrait(host: WrapperHost, scale: float = 1.0, start: float = 0.0) -> Model:
    def node(flow: Workflow, **more: float) -> Link:
        return flow.add("TestPortrait", embeds=host.empty_video(flow), **more)

    return {
        "load": lambda flow: host.load(flow, fantasyportrait_model=node(flow)),
        "image_embeds": lambda flow: output(node(flow, strength=scale, start_percent=start), 1),
    }


def lynx_load(host: WrapperHost, flow: Workflow) -> Link:
    adapters = flow.add("WanVideoExtraModelSelect", extra_model=tiny_models.WRAPPER_LYNX)
    return host.load(flow, extra_model=adapters)


def lynx(host: WrapperHost, scale: float = 1.0) -> Model:
    """Lynx with a face and a reference picture, whose hidden states the wrapper captures first."""

    def reference(flow: Workflow) -> Link:
        face = flow.add("WanVideoAddLynxEmbeds", embeds=host.empty_video(flow), ip_scale=scale, ref_scale=scale,
                        lynx_cfg_scale=1.0, start_percent=0.0, end_percent=1.0,
                        lynx_ip_embeds=flow.add("TestLynxFace"),
                        ref_text_embed=host.embeds(flow, "a picture"))  # fmt: skip
        return flow.add("TestLynxPicture", embeds=face)

    return {"load": lambda flow: lynx_load(host, flow), "image_embeds": reference}


def one_to_all(host: WrapperHost, scale: float = 1.0) -> Model:
    def load(flow: Workflow) -> Link:
        return flow.add("TestOneToAllDevice", model=host.load(flow, checkpoint=tiny_models.WRAPPER_ONE_TO_ALL))

    return {
        "load": load,
        "image_embeds": lambda flow: flow.add("TestOneToAllPicture", embeds=host.empty_video(flow), scale=scale),
        "cfg": 1.0,
    }


STREAMS = [
    ("audio", talking),
    ("audio", voices),
    ("audio", humo),
    ("face", portrait),
    ("reference", lynx),
    ("reference", one_to_all),
]


@pytest.mark.parametrize(("stream", "make"), STREAMS, ids=[make.__name__ for _, make in STREAMS])
def test_a_gain_is_the_strength_of_the_node_that_adds_the_stream(wrapper: WrapperHost, stream, make):
    """To the bit, for the hosts' nodes set the factor that the gain multiplies."""
    given = gain(stream, 0.5, branch="both"), gain(stream, 0.0, branch="both"), gain(stream, 0.5, "1-3", branch="both")
    half, gone, some, whole, own_half, own_none = wrapper.digests(
        *(((FOX, edit), {"steps": 1, **make(wrapper)}) for edit in given),
        *(((FOX,), {"steps": 1, **make(wrapper, scale)}) for scale in (1.0, 0.5, 0.0)),
    )
    assert half == own_half and gone == own_none
    assert len({half, gone, some, whole}) == 4
    assert wrapper.leftovers(make(wrapper)["load"])["hooks"] == []


def test_a_stream_of_some_steps_is_scaled_in_those(wrapper: WrapperHost):
    """FantasyPortrait hands the face over in its own part of sampling only."""
    half = gain("face", 0.5, branch="both")
    found, own, outside = wrapper.digests(
        ((FOX, half), {"steps": 4, **portrait(wrapper, start=0.5)}),
        ((FOX,), {"steps": 4, **portrait(wrapper, 0.5, start=0.5)}),
        ((FOX, gain("face", 0.5, end_percent=0.25)), {"steps": 4, **portrait(wrapper, 0.5, start=0.5)}),
    )
    assert found == own == outside
    assert "the face that is connected came in none of its steps" in wrapper.server.log()


def test_a_model_with_adapters_and_nothing_connected_is_an_error(wrapper: WrapperHost):
    load = {"load": lambda flow: lynx_load(wrapper, flow)}
    assert "has no face. It has text, reference" in wrapper.run(FOX, gain("face"), **load).error["exception_message"]
    message = wrapper.run(FOX, gain("reference"), **load).error["exception_message"]
    assert "gets no reference while sampling. It gets text." in message
    assert wrapper.leftovers(load["load"])["hooks"] == []

"""Weights and embeddings of lower precision: the injected prompt is projected as the host projects its own."""

from __future__ import annotations

import pytest

from .workflows import FOX, MOON, Host, NativeHost, Workflow, WrapperHost, edit


def holds(host: Host, load, encode=None):
    other = host.digest(MOON, load=load, encode=encode, steps=1)
    assert host.digest(FOX, edit(), load=load, encode=encode, steps=1) == other
    plain = host.digest(FOX, load=load, encode=encode, steps=1)
    assert plain != other
    assert host.digest(FOX, edit(FOX, injection_strength=0.5), load=load, encode=encode, steps=1) == plain


@pytest.mark.parametrize("embeds", ["float32", "bfloat16"])
@pytest.mark.parametrize(("precision", "quantization"), [("bf16", "disabled"), ("bf16", "fp8_e4m3fn")])
def test_every_block_at_full_strength_equals_the_injected_prompt(wrapper: WrapperHost, precision, quantization, embeds):
    def load(flow: Workflow):
        model = wrapper.load(flow)
        flow[model[0]]["inputs"] |= {"base_precision": precision, "quantization": quantization}
        return model

    holds(wrapper, load, lambda *args: wrapper.embeds(*args, dtype=embeds))


def test_embeds_of_unlike_precision_can_be_injected(wrapper: WrapperHost):
    half = lambda flow, prompt, *_: wrapper.embeds(flow, prompt, dtype="bfloat16")  # noqa: E731
    injected = wrapper.digest(FOX, edit(inject=lambda flow: half(flow, MOON)), cfg=1.0, steps=1)
    assert injected == wrapper.digest(MOON, encode=half, cfg=1.0, steps=1)


@pytest.mark.parametrize("weights", ["fp8_e4m3fn", "fp8_e5m2"])
def test_every_block_at_full_strength_equals_the_injected_prompt_on_native(native: NativeHost, weights):
    def load(flow: Workflow):
        unet = flow.add("UNETLoader", unet_name="native_t2v.safetensors", weight_dtype=weights)
        return flow.add("ModelSamplingSD3", model=unet, shift=5.0)

    holds(native, load)

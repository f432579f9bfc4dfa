"""torch.compile: compiled blocks are edited as they are; a model compiled as a whole runs uncompiled while edited."""

from __future__ import annotations

import pytest

from ..conftest import BRIEF
from .test_hidden_states import captured
from .workflows import FOX, MOON, NativeHost, Workflow, WrapperHost, edit

EACH = [True] if BRIEF else [True, False]


def compiled(wrapper: WrapperHost, backend: str = "inductor", blocks_only: bool = True, fullgraph: bool = False):
    """A loader whose model is compiled."""

    def load(flow: Workflow):
        settings = flow.add(
            "WanVideoTorchCompileSettings",
            backend=backend,
            fullgraph=fullgraph,
            mode="default",
            dynamic=False,
            dynamo_cache_size_limit=64,
            compile_transformer_blocks_only=blocks_only,
        )
        return wrapper.load(flow, compile_args=settings)

    return load


@pytest.mark.parametrize("fullgraph", EACH, ids=["fullgraph", "graph breaks allowed"][: len(EACH)])
def test_compiled_blocks_are_edited(wrapper: WrapperHost, fullgraph):
    load = compiled(wrapper, fullgraph=fullgraph)
    plain, other = wrapper.digest(FOX, load=load), wrapper.digest(MOON, load=load)
    before = wrapper.leftovers(load)
    assert wrapper.digest(FOX, edit(), load=load) == other
    assert wrapper.digest(FOX, edit(injection_strength=0.0), load=load) == plain
    second_stream = edit(injection_mode="hidden_states", block_activations="29")
    assert wrapper.digest(FOX, second_stream, load=load) == other
    part = wrapper.digest(FOX, edit(block_activations="even"), load=load)
    assert part not in (plain, other)
    assert wrapper.leftovers(load) == before
    assert before["hooks"] == []
    assert wrapper.digest(FOX, load=load) == plain


def test_a_wrapper_model_compiled_as_a_whole_runs_uncompiled_while_edited(wrapper: WrapperHost):
    """Edited latents are those of the uncompiled model; plain runs stay compiled."""
    load = compiled(wrapper, backend="cudagraphs", blocks_only=False)
    plain = wrapper.digest(FOX, load=load)
    result = wrapper.run(FOX, edit(), load=load).checked()
    assert wrapper.reference(MOON) in str(result.outputs)
    assert "compiled as a whole; it runs uncompiled while edited" in result.log
    assert "compile_transformer_blocks_only" in result.log
    assert wrapper.digest(FOX, load=load) == plain


@pytest.mark.parametrize("compile_last", EACH, ids=["compiled after the editor", "compiled before it"][: len(EACH)])
def test_a_native_model_compiled_as_a_whole_runs_uncompiled_while_edited(native: NativeHost, compile_last):
    def after(flow: Workflow, model):
        return flow.add("TorchCompileModel", model=model, backend="cudagraphs")

    def load(flow: Workflow):
        return after(flow, native.load(flow))

    where = {"after": after} if compile_last else {"load": load}
    plain = native.digest(FOX, **where)
    result = native.run(FOX, edit(), **where).checked()
    assert native.reference(MOON) in str(result.outputs)
    assert "compiled as a whole; it runs uncompiled while edited" in result.log
    assert native.digest(FOX, **where) == plain
    assert native.leftovers()["hooks"] == []


@pytest.mark.parametrize("whole", EACH, ids=["whole model", "blocks"][: len(EACH)])
def test_capture_from_a_compiled_wrapper_model(wrapper: WrapperHost, whole):
    """With the backend cudagraphs, which on the CPU gives the values of the uncompiled model."""
    load = compiled(wrapper, backend="cudagraphs", blocks_only=not whole)
    plain, bare = wrapper.digest(load=load), captured(wrapper)
    assert captured(wrapper, load=load)["sha256"] == bare["sha256"]
    assert wrapper.digest(load=load, after=wrapper.adding(4)) == wrapper.digest(after=wrapper.adding(4))
    assert wrapper.digest(load=load) == plain


def test_capture_from_a_native_model_compiled_as_a_whole(native: NativeHost):
    def load(flow: Workflow):
        return flow.add("TorchCompileModel", model=native.load(flow), backend="cudagraphs")

    plain, bare = native.digest(load=load), captured(native)
    assert captured(native, load=load)["sha256"] == bare["sha256"]
    assert native.digest(load=load) == plain
    assert native.leftovers()["hooks"] == []

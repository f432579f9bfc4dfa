"""The invariants that hold on every host."""

from __future__ import annotations

import pytest

from .workflows import FOX, MOON, Host, Workflow, edit


@pytest.mark.parametrize(
    "inputs",
    [
        {"injection_strength": 0.0},
        {"block_activations": "0" * 40},
        {"block_activations": "none"},
        {"block_activations": "all:0"},
        {"enable_patching": False},
        {"enable_patching": False, "inject": None},
    ],
    ids=str,
)
def test_an_editor_that_changes_nothing_equals_no_editor(host: Host, inputs):
    assert host.digest(FOX, edit(**inputs)) == host.reference()


@pytest.mark.parametrize("cfg", [3.0, 1.0])
def test_every_block_at_full_strength_equals_the_injected_prompt(host: Host, cfg):
    injected = host.digest(FOX, edit(), cfg=cfg)
    assert injected == host.reference(MOON, cfg=cfg)
    assert injected != host.reference(cfg=cfg)


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_injecting_a_prompt_into_itself_changes_nothing(host: Host, strength):
    assert host.digest(FOX, edit(FOX, injection_strength=strength)) == host.reference()


def test_partial_strength_and_partial_selections_each_give_another_result(host: Host):
    selections = ["0-4", "even", "late_blocks", "all"]
    results = [host.reference(FOX, edit(block_activations=s)) for s in selections]
    results += [host.reference(FOX, edit(injection_strength=0.5)), host.reference()]
    assert len(set(results)) == len(results)


def test_two_clones_with_different_edits_in_one_graph_do_not_see_each_other(host: Host):
    even, odd = edit(block_activations="even"), edit(block_activations="odd", injection_strength=0.5)
    alone = [host.digest(FOX, even), host.digest(FOX, odd), host.reference()]
    assert host.digests(((FOX, even), {}), ((FOX, odd), {}), ((FOX,), {})) == alone
    assert len(set(alone)) == 3


def test_running_twice_gives_the_same_result(host: Host):
    half = edit(injection_strength=0.5)
    assert host.digest(FOX, half) == host.digest(FOX, half) == host.reference(FOX, half)


def test_a_fresh_load_gives_the_same_result_as_a_cached_one(host: Host):
    half = edit(injection_strength=0.5)
    cached = host.digest(FOX, half)
    host.server.free()
    result = host.run(FOX, half).checked()
    assert result.messages["execution_cached"]["nodes"] == [], "the model was still cached"
    assert cached in [sha for o in result.outputs.values() for sha in o.get("sha256", ())]


def test_a_run_without_the_editor_is_the_same_before_and_after_one_with_it(host: Host):
    before, model = host.digest(FOX), host.leftovers()
    host.digest(FOX, edit())
    assert host.leftovers() == model, "something stayed on the model"
    assert host.digest(FOX) == before


def test_the_editor_leaves_nothing_in_the_model_it_was_given(host: Host):
    """The original next to its edited clone in one graph, sampled after it."""
    flow = Workflow()
    model = host.load(flow)
    edited = host.branch(flow, FOX, edit(), load=lambda _: model)
    plain = host.branch(flow, FOX, load=lambda _: model)
    probes = [flow.add("TestDigest", samples=latents)[0] for latents in (edited, plain)]
    result = host.server.run(flow).checked()
    assert [result.output(p, "sha256")[0] for p in probes] == [host.reference(MOON), host.reference()]

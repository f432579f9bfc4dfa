"""The wrapper of July 2025, with another interface: weights loaded at once, no transformer_options in its blocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import BRIEF
from . import tiny_models
from .conftest import serve
from .server import NO_OLDER_WRAPPER, RunFailedError, older_wrapper
from .test_between_blocks import CONTROLS, controls_are_refused
from .test_hidden_states import COUNT, HALF, captured, nonces, recorded
from .workflows import FOX, FRAMES, MOON, SHARP, SIZE, Workflow, WrapperHost, edit

pytestmark = pytest.mark.skipif(BRIEF, reason="another server for minutes: WAN_LONG_TESTS=1")


@pytest.fixture(scope="module")
def older(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WrapperHost]:
    path = older_wrapper()
    if path is None:
        pytest.skip(NO_OLDER_WRAPPER)
    for server in serve(tmp_path_factory.mktemp("older"), models, path):
        yield WrapperHost(server)


def test_strength_zero_equals_no_editor(older: WrapperHost):
    assert older.digest(FOX, edit(injection_strength=0.0)) == older.reference()


def test_every_block_at_full_strength_equals_the_injected_prompt(older: WrapperHost):
    injected = older.digest(FOX, edit())
    assert injected == older.reference(MOON)
    assert injected != older.reference()


def test_the_uncond_branch_at_full_strength_equals_another_negative_prompt(older: WrapperHost):
    assert older.digest(FOX, edit(SHARP, branch="uncond")) == older.reference(FOX, negative=SHARP)
    edits = edit(MOON), edit(SHARP, branch="uncond")
    assert older.digest(FOX, *edits) == older.reference(MOON, negative=SHARP)


def test_injecting_a_prompt_into_itself_changes_nothing(older: WrapperHost):
    assert older.digest(FOX, edit(FOX, injection_strength=0.5)) == older.reference()


def test_windows_that_cover_the_run_equal_the_injected_prompt(older: WrapperHost):
    edits = edit(end_percent=0.5), edit(start_percent=0.5)
    assert older.digest(FOX, *edits, steps=4) == older.reference(MOON, steps=4)
    assert older.digest(FOX, edits[0], steps=4) != older.reference(MOON, steps=4)


def test_a_run_without_the_editor_is_the_same_before_and_after_one_with_it(older: WrapperHost):
    before, model = older.digest(FOX), older.leftovers()
    older.digest(FOX, edit(block_activations="even"))
    assert older.leftovers() == model
    assert older.digest(FOX) == before


@pytest.mark.parametrize("how", ["exception", "interrupt"])
def test_nothing_remains_after_a_run_that_ended_early(older: WrapperHost, how):
    before = older.reference(), older.leftovers()
    if how == "interrupt":
        assert older.interrupted(4, FOX, edit(), steps=4).interrupted
    else:
        with pytest.raises(RunFailedError, match="stopped in the middle of a block"):
            older.run(FOX, edit(), after=older.stop_in_block(4, "raise"), steps=4).checked()
    left = older.leftovers()
    assert (older.digest(FOX), left) == before
    assert left["hooks"] == left["forwards"] == []


def test_the_second_stream_of_a_prompt_equals_it_at_full_strength(older: WrapperHost):
    given = edit(injection_mode="hidden_states", block_activations="29")
    assert older.digest(FOX, given) == older.reference(MOON)


@pytest.mark.parametrize("name", CONTROLS)
def test_a_second_stream_is_refused_beside_controls(older: WrapperHost, name):
    controls_are_refused(older, name)


def test_captured_states_are_those_of_a_run_and_can_be_added(older: WrapperHost):
    other, _, scale = recorded(older, MOON, cfg=1.0)
    assert captured(older, against=other)["recorded"] == [True]
    _, difference, _ = recorded(older, FOX, cfg=1.0, after=older.adding(COUNT), against=other)
    assert max(difference[0]) <= 4 * HALF * scale[0]
    assert older.digest(after=older.adding(COUNT, other=FOX)) == older.reference()


@pytest.mark.parametrize("ends", ["as it should", "with an exception"])
def test_nothing_remains_after_a_capture(older: WrapperHost, ends):
    plain = older.digest()
    before = older.leftovers(places=True)
    if ends == "as it should":
        captured(older)
    else:
        flow = Workflow()
        model = older.stop_in_block(1, "raise")(flow, older.load(flow))
        link = older.capture(flow, model, MOON, 29)
        flow.add("TestLatentEmbeds", latent_embeds=link, info="")
        with pytest.raises(RunFailedError, match="stopped in the middle of a block"):
            older.server.run(flow).checked()
    assert older.leftovers(places=True) == before
    assert older.digest() == plain


def test_a_latent_needs_a_newer_wrapper(older: WrapperHost):
    with pytest.raises(RunFailedError, match="this version of ComfyUI-WanVideoWrapper cannot add noise to a latent"):
        captured(older, latent=lambda flow: older.branch(flow, SHARP))


@pytest.mark.parametrize("batched", [False, True], ids=["separate calls", "one batched call"])
def test_prompt_and_negative_prompt_are_told_apart_however_they_are_called(older: WrapperHost, batched):
    """On an I2V model, the only kind that this wrapper can call in batches."""
    model = {
        "load": lambda flow: older.load(flow, checkpoint=tiny_models.WRAPPER_I2V),
        "image_embeds": lambda flow: flow.add("TestImageVideo", frames=FRAMES, **SIZE),
        "batched_cfg": batched,
    }
    assert older.digest(FOX, edit(), **model) == older.digest(MOON, **model)
    assert older.digest(FOX, edit(SHARP, branch="uncond"), **model) == older.digest(FOX, negative=SHARP, **model)
    edits = edit(MOON), edit(SHARP, branch="uncond")
    assert older.digest(FOX, *edits, **model) == older.digest(MOON, negative=SHARP, **model)


def test_a_capture_offloads_the_model(older: WrapperHost):
    """This version's sampler does not when it ends early."""
    flow = Workflow()
    model = flow.add("TestMoves", model=older.load(flow), nonce=next(nonces))
    end = flow.add("TestMovesEnd", latent_embeds=older.capture(flow, model, MOON, COUNT))
    assert older.server.run(flow).checked().output(end[0], "offloaded")[-1:] == [True]

"""The runtime where a host puts prompt and negative prompt into one batch, as ComfyUI does."""

from __future__ import annotations

import re

import pytest
import torch
from wanvideo_activation_editor.embeddings.text_embeds import read_text_embeds
from wanvideo_activation_editor.patching.acted import Acted, acted
from wanvideo_activation_editor.patching.checks import check_stack
from wanvideo_activation_editor.patching.edit import Edit, EditStack, Window
from wanvideo_activation_editor.patching.hosts.comfy_native import Sampling
from wanvideo_activation_editor.patching.messages import warn_if_unused
from wanvideo_activation_editor.patching.runtime import Run
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.wan_model import discover

from .conftest import hook_count, make_transformer, prompt_embeds

MAIN, OTHER, THIRD, NEGATIVE = prompt_embeds(1), prompt_embeds(2, 20), prompt_embeds(3), prompt_embeds(9, 5)
ROWS = {"uncond": [(0, 0)], "cond": [(1, 0)]}
X = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(3))


def edit(embeds: torch.Tensor, blocks: str = "all", branch: str = "cond", **more) -> Edit:
    return Edit(read_text_embeds(embeds), parse_selection(blocks), branch=branch, **more)


def call(model: torch.nn.Module, negative: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """One batched call in ComfyUI's order: unconditional row first."""
    return model(
        hidden_states=X.repeat(2, 1, 1, 1, 1),
        timestep=torch.tensor([500, 500]),
        encoder_hidden_states=torch.cat([negative, positive]),
    ).sample


def run(model: torch.nn.Module, *edits: Edit, rows=ROWS) -> torch.Tensor:
    with Run(EditStack(edits), discover(model)) as active:
        active.begin(rows, progress=lambda clock: 0.0)
        return call(model, NEGATIVE, MAIN)


@pytest.fixture
def model():
    return make_transformer()


def test_the_unconditional_row_is_untouched(model):
    for blocks in ("all", "1-3:0.4"):
        edited = run(model, edit(OTHER, blocks))
        assert torch.equal(edited[0], call(model, NEGATIVE, MAIN)[0])
        assert not torch.equal(edited[1], call(model, NEGATIVE, MAIN)[1])


def test_each_branch_equals_the_injected_prompt_in_its_place(model):
    assert torch.equal(run(model, edit(OTHER)), call(model, NEGATIVE, OTHER))
    assert torch.equal(run(model, edit(OTHER, branch="uncond")), call(model, OTHER, MAIN))
    assert torch.equal(run(model, edit(OTHER, branch="both")), call(model, OTHER, OTHER))


def test_edits_of_different_branches_compose_in_one_batch(model):
    both = (edit(OTHER), edit(THIRD, branch="uncond"))
    assert torch.equal(run(model, *both), call(model, THIRD, OTHER))
    assert torch.equal(run(model, *reversed(both)), call(model, THIRD, OTHER))
    partial = run(model, edit(OTHER, "0-2:0.5"), edit(THIRD, "2-5:0.3", branch="uncond"))
    assert torch.equal(partial[1], run(model, edit(OTHER, "0-2:0.5"))[1])
    assert torch.equal(partial[0], run(model, edit(THIRD, "2-5:0.3", branch="uncond"))[0])


def test_rows_that_no_branch_claims_are_untouched(model):
    edited = run(model, edit(OTHER, branch="both"), rows={"cond": [(1, 0)]})
    assert torch.equal(edited, call(model, NEGATIVE, OTHER))


def test_hooks_act_only_after_a_call_was_announced(model):
    plain = call(model, NEGATIVE, MAIN)
    with Run(EditStack((edit(OTHER),)), discover(model)) as active:
        assert hook_count(model) == model.config.num_layers + 2  # the projection, the model
        assert torch.equal(call(model, NEGATIVE, MAIN), plain)
        active.begin(ROWS, progress=lambda clock: 0.0)
        assert not torch.equal(call(model, NEGATIVE, MAIN), plain)
    assert hook_count(model) == 0


def test_only_edited_blocks_are_hooked(model):
    with Run(EditStack((edit(OTHER, "2, 4:0.5"), edit(THIRD, "4"))), discover(model)):
        assert [i for i, b in enumerate(model.blocks) if hook_count(b)] == [2, 4]


def test_a_run_without_effect_is_told(model, caplog):
    run_ = Run(EditStack((edit(OTHER, label="First editor"),)), discover(model))
    with run_:
        run_.begin({"uncond": [(0, 0)]}, progress=lambda clock: 0.0)
        call(model, NEGATIVE, MAIN)
    warn_if_unused(run_.close(completed=True))
    assert "First editor had no effect: no model call of this run fell in its branch and window" in caplog.text


def test_what_an_edit_did_is_summed_over_its_runs_however_they_end(model):
    """Two samplers in a row, of which one sees no step of the window, and one that fails: none is forgotten."""
    one, other = edit(OTHER, "1-3", window=Window(0, 0.5)), edit(OTHER, "1")
    assert acted(one) is None
    for progress, completed in ((0.0, True), (0.9, True), (0.2, False)):
        run_ = Run(EditStack((one,)), discover(model))
        with run_:
            run_.begin(ROWS, progress=lambda clock, progress=progress: progress)
            call(model, NEGATIVE, MAIN)
        run_.close(completed)
    Run(EditStack((other,)), discover(model)).close(True)  # no model call
    assert acted(one) == Acted(calls=2, edited=6) and acted(other) is None
    assert str(acted(one)) == "its hooks changed blocks 6 times in 2 model calls since it was made"


def test_a_model_that_skips_its_projection_is_an_error(model):
    context = model.condition_embedder.text_embedder(MAIN)
    with Run(EditStack((edit(OTHER),)), discover(model)) as active:
        active.begin({"cond": [(0, 0)]}, progress=lambda clock: 0.0)
        with pytest.raises(RuntimeError, match="did not run its text projection"):
            model.blocks[0](torch.zeros(1, 4, 32), context, torch.zeros(1, 6, 32), None)


def test_prompt_counts_must_match(model):
    two = edit(torch.cat([OTHER, THIRD]))
    check_stack((two,), discover(model), prompt_count=2)
    with pytest.raises(ValueError, match="2 prompts are injected into 3"):
        check_stack((two,), discover(model), prompt_count=3)
    with pytest.raises(ValueError, match="20 tokens, but the main prompt's context holds 16"):
        check_stack((edit(OTHER),), discover(model), context_tokens=16)


def test_progress_is_read_once_per_call_and_only_for_windows(model):
    reads = []

    def progress(clock) -> float:
        reads.append(1)
        return 0.25

    windowed = [edit(OTHER, "1", window=Window(0, end)) for end in (0.2, 0.5, 0.9)]
    with Run(EditStack((edit(THIRD, "0"), *windowed)), discover(model)) as active:
        active.begin(ROWS, progress)
        assert active.acts
    assert len(reads) == 1
    with Run(EditStack((edit(OTHER),)), discover(model)) as active:
        active.begin(ROWS, progress)
    assert len(reads) == 1


def patched_by(module: torch.nn.Module, owner: str) -> None:
    """Replace a module's forward as packs do that patch in place."""
    original = module.forward

    def forward(*args, **kwargs):
        return original(*args, **kwargs)

    forward.__module__ = owner
    module.forward = forward


def test_code_that_replaced_what_is_hooked_is_named_once(model, caplog):
    patched_by(model.blocks[2], "custom_nodes.other_pack.patcher")
    patched_by(model.blocks[3], "custom_nodes.other_pack.patcher")
    patched_by(model.blocks[5], "custom_nodes.other_pack.patcher")
    patched_by(discover(model).projection, "custom_nodes.third_pack")
    with Run(EditStack((edit(OTHER, "1-3"),)), discover(model)) as active:
        active.begin(ROWS, progress=lambda clock: 0.0)
        call(model, NEGATIVE, MAIN)
        active.begin(ROWS, progress=lambda clock: 0.0)
        call(model, NEGATIVE, MAIN)
    blocks, projection = [r.getMessage() for r in caplog.records if "has replaced" in r.getMessage()]
    assert "custom_nodes.other_pack.patcher has replaced the forward of blocks 2, 3 of" in blocks
    assert "custom_nodes.third_pack has replaced the forward of the text projection" in projection


def test_a_forward_that_is_the_modules_own_is_no_conflict(model, caplog):
    model.blocks[2].forward = model.blocks[2].forward  # what is left by packs that put the original back
    run(model, edit(OTHER))
    assert "has replaced" not in caplog.text


def observed(model, observe, *edits: Edit, labels=("a", "b"), completed: bool = True) -> None:
    """Args: observe: the observer of an edit, or one for all of them."""
    run_ = Run(EditStack(edits), discover(model), observer_for=observe if len(edits) > 1 else lambda edit: observe)
    with run_:
        for label in labels:
            run_.begin(ROWS, progress=lambda clock: 0.0, label=lambda label=label: label)
            call(model, NEGATIVE, MAIN)
    run_.close(completed)


def output_change(model, *edits: Edit) -> float:
    """Relative L2 change of the prompt's row of the output."""
    plain, edited = call(model, NEGATIVE, MAIN)[1], run(model, *edits)[1]
    return ((edited - plain).norm() / plain.norm()).item()


def test_an_observer_gets_the_change_of_the_output_and_per_block_that_of_its_edit(model):
    messages: list[dict] = []
    silent: list[dict] = []
    half = edit(OTHER, "1-2:0.5, 4", log_level="basic")
    observed(model, lambda e: messages.append if e is half else silent.append, half, edit(THIRD, "0"))
    main, other = (model.condition_embedder.text_embedder(x)[:, :20] for x in (MAIN, OTHER))  # 12 tokens and 20
    full = ((other - main).norm() / main.norm()).item()
    expected = output_change(model, edit(OTHER, "1-2:0.5, 4"), edit(THIRD, "0"))
    assert expected > 0.01
    assert silent == [], "its log level is off"
    assert [m["phase"] for m in messages] == ["step", "step", "end"]
    assert [m["step"] for m in messages] == [1, 2, 2]
    for message in messages:
        assert (message["active"], message["blocks"]) == (3, 6)
        assert message["change"] == pytest.approx(expected, rel=1e-4)
    changes = messages[-1]["changes"]
    assert [c is None for c in changes] == [True, False, False, True, False, True]
    assert [c for c in changes if c is not None] == pytest.approx([full / 2, full / 2, full], rel=1e-5)


def test_an_observer_is_told_once_per_step_and_how_the_run_ended(model):
    messages: list[dict] = []
    observed(model, messages.append, edit(OTHER, log_level="basic"), labels="aab", completed=False)
    assert [(m["phase"], m["step"]) for m in messages] == [("step", 1), ("step", 2), ("stopped", 2)]


def test_an_observer_of_a_second_stream_gets_the_change_of_the_hidden_state(model):
    messages: list[dict] = []
    left: list[torch.Tensor] = []
    with model.blocks[3].register_forward_hook(lambda module, args, out: left.append(out)):
        call(model, NEGATIVE, MAIN)
        call(model, NEGATIVE, OTHER)
    plain, other = (x[1] for x in left)
    observed(model, messages.append, edit(OTHER, "3", site="hidden", log_level="basic"), labels="a")
    expected = ((other - plain).norm() / plain.norm()).item()
    assert [(m["phase"], m["active"]) for m in messages] == [("step", 1), ("end", 1)]
    assert messages[-1]["changes"][3] == pytest.approx(expected, rel=1e-4)
    output = output_change(model, edit(OTHER, "3", site="hidden"))
    assert [m["change"] for m in messages] == pytest.approx([output, output], rel=1e-4)


def test_an_observer_changes_nothing_and_off_measures_nothing(model):
    plain = run(model, edit(OTHER, "all:0.5"))
    for level in ("basic", "off"):
        with Run(
            EditStack((edit(OTHER, "all:0.5", log_level=level),)), discover(model), observer_for=lambda e: print
        ) as active:
            active.begin(ROWS, progress=lambda clock: 0.0)
            assert torch.equal(call(model, NEGATIVE, MAIN), plain)
            assert (active.statistics is None) == (level == "off")


def in_turn(model: torch.nn.Module, *texts: torch.Tensor) -> torch.Tensor:
    """The rows of a batch one after the other, as RES4LYF's patcher of Wan models takes them."""
    return torch.cat(
        [model(hidden_states=X, timestep=torch.tensor([500]), encoder_hidden_states=text).sample for text in texts]
    )


@pytest.mark.parametrize("site", ["context", "hidden", "attention"])
@pytest.mark.parametrize("order", [(NEGATIVE, MAIN), (MAIN, NEGATIVE)])
def test_rows_that_a_model_takes_in_turn_are_those_that_it_projects(model, site, order):
    for branch in ("cond", "uncond", "both"):
        one = edit(OTHER, "1-3:0.4", branch, site=site)
        with Run(EditStack((one,)), discover(model)) as active:
            active.begin(ROWS, progress=lambda clock: 0.0, text=torch.cat([NEGATIVE, MAIN]))
            edited = in_turn(model, *order)
        alone = [
            ({"cond": [(0, 0)]} if branch in ("both", "uncond" if t is NEGATIVE else "cond") else {}) for t in order
        ]
        for row, text, rows in zip(edited, order, alone, strict=True):
            with Run(EditStack((edit(OTHER, "1-3:0.4", site=site),)), discover(model)) as active:
                active.begin(rows, progress=lambda clock: 0.0)
                assert torch.equal(row, in_turn(model, text)[0]), branch


def test_a_row_that_was_not_announced_is_refused(model):
    with Run(EditStack((edit(OTHER),)), discover(model)) as active, pytest.raises(RuntimeError, match="none of them"):
        active.begin(ROWS, progress=lambda clock: 0.0, text=torch.cat([NEGATIVE, MAIN]))
        in_turn(model, THIRD)


@pytest.mark.parametrize("site", ["context", "hidden"])
def test_a_model_that_calls_no_block_as_a_module_is_an_error_that_names_it(model, site):
    """As Wan-Animate-2, which calls `forward_gen` of its blocks."""
    for block in model.blocks:
        block.__class__ = type("Bare", (type(block),), {"__call__": type(block).forward})
    message = "First editor: WanTransformer3DModel ran without calling the chosen blocks"
    with Run(EditStack((edit(OTHER, label="First editor", site=site),)), discover(model)) as active:
        active.begin(ROWS, progress=lambda clock: 0.0)
        with pytest.raises(RuntimeError, match=message):
            call(model, NEGATIVE, MAIN)
    assert hook_count(model) == 0


def test_a_call_that_ended_early_does_not_show_that_a_model_calls_no_block(model):
    def stop(*_):
        raise OSError("before the blocks")

    wanted = call(model, NEGATIVE, OTHER)
    with Run(EditStack((edit(OTHER),)), discover(model)) as active:
        active.begin(ROWS, progress=lambda clock: 0.0)
        with model.condition_embedder.register_forward_hook(stop), pytest.raises(OSError, match="before the blocks"):
            call(model, NEGATIVE, MAIN)
        active.begin(ROWS, progress=lambda clock: 0.0)
        assert torch.equal(call(model, NEGATIVE, MAIN), wanted)


def test_an_effect_in_one_of_two_runs_of_a_sampling_is_an_effect(model, caplog):
    """As with two devices, of which one sees the negative prompt alone."""
    other_device = make_transformer()
    for both in (True, False):
        caplog.clear()
        sampling = Sampling(EditStack((edit(OTHER, label="First editor"),)), None, lambda percent: 1 - percent)
        for transformer, rows in ((model, {"cond": [(0, 0)]} if both else {}), (other_device, {"uncond": [(0, 0)]})):
            with sampling.run_for(transformer) as run_:
                run_.begin(rows, progress=lambda clock: 0.0)
                in_turn(transformer, MAIN)
        sampling.close(completed=True)
        assert ("First editor had no effect" in caplog.text) != both


def test_figures_are_of_real_tokens(model, caplog):
    """As the texts alone are compared, without the padding to 512 rows."""
    caplog.set_level("INFO")
    project = model.condition_embedder.text_embedder
    a, b = project(MAIN)[0, :20], project(OTHER)[0, :20]  # 12 tokens and 20
    told: list[dict] = []
    observed(model, told.append, edit(OTHER, "2", log_level="verbose"), labels=("a",))
    relative = float((b - a).norm() / a.norm())
    assert told[-1]["changes"][2] == pytest.approx(relative, rel=1e-4)
    line = next(m for m in caplog.messages if "block 2: context of real tokens changed by" in m)
    assert float(re.search(r"changed by ([0-9.]+)", line)[1]) == pytest.approx(relative, abs=1e-4)

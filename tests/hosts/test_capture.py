"""Capture of hidden states and activation addition on diffusers."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from wanvideo_activation_editor.embeddings.text_embeds import read_text_embeds
from wanvideo_activation_editor.patching.capture import Capture, HiddenStates
from wanvideo_activation_editor.patching.difference import captured_difference
from wanvideo_activation_editor.patching.edit import Edit, EditStack
from wanvideo_activation_editor.patching.hosts.diffusers import capture, edited, inject, inject_hidden
from wanvideo_activation_editor.patching.operations import Add
from wanvideo_activation_editor.patching.runtime import Run
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.wan_model import discover

from .conftest import Sampler, hook_count, make_transformer, prompt_embeds
from .test_streams import T, X, block_outputs, call

T_VALUE = float(T)
OTHER_X = torch.randn(1, 4, 2, 8, 4, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def model():
    return make_transformer()


def pair(model, main, other, count, latents=X, **more):
    return [capture(model, e, count, latents=latents, timestep=T_VALUE, **more) for e in (main, other)]


def rounding(*tensors: torch.Tensor) -> float:
    """Twice the largest rounding error of bfloat16 (8 bits) at the scale of the tensors: theirs and their sum's."""
    return 4 * 2**-8 * max(t.abs().max().item() for t in tensors)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_capture_is_the_hidden_state_of_an_ordinary_pass(model, main, count):
    states = capture(model, main, count, latents=X, timestep=T_VALUE)
    wanted = block_outputs(model, main)[count - 1]
    assert torch.equal(states.states[0], wanted.bfloat16())
    assert (states.blocks, states.grid, states.sigma) == ((count - 1,), (2, 2, 2), 0.5)
    assert states.states[0].device.type == "cpu"


def test_all_blocks_are_captured_in_one_pass(model, main):
    states = capture(model, main, 4, latents=X, timestep=T_VALUE, every=True)
    assert states.blocks == (0, 1, 2, 3)
    for state, wanted in zip(states.states, block_outputs(model, main), strict=False):
        assert torch.equal(state, wanted.bfloat16())
    single = capture(model, main, 4, latents=X, timestep=T_VALUE)
    assert len(single.states) == 1


def test_a_half_precision_model_is_captured_exactly(main):
    for dtype in (torch.bfloat16, torch.float16):
        model = make_transformer().to(dtype)
        states = capture(model, main, 2, latents=X, timestep=T_VALUE)
        seen = []
        hook = model.blocks[1].register_forward_hook(lambda _, args, out, seen=seen: seen.append(out.clone()))
        with torch.no_grad():
            call(model, main.to(dtype), X.to(dtype))
        hook.remove()
        assert states.states[0].dtype == dtype
        assert torch.equal(states.states[0], seen[0])


def test_blocks_after_the_captured_one_do_not_run(model, main):
    ran = []
    hooks = [b.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, b in enumerate(model.blocks)]
    hooks.append(model.proj_out.register_forward_hook(lambda *_: ran.append("head")))
    capture(model, main, 3, latents=X, timestep=T_VALUE)
    for hook in hooks:
        hook.remove()
    assert ran == [0, 1, 2]


@pytest.mark.parametrize("count", [0, 7])
def test_a_block_count_out_of_range_says_how_many_there_are(model, main, count):
    with pytest.raises(ValueError, match=rf"capture_after_blocks is {count}, but .* has 6 blocks. Choose 1 to 6"):
        capture(model, main, count, latents=X)


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_capture_leaves_nothing_however_it_ends(sampler, main, error):
    transformer = sampler.pipe.transformer
    plain = sampler(main)
    weights = [p.data_ptr() for p in transformer.parameters()]

    def after_block(done):
        if error is not None and done == 2:
            raise error("stop")

    if error is None:
        capture(sampler.pipe, main, 3, latents=X)
    else:
        with pytest.raises(error):
            capture(sampler.pipe, main, 3, latents=X, after_block=after_block)
    assert hook_count(transformer) == 0
    assert weights == [p.data_ptr() for p in transformer.parameters()]
    assert torch.equal(sampler(main), plain)


def test_sequential_offload_takes_every_weight_back(model, main):
    accelerate = pytest.importorskip("accelerate")
    wanted = capture(model, main, 3, latents=X)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    states = capture(model, main, 3, latents=X)
    assert torch.equal(states.states[0], wanted.states[0])
    assert [name for name, p in model.named_parameters() if not p.is_meta] == []


def test_edits_around_a_capture_act_in_it(model, main, other):
    with inject(model, other, "all"):
        states = capture(model, main, 3, latents=X)
    assert torch.equal(states.states[0], capture(model, other, 3, latents=X).states[0])


def test_progress_counts_the_blocks(model, main):
    done: list[int] = []
    capture(model, main, 4, latents=X, after_block=done.append)
    assert done == [1, 2, 3, 4]


def test_a_host_that_runs_no_block_is_an_error(model):
    with Capture(discover(model), 2) as running:
        pass
    with pytest.raises(RuntimeError, match="did not run block 1"):
        running.result()


def test_later_model_calls_of_a_host_that_goes_on_are_left_out(model, main, other):
    """Skip-layer guidance of ComfyUI calls the model again, with blocks left out."""
    done: list[int] = []
    calls = []
    with Capture(discover(model), 3, after_block=done.append) as running:
        for embeds in (main, other):
            zeros = running.stoppable(lambda embeds=embeds: (calls.append(1), call(model, embeds))[1], X)
            assert torch.equal(zeros, torch.zeros_like(X))
        with torch.no_grad():
            call(model, other, t=T * 0)
    states = running.result()
    assert (done, len(calls), states.sigma) == ([1, 2, 3], 1, T_VALUE / 1000)
    assert torch.equal(states.states[0], block_outputs(model, main)[2].bfloat16())


def test_capture_ignores_the_second_stream_around_it(model, main, other):
    with inject(model, other, "5", site="hidden"):
        states = capture(model, main, 3, latents=X, timestep=T_VALUE)
    assert torch.equal(states.states[0], block_outputs(model, main)[2].bfloat16())


# Addition


@pytest.mark.parametrize("index", [0, 3, 5])
def test_injecting_at_full_strength_gives_the_injected_prompts_state(model, main, other, index):
    plain, wanted = block_outputs(model, main), block_outputs(model, other)[index]
    with inject_hidden(model, *pair(model, main, other, index + 1), str(index)):
        outputs = block_outputs(model, main)
    assert (outputs[index] - wanted).abs().max() <= rounding(plain[index], wanted)
    assert not torch.allclose(outputs[index], plain[index], atol=rounding(plain[index], wanted))
    for i in range(index):
        assert torch.equal(outputs[i], plain[i])


def test_injecting_after_the_last_block_gives_the_injected_prompts_output(main, other):
    model = make_transformer().to(torch.bfloat16)
    x, a, b = X.bfloat16(), main.bfloat16(), other.bfloat16()
    with torch.no_grad():
        wanted, plain = call(model, b, x), call(model, a, x)
        with inject_hidden(model, *pair(model, main, other, 6), "5"):
            got = call(model, a, x)
    assert (got - wanted).abs().max() < 0.05 * (plain - wanted).abs().max()


def test_known_answer_at_partial_strength(model, main, other):
    """The following blocks run on the changed state."""
    a, b = pair(model, main, other, 2)
    plain, temb_rope = block_outputs(model, main), []
    hook = model.blocks[2].register_forward_pre_hook(lambda _, args: temb_rope.extend(args[1:]))
    call(model, main)
    hook.remove()
    delta = (b.states[0].float() - a.states[0].float()).bfloat16().float()
    with inject_hidden(model, a, b, "1:0.5", 0.6):
        outputs = block_outputs(model, main)
    wanted = torch.add(plain[1], delta, alpha=0.5 * 0.6)
    assert torch.equal(outputs[1], wanted)
    assert torch.equal(outputs[2], model.blocks[2](wanted, main_context(model, main), *temb_rope[1:]))


def main_context(model, main):
    return model.condition_embedder.text_embedder(main)


def test_strength_zero_no_block_and_equal_latents_change_nothing(sampler, main, other):
    latents = torch.randn(1, 4, 2, 4, 4)
    a, b = (capture(sampler.pipe, e, 3, latents=latents) for e in (main, other))
    plain = sampler(main)
    for given, blocks in (((a, b), "all:0"), ((a, b), "none"), ((a, a), "all")):
        for keep in (False, True):
            with inject_hidden(sampler.pipe, *given, blocks, preserve_norm=keep):
                assert torch.equal(sampler(main), plain)
    with inject_hidden(sampler.pipe, a, b, "2"):
        assert not torch.equal(sampler(main), plain)


def test_states_after_each_block_give_a_block_its_own(model, main, other):
    every, single = pair(model, main, other, 4, every=True), pair(model, main, other, 3)
    with inject_hidden(model, *every, "2"):
        own = call(model, main)
    with inject_hidden(model, *single, "2"):
        assert torch.equal(call(model, main), own)
    with pytest.raises(ValueError, match=r"Block 5 is chosen, but .* after blocks 0 to 3"):
        captured_difference(*every, [5])
    with pytest.raises(ValueError, match=r"2 blocks are chosen, .* set reduce to mean"):
        captured_difference(*every, [1, 2])
    means = captured_difference(*every, [1, 3], "mean")
    for block in (1, 3):
        wanted = every[1].states[block].float().mean(1) - every[0].states[block].float().mean(1)
        assert torch.equal(means.deltas[means.index_of[block]][:, 0], wanted)


def test_the_mean_fits_any_size(model, main, other):
    a, b = pair(model, main, other, 2, latents=OTHER_X)
    plain = block_outputs(model, main)
    with inject_hidden(model, a, b, "1", reduce="mean"):
        outputs = block_outputs(model, main)
    delta = b.states[0].float().mean(1, keepdim=True) - a.states[0].float().mean(1, keepdim=True)
    assert torch.equal(outputs[1], plain[1] + delta)


def test_preserved_norms(model, main, other):
    a, b = pair(model, main, other, 2)
    plain = block_outputs(model, main)[1]
    with inject_hidden(model, a, b, "1"):
        free = block_outputs(model, main)[1]
    with inject_hidden(model, a, b, "1", preserve_norm=True):
        kept = block_outputs(model, main)[1]
    assert torch.allclose(kept.norm(dim=-1), plain.norm(dim=-1), rtol=1e-5)
    assert not torch.allclose(free.norm(dim=-1), plain.norm(dim=-1), rtol=1e-2)
    assert torch.allclose(torch.nn.functional.cosine_similarity(kept, free, dim=-1), torch.ones(1), atol=1e-5)
    zeros = torch.zeros(1, 2, 4)
    assert torch.equal(Add(True)(zeros, zeros, 1.0), zeros)


def test_another_grid_is_refused_with_both_grids(model, main, other):
    small, large = capture(model, main, 2, latents=X), capture(model, other, 2, latents=OTHER_X)
    with pytest.raises(ValueError, match=r"2 x 2 x 2 .* 2 x 4 x 2 .* set reduce to mean"):
        captured_difference(small, large, [0])
    a, b = pair(model, main, other, 2, latents=OTHER_X)
    with (
        inject_hidden(model, a, b, "1"),
        pytest.raises(ValueError, match=r"grid of 2 x 4 x 2 .* runs on 2 x 2 x 2 .* set reduce to mean"),
    ):
        call(model, main)
    turned = X.new_zeros(1, 4, 2, 8, 2)
    with inject_hidden(model, *pair(model, main, other, 2), "1"), pytest.raises(ValueError, match="2 x 4 x 1"):
        call(model, main, turned)  # as many tokens, other places
    assert hook_count(model) == 0


def test_other_token_counts_and_widths_are_refused(model, main):
    def states(*shape):
        return HiddenStates((torch.ones(shape, dtype=torch.bfloat16),), (1,), (2, 2, 2), 0.5)

    with pytest.raises(ValueError, match=r"\[1, 9, 32\].* \[1, 8, 32\]"):
        captured_difference(states(1, 9, 32), states(1, 8, 32), [1])
    with (
        inject_hidden(model, states(1, 9, 32), states(1, 9, 32), "1"),
        pytest.raises(ValueError, match="9 tokens, but the sampler has 8"),
    ):
        call(model, main)
    with pytest.raises(ValueError, match="main_latent is 32 wide, injection_latent 16"):
        captured_difference(states(1, 8, 32), states(1, 8, 16), [1])
    with (
        pytest.raises(ValueError, match=r"16 wide, but that of WanTransformer3DModel is 32 wide"),
        inject_hidden(model, states(1, 8, 16), states(1, 8, 16), "1"),
    ):
        pass
    with (
        inject_hidden(model, states(2, 8, 32), states(2, 8, 32), "1"),
        pytest.raises(ValueError, match=r"batch of 2, but the sampler's has 1"),
    ):
        call(model, main)


def test_what_differs_beside_the_prompt_is_told(model, main, other, caplog):
    a, b = pair(model, main, other, 2)
    captured_difference(a, b, [1])
    assert not caplog.text
    captured_difference(a, capture(model, other, 2, latents=X, timestep=900.0), [1])
    assert "different sigmas" in caplog.text
    with pytest.raises(ValueError, match="main_latent was captured after block 1, injection_latent after 2"):
        captured_difference(a, capture(model, other, 3, latents=X), [1])


def test_only_the_rows_of_the_branch_are_changed(model, main, other):
    a, b = pair(model, main, other, 3)
    negative = prompt_embeds(9, 5)

    def batch():
        return call(model, torch.cat([negative, main]), X.repeat(2, 1, 1, 1, 1), T.repeat(2))

    plain = batch()
    for branch, changed in (("cond", 1), ("uncond", 0)):
        edit = addition(a, b, "2", branch=branch)
        with Run(EditStack((edit,)), discover(model)) as run:
            run.begin({"uncond": [(0, 0)], "cond": [(1, 0)]}, progress=lambda clock: 0.0)
            result = batch()
        assert torch.equal(result[1 - changed], plain[1 - changed])
        assert not torch.equal(result[changed], plain[changed])


def addition(a, b, blocks, **more):
    delta = captured_difference(a, b, parse_selection(blocks).active_blocks(6))
    return Edit(delta, parse_selection(blocks), "hidden", Add(), **more)


def test_unconditional_calls_and_steps_outside_of_the_window_are_plain(sampler, main, other):
    a, b = (capture(sampler.pipe, e, 3, latents=torch.randn(1, 4, 2, 4, 4)) for e in (main, other))
    calls: list = []
    transformer = sampler.pipe.transformer
    hook = transformer.blocks[2].register_forward_hook(lambda _, args, out: calls.append(out.clone()))
    sampler(main, steps=4)
    plain = [*calls]
    calls.clear()
    with inject_hidden(sampler.pipe, a, b, "2", window=(0.5, 1.0)):
        sampler(main, steps=4)
    hook.remove()
    same = [torch.equal(x, y) for x, y in zip(plain, calls, strict=True)]
    # The probe sees what the block itself gives, cond and uncond in turn: what step 2 adds shows in step 3.
    assert same == [True] * 6 + [False] * 2


def test_composes_with_context_edits_and_second_streams_in_order(model, main, other):
    a, b = pair(model, main, other, 3)
    third = prompt_embeds(3)
    delta = (b.states[0].float() - a.states[0].float()).bfloat16().float()
    stream = Edit(read_text_embeds(third), parse_selection("2:0.5"), "hidden")
    context = Edit(read_text_embeds(third), parse_selection("2:0.5"))
    second = block_outputs(model, third)[2]

    def state(*edits):
        with edited(model, EditStack(edits)):
            return block_outputs(model, main)[2]

    plain = block_outputs(model, main)[2]
    add = addition(a, b, "2")
    assert torch.equal(state(stream, add), torch.lerp(plain, second, 0.5) + delta)
    assert torch.equal(state(add, stream), torch.lerp(plain + delta, second, 0.5))
    assert torch.equal(state(context, add), state(context) + delta)


def test_nested_contexts_compose_as_one_stack_does(model, main, other):
    a, b = pair(model, main, other, 2)
    stream = Edit(read_text_embeds(other), parse_selection("1:0.5, 4:0.5"), "hidden")
    with edited(model, EditStack((stream, addition(a, b, "1, 3")))):
        wanted = call(model, main)
    with inject(model, other, "1:0.5, 4:0.5", site="hidden"), inject_hidden(model, a, b, "1, 3"):
        assert torch.equal(call(model, main), wanted)
    with edited(model, EditStack((addition(a, b, "1, 3"), stream))):
        wanted = call(model, main)
    with inject_hidden(model, a, b, "1, 3"), inject(model, other, "1:0.5, 4:0.5", site="hidden"):
        assert torch.equal(call(model, main), wanted)


def test_the_difference_moves_to_the_device_once_per_run(sampler, main, other, monkeypatch):
    a, b = (capture(sampler.pipe, e, 3, latents=torch.randn(1, 4, 2, 4, 4)) for e in (main, other))
    moved: list[tuple[int, ...]] = []
    real = torch.Tensor.to
    with inject_hidden(sampler.pipe, a, b, "1-5") as stack:
        delta = stack.edits[0].captured.deltas[0]
        monkeypatch.setattr(
            torch.Tensor, "to", lambda self, *g, **k: (self is delta and moved.append(g), real(self, *g, **k))[1]
        )
        sampler(main)
    assert len(moved) == 1


def test_vace_models_can_be_added_to(main, other):
    model = make_transformer(cls=WanVACETransformer3DModel, vace_layers=[0, 2], vace_in_channels=8)
    control = torch.randn(1, 8, 2, 4, 4)

    def run(embeds):
        seen = []
        hook = model.blocks[4].register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
        model(X, T, embeds, control_hidden_states=control)
        hook.remove()
        return seen[0]

    a, b = pair(model, main, other, 4, control_hidden_states=control)
    with inject_hidden(model, a, b, "3"):
        got = run(main)
    assert (got - run(other)).abs().max() <= rounding(run(main), run(other))


@pytest.mark.parametrize("fullgraph", [False, True])
def test_compiled_blocks(main, other, fullgraph):
    torch._dynamo.reset()
    sampler = Sampler(make_transformer(3))
    latents = torch.randn(1, 4, 2, 4, 4)
    a, b = (capture(sampler.pipe, e, 2, latents=latents) for e in (main, other))
    with inject_hidden(sampler.pipe, a, b, "1"):
        wanted = sampler(main)
    blocks = sampler.pipe.transformer.blocks
    for i, block in enumerate(blocks):
        blocks[i] = torch.compile(block, backend="eager", fullgraph=fullgraph)
    assert torch.equal(capture(sampler.pipe, other, 2, latents=latents).states[0], b.states[0])
    with inject_hidden(sampler.pipe, a, b, "1"):
        assert torch.equal(sampler(main), wanted)


def test_verbose_logs_the_change_of_the_hidden_state(sampler, main, other, caplog):
    caplog.set_level("INFO")
    a, b = (capture(sampler.pipe, e, 3, latents=torch.randn(1, 4, 2, 4, 4)) for e in (main, other))
    with inject_hidden(sampler.pipe, a, b, "2, 4", log_level="verbose"):
        sampler(main)
    assert "addition of a difference captured after block 2, sigma 1.000" in caplog.text
    lines = [r.getMessage() for r in caplog.records if "hidden state changed by" in r.getMessage()]
    assert len(lines) == 2 * sampler.steps
    assert "block 2:" in lines[0] and "block 4:" in lines[1]


def test_plain_values_give_the_states_back(model, main):
    states = capture(model, main, 2, latents=X, every=True)
    again = HiddenStates.from_plain(states.plain())
    assert again.describe() == states.describe()
    assert all(torch.equal(a, b) for a, b in zip(again.states, states.states, strict=True))
    assert HiddenStates.from_plain({"hidden": 1}) is None and HiddenStates.from_plain(None) is None

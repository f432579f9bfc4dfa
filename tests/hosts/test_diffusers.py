"""The invariants on diffusers: a real WanPipeline with a tiny random transformer."""

from __future__ import annotations

import contextlib
import gc
import logging
import weakref

import pytest
import torch
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from torch.utils._python_dispatch import TorchDispatchMode
from wanvideo_activation_editor.patching.edit import Edit, EditStack
from wanvideo_activation_editor.patching.hosts.diffusers import edited, inject
from wanvideo_activation_editor.patching.operations import Blend
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.statistics import StepStatistics
from wanvideo_activation_editor.patching.strengths import Explicit

from .conftest import Sampler, hook_count, make_transformer, prompt_embeds


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a, b)


def test_no_block_or_strength_zero_equals_no_editor(sampler, main, other):
    plain = sampler(main)
    for blocks, strength in (("none", 1.0), ("all", 0.0), ("000000", 1.0), ("all:0", 1.0)):
        with inject(sampler.pipe, other, blocks, strength):
            assert equal(sampler(main), plain)


def test_every_block_at_full_strength_equals_the_injected_prompt(sampler, main, other):
    with inject(sampler.pipe, other, "all"):
        injected = sampler(main)
    assert equal(injected, sampler(other))
    assert not equal(injected, sampler(main))


def test_one_call_matches_cross_attention_computed_with_a_replaced_context(main, other):
    """Known answer at partial strength: the host's own forward, with the context lerped by hand in one block."""
    model = make_transformer()
    x, t = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(3)), torch.tensor([500])
    project = model.condition_embedder.text_embedder
    mixed = torch.lerp(project(main), project(other), 0.3)
    forward = model.blocks[2].forward
    model.blocks[2].forward = lambda h, context, temb, rope: forward(h, mixed, temb, rope)
    expected = model(hidden_states=x, timestep=t, encoder_hidden_states=main).sample
    del model.blocks[2].forward
    with inject(model, other, "2:0.3"):
        assert equal(model(hidden_states=x, timestep=t, encoder_hidden_states=main).sample, expected)


def test_blocks_are_told_in_three_ways(sampler, main, other):
    with inject(sampler.pipe, other, "1, 4:0.5"):
        wanted = sampler(main)
    for blocks in ({1: 1.0, 4: 0.5}, Explicit((0, 1, 0, 0, 0.5, 0))):
        with inject(sampler.pipe, other, blocks):
            assert equal(sampler(main), wanted)


def test_injecting_a_prompt_into_itself_changes_nothing(sampler, main):
    plain = sampler(main)
    for strength in (0.3, 0.5, 1.0):
        with inject(sampler.pipe, main, "all", strength):
            assert equal(sampler(main), plain)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_remains_after_a_run_or_an_error(sampler, main, other, error):
    transformer = sampler.pipe.transformer
    plain, before = sampler(main), hook_count(transformer)

    def fail(pipe, step, *_):
        if step == 1:
            raise error("stop")
        return {}

    with inject(sampler.pipe, other, "1-3:0.7"):
        edited_latents = sampler(main)
    with pytest.raises(error), inject(sampler.pipe, other, "all"):
        sampler(main, callback_on_step_end=fail)
    assert hook_count(transformer) == before
    assert "cache_context" not in vars(transformer)
    assert not equal(edited_latents, plain)
    assert equal(sampler(main), plain)


def test_two_models_do_not_see_each_other(main, other):
    a, b = Sampler(make_transformer()), Sampler(make_transformer())
    plain = b(main)
    with inject(a.pipe, other, "all"):
        assert equal(b(main), plain)
        with inject(b.pipe, prompt_embeds(3), "0-2"):
            assert equal(a(main), a(other))
            assert not equal(b(main), plain)


def test_running_twice_gives_the_same_result(sampler, main, other):
    with inject(sampler.pipe, other, "even:0.4"):
        assert equal(sampler(main), sampler(main))


def test_only_the_chosen_blocks_receive_the_other_context(main, other):
    model = make_transformer()
    seen: dict[int, torch.Tensor] = {}
    x, t = torch.zeros(1, 4, 1, 4, 4), torch.tensor([500])
    with inject(model, other, "1, 4:0.5"), contextlib.ExitStack() as hooks:
        for i, block in enumerate(model.blocks):
            hook = block.register_forward_pre_hook(lambda _, args, i=i: seen.__setitem__(i, args[1]))
            hooks.callback(hook.remove)
        model(hidden_states=x, timestep=t, encoder_hidden_states=main)
    project = model.condition_embedder.text_embedder
    a, b = project(main), project(other)
    for i in (0, 2, 3, 5):
        assert equal(seen[i], a)
    assert equal(seen[1], b)
    assert equal(seen[4], torch.lerp(a, b, 0.5))


def test_branches(sampler, main, other):
    """cond leaves the negative prompt's calls alone; uncond touches only those; both touches both."""
    with inject(sampler.pipe, other, "all", branch="uncond"):
        assert equal(sampler(main), sampler(main, negative=other))
    with inject(sampler.pipe, other, "all", branch="both"):
        assert equal(sampler(main), sampler(other, negative=other))
    plain = sampler(main, guidance=1.0)
    with inject(sampler.pipe, other, "all", branch="uncond"):
        assert equal(sampler(main, guidance=1.0), plain)


def test_uncond_calls_see_the_untouched_context(sampler, main, other):
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    transformer = sampler.pipe.transformer
    with inject(sampler.pipe, other, "all"):
        outer = transformer.register_forward_pre_hook(
            lambda _, args, kwargs: calls.append((kwargs["encoder_hidden_states"], None)), with_kwargs=True
        )
        block = transformer.blocks[0].register_forward_pre_hook(
            lambda _, args: calls.__setitem__(-1, (calls[-1][0], args[1]))
        )
        sampler(main)
        outer.remove(), block.remove()
    project = transformer.condition_embedder.text_embedder
    assert len(calls) == 2 * sampler.steps
    for raw, context in calls:
        expected = other if equal(raw, main) else sampler.negative
        assert equal(context, project(expected))


def test_a_batch_of_prompts_is_injected_row_by_row(sampler, main, other):
    pair, negative = torch.cat([main, prompt_embeds(4)]), torch.cat([sampler.negative] * 2)
    other_pair = torch.cat([other, prompt_embeds(5)])
    with inject(sampler.pipe, other_pair, "all"):
        assert equal(sampler(pair, negative=negative), sampler(other_pair, negative=negative))
    with inject(sampler.pipe, other, "all"):
        assert equal(sampler(pair, negative=negative), sampler(torch.cat([other, other]), negative=negative))


def test_fewer_prompts_than_rows_go_to_as_many_in_a_row(sampler, main, other):
    """As `num_videos_per_prompt` repeats them; a number that does not divide the batch is an error."""
    third = prompt_embeds(3)
    four, negative = main.repeat(4, 1, 1), sampler.negative.repeat(4, 1, 1)
    with inject(sampler.pipe, torch.cat([other, third]), "all"):
        edited_latents = sampler(four, negative=negative)
    assert equal(edited_latents, sampler(torch.cat([other, other, third, third]), negative=negative))
    with (
        pytest.raises(ValueError, match="2 prompts are injected, but the model is called with 1"),
        inject(sampler.pipe, torch.cat([other, third]), "all"),
    ):
        sampler(main)


def test_one_prompt_for_several_videos(sampler, main, other):
    with inject(sampler.pipe, other, "all"):
        edited_latents = sampler(main, num_videos_per_prompt=2)
    assert equal(edited_latents, sampler(other, num_videos_per_prompt=2))


def test_editors_compose_in_order(sampler, main, other):
    third = prompt_embeds(3)
    with inject(sampler.pipe, other, "all"), inject(sampler.pipe, third, "all"):
        assert equal(sampler(main), sampler(third))
    with inject(sampler.pipe, other, "all"), inject(sampler.pipe, third, "2-3:0.5"):
        nested = sampler(main)
    from wanvideo_activation_editor.embeddings.text_embeds import read_text_embeds

    stack = EditStack(
        (
            Edit(read_text_embeds(other), parse_selection("all")),
            Edit(read_text_embeds(third), parse_selection("2-3:0.5")),
        )
    )
    with edited(sampler.pipe, stack):
        assert equal(sampler(main), nested)
    with inject(sampler.pipe, third, "2-3:0.5"):
        assert equal(sampler(other), nested)


def test_nested_editors_on_different_branches(sampler, main, other):
    third = prompt_embeds(3)
    with inject(sampler.pipe, other, "all"), inject(sampler.pipe, third, "all", branch="uncond"):
        assert equal(sampler(main), sampler(other, negative=third))


class Recorder(Blend):
    """A blend that counts its calls."""

    calls = 0

    def __call__(self, *args):
        type(self).calls += 1
        return super().__call__(*args)


@pytest.mark.parametrize(("window", "steps"), [((0, 0.5), 2), ((0.5, 1), 2), ((0.25, 0.75), 2), ((0, 1), 4)])
def test_a_window_covers_its_steps_and_no_other(sampler, main, other, window, steps):
    Recorder.calls = 0
    with inject(sampler.pipe, other, "all:0.5", window=window, operation=Recorder()):
        sampler(main, steps=4)
    assert Recorder.calls == steps * len(sampler.pipe.transformer.blocks)


def test_adjacent_windows_add_up_to_the_whole(sampler, main, other):
    with inject(sampler.pipe, other, window=(0, 0.5)), inject(sampler.pipe, other, window=(0.5, 1)):
        assert equal(sampler(main, steps=4), sampler(other, steps=4))


@pytest.mark.parametrize("layers", [30, 40, 48])
def test_block_counts(layers, main, other):
    sampler = Sampler(make_transformer(layers), steps=1)
    with inject(sampler.pipe, other, f"0-{layers - 1}"):
        assert equal(sampler(main), sampler(other))
    with pytest.raises(ValueError, match=f"has {layers} blocks"), inject(sampler.pipe, other, str(layers)):
        pass
    with inject(sampler.pipe, other, "1" * 30 + "0" * 10):
        assert equal(sampler(main), sampler(other)) == (layers == 30)


def test_both_transformers_of_wan_2_2_are_edited(main, other):
    sampler = Sampler(make_transformer(), make_transformer(seed=5), steps=4)
    with inject(sampler.pipe, other, "all"):
        assert equal(sampler(main), sampler(other))
    assert hook_count(sampler.pipe.transformer_2) == 0


def test_one_window_runs_over_both_transformers_of_wan_2_2(main, other):
    """Steps 3 of 6 and later run on the second transformer; windows are counted over all six."""
    sampler = Sampler(make_transformer(), make_transformer(seed=5), steps=6)
    pipe, called = sampler.pipe, []
    for module in (pipe.transformer, pipe.transformer_2):
        module.register_forward_pre_hook(lambda m, *_: called.append(m is pipe.transformer))
    plain = sampler(main, guidance=1.0)
    first = called.count(True)
    assert 0 < first < 6 and called == [True] * first + [False] * (6 - first)

    def prompts_read(window) -> list[bool]:
        """Of each step, whether it read the other prompt."""
        read = []
        with inject(pipe, other, window=window), contextlib.ExitStack() as hooks:
            for module in (pipe.transformer, pipe.transformer_2):
                wanted = module.condition_embedder.text_embedder(other)
                hook = lambda _, args, wanted=wanted: read.append(torch.equal(args[1], wanted))  # noqa: E731
                hooks.callback(module.blocks[0].register_forward_pre_hook(hook).remove)
            latents = sampler(main, guidance=1.0)
        assert equal(latents, plain) == (not any(read))
        return read

    for steps in range(1, 6):
        assert prompts_read((0, steps / 6)) == [True] * steps + [False] * (6 - steps)
        assert prompts_read((steps / 6, 1)) == [False] * steps + [True] * (6 - steps)


def test_image_tokens_stay_the_hosts_own(main, other):
    """I2V contexts begin with CLIP tokens; with other text in every block the result is the other prompt's."""
    model = make_transformer(image_dim=24, added_kv_proj_dim=32, in_channels=4)
    clip = torch.randn(1, 257, 24, generator=torch.Generator().manual_seed(11))
    x, t = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(3)), torch.tensor([500])

    def call(embeds):
        return model(hidden_states=x, timestep=t, encoder_hidden_states=embeds, encoder_hidden_states_image=clip).sample

    seen = []
    with inject(model, other, "all:0.5"):
        hook = model.blocks[3].register_forward_pre_hook(lambda _, args: seen.append(args[1]))
        call(main)
        hook.remove()
    image = model.condition_embedder.image_embedder(clip)
    assert equal(seen[0][:, :257], image)
    assert seen[0].shape[1] == 257 + 512
    wanted = call(other)
    with inject(model, other, "all"):
        assert equal(call(main), wanted)


def test_vace_control_blocks_follow_their_main_block(main, other):
    model = make_transformer(cls=WanVACETransformer3DModel, vace_layers=[0, 2, 4], vace_in_channels=8)
    x, t = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(3)), torch.tensor([500])
    control = torch.randn(1, 8, 2, 4, 4, generator=torch.Generator().manual_seed(4))

    def call(embeds):
        return model(hidden_states=x, timestep=t, encoder_hidden_states=embeds, control_hidden_states=control).sample

    wanted = call(other)
    with inject(model, other, "all"):
        assert equal(call(main), wanted)
    with inject(model, other, "1, 3, 5"):
        without_controls = call(main)
    with inject(model, other, "0, 1, 3, 5"):
        assert not equal(call(main), without_controls)


def eager_backend(graph, example_inputs):
    eager_backend.graphs += 1
    return graph.forward


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("how", ["wrapper", "in place"])
def test_blocks_compiled_one_by_one_stay_compiled(main, other, fullgraph, how):
    torch._dynamo.reset()
    eager_backend.graphs = 0
    sampler = Sampler(make_transformer(3))
    plain, wanted = sampler(main), sampler(other)
    blocks = sampler.pipe.transformer.blocks
    for i, block in enumerate(blocks):
        if how == "wrapper":
            blocks[i] = torch.compile(block, backend=eager_backend, fullgraph=fullgraph)
        else:
            block.compile(backend=eager_backend, fullgraph=fullgraph)
    assert equal(sampler(main), plain)
    graphs = eager_backend.graphs
    assert graphs > 0
    with inject(sampler.pipe, other, "all"):
        assert equal(sampler(main), wanted)
    assert equal(sampler(main), plain)
    assert eager_backend.graphs == graphs, "an edit must not cause compilation"


@pytest.mark.parametrize("how", ["wrapper", "in place"])
def test_a_model_compiled_as_a_whole_is_edited_and_restored(main, other, how):
    torch._dynamo.reset()
    sampler = Sampler(make_transformer(3))
    plain, wanted = sampler(main), sampler(other)
    if how == "wrapper":
        sampler.pipe.transformer = torch.compile(sampler.pipe.transformer, backend="eager")
    else:
        sampler.pipe.transformer.compile(backend="eager")
    assert equal(sampler(main), plain)
    with inject(sampler.pipe, other, "all"):
        assert equal(sampler(main), wanted)
    assert equal(sampler(main), plain)


def test_half_precision(main, other):
    for dtype in (torch.bfloat16, torch.float16):
        sampler = Sampler(make_transformer().to(dtype), steps=1)
        sampler.negative = sampler.negative.to(dtype)
        with inject(sampler.pipe, other, "all"):
            assert equal(sampler(main.to(dtype)), sampler(other.to(dtype)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": "3-"}, r"position 1: '3-'"),
        ({"blocks": [1.0] * 7}, "does not name blocks by their numbers"),
        ({"blocks": "1, 2, x9"}, r"position 7: 'x9'"),
        ({"blocks": "6"}, r"Block 6 is selected, but the model has 6 blocks \(0 to 5\)"),
        ({"strength": 1.5}, r"from 0 to 1, not 1.5"),
        ({"strength": float("nan")}, r"from 0 to 1"),
        ({"embeds": torch.zeros(1, 8, 32) + 1}, r"are 32 wide, but WanTransformer3DModel projects text of width 64"),
        ({"embeds": torch.ones(1, 513, 64)}, r"513 tokens, but Wan models read at most 512"),
        ({"embeds": torch.full((1, 4, 64), float("nan"))}, r"NaN"),
        ({"embeds": "a cat"}, "embeds: this pipeline has no text encoder"),
        ({"window": (0.6, 0.4)}, r"window: \(0.6, 0.4\) is no part of sampling"),
        ({"branch": "negative"}, r"branch must be one of"),
    ],
)
def test_bad_input_is_an_error_before_sampling(sampler, other, arguments, message):
    arguments = {"embeds": other, **arguments}
    with pytest.raises(ValueError, match=message), inject(sampler.pipe, **arguments):
        pytest.fail("sampling could start")
    assert hook_count(sampler.pipe.transformer) == 0


def test_a_window_without_a_scheduler_is_an_error(sampler, other):
    with (
        pytest.raises(ValueError, match="pass the pipeline"),
        inject(sampler.pipe.transformer, other, window=(0, 0.5)),
    ):
        pass


def test_no_wan_model_is_an_error(other):
    with pytest.raises(ValueError, match="not a Wan model"), inject(torch.nn.Linear(2, 2), other):
        pass


class Watch(TorchDispatchMode):
    """Counts reads of device values by the host (`item`, `bool` of a tensor) and remembers what was computed."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.made: list[weakref.ref] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.reads += function is torch.ops.aten._local_scalar_dense.default
        out = function(*args, **(kwargs or {}))
        if torch.is_tensor(out):
            self.made.append(weakref.ref(out))
        return out


def one_call(model, embeds):
    x = torch.zeros(1, 4, 1, 4, 4, dtype=embeds.dtype)
    return model(hidden_states=x, timestep=torch.tensor([500]), encoder_hidden_states=embeds).sample


@torch.no_grad()
def test_an_edited_call_reads_nothing_back_from_the_device(main, other):
    model = make_transformer()
    one_call(model, main)
    with Watch() as plain:
        one_call(model, main)
    with inject(model, other, "even:0.5, odd:0.25"), Watch() as watched:
        one_call(model, main)
    assert watched.reads == plain.reads


@torch.no_grad()
def test_at_most_three_contexts_are_kept_during_a_call(main, other):
    """Forty strengths of which no two are equal: the injected context, and the last blends."""
    model = make_transformer(40)
    distinct = {i: (i + 1) / 41 for i in range(40)}
    size = 512 * 32
    most = 0

    def held(*_):
        nonlocal most
        alive = {id(t): t.numel() for r in watch.made if (t := r()) is not None and t.shape == (1, 512, 32)}
        most = max(most, sum(alive.values()) // size)

    with inject(model, other, distinct):
        hooks = [block.register_forward_hook(held) for block in model.blocks]
        with Watch() as watch:
            one_call(model, main)
    for hook in hooks:
        hook.remove()
    assert 3 <= most <= 4, "the host's own context, and at most three more"


@torch.no_grad()
def test_nothing_is_held_after_the_run(main, other):
    model = make_transformer().to(torch.bfloat16)
    with inject(model, other, "even:0.5, odd:0.25"), Watch() as watch:
        one_call(model, main.to(torch.bfloat16))
    gc.collect()
    assert len(watch.made) > 100
    assert [r().shape for r in watch.made if r() is not None] == []


def test_with_the_log_level_off_nothing_is_measured(main, other, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    model = make_transformer()
    counted = []
    monkeypatch.setattr(StepStatistics, "record", lambda self, block, *_, **__: counted.append(block))
    with inject(model, other, "1, 3:0.5"):
        one_call(model, main)
    assert (counted, caplog.messages) == ([], [])
    with inject(model, other, "1, 3:0.5", log_level="basic"):
        one_call(model, main)
    assert counted == []
    assert "2 of 6 blocks of WanTransformer3DModel hooked" in caplog.text
    with inject(model, other, "1, 3:0.5", log_level="verbose"):
        one_call(model, main)
    assert counted == [1, 3]


@pytest.mark.parametrize("given", [1, 3], ids=["prompt once", "prompt per video"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_batch_of_videos_with_the_injected_prompt_given_once_is_exact(sampler, main, other, given, guidance):
    """`encode_prompt` repeats the prompt per video; embeddings that a caller gives may have one row for all of them."""
    more = {"num_videos_per_prompt": 3 // given, "guidance": guidance}
    rows, others, negative = (x.expand(given, -1, -1).contiguous() for x in (main, other, sampler.negative))
    with inject(sampler.pipe, other):
        assert torch.equal(sampler(rows, negative=negative, **more), sampler(others, negative=negative, **more))

"""Live two-stream mixing of hidden states on diffusers."""

from __future__ import annotations

import diffusers.hooks
import pytest
import torch
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from wanvideo_activation_editor.embeddings.text_embeds import read_text_embeds
from wanvideo_activation_editor.patching.edit import Edit, EditStack
from wanvideo_activation_editor.patching.hosts.diffusers import capture, inject
from wanvideo_activation_editor.patching.runtime import Run
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.wan_model import discover

from .conftest import Sampler, hook_count, make_transformer, prompt_embeds

X = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(3))
T = torch.tensor([500])


def mixing(target, embeds, blocks, **more):
    return inject(target, embeds, blocks, site="hidden", **more)


def call(model, embeds, x=X, t=T):
    return model(hidden_states=x, timestep=t, encoder_hidden_states=embeds).sample


def block_outputs(model, embeds) -> list[torch.Tensor]:
    """Hidden state after each block, as the host sees it: the outer call of a block ends last."""
    seen: dict[int, torch.Tensor] = {}
    hooks = [
        b.register_forward_hook(lambda _, args, out, i=i: seen.__setitem__(i, out.clone()))
        for i, b in enumerate(model.blocks)
    ]
    call(model, embeds)
    for hook in hooks:
        hook.remove()
    return [seen[i] for i in range(len(model.blocks))]


def test_full_strength_at_the_last_block_equals_the_injected_prompt(sampler, main, other):
    with mixing(sampler.pipe, other, "5"):
        assert torch.equal(sampler(main), sampler(other))
    with mixing(sampler.pipe, other, "0:0.3, 2:0.9, 5"):
        assert torch.equal(sampler(main), sampler(other))


def test_no_block_or_strength_zero_equals_no_editor(sampler, main, other):
    plain = sampler(main)
    for blocks in ("none", "all:0"):
        with mixing(sampler.pipe, other, blocks):
            assert torch.equal(sampler(main), plain)


def test_mixing_a_prompt_with_itself_changes_nothing(sampler, main):
    plain = sampler(main)
    for strength in (0.3, 0.5, 1.0):
        with mixing(sampler.pipe, main, f"all:{strength}"):
            assert torch.equal(sampler(main), plain)


def test_each_active_block_mixes_with_the_undisturbed_second_stream(main, other):
    """Known answer: the second stream is the injected prompt's own pass, whatever was mixed into the main one."""
    model = make_transformer()
    second = block_outputs(model, other)
    with mixing(model, other, "1:0.4, 3:0.7"):
        mixed = block_outputs(model, main)
    plain = block_outputs(model, main)
    temb_rope: list = []
    hook = model.blocks[2].register_forward_pre_hook(lambda _, args: temb_rope.extend(args[1:]))
    call(model, main)
    hook.remove()
    assert torch.equal(mixed[0], plain[0])
    after_1 = torch.lerp(plain[1], second[1], 0.4)
    assert torch.equal(mixed[1], after_1)
    after_2 = model.blocks[2](after_1, *temb_rope)
    assert torch.equal(mixed[2], after_2)
    assert torch.equal(mixed[3], torch.lerp(model.blocks[3](after_2, *temb_rope), second[3], 0.7))


def test_blocks_after_the_last_active_one_run_once(main, other):
    model = make_transformer()
    runs = [0] * 6
    hooks = [
        b.attn1.register_forward_hook(lambda *_, i=i: runs.__setitem__(i, runs[i] + 1))
        for i, b in enumerate(model.blocks)
    ]
    with mixing(model, other, "1, 3:0.5"):
        call(model, main)
    for hook in hooks:
        hook.remove()
    assert runs == [2, 2, 2, 2, 1, 1]


def test_unconditional_calls_run_no_second_stream(sampler, main, other):
    transformer, count = sampler.pipe.transformer, [0]
    hook = transformer.blocks[0].attn1.register_forward_hook(lambda *_: count.__setitem__(0, count[0] + 1))
    with mixing(sampler.pipe, other, "all:0.5"):
        sampler(main)
    hook.remove()
    assert count[0] == 3 * sampler.steps
    with mixing(sampler.pipe, other, "5", branch="uncond"):
        assert torch.equal(sampler(main), sampler(main, negative=other))


def test_the_unconditional_row_of_a_batch_is_untouched(main, other):
    model = make_transformer()
    negative = prompt_embeds(9, 5)

    def batch(a, b):
        return call(model, torch.cat([a, b]), X.repeat(2, 1, 1, 1, 1), T.repeat(2))

    for blocks in ("5", "1:0.4, 4:0.2"):
        edit = Edit(read_text_embeds(other), parse_selection(blocks), site="hidden")
        with Run(EditStack((edit,)), discover(model)) as run:
            run.begin({"uncond": [(0, 0)], "cond": [(1, 0)]}, progress=lambda clock: 0.0)
            edited = batch(negative, main)
        assert torch.equal(edited[0], batch(negative, main)[0])
        assert not torch.equal(edited[1], batch(negative, main)[1])
        if blocks == "5":
            assert torch.equal(edited, batch(negative, other))


def test_both_swaps_the_context_and_mixes(main, other):
    model = make_transformer()
    second = block_outputs(model, other)
    with inject(model, other, "2:0.5"):
        swapped = block_outputs(model, main)
    with inject(model, other, "2:0.5"), mixing(model, other, "2:0.5"):
        nested = block_outputs(model, main)
    edits = tuple(Edit(read_text_embeds(other), parse_selection("2:0.5"), site=s) for s in ("context", "hidden"))
    with Run(EditStack(edits), discover(model)) as run:
        run.begin({"cond": [(0, 0)]}, progress=lambda clock: 0.0)
        both = block_outputs(model, main)
    assert torch.equal(both[2], torch.lerp(swapped[2], second[2], 0.5))
    assert torch.equal(nested[2], both[2])


def test_two_streams_mix_in_order(main, other):
    model = make_transformer()
    third = prompt_embeds(3)
    edits = tuple(Edit(read_text_embeds(e), parse_selection("2:0.5"), site="hidden") for e in (other, third))
    with Run(EditStack(edits), discover(model)) as run:
        run.begin({"cond": [(0, 0)]}, progress=lambda clock: 0.0)
        mixed = block_outputs(model, main)
    a, b, c = (block_outputs(model, e)[2] for e in (main, other, third))
    assert torch.equal(mixed[2], torch.lerp(torch.lerp(a, b, 0.5), c, 0.5))


def test_windows(sampler, main, other):
    with mixing(sampler.pipe, other, "5", window=(0, 0.5)), mixing(sampler.pipe, other, "5", window=(0.5, 1)):
        assert torch.equal(sampler(main, steps=4), sampler(other, steps=4))


@pytest.mark.parametrize("fullgraph", [False, True])
def test_compiled_blocks(main, other, fullgraph):
    torch._dynamo.reset()
    sampler = Sampler(make_transformer(3))
    plain, wanted = sampler(main), sampler(other)
    blocks = sampler.pipe.transformer.blocks
    for i, block in enumerate(blocks):
        blocks[i] = torch.compile(block, backend="eager", fullgraph=fullgraph)
    with mixing(sampler.pipe, other, "2"):
        assert torch.equal(sampler(main), wanted)
    assert torch.equal(sampler(main), plain)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_remains_after_a_run_or_an_error(sampler, main, other, error):
    plain = sampler(main)

    def fail(*_):
        raise error("stop")

    with pytest.raises(error), mixing(sampler.pipe, other, "all:0.5"):
        sampler(main, callback_on_step_end=fail)
    assert hook_count(sampler.pipe.transformer) == 0
    assert torch.equal(sampler(main), plain)


def test_a_model_that_changes_the_state_between_blocks_is_refused(main, other):
    model = make_transformer()
    between = model.blocks[2].register_forward_hook(lambda _, args, out: out + 1)
    with mixing(model, other, "5"), pytest.raises(RuntimeError, match="changes the hidden state between its blocks"):
        hooked = model.blocks[3].register_forward_pre_hook(lambda _, args: (args[0] + 1, *args[1:]))
        model.blocks[3]._forward_pre_hooks.move_to_end(hooked.id, last=False)
        try:
            call(model, main)
        finally:
            hooked.remove()
    between.remove()


@pytest.mark.parametrize("name", ["FirstBlockCacheConfig", "PyramidAttentionBroadcastConfig", "MagCacheConfig"])
def test_caches_of_diffusers_are_refused_by_live_mixing_and_capture(sampler, main, other, name):
    given = {
        "FirstBlockCacheConfig": {"threshold": 0.3},
        "MagCacheConfig": {"calibrate": True},
        "PyramidAttentionBroadcastConfig": {"current_timestep_callback": lambda: sampler.pipe.current_timestep},
    }
    config = getattr(diffusers.hooks, name)(**given[name])
    transformer = sampler.pipe.transformer
    plain = sampler(main)
    transformer.enable_cache(config)
    message = rf"cannot be combined with a cache of diffusers \({name}\)\. Call disable_cache"
    with pytest.raises(ValueError, match=message), mixing(sampler.pipe, other, "5"):
        pass
    with pytest.raises(ValueError, match=message):
        capture(sampler.pipe, main, 3, latents=X)
    with mixing(sampler.pipe, other, "5", strength=0.0):  # which is none
        pass
    transformer.disable_cache()
    capture(sampler.pipe, main, 3, latents=X)
    with mixing(sampler.pipe, other, "5"):
        assert torch.equal(sampler(main), sampler(other))
    assert torch.equal(sampler(main), plain)


def test_s2v_is_refused_with_the_reason(other):
    """ComfyUI's model writes the audio into the hidden state in place, so its identity does not tell."""
    model = make_transformer()
    model.audio_injector = torch.nn.ModuleList()
    with pytest.raises(ValueError, match=r"S2V model.* Use injection_mode context"), mixing(model, other, "all"):
        pass
    with inject(model, other, "all"):
        pass


@pytest.mark.parametrize("nothing", [{"strength": 0.0}, {"schedule": "0:0"}], ids=["strength", "schedule"])
@pytest.mark.parametrize("part", ["audio_injector", "music_injector"])
def test_a_stream_that_does_not_act_is_as_none_where_others_are_refused(sampler, main, other, part, nothing):
    plain = sampler(main)
    setattr(sampler.pipe.transformer, part, torch.nn.ModuleList())
    with mixing(sampler.pipe, other, "all", **nothing):
        assert torch.equal(sampler(main), plain)
    with pytest.raises(ValueError, match="Use injection_mode context"), mixing(sampler.pipe, other, "all"):
        pass


def test_vace_is_refused_with_the_reason(main, other):
    model = make_transformer(cls=WanVACETransformer3DModel, vace_layers=[0, 2], vace_in_channels=8)
    with pytest.raises(ValueError, match=r"VACE model.* Use injection_mode context"), mixing(model, other, "all"):
        pass
    control = torch.randn(1, 8, *X.shape[2:], generator=torch.Generator().manual_seed(5))

    def called():
        return model(hidden_states=X, timestep=T, encoder_hidden_states=main, control_hidden_states=control).sample

    plain = called()
    for site in ("hidden", "attention"):  # at strength 0 there is none, nor a prompt at another site
        with inject(model, other, site=site, strength=0.0):
            assert torch.equal(called(), plain)
    with inject(model, other):
        assert not torch.equal(called(), plain)

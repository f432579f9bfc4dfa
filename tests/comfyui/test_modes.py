"""The injection modes hidden_states and both: a second stream of the injected prompt, mixed in after chosen blocks."""

from __future__ import annotations

import pytest

from .server import RunFailedError
from .test_variants import i2v, vace
from .workflows import FOX, MOON, SHARP, Host, Workflow, WrapperHost, edit


def mixed(**inputs):
    return edit(injection_mode="hidden_states", **inputs)


def last(host: Host, **inputs):
    """Full strength at the last block alone, which hands over the injected prompt's whole pass."""
    return mixed(block_activations=str(host.blocks - 1), **inputs)


@pytest.mark.parametrize("mode", ["hidden_states", "both"])
def test_strength_zero_equals_no_editor(host: Host, mode):
    assert host.digest(FOX, edit(injection_mode=mode, injection_strength=0.0)) == host.reference()


@pytest.mark.parametrize("mode", ["hidden_states", "both"])
def test_every_block_at_full_strength_equals_the_injected_prompt(host: Host, mode):
    assert host.digest(FOX, edit(injection_mode=mode)) == host.reference(MOON)


def test_the_last_block_at_full_strength_equals_the_injected_prompt(host: Host):
    assert host.digest(FOX, last(host)) == host.reference(MOON)
    assert host.digest(FOX, mixed(block_activations=f"0:0.3, 5:0.9, {host.blocks - 1}")) == host.reference(MOON)


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_mixing_a_prompt_with_itself_changes_nothing(host: Host, strength):
    assert host.digest(FOX, mixed(inject=FOX, injection_strength=strength)) == host.reference()


def test_the_modes_differ_at_partial_strength(host: Host):
    given = {"block_activations": "5", "injection_strength": 0.5}
    results = [host.digest(FOX, edit(injection_mode=m, **given)) for m in ("context", "hidden_states", "both")]
    assert len({*results, host.reference()}) == 4


def test_a_branch_each_and_windows(host: Host):
    edits = last(host), last(host, inject=SHARP, branch="uncond")
    assert host.digest(FOX, *edits) == host.reference(MOON, negative=SHARP)
    halves = last(host, end_percent=0.5), last(host, start_percent=0.5)
    assert host.digest(FOX, *halves, steps=4) == host.reference(MOON, steps=4)


def test_i2v_image_tokens_reach_the_second_stream(host: Host):
    """The native I2V model has 8 blocks."""
    model, blocks = i2v(host), 8 if host.name == "native" else host.blocks
    given = mixed(block_activations=str(blocks - 1))
    assert host.digest(FOX, given, **model) == host.reference(MOON, name="i2v", **model)


def test_vace_is_refused_with_the_reason(host: Host):
    with pytest.raises(RunFailedError, match=r"VACE model.*injection_mode context"):
        host.run(FOX, mixed(), **vace(host)).checked()


@pytest.mark.parametrize("nothing", [{"injection_strength": 0.0}, {"schedule": "0:0"}], ids=["strength", "schedule"])
def test_a_second_stream_that_does_not_act_is_as_none_on_vace(host: Host, nothing):
    plain = host.reference(FOX, name="vace", **vace(host))
    assert host.digest(FOX, mixed(**nothing), **vace(host)) == plain


@pytest.mark.parametrize("action", ["a run", "an error"])
def test_nothing_remains(host: Host, action):
    before = host.reference(), host.leftovers()
    after = host.stop_in_block(5, "raise") if action == "an error" else None
    result = host.run(FOX, mixed(injection_strength=0.5), after=after, steps=4)
    assert bool(result.error) == (after is not None)
    left = host.leftovers()
    assert (host.digest(FOX), left) == before
    assert left["hooks"] == left["forwards"] == []


def test_several_prompts(wrapper: WrapperHost):
    main, other = f"{FOX} | {SHARP}", f"{MOON} | {FOX}"
    assert wrapper.digest(main, last(wrapper, inject=other)) == wrapper.reference(other)


def test_block_swap_changes_nothing(wrapper: WrapperHost):
    def load(flow: Workflow):
        swap = flow.add("WanVideoBlockSwap", blocks_to_swap=20, offload_img_emb=False, offload_txt_emb=True,
                        prefetch_blocks=1, vace_blocks_to_swap=0)  # fmt: skip
        return wrapper.load(flow, block_swap_args=swap)

    assert wrapper.digest(FOX, last(wrapper), load=load) == wrapper.reference(MOON)


def test_the_diffusion_forcing_sampler(wrapper: WrapperHost):
    variant = "WanVideoDiffusionForcingSampler"
    assert wrapper.digest(FOX, last(wrapper), variant=variant) == wrapper.reference(MOON, variant=variant)


def test_a_latent_batch(native: Host):
    assert native.digest(FOX, last(native), batch_size=2) == native.reference(MOON, batch_size=2)


def test_cached_steps(wrapper: WrapperHost):
    def cache(flow: Workflow):
        return flow.add("WanVideoEasyCache", easycache_thresh=1.0, start_step=1, end_step=-1,
                        cache_device="offload_device")  # fmt: skip

    other = wrapper.digest(MOON, cache_args=cache, steps=4)
    assert wrapper.digest(FOX, last(wrapper), cache_args=cache, steps=4) == other

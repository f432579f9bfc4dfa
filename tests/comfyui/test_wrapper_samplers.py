"""WanVideoWrapper's samplers, loaders and embeddings in their variants."""

from __future__ import annotations

import pytest

from .workflows import FOX, MOON, SAMPLERS, SHARP, Workflow, WrapperHost, edit, output

VARIANTS = [name for name in SAMPLERS if name != "WanVideoSampler"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_sampler_of_the_wrapper_is_edited(wrapper: WrapperHost, variant):
    plain, other = wrapper.reference(variant=variant), wrapper.reference(MOON, variant=variant)
    assert wrapper.digest(FOX, edit(), variant=variant) == other
    assert wrapper.digest(FOX, edit(injection_strength=0.0), variant=variant) == plain
    part = wrapper.digest(FOX, edit(block_activations="even", end_percent=0.5), variant=variant)
    assert part not in (plain, other)
    assert wrapper.digest(FOX, variant=variant) == plain


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_sampler_leaves_the_negative_prompt_to_the_uncond_branch(wrapper: WrapperHost, variant):
    injected = wrapper.digest(FOX, edit(SHARP, branch="uncond"), variant=variant)
    assert injected == wrapper.digest(FOX, negative=SHARP, variant=variant)


@pytest.mark.parametrize("variant", ["WanVideoSamplerv2", "WanVideoSamplerFromSettings"])
def test_sampler_variants_give_what_the_main_sampler_gives(wrapper: WrapperHost, variant):
    half = edit(injection_strength=0.5)
    assert wrapper.digest(FOX, half, variant=variant) == wrapper.reference(FOX, half)


@pytest.mark.parametrize("text", [False, True], ids=["blocks", "blocks and text projection"])
def test_block_swap_changes_nothing(wrapper: WrapperHost, text):
    def load(flow: Workflow):
        swap = flow.add("WanVideoBlockSwap", blocks_to_swap=20, offload_img_emb=False, offload_txt_emb=text,
                        prefetch_blocks=1, vace_blocks_to_swap=0)  # fmt: skip
        return wrapper.load(flow, block_swap_args=swap)

    half = edit(injection_strength=0.5)
    assert wrapper.digest(FOX, edit(), load=load) == wrapper.reference(MOON)
    assert wrapper.digest(FOX, half, load=load) == wrapper.reference(FOX, half)


def test_loading_to_the_main_device_changes_nothing(wrapper: WrapperHost):
    def load(flow: Workflow):
        model = wrapper.load(flow)
        flow[model[0]]["inputs"]["load_device"] = "main_device"
        return model

    assert wrapper.digest(FOX, edit(), load=load, force_offload=False) == wrapper.reference(MOON)


def test_one_prompt_can_be_injected_into_several(wrapper: WrapperHost):
    assert wrapper.digest(f"{FOX} | {SHARP}", edit(MOON)) == wrapper.reference(f"{MOON} | {MOON}")


def test_several_prompts_can_be_injected_into_as_many(wrapper: WrapperHost):
    main, other = f"{FOX} | {SHARP}", f"{MOON} | {FOX}"
    assert wrapper.digest(main, edit(other)) == wrapper.reference(other)
    assert wrapper.digest(main, edit(main, injection_strength=0.5)) == wrapper.reference(main)


def bridge(flow: Workflow, prompt: str, negative: str = SHARP, nonce: int = 0):
    """Native conditioning through the wrapper's own bridge: tensors [1, 512, 4096] in place of lists."""
    positive = flow.add("TestConditioning", prompt=prompt, nonce=nonce)
    against = flow.add("TestConditioning", prompt=negative)
    return flow.add("WanVideoTextEmbedBridge", positive=positive, negative=against)


def test_embeds_from_the_bridge_node_work_on_both_inputs(wrapper: WrapperHost):
    other = wrapper.digest(MOON, encode=bridge)
    assert wrapper.digest(FOX, edit(), encode=bridge) == other
    assert wrapper.digest(FOX, edit(branch="both"), encode=bridge) == wrapper.digest(MOON, encode=bridge, negative=MOON)
    assert wrapper.digest(FOX, edit(inject=lambda flow: bridge(flow, MOON))) == wrapper.reference(MOON)


def test_conditioning_can_be_injected_into_the_wrapper(wrapper: WrapperHost):
    conditioning = edit(inject=lambda flow: flow.add("TestConditioning", prompt=MOON))
    assert wrapper.digest(FOX, conditioning) == wrapper.reference(MOON)


def with_nag(wrapper: WrapperHost):
    """Encodes prompts with normalized attention guidance away from SHARP."""

    def encode(flow: Workflow, prompt: str, negative: str = SHARP, nonce: int = 0):
        embeds = wrapper.embeds(flow, prompt, negative, nonce)
        nag = wrapper.embeds(flow, SHARP)
        return flow.add("WanVideoApplyNAG", original_text_embeds=embeds, nag_text_embeds=nag, nag_scale=11.0,
                        nag_tau=2.5, nag_alpha=0.25)  # fmt: skip

    return encode


def test_normalized_attention_guidance_keeps_its_prompt(wrapper: WrapperHost):
    encode = with_nag(wrapper)
    guided = wrapper.digest(MOON, encode=encode, cfg=1.0)
    assert guided != wrapper.reference(MOON, cfg=1.0)
    assert wrapper.digest(FOX, edit(), encode=encode, cfg=1.0) == guided


def test_context_windows_are_all_edited(wrapper: WrapperHost):
    def options(flow: Workflow):
        return flow.add("WanVideoContextOptions", context_schedule="uniform_standard", context_frames=9,
                        context_stride=4, context_overlap=4, freenoise=False, verbose=False)  # fmt: skip

    def video(flow: Workflow):
        return flow.add("WanVideoEmptyEmbeds", width=64, height=64, num_frames=17)

    longer = {"context_options": options, "image_embeds": video}
    assert wrapper.digest(FOX, edit(), **longer) == wrapper.digest(MOON, **longer)


def test_cached_steps_replay_the_edited_ones(wrapper: WrapperHost):
    def cache(flow: Workflow):
        return flow.add("WanVideoEasyCache", easycache_thresh=1.0, start_step=1, end_step=-1,
                        cache_device="offload_device")  # fmt: skip

    other = wrapper.digest(MOON, cache_args=cache, steps=4)
    assert other != wrapper.reference(MOON, steps=4), "no step was skipped"
    assert wrapper.digest(FOX, edit(), cache_args=cache, steps=4) == other


def test_a_window_with_a_cache_is_warned_about(wrapper: WrapperHost):
    def cache(flow: Workflow):
        return flow.add("WanVideoEasyCache", easycache_thresh=1.0, start_step=1, end_step=-1,
                        cache_device="offload_device")  # fmt: skip

    log = wrapper.run(FOX, edit(end_percent=0.5), cache_args=cache, steps=4).checked().log
    assert "the edit reaches past its window 0-0.5" in log


def test_blocks_that_skip_layer_guidance_leaves_out_are_still_edited_for_the_prompt(wrapper: WrapperHost):
    def skipped(flow: Workflow):
        return flow.add("WanVideoSLG", blocks="9,10", start_percent=0.0, end_percent=1.0)

    other = wrapper.digest(MOON, slg_args=skipped)
    assert other != wrapper.reference(MOON)
    assert wrapper.digest(FOX, edit(), slg_args=skipped) == other


ECHOSHOT = "[1] a red fox runs [2] a red fox sleeps"


def test_echoshot_prompts_of_equal_token_counts_can_be_exchanged(wrapper: WrapperHost):
    other = "[1] two cold moons shine [2] two cold moons set"
    assert wrapper.digest(ECHOSHOT, edit(other), cfg=1.0) == wrapper.reference(other, cfg=1.0)


def test_the_embeds_may_bypass_the_editor_on_their_way_to_the_sampler(wrapper: WrapperHost):
    """The edits travel with the model; the description in the embeds is for people."""
    flow = Workflow()
    embeds = wrapper.embeds(flow, FOX)
    encode = lambda text: wrapper.embeds(flow, text)  # noqa: E731
    model, _ = wrapper.edit(flow, wrapper.load(flow), embeds, edit(), encode)
    latents = wrapper.sample(flow, model, embeds, SHARP, 3.0, 2)
    probe = flow.add("TestDigest", samples=latents)[0]
    assert wrapper.server.run(flow).checked().output(probe, "sha256") == [wrapper.reference(MOON)]


def test_the_sampler_s_second_output_is_edited_too(wrapper: WrapperHost):
    flow = Workflow()
    latents = [wrapper.branch(flow, FOX, edit()), wrapper.branch(flow, MOON)]
    probes = [flow.add("TestDigest", samples=output(one, 1))[0] for one in latents]
    result = wrapper.server.run(flow).checked()
    injected, other = (result.output(p, "sha256") for p in probes)
    assert injected == other


def test_embeds_without_a_negative_prompt_are_edited(wrapper: WrapperHost):
    def positive_only(flow: Workflow, prompt: str, negative: str = SHARP, nonce: int = 0):
        positive = flow.add("TestConditioning", prompt=prompt, nonce=nonce)
        return flow.add("WanVideoTextEmbedBridge", positive=positive)

    assert wrapper.digest(FOX, edit(), encode=positive_only, cfg=1.0) == wrapper.reference(MOON, cfg=1.0)


def test_one_edited_model_serves_several_samplers(wrapper: WrapperHost):
    flow = Workflow()
    embeds = wrapper.embeds(flow, FOX)
    encode = lambda text: wrapper.embeds(flow, text)  # noqa: E731
    model, embeds = wrapper.edit(flow, wrapper.load(flow), embeds, edit(), encode)
    others = [embeds, wrapper.embeds(flow, SHARP)]
    probes = [flow.add("TestDigest", samples=wrapper.sample(flow, model, e, SHARP, 1.0, 2))[0] for e in others]
    result = wrapper.server.run(flow).checked()
    assert [result.output(p, "sha256")[0] for p in probes] == [wrapper.reference(MOON, cfg=1.0)] * 2


SCHEDULERS = ["unipc", "unipc/beta", "dpm++", "dpm++/beta", "dpm++_sde", "dpm++_sde/beta", "euler", "euler/beta",
              "longcat_distill_euler", "deis", "lcm", "lcm/beta", "res_multistep", "er_sde", "flowmatch_distill",
              "flowmatch_pusa", "sa_ode_stable", "rcm", "vibt_unipc"]  # fmt: skip
# multitalk has no schedule without its own model; the node gives causvid another one for models of small width.
OF_OTHER_MODELS = {"multitalk", "flowmatch_causvid"}


def test_no_scheduler_of_the_wrapper_is_unknown(wrapper: WrapperHost):
    inputs = wrapper.server.call("/object_info/WanVideoScheduler")["WanVideoScheduler"]["input"]["required"]
    assert set(inputs["scheduler"][0]) == {*SCHEDULERS, *OF_OTHER_MODELS}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_window_acts_in_the_same_steps_whether_the_scheduler_is_named_or_a_node(wrapper: WrapperHost, name):
    steps = 4 if name.startswith("flowmatch_") else 6  # some of them know no other number

    def node(flow: Workflow):
        link = flow.add("WanVideoScheduler", scheduler=name, steps=steps, shift=5.0, start_step=0, end_step=-1)
        return [link[0], 3]

    by_name = {"steps": steps, "scheduler": name, "shift": 5.0, "cfg": 1.0}
    one = edit(start_percent=0.25, end_percent=0.75)
    named, noded, plain, other = wrapper.digests(
        ((FOX, one), by_name),
        ((FOX, one), {"steps": steps, "scheduler": node, "shift": 8.0, "cfg": 1.0}),
        ((FOX,), by_name),
        ((MOON,), by_name),
    )
    assert noded == named
    assert named not in (plain, other)

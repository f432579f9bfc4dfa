"""ComfyUI's own samplers, guiders and model patches."""

from __future__ import annotations

import pytest

from .test_hidden_conflicts import SINCE_0_26
from .workflows import FOX, FRAMES, MOON, SHARP, SIZE, NativeHost, Workflow, edit


@pytest.mark.parametrize("sampler", ["uni_pc", "heun", "dpmpp_2m", "res_multistep", "euler_ancestral"])
def test_every_sampler_is_edited(native: NativeHost, sampler):
    assert native.digest(FOX, edit(), sampler_name=sampler) == native.reference(MOON, sampler_name=sampler)


def test_every_row_of_a_latent_batch_is_edited(native: NativeHost):
    assert native.digest(FOX, edit(), batch_size=2) == native.reference(MOON, batch_size=2)
    uncond = native.digest(FOX, edit(SHARP, branch="uncond"), batch_size=2)
    assert uncond == native.reference(FOX, negative=SHARP, batch_size=2)


def test_prompts_of_unequal_padded_lengths_are_sampled_in_separate_calls(native: NativeHost):
    """A main prompt of 520 padded tokens next to a negative prompt of 512."""

    def longer(flow: Workflow, prompt: str, negative: str = SHARP, nonce: int = 0):
        return flow.add("TestConditioning", prompt=prompt, nonce=nonce, padded_tokens=520)

    other = native.digest(MOON, encode=longer)
    assert native.digest(FOX, edit(), encode=longer) == other
    shorter = native.run(FOX, edit(inject=lambda flow: native.embeds(flow, MOON)), encode=longer).checked()
    assert [o["sha256"] for o in shorter.outputs.values() if "sha256" in o] == [[other]]
    assert "the injected prompt has 512 rows and the context that it goes into 520" in shorter.log
    assert other != native.digest(MOON), "padding rows are read"


def combined(prompts: str):
    """`a | b` as two conditionings, combined."""

    def encode(flow: Workflow, prompt: str = prompts, negative: str = SHARP, nonce: int = 0):
        first, second = (flow.add("TestConditioning", prompt=p.strip(), nonce=nonce) for p in prompt.split("|"))
        return flow.add("ConditioningCombine", conditioning_1=first, conditioning_2=second)

    return encode


def test_one_prompt_is_injected_into_every_combined_conditioning(native: NativeHost):
    one = edit(inject=lambda flow: native.embeds(flow, MOON))
    encode = combined(f"{FOX} | {SHARP}")
    injected = native.digest(f"{FOX} | {SHARP}", one, encode=encode)
    assert injected == native.digest(f"{MOON} | {MOON}", encode=encode)


def test_combined_conditionings_are_injected_one_into_one(native: NativeHost):
    encode = combined(f"{FOX} | {SHARP}")
    injected = native.digest(f"{FOX} | {SHARP}", edit(f"{MOON} | a green tree"), encode=encode)
    assert injected == native.digest(f"{MOON} | a green tree", encode=encode)


def test_prompts_of_one_conditioning_are_injected_row_by_row(native: NativeHost):
    """A batch of prompts for a batch of latents, which ComfyUI repeats over them."""
    two, other = f"{FOX} & {SHARP}", f"{MOON} & a green tree"
    for batch in (2, 4):
        assert native.digest(two, edit(other), batch_size=batch) == native.digest(other, batch_size=batch)
        one = native.digest(two, edit(MOON), batch_size=batch)
        assert one == native.digest(f"{MOON} & {MOON}", batch_size=batch)


def test_a_long_prompt_is_injected_into_a_context_of_its_length(native: NativeHost):
    """As ConditioningConcat makes it: 1,024 rows."""

    def joined(flow: Workflow, prompt: str, negative: str = SHARP, nonce: int = 0):
        first, second = (flow.add("TestConditioning", prompt=p, nonce=nonce) for p in (prompt, "a green tree"))
        return flow.add("ConditioningConcat", conditioning_to=first, conditioning_from=second)

    assert native.digest(FOX, edit(), encode=joined) == native.digest(MOON, encode=joined)
    refused = native.run(FOX, edit(inject=lambda flow: joined(flow, MOON)))
    assert "at most 512" in str(refused.error)


def test_conditionings_with_time_ranges_are_edited(native: NativeHost):
    def ranged(flow: Workflow, prompt: str, negative: str = SHARP, nonce: int = 0):
        base = native.embeds(flow, prompt, nonce=nonce)
        early = flow.add("ConditioningSetTimestepRange", conditioning=base, start=0.0, end=0.5)
        late = flow.add("ConditioningSetTimestepRange", conditioning=base, start=0.5, end=1.0)
        return flow.add("ConditioningCombine", conditioning_1=early, conditioning_2=late)

    one = edit(inject=lambda flow: native.embeds(flow, MOON))
    assert native.digest(FOX, one, encode=ranged, steps=4) == native.digest(MOON, encode=ranged, steps=4)


def _guided(native: NativeHost, guider: str, *edits, prompt=FOX, **inputs):
    flow = Workflow()
    model, embeds = native.load(flow), native.embeds(flow, prompt)
    for given in edits:
        model, embeds = native.edit(flow, model, embeds, given, lambda text: native.embeds(flow, text))
    links = {name: native.embeds(flow, value) if isinstance(value, str) else value for name, value in inputs.items()}
    main = {"BasicGuider": "conditioning", "CFGGuider": "positive", "DualCFGGuider": "cond1"}[guider]
    if guider == "DualCFGGuider":
        links["style"] = "regular"
    latents = flow.add(
        "SamplerCustomAdvanced",
        noise=flow.add("RandomNoise", noise_seed=42),
        guider=flow.add(guider, model=model, **{main: embeds}, **links),
        sampler=flow.add("KSamplerSelect", sampler_name="euler"),
        sigmas=flow.add("BasicScheduler", model=model, scheduler="simple", steps=2, denoise=1.0),
        latent_image=flow.add("EmptyHunyuanLatentVideo", length=FRAMES, batch_size=1, **SIZE),
    )
    probe = flow.add("TestDigest", samples=latents)[0]
    return native.server.run(flow).checked().output(probe, "sha256")[0]


@pytest.mark.parametrize(
    ("guider", "inputs"),
    [
        ("BasicGuider", {}),
        ("CFGGuider", {"negative": SHARP, "cfg": 3.0}),
        ("DualCFGGuider", {"cond2": "a green tree", "negative": SHARP, "cfg_conds": 3.0, "cfg_cond2_negative": 2.0}),
    ],
)
def test_every_guider_s_positive_prompt_is_edited_and_no_other(native: NativeHost, guider, inputs):
    other = _guided(native, guider, prompt=MOON, **inputs)
    assert _guided(native, guider, edit(), **inputs) == other
    assert _guided(native, guider, **inputs) != other


def test_skip_layer_guidance_works_with_edits(native: NativeHost):
    def skip(flow: Workflow, model):
        return flow.add("SkipLayerGuidanceDiT", model=model, double_layers="9, 10", single_layers="", scale=3.0,
                        start_percent=0.0, end_percent=1.0, rescaling_scale=0.0)  # fmt: skip

    other = native.digest(MOON, after=skip)
    assert other != native.reference(MOON)
    assert native.digest(FOX, edit(), after=skip) == other


def test_cached_steps_replay_the_edited_ones(native: NativeHost):
    def cache(flow: Workflow, model):
        return flow.add("EasyCache", model=model, reuse_threshold=3.0, start_percent=0.0, end_percent=1.0,
                        verbose=False)  # fmt: skip

    other = native.digest(MOON, after=cache, steps=6)
    assert other != native.reference(MOON, steps=6), "no step was skipped"
    assert native.digest(FOX, edit(), after=cache, steps=6) == other


def test_context_windows_are_all_edited(native: NativeHost):
    def windows(flow: Workflow, model):
        return flow.add("WanContextWindowsManual", model=model, context_length=9, context_overlap=4,
                        context_schedule="standard_static", context_stride=1, closed_loop=False,
                        fuse_method="pyramid", freenoise=False, **SINCE_0_26)  # fmt: skip

    def video(flow: Workflow):
        return flow.add("EmptyHunyuanLatentVideo", length=17, batch_size=1, **SIZE)

    other = native.digest(MOON, after=windows, latent_image=video)
    assert other != native.digest(MOON, latent_image=video)
    assert native.digest(FOX, edit(), after=windows, latent_image=video) == other


def test_patches_between_loader_editor_and_sampler_keep_the_edits(native: NativeHost):
    def shifted(flow: Workflow, model):
        return flow.add("ModelSamplingSD3", model=model, shift=3.0)

    assert native.digest(FOX, edit(), after=shifted) == native.digest(MOON, after=shifted)


def test_wrapper_embeds_can_be_injected_into_a_native_model(native: NativeHost):
    given = edit(inject=lambda flow: flow.add("TestTextEmbeds", prompt=MOON, negative=SHARP))
    assert native.digest(FOX, given) == native.reference(MOON)

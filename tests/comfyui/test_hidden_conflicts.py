"""Live mixing and Latent Injector beside what caches, skips, splits or repeats blocks: right, or refused by name.

The table of web/docs/WanVideoLatentInjector.md, row by row.
"""

from __future__ import annotations

import pytest

from . import tiny_models
from .server import RunFailedError
from .workflows import FOX, MOON, SHARP, Host, NativeHost, Workflow, WrapperHost, edit

COUNT = 4
STEPS = 6


def mixed(**inputs):
    return edit(injection_mode="hidden_states", **inputs)


def last(host: Host, **inputs):
    """Full strength at the last block alone, which hands over the injected prompt's whole pass."""
    return mixed(block_activations=str(host.blocks - 1), **inputs)


def refused(host: Host, message: str, *edits, **kwargs):
    result = host.run(FOX, *edits, **kwargs)
    assert result.error, "the run went through"
    with pytest.raises(RunFailedError, match=message):
        result.checked()
    left = host.leftovers()
    assert left["hooks"] == left["forwards"] == []


# Caches


def wrapper_cache(name: str):
    inputs = {
        "WanVideoTeaCache": {"rel_l1_thresh": 1.0, "use_coefficients": True, "mode": "e"},
        "WanVideoMagCache": {"magcache_thresh": 0.3, "magcache_K": 6},
        "WanVideoEasyCache": {"easycache_thresh": 1.0},
    }[name]
    common = {"start_step": 1, "end_step": -1, "cache_device": "offload_device"}
    return {"cache_args": lambda flow: flow.add(name, **inputs, **common)}


WRAPPER_CACHES = ["WanVideoTeaCache", "WanVideoMagCache", "WanVideoEasyCache"]


@pytest.mark.parametrize("name", WRAPPER_CACHES)
def test_cached_steps_of_the_wrapper_replay_the_edited_ones(wrapper: WrapperHost, name):
    """The caches compute the first two or three steps: an edit of those alone is one without a window."""
    cached = {"steps": STEPS, **wrapper_cache(name)}
    plain, other = wrapper.digest(**cached), wrapper.digest(MOON, **cached)
    assert plain != wrapper.reference(steps=STEPS), "no step was skipped"
    assert wrapper.digest(FOX, last(wrapper), **cached) == other
    assert wrapper.digest(FOX, last(wrapper, end_percent=0.5), **cached) == other
    added = wrapper.digest(after=wrapper.adding(COUNT), **cached)
    assert added != plain
    part = wrapper.run(FOX, after=wrapper.adding(COUNT, end_percent=0.5), **cached).checked()
    assert added in str(part.outputs)
    assert "reaches past its window 0-0.5" in part.log
    assert wrapper.digest(after=wrapper.adding(COUNT, other=FOX), **cached) == plain


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_cached_steps_of_comfyui_replay_the_edited_ones(native: NativeHost, name):
    def cached(first=None):
        def after(flow: Workflow, model):
            model = first(flow, model) if first else model
            return flow.add(name, model=model, reuse_threshold=3.0, start_percent=0.0, end_percent=1.0, verbose=False)

        return {"after": after, "steps": STEPS}

    plain, other = native.digest(**cached()), native.digest(MOON, **cached())
    assert plain != native.reference(steps=STEPS), "no step was skipped"
    assert native.digest(FOX, last(native), **cached()) == other
    added = native.digest(**cached(native.adding(COUNT)))
    assert added != plain
    assert native.digest(**cached(native.adding(COUNT, other=FOX))) == plain


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_a_cache_on_the_model_does_not_disturb_the_capture(native: NativeHost, name):
    def load(flow: Workflow):
        return flow.add(name, model=native.load(flow), reuse_threshold=3.0, start_percent=0.0, end_percent=1.0,
                        verbose=False)  # fmt: skip

    assert captured(native, load=load) == captured(native)


def captured(host: Host, load=None, blocks: int = COUNT, **options):
    """Grid and content of a capture."""
    flow = Workflow()
    link = host.capture(flow, (load or host.load)(flow), MOON, blocks, **options)
    probe = flow.add("TestLatentEmbeds", latent_embeds=link, info="")
    found = host.server.run(flow).checked().outputs[probe[0]]
    return found["plain"][0]["grid"], found["sha256"]


# Skip-layer guidance


def slg(blocks: str):
    return {"slg_args": lambda flow: flow.add("WanVideoSLG", blocks=blocks, start_percent=0.0, end_percent=1.0)}


def test_skip_layer_guidance_of_the_wrapper_skips_the_second_stream_too(wrapper: WrapperHost):
    skipped = slg("9,10")
    assert wrapper.digest(FOX, last(wrapper), **skipped) == wrapper.digest(MOON, **skipped)
    edits = last(wrapper, inject=SHARP, branch="uncond")
    assert wrapper.digest(FOX, edits, **skipped) == wrapper.digest(FOX, negative=SHARP, **skipped)
    assert wrapper.digest(**skipped) != wrapper.reference()


def test_skip_layer_guidance_of_the_wrapper_and_added_states(wrapper: WrapperHost):
    skipped = slg(f"{COUNT - 1},9")
    plain = wrapper.digest(**skipped)
    assert wrapper.digest(after=wrapper.adding(COUNT), **skipped) != plain
    assert wrapper.digest(after=wrapper.adding(COUNT, other=FOX), **skipped) == plain


@pytest.mark.parametrize("branch", ["uncond", "both"])
def test_editing_a_block_that_the_wrapper_skips_is_refused(wrapper: WrapperHost, branch):
    message = r"slg_args \(skip-layer guidance\) skips block 9, .* Choose other blocks"
    refused(wrapper, message, mixed(block_activations="5-9", branch=branch), **slg("9,10"))
    at_nine = wrapper.adding(COUNT, at="9", branch=branch)
    refused(wrapper, message, after=at_nine, **slg("9,10"))


def native_slg(layers: str, first=None):
    def after(flow: Workflow, model):
        model = first(flow, model) if first else model
        return flow.add("SkipLayerGuidanceDiT", model=model, double_layers=layers, single_layers="", scale=3.0,
                        start_percent=0.0, end_percent=1.0, rescaling_scale=0.0)  # fmt: skip

    return {"after": after}


def test_skip_layer_guidance_of_comfyui_skips_the_second_stream_too(native: NativeHost):
    other = native.digest(MOON, **native_slg("9, 10"))
    assert other != native.reference(MOON), "no block was skipped"
    assert native.digest(FOX, last(native), **native_slg("9, 10")) == other
    plain = native.digest(**native_slg("9, 10"))
    assert native.digest(**native_slg("9, 10", native.adding(COUNT, other=FOX))) == plain
    assert native.digest(**native_slg("9, 10", native.adding(COUNT))) != plain


def test_editing_a_block_that_comfyui_skips_is_refused(native: NativeHost):
    message = r"\(node \d+\).*: skip-layer guidance, .* skips block 9, .*Choose other blocks"
    refused(native, message, mixed(block_activations="5-9"), **native_slg("9, 10"))
    for chosen in ("8, 9", "9"):
        refused(native, message, **native_slg("9, 10", native.adding(COUNT, at=chosen)))


def test_skip_layer_guidance_of_comfyui_does_not_disturb_the_capture(native: NativeHost):
    """Its pass with blocks left out comes after the pass that is captured."""

    def load(flow: Workflow):
        return native_slg("1, 2")["after"](flow, native.load(flow))

    for blocks in (2, COUNT):
        assert captured(native, load, blocks) == captured(native, blocks=blocks)


# Context windows


def wrapper_windows(frames: int = 9):
    def options(flow: Workflow):
        return flow.add("WanVideoContextOptions", context_schedule="uniform_standard", context_frames=frames,
                        context_stride=4, context_overlap=4, freenoise=False, verbose=False)  # fmt: skip

    video = lambda flow: flow.add("WanVideoEmptyEmbeds", width=64, height=64, num_frames=17)  # noqa: E731
    return {"context_options": options, "image_embeds": video}


SINCE_0_26 = {"retain_first_frame": False, "split_conds_to_windows": False}
"""Inputs of Wan Context Windows that older versions ignore."""


def native_windows(first=None, frames: int = 9):
    def after(flow: Workflow, model):
        model = first(flow, model) if first else model
        return flow.add("WanContextWindowsManual", model=model, context_length=frames, context_overlap=5,
                        context_schedule="standard_static", context_stride=1, closed_loop=False,
                        fuse_method="pyramid", freenoise=False, **SINCE_0_26)  # fmt: skip

    return {"after": after, "length": 17}


def windows(host: Host, first=None):
    """Arguments of a run of 17 frames in windows of 9, that is 3 latent frames."""
    if host.name == "wrapper":
        return {**wrapper_windows(), **({"after": first} if first else {})}
    return native_windows(first)


def test_every_context_window_has_its_own_second_stream(host: Host):
    other = host.digest(MOON, **windows(host))
    assert host.digest(FOX, last(host), **windows(host)) == other


def test_states_of_the_whole_video_do_not_fit_context_windows(host: Host):
    whole = host.adding(COUNT, capture={"num_frames": 17})
    message = r"3 latent frames.* grid|3 latent frames.*captured on 5 x 4 x 4 .* num_frames = 9, set reduce to mean"
    message += "|causal_window_fix.* Set reduce to mean"
    refused(host, message, **windows(host, whole))


def test_states_of_a_window_or_their_mean_fit_context_windows(host: Host):
    plain = host.digest(**windows(host))
    window, mean = {"capture": {"num_frames": 9}}, {"reduce": "mean", "capture": {"num_frames": 17}}
    # Since 0.21 the windows after the first sample one frame more.
    widgets = host.server.call("/object_info/ContextWindowsManual")["ContextWindowsManual"]["input"]["required"]
    differ = host.name == "native" and "causal_window_fix" in widgets
    if differ:
        refused(host, "causal_window_fix.* Set reduce to mean", **windows(host, host.adding(COUNT, **window)))
    for given in [mean] if differ else [window, mean]:
        assert host.digest(**windows(host, host.adding(COUNT, **given))) != plain
        assert host.digest(**windows(host, host.adding(COUNT, other=FOX, **given))) == plain


@pytest.mark.parametrize("freenoise", [False, True])
def test_a_capture_leaves_context_windows_on_the_model_out(native: NativeHost, freenoise):
    def load(flow: Workflow):
        model = native_windows()["after"](flow, native.load(flow))
        flow[model[0]]["inputs"]["freenoise"] = freenoise
        return model

    found = captured(native, load, num_frames=17)
    assert found == captured(native, num_frames=17)
    assert found[0] == [5, 4, 4]


def test_windows_longer_than_the_video_are_none(wrapper: WrapperHost):
    """The wrapper leaves them out."""
    windowed = wrapper_windows(frames=81)
    whole = {"image_embeds": windowed["image_embeds"]}
    after = wrapper.adding(COUNT, capture={"num_frames": 17})
    assert wrapper.digest(after=after, **windowed) == wrapper.digest(after=after, **whole)


# Blocks with a memory


def stand_in(host: WrapperHost):
    """A reference image whose keys and values every block keeps from its first call."""

    def load(flow: Workflow):
        lora = flow.add("WanVideoLoraSelect", lora=tiny_models.STAND_IN_LORA, strength=1.0, low_mem_load=False,
                        merge_loras=False)  # fmt: skip
        return host.load(flow, lora=lora)

    def video(flow: Workflow):
        image = flow.add("EmptyHunyuanLatentVideo", width=64, height=64, length=1, batch_size=1)
        return flow.add("WanVideoAddStandInLatent", embeds=host.empty_video(flow), ip_image_latent=image,
                        freq_offset=1)  # fmt: skip

    return {"load": load, "image_embeds": video}


def test_stand_in_is_refused_by_live_mixing(wrapper: WrapperHost):
    message = "hidden_states and both cannot be combined with Stand-In"
    refused(wrapper, message, mixed(), **stand_in(wrapper))


def test_states_can_be_added_beside_stand_in(wrapper: WrapperHost):
    given = stand_in(wrapper)
    plain = wrapper.digest(**given)
    assert plain != wrapper.reference(), "Stand-In has no effect"
    capture = {"image_embeds": given["image_embeds"]}
    assert wrapper.digest(after=wrapper.adding(COUNT, capture=capture), **given) != plain
    assert wrapper.digest(after=wrapper.adding(COUNT, other=FOX, capture=capture), **given) == plain
    assert wrapper.digest(**given) == plain

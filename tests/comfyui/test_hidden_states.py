"""Capture of hidden states through the host's own sampling, and their injection."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from . import tiny_models
from .server import RunFailedError
from .test_lora import loaders
from .test_variants import i2v, image_condition, image_video, vace
from .workflows import BLURRY, FOX, MOON, SHARP, Host, NativeHost, Workflow, WrapperHost, edit, output

COUNT = 4
HALF = 2**-8  # relative rounding error of bfloat16

names = (f"recording {i}" for i in itertools.count())
nonces = itertools.count(10**6)


def one_step(host: Host, **more):
    """A run at the noise level of a capture with sigma 1."""
    return {"steps": 1, **({"scheduler": "euler"} if host.name == "wrapper" else {}), **more}


def recorded(host: Host, prompt: str, *edits, block: int = COUNT, after=None, against=None, **kwargs):
    """Sample once and record what goes into a block; returns the recording's name and its difference to another."""
    name = next(names)

    def probe(flow: Workflow, model):
        model = after(flow, model) if after else model
        return flow.add("TestHiddenProbe", model=model, block=block, name=name, nonce=next(nonces))

    flow = Workflow()
    latents = host.branch(flow, prompt, *edits, after=probe, **one_step(host, **kwargs))
    end = flow.add("TestHiddenEnd", samples=latents, name=name, against=against or name)
    result = host.server.run(flow).checked()
    return name, result.output(end[0], "difference"), result.output(end[0], "scale")


def captured(host: Host, prompt: str = MOON, blocks: int = COUNT, load=None, against: str = "", **options):
    """What a Latent Encoder gives."""
    flow = Workflow()
    options.setdefault("encode", lambda flow, text, negative: host.embeds(flow, text, negative, next(nonces)))
    link = host.capture(flow, (load or host.load)(flow), prompt, blocks, **options)
    probe = flow.add("TestLatentEmbeds", latent_embeds=link, info=output(link, 1), against=against)
    return host.server.run(flow).checked().outputs[probe[0]]


@pytest.fixture
def untouched(host: Host):
    """Afterwards: the same cached model in the same places, nothing attached to it, and the next runs are right."""
    plain = host.digest()
    before = host.leftovers(places=True)
    yield
    after = host.leftovers(places=True)
    assert after["hooks"] == after["forwards"] == []
    assert after == before
    assert host.digest() == plain
    assert host.digest(FOX, edit()) == host.reference(MOON)


# Capture


@pytest.mark.parametrize("blocks", [1, COUNT])
def test_capture_is_the_hidden_state_of_an_ordinary_run(host: Host, blocks):
    name, _, _ = recorded(host, MOON, block=blocks, cfg=1.0)
    found = captured(host, blocks=blocks, against=name)
    assert found["recorded"] == [True]
    plain = found["plain"][0]
    assert plain["grid"] == [2, 4, 4] and plain["sigma"] == 1.0 and plain["seed"] == 42
    assert plain["blocks"] == [blocks - 1] and plain["dtype"] == "bfloat16"
    assert plain["shape"][:2] == [1, 32]
    assert f"hidden state after block {blocks - 1}, captured" in found["info"][0]


def test_capture_after_every_block_of_the_model(host: Host):
    assert captured(host, blocks=host.blocks)["plain"][0]["blocks"] == [host.blocks - 1]


def test_all_blocks_are_captured_in_one_pass(host: Host):
    found = captured(host, blocks=COUNT, all_blocks=True)
    assert found["plain"][0]["blocks"] == list(range(COUNT))
    assert found["sha256"] == [captured(host, blocks=i + 1)["sha256"][0] for i in range(COUNT)]


def test_size_seed_prompt_and_sigma_matter(host: Host):
    found = [captured(host, **more)["sha256"][0] for more in ({}, {"seed": 1}, {"prompt": FOX}, {"sigma": 0.7})]
    assert len(set(found)) == 4
    assert captured(host, width=96, height=32, num_frames=9)["plain"][0]["grid"] == [3, 2, 6]
    assert captured(host, sigma=0.7)["plain"][0]["sigma"] == pytest.approx(0.7)


def test_capture_leaves_nothing(host: Host, untouched):
    captured(host)
    captured(host, all_blocks=True)


def test_capture_of_an_edited_model_leaves_its_edits_out(host: Host):
    flow = Workflow()
    embeds = host.embeds(flow, FOX)
    model, _ = host.edit(flow, host.load(flow), embeds, edit(SHARP), lambda text: host.embeds(flow, text))
    link = host.capture(flow, model, MOON, COUNT)
    probe = flow.add("TestLatentEmbeds", latent_embeds=link, info=output(link, 1))
    found = host.server.run(flow).checked().outputs[probe[0]]
    assert found["sha256"] == captured(host)["sha256"]


def test_capture_leaves_nothing_after_an_exception(host: Host, untouched):
    flow = Workflow()
    model = host.stop_in_block(1, "raise")(flow, host.load(flow))
    link = host.capture(flow, model, MOON, host.blocks - 1)
    flow.add("TestLatentEmbeds", latent_embeds=link, info=output(link, 1))
    with pytest.raises(RunFailedError, match=r"WanVideoLatentEncoder: .*stopped in the middle of a block"):
        host.server.run(flow).checked()


def test_capture_leaves_nothing_after_an_interrupt(host: Host, untouched):
    flow = Workflow()
    model = host.stop_in_block(1, "wait")(flow, host.load(flow))
    link = host.capture(flow, model, MOON, host.blocks - 1)
    probe = flow.add("TestLatentEmbeds", latent_embeds=link, info=output(link, 1))
    start, run = host.server.log_size(), host.server.submit(flow)
    end = time.monotonic() + 60
    while "waiting for an interrupt" not in host.server.log(start):
        assert time.monotonic() < end
        time.sleep(0.02)
    host.server.call("/interrupt", {})
    result = host.server.result(run, start)
    assert result.interrupted
    assert probe[0] not in result.outputs


@pytest.mark.parametrize("kind", ["merged", "unmerged", "set later", "loader"])
def test_capture_and_the_place_of_weights_under_a_lora(request, kind):
    host = request.getfixturevalue("native" if kind == "loader" else "wrapper")
    load = loaders(host)[kind]
    bare = captured(host)
    plain = host.digest(load=load)
    before = host.leftovers(load, places=True)
    assert captured(host, load=load)["sha256"] != bare["sha256"]
    assert host.leftovers(load, places=True) == before
    assert host.digest(load=load) == plain


def test_a_model_that_cannot_be_loaded_gives_the_wrappers_own_error(wrapper: WrapperHost, models: Path):
    folder = models / "diffusion_models"
    state = load_file(folder / tiny_models.WRAPPER_T2V)
    del state["blocks.7.ffn.2.bias"]
    save_file(state, folder / "incomplete.safetensors", metadata={"format": "pt"})

    def load(flow: Workflow):
        return wrapper.load(flow, checkpoint="incomplete.safetensors")

    with pytest.raises(RunFailedError) as sampled:
        wrapper.run(load=load).checked()
    message = str(sampled.value).split(": ", 1)[1].splitlines()[0]
    with pytest.raises(RunFailedError, match=re.escape(message)):
        captured(wrapper, load=load)


def test_image_inputs_reach_the_capture(host: Host):
    model = i2v(host)
    load = model["load"]
    name, _, _ = recorded(host, MOON, cfg=1.0, **model)
    if host.name == "wrapper":
        found = captured(host, load=load, against=name, image_embeds=image_video)
    else:
        flow = Workflow()
        positive, _, latent = image_condition(flow, host.embeds(flow, MOON), host.embeds(flow, BLURRY))
        link = flow.add("WanVideoLatentEncoder", model=load(flow), text_embeds=positive, capture_after_blocks=COUNT,
                        use_cache=False, seed=42, latent=latent)  # fmt: skip
        probe = flow.add("TestLatentEmbeds", latent_embeds=link, info=output(link, 1), against=name)
        found = host.server.run(flow).checked().outputs[probe[0]]
    assert found["recorded"] == [True]


def test_an_image_model_without_images_says_what_to_connect(wrapper: WrapperHost):
    with pytest.raises(RunFailedError, match=r"image-to-video model\. Connect the sampler's image_embeds"):
        captured(wrapper, load=i2v(wrapper)["load"])


def test_a_latent_gives_size_and_content(host: Host):
    """At sigma 1 nothing of it is left but its size; below, it shows."""

    def latent(flow: Workflow):
        return host.branch(flow, SHARP)

    assert captured(host, latent=latent, width=128)["sha256"] == captured(host)["sha256"]
    assert captured(host, latent=latent, sigma=0.5)["sha256"] != captured(host, sigma=0.5)["sha256"]


def test_a_masked_latent_is_masked_in_the_capture(native: NativeHost):
    """Image-to-video of Wan 2.2 5B marks the given frames by noise_mask: they are clean, at timestep 0."""

    def load(flow: Workflow):
        return native.load(flow, checkpoint=tiny_models.NATIVE_5B)

    def latent(flow: Workflow, masked: bool = True):
        empty = flow.add("EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=1)
        sizes = {"width": 64, "height": 64}, {"width": 32, "height": 64}
        whole, half = (flow.add("SolidMask", value=float(i), **size) for i, size in enumerate(sizes))
        mask = flow.add("MaskComposite", destination=whole, source=half, x=0, y=0, operation="add")
        return flow.add("SetLatentNoiseMask", samples=empty, mask=mask) if masked else empty

    name, _, _ = recorded(native, MOON, cfg=1.0, load=load, latent_image=latent)
    found = captured(native, load=load, latent=latent, against=name)
    assert found["recorded"] == [True]
    assert found["sha256"] != captured(native, load=load, latent=lambda flow: latent(flow, False))["sha256"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"batch_size": 2}, r"latent is \[2, 16, 2, 8, 8\], .* takes \[1, 16, frames, height, width\]"),
        ({"width": 96}, r"latent is 8 x 12 .* but image_embeds is for 8 x 8.* Make both at the video's size"),
        ({"image": True}, r"latent is \[1, 4, 8, 8\], .* takes \[1, 16, frames, height, width\]"),
    ],
)
def test_a_latent_that_the_wrapper_cannot_take(wrapper: WrapperHost, inputs, message):
    def latent(flow: Workflow):
        if inputs.get("image"):
            return flow.add("EmptyLatentImage", width=64, height=64, batch_size=1)
        return flow.add(
            "EmptyHunyuanLatentVideo", **{"width": 64, "height": 64, "length": 5, "batch_size": 1, **inputs}
        )

    with pytest.raises(RunFailedError, match=f"WanVideo Latent Encoder: {message}"):
        captured(wrapper, latent=latent, image_embeds=wrapper.empty_video)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"blocks": 99}, r"capture_after_blocks is 99, but WanModel has \d+ blocks. Choose 1 to"),
        ({"encode": None}, r"text_embeds is (CONDITIONING|WANVIDEOTEXTEMBEDS)"),
    ],
)
def test_bad_input_of_the_encoder(request, host: Host, inputs, message):
    if "encode" in inputs:
        inputs = {"encode": request.getfixturevalue("native" if host.name == "wrapper" else "wrapper").embeds}
    with pytest.raises(RunFailedError, match=f"WanVideo Latent Encoder: {message}"):
        captured(host, **inputs)


def test_captures_are_found_again_by_content(host: Host):
    """Same content from other nodes is found; another prompt, seed, size, block count or LoRA is not."""

    def once(**more):
        load = more.pop("load", host.load)
        found = captured(host, use_cache=True, load=load, seed=more.pop("seed", 7), **more)
        return "from the cache" in found["info"][0], found["sha256"]

    first = once()
    assert not first[0]
    host.server.free()
    assert once(encode=lambda flow, prompt, negative: host.embeds(flow, prompt, SHARP, next(nonces))) == (
        True,
        first[1],
    )
    others = {"prompt": FOX}, {"seed": 8}, {"width": 96}, {"blocks": 2}, {"sigma": 0.5}, {"all_blocks": True}
    assert not any(once(**more)[0] for more in others)
    assert not any(once(load=load)[0] for load in loaders(host).values())
    assert once()[0]


# Injection


def test_injecting_gives_the_injected_prompts_state(host: Host):
    plain, _, _ = recorded(host, FOX, cfg=1.0)
    other, apart, scale = recorded(host, MOON, cfg=1.0, against=plain)
    _, difference, _ = recorded(host, FOX, cfg=1.0, after=host.adding(COUNT), against=other)
    assert max(difference[0]) <= 4 * HALF * scale[0]
    assert max(apart[0]) > 5 * max(difference[0])


def test_a_model_in_half_precision_gets_it_to_its_rounding(wrapper: WrapperHost):
    def load(flow: Workflow):
        model = wrapper.load(flow)
        flow[model[0]]["inputs"]["base_precision"] = "bf16"
        return model

    other, _, scale = recorded(wrapper, MOON, cfg=1.0, load=load)
    found = captured(wrapper, load=load, against=other)
    assert found["recorded"] == [True]
    _, difference, _ = recorded(wrapper, FOX, cfg=1.0, load=load, after=wrapper.adding(COUNT), against=other)
    assert max(difference[0]) <= 4 * HALF * scale[0]


@pytest.mark.parametrize(
    "inputs", [{"injection_strength": 0.0}, {"at": "none"}, {"other": FOX}, {"other": FOX, "preserve_norm": True}]
)
def test_strength_zero_no_block_and_equal_latents_change_nothing(host: Host, inputs):
    assert host.digest(after=host.adding(COUNT, **inputs)) == host.reference()


def test_the_negative_prompt_is_untouched(host: Host):
    """Per call and row of its batch: the wrapper calls twice, ComfyUI once with the unconditional row first."""
    plain, _, _ = recorded(host, FOX)
    for branch, changed in (("cond", True), ("uncond", False)):
        _, rows, _ = recorded(host, FOX, after=host.adding(COUNT, branch=branch), against=plain)
        cond, uncond = (rows[0][0], rows[1][0]) if host.name == "wrapper" else (rows[0][1], rows[0][0])
        assert (cond > 0, uncond > 0) == (changed, not changed)


def test_injection_leaves_nothing(host: Host, untouched):
    assert host.digest(after=host.adding(COUNT)) != host.reference()
    stop = host.stop_in_block(3, "raise")
    add = host.adding(2)
    with pytest.raises(RunFailedError, match="stopped in the middle of a block"):
        host.run(FOX, after=lambda flow, model: stop(flow, add(flow, model)), steps=4).checked()


def test_two_clones_do_not_see_each_other(host: Host):
    first, second = host.adding(COUNT), host.adding(2, preserve_norm=True)
    alone = [host.digest(after=after) for after in (first, second)]
    together = host.digests(((FOX,), {"after": first}), ((FOX,), {"after": second}), ((FOX,), {}))
    assert together == [*alone, host.reference()]


def test_composes_with_context_edits_and_second_streams(host: Host):
    same = host.adding(COUNT, other=FOX)
    assert host.digest(FOX, edit(), after=same) == host.reference(MOON)
    last = edit(injection_mode="hidden_states", block_activations=str(host.blocks - 1))
    assert host.digest(FOX, last, after=same) == host.reference(MOON)
    half = edit(injection_mode="both", block_activations="2-7", injection_strength=0.5)
    results = {host.digest(FOX, half, after=after) for after in (None, same, host.adding(COUNT))}
    assert len(results) == 2
    # A second stream to the last block replaces whatever was added before it.
    assert host.digest(FOX, last, after=host.adding(COUNT)) == host.reference(MOON)


def test_the_mean_fits_another_size_and_token_by_token_is_refused(host: Host):
    larger = {"width": 96, "height": 96}
    reduced = host.adding(COUNT, reduce="mean", capture=larger)
    assert host.digest(after=reduced) != host.reference()
    grids = r"grid of 2 x 6 x 6 .* sampler runs on 2 x 4 x 4 .* set reduce to mean"
    with pytest.raises(RunFailedError, match=grids):
        host.run(FOX, after=host.adding(COUNT, capture=larger)).checked()
    flow = Workflow()
    model = host.load(flow)
    a, b = host.capture(flow, model, FOX, COUNT), host.capture(flow, model, MOON, COUNT, **larger)
    flow.add("TestShow", value=flow.add("WanVideoLatentInjector", model=model, main_latent=a, injection_latent=b,
                                        injection_strength=1.0, block_activations="3"))  # fmt: skip
    with pytest.raises(RunFailedError, match=r"2 x 4 x 4 .* 2 x 6 x 6 .* set reduce to mean"):
        host.server.run(flow).checked()


def test_latents_of_another_model_are_told(host: Host):
    warning = "captured from another model, or with other LoRA or patches"

    def log(load):
        def after(flow: Workflow, model):
            captured_from = load(flow)
            a, b = (host.capture(flow, captured_from, prompt, COUNT) for prompt in (FOX, MOON))
            return flow.add("WanVideoLatentInjector", model=model, main_latent=a, injection_latent=b,
                            injection_strength=1.0, block_activations="3", start_percent=0.0,
                            end_percent=next(ends))  # fmt: skip

        return host.run(FOX, edit(SHARP), after=after).checked().log

    ends = (1 - i / 1000 for i in itertools.count())
    assert warning not in log(host.load)
    host.server.free()
    assert warning not in log(host.load)
    for name, load in loaders(host).items():
        assert warning in log(load), name


def test_the_viewer_and_the_log_describe_it(host: Host):
    flow = Workflow()
    model = host.adding(COUNT, preserve_norm=True, log_level="verbose")(flow, host.load(flow))
    view = flow.add("WanVideoBlockActivationViewer", model=model, show_visual=True)
    shown = flow.add("TestShow", value=view)
    latents = host.sample(flow, model, host.embeds(flow, FOX, nonce=next(nonces)), BLURRY, 3.0, 1)
    flow.add("TestDigest", samples=latents)
    result = host.server.run(flow).checked()
    text = result.output(shown[0], "text")[0]
    assert f"1 of {host.blocks} blocks active" in text
    assert "addition (norms kept) to the hidden state, branch cond" in text
    assert "adds a difference captured after block 3, sigma 1.000, grid 2 x 4 x 4" in text
    assert "addition (norms kept) of a difference captured after block 3" in result.log
    assert re.search(r"block 3: hidden state changed by 0\.\d+ \(relative L2\), norm .* before, .* after", result.log)


def test_vace_models_can_be_added_to(host: Host):
    model = vace(host)
    plain = host.digest(FOX, **model)
    if host.name == "wrapper":
        capture = {"image_embeds": model["image_embeds"]}
        assert host.digest(FOX, **model, after=host.adding(COUNT, capture=capture)) != plain
        assert host.digest(FOX, **model, after=host.adding(COUNT, other=FOX, capture=capture)) == plain
    else:
        assert host.digest(FOX, **model, after=host.adding(COUNT, other=FOX)) == plain
        assert host.digest(FOX, **model, after=host.adding(COUNT)) != plain


def test_a_latent_batch(native: NativeHost):
    one = native.digest(after=native.adding(COUNT), batch_size=2)
    assert one != native.reference(batch_size=2)
    assert native.digest(after=native.adding(COUNT, other=FOX), batch_size=2) == native.reference(batch_size=2)


def block_swap(host: WrapperHost):
    def load(flow: Workflow):
        swap = flow.add("WanVideoBlockSwap", blocks_to_swap=20, offload_img_emb=False, offload_txt_emb=True,
                        prefetch_blocks=1, vace_blocks_to_swap=0)  # fmt: skip
        return host.load(flow, block_swap_args=swap)

    return load


@pytest.mark.parametrize("blocks", [COUNT, 25], ids=["a block that stays", "a swapped block"])
def test_block_swap_changes_nothing(wrapper: WrapperHost, blocks):
    load = block_swap(wrapper)
    bare = captured(wrapper, blocks=blocks)
    plain = wrapper.digest(load=load)
    before = wrapper.leftovers(load, places=True)
    assert before["swap"] == [19, True]
    assert captured(wrapper, blocks=blocks, load=load)["sha256"] == bare["sha256"]
    assert wrapper.leftovers(load, places=True) == before
    assert wrapper.digest(load=load) == plain == wrapper.reference()
    assert wrapper.digest(load=load, after=wrapper.adding(blocks)) == wrapper.digest(after=wrapper.adding(blocks))

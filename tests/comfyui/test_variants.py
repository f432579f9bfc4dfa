"""Models that read more than text: I2V with CLIP image tokens, VACE with control blocks."""

from __future__ import annotations

import pytest

from . import tiny_models
from .workflows import FOX, FRAMES, MOON, SHARP, SIZE, Host, Link, Workflow, edit, output

IMAGE = {"width": 64, "height": 64, "batch_size": 1, "color": 0x3366AA}


def image_video(flow: Workflow, seed: int = 0) -> Link:
    """The wrapper's I2V inputs: encoded start image and CLIP image tokens."""
    vae = flow.add("WanVideoVAELoader", model_name=tiny_models.VAE, precision="fp32")
    return flow.add(
        "WanVideoImageToVideoEncode",
        num_frames=FRAMES,
        noise_aug_strength=0.0,
        start_latent_strength=1.0,
        end_latent_strength=1.0,
        force_offload=True,
        vae=vae,
        start_image=flow.add("EmptyImage", **IMAGE),
        clip_embeds=flow.add("TestClipImage", seed=seed),
        fun_or_fl2v_model=False,
        **SIZE,
    )


def image_condition(flow: Workflow, positive: Link, negative: Link, seed: int = 0) -> tuple[Link, Link, Link]:
    """The same on native nodes: both conditionings and the latents."""
    node = flow.add(
        "WanImageToVideo",
        positive=positive,
        negative=negative,
        vae=flow.add("VAELoader", vae_name=tiny_models.VAE),
        length=FRAMES,
        batch_size=1,
        start_image=flow.add("EmptyImage", **IMAGE),
        clip_vision_output=output(flow.add("TestClipImage", seed=seed), 1),
        **SIZE,
    )
    return node, output(node, 1), output(node, 2)


def control_video(flow: Workflow) -> Link:
    vae = flow.add("WanVideoVAELoader", model_name=tiny_models.VAE, precision="fp32")
    return flow.add("WanVideoVACEEncode", vae=vae, num_frames=FRAMES, strength=1.0, vace_start_percent=0.0,
                    vace_end_percent=1.0, input_frames=flow.add("EmptyImage", **{**IMAGE, "batch_size": FRAMES}),
                    **SIZE)  # fmt: skip


def control_condition(flow: Workflow, positive: Link, negative: Link) -> tuple[Link, Link, Link]:
    node = flow.add(
        "WanVaceToVideo",
        positive=positive,
        negative=negative,
        vae=flow.add("VAELoader", vae_name=tiny_models.VAE),
        length=FRAMES,
        batch_size=1,
        strength=1.0,
        control_video=flow.add("EmptyImage", **{**IMAGE, "batch_size": FRAMES}),
        **SIZE,
    )
    return node, output(node, 1), output(node, 2)


def i2v(host: Host, seed: int = 0) -> dict:
    """Arguments of `digest` for the I2V model."""
    if host.name == "wrapper":
        load = lambda flow: host.load(flow, checkpoint=tiny_models.WRAPPER_I2V)  # noqa: E731
        return {"load": load, "steps": 1, "image_embeds": lambda flow: image_video(flow, seed)}
    load = lambda flow: host.load(flow, checkpoint=tiny_models.NATIVE_I2V)  # noqa: E731
    return {"load": load, "steps": 1, "condition": lambda *links: image_condition(*links, seed)}


def vace(host: Host) -> dict:
    """Arguments of `digest` for the VACE model."""
    if host.name == "wrapper":
        load = lambda flow: host.load(flow, checkpoint=tiny_models.WRAPPER_VACE)  # noqa: E731
        return {"load": load, "steps": 1, "image_embeds": control_video}
    load = lambda flow: host.load(flow, checkpoint=tiny_models.NATIVE_VACE)  # noqa: E731
    return {"load": load, "steps": 1, "condition": control_condition}


@pytest.mark.parametrize("variant", [i2v, vace])
class TestVariants:
    def test_every_block_at_full_strength_equals_the_injected_prompt(self, host: Host, variant):
        """Bit-identical only if image tokens, and VACE's control blocks, read what they should."""
        model, name = variant(host), variant.__name__
        injected = host.digest(FOX, edit(), **model)
        assert injected == host.reference(MOON, name=name, **model)
        assert injected != host.reference(FOX, name=name, **model)

    def test_strength_zero_and_self_injection_change_nothing(self, host: Host, variant):
        model = variant(host)
        plain = host.reference(FOX, name=variant.__name__, **model)
        assert host.digest(FOX, edit(injection_strength=0.0), **model) == plain
        assert host.digest(FOX, edit(FOX, injection_strength=0.5), **model) == plain

    def test_the_uncond_branch_at_full_strength_equals_another_negative_prompt(self, host: Host, variant):
        model = variant(host)
        assert host.digest(FOX, edit(SHARP, branch="uncond"), **model) == host.digest(FOX, negative=SHARP, **model)

    def test_nothing_remains_after_a_run(self, host: Host, variant):
        model = variant(host)
        plain = host.reference(FOX, name=variant.__name__, **model)
        assert host.digest(FOX, edit(block_activations="even"), **model) != plain
        left = host.leftovers(model["load"])
        assert left["hooks"] == left["forwards"] == []
        assert host.digest(FOX, **model) == plain


def test_image_tokens_matter_in_these_models(host: Host):
    """Otherwise the tests above could not see a fault."""
    assert host.digest(FOX, **i2v(host, seed=1)) != host.reference(FOX, name="i2v", **i2v(host))


def test_editing_one_main_block_also_edits_the_control_block_that_feeds_it(host: Host):
    """Block 0 has a control block and block 1 has none: both selections act, and differ."""
    model = vace(host)
    results = [host.digest(FOX, edit(block_activations=b), **model) for b in ("0", "1")]
    assert len({*results, host.reference(FOX, name="vace", **model)}) == 3


def test_block_swap_of_control_blocks_changes_nothing(wrapper: Host):
    def load(flow: Workflow):
        swap = flow.add("WanVideoBlockSwap", blocks_to_swap=20, offload_img_emb=True, offload_txt_emb=True,
                        prefetch_blocks=0, vace_blocks_to_swap=8)  # fmt: skip
        return wrapper.load(flow, checkpoint=tiny_models.WRAPPER_VACE, block_swap_args=swap)

    half = edit(injection_strength=0.5)
    swapped = wrapper.digest(FOX, half, **{**vace(wrapper), "load": load})
    assert swapped == wrapper.reference(FOX, half, name="vace", **vace(wrapper))

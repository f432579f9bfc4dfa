"""Hidden states of ComfyUI-WanVideoWrapper's models, through its own sampler with one step."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..capture import Capture, HiddenStates
from ..edit import KEY
from ..grid import CHANNELS_5B, Size
from ..wan_model import discover
from .wan_video_wrapper import NAME, SAMPLERS, compile_stance, sampler_classes

_IMAGE_CHANNELS = 36  # inputs of an image-to-video model: noise, image and mask


def capture(
    model: Any,
    text_embeds: Any,
    count: int,
    every: bool = False,
    *,
    size: Size,
    seed: int = 0,
    sigma: float = 1.0,
    latent: Any = None,
    image_embeds: Any = None,
    after_block: Callable[[int], None] | None = None,
    **known: Any,
) -> HiddenStates:
    """Run the first `count` blocks on a prompt, through WanVideoSampler with one step. The model's edits are left out.

    Args:
        model: a clone of a WANVIDEOMODEL, without edits.
        text_embeds: WANVIDEOTEXTEMBEDS.
        count, every, after_block: see `Capture`.
        size: of the video, where neither `latent` nor `image_embeds` says it.
        seed: seed of the noise.
        sigma: noise level, above 0 to 1, in steps of 0.001.
        latent: LATENT to which the noise is added.
        image_embeds: WANVIDIMAGE_EMBEDS, as the sampler gets them.
        known: see `Capture.result`.

    Raises:
        ValueError: the model needs image_embeds, this version of the wrapper cannot add noise to a latent, or
            `latent` and `image_embeds` are of a kind or size that does not fit.
    """
    sigmas = torch.tensor([sigma, 0.0])
    sampler, arguments = sampler_call(model, text_embeds, sigmas, size, seed, latent, image_embeds)
    running = Capture(discover(model.model.diffusion_model), count, every, after_block)
    try:
        with compile_stance(model), running:
            sampler().process(**arguments)
    finally:
        offload(model, sampler)
    return running.result(seed=seed, **known)


def sampler_call(
    model: Any, text_embeds: Any, sigmas: torch.Tensor, size: Size, seed: int, latent: Any, image_embeds: Any
) -> tuple[Any, dict[str, Any]]:
    """WanVideoSampler of the model's package, and what its `process` is called with for a run without guidance.

    Args and errors as for `capture`; sigmas: falling noise levels, one per step, and 0.
    """
    transformer = model.model.diffusion_model
    sampler = sampler_classes(transformer).get(SAMPLERS[0])
    if sampler is None:
        raise RuntimeError(f"No {SAMPLERS[0]} was found beside {type(transformer).__name__}. Update {NAME}.")
    # The sampler takes shapes at an eighth of the video's size and halves them for the 5B model.
    scale = 2 if getattr(transformer, "out_dim", 16) == CHANNELS_5B else 1
    check_inputs(latent, image_embeds, scale)
    more: dict[str, Any] = {"samples": None}
    if latent is not None:
        more = {"samples": {"samples": latent["samples"]}, "add_noise_to_samples": True}
        if "add_noise_to_samples" not in inspect.signature(sampler.process).parameters:
            raise ValueError(
                f"latent: this version of {NAME} cannot add noise to a latent. Update it, or disconnect it."
            )
    if image_embeds is None:
        if getattr(transformer, "in_dim", None) == _IMAGE_CHANNELS:
            raise ValueError("This is an image-to-video model. Connect the sampler's image_embeds.")
        channels = CHANNELS_5B if scale == 2 else 16
        frames, height, width = latent["samples"].shape[-3:] if latent is not None else size.latent(channels)
        shape = (16, frames, height * scale, width * scale)
        image_embeds = {"target_shape": shape, "num_frames": 4 * (frames - 1) + 1}
    return sampler, {
        "model": model,
        "image_embeds": {**image_embeds},
        "text_embeds": {k: v for k, v in text_embeds.items() if k != KEY},
        "shift": 1.0,
        "steps": len(sigmas) - 1,
        "cfg": 1.0,
        "seed": seed,
        "scheduler": "unipc",
        "riflex_freq_index": 0,
        "force_offload": True,
        "rope_function": "comfy",
        "sigmas": sigmas,
        **more,
    }


def check_inputs(latent: Any, image_embeds: Mapping[str, Any] | None, scale: int) -> None:
    """What the sampler would stumble over, or run on without a word.

    Args:
        scale: the sampler's shapes over the latents': 2 for Wan 2.2 5B, else 1.

    Raises:
        ValueError: with what to connect instead.
    """
    lynx = (image_embeds or {}).get("lynx_embeds") or {}
    if lynx.get("ref_latent") is not None:
        raise ValueError(
            "image_embeds: the reference of Lynx has a pass of its own before the first step, which would be captured "
            "instead. Capture without the reference image."
        )
    if latent is None:
        return
    shape, channels = list(latent["samples"].shape), CHANNELS_5B if scale == 2 else 16
    if len(shape) != 5 or shape[:2] != [1, channels]:
        raise ValueError(
            f"latent is {shape}, but the model takes [1, {channels}, frames, height, width]: one video, encoded with "
            "the VAE that belongs to the model. Connect the latent that the sampler gets, or disconnect it."
        )
    target = (image_embeds or {}).get("target_shape")
    size = None if target is None else [target[2] // scale, target[3] // scale]
    if size is not None and shape[3:] != size:
        raise ValueError(
            f"latent is {shape[3]} x {shape[4]} (height x width), but image_embeds is for {size[0]} x {size[1]}. "
            "Make both at the video's size, or disconnect one."
        )


def offload(model: Any, sampler: type) -> None:
    """What the sampler does at its end with force_offload, for versions that do not when it ends early.

    Not for weights on `meta`, which cannot be moved: loading failed, or the sampler has offloaded them itself.
    """
    transformer, namespace = model.model.diffusion_model, vars(sys.modules[sampler.__module__])
    if any(parameter.is_meta for parameter in transformer.parameters()):
        return
    try:
        own_way = model.model["auto_cpu_offload"]
    except KeyError:
        own_way = False
    if own_way:
        return
    if "offload_transformer" in namespace:
        namespace["offload_transformer"](transformer)
    elif "offload_device" in namespace:
        transformer.to(namespace["offload_device"])

"""Hidden states of ComfyUI's own Wan models, through ComfyUI's sampling with one step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from ..capture import Capture, HiddenStates
from ..edit import KEY
from ..grid import Size
from ..wan_model import discover
from .comfy_native import APPLY_MODEL, COMPILE_SETTING
from .compile import eager, is_compiled

CAPTURE_KEY = KEY + "_capture"


def without_windows(model: Any) -> Any:
    """The clone `model` without ComfyUI's context windows, so that one call sees the whole video."""
    model.model_options.pop("context_handler", None)
    for kind in ("prepare_sampling", "sampler_sample"):
        model.remove_wrappers_with_key(kind, f"ContextWindows_{kind}")
    return model


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
    """Run the first `count` blocks on a prompt, through ComfyUI's sampling with one step.

    The step's model call hands back zeros where it is cut, as do later ones, and the sampler then ends as it always
    does. Edits and context windows are left out.

    Args:
        model: a clone of a MODEL, without edits; it is changed.
        text_embeds: CONDITIONING of one prompt, with the images of image-to-video models in it.
        count, every, after_block: see `Capture`.
        size: of the video, without `latent`.
        seed: seed of the noise.
        sigma: noise level, above 0 to 1.
        latent: LATENT to which the noise is added, with its noise_mask; one of zeros stands for no video.
        image_embeds: None; the wrapper's.
        known: see `Capture.result`.

    Raises:
        ValueError: image_embeds, or several prompts.
    """
    clone = without_windows(model)
    running = Capture(discover(clone.model.diffusion_model), count, every, after_block)

    def stop_here(executor: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        with eager(COMPILE_SETTING, whole=is_compiled(executor.class_obj.diffusion_model)):
            return running.stoppable(lambda: executor(x, *args, **kwargs), x)

    clone.add_wrapper_with_key(APPLY_MODEL, CAPTURE_KEY, stop_here)
    with running:
        sample(clone, text_embeds, torch.tensor([sigma, 0.0]), size, seed, latent, image_embeds)
    return running.result(seed=seed, **known)


def sample(
    clone: Any, text_embeds: Any, sigmas: torch.Tensor, size: Size, seed: int, latent: Any, image_embeds: Any
) -> torch.Tensor:
    """Latents of one prompt by Euler, without guidance. Arguments and errors as for `capture`.

    Args:
        sigmas: falling noise levels, one per step, and 0.
    """
    import comfy.sample
    import comfy.samplers

    if image_embeds is not None:
        raise ValueError(
            "image_embeds goes with a WANVIDEOMODEL. A native MODEL takes its images in the CONDITIONING "
            "(WanImageToVideo); connect that to text_embeds, and its latent to latent where there is such an input."
        )
    if len(text_embeds) != 1:
        raise ValueError(f"text_embeds combines {len(text_embeds)} prompts. Take one at a time.")
    given = dict(latent or {})
    samples = given.get("samples")
    if samples is None:
        channels = clone.get_model_object("latent_format").latent_channels
        samples = torch.zeros(1, channels, *size.latent(channels))
    fix = comfy.sample.fix_empty_latent_channels
    accepted = inspect.signature(fix).parameters  # since 0.12 samplers bring an empty latent to the model's size
    scales = {k: given.get(k) for k in ("downscale_ratio_spacial", "downscale_ratio_temporal") if k in accepted}
    samples = fix(clone, samples, **scales)
    noise = comfy.sample.prepare_noise(samples, seed, given.get("batch_index"))
    euler, mask = comfy.samplers.sampler_object("euler"), given.get("noise_mask")
    result: torch.Tensor = comfy.sample.sample_custom(
        clone, noise, 1.0, euler, sigmas, text_embeds, [], samples, noise_mask=mask, disable_pbar=True, seed=seed
    )
    return result

"""A prompt sampled by ComfyUI's hosts outside of a user's sampler, at given noise levels and without guidance.

What is measured in such a run hooks its model calls; see probing/. Each host samples in its own way, so devices,
offloading, quantisation and images are handled as in a user's run.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..edit import KEY, EditStack
from ..grid import Size
from ..prompts import Rows
from ..runtime import Run
from ..wan_model import WanModel, discover
from . import comfy_native, host_of, native_capture, wan_video_wrapper, wrapper_capture
from .compile import eager, is_compiled

PLAIN_KEY = KEY + "_plain_run"


def sample_plain(
    model: Any,
    text_embeds: Any,
    sigmas: Sequence[float],
    *,
    size: Size,
    seed: int = 0,
    image_embeds: Any = None,
    stack: EditStack | None = None,
    inside: bool = False,
) -> torch.Tensor:
    """Latents of one prompt, sampled through its host: Euler natively, UniPC in the wrapper.

    Edits and context windows on the model are left out.

    Args:
        model: MODEL or WANVIDEOMODEL.
        text_embeds: CONDITIONING or WANVIDEOTEXTEMBEDS of one prompt.
        sigmas: falling noise levels, one per step, and 0.
        size: of the video, where image_embeds does not say it.
        seed: of the noise.
        image_embeds: WANVIDIMAGE_EMBEDS of the wrapper.
        stack: edits that act in it, in place of the model's own.
        inside: hooks inside of blocks are to be reached, so compiled blocks run eagerly.

    Raises:
        ValueError: inputs that do not fit the host.
    """
    native = host_of(model) is comfy_native
    sample = _sample_native if native else _sample_wrapper
    with torch.inference_mode():
        return sample(model, text_embeds, torch.tensor(sigmas), size, seed, image_embeds, stack, inside)


def run_of(model: Any, stack: EditStack, target: WanModel) -> Run:
    """A run of a stack on a host's transformer, as in the host's own sampling."""
    if host_of(model) is comfy_native:
        return Run(stack, target)
    return _WrapperRun(
        stack,
        target,
        text_length=wan_video_wrapper.MAX_PROMPT_TOKENS,
        after_projection=wan_video_wrapper._zero_padding if getattr(target.module, "is_longcat", False) else None,
    )


class _WrapperRun(Run):
    def __enter__(self) -> Run:
        super().__enter__()
        wan_video_wrapper._hook_control_blocks(self, self.model.module)
        return self


class HostCall:
    """What a call of a host's transformer says.

    Args:
        target: the transformer.
        args, kwargs: of the call.
    """

    def __init__(self, target: WanModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = inspect.signature(type(target.module).forward).bind_partial(target.module, *args, **kwargs).arguments
        self.sigma = float(torch.as_tensor(call.get("t", call.get("timestep"))).max()) / 1000
        self.grid = target.grid(call["x"])
        text = call["context"]
        self.rows: Rows = {"cond": [(row, row) for row in range(len(text))]}
        self.prompt_count = len(text)


def transformer_of(model: Any) -> WanModel:
    """The transformer that `sample_plain` will call."""
    return discover(model.model.diffusion_model)


def _sample_native(
    model: Any,
    text_embeds: Any,
    sigmas: torch.Tensor,
    size: Size,
    seed: int,
    image_embeds: Any,
    stack: EditStack | None,
    inside: bool,
) -> torch.Tensor:
    clone = native_capture.without_windows(comfy_native.without_stack(model))
    if stack is not None:
        clone = comfy_native.with_stack(clone, stack)

    def uncompiled(executor: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        transformer = executor.class_obj.diffusion_model
        compiled = inside and any(map(is_compiled, transformer.blocks))
        with eager(comfy_native.COMPILE_SETTING, whole=is_compiled(transformer), inside=compiled):
            return executor(x, *args, **kwargs)

    clone.add_wrapper_with_key(comfy_native.APPLY_MODEL, PLAIN_KEY, uncompiled)
    image = text_embeds[0][1].get("concat_latent_image")  # of image-to-video models: the video has its size
    latent = None if image is None else {"samples": torch.zeros_like(image[:1])}
    return native_capture.sample(clone, text_embeds, sigmas, size, seed, latent, image_embeds)


def _sample_wrapper(
    model: Any,
    text_embeds: Any,
    sigmas: torch.Tensor,
    size: Size,
    seed: int,
    image_embeds: Any,
    stack: EditStack | None,
    inside: bool,
) -> torch.Tensor:
    clone = wan_video_wrapper.without_stack(model)
    if stack is not None:
        clone = wan_video_wrapper.with_stack(clone, stack)
    sampler, arguments = wrapper_capture.sampler_call(clone, text_embeds, sigmas, size, seed, None, image_embeds)
    with _offloaded(model, sampler), wan_video_wrapper.compile_stance(model, inside):
        latents: torch.Tensor = sampler().process(**arguments)[0]["samples"]
    return latents


@contextlib.contextmanager
def _offloaded(model: Any, sampler: Any) -> Iterator[None]:
    """After an error or an interrupt the weights go where the sampler's own end would have put them."""
    try:
        yield
    except BaseException:
        wrapper_capture.offload(model, sampler)
        raise

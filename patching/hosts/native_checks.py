"""What can be wrong with edits in a run of ComfyUI's own Wan models, found before sampling starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from ..checks import check_frames, check_stack, warn_about_cache
from ..edit import EditStack
from ..sources import SecondStream
from ..wan_model import WanModel, discover

log = logging.getLogger("wanvideo_activation_editor")


def check(stack: EditStack, guider: Any, noise: torch.Tensor, sampler: Any) -> None:
    """Everything that can be wrong before the model is loaded.

    Args:
        stack: the edits.
        guider: ComfyUI's CFGGuider of this sampling.
        noise: latents [batch, channels, frames, height, width].
        sampler: the sampler object; None when it is not known.

    Raises:
        ValueError: an edit that the model, the conditionings or the sampler cannot have.
    """
    model = discover(guider.model_patcher.model.diffusion_model)
    options = guider.model_options.get("transformer_options") or {}
    _check_conditionings(stack, guider, model)
    acting = stack.acting(model.block_count)
    _check_windows(acting, guider.model_options.get("context_handler"), noise)
    if getattr(getattr(sampler, "sampler_function", None), "__name__", "") == "sample_ar_video":
        _check_causal(acting)
    if any(isinstance(edit.source, SecondStream) for edit in acting):
        _check_between_blocks(model, guider.conds, options)
    if "easycache" in options:  # the key of both EasyCache and LazyCache
        warn_about_cache(acting)


def _check_conditionings(stack: EditStack, guider: Any, model: WanModel) -> None:
    """Each edit against the conditionings of the branches that it edits."""
    for edit in stack:
        for name, branch in (("positive", "cond"), ("negative", "uncond")):
            conds = guider.conds.get(name) or ()
            if edit.branch not in (branch, "both") or not conds:
                continue
            tokens = [c["cross_attn"].shape[1] for c in conds if c.get("cross_attn") is not None]
            prompts = sum(len(c["cross_attn"]) if c.get("cross_attn") is not None else 1 for c in conds)
            check_stack((edit,), model, prompt_count=prompts, context_tokens=min(tokens, default=None))
            given = set(edit.text.given_lengths) if edit.text is not None else set()
            if tokens and given and given != set(tokens):
                log.warning(
                    "%s: the injected prompt has %s rows and the context that it goes into %s, padding included. It is "
                    "filled up with zeros, which Wan reads too, so the result differs a little from the injected "
                    "prompt's own. Encode both with the same node and settings for the same number of rows.",
                    edit.name,
                    ", ".join(map(str, sorted(given))),
                    ", ".join(map(str, sorted(set(tokens)))),
                )


def _check_windows(stack: EditStack, handler: Any, noise: torch.Tensor) -> None:
    """With context windows over frames each model call sees `context_length` latent frames.

    Windows after the first have one frame more, an anchor, where the handler adds it (`causal_window_fix`).

    Raises:
        ValueError: a captured difference is of another length.
    """
    length = getattr(handler, "context_length", None)
    if length is None or getattr(handler, "dim", 2) != 2 or noise.shape[2] <= length:
        return
    for edit in stack:
        if getattr(handler, "causal_window_fix", False) and edit.captured is not None and edit.captured.grid:
            raise ValueError(
                f"{edit.name}: the context window samples {length} latent frames at first and {length + 1} afterwards "
                "(causal_window_fix), so hidden states captured token by token cannot fit all windows. Set reduce to "
                "mean, use Context Windows (Manual) with causal_window_fix off, or remove the context windows node."
            )
        check_frames(edit, length, "the context window", "remove the context windows node")


def _check_causal(stack: EditStack) -> None:
    """SamplerARVideo keeps keys and values of the first call of each part for the calls after it.

    Raises:
        ValueError: an edit that needs every call to read its text anew.
    """
    for edit in stack:
        what = None
        if not edit.window.is_full:
            what = f"the window {edit.window.start:g}-{edit.window.end:g}"
        elif edit.is_timed:
            what = f"the schedule {edit.schedule}"
        elif edit.mask is not None:
            what = "a mask"
        elif isinstance(edit.source, SecondStream):
            what = "injection_mode hidden_states or both"
        if what is not None:
            raise ValueError(
                f"{edit.name}: {what} cannot be combined with SamplerARVideo, which keeps the keys and values of a "
                "part's first model call. Use injection_mode context over the whole run (0 to 1), or another sampler."
            )


def _check_between_blocks(model: WanModel, conds: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """A second stream runs the blocks alone, so what the host adds between them would be missing from it.

    Raises:
        ValueError: with what has to be disconnected.
    """
    faces = hasattr(model.module, "face_adapter") and any(
        cond.get("face_video_pixels") is not None for branch in conds.values() for cond in branch or ()
    )
    found = ["the face video of Wan-Animate"] if faces else []
    found += [type(patch).__name__ for patch in (options.get("patches") or {}).get("double_block") or ()]
    if found:
        raise ValueError(
            f"injection_mode hidden_states and both cannot be combined with {', '.join(dict.fromkeys(found))}, which "
            f"acts between the blocks of {model.name}. Disconnect it, or use injection_mode context."
        )

"""What can be wrong with edits in a run of ComfyUI-WanVideoWrapper, found before sampling starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ...embeddings.text_embeds import MAX_TOKENS, EmbedsError, TextEmbeds, is_wrapper_embeds, read_text_embeds
from ..checks import check_frames, check_stack, warn_about_cache
from ..edit import Edit, EditStack
from ..messages import skipped_message
from ..wan_model import WanModel

log = logging.getLogger("wanvideo_activation_editor")


def check(target: WanModel, stack: EditStack, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Everything that can be wrong before sampling starts; returns the sampler's text embeds."""
    embeds: Any = arguments.get("text_embeds")
    if not is_wrapper_embeds(embeds):
        raise EmbedsError(
            "The model carries WanVideo Activation Editor edits, but the sampler has no text_embeds. "
            "Connect the editor's text_embeds output to the sampler; with Latent Injector alone, the main prompt."
        )
    main = read_text_embeds(embeds, "text_embeds of the sampler")
    check_stack(stack, target, prompt_count=len(main.prompts), context_tokens=MAX_TOKENS)
    windows = arguments.get("context_options")  # each model call sees `context_frames` frames of a longer video
    acting = stack.acting(target.block_count)
    for edit in acting:
        if edit.site == "hidden":
            _check_skipped(edit, target, arguments.get("slg_args"))
        if windows is not None and windows["context_frames"] <= arguments["image_embeds"].get("num_frames", 0):
            frames = (windows["context_frames"] - 1) // 4 + 1
            check_frames(edit, frames, "context_options", "disconnect context_options")
        if edit.text is None:
            continue
        check_echoshot(main, edit.text, edit.name)
        edited_controls = [i for _, i in target.control_blocks if edit.strengths.resolve(target.block_count)[i]]
        if edited_controls and len(main.prompts) > 1:
            raise ValueError(
                f"{edit.label or 'Edit'}: a VACE model with several prompts ('|') cannot be edited. Use one prompt."
            )
    if arguments.get("cache_args") or arguments.get("teacache_args"):
        warn_about_cache(acting)
    if getattr(target.module, "audio_model", None) is not None:
        log.warning("Ovi: the video blocks are edited; the audio blocks keep the main prompt.")
    return dict(embeds)


def _check_skipped(edit: Edit, target: WanModel, slg_args: Mapping[str, Any] | None) -> None:
    """Skip-layer guidance leaves blocks out of the negative prompt's calls, so their hidden state cannot be edited.

    Raises:
        ValueError: an edit of that branch chooses such a block.
    """
    skipped = set((slg_args or {}).get("blocks") or ()) & set(edit.strengths.active_blocks(target.block_count))
    if skipped and edit.branch != "cond":
        raise ValueError(skipped_message(edit.name, skipped, "slg_args (skip-layer guidance)"))


# Arguments of a model call whose effect comes between blocks, in place, with the wrapper's node that sets each.
_BETWEEN_BLOCKS = {
    "uni3c_data": "Uni3C",
    "controlnet": "WanVideo ControlNet",
    "dual_control_input": "LongVie control",
    "flashvsr_LQ_latent": "FlashVSR",
    "s2v_audio_input": "S2V audio",
    "wananim_face_pixel_values": "WanAnimate face",
    "one_to_all_input": "One-to-All",
    "standin_input": "Stand-In",
    "x_ovi": "Ovi",
    "pcd_data": "Uni3C",
}


def check_between_blocks(call: Mapping[str, Any]) -> None:
    """A second stream runs the blocks alone, so what the wrapper adds between them would be missing from it.

    Raises:
        ValueError: with what has to be disconnected.
    """
    found = sorted({name for argument, name in _BETWEEN_BLOCKS.items() if call.get(argument) is not None})
    if found:
        raise ValueError(
            f"injection_mode hidden_states and both cannot be combined with {', '.join(found)}, which acts between the "
            "blocks. Disconnect it, or use injection_mode context."
        )


def check_echoshot(main: TextEmbeds, injected: TextEmbeds, edit: str) -> None:
    """EchoShot ties shots to token counts: an injected prompt must have the same counts.

    Raises:
        ValueError: the counts differ.
    """
    wanted, counts = list(main.token_counts), list(injected.token_counts)
    given = counts * len(wanted) if len(counts) == 1 else counts
    if main.echoshot and given != wanted:
        raise ValueError(
            f"{edit}: the prompt uses EchoShot, which ties shots to token counts {wanted}, "
            f"but the injected prompt has {counts}. Use prompts of equal token counts, or one prompt without [1]."
        )

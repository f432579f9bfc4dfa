"""The node that lets chosen blocks see a second image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io

from ..embeddings.text_embeds import TextEmbeds
from ..patching.edit import Edit
from ..patching.sources import Image
from ..patching.wan_model import WanModel
from .editor import append_edits, choose_blocks
from .gains import timed, timing_inputs
from .shown import model_told
from .sockets import (
    CATEGORY,
    activations_input,
    check_texts,
    errors_named,
    node_label,
    passed_on_sockets,
    shown_schema,
    strength_input,
)

WanVideoClipEmbeds = io.Custom("WANVIDIMAGE_CLIPEMBEDS")


class WanVideoImageInjection(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        passed_on = passed_on_sockets()
        return shown_schema(
            node_id="WanVideoImageInjection",
            display_name="WanVideo Image Injection",
            category=f"{CATEGORY}/Injection",
            description="Lets chosen transformer blocks of an image-to-video model see a second image.",
            inputs=[
                *passed_on.inputs,
                io.MultiType.Input(
                    "clip_vision_output",
                    [io.ClipVisionOutput, WanVideoClipEmbeds],
                    tooltip="The second image, from CLIP Vision Encode or WanVideo ClipVision Encode.",
                ),
                strength_input("0 keeps the first image, 1 replaces it in the chosen blocks. Multiplies strengths."),
                activations_input("all"),
                *timing_inputs(),
            ],
            outputs=[*passed_on.outputs],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, block_activations: Any = None, schedule: Any = None) -> bool | str:
        return check_texts(block_activations, schedule)

    @classmethod
    def execute(
        cls,
        model: Any,
        text_embeds: Any,
        clip_vision_output: Any,
        injection_strength: float,
        block_activations: str,
        block_strengths: Any = None,
        **timing: Any,
    ) -> io.NodeOutput:
        name = "WanVideo Image Injection"
        with errors_named(name):
            strengths = choose_blocks(block_activations, block_strengths) * injection_strength
            label = node_label(cls, name)
            options = timed(label, **timing)

            def make(_: TextEmbeds, __: WanModel) -> list[Edit]:
                return [Edit(Image(read_clip_vision(clip_vision_output)), strengths, "image_tokens", **options)]

            edited = append_edits(label, model, text_embeds, strengths, make)
            return io.NodeOutput(*edited, ui=model_told(model, strengths))


def read_clip_vision(value: Any) -> Any:
    """The tokens of CLIP_VISION_OUTPUT or of the wrapper's WANVIDIMAGE_CLIPEMBEDS.

    Raises:
        TypeError: it is neither.
    """
    found = value.get("clip_embeds") if isinstance(value, Mapping) else None
    found = getattr(value, "penultimate_hidden_states", found)
    if found is None:
        raise TypeError(
            "clip_vision_output: expected CLIP_VISION_OUTPUT (CLIP Vision Encode) or WANVIDIMAGE_CLIPEMBEDS (WanVideo "
            f"ClipVision Encode), got {type(value).__name__}."
        )
    return found


NODES = [WanVideoImageInjection]

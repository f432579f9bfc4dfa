"""The node that finds strengths: WanVideo Calibrate Strength."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..embeddings.text_embeds import read_text_embeds
from ..patching.checks import check_stack
from ..patching.edit import Edit
from ..patching.grid import Size
from ..patching.hosts import host_of
from ..patching.plot import as_comfy_image
from ..patching.selection import parse_selection
from ..patching.sources import Prompt, check_width
from ..vectors.applying import concept_of, make_operation, steering_edit
from ..vectors.hosted import hosted_calibration
from .control_vector_apply import OPERATIONS, chosen_blocks
from .control_vectors import FAMILY, other_model_input, read_vector, vector_input
from .probing_inputs import blocks_input, progress, size_inputs
from .sockets import check_texts, embeds_input, errors_named, model_input, shown_schema


class WanVideoCalibrateStrength(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return shown_schema(
            node_id="WanVideoCalibrateStrength",
            display_name="WanVideo Calibrate Strength",
            category=FAMILY,
            description="Finds strengths that change the video by evenly spaced amounts, and draws the response.",
            inputs=[
                model_input("The model, as the sampler gets it. Edits on it are left out."),
                embeds_input("text_embeds", "The prompt that is sampled."),
                vector_input("control_vector", "What is calibrated; or connect injection_embeds.", optional=True),
                embeds_input("injection_embeds", "A second prompt, whose strength is calibrated.", optional=True),
                io.Combo.Input(
                    "operation",
                    options=list(OPERATIONS),
                    default="add",
                    tooltip="What is done along the control vector. A second prompt is blended in.",
                ),
                blocks_input(),
                io.Int.Input("levels", default=5, min=2, max=9, tooltip="Number of strengths."),
                io.Float.Input(
                    "limit",
                    default=0.5,
                    min=0.05,
                    max=2.0,
                    step=0.01,
                    tooltip="Change at the last of them: relative L2 distance of finished latents from the plain ones.",
                ),
                io.Int.Input("steps", default=8, min=1, max=100, optional=True, tooltip="Steps of each plain run."),
                io.Int.Input("seeds", default=2, min=1, max=32, optional=True, tooltip="Noises per strength."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 33,
                    optional=True,
                    control_after_generate=False,
                    tooltip="The first of them.",
                ),
                *size_inputs(),
                other_model_input(),
            ],
            outputs=[
                io.String.Output(id="strengths", display_name="strengths"),
                io.Image.Output(id="graph_image", display_name="graph_image"),
                io.String.Output(id="info", display_name="info"),
            ],
        )

    @classmethod
    def validate_inputs(cls, block_activations: Any = None) -> bool | str:
        return check_texts(block_activations)

    @classmethod
    def execute(
        cls,
        model: Any,
        text_embeds: Any,
        operation: str,
        block_activations: str,
        levels: int,
        limit: float,
        control_vector: Any = None,
        injection_embeds: Any = None,
        steps: int = 8,
        seeds: int = 2,
        seed: int = 0,
        image_embeds: Any = None,
        width: int = 832,
        height: int = 480,
        num_frames: int = 81,
        other_model: bool = False,
    ) -> io.NodeOutput:
        with errors_named("WanVideo Calibrate Strength"):
            if (control_vector is None) == (injection_embeds is None):
                raise ValueError("Connect either control_vector or injection_embeds.")
            host = host_of(model)
            wan_model = host.wan_model(model)
            host.check_embeds(text_embeds)
            main = read_text_embeds(text_embeds, "text_embeds", host.MAX_PROMPT_TOKENS)
            check_width(main, wan_model, "text_embeds is")
            if control_vector is not None:
                concept = concept_of(read_vector(control_vector, "control_vector", model, other_model))
                blocks = chosen_blocks(concept, block_activations, None, wan_model.block_count)

                def edit_at(strength: float) -> Edit:
                    return steering_edit(concept, make_operation(operation, strength), blocks)

            else:
                source = read_text_embeds(injection_embeds, "injection_embeds", host.MAX_PROMPT_TOKENS).detached()
                chosen = parse_selection(block_activations)

                def edit_at(strength: float) -> Edit:
                    return Edit(source=Prompt(source), strengths=chosen * strength, label="injection")

            check_stack([edit_at(1.0)], wan_model, prompt_count=len(main.prompts))
            found = hosted_calibration(
                model,
                text_embeds,
                edit_at,
                levels=levels,
                limit=limit,
                highest=1.0 if control_vector is None else 10.0,
                steps=steps,
                seeds=range(seed, seed + seeds),
                size=Size(width, height, num_frames),
                image_embeds=image_embeds,
                progress=progress(),
            )
        report = found.report()
        return io.NodeOutput(str(found), as_comfy_image(found.plot()), report, ui={"text": (report,)})


NODES = [WanVideoCalibrateStrength]

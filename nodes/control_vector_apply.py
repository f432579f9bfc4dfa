"""Nodes that steer along control vectors."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..embeddings.text_embeds import read_text_embeds
from ..patching.checks import check_stack
from ..patching.concepts import Concept
from ..patching.edit import Edit, Window, stack_of
from ..patching.hosts import host_of
from ..patching.schedule import parse_schedule
from ..patching.selection import parse_selection
from ..patching.sources import check_width
from ..patching.steering import Steering
from ..patching.strengths import BlockStrengths, as_block_strengths
from ..vectors.applying import concept_of, fitted_blocks, make_operation, plane, steering_edit
from ..vectors.control_vector import CONTEXT
from .control_vectors import FAMILY, other_model_input, read_vector, vector_input
from .parts import mask_input, read_mask, read_tokens, tokens_input, words_inputs
from .probing_inputs import blocks_input
from .shown import model_told
from .sockets import (
    address,
    block_strengths_input,
    check_texts,
    errors_named,
    log_level_input,
    node_label,
    passed_on_sockets,
    schedule_input,
    shown_schema,
    transformer_options,
    window_and_branch_inputs,
    with_description,
)

OPERATIONS = ("add", "ablate", "set_point", "rotate", "transport")


class WanVideoControlVectorApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        passed_on = passed_on_sockets()
        return shown_schema(
            node_id="WanVideoControlVectorApply",
            display_name="WanVideo Control Vector Apply",
            category=FAMILY,
            description="Steers the video along a control vector while sampling.",
            inputs=[
                *passed_on.inputs,
                vector_input("control_vector", "From WanVideo Control Vector, of this model."),
                io.Combo.Input(
                    "operation",
                    options=list(OPERATIONS),
                    default="add",
                    tooltip="add: strength times the direction. ablate: down to the level of the negative prompts. "
                    "set_point: to that of the positive ones. rotate: by angle and radius. transport: the fitted map.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="0 changes nothing; a negative one is the opposite. Multiplies block strengths.",
                ),
                blocks_input(),
                io.Combo.Input(
                    "unit",
                    options=["relative", "absolute"],
                    default="relative",
                    optional=True,
                    tooltip="What add counts in: mean norms of a token at the block, or the direction's own length 1.",
                ),
                io.Boolean.Input(
                    "one_sided",
                    default=True,
                    optional=True,
                    tooltip="ablate: leave tokens that are below the neutral level as they are.",
                ),
                io.Float.Input(
                    "angle", default=20.0, min=0.0, max=180.0, step=0.5, optional=True, tooltip="rotate: in degrees."
                ),
                io.Float.Input(
                    "radius",
                    default=1.0,
                    min=0.5,
                    max=2.0,
                    step=0.01,
                    optional=True,
                    tooltip="rotate: factor of each token's norm.",
                ),
                *part_inputs(),
            ],
            outputs=passed_on.outputs,
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, block_activations: Any = None, schedule: Any = None, tokens: Any = None) -> bool | str:
        return check_texts(block_activations, schedule, tokens)

    @classmethod
    def execute(
        cls,
        model: Any,
        text_embeds: Any,
        control_vector: Any,
        operation: str,
        strength: float,
        block_activations: str,
        unit: str = "relative",
        one_sided: bool = True,
        angle: float = 20.0,
        radius: float = 1.0,
        other_model: bool = False,
        **parts: Any,
    ) -> io.NodeOutput:
        options: dict[str, dict[str, Any]] = {
            "add": {"unit": unit},
            "ablate": {"one_sided": one_sided},
            "rotate": {"angle": angle, "radius": radius},
        }
        name = "WanVideo Control Vector Apply"
        with errors_named(name):
            vector = read_vector(control_vector, "control_vector", model, other_model)
            acting = make_operation(operation, strength, **options.get(operation, {}))
            return add_steering(cls, name, model, text_embeds, concept_of(vector), acting, block_activations, **parts)


class WanVideoControlVectorTurn(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        passed_on = passed_on_sockets()
        return shown_schema(
            node_id="WanVideoControlVectorTurn",
            display_name="WanVideo Control Vector Turn",
            category=FAMILY,
            description="Rotates the plane of two control vectors, from the first to the second; the rest stays.",
            inputs=[
                *passed_on.inputs,
                vector_input("from_vector", "What is there, as red."),
                vector_input("to_vector", "What it becomes, as blue. Fitted at the same site and blocks."),
                io.Float.Input(
                    "angle",
                    default=0.0,
                    min=-180.0,
                    max=180.0,
                    step=0.5,
                    tooltip="In degrees. 0: the angle between the two, which turns the first onto the second.",
                ),
                blocks_input(),
                *part_inputs(),
            ],
            outputs=passed_on.outputs,
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, block_activations: Any = None, schedule: Any = None, tokens: Any = None) -> bool | str:
        return check_texts(block_activations, schedule, tokens)

    @classmethod
    def execute(
        cls,
        model: Any,
        text_embeds: Any,
        from_vector: Any,
        to_vector: Any,
        angle: float,
        block_activations: str,
        other_model: bool = False,
        **parts: Any,
    ) -> io.NodeOutput:
        name = "WanVideo Control Vector Turn"
        with errors_named(name):
            first = read_vector(from_vector, "from_vector", model, other_model)
            second = read_vector(to_vector, "to_vector", model, other_model)
            acting = make_operation("turn", 1.0, angle=angle or None)
            return add_steering(cls, name, model, text_embeds, plane(first, second), acting, block_activations, **parts)


def part_inputs() -> list[Any]:
    """Optional inputs of nodes that steer: the part, the window, and last what the contract does not have."""
    return [
        tokens_input(),
        mask_input(),
        block_strengths_input(),
        schedule_input(),
        *window_and_branch_inputs(),
        log_level_input(optional=True),
        *words_inputs(),
        other_model_input(),
    ]


def add_steering(
    cls: Any,
    name: str,
    model: Any,
    text_embeds: Any,
    concept: Concept,
    operation: Steering,
    block_activations: str,
    tokens: str = "real",
    mask: Any = None,
    block_strengths: Any = None,
    schedule: str = "",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    branch: str = "cond",
    log_level: str = "off",
    prompt: str = "",
    text_encoder: Any = None,
) -> io.NodeOutput:
    """Append an edit along a concept to a clone of the model."""
    host = host_of(model)
    wan_model = host.wan_model(model)
    host.check_embeds(text_embeds)
    main = read_text_embeds(text_embeds, "text_embeds", host.MAX_PROMPT_TOKENS)
    check_width(main, wan_model, "text_embeds is")
    strengths = chosen_blocks(concept, block_activations, block_strengths, wan_model.block_count)
    edit: Edit = steering_edit(
        concept,
        operation,
        strengths,
        window=Window(start_percent, end_percent),
        schedule=parse_schedule(schedule),
        tokens=read_tokens(tokens, main, branch, prompt, text_encoder),
        mask=read_mask(mask),
        branch=branch,  # type: ignore[arg-type]
        label=node_label(cls, name),
        log_level=log_level,  # type: ignore[arg-type]
        reports_to=address(cls.hidden) if log_level != "off" else None,
    )
    check_stack([edit], wan_model)
    stack = stack_of(transformer_options(model)).append(edit)
    return io.NodeOutput(
        host.with_stack(model, stack), with_description(text_embeds, stack), ui=model_told(model, strengths)
    )


def chosen_blocks(concept: Concept, text: str, block_strengths: Any, count: int) -> BlockStrengths:
    """Strength of every block; `all` are those that the vector was fitted on.

    Raises:
        ValueError: no block is left.
    """
    chosen: BlockStrengths = parse_selection(fitted_blocks(concept, text))
    if block_strengths is not None:
        chosen = chosen * as_block_strengths(block_strengths)
    if not chosen.active_blocks(count):
        chosen_by = (
            "block_activations leaves" if block_strengths is None else "block_activations and block_strengths leave"
        )
        fitted_on = (
            f" The vector was fitted on {', '.join(map(str, concept.blocks))}." if concept.site != CONTEXT else ""
        )
        raise ValueError(f"{chosen_by} no block, so nothing would be steered.{fitted_on}")
    return chosen


NODES = [WanVideoControlVectorApply, WanVideoControlVectorTurn]

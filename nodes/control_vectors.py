"""Nodes that learn and apply control vectors."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..embeddings import read_text_embeds
from ..patching import Edit, Size, Window, check_stack, check_width, host_of, parse_schedule, parse_selection, stack_of
from ..patching.capture import HiddenStates
from ..patching.concepts import Concept
from ..patching.plot import as_comfy_image, bar_plot
from ..patching.steering import Steering
from ..patching.strengths import BlockStrengths, as_block_strengths
from ..vectors import ControlVector
from ..vectors.applying import check_identity, concept_of, make_operation, plane, steering_edit
from ..vectors.arithmetic import of_hidden_states
from ..vectors.control_vector import CONTEXT
from ..vectors.fitting import METHODS
from ..vectors.hosted import hosted_vector, single_prompts
from .hidden import LatentEmbeds
from .measured_cache import CACHE
from .parts import mask_input, read_mask, read_tokens, tokens_input, words_inputs
from .probing_inputs import blocks_input, cache_key, content_of, identity_of, progress, size_inputs, use_cache_input
from .recording import recorded
from .shown import model_told
from .sockets import (
    CATEGORY,
    address,
    block_strengths_input,
    check_texts,
    embeds_input,
    errors_named,
    log_level_input,
    model_input,
    node_label,
    passed_on_sockets,
    schedule_input,
    store_in_db_input,
    transformer_options,
    window_and_branch_inputs,
    with_description,
)

FAMILY = f"{CATEGORY}/Control Vectors"
ControlVectorType = io.Custom("CONTROL_VECTOR")
SITES = {"context": "context", "attention": "attention", "hidden_states": "hidden"}
OPERATIONS = ("add", "ablate", "set_point", "rotate", "transport")


def vector_input(name: str, tooltip: str, optional: bool = False) -> Any:
    return io.MultiType.Input(name, [ControlVectorType, LatentEmbeds], optional=optional, tooltip=tooltip)


def read_vector(value: Any, name: str) -> ControlVector:
    """The value of a CONTROL_VECTOR input; LATENT_EMBEDS become their mean token.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, HiddenStates):
        return of_hidden_states(value)
    if not isinstance(value, ControlVector):
        raise TypeError(f"{name}: expected CONTROL_VECTOR or LATENT_EMBEDS, got {type(value).__name__}.")
    return value


class WanVideoControlVector(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanVideoControlVector",
            display_name="WanVideo Control Vector",
            category=FAMILY,
            description="Learns the direction from negative to positive prompts, by block and noise level.",
            inputs=[
                model_input("The model, as the sampler gets it. Edits on it are left out."),
                embeds_input("positive_embeds", "Prompts that show the concept, several of them."),
                embeds_input("negative_embeds", "The same prompts without it, in the same order."),
                io.Combo.Input(
                    "site",
                    options=list(SITES),
                    default="attention",
                    tooltip="context: the text before the model, which costs nothing. attention: what cross-attention "
                    "adds. hidden_states: the residual stream after the block.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="mean_difference",
                    tooltip="mean_difference: between the means. standardised: in units of each channel's spread. pca: "
                    "what the pairs' differences share. transport: also the map that the operation transport applies.",
                ),
                blocks_input(),
                io.Int.Input("steps", default=8, min=1, max=100, tooltip="Noise levels: steps of a plain run."),
                io.Int.Input("seeds", default=1, min=1, max=32, tooltip="Noises per pair."),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**63 - 33, control_after_generate=False, tooltip="The first of them."
                ),
                *size_inputs(),
                use_cache_input(),
                store_in_db_input(),
            ],
            outputs=[
                ControlVectorType.Output(id="control_vector", display_name="control_vector"),
                io.String.Output(id="info", display_name="info"),
                io.Image.Output(id="graph_image", display_name="graph_image"),
            ],
        )

    @classmethod
    def validate_inputs(cls, block_activations: Any = None) -> bool | str:
        return check_texts(block_activations)

    @classmethod
    def execute(
        cls,
        model: Any,
        positive_embeds: Any,
        negative_embeds: Any,
        site: str,
        method: str,
        block_activations: str,
        steps: int,
        seeds: int,
        seed: int,
        image_embeds: Any = None,
        width: int = 832,
        height: int = 480,
        num_frames: int = 81,
        use_cache: bool = True,
        store_in_db: bool = False,
    ) -> io.NodeOutput:
        settings: dict[str, Any] = {
            "site": SITES[site], "method": method, "steps": steps, "seeds": seeds, "seed": seed,
        }  # fmt: skip
        with (
            errors_named("WanVideo Control Vector"),
            recorded("control_vector", "WanVideoControlVector", store_in_db, **settings) as record,
        ):
            host = host_of(model)
            wan_model = host.wan_model(model)
            sides = []
            for name, value in (("positive_embeds", positive_embeds), ("negative_embeds", negative_embeds)):
                host.check_embeds(value)
                sides.append(single_prompts(value, name, host.MAX_PROMPT_TOKENS))
                for _, read in sides[-1]:
                    check_width(read, wan_model, f"{name} is")
                record.input(name, value)
            blocks = parse_selection(block_activations)
            size = (width, height, num_frames)
            key = cache_key(
                "control_vector",
                identity_of(host, model),
                (content_of(positive_embeds), content_of(negative_embeds), image_embeds),
                {**settings, "blocks": blocks.resolve(wan_model.block_count), "size": size},
            )
            found = CACHE.get(key) if use_cache and key else None
            if found is None:
                found = hosted_vector(
                    model,
                    sides[0],
                    sides[1],
                    blocks=blocks,
                    size=Size(*size),
                    image_embeds=image_embeds,
                    progress=progress(),
                    **settings,
                )
                if use_cache and key:
                    CACHE.put(key, found)
        return io.NodeOutput(found, info_of(found), as_comfy_image(picture_of(found)))


def info_of(vector: ControlVector) -> str:
    """What a vector is, and in which blocks its concept can be told apart."""
    lines = [
        f"{vector.origin}, site {vector.site}, method {vector.method}, {vector.width} channels, "
        f"{len(vector.levels)} noise levels from {vector.levels[-1]:.3g} to {vector.levels[0]:.3g}"
    ]
    gaps = ((vector.positive - vector.neutral)[:, :, 0] / vector.scale.clamp_min(1e-12)).mean(1)
    for block, auc, gap in zip(vector.blocks, vector.separability.tolist(), gaps.tolist(), strict=True):
        known = "not measured: give 4 pairs or more" if auc != auc else f"{auc:.2f} {'#' * round(20 * auc)}"
        where = f"block {block:>2}: " if vector.site != CONTEXT else ""
        lines.append(f"{where}distance {gap:.3f} of a token's norm, separability {known}")
    return "\n".join(lines)


def picture_of(vector: ControlVector) -> Any:
    """Separability by block: 0.5 is chance, 1 tells every pair apart."""
    values = [0.0 if value != value else value for value in vector.separability.tolist()]
    labels = [str(block) for block in vector.blocks] if vector.site != CONTEXT else ["text"]
    many = len(labels) > 24
    return bar_plot(values, f"Separability of {vector.origin}: 0.5 is chance", not many, None if many else labels)


class WanVideoControlVectorApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        passed_on = passed_on_sockets()
        return io.Schema(
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
            vector = read_vector(control_vector, "control_vector")
            if not other_model:
                check_identity(vector, host_of(model), model)
            acting = make_operation(operation, strength, **options.get(operation, {}))
            return add_steering(cls, name, model, text_embeds, concept_of(vector), acting, block_activations, **parts)


class WanVideoControlVectorTurn(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        passed_on = passed_on_sockets()
        return io.Schema(
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
            first, second = read_vector(from_vector, "from_vector"), read_vector(to_vector, "to_vector")
            if not other_model:
                check_identity(first, host_of(model), model)
                check_identity(second, host_of(model), model)
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
        io.Boolean.Input(
            "other_model",
            default=False,
            optional=True,
            tooltip="Apply a vector whose model had other weights or LoRA than this one.",
        ),
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
    if text.strip() == "all" and concept.site != CONTEXT:
        fitted = set(concept.blocks)
        chosen: BlockStrengths = as_block_strengths([float(block in fitted) for block in range(count)])
    else:
        chosen = parse_selection(text)
    if block_strengths is not None:
        chosen = chosen * as_block_strengths(block_strengths)
    if not chosen.active_blocks(count):
        raise ValueError("block_activations and block_strengths leave no block, so nothing would be steered.")
    return chosen


NODES = [WanVideoControlVector, WanVideoControlVectorApply, WanVideoControlVectorTurn]

"""The node that learns control vectors."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..patching.capture import HiddenStates
from ..patching.fingerprint import known_identity
from ..patching.grid import Size
from ..patching.hosts import host_of
from ..patching.plot import as_comfy_image, bar_plot
from ..patching.selection import parse_selection
from ..patching.sources import check_width
from ..vectors import ControlVector
from ..vectors.applying import check_identity
from ..vectors.arithmetic import of_hidden_states
from ..vectors.control_vector import CONTEXT
from ..vectors.fitting import METHODS
from ..vectors.hosted import hosted_vector, single_prompts
from .hidden import LatentEmbeds
from .measured_cache import CACHE
from .probing_inputs import blocks_input, cache_key, content_of, progress, size_inputs, use_cache_input
from .recording import recorded
from .sockets import (
    CATEGORY,
    check_texts,
    embeds_input,
    errors_named,
    model_input,
    shown_schema,
    store_in_db_input,
)

FAMILY = f"{CATEGORY}/Control Vectors"
ControlVectorType = io.Custom("CONTROL_VECTOR")
VALUE = "control_vector"
SITES = {"context": "context", "attention": "attention", "hidden_states": "hidden"}


def vector_input(name: str, tooltip: str, optional: bool = False) -> Any:
    return io.MultiType.Input(name, [ControlVectorType, LatentEmbeds], optional=optional, tooltip=tooltip)


def other_model_input() -> Any:
    return io.Boolean.Input(
        "other_model",
        default=False,
        optional=True,
        tooltip="Apply a vector whose model had other weights or LoRA than this one.",
    )


def read_vector(value: Any, name: str, model: Any = None, other_model: bool = False) -> ControlVector:
    """The value of a CONTROL_VECTOR input; LATENT_EMBEDS become their mean token.

    Args:
        model: what it is applied to, if anything.
        other_model: leave it unchecked whose weights it is of.

    Raises:
        TypeError: it is something else.
        ControlVectorError: it is of other weights than the model's.
    """
    vector = of_hidden_states(value) if isinstance(value, HiddenStates) else value
    if not isinstance(vector, ControlVector):
        raise TypeError(f"{name}: expected CONTROL_VECTOR or LATENT_EMBEDS, got {type(value).__name__}.")
    if model is not None and not other_model:
        check_identity(vector, host_of(model), model)
    return vector


class WanVideoControlVector(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return shown_schema(
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
        store_in_db: bool = True,
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
                known_identity(host, model),
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
            record.result(stored_form(found))
        info = info_of(found)
        return io.NodeOutput(found, info, as_comfy_image(picture_of(found)), ui={"text": (info,)})


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


def stored_form(vector: ControlVector) -> dict[str, Any]:
    """The vector for the embedding store."""
    values, tensors = vector.to_plain()
    return {VALUE: values, "tensors": tensors}


def picture_of(vector: ControlVector) -> Any:
    """Separability by block: 0.5 is chance, 1 tells every pair apart."""
    values = [0.0 if value != value else value for value in vector.separability.tolist()]
    labels = [str(block) for block in vector.blocks] if vector.site != CONTEXT else ["text"]
    many = len(labels) > 24
    known = "0.5 is chance" if any(values) else "not measured, give 4 pairs or more"
    return bar_plot(values, f"Separability of {vector.origin}: {known}", not many, None if many else labels)


NODES = [WanVideoControlVector]

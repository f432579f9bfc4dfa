"""Nodes that measure blocks: WanVideo Block Map and Block Map Viewer."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..embeddings.text_embeds import read_text_embeds
from ..patching.checks import check_stack
from ..patching.edit import Edit
from ..patching.fingerprint import known_identity
from ..patching.grid import Size
from ..patching.hosts import host_of
from ..patching.plot import as_comfy_image
from ..patching.selection import parse_selection
from ..patching.sources import Prompt, check_width
from ..patching.strengths import BlockStrengths, Uniform
from ..probing.block_map import BlockMap, check_map
from ..probing.hosted import hosted_map
from ..vectors.applying import concept_of, make_operation, steering_edit
from .control_vector_apply import chosen_blocks
from .control_vectors import other_model_input, read_vector, vector_input
from .control_vectors import stored_form as vector_form
from .measured_cache import CACHE
from .probing_inputs import (
    LEVELS_TOOLTIP,
    blocks_input,
    cache_key,
    check_levels,
    content_of,
    parse_levels,
    progress,
    size_inputs,
    use_cache_input,
)
from .recording import recorded
from .shown import model_told
from .sockets import (
    CATEGORY,
    BlockStrengthsType,
    check_texts,
    embeds_input,
    errors_named,
    model_input,
    shown_schema,
    store_in_db_input,
)

BlockMapType = io.Custom("BLOCK_MAP")


class WanVideoBlockMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return shown_schema(
            node_id="WanVideoBlockMap",
            display_name="WanVideo Block Map",
            category=f"{CATEGORY}/Probing",
            description="Measures which blocks carry what of a second prompt, with intervals over seeds.",
            inputs=[
                model_input("The model, as the sampler gets it. Edits on it are left out."),
                embeds_input("text_embeds", "The main prompt, which is sampled."),
                embeds_input("injection_embeds", "The second prompt, which is injected into one block at a time."),
                io.Float.Input(
                    "injection_strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Strength of the injection. Multiplies block strengths.",
                ),
                blocks_input(),
                io.String.Input("noise_levels", default="0.8, 0.6, 0.4", tooltip=LEVELS_TOOLTIP),
                io.Int.Input(
                    "seeds", default=4, min=1, max=32, tooltip="Noises to measure with. Intervals need at least 2."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=False,
                    tooltip="The first of the seeds.",
                ),
                *size_inputs(),
                vector_input("control_vector", "Measured in place of injection_embeds.", optional=True),
                io.Combo.Input(
                    "branch",
                    options=["cond", "both"],
                    default="cond",
                    optional=True,
                    tooltip="The branch of the edit. It is measured in the branch of the main prompt.",
                ),
                io.Int.Input(
                    "verify",
                    default=0,
                    min=0,
                    max=48,
                    optional=True,
                    tooltip="Sample this many blocks to the end as well, for the map's rank correlation with finished "
                    "latents. At least 3; 0 is off.",
                ),
                use_cache_input(),
                store_in_db_input(),
                other_model_input(),
            ],
            outputs=[
                BlockMapType.Output(id="block_map", display_name="block_map"),
                io.String.Output(id="info", display_name="info"),
            ],
        )

    @classmethod
    def validate_inputs(cls, block_activations: Any = None, noise_levels: Any = None) -> bool | str:
        checked = check_texts(block_activations)
        return checked if checked is not True else check_levels(noise_levels)

    @classmethod
    def execute(
        cls,
        model: Any,
        text_embeds: Any,
        injection_embeds: Any,
        injection_strength: float,
        block_activations: str,
        noise_levels: str,
        seeds: int,
        seed: int,
        image_embeds: Any = None,
        width: int = 832,
        height: int = 480,
        num_frames: int = 81,
        control_vector: Any = None,
        branch: str = "cond",
        verify: int = 0,
        use_cache: bool = True,
        store_in_db: bool = True,
        other_model: bool = False,
    ) -> io.NodeOutput:
        with errors_named("WanVideo Block Map"):
            host = host_of(model)
            wan_model = host.wan_model(model)
            host.check_embeds(text_embeds)
            main = read_text_embeds(text_embeds, "text_embeds", host.MAX_PROMPT_TOKENS)
            check_width(main, wan_model, "text_embeds is")
            vector = None
            if control_vector is not None:
                vector = read_vector(control_vector, "control_vector", model, other_model)
            options: dict[str, Any] = {"branch": branch, "label": "Block map"}
            if vector is None:
                strengths = parse_selection(block_activations) * Uniform(injection_strength)
                second = read_text_embeds(injection_embeds, "injection_embeds", host.MAX_PROMPT_TOKENS).detached()
                edit = Edit(source=Prompt(second), strengths=strengths, **options)
            else:
                concept = concept_of(vector)
                chosen = chosen_blocks(concept, block_activations, None, wan_model.block_count)
                strengths = chosen * Uniform(injection_strength)
                edit = steering_edit(concept, make_operation("add", 1.0), strengths, **options)
            check_stack((edit,), wan_model)
            levels = parse_levels(noise_levels)
            settings = {"levels": levels, "seeds": seeds, "seed": seed, "size": (width, height, num_frames)}
            settings |= {
                "verify": verify,
                "edit": edit.describe(),
                "strengths": strengths.resolve(wan_model.block_count),
            }
            identity = known_identity(host, model)
            told = content_of(injection_embeds) if vector is None else vector.to_plain()
            inputs = (content_of(text_embeds), told, image_embeds)
            key = cache_key("block map", identity, inputs, settings)
            found = CACHE.get(key) if use_cache and key else None
            how = "from the cache"
            if found is None:
                started = time.perf_counter()
                with recorded("block_map", "WanVideoBlockMap", store_in_db, **_plain(settings)) as record:
                    found = hosted_map(
                        model,
                        text_embeds,
                        edit,
                        levels,
                        range(seed, seed + seeds),
                        size=Size(width, height, num_frames),
                        image_embeds=image_embeds,
                        verify=verify,
                        identity=identity,
                        progress=progress(),
                    )
                    record.input("text_embeds", text_embeds)
                    if vector is None:
                        record.input("injection_embeds", injection_embeds)
                    else:
                        record.input("control_vector", vector_form(vector))
                    record.result(stored_form(found))
                how = f"measured in {time.perf_counter() - started:.1f} s"
                if use_cache and key:
                    CACHE.put(key, found)
        shown = {"label": _label(found), "strengths": _mean_shares(found), "quantity": "Share"}
        return io.NodeOutput(found, f"{found.report()}\n\n{how}", ui=model_told(model, shown=[shown]))


class WanVideoBlockMapViewer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return shown_schema(
            node_id="WanVideoBlockMapViewer",
            display_name="WanVideo Block Map Viewer",
            category=f"{CATEGORY}/Probing",
            description="Draws a block map, and gives the strongest blocks as strengths for an editor.",
            is_output_node=True,
            inputs=[
                BlockMapType.Input("block_map", tooltip="From WanVideo Block Map."),
                io.Combo.Input(
                    "quantity",
                    options=["effect", "share", "motion"],
                    default="share",
                    tooltip="share: part of the whole edit's change that a block brings about alone. effect: how far "
                    "it moves the model's output. motion: part of its change that differs between frames.",
                ),
                io.Int.Input("top", default=6, min=0, max=48, tooltip="How many blocks are chosen; 0 chooses none."),
                io.Float.Input(
                    "base_strength", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="Strength of the chosen blocks."
                ),
            ],
            outputs=[
                io.Image.Output(id="graph_image", display_name="graph_image"),
                io.String.Output(id="report", display_name="report"),
                BlockStrengthsType.Output(id="block_strengths", display_name="block_strengths"),
            ],
        )

    @classmethod
    def execute(cls, block_map: Any, quantity: str, top: int, base_strength: float) -> io.NodeOutput:
        with errors_named("WanVideo Block Map Viewer"):
            found = check_map(block_map, "block_map")
            strengths = found.top(top, quantity, base_strength)
            report = found.report(quantity, top)
            image = as_comfy_image(found.plot(quantity))
        shown = {"text": (report,), "block_map": (json.dumps(page_form(found, quantity, strengths)),)}
        return io.NodeOutput(image, report, strengths, ui={**ui.PreviewImage(image, cls=cls).as_dict(), **shown})


def _label(found: BlockMap) -> str:
    seeds, levels = len(found.seeds), len(found.noise_levels)
    return f"Share of the change, mean of {levels} noise level{'s' * (levels > 1)} and {seeds} seed{'s' * (seeds > 1)}"


def _mean_shares(found: BlockMap) -> list[float]:
    """Mean over noise levels, 0 for blocks that were not measured."""
    measured = np.nan_to_num(found.share.mean(axis=0))
    return [round(float(share), 5) for share in measured]


def page_form(found: BlockMap, quantity: str, strengths: BlockStrengths) -> dict[str, Any]:
    """What the page draws: values [levels][blocks] with None where nothing was measured, and blocks with a strength."""
    return {
        "quantity": quantity,
        "top": strengths.active_blocks(found.share.shape[1]),
        "levels": [round(level, 4) for level in found.noise_levels],
        "values": [[None if v != v else round(float(v), 5) for v in row] for row in getattr(found, quantity)],
        "low": [[None if v != v else round(float(v), 5) for v in row] for row in found.intervals[quantity][0]],
        "high": [[None if v != v else round(float(v), 5) for v in row] for row in found.intervals[quantity][1]],
    }


def stored_form(found: BlockMap) -> dict[str, Any]:
    """The map for the embedding store: its samples as tensors."""
    samples = {name: torch.from_numpy(values).float() for name, values in found.samples.items()}
    return {**found.to_plain(), "samples": samples}


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


NODES = [WanVideoBlockMap, WanVideoBlockMapViewer]

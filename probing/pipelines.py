"""Block maps of diffusers pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..embeddings.text_embeds import read_text_embeds
from ..patching.arguments import Blocks, chosen_blocks
from ..patching.checks import check_stack
from ..patching.edit import Branch, Edit, EditStack
from ..patching.hosts import diffusers
from ..patching.hosts.compile import edits_inside
from ..patching.hosts.diffusers_checks import check_faces, check_tokens, check_whole
from ..patching.operations import Operation, Replace
from ..patching.runtime import Run
from ..patching.sources import CapturedDifference, Direction
from ..patching.wan_model import discover
from .block_map import BlockMap
from .collect import Collected, measured_blocks, verified_blocks
from .distances import relative_l2
from .effects import CallEffects, Measurement, Method
from .forks import ModelCall, at_block, branch_rows
from .pipeline_calls import Due, Pipeline, Stop, checked_levels, latents_of, text_of

Progress = Callable[[int, int], None]
"""Called with how much is done, and how much there is to do; may raise to stop."""


def block_map(
    pipe: Any,
    prompt: Any,
    other: Any,
    noise_levels: Sequence[float] = (0.8, 0.6, 0.4),
    seeds: int | Sequence[int] = 4,
    *,
    blocks: Blocks = "all",
    strength: float = 1.0,
    site: str = "context",
    operation: Operation | None = None,
    branch: Branch = "cond",
    other_model: bool = False,
    method: Method = "forks",
    verify: int = 0,
    progress: Progress = lambda done, total: None,
    **call: Any,
) -> BlockMap:
    """Measure which blocks carry what of an edit, while the pipeline samples the plain prompt.

        found = block_map(pipe, "a red circle", "a blue circle", num_inference_steps=20)
        with inject(pipe, other_embeds, blocks=found.top(6)):
            ...

    At the step nearest to each noise level, the model is called again with the edit in each block alone. For N blocks
    that is (N + 1) / 2 block runs per block, and two more calls: all blocks edited, and the control. The plain clip
    itself is sampled as without it, bit for bit.

    Args:
        pipe: a diffusers Wan pipeline.
        prompt: what is sampled: a string, or embeddings [1, tokens, 4096] as `pipe.encode_prompt` gives them. A list
            measures several pairs; the map is their mean.
        other: the second prompt, as many as `prompt`; or one ControlVector (added where it
            was fitted), Direction, CapturedDifference or Edit.
        noise_levels: 1 (only noise) to 0. The map says at which levels of the schedule they were measured.
        seeds: their number, or a list of them; each is a noise that the clip starts from.
        blocks, strength, site, operation, branch: of the edit, as for `inject`.
        other_model: measure a control vector of a model with other weights.
        method: `forks`, or `integrated_gradients`, whose shares sum to 1; it needs memory for a backward pass.
        verify: sample this many blocks to the end too, spread over the ranks of the map, for its rank correlation with
            the change of finished latents; at least 3, or 0 for none.
        progress: see `Progress`.
        call: further arguments of the pipeline: sizes, steps, guidance_scale, negative_prompt_embeds, images.

    Raises:
        ValueError: inputs that do not fit; a noise level outside 0..1, or two at the same step; a cache of diffusers is
            on; context parallelism is, beside a mask or integrated gradients.
        RuntimeError: an `inject` is open on the transformer, or a block was left out.
    """
    prompts, others = _listed(prompt), _listed(other)
    if len(others) not in (1, len(prompts)):
        raise ValueError(f"{len(prompts)} prompts were given, but {len(others)} others: they are paired in order.")
    options = {"strengths": chosen_blocks(blocks) * strength, "site": site, "operation": operation, "branch": branch}
    own = (blocks, strength, site, operation, branch) == ("all", 1.0, "context", None, "cond")
    if not own and any(isinstance(one, Edit) for one in others):
        raise ValueError("blocks, strength, site, operation and branch are those of the Edit: set them there.")
    levels = checked_levels(noise_levels)
    pipeline = Pipeline(pipe, call)
    texts = [pipeline.encode(one, "prompt") for one in prompts]
    along = {"blocks": blocks, "strength": strength, "other_model": other_model}
    edits = [_edit(pipeline, one, options, along) for one in others] * (len(prompts) if len(others) == 1 else 1)
    for edit in edits:
        for model in pipeline.models:
            check_stack((edit,), model)
            check_tokens((edit,), model.module)
            check_faces((edit,), model.module)
            if edit.strengths.active_blocks(model.block_count) != edits[0].strengths.active_blocks(model.block_count):
                raise ValueError(
                    "The edits choose different blocks, and one map has the same for all. Make a map of each."
                )
            if method == "integrated_gradients":
                check_whole(model.module, "integrated_gradients")
                if isinstance(edit.operation, Replace):
                    raise ValueError(
                        "integrated_gradients follows a strength, and replace has none. Use method='forks'."
                    )
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    collected = Collected(numbers, levels, len(prompts))
    model = pipeline.models[0]
    chosen = measured_blocks(edits[0], model, verify)
    total = len(numbers) * len(prompts) * (len(levels) * len(chosen) + verify)
    done = 0

    def step(more: int) -> None:
        progress(done + more, total)

    plain: dict[tuple[int, int], torch.Tensor] = {}
    for seed in numbers:
        for pair, (text, edit) in enumerate(zip(texts, edits, strict=True)):
            effects, latents = _measured(pipeline, levels, text, edit, seed, method, step, verify > 0)
            done += len(levels) * len(chosen)
            collected.add(seed, pair, effects)
            if latents is not None:
                plain[seed, pair] = latents
    finished: dict[int, tuple[float, ...]] = {}
    for index in verified_blocks(collected, chosen, verify, method):
        changes = np.zeros((len(numbers), len(prompts)))
        for s, seed in enumerate(numbers):
            for pair, (text, edit) in enumerate(zip(texts, edits, strict=True)):
                progress(done, total)
                done += 1
                with diffusers.edited(pipe, EditStack((at_block(edit, index, model.block_count),))):
                    changes[s, pair] = relative_l2(plain[seed, pair], pipeline.sample(text, seed))
        finished[index] = tuple(float(x) for x in changes.mean(axis=1))
    progress(total, total)
    return collected.result(
        edit=edits[0].describe(),
        model_name=model.name,
        identity=pipeline.identity(),
        method=method,
        finished=finished,
    )


def _measured(
    pipeline: Pipeline,
    levels: Sequence[float],
    text: torch.Tensor,
    edit: Edit,
    seed: int,
    method: Method,
    step: Callable[[int], None],
    finish: bool,
) -> tuple[dict[float, tuple[float, CallEffects]], torch.Tensor | None]:
    """Effects by noise level, each with the level of the step where it was measured; and the finished latents."""
    found: dict[float, tuple[float, CallEffects]] = {}
    due = Due(pipeline, levels, text, other_text=edit.branch == "uncond")
    count = len(edit.strengths.active_blocks(pipeline.models[0].block_count))
    asked: list[float] = []  # the level of the call in progress

    def call_of(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall | None:
        at = due.level(args, kwargs)
        if at is None:
            return None
        asked[:] = at[:1]
        model, rows = discover(module), len(text_of(args, kwargs))
        return ModelCall(
            model,
            args,
            kwargs,
            rows=branch_rows(edit.branch, rows),
            sigma=at[1],
            new_run=lambda stack: Run(stack, model),
            prompt_count=rows,
            grid=model.grid(latents_of(args, kwargs)),
        )

    def done(call: ModelCall, effects: CallEffects) -> None:
        found[asked[0]] = (call.sigma, effects)
        if due.done(asked[0]) and not finish:
            raise Stop

    measurement = Measurement(call_of, done, edit, method, seed, lambda n: step(len(found) * count + n))
    latents = None
    with (
        pipeline.stoppable(edits_inside((edit,), pipeline.models[0])),
        measurement.on(*(model.module for model in pipeline.models)),
    ):
        latents = pipeline.sample(text, seed)
    due.check_all()
    return found, latents


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _edit(pipeline: Pipeline, other: Any, options: dict[str, Any], along: dict[str, Any]) -> Edit:
    from ..vectors.applying import check_identity, make_operation, steering_edit
    from ..vectors.control_vector import ControlVector

    if isinstance(other, Edit):
        return other
    if isinstance(other, ControlVector):
        if options["site"] not in ("context", other.site):
            raise ValueError(f"site is {options['site']}, but the control vector was fitted at {other.site}.")
        if not along["other_model"]:
            check_identity(other, diffusers, pipeline.pipe)
        operation = options["operation"] or make_operation("add", 1.0)
        edit = steering_edit(other, operation, along["blocks"], branch=options["branch"], label="block map")
        return replace(edit, strengths=edit.strengths * along["strength"])
    if isinstance(other, Direction | CapturedDifference):
        return Edit(source=other, label="block map", **options)
    embeds = read_text_embeds(pipeline.encode(other, "other"), "other").detached()
    return Edit(source=embeds, label="block map", **options)  # type: ignore[arg-type]  # Edit makes it a source

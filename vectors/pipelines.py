"""Fitting control vectors on a diffusers pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..embeddings.text_embeds import read_text_embeds
from ..patching.arguments import Blocks, chosen_blocks
from ..patching.fingerprint import known_identity
from ..patching.hosts import diffusers
from ..patching.hosts.attachment import COMPILE_SETTING
from ..patching.hosts.compile import eager, is_compiled
from ..patching.hosts.diffusers_checks import check_whole
from ..patching.runtime import Run
from ..patching.sites import SITES
from ..patching.wan_model import discover
from ..probing.distances import relative_l2
from ..probing.forks import ModelCall
from ..probing.pipeline_calls import Pipeline, latents_of, text_of
from .applying import steer
from .calibration import EVALUATIONS, Calibration, calibrate_response
from .control_vector import CONTEXT, ControlVector, ControlVectorError, check_vector
from .fitting import Fit, Method
from .measuring import PairMeasurement
from .pairs import checked_pairs, differing_spans, real_rows

HELD_OUT = 4
"""Of so many pairs one is left out to measure separability."""


def control_vector(
    pipe: Any,
    pairs: Sequence[tuple[Any, Any]],
    *,
    site: str = "attention",
    method: Method = "mean_difference",
    levels: int = 8,
    seeds: int = 1,
    seed: int = 0,
    blocks: Blocks = "all",
    components: int = 1,
    origin: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
    **call: Any,
) -> ControlVector:
    """Learn the direction from the negative to the positive prompts of pairs.

        night = control_vector(pipe, read_pairs("night.jsonl"), height=480, width=832, num_frames=17)
        save_control_vector("night.safetensors", night)

    Each pair is sampled from the same noise, without guidance; at every step the model runs with both prompts, and goes
    on with the mean of the two. That is 2 x pairs x levels x seeds calls of the model. At site `context` none runs.

    Args:
        pipe: a diffusers Wan pipeline; for site `context` a text encoder and tokenizer are enough, and with embeddings
            none is needed.
        pairs: (positive, negative), each a string, or embeddings [1, tokens, 4096] as `pipe.encode_prompt` gives them.
        site: see `patching.sites.SITES`. `context` is the text before the model: the mean of the tokens in which the
            two prompts differ.
        method, components: see `Fit`.
        levels: steps of sampling; the vector has a direction for the noise level of each.
        seeds, seed: number of noises per pair, and the first.
        blocks: those that are measured.
        origin: what it is, for people.
        progress: called with how much is done, and how much there is to do; may raise to stop.
        call: further arguments of the pipeline: sizes, images.

    Raises:
        ControlVectorError: no pairs, or prompts that do not differ.
        ValueError: inputs that do not fit; a cache of diffusers or context parallelism is on.
        RuntimeError: an `inject` is open on the transformer.
    """
    given = checked_pairs(pairs)
    if site not in SITES:
        raise ControlVectorError(f"site must be one of {', '.join(SITES)}, not {site!r}.")
    if levels < 1 or seeds < 1:
        raise ControlVectorError(f"levels and seeds have to be at least 1, not {levels} and {seeds}.")
    origin = origin or f"{len(given)} pairs"
    fit = Fit(method, range(HELD_OUT - 1, len(given), HELD_OUT), components)
    pipeline = Pipeline(
        pipe, {"negative_prompt_embeds": None, **call, "num_inference_steps": levels, "guidance_scale": 1.0}
    )
    texts = [
        (pipeline.encode(positive, f"pair {n}, positive"), pipeline.encode(negative, f"pair {n}, negative"))
        for n, (positive, negative) in enumerate(given, 1)
    ]
    if site == CONTEXT:
        return _of_texts(fit, pipe, given, texts, origin)
    model = pipeline.models[0]
    check_whole(model.module, "control_vector")
    chosen = _chosen(blocks, model.block_count)
    done, total = 0, len(given) * seeds * levels

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    with contextlib.ExitStack() as exits:
        for transformer, each in zip(pipeline.transformers, pipeline.models, strict=True):
            inside = any(is_compiled(each.blocks[index]) for index in chosen)
            exits.enter_context(eager(COMPILE_SETTING, whole=is_compiled(transformer), inside=inside))
        for number, (positive, negative) in enumerate(texts):
            embeds = read_text_embeds(positive, "positive").detached()
            counts = len(real_rows(negative)), len(real_rows(positive))
            measurement = PairMeasurement(_call_of, fit, site, chosen, number, embeds, counts, step)
            with measurement.on(*pipeline.models):
                for noise in range(seed, seed + seeds):
                    pipeline.sample(negative, noise)
    return fit.result(
        site,
        block_count=model.block_count,
        model_name=model.name,
        identity=known_identity(diffusers, pipe),
        origin=origin,
    )


def text_vector(fit: Fit, texts: Sequence[tuple[torch.Tensor, torch.Tensor]], spans: Sequence[Any], origin: str) -> ControlVector:  # fmt: skip  # noqa: E501
    """A control vector of the text, from embeddings [tokens, width] and the spans (positive, negative) that differ."""
    for number, ((positive, negative), (first, second)) in enumerate(zip(texts, spans, strict=True)):
        fit.add(0, 1.0, number, True, positive[first].float())
        fit.add(0, 1.0, number, False, negative[second].float())
    return fit.result(CONTEXT, origin=origin)


def _of_texts(fit: Fit, pipe: Any, given: Sequence[Any], texts: Sequence[Any], origin: str) -> ControlVector:
    rows = [(real_rows(positive), real_rows(negative)) for positive, negative in texts]
    tokenizer = getattr(pipe, "tokenizer", None)
    spans = []
    for pair, embeds in zip(given, rows, strict=True):
        if tokenizer is not None and all(isinstance(side, str) for side in pair):
            ids = [tokenizer(side).input_ids[: len(side_rows)] for side, side_rows in zip(pair, embeds, strict=True)]
            spans.append(differing_spans(*ids))
        else:
            spans.append(differing_spans(*embeds))
    return text_vector(fit, rows, spans, origin)


def _chosen(blocks: Blocks, count: int) -> list[int]:
    chosen = chosen_blocks(blocks).active_blocks(count)
    if not chosen:
        raise ControlVectorError("No block is selected, so there is nothing to measure.")
    return chosen


def _call_of(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall:
    model, rows = discover(module), len(text_of(args, kwargs))
    t = kwargs["timestep"] if "timestep" in kwargs else args[1]
    return ModelCall(
        model,
        args,
        kwargs,
        rows={"cond": [(row, row) for row in range(rows)]},
        sigma=round(float(torch.as_tensor(t).max()) / 1000, 6),
        new_run=lambda stack: Run(stack, model),
        prompt_count=rows,
        grid=model.grid(latents_of(args, kwargs)),
    )


def calibrate(
    pipe: Any,
    prompt: Any,
    vector: ControlVector,
    operation: str = "add",
    *,
    blocks: Blocks = "all",
    levels: int = 5,
    limit: float = 0.5,
    seeds: int | Sequence[int] = 2,
    measure: Callable[[torch.Tensor, torch.Tensor], float] = relative_l2,
    steering: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **call: Any,
) -> Calibration:
    """Find strengths at which a control vector changes the video by evenly spaced amounts.

        found = calibrate(pipe, "a street in the rain", night, blocks="8-20", num_inference_steps=20)
        with steer(pipe, night, found.strengths[2], blocks="8-20"):
            ...

    Args:
        pipe: a diffusers Wan pipeline.
        prompt: what is sampled: a string or embeddings.
        vector, operation, blocks: as for `steer`; `steering` holds further arguments of it.
        levels, limit: see `calibrate_response`.
        seeds: their number, or a list of them.
        measure: change from plain latents to edited ones, `(plain, edited) -> float`; relative L2 by default.
        progress: called with how much is done, and how much there is to do at most; may raise to stop.
        call: further arguments of the pipeline.

    Raises:
        ControlVectorError: nothing changes, or an argument is out of range.
        ValueError: as `steer`.
    """
    check_vector(vector, "vector")
    pipeline = Pipeline(pipe, call)
    text = pipeline.encode(prompt, "prompt")
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    runs = 0

    def sample(seed: int) -> torch.Tensor:
        nonlocal runs
        latents = pipeline.sample(text, seed)
        runs += 1
        progress(min(runs, (EVALUATIONS + 1) * len(numbers)), (EVALUATIONS + 1) * len(numbers))
        return latents

    plain = {seed: sample(seed) for seed in numbers}

    def effect(strength: float) -> float:
        with steer(pipe, vector, strength, operation, blocks=blocks, **(steering or {})):  # type: ignore[arg-type]
            return sum(measure(plain[seed], sample(seed)) for seed in numbers) / len(numbers)

    return calibrate_response(effect, levels, limit)

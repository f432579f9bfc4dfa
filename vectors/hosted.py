"""Fitting and calibrating control vectors on ComfyUI's hosts, by the same measurement as in Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..embeddings.text_embeds import TextEmbeds, is_wrapper_embeds, read_text_embeds
from ..patching.edit import Edit, EditStack
from ..patching.fingerprint import known_identity
from ..patching.grid import Size
from ..patching.hosts import host_of
from ..patching.hosts.compile import edits_inside
from ..patching.hosts.plain_runs import HostCall, run_of, sample_plain, transformer_of
from ..patching.strengths import BlockStrengths
from ..patching.wan_model import discover
from ..probing.distances import relative_l2
from ..probing.forks import ModelCall
from .calibration import Calibration, calibrate_response
from .control_vector import CONTEXT, ControlVector, ControlVectorError
from .fitting import Fit, Method
from .measuring import PairMeasurement
from .pairs import differing_spans, real_rows
from .pipelines import HELD_OUT, text_vector

SHIFT = 5.0
"""Of the noise levels of a plain run; Wan's own samplers use 3 to 8."""

Progress = Callable[[int, int], None]


def noise_levels(steps: int) -> list[float]:
    """Falling noise levels of a plain run, and 0."""
    even = [1 - i / steps for i in range(steps)]
    return [*(round(SHIFT * x / (1 + (SHIFT - 1) * x), 4) for x in even), 0.0]


def single_prompts(text_embeds: Any, name: str, limit: int | None) -> list[tuple[Any, TextEmbeds]]:
    """Each prompt of a text input as one of its own, for the host and read."""
    read = read_text_embeds(text_embeds, name, limit)
    if is_wrapper_embeds(text_embeds):
        alone: list[Any] = [{**text_embeds, "prompt_embeds": [prompt]} for prompt in text_embeds["prompt_embeds"]]
    else:
        alone = [[[row[None], extra]] for tensor, extra in text_embeds for row in tensor]
    if len(alone) != len(read.prompts):
        raise ControlVectorError(f"{name} holds {len(read.prompts)} prompts in {len(alone)} rows; give one each.")
    return [(one, read_text_embeds(one, name, limit).detached()) for one in alone]


def hosted_vector(
    model: Any,
    positive: Sequence[tuple[Any, TextEmbeds]],
    negative: Sequence[tuple[Any, TextEmbeds]],
    *,
    site: str,
    method: Method,
    blocks: BlockStrengths,
    steps: int,
    seeds: int,
    seed: int,
    size: Size,
    image_embeds: Any = None,
    origin: str = "",
    progress: Progress = lambda done, total: None,
) -> ControlVector:
    """The control vector of pairs on a MODEL or WANVIDEOMODEL; see `pipelines.control_vector`.

    Edits that the model carries are left out.

    Args:
        positive, negative: prompts of `single_prompts`, paired in order.
        size, image_embeds: see `sample_plain`.

    Raises:
        ControlVectorError: numbers of prompts that do not match, or prompts that do not differ.
        ValueError: inputs that do not fit the host.
    """
    if len(positive) != len(negative) or not positive:
        raise ControlVectorError(
            f"{len(positive)} positive prompts and {len(negative)} negative ones: they are paired in order, so give "
            "as many of each."
        )
    origin = origin or f"{len(positive)} pairs"
    fit = Fit(method, range(HELD_OUT - 1, len(positive), HELD_OUT))
    if site == CONTEXT:
        rows = [
            (real_rows(plus.prompts[0]), real_rows(minus.prompts[0]))
            for (_, plus), (_, minus) in zip(positive, negative, strict=True)
        ]
        return text_vector(fit, rows, [differing_spans(*pair) for pair in rows], origin)
    target, host = transformer_of(model), host_of(model)
    chosen = blocks.active_blocks(target.block_count)
    if not chosen:
        raise ControlVectorError("block_activations selects no block, so there is nothing to measure.")
    sigmas = noise_levels(steps)
    done, total = 0, len(positive) * seeds * steps

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    def call_of(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall:
        here = discover(module)
        call = HostCall(here, args, kwargs)
        return ModelCall(
            here,
            args,
            kwargs,
            rows=call.rows,
            sigma=nearest(sigmas, call.sigma),
            new_run=lambda stack: run_of(model, stack, here),
            prompt_count=call.prompt_count,
            grid=call.grid,
        )

    for number, ((_, plus), (alone, minus)) in enumerate(zip(positive, negative, strict=True)):
        counts = minus.token_counts[0], plus.token_counts[0]
        measurement = PairMeasurement(call_of, fit, site, chosen, number, plus, counts, step)
        with measurement.on(target):
            for noise in range(seed, seed + seeds):
                sample_plain(model, alone, sigmas, size=size, seed=noise, image_embeds=image_embeds, inside=True)
    return fit.result(
        site,
        block_count=target.block_count,
        model_name=target.name,
        identity=known_identity(host, model),
        origin=origin,
    )


def nearest(levels: Sequence[float], sigma: float) -> float:
    """The level of a run that a call is for; hosts round them."""
    return min(levels, key=lambda level: abs(level - sigma))


def hosted_calibration(
    model: Any,
    text_embeds: Any,
    edit_at: Callable[[float], Edit],
    *,
    levels: int,
    limit: float,
    highest: float,
    steps: int,
    seeds: Sequence[int],
    size: Size,
    image_embeds: Any = None,
    progress: Progress = lambda done, total: None,
) -> Calibration:
    """Strengths of evenly spaced effect of an edit on a MODEL or WANVIDEOMODEL.

    The effect of a strength is the relative L2 change of finished latents, sampled without guidance, mean over seeds.

    Args:
        edit_at: the edit at a strength.
        highest: largest strength that is tried.
        levels, limit: see `calibrate_response`.
    """
    target, sigmas = transformer_of(model), noise_levels(steps)
    runs = 0

    def sample(seed: int, edit: Edit | None) -> torch.Tensor:
        nonlocal runs
        stack = None if edit is None else EditStack((edit,))
        inside = edit is not None and edits_inside((edit,), target)
        latents = sample_plain(
            model, text_embeds, sigmas, size=size, seed=seed, image_embeds=image_embeds, stack=stack, inside=inside
        )
        runs += 1
        progress(min(runs, 11 * len(seeds)), 11 * len(seeds))
        return latents

    plain = {seed: sample(seed, None) for seed in seeds}

    def effect(strength: float) -> float:
        edit = edit_at(strength)
        return sum(relative_l2(plain[seed], sample(seed, edit)) for seed in seeds) / len(seeds)

    return calibrate_response(effect, levels, limit, start=min(0.25, highest), highest=highest)

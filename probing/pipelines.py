"""Block maps of diffusers pipelines."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..embeddings import read_text_embeds
from ..patching.checks import check_stack
from ..patching.edit import Branch, Edit, EditStack
from ..patching.fingerprint import UnidentifiedError, fingerprint
from ..patching.hosts.attachment import COMPILE_SETTING, is_attached
from ..patching.hosts.compile import eager, is_compiled
from ..patching.hosts.diffusers import edited
from ..patching.operations import Operation
from ..patching.runtime import Run
from ..patching.selection import parse_selection
from ..patching.sources import CapturedDifference, Direction
from ..patching.strengths import BlockStrengths, as_block_strengths
from ..patching.wan_model import discover
from .block_map import BlockMap
from .collect import Collected, measured_blocks, verified_blocks
from .distances import relative_l2
from .effects import CallEffects, Measurement, Method
from .forks import ModelCall, at_block, branch_rows

Progress = Callable[[int, int], None]
"""Called with how much is done, and how much there is to do; may raise to stop."""


class Stop(BaseException):
    """Ends a pipeline's call. No `except Exception` sees it; every `finally` runs."""


def block_map(
    pipe: Any,
    prompt: Any,
    other: Any,
    noise_levels: Sequence[float] = (0.8, 0.6, 0.4),
    seeds: int | Sequence[int] = 4,
    *,
    blocks: str | BlockStrengths | dict[int, float] | list[float] = "all",
    strength: float = 1.0,
    site: str = "context",
    operation: Operation | None = None,
    branch: Branch = "cond",
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
        other: the second prompt, as many as `prompt`; or one Direction, CapturedDifference or Edit.
        noise_levels: 1 (only noise) to 0. The map says at which levels of the schedule they were measured.
        seeds: their number, or a list of them; each is a noise that the clip starts from.
        blocks, strength, site, operation, branch: of the edit, as for `inject`.
        method: `forks`, or `integrated_gradients`, whose shares sum to 1; it needs memory for a backward pass.
        verify: sample this many blocks to the end too, spread over the ranks of the map, for its rank correlation with
            the change of finished latents; at least 3, or 0 for none.
        progress: see `Progress`.
        call: further arguments of the pipeline: sizes, steps, guidance_scale, negative_prompt_embeds, images.

    Raises:
        ValueError: inputs that do not fit; two noise levels at the same step; a cache of diffusers is on.
        RuntimeError: an `inject` is open on the transformer, or a block was left out.
    """
    prompts, others = _listed(prompt), _listed(other)
    if len(others) not in (1, len(prompts)):
        raise ValueError(f"{len(prompts)} prompts were given, but {len(others)} others: they are paired in order.")
    options = {"strengths": _strengths(blocks) * strength, "site": site, "operation": operation, "branch": branch}
    texts = [_encoded(pipe, one, "prompt") for one in prompts]
    edits = [_edit(pipe, one, options) for one in others] * (len(prompts) if len(others) == 1 else 1)
    transformers = [t for t in (getattr(pipe, n, None) for n in ("transformer", "transformer_2")) if t is not None]
    if not transformers:
        raise ValueError(f"{type(pipe).__name__} has no transformer. Give block_map a Wan pipeline of diffusers.")
    for edit in edits:
        for transformer in transformers:
            _check(transformer, edit)
    study = _Study(pipe, transformers, tuple(noise_levels), call)
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    collected = Collected(numbers, study.levels, len(prompts))
    model = discover(transformers[0])
    chosen = measured_blocks(edits[0], model, verify)
    total = len(numbers) * len(prompts) * (len(study.levels) * len(chosen) + verify)
    done = 0

    def step(more: int) -> None:
        progress(done + more, total)

    plain: dict[tuple[int, int], torch.Tensor] = {}
    for seed in numbers:
        for pair, (text, edit) in enumerate(zip(texts, edits, strict=True)):
            effects, latents = study.measure(text, edit, seed, method, step, finish=verify > 0)
            done += len(study.levels) * len(chosen)
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
                with edited(pipe, EditStack((at_block(edit, index, model.block_count),))):
                    changes[s, pair] = relative_l2(plain[seed, pair], study.sample(text, seed))
        finished[index] = tuple(float(x) for x in changes.mean(axis=1))
    progress(total, total)
    return collected.result(
        edit=edits[0].describe(),
        model_name=model.name,
        identity=_identity(transformers),
        method=method,
        finished=finished,
    )


@dataclass(eq=False)
class _Study:
    """Calls of one pipeline with one set of arguments."""

    pipe: Any
    transformers: list[Any]
    levels: tuple[float, ...]
    call: dict[str, Any]

    def sample(self, text: torch.Tensor, seed: int) -> torch.Tensor:
        """Finished latents."""
        arguments = {"output_type": "latent", **self.call, "return_dict": False}
        latents: torch.Tensor = self.pipe(
            prompt_embeds=text, generator=torch.Generator().manual_seed(seed), **arguments
        )[0]
        return latents

    def measure(
        self, text: torch.Tensor, edit: Edit, seed: int, method: Method, step: Callable[[int], None], finish: bool
    ) -> tuple[dict[float, tuple[float, CallEffects]], torch.Tensor | None]:
        """Effects by noise level, each with the level of the step where it was measured; and the finished latents."""
        found: dict[float, tuple[float, CallEffects]] = {}
        pending: dict[float, float] = {}  # timestep to noise level
        timesteps: list[float] = []
        count = len(edit.strengths.active_blocks(discover(self.transformers[0]).block_count))

        def call_of(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall | None:
            t = float(torch.as_tensor(kwargs["timestep"] if "timestep" in kwargs else args[1]).max())
            given = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]
            if not timesteps:
                timesteps[:] = [float(x) for x in self.pipe.scheduler.timesteps]
                pending.update(_nearest(timesteps, self.levels))
            if t not in pending or (edit.branch != "uncond") != _same(given, text):
                return None
            model = discover(module)
            x = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            return ModelCall(
                model,
                args,
                kwargs,
                rows=branch_rows(edit.branch, len(given)),
                sigma=t / 1000,
                new_run=lambda stack: Run(stack, model),
                prompt_count=len(given),
                grid=model.grid(x),
            )

        def done(call: ModelCall, effects: CallEffects) -> None:
            level = pending.pop(min(pending, key=lambda t: abs(t / 1000 - call.sigma)))
            found[level] = (call.sigma, effects)
            if not pending and not finish:
                raise Stop

        measurement = Measurement(call_of, done, edit, method, seed, lambda n: step(len(found) * count + n))
        latents = None
        with contextlib.ExitStack() as exits:
            for transformer in self.transformers:
                exits.enter_context(eager(is_compiled(transformer), COMPILE_SETTING))
            exits.enter_context(measurement.on(*(discover(t).module for t in self.transformers)))
            try:
                latents = self.sample(text, seed)
            except Stop:
                if getattr(self.pipe, "_all_hooks", None):  # model offload: what a pipeline does at its end
                    self.pipe.maybe_free_model_hooks()
        missing = [level for level in self.levels if level not in found]
        if missing:
            raise RuntimeError(
                f"No call of {type(self.pipe).__name__} with this prompt was seen at noise level "
                f"{', '.join(f'{x:g}' for x in missing)}, so the map could not be measured. Branch {edit.branch} "
                "needs guidance_scale above 1 when it is the negative prompt's."
            )
        return found, latents


def _nearest(timesteps: Sequence[float], levels: Sequence[float]) -> dict[float, float]:
    """The schedule's timestep nearest to each noise level.

    Raises:
        ValueError: a level is not between 0 and 1, or two share a step.
    """
    found: dict[float, float] = {}
    for level in levels:
        if not 0 < level <= 1:
            raise ValueError(f"noise_levels holds {level:g}; a noise level is above 0 and at most 1 (only noise).")
        t = min(timesteps, key=lambda t: abs(t - 1000 * level))
        if t in found:
            raise ValueError(
                f"Noise levels {found[t]:g} and {level:g} fall on the same step of the schedule (noise level "
                f"{t / 1000:.3f}). Sample with more steps, or leave one out. The schedule has "
                f"{', '.join(f'{x / 1000:.3f}' for x in timesteps)}."
            )
        found[t] = level
    return found


def _same(given: torch.Tensor, text: torch.Tensor) -> bool:
    """True when a call's text is this prompt, in the call's dtype."""
    return given.shape[1:] == text.shape[1:] and torch.equal(given[:1], text[:1].to(given.device, given.dtype))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _strengths(blocks: str | BlockStrengths | dict[int, float] | list[float]) -> BlockStrengths:
    return parse_selection(blocks) if isinstance(blocks, str) else as_block_strengths(blocks)


def _encoded(pipe: Any, prompt: Any, name: str) -> torch.Tensor:
    """Embeddings [1, tokens, width] of a prompt.

    Raises:
        ValueError: a string, and the pipeline has no text encoder.
        TypeError: neither a string nor a tensor.
    """
    if torch.is_tensor(prompt):
        return prompt[None] if prompt.dim() == 2 else prompt
    if not isinstance(prompt, str):
        raise TypeError(f"{name}: expected a string or embeddings as a tensor, got {type(prompt).__name__}.")
    if getattr(pipe, "text_encoder", None) is None:
        raise ValueError(
            f"{name} is a string, but this {type(pipe).__name__} was loaded without its text encoder. "
            "Give the embeddings, as encode_prompt returns them."
        )
    with torch.no_grad():
        encoded: torch.Tensor = pipe.encode_prompt(prompt, do_classifier_free_guidance=False)[0]
    return encoded


def _edit(pipe: Any, other: Any, options: dict[str, Any]) -> Edit:
    if isinstance(other, Edit):
        return other
    if isinstance(other, Direction | CapturedDifference):
        return Edit(source=other, label="block map", **options)
    embeds = read_text_embeds(_encoded(pipe, other, "other"), "other").detached()
    return Edit(source=embeds, label="block map", **options)  # type: ignore[arg-type]  # Edit makes it a source


def _check(transformer: Any, edit: Edit) -> None:
    model = discover(transformer)
    check_stack((edit,), model)
    if is_attached(transformer):
        raise RuntimeError(
            f"A context of inject or edited is open on this {model.name}. A block map is measured against the plain "
            "model: close the context first."
        )
    if getattr(model.module, "is_cache_enabled", False):
        raise ValueError(
            "A block map cannot be measured with a cache of diffusers, which keeps a state per block. Call "
            "disable_cache() of the transformer first."
        )


def _identity(transformers: Sequence[Any]) -> str:
    states = [dict(discover(t).module.state_dict()) for t in transformers]
    try:
        return fingerprint({"class": type(transformers[0]).__name__, "states": states}, sampled=True)
    except UnidentifiedError:  # weights that are offloaded to disk
        return ""

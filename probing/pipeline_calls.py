"""The calls that a diffusers pipeline makes of its transformers, found by noise level and prompt."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..patching.arguments import batch_of, encoded
from ..patching.fingerprint import known_identity
from ..patching.hosts import diffusers
from ..patching.hosts.attachment import COMPILE_SETTING, is_attached
from ..patching.hosts.compile import eager, is_compiled
from ..patching.strengths import is_within
from ..patching.wan_model import discover


class Stop(BaseException):
    """Ends a pipeline's call. No `except Exception` sees it; every `finally` runs."""


@dataclass(eq=False)
class Pipeline:
    """A pipeline with the arguments of its calls.

    Args:
        pipe: a diffusers Wan pipeline.
        call: arguments of each call, but for prompt and seed.

    Raises:
        ValueError: it has no transformer, or one with a cache of diffusers.
        RuntimeError: a context of `inject` is open on one of them.
    """

    pipe: Any
    call: dict[str, Any]

    def __post_init__(self) -> None:
        found = (getattr(self.pipe, name, None) for name in ("transformer", "transformer_2"))
        self.transformers = [t for t in found if t is not None]
        if not self.transformers:
            raise ValueError(f"{type(self.pipe).__name__} has no transformer. Give a Wan pipeline of diffusers.")
        self.models = [discover(transformer) for transformer in self.transformers]
        for model, transformer in zip(self.models, self.transformers, strict=True):
            if is_attached(transformer):
                raise RuntimeError(
                    f"A context of inject or edited is open on this {model.name}. What is measured here is the plain "
                    "model: close the context first."
                )
            module: Any = model.module
            if getattr(module, "is_cache_enabled", False):
                raise ValueError(
                    "Blocks cannot be measured with a cache of diffusers, which keeps a state per block. Call "
                    "disable_cache() of the transformer first."
                )

    def encode(self, prompt: Any, name: str) -> torch.Tensor:
        """Embeddings [1, tokens, width] of a prompt.

        Raises:
            ValueError: text, and the pipeline has no text encoder.
            EmbedsError: neither text nor a tensor.
        """
        return batch_of(encoded(self.pipe, prompt, name), name)

    def sample(self, text: torch.Tensor, seed: int) -> torch.Tensor:
        """Finished latents.

        Raises:
            ValueError: guidance needs a negative prompt, and the pipeline has no text encoder to make one.
        """
        self._check_negative()
        arguments = {"output_type": "latent", **self.call, "return_dict": False}
        latents: torch.Tensor = self.pipe(
            prompt_embeds=text, generator=torch.Generator().manual_seed(seed), **arguments
        )[0]
        return latents

    def _check_negative(self) -> None:
        scale = self.call.get("guidance_scale", _default(self.pipe, "guidance_scale"))
        has_encoder = getattr(self.pipe, "text_encoder", self) is not None
        if has_encoder or not is_within(scale, 1.0, math.inf) or scale == 1.0:
            return
        if self.call.get("negative_prompt_embeds") is None:
            raise ValueError(
                f"guidance_scale is {scale:g}, which needs a negative prompt, and this pipeline has no text encoder. "
                "Give negative_prompt_embeds (of the tiny model, tiny_wan.encode('')), or guidance_scale=1."
            )

    @contextlib.contextmanager
    def stoppable(self, inside: bool) -> Iterator[None]:
        """Around `sample`: a Stop ends it quietly, with what a pipeline does at its end.

        Args:
            inside: hooks inside of blocks are to be reached, so compiled blocks run eagerly.
        """
        with contextlib.ExitStack() as exits:
            for transformer in self.transformers:
                compiled = inside and any(map(is_compiled, transformer.blocks))
                exits.enter_context(eager(COMPILE_SETTING, whole=is_compiled(transformer), inside=compiled))
            try:
                yield
            except Stop:
                if getattr(self.pipe, "_all_hooks", None):  # model offload
                    self.pipe.maybe_free_model_hooks()

    def identity(self) -> str:
        """`host:digest` of the transformers' weights; empty when unavailable, as when they are offloaded to disk."""
        return known_identity(diffusers, self.pipe)


class Due:
    """Which calls of one run of a pipeline are to be measured: those nearest to noise levels, with one prompt.

    Args:
        pipeline: whose run it is.
        levels: noise levels.
        text: the prompt of the calls.
        other_text: calls with any other text, the negative prompt's, are meant instead.
    """

    def __init__(self, pipeline: Pipeline, levels: Sequence[float], text: torch.Tensor, other_text: bool) -> None:
        self._pipeline, self._levels = pipeline, tuple(levels)
        self._text, self._other_text = text, other_text
        self._pending: dict[float, float] | None = None  # noise level asked for, by timestep

    def level(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float, float] | None:
        """The level that a call of a transformer is for, and the one that it is at; None when it is not due.

        Raises:
            ValueError: see `nearest_timesteps`.
        """
        t = float(torch.as_tensor(kwargs["timestep"] if "timestep" in kwargs else args[1]).max())
        if self._pending is None:
            timesteps = [float(x) for x in self._pipeline.pipe.scheduler.timesteps]
            self._pending = nearest_timesteps(timesteps, self._levels)
        if t not in self._pending or _same(text_of(args, kwargs), self._text) == self._other_text:
            return None
        return self._pending[t], t / 1000

    def done(self, level: float) -> bool:
        """Note that a level is measured; True when none is left."""
        self._pending = {t: other for t, other in (self._pending or {}).items() if other != level}
        return not self._pending

    def check_all(self) -> None:
        """After the run: raise RuntimeError if a level was not met."""
        if self._pending == {}:
            return
        missed = ", ".join(f"{level:g}" for level in (self._pending or dict.fromkeys(self._levels, 0.0)).values())
        raise RuntimeError(
            f"No call of {type(self._pipeline.pipe).__name__} with this prompt was seen at noise level {missed}, so "
            "nothing was measured there. An edit of branch uncond needs guidance_scale above 1."
        )


def _default(pipe: Any, name: str) -> Any:
    """What an argument of a pipeline's call is when it is not given."""
    found = inspect.signature(type(pipe).__call__).parameters.get(name)
    return None if found is None else found.default


def text_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """The text of a call of a transformer."""
    found: torch.Tensor = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]
    return found


def latents_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """The latents of a call of a transformer."""
    found: torch.Tensor = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    return found


def checked_levels(levels: Any) -> tuple[float, ...]:
    """The noise levels of an argument.

    Raises:
        ValueError: none, or something else than numbers above 0 and at most 1.
    """
    given = tuple(levels) if isinstance(levels, Iterable) and not isinstance(levels, str) else ()
    if not given or not all(is_within(level, 0.0, 1.0) and level > 0.0 for level in given):
        raise ValueError(
            f"noise_levels: {levels!r} are no noise levels. Give numbers above 0 and at most 1 (only noise), as in "
            "(0.8, 0.4)."
        )
    return given


def nearest_timesteps(timesteps: Sequence[float], levels: Sequence[float]) -> dict[float, float]:
    """The schedule's timestep nearest to each noise level, with the level.

    Raises:
        ValueError: two levels share a step.
    """
    found: dict[float, float] = {}
    for level in levels:
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

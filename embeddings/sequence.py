"""Sequences of prompts inside one host value: what an interpolation gives and a sampler plays.

In the wrapper's dict the steps stand one after the other in `prompt_embeds`, which its samplers play as prompt travel
over the frames; `interpolated_sequence` keeps the same list, and `interpolation` says how to divide it. CONDITIONING
has no travel over frames: the steps follow one another over sampling, each in its own part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .promptwise import LAYOUT_KEY, SEQUENCE_KEY, write_text_embeds
from .text_embeds import EmbedsError, is_conditioning, is_wrapper_embeds

_WINDOW = ("start_percent", "end_percent")


def write_sequence(base: Any, steps: Sequence[tuple[torch.Tensor, ...]], prompts: Sequence[str], prompt: str) -> Any:
    """The host's value with a sequence in place of its prompts.

    Args:
        base: WANVIDEOTEXTEMBEDS or CONDITIONING.
        steps: the prompts of each step, as many in each as the base has.
        prompts: a readable text per step.
        prompt: a readable text for the whole.

    Raises:
        EmbedsError: another form, or EchoShot embeddings, whose prompts are shots already.
    """
    layout = {"steps": len(steps), "prompts": len(steps[0]), "texts": list(prompts)}
    if is_wrapper_embeds(base):
        if base.get("echoshot"):
            raise EmbedsError("EchoShot prompts are shots of one video and cannot become a sequence. Remove [1], [2].")
        flat = [tensor for step in steps for tensor in step]
        return {**base, "prompt_embeds": flat, "prompt": prompt, SEQUENCE_KEY: list(flat), LAYOUT_KEY: layout}
    if is_conditioning(base):
        return [
            [tensor, {**extra, **_part(extra, k, len(steps)), LAYOUT_KEY: {**layout, "step": k, **_window(extra)}}]
            for k, (step, text) in enumerate(zip(steps, prompts, strict=True))
            for tensor, extra in write_text_embeds(base, step, text)
        ]
    raise EmbedsError("A sequence needs WANVIDEOTEXTEMBEDS or CONDITIONING.")


def _window(extra: Any) -> dict[str, Any]:
    return {key: extra[key] for key in _WINDOW if key in extra}


def _part(extra: Any, step: int, steps: int) -> dict[str, float]:
    start, end = extra.get("start_percent", 0.0), extra.get("end_percent", 1.0)
    return {
        "start_percent": start + (end - start) * step / steps,
        "end_percent": start + (end - start) * (step + 1) / steps,
    }


def read_sequence(value: Any, name: str = "sequence") -> list[Any]:
    """The steps of a sequence, each as a host value of its own with the keys of the whole.

    Raises:
        EmbedsError: the value holds no sequence.
    """
    if is_wrapper_embeds(value) and SEQUENCE_KEY in value:
        rest = {key: v for key, v in value.items() if key not in (SEQUENCE_KEY, LAYOUT_KEY)}
        flat, layout = value[SEQUENCE_KEY], value[LAYOUT_KEY]
        n = layout["prompts"]
        return [
            {**rest, "prompt_embeds": list(flat[k * n : (k + 1) * n]), "prompt": text}
            for k, text in enumerate(layout["texts"])
        ]
    if is_conditioning(value) and value and all(LAYOUT_KEY in extra for _, extra in value):
        if len({(e[LAYOUT_KEY]["steps"], e[LAYOUT_KEY]["prompts"], *e[LAYOUT_KEY]["texts"]) for _, e in value}) > 1:
            raise EmbedsError(f"{name}: holds several sequences. Select from each before they are combined.")
        steps: list[Any] = [[] for _ in range(value[0][1][LAYOUT_KEY]["steps"])]
        for tensor, extra in value:
            rest = {key: v for key, v in extra.items() if key not in (LAYOUT_KEY, *_WINDOW)}
            steps[extra[LAYOUT_KEY]["step"]].append([tensor, {**rest, **_window(extra[LAYOUT_KEY])}])
        return steps
    raise EmbedsError(f"{name}: holds no sequence. Connect the output of WanVideo Vector Interpolation.")

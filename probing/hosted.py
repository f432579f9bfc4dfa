"""Block maps and readings of words on ComfyUI's hosts, by the same measurement as in Python."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..embeddings.text_embeds import TextEmbeds
from ..patching.edit import Edit, EditStack
from ..patching.grid import Size
from ..patching.hosts.compile import edits_inside
from ..patching.hosts.plain_runs import HostCall, run_of, sample_plain, transformer_of
from ..patching.wan_model import discover
from .block_map import BlockMap
from .collect import Collected, measured_blocks, verified_blocks
from .distances import relative_l2
from .effects import CallEffects, Measurement
from .forks import ModelCall, at_block
from .reader import PADDING, BlockReading, DueReading, WordReader, reading_calls
from .token_reading import TokenReading, collected_reading, word_tokens

STEPS = 8
_SHIFT = 5.0
_TOLERANCE = 2e-3  # hosts round noise levels to a thousandth


def schedule(levels: Sequence[float], steps: int = STEPS, finish: bool = False) -> list[float]:
    """Noise levels of a plain run that meets the given ones: `steps` shifted steps, those levels among them, and 0.

    Args:
        levels: 1 (only noise) to 0.
        finish: go on to the end; otherwise the run ends after the lowest level.

    Raises:
        ValueError: a level out of range, or two that are too close to be told apart.
    """
    for level in levels:
        if not 0 < level <= 1:
            raise ValueError(f"noise_levels holds {level:g}; a noise level is above 0 and at most 1 (only noise).")
    wanted = sorted(levels, reverse=True)
    if any(a - b < 2 * _TOLERANCE for a, b in itertools.pairwise(wanted)):
        raise ValueError(f"noise_levels {', '.join(f'{x:g}' for x in levels)}: two are too close to be told apart.")
    even = [1 - i / steps for i in range(steps)]
    shifted = [_SHIFT * x / (1 + (_SHIFT - 1) * x) for x in even]
    near = 0.25 / steps
    others = [x for x in shifted if all(abs(x - level) > near for level in wanted) or (x == 1.0 and 1.0 not in wanted)]
    lowest = wanted[-1]
    return [*sorted({*wanted, *(x for x in others if finish or x > lowest)}, reverse=True), 0.0]


class _Levels:
    """Which calls of one run are at the levels that are wanted."""

    def __init__(self, levels: Sequence[float]) -> None:
        self._pending = list(levels)

    def at(self, sigma: float) -> float | None:
        """The level of a call, once."""
        near = [level for level in self._pending if abs(level - sigma) < _TOLERANCE]
        if near:
            self._pending.remove(near[0])
        return near[0] if near else None

    def check_all(self, name: str) -> None:
        if self._pending:
            missed = ", ".join(f"{level:g}" for level in self._pending)
            raise RuntimeError(f"{name} was not called at noise level {missed}, so nothing was measured there.")


def hosted_map(
    model: Any,
    text_embeds: Any,
    edit: Edit,
    noise_levels: Sequence[float],
    seeds: Sequence[int],
    *,
    size: Size,
    image_embeds: Any = None,
    verify: int = 0,
    identity: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BlockMap:
    """The block map of an edit on a MODEL or WANVIDEOMODEL.

    The plain prompt is sampled without guidance; edits that the model carries are left out.

    Args:
        text_embeds: the prompt that is sampled.
        edit: for the prompt's branch.
        noise_levels, seeds, verify, progress: see `block_map`.
        size, image_embeds: see `sample_plain`.
        identity: of the model.

    Raises:
        ValueError: an edit of the negative prompt alone, or inputs that do not fit.
    """
    if edit.branch == "uncond":
        raise ValueError(
            "branch is uncond, but a map is measured on the prompt that is sampled. Connect the negative prompt to "
            "text_embeds, and set branch to cond."
        )
    target = transformer_of(model)
    chosen = measured_blocks(edit, target, verify)
    sigmas, inside = schedule(noise_levels, finish=verify > 0), edits_inside((edit,), target)
    collected = Collected(seeds, noise_levels)
    total, done = len(seeds) * (len(noise_levels) * len(chosen) + verify), 0
    plain: dict[int, torch.Tensor] = {}

    def sample(seed: int, stack: EditStack | None = None) -> torch.Tensor:
        return sample_plain(
            model, text_embeds, sigmas, size=size, seed=seed, image_embeds=image_embeds, stack=stack, inside=inside
        )

    for seed in seeds:
        found: dict[float, tuple[float, CallEffects]] = {}
        levels, asked = _Levels(noise_levels), [0.0]

        def call_of(module: Any, args: Any, kwargs: Any, levels: _Levels = levels, asked: list[float] = asked) -> Any:
            here = discover(module)
            call = HostCall(here, args, kwargs)
            level = levels.at(call.sigma)
            if level is None:
                return None
            asked[0] = level
            return ModelCall(
                here,
                args,
                kwargs,
                rows=call.rows,
                sigma=call.sigma,
                new_run=lambda stack: run_of(model, stack, here),
                prompt_count=call.prompt_count,
                grid=call.grid,
            )

        def measured(_: Any, effects: CallEffects, found: Any = found, asked: list[float] = asked) -> None:
            found[asked[0]] = (asked[0], effects)

        def step(n: int, found: Any = found, done: int = done) -> None:
            progress(done + len(found) * len(chosen) + n, total)

        with Measurement(call_of, measured, edit, seed=seed, step=step).on(target.module):
            plain[seed] = sample(seed)
        levels.check_all(target.name)
        done += len(noise_levels) * len(chosen)
        collected.add(seed, 0, found)
    finished: dict[int, tuple[float, ...]] = {}
    for index in verified_blocks(collected, chosen, verify, "forks"):
        changes = []
        for seed in seeds:
            progress(done, total)
            done += 1
            alone = EditStack((at_block(edit, index, target.block_count),))
            changes.append(relative_l2(plain[seed], sample(seed, alone)))
        finished[index] = tuple(changes)
    progress(total, total)
    return collected.result(
        edit=edit.describe(), model_name=target.name, identity=identity, method="forks", finished=finished
    )


def hosted_reading(
    model: Any,
    text_embeds: Any,
    prompt: TextEmbeds,
    words: dict[str, list[int]] | None,
    noise_levels: Sequence[float],
    seed: int,
    blocks: Sequence[int],
    *,
    size: Size,
    image_embeds: Any = None,
    identity: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TokenReading:
    """The reading of a prompt's words on a MODEL or WANVIDEOMODEL; arguments as for `hosted_map` and `read_words`.

    Args:
        prompt: what text_embeds holds.
    """
    target = transformer_of(model)
    groups = word_tokens(words, None, None, prompt.prompts[0].shape[0])
    total = len(noise_levels) * len(blocks)
    found: dict[float, dict[int, BlockReading]] = {}
    reader = WordReader(target, groups, blocks, lambda n: progress(len(found) * len(blocks) + n, total))
    levels = _Levels(noise_levels)

    def call_of(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DueReading | None:
        call = HostCall(target, args, kwargs)
        level = levels.at(call.sigma)
        return None if level is None else DueReading(level, level, reader, call.grid)

    with reading_calls([target.module], call_of, lambda level, _, readings: found.__setitem__(level, readings)):
        sample_plain(
            model, text_embeds, schedule(noise_levels), size=size, seed=seed, image_embeds=image_embeds, inside=True
        )
    levels.check_all(target.name)
    return collected_reading(
        [(level, found[level]) for level in noise_levels],
        {**groups, PADDING: []},
        target.block_count,
        seed=seed,
        model_name=target.name,
        identity=identity,
    )

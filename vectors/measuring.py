"""Both prompts of a pair in one call of a transformer: the host's own has the negative one, a second the positive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ..embeddings.text_embeds import TextEmbeds
from ..patching.active import hidden_from_compile
from ..patching.edit import Edit
from ..patching.output_change import first_tensor
from ..patching.selection import parse_selection
from ..patching.sites import SITES
from ..patching.wan_model import WanModel
from ..probing.forks import ModelCall
from .fitting import Fit


class PairMeasurement:
    """Measures a pair at a site while a host samples the negative prompt.

    The host goes on with the mean of what the model puts out for both prompts. So both are measured on one trajectory,
    which belongs to neither, and a pair the other way round gives the same tokens.

    Args:
        call_of: what a call of a module with its arguments is as a ModelCall; None when it is not to be measured.
        fit: takes in the tokens.
        site, blocks: where.
        pair: number of the pair.
        positive: its positive prompt.
        tokens: real tokens of the negative and the positive prompt, for sites of the text.
        step: called after each measured call; may raise to stop.
    """

    def __init__(
        self,
        call_of: Callable[[Any, tuple[Any, ...], dict[str, Any]], ModelCall | None],
        fit: Fit,
        site: str,
        blocks: Sequence[int],
        pair: int,
        positive: TextEmbeds,
        tokens: tuple[int, int],
        step: Callable[[], None] = lambda: None,
    ) -> None:
        self._call_of, self._fit, self._site, self._blocks = call_of, fit, SITES[site], list(blocks)
        self._pair, self._tokens, self._step = pair, tokens, step
        self._edit = Edit(source=positive, strengths=parse_selection("all"), label="positive prompt")  # type: ignore[arg-type]
        self._busy = False
        self._sides: tuple[float, bool] | None = None  # noise level of the call in progress, and which prompt it has
        self._other: torch.Tensor | None = None  # what the positive prompt gave

    @contextmanager
    def on(self, *models: WanModel) -> Iterator[None]:
        """While it is open, calls of the models are measured."""
        with ExitStack() as exits:
            for model in models:
                module = model.module
                before, after = hidden_from_compile(self._before), hidden_from_compile(self._after)
                exits.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                exits.callback(module.register_forward_hook(after).remove)
                for index in self._blocks:
                    exits.callback(self._hook(self._site.module(model.blocks[index]), index).remove)
            yield

    def _hook(self, module: nn.Module, index: int) -> Any:
        def take(x: Any) -> None:
            if self._sides is None:
                return
            level, positive = self._sides
            tokens = (x[0] if isinstance(x, tuple) else x)[0]
            if self._site.reads_text:
                tokens = tokens[: self._tokens[positive]]
            self._fit.add(index, level, self._pair, positive, tokens)

        if self._site.end == "input":
            return module.register_forward_pre_hook(hidden_from_compile(lambda module, args: take(args[0])))
        return module.register_forward_hook(hidden_from_compile(lambda module, args, output: take(output)))

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._busy:
            return
        call = self._call_of(module, args, kwargs)
        if call is None:
            return
        self._busy = True
        self._sides = call.sigma, True
        try:
            with call.edited(self._edit):
                self._other = call.output().clone()
        finally:
            self._busy, self._sides = False, None
        self._sides = call.sigma, False

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._busy or self._sides is None or self._other is None:
            return
        _mix_in(output, self._other)
        self._sides = self._other = None
        self._step()


def _mix_in(output: Any, other: torch.Tensor) -> None:
    """Make what a transformer returns the mean of it and another, in place: a copy would not reach the host."""
    if isinstance(output, list):
        for one, two in zip(output, other, strict=True):
            one.add_(two).mul_(0.5)
    elif isinstance(output, tuple):
        _mix_in(output[0], other)
    else:
        first_tensor(output).add_(other).mul_(0.5)

"""Edits of the text in a region of the video: cross-attention is asked twice, and its two answers are mixed there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .active import ContextEdit, Hook, hidden_from_compile
from .wan_model import ContextArgument, cross_attention


class MaskedContextEdit(ContextEdit):
    """Changes the text that tokens in a mask read.

    After the block's cross-attention has run, it runs once more with the edited text; its output takes the place of the
    first one where the mask is. Other edits inside of cross-attention act in both runs; of several masked edits each
    starts from the text that edits without a mask left, and they are laid over one another in order.
    """

    def hooks(self, block: nn.Module, index: int, argument: ContextArgument | None = None) -> Iterator[Hook]:
        if index not in self.blocks:
            return
        reads = ContextArgument(self.run.model.context.name, 1)

        def mix(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> Any:
            if not self.acts or self.run.asks_again:
                return None
            main = reads.read(args, kwargs)
            edited = self.apply(index, main, self.value(index, main), self.first(main))
            other, named = reads.replace(args, kwargs, edited)
            self.run.asks_again = True
            try:
                value = module(*other, **named)
            finally:
                self.run.asks_again = False
            rows = self.touched(output, of_text=False)
            out = output.clone()
            places, weights = self.masked(output)
            for row in range(len(output)) if rows is None else rows:
                before, after = output[row, places], value[row, places]
                out[row, places] = after if weights is None else torch.lerp(before, after, weights)
            return out

        attention = cross_attention(block)
        yield attention.register_forward_hook(hidden_from_compile(mix), with_kwargs=True)

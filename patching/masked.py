"""Edits of the text in a region of the video: cross-attention is asked twice, and its two answers are mixed there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .active import ContextEdit, Hook, Part, hidden_from_compile, part_of
from .mask import shares
from .wan_model import ContextArgument, cross_attention


class MaskedContextEdit(ContextEdit):
    """Changes the text that tokens in a mask read.

    After the block's cross-attention has run, it runs once more with the edited text; its output takes the place of the
    first one where the mask is. Other edits inside of cross-attention act in both runs. Each of several masked edits
    starts from the text that edits without a mask left; where masks meet, their answers are mixed by weight.
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
            for row in range(len(output)) if rows is None else rows:
                places, weights = self.share(index, row, output)
                before, after = output[row, places], value[row, places]
                out[row, places] = after if weights is None else torch.lerp(before, after, weights)
            return out

        attention = cross_attention(block)
        yield attention.register_forward_hook(hidden_from_compile(mix), with_kwargs=True)

    def share(self, index: int, row: int, x: torch.Tensor) -> Part:
        """The tokens in the mask, with weights beside those of the other masked edits that act there."""
        together = [edit for edit in self.run.masked if index in edit.blocks and any(r == row for r, _ in edit.rows)]
        if len(together) < 2:
            return self.masked(x)
        key = tuple(id(edit) for edit in together), id(self), self.grid, x.device, x.dtype
        if key not in self.run.parts:
            of_each = shares([edit.token_weights(x) for edit in together])
            self.run.parts[key] = part_of(of_each[together.index(self)], x)
        return self.run.parts[key]

"""Edits of the text in a region of the video: cross-attention is asked twice, and its two answers are mixed there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .active import ContextEdit, Hook, Part, hidden_from_compile, part_of
from .wan_model import ContextArgument, cross_attention

Shared = tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]
"""Places of tokens, this edit's weights [tokens, 1] there, and those of each other edit."""


class MaskedContextEdit(ContextEdit):
    """Changes the text that tokens in a mask read.

    After the block's cross-attention has run, it runs once more with the edited text; its output takes the place of the
    first one where the mask is. Other edits inside of cross-attention act in both runs. Each of several masked edits
    starts from the text that edits without a mask left. Where masks meet, each adds its change by weight; where prompts
    would take away more than all of the main one, by their shares.
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
            together = [edit for edit in self.run.masked if index in edit.blocks and edit.rows]
            if together[0] is self:  # the first to act in this call
                self.run.unmasked = output
            base = self.run.unmasked if len(together) > 1 else output
            if together[-1] is self:
                self.run.unmasked = None
            assert base is not None  # noqa: S101  # from the first one
            rows = self.touched(output, of_text=False)
            out = output.clone()
            for row in range(len(output)) if rows is None else rows:
                others = [edit for edit in together if edit is not self and any(r == row for r, _ in edit.rows)]
                (places, weights), shared = self.share(others, output)
                before, after = base[row, places], value[row, places]
                out[row, places] = after if weights is None else torch.lerp(before, after, weights)
                if shared is not None:
                    places, weights, of_others = shared
                    taken = weights * self.taken(index)
                    for edit, theirs in zip(others, of_others, strict=True):
                        taken = taken + theirs * edit.taken(index)
                    change = value[row, places] - base[row, places]
                    out[row, places] = out[row, places] + weights / taken.clamp(min=1) * change
            return out

        attention = cross_attention(block)
        yield attention.register_forward_hook(hidden_from_compile(mix), with_kwargs=True)

    def taken(self, index: int) -> float:
        """How much of the main prompt the edit takes away, from 0 to 1; what adds to it takes nothing."""
        return min(abs(self.factor * self.strengths[index]), 1.0) if self.edit.text is not None else 0.0

    def share(self, others: list[MaskedContextEdit], x: torch.Tensor) -> tuple[Part, Shared | None]:
        """The tokens that are in this edit's mask alone, and those that are in another's as well."""
        if not others:
            return self.masked(x), None
        key = tuple(id(edit) for edit in others), id(self), self.grid, x.device, x.dtype
        if key not in self.run.shared:
            own, *theirs = (edit.token_weights(x) for edit in (self, *others))
            meet = (own > 0) & (torch.stack(theirs) > 0).any(dim=0)
            places = meet.nonzero()[:, 0]
            found = [weights[places, None].to(x.device, x.dtype) for weights in (own, *theirs)]
            shared = (places.to(x.device), found[0], found[1:]) if len(places) else None
            self.run.shared[key] = part_of(torch.where(meet, 0.0, own), x), shared
        return self.run.shared[key]

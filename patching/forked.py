"""Edits towards what a tensor inside of cross-attention is with another text and the same hidden state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .active import ActiveEdit, Hook, hidden_from_compile
from .passes import extra_pass
from .wan_model import ContextArgument, cross_attention


class ForkedEdit(ActiveEdit):
    """Changes a tensor of cross-attention towards what it is with another text and the same hidden state."""

    _value: torch.Tensor | None = None
    _records = False

    def end(self) -> None:
        super().end()
        self._value = None

    def hooks(self, block: nn.Module, index: int) -> Iterator[Hook]:
        if index not in self.blocks:
            return
        leaf = self.site.module(block)
        reads = ContextArgument(self.run.model.context.name, 1)

        def text_leaf(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> Any:
            if not self.acts or not self.first_in_call:
                return None
            with extra_pass():
                value = module(self.run.prompts.context(self, args[0]))
            return self.apply(index, output, value)

        def fork(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self.acts:
                return
            other, named = reads.replace(args, kwargs, self.run.prompts.context(self, reads.read(args, kwargs)))
            self._records = True
            try:
                with extra_pass():
                    module(*other, **named)
            finally:
                self._records = False

        def at_leaf(x: torch.Tensor) -> torch.Tensor | None:
            if self._records:
                self._value = x
            elif self.acts:
                if self._value is None or self._value.shape != x.shape:
                    raise RuntimeError(
                        f"{self.edit.name}: site {self.edit.site} of {self.run.model.name} was not reached with the "
                        "injected prompt. Use site context with this model."
                    )
                value, self._value = self._value, None
                return self.apply(index, x, value)
            return None

        if self.site.reads_text:
            yield self.attention_calls(block)
            yield leaf.register_forward_hook(hidden_from_compile(text_leaf))
            return
        attention = cross_attention(block)
        yield attention.register_forward_pre_hook(hidden_from_compile(fork), with_kwargs=True)
        if self.site.end == "input":

            def change_input(module: nn.Module, args: tuple[Any, ...]) -> Any:
                x = at_leaf(args[0])
                return None if x is None else (x, *args[1:])

            yield leaf.register_forward_pre_hook(hidden_from_compile(change_input))
        else:

            def change_output(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> Any:
                return at_leaf(output)

            yield leaf.register_forward_hook(hidden_from_compile(change_output))

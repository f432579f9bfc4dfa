"""Edits of the hidden state by a second stream, which runs the same blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .active import ActiveEdit, Hook, hidden_from_compile
from .passes import extra_pass


class StreamEdit(ActiveEdit):
    """Runs a second hidden state through the blocks, with the injected prompt as its text, and mixes the two.

    It starts as a copy of the main hidden state before the first block and ends after the last chosen block. Nothing is
    captured beforehand, so size and noise level are always right; it costs one more run of those blocks.
    """

    _x: torch.Tensor | None = None
    passed: torch.Tensor | None = None  # the stream after the last chosen block, until the call ends

    @property
    def last(self) -> int:
        return self.blocks[-1] if self.blocks else -1

    def end(self) -> None:
        super().end()
        self._x = self.passed = None

    def resume(self, stream: torch.Tensor, main: torch.Tensor) -> None:
        """Go on with a stream that has passed the blocks so far, beside the main hidden state that they left."""
        self._x, self.run.left = stream, main

    def hooks(self, block: nn.Module, index: int) -> Iterator[Hook]:
        if index > self.last:
            return
        model = self.run.model

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self.acts:
                return
            if self._x is None:
                self._x = args[0].clone()  # a host may change its own in place
            elif args[0] is not self.run.left:
                raise RuntimeError(
                    f"{self.edit.name}: {model.name} changes the hidden state between its blocks, which a second "
                    "stream cannot follow. Use injection_mode context, or switch off what acts there (controlnets, "
                    "audio, faces)."
                )

        def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if not self.acts or self._x is None:
                return None
            x = output[0] if isinstance(output, tuple) else output
            text = self.run.prompts.context(self, model.context.read(args, kwargs))
            own_args, own_kwargs = model.context.replace(args, kwargs, text)
            called = model.module.blocks[index]  # type: ignore[index, operator]  # as the host calls it, compiled or not
            with extra_pass():
                second = called(self._x, *own_args[1:], **own_kwargs)  # type: ignore[operator]
            self._x = second[0] if isinstance(second, tuple) else second
            if index in self.blocks:
                mixed = self.apply(index, x, self._x)
                if mixed is self._x:
                    mixed = mixed.clone()  # a host may change its own in place
            else:
                mixed = x
            if index == self.last:
                self.passed, self._x = self._x, None
            self.run.left = mixed
            if mixed is x:
                return None
            return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

        yield block.register_forward_pre_hook(hidden_from_compile(enter), with_kwargs=True)
        yield block.register_forward_hook(hidden_from_compile(leave), with_kwargs=True)

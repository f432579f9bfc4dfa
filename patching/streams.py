"""Live two-stream mixing: the hidden state of another prompt, run beside the main one through the same blocks.

The second stream starts as a copy of the main hidden state before the first block that runs, and passes through every
block up to the last one that mixes, with the injected prompt as its context. Nothing is captured beforehand, so
resolution and noise level are always right; the cost is one more run of those blocks, and the memory one hidden state.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

_running = threading.local()


def is_running() -> bool:
    """True while a block runs for a second stream: hooks then leave it alone."""
    return getattr(_running, "active", False)


def note_left(x: torch.Tensor | None) -> None:
    """Note the hidden state that the last block handed back to the host, after every edit of it."""
    _running.left = x


def last_left() -> torch.Tensor | None:
    return getattr(_running, "left", None)


class SecondStream:
    """One injected prompt's hidden state [batch, tokens, dim] during one model call.

    Args:
        strengths: mixing strength per block; the stream ends at the last one that is not 0.
    """

    def __init__(self, strengths: Sequence[float]) -> None:
        self._strengths = strengths
        self._last = max((i for i, s in enumerate(strengths) if s != 0.0), default=-1)
        self._x: torch.Tensor | None = None

    def covers(self, index: int) -> bool:
        """True when the stream has to run block `index`."""
        return index <= self._last

    def enter(self, x: torch.Tensor) -> None:
        """Start from the main hidden state before the first block; a host may change its own in place, so copy."""
        if self._x is None:
            self._x = x.clone()

    def advance(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run a block for this stream.

        Args:
            block: the block as the host calls it, compiled or not.
            args: what the host passed after the hidden state, with this stream's context.
            kwargs: likewise.
        """
        _running.active = True
        try:
            output = block(self._x, *args, **kwargs)
        finally:
            _running.active = False
        self._x = output[0] if isinstance(output, tuple) else output

    def mix(self, index: int, x: torch.Tensor, rows: Sequence[int] | None) -> torch.Tensor:
        """(1 - s) x + s x_second after block `index`; at strength 1 the second state itself, bit for bit.

        Args:
            index: the block.
            x: main hidden state; not changed.
            rows: rows of the batch that are mixed; None for all of them.
        """
        strength, second = self._strengths[index], self._x
        if second is None or strength == 0.0:
            return x
        if index == self._last:
            self._x = None
        if rows is None:
            if strength == 1.0:
                return second if index == self._last else second.clone()
            return torch.lerp(x, second, strength)
        out = x.clone()
        for row in rows:
            part = slice(row, row + 1)
            out[part] = second[part] if strength == 1.0 else torch.lerp(x[part], second[part], strength)
        return out

"""What an edit did, measured on the device while sampling and read once per step.

Used only when an edit's log level is `verbose` or `trace`, the environment asks for it, or an edit that is not `off`
has an observer.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from .edit import LOG_LEVELS, Edit, LogLevel

log = logging.getLogger("wanvideo_activation_editor")

DEBUG_VARIABLE = "WAN_ACTIVATION_DEBUG"
VERBOSE_VARIABLE = "WAN_ACTIVATION_VERBOSE"

Observer = Callable[[Mapping[str, Any]], None]
"""Called while sampling with plain values; see Observation."""


def effective_log_level(edit: Edit) -> LogLevel:
    """The edit's own level, or a higher one that the environment asks for.

    WAN_ACTIVATION_DEBUG raises it to `basic`, WAN_ACTIVATION_VERBOSE to `verbose`; both are read at each run.
    """
    levels = [LOG_LEVELS.index(edit.log_level)]
    if _is_set(DEBUG_VARIABLE):
        levels.append(LOG_LEVELS.index("basic"))
    if _is_set(VERBOSE_VARIABLE):
        levels.append(LOG_LEVELS.index("verbose"))
    return LOG_LEVELS[max(levels)]


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "no", "off")


@dataclass(frozen=True)
class _Entry:
    """A measured block of one edit: the measurement, and what the log says of it."""

    block: int
    edit: object
    measured: torch.Tensor
    what: str
    of: str
    shape: str
    logged: bool


def call_stack(most: int = 12) -> str:
    """The innermost functions that led here, outermost first, without torch's and this pack's own."""
    own = __name__.removesuffix("patching.statistics")
    names: list[str] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and len(names) < most:
        module = str(frame.f_globals.get("__name__", "?"))
        if not module.startswith(("torch.", own)):
            code = frame.f_code
            name = getattr(code, "co_qualname", code.co_name)  # Python 3.11
            names.append(f"{module.rpartition('.')[2]}.{name}:{frame.f_lineno}")
        frame = frame.f_back
    return " > ".join(reversed(names))


class StepStatistics:
    """Collects one measurement per edit and block of a model call and logs them together."""

    def __init__(self) -> None:
        self._traced: set[int] = set()
        self._label: Callable[[], str] = str
        self._entries: list[_Entry] = []
        self._output: torch.Tensor | None = None

    def begin(self, label: Callable[[], str]) -> None:
        """Log what the last model call collected and start the next one."""
        self.flush()
        self._label = label

    def record(
        self,
        block: int,
        edit: object,
        main: torch.Tensor,
        edited: torch.Tensor,
        rows: Sequence[int],
        *,
        what: str = "context",
        logged: bool = True,
        trace: bool = False,
        real: torch.Tensor | None = None,
    ) -> None:
        """Measure the touched rows of `edited` against `main` [batch, tokens, dim]; no host sync.

        Args:
            edit: what made the change.
            what: name of the tensors in the log.
            logged: write a line for the block.
            trace: with shape, type and device of the tensor and, once per edit, the calls through which the host came.
            real: [batch, tokens], true where a text has a token; padding and image tokens are not measured then.
        """
        index = torch.tensor(rows, device=main.device)
        a, b = main.index_select(0, index).float(), edited.index_select(0, index).float()
        if real is not None:
            counted = real.index_select(0, index).to(a.dtype).unsqueeze(-1)
            a, b = a * counted, b * counted
        measured = torch.stack([a.norm(), b.norm(), (b - a).norm()])
        if trace and id(edit) not in self._traced:
            self._traced.add(id(edit))
            log.info("Block %d was called through %s", block, call_stack())
        of = " of real tokens" if real is not None else ""
        shape = f", {what} {list(edited.shape)} {edited.dtype} on {edited.device}" if trace else ""
        self._entries.append(_Entry(block, edit, measured, what, of, shape, logged))

    def record_output(self, plain: torch.Tensor, edited: torch.Tensor) -> None:
        """Measure the model's output against that without edits; no host sync."""
        a, b = plain.float(), edited.float()
        self._output = torch.stack([a.norm(), (b - a).norm()])

    def flush(self) -> tuple[list[tuple[int, object, float]], float | None]:
        """Read the measurements of the finished call and log them, where an edit asks for it.

        Returns:
            Block, edit and relative L2 distance of the edited tensor from what was there, per recorded block; and the
            same of the model's output, None when it was not measured.
        """
        output, self._output = self._output, None
        if not self._entries:
            return [], None
        values = torch.stack([entry.measured for entry in self._entries]).tolist()
        label = self._label() if any(entry.logged for entry in self._entries) else ""
        changes = []
        for entry, (before, after, distance) in zip(self._entries, values, strict=True):
            changes.append((entry.block, entry.edit, distance / (before or 1.0)))
            if entry.logged:
                log.info(
                    "%s, block %d: %s%s changed by %.4f (relative L2), norm %.4g before, %.4g after%s",
                    label,
                    entry.block,
                    entry.what,
                    entry.of,
                    distance / (before or 1.0),
                    before,
                    after,
                    entry.shape,
                )
        moved = None
        if output is not None:
            plain, distance = output.tolist()
            moved = distance / (plain or 1.0)
            if label:
                log.info("%s: the model's output changed by %.4f (relative L2)", label, moved)
        self._entries.clear()
        return changes, moved


class Observation:
    """What one edit did in one run, told to its observer.

    A message has `phase` (`step`, then `end` or, after an error or an interrupt, `stopped`), `step` (steps in which
    the edit acted so far), `active` and `blocks` (edited blocks and all of them) and `change`: how far all edits
    together move the model's output, as relative L2, where it was measured last; at the end the mean of what was
    measured. The last message also has `changes`: per block, the relative L2 change of the tensor at the edit's site.
    Changes are None where nothing was measured or the values were not finite.

    Args:
        observer: gets the messages.
        strengths: the edit's strength per block.
    """

    def __init__(self, observer: Observer, strengths: Sequence[float]) -> None:
        self._observer = observer
        self._blocks, self._active = len(strengths), sum(s != 0.0 for s in strengths)
        self._label: str | None = None
        self._step = 0
        self._changes: list[list[float]] = [[] for _ in strengths]
        self._outputs: list[float] = []

    def call(self, label: str, changes: Mapping[int, float], output: float | None = None) -> None:
        """A model call in which the edit acted has ended; calls with one label are one step, told once."""
        for block, change in changes.items():
            self._changes[block].append(change)
        if output is not None:
            self._outputs.append(output)
        if label != self._label:
            self._label = label
            self._step += 1
            self._tell("step", len(changes) or self._active, change=_mean(self._outputs[-1:]))

    def end(self, completed: bool) -> None:
        """The run has ended."""
        per_block = [_mean(c) for c in self._changes]
        measured = [c for c in per_block if c is not None]
        active = len(measured) or self._active
        self._tell("end" if completed else "stopped", active, change=_mean(self._outputs), changes=per_block)

    def _tell(self, phase: str, active: int, **more: Any) -> None:
        self._observer({"phase": phase, "step": self._step, "active": active, "blocks": self._blocks, **more})


def _mean(values: Iterable[float]) -> float | None:
    """The mean of the finite values, or None; JSON has no other numbers."""
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else None

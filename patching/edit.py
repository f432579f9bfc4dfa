"""Edits and the edit stack that a model carries in its `transformer_options`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..embeddings import TextEmbeds
from .addition import ActivationAddition, HiddenDelta
from .operations import Blend, Operation
from .strengths import BlockStrengths
from .transforms import ContextTransform

KEY = "wan_activation_editor"
"""Key of the EditStack in `transformer_options` and of its description in text embeds."""

Branch = Literal["cond", "uncond", "both"]
Site = Literal["context", "hidden"]
LogLevel = Literal["off", "basic", "verbose", "trace"]
BRANCHES: tuple[Branch, ...] = ("cond", "uncond", "both")
Observer = Callable[[Mapping[str, Any]], None]
"""Called while sampling with plain values; see statistics.Observation."""
LOG_LEVELS: tuple[LogLevel, ...] = ("off", "basic", "verbose", "trace")

_ROUNDING = 4e-3  # schedulers round their noise levels; a step of a 100-step run is 0.01


@dataclass(frozen=True)
class Window:
    """Part of the sampling run in which an edit acts, as fractions of it.

    0 is the first step (most noise), 1 the end. The start is included, the end is not, so that
    windows 0-0.5 and 0.5-1 share no step; an end of 1 includes everything to the last step. Progress is
    read off the noise level: in a run of N evenly scheduled steps, step i is at i / N. Schedules that space
    their steps otherwise (beta, karras, distilled ones) have steps where their noise level puts them.
    """

    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.start < self.end <= 1.0):
            raise ValueError(
                f"The window runs from {self.start!r} to {self.end!r}; "
                "start_percent must be at least 0, below end_percent, and end_percent at most 1."
            )

    @property
    def is_full(self) -> bool:
        return self.start == 0.0 and self.end == 1.0

    def contains(self, progress: float) -> bool:
        """True when an edit with this window acts at `progress` (0..1)."""
        return progress >= self.start - _ROUNDING and (self.end == 1.0 or progress < self.end - _ROUNDING)


@dataclass(frozen=True, eq=False)
class Edit:
    """One change to what chosen blocks attend to, or to the residual stream after them.

    Args:
        source: the prompt to inject, raw T5 embeddings, or a captured difference to add.
        strengths: strength per block.
        site: what is edited: `context` is the text that cross-attention reads, `hidden` the residual stream after a
            block, which is mixed with that of the injected prompt's second stream, or added to.
        operation: how main and injected context are combined; ActivationAddition for a captured difference.
        window: part of the run in which it acts.
        branch: the guidance branch it touches: the prompt (`cond`), the negative prompt, or both.
        label: a name for people, shown in logs and reports.
        log_level: how much this edit reports while sampling.
        transforms: changes to the injected prompt after the model's projection, in order.
        observer: told once per step and at the end what the edit did, unless its log level is off.
    """

    source: TextEmbeds | HiddenDelta
    strengths: BlockStrengths
    site: Site = "context"
    operation: Operation | ActivationAddition = field(default_factory=Blend)
    window: Window = field(default_factory=Window)
    branch: Branch = "cond"
    label: str = ""
    log_level: LogLevel = "off"
    transforms: tuple[ContextTransform, ...] = ()
    observer: Observer | None = None

    def __post_init__(self) -> None:
        if self.branch not in BRANCHES:
            raise ValueError(f"branch must be one of {', '.join(BRANCHES)}, not {self.branch!r}.")
        if self.log_level not in LOG_LEVELS:
            raise ValueError(f"log_level must be one of {', '.join(LOG_LEVELS)}, not {self.log_level!r}.")
        if self.site not in ("context", "hidden"):
            raise ValueError(f"site must be context or hidden, not {self.site!r}.")
        if self.adds != isinstance(self.operation, ActivationAddition) or (self.adds and self.site != "hidden"):
            raise ValueError(
                "A captured difference is added (ActivationAddition) to the hidden state; nothing else is."
            )

    @property
    def adds(self) -> bool:
        """True when it adds a captured difference to the residual stream."""
        return isinstance(self.source, HiddenDelta)

    @property
    def streams(self) -> bool:
        """True when it runs a second stream."""
        return self.site == "hidden" and not self.adds

    @property
    def text(self) -> TextEmbeds:
        """The injected prompt, of an edit that has one."""
        if not isinstance(self.source, TextEmbeds):
            raise TypeError(f"{self.label or 'Edit'} adds captured states and has no prompt.")
        return self.source

    @property
    def delta(self) -> HiddenDelta:
        """The captured difference, of an edit that adds one."""
        if not isinstance(self.source, HiddenDelta):
            raise TypeError(f"{self.label or 'Edit'} injects a prompt and has no captured difference.")
        return self.source

    def describe(self) -> dict[str, Any]:
        """The edit as plain values: what a person or a JSON file can read."""
        return {
            "site": self.site,
            "operation": self.operation.name,
            "transforms": [transform.name for transform in self.transforms],
            "strengths": str(self.strengths),
            "branch": self.branch,
            "window": [self.window.start, self.window.end],
            "source": self.source.describe(),
            "label": self.label,
            "log_level": self.log_level,
        }


@dataclass(frozen=True, eq=False)
class EditStack:
    """The edits of one model clone, applied in order: each works on what the one before left.

    `transforms` change the injected prompt of every context edit, before the edit's own transforms, whenever they were
    added.

    Hosts deep-copy a model's options at every clone and every run. The stack is immutable, so a copy
    of it is itself: its tensors are shared, never duplicated.
    """

    edits: tuple[Edit, ...] = ()
    transforms: tuple[ContextTransform, ...] = ()

    def append(self, *edits: Edit) -> EditStack:
        return replace(self, edits=(*self.edits, *edits))

    def transform(self, transform: ContextTransform) -> EditStack:
        """The stack with one more transform of every context edit's injected prompt."""
        return replace(self, transforms=(*self.transforms, transform))

    def describe(self) -> dict[str, Any]:
        """The stack as plain values, in order."""
        return {
            "version": 1,
            "edits": [edit.describe() for edit in self.edits],
            "transforms": [transform.name for transform in self.transforms],
        }

    def __iter__(self) -> Iterator[Edit]:
        return iter(self.edits)

    def __len__(self) -> int:
        return len(self.edits)

    def __deepcopy__(self, memo: dict[int, Any]) -> EditStack:
        return self

    def __copy__(self) -> EditStack:
        return self


def stack_of(options: Mapping[str, Any] | None) -> EditStack:
    """The edit stack in a model's `transformer_options`; empty when there is none."""
    value = (options or {}).get(KEY)
    return value if isinstance(value, EditStack) else EditStack()

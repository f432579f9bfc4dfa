"""Edits and the edit stack that a model carries in its `transformer_options`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..embeddings.text_embeds import TextEmbeds
from .mask import Box, Mask
from .operations import Add, Blend, Operation, Scale
from .schedule import ROUNDING, Schedule
from .sites import SITES, site_of
from .sources import CapturedDifference, Prompt, SecondStream, Source, prompt_at
from .steering import ChangedText
from .strengths import BlockStrengths
from .tokens import Tokens
from .transforms import ContextTransform

KEY = "wan_activation_editor"
"""Key of the EditStack in `transformer_options` and of its description in text embeds."""

Branch = Literal["cond", "uncond", "both"]
LogLevel = Literal["off", "basic", "verbose", "trace"]
BRANCHES: tuple[Branch, ...] = ("cond", "uncond", "both")
LOG_LEVELS: tuple[LogLevel, ...] = ("off", "basic", "verbose", "trace")


@dataclass(frozen=True)
class Window:
    """Part of the sampling run in which an edit acts, as fractions of it.

    0 is the first step (most noise), 1 the end. The start is included, the end is not, so that
    windows 0-0.5 and 0.5-1 share no step; an end of 1 includes everything to the last step. Progress is
    computed from the noise level: in a run of N evenly scheduled steps, step i is at i / N. Schedules that space
    their steps otherwise (beta, karras, distilled ones) have steps where their noise level puts them.
    """

    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.start < self.end <= 1.0):
            raise ValueError(
                f"The window runs from {self.start!r} to {self.end!r}; its start must be at least 0 and below its end, "
                "and its end at most 1."
            )

    @property
    def is_full(self) -> bool:
        return self.start == 0.0 and self.end == 1.0

    def contains(self, progress: float) -> bool:
        """True when an edit with this window acts at `progress` (0..1)."""
        return progress >= self.start - ROUNDING and (self.end == 1.0 or progress < self.end - ROUNDING)


def check_combination(site: str, source: Source, operation: Operation) -> None:
    """The table of what goes with what: a site takes the sources that list it, an operation what it `takes`.

    Raises:
        ValueError: the combination has no meaning; the message names what has.
    """
    where = site_of(site)
    if site not in source.sites:
        raise ValueError(
            f"{source.title[0].upper()}{source.title[1:]} has no value at site {site}. It has one at "
            f"{', '.join(source.sites)}."
        )
    if where.end == "keyword" and not isinstance(operation, Scale):
        raise ValueError(f"site {site} is a factor, which only Scale changes, not {operation.name}.")
    if getattr(operation, "takes", None) not in (None, source.gives):
        fitting = {"state": "Blend or Replace", "difference": "Add"}.get(source.gives, "one of patching/steering.py")
        raise ValueError(
            f"The operation {operation.name} works with a {operation.takes}, "  # type: ignore[attr-defined]
            f"but {source.title} is a {source.gives}. Use {fitting}."
        )
    if hasattr(operation, "check_source"):
        operation.check_source(source)


@dataclass(frozen=True, eq=False)
class Edit:
    """One change to chosen blocks.

    Args:
        source: what it works with; a bare TextEmbeds is a Prompt, or a SecondStream at site `hidden`.
        strengths: strength per block.
        site: where in the block it acts; see `sites.SITES` and `sites.MORE_SITES`.
        operation: how the source changes what is there; Blend() for a prompt, Add() for a difference.
        window: part of the run in which it acts.
        branch: the guidance branch it touches: the prompt (`cond`), the negative prompt, or both.
        label: a name for people, shown in logs and reports.
        log_level: how much this edit reports while sampling.
        transforms: changes to the injected prompt after the model's projection, in order.
        schedule: multiplies the strengths over sampling.
        tokens: those of the text that it touches, at a site of the text; None for all.
        mask: the part of the video that it touches; at site `context`, the part that reads the changed text.
        reports_to: id of the node and of the workflow that show its progress, in ComfyUI.

    Raises:
        ValueError: a value that is not one of those allowed, or a combination without a meaning.
    """

    source: Source
    strengths: BlockStrengths
    site: str = "context"
    operation: Operation = None  # type: ignore[assignment]  # set below
    window: Window = field(default_factory=Window)
    branch: Branch = "cond"
    label: str = ""
    log_level: LogLevel = "off"
    transforms: tuple[ContextTransform, ...] = ()
    schedule: Schedule = field(default_factory=Schedule)
    tokens: Tokens | None = None
    mask: Mask | Box | None = None
    reports_to: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.branch not in BRANCHES:
            raise ValueError(f"branch must be one of {', '.join(BRANCHES)}, not {self.branch!r}.")
        if self.log_level not in LOG_LEVELS:
            raise ValueError(f"log_level must be one of {', '.join(LOG_LEVELS)}, not {self.log_level!r}.")
        for value, kind, what in (
            (self.strengths, BlockStrengths, "strengths: BlockStrengths, as parse_selection('1:0.5') gives them"),
            (self.window, Window, "window: Window(start, end)"),
        ):
            if not isinstance(value, kind):
                raise TypeError(f"{what}, not {value!r:.60}.")
        if isinstance(self.source, TextEmbeds):
            object.__setattr__(self, "source", prompt_at(self.site, self.source))
        if not hasattr(self.source, "gives"):
            raise TypeError(f"source: a Prompt, a Direction or another source, not {self.source!r:.60}.")
        if self.operation is None:
            object.__setattr__(self, "operation", Blend() if self.source.gives == "state" else Add())
        if isinstance(self.operation, type) or not callable(self.operation) or not hasattr(self.operation, "name"):
            raise TypeError(
                f"operation: an object with a name that is called as operation(x, value, strength), such as Add(), not "
                f"{self.operation!r:.60}."
            )
        check_combination(self.site, self.source, self.operation)
        if self.transforms and self.text is None:
            raise ValueError(f"Transforms change a prompt, but the source is {self.source.title}.")
        self._check_part()

    def _check_part(self) -> None:
        """Raise ValueError unless tokens and mask have a meaning at the site."""
        site = site_of(self.site)
        if self.tokens is not None and not self.tokens.is_located:
            raise ValueError(f"tokens: {self.tokens} names words; give token numbers, or locate them (Tokens.located).")
        if (
            self.tokens is not None
            and (not site.reads_text or site.reads_images)
            and not (self.tokens.takes_all or self.tokens.takes_real)
        ):
            of_text = ", ".join(s.name for s in SITES.values() if s.reads_text)
            raise ValueError(f"tokens are of the text, but site {self.site} is of the video. Use site {of_text}.")
        if self.mask is not None and (site.reads_text or site.end == "keyword") and self.site != "context":
            raise ValueError(f"A mask is of the video, but site {self.site} is not. Use site context or attention.")

    @property
    def name(self) -> str:
        """For messages."""
        return self.label or "Edit"

    @property
    def is_timed(self) -> bool:
        """True when what it does depends on how much of sampling is done."""
        return not (self.window.is_full and self.schedule.is_constant)

    def acts_on(self, block_count: int) -> bool:
        """False when it leaves a model of so many blocks as it is: strength or schedule is 0 throughout."""
        return bool(self.strengths.active_blocks(block_count)) and not self.schedule.is_zero

    def factor(self, progress: float) -> float:
        """What the strengths are multiplied by at `progress` (0..1); 0 where it does not act."""
        return self.schedule.at(progress) if self.window.contains(progress) else 0.0

    @property
    def text(self) -> TextEmbeds | None:
        """The injected prompt, of an edit that has one."""
        return self.source.embeds if isinstance(self.source, Prompt | SecondStream) else None

    @property
    def is_projected(self) -> bool:
        """True when the model's text projection makes its value."""
        return self.text is not None or isinstance(self.source, ChangedText)

    @property
    def captured(self) -> CapturedDifference | None:
        """The captured difference, of an edit that adds one."""
        return self.source if isinstance(self.source, CapturedDifference) else None

    def __repr__(self) -> str:
        amount = getattr(self.operation, "amount", None)
        parts = [
            f"{self.operation.name}{'' if amount is None else f' {float(amount):g}'} at {self.site}",
            f"blocks {str(self.strengths).removesuffix(' x 1') or 'none'}",
            f"branch {self.branch}",
        ]
        if not self.window.is_full:
            parts.append(f"window {self.window.start:g}-{self.window.end:g}")
        if not self.schedule.is_constant:
            parts.append(f"schedule {self.schedule}")
        if self.tokens is not None:
            parts.append(f"tokens {self.tokens}")
        if self.mask is not None:
            parts.append(f"{type(self.mask).__name__} {self.mask.describe()}")
        parts += [transform.name for transform in self.transforms]
        return f"<{f'Edit {self.label}'.strip()}: {self.source.title}, {', '.join(parts)}>"

    def describe(self) -> dict[str, Any]:
        """The edit as plain values: what a person or a JSON file can read."""
        return {
            "site": self.site,
            "operation": self.operation.name,
            "transforms": [transform.name for transform in self.transforms],
            "strengths": str(self.strengths),
            "branch": self.branch,
            "window": [self.window.start, self.window.end],
            "schedule": str(self.schedule),
            "tokens": None if self.tokens is None else str(self.tokens),
            "mask": None if self.mask is None else self.mask.describe(),
            "source": self.source.describe(),
            "label": self.label,
            "log_level": self.log_level,
        }


@dataclass(frozen=True, eq=False)
class EditStack:
    """The edits of one model clone, applied in order: each works on what the one before left.

    `transforms` are global: they change the injected prompt of every context edit, before the edit's own transforms,
    wherever in the order they were added.

    Hosts deep-copy a model's options at every clone and every run. The stack is immutable, so a copy
    of it is itself: its tensors are shared, never duplicated.
    """

    edits: tuple[Edit, ...] = ()
    transforms: tuple[ContextTransform, ...] = ()

    def append(self, *edits: Edit) -> EditStack:
        return replace(self, edits=(*self.edits, *edits))

    def extend(self, other: EditStack) -> EditStack:
        """The stack with the edits and transforms of another after its own."""
        return replace(self, edits=(*self.edits, *other.edits), transforms=(*self.transforms, *other.transforms))

    def transform(self, transform: ContextTransform) -> EditStack:
        """The stack with one more transform of every context edit's injected prompt."""
        return replace(self, transforms=(*self.transforms, transform))

    def acting(self, block_count: int) -> EditStack:
        """The stack without edits that change nothing in a model of so many blocks; they can be combined with all."""
        return replace(self, edits=tuple(edit for edit in self.edits if edit.acts_on(block_count)))

    def transforms_of(self, edit: Edit) -> tuple[ContextTransform, ...]:
        """What the prompt of one of its edits goes through after projection."""
        return (*self.transforms, *edit.transforms) if edit.site == "context" and edit.text else edit.transforms

    def __repr__(self) -> str:
        names = [f"{len(self)} edit{'s' * (len(self) != 1)}", *(transform.name for transform in self.transforms)]
        return "\n  ".join([f"<EditStack, {', '.join(names)}>", *map(repr, self)])

    def describe(self) -> dict[str, Any]:
        """The stack as plain values, in order."""
        return {
            "version": 1,
            "edits": [edit.describe() for edit in self.edits],
            "transforms": [transform.name for transform in self.transforms],
        }

    def to_plain(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The stack as JSON values and named tensors; `from_plain` reads them in any process. See plain.py."""
        from .plain import to_plain

        return to_plain(self)

    @classmethod
    def from_plain(cls, values: Any, tensors: Mapping[str, Any]) -> EditStack:
        """The stack that `to_plain` gave.

        Raises:
            RecipeError: the values are not those of a stack; the message says which and why.
        """
        from .plain import from_plain

        return from_plain(values, tensors)

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

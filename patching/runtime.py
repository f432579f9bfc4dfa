"""The runtime: what is installed on a Wan model while its host samples, and removed after.

A `Run` serves one model. The host tells it where each model call begins and which rows of the batch belong to the
prompt and to the negative prompt. Each edit of the stack then hooks the place in the blocks that it changes, in the
order of the stack, so that it works on what the one before left (active.py). The text projection is hooked as well:
it projects the injected prompts right after the host's own, with the host's module, so device, dtype, quantisation and
LoRA are the host's (prompts.py).

They are ordinary torch hooks, hidden from torch.compile; `block.forward` is never replaced.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from ..embeddings.text_embeds import TextEmbeds
from .acted import remember
from .active import ActiveEdit, ContextEdit, Part, hidden_from_compile
from .conflicts import warn_about_replaced_forwards
from .edit import Edit, EditStack
from .grid import Grid
from .kinds import kind_of
from .masked import MaskedContextEdit, Shared
from .messages import skipped_message, unreached_message, where
from .output_change import OutputChange
from .prompts import Prompts, Rows
from .sources import Zero
from .statistics import Observer, StepStatistics
from .values import Values
from .views import block_pattern
from .wan_model import ContextArgument, WanModel, unwrap

log = logging.getLogger("wanvideo_activation_editor")

__all__ = ["Rows", "Run"]


class Run:
    """One sampling run of one model.

    As a context manager it holds the hooks, once or around each model call; `close` ends the run.

    Args:
        stack: the edits, resolved against `model` on construction.
        model: the transformer that the host is about to call.
        text_length: tokens of text at the end of the projection's input; None when all of it is text.
        after_projection: makes the change that a host makes to projected embeddings afterwards, in place; called with
            the projected batch, the rows of the injected prompt, and that prompt.
        observer_for: the observer of an edit that reports to a node, or None.

    Raises:
        BlockRangeError: an edit names a block that the model does not have.
    """

    def __init__(
        self,
        stack: EditStack,
        model: WanModel,
        *,
        text_length: int | None = None,
        after_projection: Callable[[torch.Tensor, list[int], TextEmbeds], None] | None = None,
        observer_for: Callable[[Edit], Observer | None] | None = None,
    ) -> None:
        self.model = model
        self.prompts = Prompts(model, text_length, after_projection)
        self.statistics: StepStatistics | None = None
        self.left: torch.Tensor | None = None  # the hidden state that the last hook of a block gave back to the host
        self.calls = 0  # model calls so far
        self.parts: dict[Any, Part] = {}  # places of tokens in the masks of edits
        self.masked: list[MaskedContextEdit] = []
        self.unmasked: torch.Tensor | None = None  # what cross-attention gave, while several of them act on it
        self.shared: dict[Any, tuple[Part, Shared | None]] = {}  # tokens in several masks
        self.asks_again = False  # a masked edit runs cross-attention with another text
        self._observer_for = observer_for
        self._output_change = OutputChange(self)
        self._edits: list[ActiveEdit] = []
        self._announced: set[int] = set()
        self._handles: list[Any] = []
        self._values = Values(model)
        self._label: Callable[[], str] = str
        self._read_sigma: Callable[[], float] | None = None
        self._sigma: float | None = None
        self.extend(stack)

    def extend(self, stack: EditStack, clock: Any = None) -> list[ActiveEdit]:
        """Let more edits act, after those there are; not while hooks are installed.

        Args:
            clock: passed to the `progress` of `begin` for these edits.
        """
        observe = self._observer_for or (lambda edit: None)
        added = [kind_of(e)(self, e, stack.transforms_of(e), clock, observe(e)) for e in stack]
        self._set([*self._edits, *added])
        return added

    def remove(self, edits: Collection[ActiveEdit]) -> None:
        """Let some edits act no more; not while hooks are installed."""
        self._set([edit for edit in self._edits if edit not in edits])

    def _set(self, edits: list[ActiveEdit]) -> None:
        self._edits = edits
        self.masked = [edit for edit in edits if isinstance(edit, MaskedContextEdit)]
        plain = all(e.edit.tokens is None or e.edit.tokens.takes_real for e in edits if e.site.reads_text)
        for edit in edits:
            edit.choose_tokens(plain)
        measured = any(edit.logged or edit.observation is not None for edit in edits)
        self.statistics = StepStatistics() if measured else None

    def __enter__(self) -> Run:
        """Install the hooks. They act only between `begin` and the end of that model call."""
        announce(self.model, [edit for edit in self._edits if id(edit) not in self._announced])
        self._announced.update(map(id, self._edits))
        try:
            project = hidden_from_compile(self._project)
            self._handles.append(self.model.projection.register_forward_hook(project))
            reached = hidden_from_compile(lambda *_: check_reached(self.model, self._edits))
            self._handles.append(self.model.module.register_forward_hook(reached))
            for index, block in enumerate(self.model.blocks):
                for edit in self._edits:
                    self._handles.extend(edit.hooks(block, index))
            for block, index in self.model.control_blocks:
                self._hook_control(unwrap(block), index)
            if self.statistics is not None:
                after = hidden_from_compile(self._output_change.after)
                self._handles.append(self.model.module.register_forward_hook(after, with_kwargs=True))
        except BaseException:
            self.__exit__()
            raise
        return self

    def _project(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        """Hook of the text projection. Rows are what it is given: some models take those of a batch in turn."""
        given = self.prompts.rows_in_turn(args)
        if given is not None:
            self.prompts.restart()
            for edit in self._edits:
                edit.take(given)
        self.prompts.project(module, args, output)

    def __exit__(self, *_: Any) -> None:
        """Remove the hooks and drop what the last call left."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._end_call()

    def close(self, completed: bool, edits: Collection[ActiveEdit] | None = None) -> list[ActiveEdit]:
        """End the run, for some edits or all: log what is left to log and release every tensor.

        Args:
            completed: sampling ended normally; only then a missing effect is an error.
            edits: those that end; None for all, and with them the run.

        Returns:
            those that ended, for `warn_if_unused`, once all runs of a sampling have.
        """
        self._end_statistics()
        ending = self._edits if edits is None else list(edits)
        remember(edit for edit in ending if edit.seen)
        for edit in ending:
            if edit.observation is not None:
                edit.observation.end(completed)
            edit.end()
        self._end_call()
        self._values.clear()
        self.parts.clear()
        self.shared.clear()
        self.prompts.clear()
        return ending

    def hook_control_attention(self, block: nn.Module, index: int) -> None:
        """Edit a control block whose host calls `forward` itself, past module hooks, at its cross-attention."""
        self._hook_control(block.cross_attn, index)  # type: ignore[arg-type]

    def _hook_control(self, module: nn.Module, index: int) -> None:
        """Control blocks and cross-attention are called as (x, context, ...) in every host, or by keyword."""
        argument = ContextArgument(self.model.context.name, 1)
        for edit in self._edits:
            if isinstance(edit, ContextEdit):
                self._handles.extend(edit.hooks(module, index, argument))

    def begin(
        self,
        rows: Rows,
        progress: Callable[[Any], float],
        label: Callable[[], str] = lambda: "Model call",
        prompt_count: int | None = None,
        grid: Grid | None = None,
        sigma: Callable[[], float] | None = None,
        text: torch.Tensor | None = None,
    ) -> None:
        """Announce a call of the model.

        Args:
            rows: which rows of the text batch belong to which branch and prompt.
            progress: fraction of sampling done, 0..1, by the clock of an edit; called only for edits with a
                window or schedule.
            label: names the step in logs; called only when statistics are logged.
            prompt_count: prompts of the call, when edits may have fewer: then each goes to as many in a row.
            grid: frames, height and width of its tokens, when known.
            sigma: noise level, 1 (only noise) to 0; called at most once, for edits that depend on it.
            text: the text batch [rows, tokens, width], by which the rows are known if the model takes them in turn.

        Raises:
            ValueError: a captured difference does not fit the grid.
        """
        self._end_statistics()
        self._end_call()
        self.calls += 1
        self._label, self._read_sigma, self._sigma = label, sigma, None
        if self.statistics is not None:
            self.statistics.begin(label)
        known: dict[int, float] = {}

        def progress_of(clock: Any) -> float:  # reads the noise level back from the device
            if id(clock) not in known:
                known[id(clock)] = progress(clock)
            return known[id(clock)]

        for edit in self._edits:
            edit.begin(rows, progress_of, grid)
        wanted = [edit for edit in self._edits if edit.rows and edit.blocks and edit.edit.is_projected]
        self.prompts.begin(rows, wanted, prompt_count, text)

    @property
    def acts(self) -> bool:
        """True when an edit acts in the announced call."""
        return any(edit.rows for edit in self._edits)

    @property
    def is_logged(self) -> bool:
        """True when an edit that acts in the announced call logs every step."""
        return any(edit.logged for edit in self._edits if edit.rows)

    def output_rows(self, batch: int) -> list[int] | None:
        """Rows of the model's output that edits may change; None for all of its `batch` rows."""
        rows = sorted({row for edit in self._edits for row, _ in edit.rows})
        return rows if batch == self.prompts.batch and len(rows) < batch else None

    @property
    def sigma(self) -> float:
        """Noise level of the call in progress; reads it back from the device once.

        Raises:
            RuntimeError: the host does not tell it.
        """
        if self._sigma is None:
            if self._read_sigma is None:
                raise RuntimeError(f"The noise level of this call of {self.model.name} is not known.")
            self._sigma = self._read_sigma()
        return self._sigma

    def value(self, edit: Edit, index: int, x: torch.Tensor) -> torch.Tensor:
        """What an edit's source, no text, has for block `index` at the noise level of the call, on the device of x."""
        source: Any = edit.source
        if isinstance(source, Zero):
            return x.new_zeros(1, 1, x.shape[-1])
        moved = self._values.of(edit, index, x)
        return source.at(moved, self.sigma) if hasattr(source, "at") else moved

    def check_skipped(self, replaced: Collection[int]) -> None:
        """After a model call: raise RuntimeError if the host left out a block that a hidden edit is to change.

        A step cache, which leaves out all of them, is no error.

        Args:
            replaced: blocks that other nodes replace in this call.
        """
        check_skipped([edit for edit in self._edits if edit.rows], replaced, self.prompts.ran)

    def _end_statistics(self) -> None:
        """Log what the last model call measured, and tell the observers."""
        measured, output = self.statistics.flush() if self.statistics is not None else ([], None)
        for edit in self._edits:
            unreported, edit.unreported = edit.unreported, False
            if unreported and edit.observation is not None:
                changes = {block: change for block, key, change in measured if key is edit}
                edit.observation.call(self._label(), changes, output)

    def _end_call(self) -> None:
        self.prompts.end()
        self.left = self.unmasked = None
        for edit in self._edits:
            edit.end()


def announce(model: WanModel, edits: Collection[ActiveEdit]) -> None:
    """Log edits, and say once which other code has replaced a forward that they need."""
    for active in edits:
        if active.level != "off":
            log.info(
                "%s: %s of %d blocks of %s hooked, %s\n  %s",
                active.edit.name,
                len(active.blocks),
                len(active.strengths),
                model.name,
                where(active.edit),
                block_pattern(active.strengths),
            )
    blocks = {index for active in edits if active.edit.site == "context" for index in active.blocks}
    if edits:
        warn_about_replaced_forwards(model, sorted(blocks))


def check_skipped(edits: Collection[ActiveEdit], replaced: Collection[int], text_ran: bool) -> None:
    """Raise RuntimeError if a host left out a block that one of the hidden edits was to change in a call.

    Args:
        replaced: blocks that other nodes replace.
        text_ran: the model projected its text; a step cache, which leaves out all blocks, does not.
    """
    hidden = [edit for edit in edits if edit.edit.site == "hidden"]
    chosen = {index for edit in hidden for index in edit.blocks}
    missed = {index for edit in hidden for index in edit.missed}
    if missed and (missed != chosen or (text_ran and missed.issubset(replaced))):
        name = next(edit.edit.name for edit in hidden if edit.missed)
        raise RuntimeError(skipped_message(name, missed, "skip-layer guidance, or a cache of single blocks,"))


def check_reached(model: WanModel, edits: Collection[ActiveEdit]) -> None:
    """After a call of a model: raise RuntimeError for an edit that met none of its modules in its first one.

    No cache skips blocks in a first call, but those of diffusers may outlive a run.
    """
    for edit in edits:
        if edit.blocks and not (edit.reached or edit.checked or getattr(model.module, "is_cache_enabled", False)):
            raise RuntimeError(unreached_message(edit, model.name))
        edit.checked = True

"""The runtime: what is installed on a Wan model while its host samples, and removed after.

A `Run` serves one sampling run. The host tells it where each model call begins and which rows of the batch
belong to the prompt and to the negative prompt; hooks do the rest:

- on the text projection: projects the injected prompts right after the host projected its own, with the
  host's own module, so device, dtype, quantisation and LoRA are the host's;
- on each edited block: hands it the edited context instead of the main one;
- on VACE control blocks: the same, with the edits of the main block that they feed;
- after each block that a `hidden` edit covers: runs it for the second stream and mixes the two (streams.py), or adds
  the captured difference (addition.py).

They are ordinary torch hooks, hidden from torch.compile; `block.forward` is never replaced.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..embeddings import TextEmbeds, check_fits
from . import streams
from .addition import ActivationAddition
from .capture import Grid
from .conflicts import warn_about_replaced_forwards
from .edit import Edit, EditStack
from .operations import Operation
from .statistics import Observation, StepStatistics, effective_log_level
from .streams import SecondStream
from .transforms import ContextTransform, apply_transforms, real_share
from .views import block_pattern
from .wan_model import ContextArgument, WanModel, unwrap

log = logging.getLogger("wanvideo_activation_editor")

Rows = Mapping[str, Sequence[tuple[int, int]]]
"""Rows of the text batch per guidance branch, each with the number of its prompt: {"cond": [(0, 0)]}."""

BlockPlan = tuple[tuple[int, float], ...]
"""The edits of one block, in order: (index in the stack, strength)."""

_KEPT_BLENDS = 2
_projecting = threading.local()


class Run:
    """One sampling run of one model under one edit stack.

    As a context manager it holds the hooks, once or around each model call; `close` ends the run.

    Args:
        stack: the edits, resolved against `model` on construction.
        model: the transformer that the host is about to call.
        text_length: tokens of text at the end of the projection's input; None when all of it is text.
        after_projection: makes the change that a host makes to projected embeddings afterwards, in place; called with
            the projected batch, the rows of the injected prompt, and that prompt.

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
    ) -> None:
        self.stack = stack
        self.model = model
        self._text_length = text_length
        self._after_projection = after_projection
        self._strengths = [edit.strengths.resolve(model.block_count) for edit in stack]
        self._plans: dict[tuple[int, ...], tuple[BlockPlan, ...]] = {}
        self._handles: list[Any] = []
        self._prompts: dict[tuple[int, int, torch.device, torch.dtype], torch.Tensor] = {}  # one per source's prompt
        self._calls = [0] * len(stack)
        self._edited_blocks = 0
        self.calls = 0  # model calls so far
        self._prompt_count: int | None = None
        self._log_levels = [effective_log_level(edit) for edit in stack]
        self._announced = False
        self._observations = {
            k: Observation(edit.observer, self._strengths[k])
            for k, edit in enumerate(stack)
            if edit.observer is not None and self._log_levels[k] != "off"
        }
        measured = self._observations or any(level in ("verbose", "trace") for level in self._log_levels)
        self._statistics = StepStatistics(trace="trace" in self._log_levels) if measured else None
        self._label: Callable[[], str] = str
        self._acting: tuple[int, ...] = ()  # edits that act in the model call in progress, or acted in the last one
        self._checked: set[tuple[int, str, int]] = set()  # edit, branch, prompt: transforms verified in this run
        self._deltas: dict[tuple[int, int], torch.Tensor] = {}  # per adding edit and difference: on the device
        # The model call in progress
        self._plan: tuple[BlockPlan, ...] | None = None
        self._targets: dict[int, list[tuple[int, int]]] = {}
        self._branch_of: dict[int, str] = {}  # per row of the text batch
        self._main: torch.Tensor | None = None  # the host's context
        self._projected: dict[int, torch.Tensor] = {}  # per edit: injected text, as the host projects it
        self._aligned: dict[int, torch.Tensor] = {}  # per edit: the same in the layout of the host's context
        self._blends: dict[BlockPlan, torch.Tensor] = {}  # the last few contexts handed to blocks
        self._hidden: tuple[int, ...] = ()  # hidden edits that act
        self._streams: dict[int, SecondStream] = {}  # per hidden edit with a second stream
        self._follows = False  # a second stream goes on in the next block
        self._missed: set[int] = set()  # blocks that hidden edits are yet to change
        self._ran = False  # the text projection ran

    # Life of the run

    def __enter__(self) -> Run:
        """Install the hooks. They act only between `begin` and the end of that model call."""
        if not self._announced:
            self._announced = True
            self._log_start()
            warn_about_replaced_forwards(self.model, filter(self._is_edited, range(self.model.block_count)))
        self._handles.append(self.model.projection.register_forward_hook(_hidden(self._project)))
        for index, block in enumerate(self.model.blocks):
            if self._is_hidden(index):
                self._hook_hidden(block, index)
            if self._is_edited(index):
                self._hook_block(block, index, self.model.context)
        for block, index in self.model.control_blocks:
            if self._is_edited(index):
                self._hook_block(unwrap(block), index, self._control_context)
        return self

    def __exit__(self, *_: Any) -> None:
        """Remove the hooks and drop what the last call left."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._end_call()

    def close(self, completed: bool) -> None:
        """End the run: log what is left to log and release every tensor.

        Args:
            completed: sampling ended normally; only then a missing effect is worth a warning.
        """
        self._end_statistics()
        for observation in self._observations.values():
            observation.end(completed)
        self._end_call()
        self._prompts.clear()
        self._deltas.clear()
        if completed:
            self._warn_if_unused()

    def hook_control_attention(self, block: nn.Module, index: int) -> None:
        """Edit a control block whose host calls `forward` itself, past module hooks, at its cross-attention."""
        if self._is_edited(index):
            self._hook_block(block.cross_attn, index, self._control_context)  # type: ignore[arg-type]

    @property
    def _control_context(self) -> ContextArgument:
        """Control blocks and cross-attention are called as (x, context, ...) in every host, or by keyword."""
        return ContextArgument(self.model.context.name, 1)

    # Life of one model call

    def begin(
        self,
        rows: Rows,
        progress: Callable[[], float],
        label: Callable[[], str] = lambda: "Model call",
        prompt_count: int | None = None,
        grid: Grid | None = None,
    ) -> None:
        """Announce a call of the model.

        Args:
            rows: which rows of the text batch belong to which branch and prompt.
            progress: fraction of sampling done, 0..1; called only if an edit has a window.
            label: names the step in logs; called only when statistics are logged.
            prompt_count: prompts of the call, when edits may have fewer: then each goes to as many in a row.
            grid: frames, height and width of its tokens, when known.

        Raises:
            ValueError: a captured difference does not fit the grid.
        """
        self._end_statistics()
        self._end_call()
        self.calls += 1
        self._prompt_count = prompt_count
        self._branch_of = {row: branch for branch, numbered in rows.items() for row, _ in numbered}
        if self._statistics is not None:
            self._statistics.begin(label)
            self._label = label
        targets: dict[int, list[tuple[int, int]]] = {}
        now: float | None = None
        for k, edit in enumerate(self.stack):
            branches = ("cond", "uncond") if edit.branch == "both" else (edit.branch,)
            touched = [row for branch in branches for row in rows.get(branch, ())]
            if touched and not edit.window.is_full:
                now = progress() if now is None else now  # reads the noise level back from the device
                touched = touched if edit.window.contains(now) else []
            if touched:
                targets[k] = touched
                self._calls[k] += 1
                if edit.adds and grid is not None:
                    edit.delta.check_grid(grid, edit.label or "Edit")
        if targets:
            self._targets = targets
            self._acting = tuple(targets)
            self._plan = self._plan_for(tuple(targets))
            self._hidden = tuple(k for k in targets if self.stack.edits[k].site == "hidden" and any(self._strengths[k]))
            for k in self._hidden:
                self._missed.update(i for i, s in enumerate(self._strengths[k]) if s != 0.0)
                if self.stack.edits[k].streams:
                    self._streams[k] = SecondStream(self._strengths[k])

    @property
    def acts(self) -> bool:
        """True when an edit acts in the announced call."""
        return self._plan is not None

    def _end_statistics(self) -> None:
        """Log what the last model call measured, and tell the observers."""
        if self._statistics is None:
            return
        measured = self._statistics.flush()
        for k in self._acting:
            if k in self._observations:
                changes = {block: change for block, edits, change in measured if k in edits}
                self._observations[k].call(self._label(), changes)
        self._acting = ()

    def _end_call(self) -> None:
        self._plan = None
        self._main = None
        self._hidden = ()
        self._follows = self._ran = False
        streams.note_left(None)
        for held in (self._targets, self._projected, self._aligned, self._blends, self._streams, self._missed):
            held.clear()

    def _plan_for(self, active: tuple[int, ...]) -> tuple[BlockPlan, ...]:
        if active not in self._plans:
            self._plans[active] = tuple(
                tuple((k, self._strengths[k][i]) for k in active if self._edits_context(k, i))
                for i in range(self.model.block_count)
            )
        return self._plans[active]

    def _edits_context(self, k: int, index: int) -> bool:
        return self.stack.edits[k].site == "context" and self._strengths[k][index] != 0.0

    def _is_edited(self, index: int) -> bool:
        return any(self._edits_context(k, index) for k in range(len(self.stack)))

    def _is_hidden(self, index: int) -> bool:
        """True when a second stream runs block `index`, or something is added after it."""
        return any(
            (edit.streams and any(strengths[index:])) or (edit.adds and strengths[index] != 0.0)
            for edit, strengths in zip(self.stack, self._strengths, strict=True)
        )

    # Hooks

    def _hook_block(self, block: nn.Module, index: int, context: ContextArgument) -> None:
        def hand_over(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self._plan is None or not self._plan[index] or streams.is_running():
                return None
            return context.replace(args, kwargs, self._edited(index, context.read(args, kwargs)))

        self._handles.append(block.register_forward_pre_hook(_hidden(hand_over), with_kwargs=True))

    def _hook_hidden(self, block: nn.Module, index: int) -> None:
        context = self.model.context

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self._hidden or streams.is_running():
                return
            if self._follows and args[0] is not streams.last_left():
                raise RuntimeError(
                    f"{self.model.name} changes the hidden state between its blocks, which a second stream cannot "
                    "follow. Use injection_mode context, or switch off what acts there (controlnets, audio, faces)."
                )
            self._note_main(context.read(args, kwargs))
            for stream in self._streams.values():
                if stream.covers(index):
                    stream.enter(args[0])

        def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            main = self._main
            if not self._hidden or streams.is_running() or main is None:
                return None
            self._missed.discard(index)
            x = mixed = output[0] if isinstance(output, tuple) else output
            for k in self._hidden:
                stream = self._streams.get(k)
                if stream is None:
                    if self._strengths[k][index] != 0.0:
                        mixed = self._add(k, index, mixed, self._hidden_rows(k, main, x))
                        self._edited_blocks += 1
                elif stream.covers(index):
                    own_args, own_kwargs = context.replace(args, kwargs, self._align(k, main))
                    called = self.model.module.blocks[index]  # type: ignore[index, operator]
                    stream.advance(called, own_args[1:], own_kwargs)  # type: ignore[arg-type]
                    mixed = stream.mix(index, mixed, self._hidden_rows(k, main, x))
                    self._edited_blocks += 1
            self._follows = any(stream.covers(index + 1) for stream in self._streams.values())
            goes_on = self._follows or streams.last_left() is x  # or another run's second stream does
            streams.note_left(mixed if goes_on else None)
            if mixed is x:
                return None
            self._measure_hidden(index, main, x, mixed)
            return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

        # Before the context hook of this run, so that the second stream sees what the host passed.
        self._handles.append(block.register_forward_pre_hook(_hidden(enter), with_kwargs=True))
        self._handles.append(block.register_forward_hook(_hidden(leave), with_kwargs=True))

    def check_skipped(self, replaced: Collection[int]) -> None:
        """After a model call: raise RuntimeError if the host left out a block that a hidden edit is to change.

        A step cache, which leaves out all of them, is no error.

        Args:
            replaced: blocks that other nodes replace in this call.
        """
        changed = {i for k in self._hidden for i, s in enumerate(self._strengths[k]) if s != 0.0}
        if self._missed and (self._missed != changed or (self._ran and self._missed.issubset(replaced))):
            raise RuntimeError(skipped_message(self._missed, "Skip-layer guidance, or a cache of single blocks,"))

    def _add(self, k: int, index: int, x: torch.Tensor, rows: list[int] | None) -> torch.Tensor:
        """The hidden state [batch, tokens, dim] with edit `k` added to its rows; x itself is not changed."""
        edit, strength = self.stack.edits[k], self._strengths[k][index]
        delta = self._delta(k, index, x)
        batch = len(delta)
        if (x.shape[0] if rows is None else len(rows)) % batch != 0:
            raise ValueError(
                f"{edit.label or 'Edit'}: the latents were captured in a batch of {batch}, but the sampler's has "
                f"{x.shape[0] if rows is None else len(rows)}. Capture with the sampler's batch size, or with 1."
            )
        if rows is None and batch in (1, len(x)):
            return edit.operation(x, delta, strength)
        out = x.clone()
        for n, row in enumerate(range(len(x)) if rows is None else rows):
            part, added = slice(row, row + 1), slice(n % batch, n % batch + 1)
            out[part] = edit.operation(x[part], delta[added], strength)
        return out

    def _delta(self, k: int, index: int, x: torch.Tensor) -> torch.Tensor:
        """What edit `k` adds after block `index`, in the dtype of x and on its device; moved there once per run."""
        edit = self.stack.edits[k]
        key = k, edit.delta.index_of[index]
        found = self._deltas.get(key)
        if found is None or found.device != x.device or found.dtype != x.dtype:
            found = self._deltas[key] = edit.delta.deltas[key[1]].to(x.device, x.dtype)
        if found.shape[1] not in (1, x.shape[1]) or found.shape[-1] != x.shape[-1]:
            raise ValueError(
                f"{edit.label or 'Edit'}: the latents were captured {edit.delta.origin}: {found.shape[1]} tokens of "
                f"width {found.shape[-1]}, but the sampler has {x.shape[1]} of width {x.shape[-1]}. Capture with the "
                "sampler's model, size and image inputs, or set reduce to mean."
            )
        return found

    def _measure_hidden(self, index: int, main: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> None:
        edits = [k for k in self._hidden if self._strengths[k][index] != 0.0]
        logged = any(self._log_levels[k] in ("verbose", "trace") for k in edits)
        if self._statistics is None or not (logged or any(k in self._observations for k in edits)):
            return
        touched = [self._hidden_rows(k, main, before) for k in edits]
        every = range(len(before))
        rows = sorted({row for some in touched for row in (every if some is None else some)})
        key, what = ("hidden", index), "hidden state"
        self._statistics.record(index, key, before, after, rows, edits=edits, what=what, logged=logged)

    def _hidden_rows(self, k: int, context: torch.Tensor, x: torch.Tensor) -> list[int] | None:
        """Rows of the hidden state that edit `k` changes; None for all of them."""
        rows = sorted({row for row, _ in self._targets[k]})
        if len(rows) == len(context) or len(x) == 1:
            return None
        return rows

    def _project(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        """After the host projected its prompts: project the injected ones, in a batch of the same shape."""
        self._ran = True
        if self._plan is None or self._projected or getattr(_projecting, "active", False):
            return
        targets = {k: rows for k, rows in self._targets.items() if not self.stack.edits[k].adds}
        _projecting.active = True
        try:
            shared: dict[tuple[int, tuple[tuple[int, int], ...]], torch.Tensor] = {}
            for k, rows in targets.items():
                source = (id(self.stack.edits[k].source), tuple(rows))
                if source not in shared:
                    shared[source] = module(self._substitute(args[0], k, rows))
                    if self._after_projection is not None:
                        self._after_projection(shared[source], [row for row, _ in rows], self.stack.edits[k].text)
                self._projected[k] = self._transform(k, rows, args[0], output, shared[source])
        finally:
            _projecting.active = False

    def _substitute(self, raw: torch.Tensor, k: int, rows: list[tuple[int, int]]) -> torch.Tensor:
        """The host's raw embeddings [batch, tokens, width] with the injected prompt in the touched rows."""
        length = raw.shape[1] if self._text_length is None else self._text_length
        out = raw.clone()
        for row, prompt in rows:
            tokens = self._prompt(k, prompt, raw)
            check_fits(tokens, length)
            text = out[row, raw.shape[1] - length :]
            text[: len(tokens)] = tokens
            text[len(tokens) :] = 0
        return out

    def _transforms(self, k: int) -> tuple[ContextTransform, ...]:
        edit = self.stack.edits[k]
        return (*self.stack.transforms, *edit.transforms) if edit.site == "context" else edit.transforms

    def _transform(
        self, k: int, rows: list[tuple[int, int]], raw: torch.Tensor, main: torch.Tensor, injected: torch.Tensor
    ) -> torch.Tensor:
        """The projected prompts [batch, tokens, dim] with the touched rows as the edit's transforms want them."""
        transforms = self._transforms(k)
        if not transforms:
            return injected
        first = 0 if self._text_length is None else raw.shape[1] - self._text_length
        out = injected.clone()
        for row, prompt in rows:
            real = (raw[row, first:] != 0).any(dim=-1, keepdim=True)
            real[: self._prompt(k, prompt, raw).shape[0]] = True
            key = k, self._branch_of[row], prompt
            a, b, check = main[row, first:], injected[row, first:], key not in self._checked
            out[row, first:] = result = apply_transforms(transforms, a, b, real, check)
            if check:
                self._log_transforms(key, transforms, a, b, result, real)
                self._checked.add(key)
        return out

    def _prompt(self, k: int, prompt: int, like: torch.Tensor) -> torch.Tensor:
        prompts = self.stack.edits[k].text.prompts
        count = self._prompt_count or max(len(prompts), prompt + 1)
        if count % len(prompts) != 0:
            raise ValueError(
                f"{self.stack.edits[k].label or 'Edit'}: {len(prompts)} prompts are injected, but the model is called "
                f"with {count}. Inject one prompt, or as many as the main text input has."
            )
        prompt = prompt * len(prompts) // count
        key = (id(prompts), prompt, like.device, like.dtype)
        if key not in self._prompts:
            self._prompts[key] = prompts[prompt].to(like.device, like.dtype)
        return self._prompts[key]

    def _edited(self, index: int, main: torch.Tensor) -> torch.Tensor:
        """The context for block `index`, given the main one [batch, image + text tokens, dim]."""
        self._note_main(main)
        plan = self._plan[index]  # type: ignore[index]
        out = self._blends.pop(plan, None)
        if out is None:
            while len(self._blends) >= _KEPT_BLENDS:
                del self._blends[next(iter(self._blends))]
            out = main
            for k, strength in plan:
                out = self._apply(k, strength, out, main)
        self._blends[plan] = out
        self._edited_blocks += 1
        if self._statistics is not None:
            logged = any(self._log_levels[k] in ("verbose", "trace") for k, _ in plan)
            if logged or any(k in self._observations for k, _ in plan):
                rows = sorted({row for k, _ in plan for row, _ in self._targets[k]})
                edits = [k for k, _ in plan]
                self._statistics.record(index, plan, main, out, rows, edits=edits, logged=logged)
        return out

    def _note_main(self, main: torch.Tensor) -> torch.Tensor:
        """Forget what was made from another context: a host may hand some blocks one of their own."""
        if main is not self._main:
            self._main = main
            self._aligned.clear()
            self._blends.clear()
        return main

    def _apply(self, k: int, strength: float, out: torch.Tensor, main: torch.Tensor) -> torch.Tensor:
        """Apply edit `k` to `out`, which earlier edits made from the main context."""
        operation: Operation | ActivationAddition = self.stack.edits[k].operation
        injection = self._align(k, main)
        if out is main or all(rows == self._targets[k] for rows in self._targets.values()):
            return operation(out, injection, strength)
        # Edits of several branches meet in one batch: what this one does not touch is no longer the main context.
        out = out.clone()
        for row, _ in self._targets[k]:
            out[row : row + 1] = operation(out[row : row + 1], injection[row : row + 1], strength)
        return out

    def _align(self, k: int, main: torch.Tensor) -> torch.Tensor:
        """The injected context in the layout of the main one: image tokens and foreign rows are the main's."""
        if k not in self._aligned:
            if k not in self._projected:
                raise RuntimeError(
                    f"{self.model.name} did not run its text projection in this call, so the injected prompt has "
                    "no projected form. A pack that caches or replaces the projected context conflicts with "
                    "WanVideo Activation Editor: disable it."
                )
            text = self._projected[k]
            if text.shape != main.shape:
                if main.shape[0] < text.shape[0] or main.shape[1] < text.shape[1]:
                    raise RuntimeError(
                        f"{self.model.name} hands its blocks a context {list(main.shape)}, shorter than the projected "
                        f"prompts {list(text.shape)}. Another pack changes the context; disable it."
                    )
                aligned = main.clone()
                inside = aligned[: text.shape[0], main.shape[1] - text.shape[1] :]
                inside.copy_(text)
                self._projected[k] = inside  # a view: one copy is kept, not two
                text = aligned
            self._aligned[k] = text
        return self._aligned[k]

    # Messages

    def _log_start(self) -> None:
        for edit, strengths, level in zip(self.stack, self._strengths, self._log_levels, strict=True):
            if level == "off":
                continue
            active = sum(s != 0.0 for s in strengths)
            log.info(
                "%s: %s of %d blocks of %s hooked, %s\n  %s",
                edit.label or "Edit",
                active,
                len(strengths),
                self.model.name,
                _where(edit),
                block_pattern(strengths),
            )

    def _log_transforms(
        self,
        key: tuple[int, str, int],
        transforms: Sequence[ContextTransform],
        main: Any,
        injected: Any,
        result: Any,
        real: Any,
    ) -> None:
        k, branch, prompt = key
        before, after = (100 * real_share(main, x, real).item() for x in (injected, result))
        log.info(
            "%s (%s, prompt %d): %s: %.2f%% of elements of real tokens differ by more than 0.01 before, %.2f%% after.",
            self.stack.edits[k].label or "Edit",
            branch,
            prompt + 1,
            "; ".join(t.name for t in transforms),
            before,
            after,
        )

    def _warn_if_unused(self) -> None:
        for edit, calls, strengths in zip(self.stack, self._calls, self._strengths, strict=True):
            if any(strengths) and calls == 0:
                # One of two samplers in a row may rightly see no step of a window.
                log.log(
                    logging.WARNING if edit.window.is_full else logging.INFO,
                    "%s had no effect: no model call of this run fell in its branch and window (%s).",
                    edit.label or "An edit",
                    _where(edit),
                )
        if any(self._calls) and not self._edited_blocks and any(map(any, self._strengths)):
            log.warning(
                "WanVideo Activation Editor had no effect: the host ran none of the selected blocks. "
                "A cache (TeaCache, MagCache, EasyCache) or skip-layer guidance may have skipped them."
            )


def _hidden(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep a hook out of torch.compile's graphs, so that compiled blocks stay whole."""
    return torch.compiler.disable(function)  # type: ignore[no-untyped-call, no-any-return]


def skipped_message(blocks: set[int], setting: str) -> str:
    """For blocks that a hidden edit is to change and that the host leaves out."""
    return (
        f"{setting} skips block {', '.join(map(str, sorted(blocks)))}, whose hidden state is to be edited. "
        "Choose other blocks, or change the skipped ones."
    )


def _where(edit: Edit) -> str:
    captured = f" of a difference captured {edit.delta.origin}" if edit.adds else ""
    return f"{edit.operation.name}{captured}, branch {edit.branch}, window {edit.window.start:g}-{edit.window.end:g}"

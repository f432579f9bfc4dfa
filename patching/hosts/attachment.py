"""Edits of a diffusers transformer while `with` blocks are open: one run per transformer, whatever opened on it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch

from ..active import ActiveEdit
from ..edit import EditStack
from ..messages import warn_if_unused
from ..noise import progress_at, shift_of
from ..passes import in_extra_pass
from ..runtime import Run
from ..wan_model import discover
from .branches import Branches, Encoded, branch_named, listening, replace_method
from .compile import eager, edits_inside, is_compiled

COMPILE_SETTING = "pipe.transformer.compile_repeated_blocks()"

_attachments: dict[torch.nn.Module, Attachment] = {}
_lock = threading.RLock()
_open: ContextVar[frozenset[object]] = ContextVar("wan_activation_editor_open", default=frozenset())


class Attachment:
    """The hooks on one transformer, and whose edits they serve.

    Contexts may open and close in any order. A call from a thread or task in which one of them is not open is refused:
    it would be edited without having asked for it, or run beside another call in the same hooks.
    """

    def __init__(self, transformer: Any) -> None:
        self.model = discover(transformer)
        self.run = Run(EditStack(), self.model)
        self._contexts: dict[object, list[ActiveEdit]] = {}
        self._encoded: dict[object, Encoded] = {}
        self._branches = Branches(self.model.name)
        self._thread: int | None = None  # in which a call is in progress
        self._exits = contextlib.ExitStack()
        self._hook()

    def open(self, token: object, stack: EditStack, scheduler: Any, encoded: Encoded) -> None:
        """Let a stack act for context `token`, after those that act already."""
        self.check_idle("open `inject` on", inside=True)
        self._encoded[token] = encoded
        with self._paused():
            self._contexts[token] = self.run.extend(stack, scheduler)

    def close(self, token: object, completed: bool) -> bool:
        """End what `open` began; True when no context is left and the hooks are gone."""
        self.end_call()  # what an interrupt left
        self._encoded.pop(token, None)
        if token in self._contexts:
            edits = self._contexts.pop(token)
            with self._paused():
                try:
                    self.run.close(completed and any(edit.seen for edit in edits), edits)
                finally:
                    self.run.remove(edits)
            if completed and any(edit.seen for edit in edits):
                warn_if_unused(edits)
        if not self._contexts:
            self._exits.close()
        return not self._contexts

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        """Without the hooks of edits; they are installed again in the order of the stack."""
        self.run.__exit__()
        try:
            yield
        finally:
            if self._contexts:
                self.run.__enter__()

    def check_idle(self, what: str, inside: bool = False) -> None:
        """Raise RuntimeError while another thread calls the transformer; with `inside`, also while this one does."""
        if self._thread is None or (self._thread == threading.get_ident() and not inside):
            return
        where = "A call of" if self._thread == threading.get_ident() else "Another thread is calling"
        raise RuntimeError(
            f"{where} this {self.model.name}: you cannot {what} it until the call has ended. "
            "Give each thread a transformer of its own, or let them take turns; after an interrupted call, leave the "
            "`with` block."
        )

    def _hook(self) -> None:
        module: Any = self.model.module
        before = torch.compiler.disable(self._begin)  # type: ignore[no-untyped-call]
        after = torch.compiler.disable(self.end_call)  # type: ignore[no-untyped-call]
        self._exits.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        self._exits.callback(module.register_forward_hook(after, always_call=True).remove)
        if hasattr(module, "cache_context"):
            self._exits.callback(replace_method(module, "cache_context", self._named))

    def _named(self, cache_context: Any) -> Callable[..., Any]:
        """The module's own `cache_context`, by which pipelines name their calls."""

        @contextlib.contextmanager
        def named(name: str, *args: Any, **kwargs: Any) -> Iterator[None]:
            with self.calls_of(branch_named(name)), cache_context(name, *args, **kwargs):
                yield

        return named

    @contextlib.contextmanager
    def calls_of(self, branch: str | None) -> Iterator[None]:
        """Every call in the `with` block is of one branch; None when its text has to tell."""
        before, self._branches.named = self._branches.named, branch
        try:
            yield
        finally:
            self._branches.named = before

    def _begin(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if in_extra_pass():
            return
        self.check_idle("call")
        if not _open.get().issuperset(self._contexts):
            raise RuntimeError(
                f"This {self.model.name} is called in a thread or task other than the one that opened `inject` on it. "
                "Open `inject` where the pipeline is called, or give each thread a transformer of its own."
            )
        self._thread = threading.get_ident()
        t = kwargs["timestep"] if "timestep" in kwargs else args[1]
        text = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]
        latents = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        split = any(active.edit.branch != "both" for edits in self._contexts.values() for active in edits)
        rows = self._branches.rows(text, latents, self._encoded.values(), split)
        self.run.begin(
            rows=rows,
            progress=lambda scheduler: progress(t, scheduler),
            label=lambda: f"Step at timestep {float(t.max()):.1f}",
            prompt_count=max(map(len, rows.values())),
            sigma=lambda: float(t.max()) / 1000,
            grid=self.model.grid(latents),
            text=text,
        )

    def end_call(self, *_: Any) -> None:
        """Torch calls this after an exception as well, also after that of a call which `_begin` refused."""
        if self._thread == threading.get_ident() and not in_extra_pass():
            self._thread = None


def call_was_cut(module: torch.nn.Module) -> None:
    """Say that the call in progress has ended by an exception that torch's hooks do not see."""
    if module in _attachments:
        _attachments[module].end_call()


@contextlib.contextmanager
def attached(pipeline: Any, transformers: list[Any], stack: EditStack, scheduler: Any) -> Iterator[None]:
    """Let a stack act on transformers for as long as the `with` block lasts.

    Args:
        pipeline: what `inject` was given.
        transformers: of the pipeline.
        stack: checked edits.
        scheduler: tells the edits' windows where sampling is.

    Raises:
        RuntimeError: a call of one of them is in progress in another thread.
    """
    token = object()
    transformers = list({id(discover(t).module): t for t in transformers}.values())  # one may be both of a pipeline
    modules = [discover(transformer).module for transformer in transformers]
    completed, exits = False, contextlib.ExitStack()
    try:
        for transformer in transformers:
            exits.enter_context(compile_stance(transformer, stack))
        encoded = exits.enter_context(listening(pipeline))
        with _lock:
            for module, transformer in zip(modules, transformers, strict=True):
                if module not in _attachments:
                    _attachments[module] = Attachment(transformer)
                _attachments[module].open(token, stack, scheduler, encoded)
        _open.set(_open.get() | {token})
        yield
        for module in modules:
            _attachments[module].check_idle("close `inject` on")
        completed = True
    finally:
        exits.close()
        _open.set(_open.get() - {token})
        with _lock:
            for module in modules:
                # With two transformers, one of them may rightly see no step of the window.
                if module in _attachments and _attachments[module].close(token, completed and len(modules) == 1):
                    del _attachments[module]


def calls_of_prompt(module: Any) -> contextlib.AbstractContextManager[None]:
    """Calls of a transformer in the `with` block are the prompt's, for the edits open on it."""
    return _attachments[module].calls_of("cond") if module in _attachments else contextlib.nullcontext()


def compile_stance(transformer: Any, stack: EditStack) -> contextlib.AbstractContextManager[Any]:
    """Lets the edits be reached where the transformer or its blocks are compiled."""
    model = discover(transformer)
    inside = edits_inside(stack, model) and any(map(is_compiled, model.module.blocks))  # type: ignore[arg-type]
    return eager(COMPILE_SETTING, whole=is_compiled(transformer), inside=inside)


def progress(t: torch.Tensor, scheduler: Any) -> float:
    """Fraction of sampling done at timestep `t`: by the noise level, or where the scheduler has no flow shift by the
    index of the schedule's timestep nearest to it, over their number.

    Raises:
        ValueError: the schedule has no such timestep.
    """
    timesteps = torch.as_tensor(scheduler.timesteps).float()
    now = float(t.max())
    if getattr(scheduler, "num_inference_steps", len(timesteps)) is None:
        raise ValueError(
            "The scheduler of the pipeline that was given to `inject` has no steps: another pipeline samples with this "
            "transformer. Give `inject` the pipeline that samples, or no window."
        )
    if now == 0.0:  # a finished part that is read again, as by causal pipelines
        return 1.0
    distances = (timesteps - now).abs()
    if float(distances.min()) > 4.0:  # half floats round 1000 to a multiple of 4
        raise ValueError(
            f"The transformer is called at timestep {now:g}, which the scheduler of the pipeline given to `inject` "
            "does not have: another pipeline shares this transformer. Give `inject` the pipeline that "
            "samples, or no window."
        )
    index, shift = int(distances.argmin()), shift_of(scheduler)
    if shift is None:
        return index / len(timesteps)
    sigmas = getattr(scheduler, "sigmas", ())  # the timesteps of some schedulers are rounded to whole numbers
    exact = len(sigmas) == len(timesteps) + 1
    return progress_at(float(sigmas[index] if exact else timesteps[index] / 1000), shift)


def is_attached(transformer: Any) -> bool:
    """True while a context is open on a transformer."""
    return discover(transformer).module in _attachments

"""One edit in one run: the hooks that it installs, and what they do.

A class per way of getting at the value; each calls the operation on the rows and tokens that the edit touches, and on
nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .edit import Edit
from .grid import Grid, format_grid
from .passes import in_extra_pass
from .prompts import Rows
from .sites import site_of
from .statistics import Observation, Observer, effective_log_level
from .tokens import Tokens
from .transforms import ContextTransform
from .wan_model import ContextArgument, cross_attention

if TYPE_CHECKING:
    from .runtime import Run

Hook = Any
"""What torch gives back for a registered hook."""


def hidden_from_compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep a hook out of torch.compile's graphs, so that compiled blocks stay whole."""
    return torch.compiler.disable(function)  # type: ignore[no-untyped-call, no-any-return]


Part = tuple[torch.Tensor, torch.Tensor | None]
"""Places of tokens, and their weights [tokens, 1]; None when all are 1."""


def part_of(weights: torch.Tensor, x: torch.Tensor) -> Part:
    """The tokens whose weight is not 0, for a tensor like x."""
    places = weights.nonzero()[:, 0]
    chosen = weights[places]
    return places.to(x.device), None if bool((chosen == 1).all()) else chosen[:, None].to(x.device, x.dtype)


class ActiveEdit:
    """An edit while its host samples.

    Args:
        run: the run that it belongs to.
        edit: the edit.
        transforms: what its prompt goes through after projection.
        clock: tells edits apart whose progress is computed in different ways; see `Run.begin`.
        observer: gets its progress.
    """

    def __init__(
        self, run: Run, edit: Edit, transforms: tuple[ContextTransform, ...], clock: Any, observer: Observer | None
    ) -> None:
        self.run, self.edit, self.transforms, self.clock = run, edit, transforms, clock
        self.site = site_of(edit.site)
        self.strengths = edit.strengths.resolve(run.model.block_count)
        self.blocks = [i for i, s in enumerate(self.strengths) if s != 0.0]
        self.level = effective_log_level(edit)
        observed = observer is not None and self.level != "off"
        self.observation = Observation(observer, self.strengths) if observed and observer is not None else None
        self.logged = self.level in ("verbose", "trace")
        self.factor = 1.0  # of the strengths, by the schedule, in the call in progress
        self.tokens: Tokens | None = None  # of the text that it touches; None for all
        self.grid: Grid | None = None  # of the call in progress
        self._first_in_call = False
        self.rows: list[tuple[int, int]] = []  # that it touches in the call in progress, with their prompts
        self._of_call: list[tuple[int, int]] = []  # the same, before the model took some of them
        self._selected: dict[Any, Part] = {}  # tokens of the text in the call in progress
        self.reached = self.checked = False  # one of its hooks was called; a model call has shown whether
        self.seen = False  # a model call began since it is there
        self.calls = 0  # model calls in which it acted
        self.edited = 0  # blocks that it changed in them
        self.unreported = False  # it acted in a call that the observer has not been told of
        self.missed: set[int] = set()  # blocks that it has not reached yet in this call

    def choose_tokens(self, plain: bool) -> None:
        """Args: plain: no edit changes padding, so that of two prompts is equal."""
        chosen = self.edit.tokens if self.site.reads_text else None
        whole = chosen is None or chosen.takes_all or (plain and chosen.takes_real and self.edit.is_projected)
        self.tokens = None if whole else chosen

    def begin(self, rows: Rows, progress: Callable[[Any], float], grid: Grid | None) -> None:
        """A model call begins."""
        self.seen = True
        edit = self.edit
        branches = ("cond", "uncond") if edit.branch == "both" else (edit.branch,)
        self.rows = [row for branch in branches for row in rows.get(branch, ())]
        self.factor = edit.factor(progress(self.clock)) if self.rows and edit.is_timed else 1.0
        if self.factor == 0.0:
            self.rows = []
        self._of_call = self.rows
        if self.rows:
            self.calls += 1
            self.unreported = True
            self.missed = set(self.blocks)
            self.grid = grid
            if edit.captured is not None and grid is not None:
                edit.captured.check_grid(grid, edit.name)

    def take(self, given: list[int]) -> None:
        """The model runs some of the announced rows now, `given` in this order."""
        self._selected.clear()
        number = dict(self._of_call)
        self.rows = [(row, number[announced]) for row, announced in enumerate(given) if announced in number]

    def end(self) -> None:
        """The model call has ended."""
        self.rows = []
        self._selected.clear()
        self.missed = set()

    @property
    def acts(self) -> bool:
        """True when the edit touches the call in progress; asked by every hook, and so a sign that one is called."""
        self.reached = True
        return bool(self.rows) and not in_extra_pass()

    def hooks(self, block: nn.Module, index: int) -> Iterator[Hook]:
        """Install what this edit needs at a block."""
        raise NotImplementedError

    def attention_calls(self, block: nn.Module) -> Hook:
        """Notes each call of the block's cross-attention.

        A host may run a leaf of it more than once in a call: for NAG's negative prompt after its own text, which alone
        is edited.
        """

        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._first_in_call = True

        return cross_attention(block).register_forward_pre_hook(hidden_from_compile(note))

    @property
    def first_in_call(self) -> bool:
        """True the first time that it is asked for in a call of cross-attention."""
        first, self._first_in_call = self._first_in_call, False
        return first

    def touched(self, x: torch.Tensor, of_text: bool | None = None) -> list[int] | None:
        """Rows of the tensor at the site that are changed; None for all of them.

        Args:
            of_text: its rows are those of the text batch; None for what the site says.
        """
        rows = sorted(row for row, _ in self.rows)
        batch = len(x) if self.run.prompts.batch is None else self.run.prompts.batch
        if self.site.reads_images and len(x) < batch:
            if len(rows) != batch:
                raise ValueError(
                    f"{self.edit.name}: both guidance branches of {self.run.model.name} read the same image tokens in "
                    "one call. Set branch to both, or switch off batched_cfg."
                )
            return None
        if not (self.site.reads_text if of_text is None else of_text) and (len(rows) == batch or len(x) == 1):
            return None
        return None if rows == list(range(len(x))) else rows

    def apply(self, index: int, x: torch.Tensor, value: torch.Tensor, first: int = 0) -> torch.Tensor:
        """The tensor at the site [batch, tokens, dim] after the operation.

        Args:
            index: the block.
            x: what is there; it is not changed.
            value: [batch or 1, tokens from `first` on or 1, dim].
            first: the first token that is touched.
        """
        rows, strength = self.touched(x), self.factor * self.strengths[index]
        if value.shape[1] not in (1, x.shape[1] - first):
            raise ValueError(
                f"{self.edit.name}: {self.edit.source.title} of {value.shape[1]} tokens, but the sampler has "
                f"{x.shape[1] - first}. Capture with the sampler's size and image inputs, or set reduce to mean."
            )
        if rows is None and first == 0 and self.tokens is None:
            out = self._operated(x, value, strength, 0)
        else:
            out = x.clone()
            for row in range(len(x)) if rows is None else rows:
                part = x[row : row + 1, first:]
                of_row = value if len(value) == 1 else value[row : row + 1]
                out[row : row + 1, first:] = self._operated(part, of_row, strength, row)
        if self.run.asks_again:  # for a masked edit, after this one has been counted
            return out
        self.edited += 1
        self.missed.discard(index)
        if self.run.statistics is not None and (self.logged or self.observation is not None):
            what = "hidden state" if self.edit.site == "hidden" else self.edit.site
            real = self.run.prompts.real(self, x) if self.site.reads_text else None
            touched = range(len(x)) if rows is None else rows
            traced = self.level == "trace"
            self.run.statistics.record(
                index, self, x, out, touched, what=what, logged=self.logged, trace=traced, real=real
            )
        return out

    def _operated(self, x: torch.Tensor, value: torch.Tensor, strength: float, row: int) -> torch.Tensor:
        """What the operation makes of the tokens that are touched, among the others."""
        part = self.selected(x, row)
        if part is None:
            return self._operate(x, value, strength)
        places, weights = part
        before = x[:, places]
        after = self._operate(before, value if value.shape[1] == 1 else value[:, places], strength)
        out = x.clone()
        out[:, places] = after if weights is None else torch.lerp(before, after, weights)
        return out

    def selected(self, x: torch.Tensor, row: int) -> Part | None:
        """The tokens of a row that are touched; None for all of them."""
        if self.tokens is not None:
            key = row, x.shape[1], x.dtype
            if key not in self._selected:
                real = self.run.prompts.is_real(row, x.shape[1], self.edit)
                self._selected[key] = part_of(self.tokens.weights(real), x)
            return self._selected[key]
        return self.masked(x) if self.edit.mask is not None and not self.site.reads_text else None

    def masked(self, x: torch.Tensor) -> Part:
        """The tokens of the video in the mask, made once per run."""
        key = id(self.edit.mask), self.grid, x.device, x.dtype
        if key not in self.run.parts:
            self.run.parts[key] = part_of(self.token_weights(x), x)
        return self.run.parts[key]

    def token_weights(self, x: torch.Tensor) -> torch.Tensor:
        """The mask at the tokens of a hidden state like x: [tokens], on the CPU.

        Raises:
            RuntimeError: the host does not tell the size of its video.
            ValueError: it has other tokens than those of the video.
        """
        grid = self.grid
        if grid is None:
            raise RuntimeError(f"{self.edit.name}: {self.run.model.name} does not tell its size, which a mask needs.")
        assert self.edit.mask is not None  # noqa: S101  # asked only then
        if math.prod(grid) != x.shape[1]:
            raise ValueError(
                f"{self.edit.name}: a mask describes the {math.prod(grid)} tokens of a video of "
                f"{format_grid(grid)}, but {self.run.model.name} has {x.shape[1]}, with references or padding "
                "among them. Leave the mask out."
            )
        return self.edit.mask.weights(grid)

    def _operate(self, x: torch.Tensor, value: torch.Tensor, strength: float) -> torch.Tensor:
        operation: Any = self.edit.operation
        if getattr(operation, "pure", False):
            result = operation(x, value, strength)
        else:  # it may change its arguments in place
            result = operation(x.clone(), value.clone(), strength)
        if (
            not torch.is_tensor(result)
            or result.shape != x.shape
            or result.dtype != x.dtype
            or result.device != x.device
        ):
            got = f"{result.dtype} {list(result.shape)}" if torch.is_tensor(result) else type(result).__name__
            raise TypeError(
                f"{self.edit.name}: the operation {operation.name} returned {got}; it has to return a "
                f"tensor like its first argument, {x.dtype} {list(x.shape)} on {x.device}."
            )
        return result


class ContextEdit(ActiveEdit):
    """Changes the text that blocks read: by a prompt, or along a direction."""

    def hooks(self, block: nn.Module, index: int, argument: ContextArgument | None = None) -> Iterator[Hook]:
        """Args: argument: how `block` takes its text, when it is not a main block."""
        if index not in self.blocks:
            return
        context = argument or self.run.model.context

        def hand_over(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not self.acts:
                return None
            main = context.read(args, kwargs)
            return context.replace(args, kwargs, self.apply(index, main, self.value(index, main), self.first(main)))

        yield block.register_forward_pre_hook(hidden_from_compile(hand_over), with_kwargs=True)

    def first(self, main: torch.Tensor) -> int:
        return self.run.prompts.text_start(main)

    def value(self, index: int, main: torch.Tensor) -> torch.Tensor:
        if not self.edit.is_projected:
            return self.run.value(self.edit, index, main)
        if self.edit.text is None:
            return self.run.prompts.changed(self, main, index)
        return self.run.prompts.value(self.edit, main)


class ModuleEdit(ActiveEdit):
    """Changes what goes into or out of a module of the block, by a source that is not text."""

    def hooks(self, block: nn.Module, index: int) -> Iterator[Hook]:
        if index not in self.blocks:
            return
        module = self.site.module(block)

        def change_input(module: nn.Module, args: tuple[Any, ...]) -> Any:
            return (self.changed(index, args[0]), *args[1:]) if self.acts else None

        def change_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if not self.acts or (self.site.reads_text and not self.first_in_call):
                return None
            result: Any
            if isinstance(output, tuple):
                result = (self.changed(index, output[0]), *output[1:])
                x = result[0]
            else:
                x = result = self.changed(index, output)
            if self.edit.site == "hidden":
                self.run.left = x
            return result

        if self.site.end == "input":
            yield module.register_forward_pre_hook(hidden_from_compile(change_input))
            return
        if self.site.reads_text:
            yield self.attention_calls(block)
        yield module.register_forward_hook(hidden_from_compile(change_output))

    def changed(self, index: int, x: torch.Tensor) -> torch.Tensor:
        return self.apply(index, x, self._by_row(self.run.value(self.edit, index, x), x))

    def _by_row(self, value: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """A value of several captured rows, laid out over the touched rows of the batch."""
        rows, batch = self.touched(x), len(value)
        count = len(x) if rows is None else len(rows)
        if count % batch != 0:
            raise ValueError(
                f"{self.edit.name}: the hidden states were captured in a batch of {batch}, but the sampler's has "
                f"{count}. Capture with the sampler's batch size, or with 1."
            )
        if batch == 1 or (rows is None and batch == len(x)):
            return value
        order = torch.zeros(len(x), dtype=torch.long)
        for n, row in enumerate(range(len(x)) if rows is None else rows):
            order[row] = n % batch
        return value[order.to(value.device)]

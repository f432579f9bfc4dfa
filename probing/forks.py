"""One model call again and again, each time with an edit in another block, without running the same block twice.

A fork at block i differs from the plain call from block i on. The blocks before it are answered with what the plain
block i-1 put out, which is all that is kept; block i runs twice, plainly for the next fork and with the edit; the
blocks after it run on. So N forks and the plain call cost N (N + 1) / 2 + N block runs, and each fork is bit-identical
to the whole call with the edit, because the host's own forward runs around the blocks that are left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..patching.active import ActiveEdit, hidden_from_compile
from ..patching.edit import Edit, EditStack, Window
from ..patching.grid import Grid
from ..patching.output_change import first_tensor
from ..patching.passes import extra_pass, in_extra_pass
from ..patching.prompts import Rows
from ..patching.runtime import Run
from ..patching.streams import StreamEdit
from ..patching.strengths import Explicit
from ..patching.wan_model import WanModel


@dataclass(frozen=True, eq=False)
class ModelCall:
    """A call of a Wan transformer, with the arguments that its host gave; it can be made again.

    Args:
        model: the transformer.
        args, kwargs: of the call.
        rows: rows of the text batch per branch.
        sigma: noise level, 1 to 0.
        new_run: what the host makes of a stack: `Run(stack, model, ...)`.
        prompt_count, grid: see `Run.begin`.
    """

    model: WanModel
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rows: Rows
    sigma: float
    new_run: Callable[[EditStack], Run]
    prompt_count: int | None = None
    grid: Grid | None = None

    def output(self) -> torch.Tensor:
        """What the model puts out [batch, channels, frames, height, width]."""
        return first_tensor(self.model.module(*self.args, **self.kwargs))

    @contextlib.contextmanager
    def edited(self, edit: Edit) -> Iterator[ActiveEdit]:
        """Let an edit act in what `output` runs; every tensor that it holds is released at the end."""
        run = self.new_run(EditStack())
        (active,) = run.extend(EditStack((edit,)))
        active.checked = True  # the message here speaks of measuring
        try:
            with run:
                run.begin(
                    self.rows, lambda _: 0.0, prompt_count=self.prompt_count, grid=self.grid, sigma=lambda: self.sigma
                )
                yield active
                if active.missed:
                    raise RuntimeError(left_out(active.missed, self.model))
        finally:
            run.close(completed=False)


def left_out(blocks: set[int], model: WanModel) -> str:
    """For blocks that the host did not run in a call that is measured."""
    return (
        f"{model.name} was called without running block {', '.join(map(str, sorted(blocks)))}, so its effect cannot "
        "be measured. Turn off step caches (TeaCache, EasyCache) and skip-layer guidance."
    )


def at_block(edit: Edit, index: int, count: int) -> Edit:
    """The edit in one block only, at the strength that it has there.

    Args:
        count: blocks of the model.
    """
    strengths = edit.strengths.resolve(count)
    return replace(edit, strengths=Explicit(tuple(s if i == index else 0.0 for i, s in enumerate(strengths))))


def always(edit: Edit) -> Edit:
    """The edit in every call that has its branch, without a log: what it does at a noise level, whatever its window."""
    return replace(edit, window=Window(), log_level="off", reports_to=None)


@dataclass(frozen=True, eq=False)
class _Reached:
    """The plain pass after block `index`: what the block put out, and the second stream beside it, if there is one."""

    index: int
    output: Any
    stream: torch.Tensor | None


class Forks:
    """The forks of one model call by one edit, in rising order of blocks.

    Args:
        call: the call.
        edit: at the strength per block that each fork gets.
    """

    def __init__(self, call: ModelCall, edit: Edit) -> None:
        self._call, self._edit = call, edit
        self._reached: _Reached | None = None

    def fork(self, index: int) -> torch.Tensor:
        """The model's output with the edit in block `index` alone.

        Raises:
            ValueError: the plain pass has gone beyond that block.
            RuntimeError: the host did not run the block.
        """
        if self._reached is not None and index <= self._reached.index:
            raise ValueError(f"Block {index} is behind block {self._reached.index}, where the plain pass is.")
        model = self._call.model
        plain: list[Any] = []

        def advance(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if in_extra_pass():
                return
            with extra_pass():  # as the host calls it, compiled or not; it may change its input in place
                plain[:] = [model.module.blocks[index](args[0].clone(), *args[1:], **kwargs)]  # type: ignore[index, operator]

        hook = model.blocks[index].register_forward_pre_hook(hidden_from_compile(advance), with_kwargs=True)
        with contextlib.ExitStack() as exits:
            exits.callback(hook.remove)
            active = exits.enter_context(self._call.edited(at_block(self._edit, index, model.block_count)))
            stream = active if isinstance(active, StreamEdit) else None
            exits.enter_context(self.answered(stream))
            output = self._call.output()
            if not plain:
                raise RuntimeError(left_out({index}, model))
            self._reached = _Reached(index, plain[0], stream.passed if stream is not None else None)
        return output

    @contextlib.contextmanager
    def answered(self, stream: StreamEdit | None = None) -> Iterator[None]:
        """While it is open, the blocks that the plain pass is behind give its state, and do not run.

        Args:
            stream: the edit whose second stream goes on from where it was.
        """
        if self._reached is None:
            yield
            return
        blocks: Any = self._call.model.module.blocks
        reached, before = self._reached, list(blocks[: self._reached.index + 1])
        try:
            for index, block in enumerate(before):
                blocks[index] = _Answer(block, reached, index == reached.index, stream)
            yield
        finally:
            for index, block in enumerate(before):
                blocks[index] = block


class _Answer(nn.Module):
    """Stands for a block that need not run: the last one gives the state, those before it hand on what they get.

    The state is what the block put out, not what the next one got: what a host adds between blocks (VACE, controlnets)
    it adds again. In all else it is the block.
    """

    def __init__(self, block: nn.Module, reached: _Reached, last: bool, stream: StreamEdit | None) -> None:
        super().__init__()
        object.__setattr__(self, "_block", block)  # not a child: hosts move children between devices
        self._reached, self._last, self._stream = reached, last, stream

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_block"], name)

    def to(self, *_: Any, **__: Any) -> _Answer:  # type: ignore[override]
        return self

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> Any:
        output = self._reached.output
        state = output[0] if isinstance(output, tuple) else output
        if self._last:
            x = state.clone()  # a host may change it in place
            if self._stream is not None and self._reached.stream is not None:
                self._stream.resume(self._reached.stream, x)
        return (x, *output[1:]) if isinstance(output, tuple) else x


def branch_rows(branch: str, count: int) -> Mapping[str, list[tuple[int, int]]]:
    """Every row of a call belongs to one branch, as `Run.begin` takes them."""
    return {"uncond" if branch == "uncond" else "cond": [(row, row) for row in range(count)]}

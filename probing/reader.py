"""Which words a block's cross-attention reads, exactly and with any attention kernel.

The output of cross-attention is linear in its values V. Called again with all rows of V but those of one word set to
zero, less what it gives with all of them zero, it is that word's part of the output; the parts of all tokens add up to
the whole. No attention map is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..patching.active import hidden_from_compile
from ..patching.grid import Grid, format_grid
from ..patching.passes import extra_pass, in_extra_pass
from ..patching.sites import SITES
from ..patching.wan_model import WanModel
from .forks import left_out

PADDING = "padding"


@dataclass(frozen=True, eq=False)
class BlockReading:
    """What one block reads in one call.

    Args:
        shares: <p, t> / <t, t> per group, p the group's part of cross-attention's output and t the whole; the sum is 1.
        maps: the same split over the video's tokens, [groups, frames, height, width]; the sum of a map is its share.
    """

    shares: torch.Tensor
    maps: torch.Tensor


class WordReader:
    """Reads what chosen blocks attend to, in calls of a model; the model's output is what it is without it.

    Args:
        model: the transformer.
        groups: token numbers per word, from the start of the text. What is in none of them is the padding, the last
            group.
        blocks: that are read.
        step: called with the number of blocks that have been read in a call; may raise to stop.

    Raises:
        ValueError: a token is in two groups, or a block's projections are merged.
    """

    def __init__(
        self,
        model: WanModel,
        groups: Mapping[str, Sequence[int]],
        blocks: Sequence[int],
        step: Callable[[int], None] = lambda count: None,
    ) -> None:
        taken: dict[int, str] = {}
        for name, tokens in groups.items():
            for token in tokens:
                if token in taken:
                    raise ValueError(f"Token {token} is in {taken[token]!r} and in {name!r}; each belongs to one word.")
                taken[token] = name
        self._model, self._groups, self._blocks, self._step = model, groups, list(blocks), step
        self._values = {index: SITES["values"].module(model.blocks[index]) for index in blocks}

    @contextmanager
    def reading(self, grid: Grid) -> Iterator[dict[int, BlockReading]]:
        """While it is open, the blocks of the call in progress are read; hooks are gone afterwards.

        Args:
            grid: frames, height and width of the call in tokens.
        """
        found: dict[int, BlockReading] = {}
        handles = []
        try:
            for index in self._blocks:
                attention = cross_attention(self._model.blocks[index])
                hook = hidden_from_compile(self._hook(index, grid, found))
                handles.append(attention.register_forward_hook(hook, with_kwargs=True))
            yield found
        finally:
            for handle in handles:
                handle.remove()

    def check_all(self, found: Mapping[int, BlockReading]) -> None:
        """After a call: raise RuntimeError if its host left out a block."""
        missed = set(self._blocks) - set(found)
        if missed:
            raise RuntimeError(left_out(missed, self._model))

    def _hook(self, index: int, grid: Grid, found: dict[int, BlockReading]) -> Callable[..., None]:
        def read(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
            if in_extra_pass():
                return
            with extra_pass(), torch.no_grad():
                found[index] = self._read(module, args, kwargs, output, self._values[index], grid)
            self._step(len(found))

        return read

    def _read(
        self,
        attention: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: torch.Tensor,
        values: nn.Module,
        grid: Grid,
    ) -> BlockReading:
        tokens = grid[0] * grid[1] * grid[2]
        if output.shape[1] != tokens:
            raise RuntimeError(
                f"{self._model.name} has {output.shape[1]} tokens, but its video has {format_grid(grid)}. Words cannot "
                "be read beside reference images that add tokens: disconnect them."
            )

        def with_values(keep: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
            handle = values.register_forward_hook(hidden_from_compile(lambda m, a, v: v * keep(v)))
            try:
                result: torch.Tensor = attention(*args, **kwargs)
            finally:
                handle.remove()
            return result.float()

        nothing = with_values(lambda v: v.new_zeros(1, 1, 1))
        whole = output.float() - nothing
        square = whole.square().sum()
        maps = []
        for group in (*self._groups.values(), None):
            part = with_values(lambda v, group=group: self._mask(v, group)).sub_(nothing)  # type: ignore[misc]
            local = (part * whole).sum(dim=-1).sum(dim=0)
            maps.append(torch.where(square > 0, local / square, torch.zeros_like(local)).reshape(grid))
        stacked = torch.stack(maps).cpu()
        return BlockReading(stacked.double().sum(dim=(1, 2, 3)), stacked)

    def _mask(self, v: torch.Tensor, group: Sequence[int] | None) -> torch.Tensor:
        """[1, tokens, 1]: 1 for the tokens of a group; None for those in no group."""
        every = [token for tokens in self._groups.values() for token in tokens]
        if every and max(every) >= v.shape[1]:
            raise ValueError(
                f"Token {max(every)} is named, but the text has {v.shape[1]} tokens (0 to {v.shape[1] - 1})."
            )
        mask = torch.full((v.shape[1],), 1.0 if group is None else 0.0)
        mask[every if group is None else list(group)] = 0.0 if group is None else 1.0
        return mask.to(v.device, v.dtype)[None, :, None]


def cross_attention(block: nn.Module) -> nn.Module:
    """The cross-attention of a Wan block."""
    return block.get_submodule("cross_attn" if hasattr(block, "cross_attn") else "attn2")


@dataclass(frozen=True, eq=False)
class DueReading:
    """A call of a model that is to be read.

    Args:
        level: noise level that was asked for.
        sigma: noise level of the call.
        reader: reads it.
        grid: frames, height and width of the call in tokens.
    """

    level: float
    sigma: float
    reader: WordReader
    grid: Grid


@contextmanager
def reading_calls(
    modules: Sequence[nn.Module],
    call_of: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], DueReading | None],
    done: Callable[[float, float, dict[int, BlockReading]], None],
) -> Iterator[None]:
    """While it is open, due calls of transformers are read, in place.

    Args:
        modules: the transformers.
        call_of: what a call of one is; None when it is not due.
        done: called with the level asked for, that of the call, and the readings by block.

    Raises:
        RuntimeError: in a call, when its host left out a block.
    """
    opened: list[tuple[DueReading, ExitStack, dict[int, BlockReading]]] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        due = None if in_extra_pass() or opened else call_of(module, args, kwargs)
        if due is not None:
            exits = ExitStack()
            opened.append((due, exits, exits.enter_context(due.reader.reading(due.grid))))

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not opened:
            return
        due, exits, found = opened.pop()
        exits.close()
        if output is not None:  # the call has not failed
            due.reader.check_all(found)
            done(due.level, due.sigma, found)

    with ExitStack() as handles:
        for module in modules:
            hook = module.register_forward_pre_hook(hidden_from_compile(before), with_kwargs=True)
            handles.callback(hook.remove)
            handles.callback(module.register_forward_hook(hidden_from_compile(after), always_call=True).remove)
        try:
            yield
        finally:
            for _, exits, _ in opened:
                exits.close()

"""Capture of hidden states: the residual stream of a real pass after chosen blocks, with the rest of the pass left out.

A host's `capture` runs its own sampling code inside `Capture`, whose hooks copy what a block puts out and end the pass
after the last block that is wanted. Blocks are always restored, also after an error.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import nn

from .grid import Grid, format_grid
from .passes import in_extra_pass
from .views import ranges
from .wan_model import WanModel

FORMAT = 1


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """LATENT_EMBEDS: the residual stream after one block, or after each of the first ones.

    Args:
        states: tensors [batch, tokens, dim] on the CPU, in half precision.
        blocks: index of the block that each of them is the output of.
        grid: frames, height and width in tokens; models that add reference tokens have more tokens than that.
        sigma: noise level of the pass, 1 to 0.
        seed: seed of its noise; None when the latents were given.
        identity: of the model, its patches included; empty when unavailable.
        model_name: for people.
        prompt: source text; empty when it is not known.
    """

    states: tuple[torch.Tensor, ...]
    blocks: tuple[int, ...]
    grid: Grid
    sigma: float
    seed: int | None = None
    identity: str = ""
    model_name: str = ""
    prompt: str = ""

    @property
    def tokens(self) -> int:
        return self.states[0].shape[1]

    @property
    def width(self) -> int:
        return self.states[0].shape[-1]

    @property
    def size(self) -> int:
        """Bytes of the states."""
        return sum(state.nbytes for state in self.states)

    def __repr__(self) -> str:
        about = self.describe()
        return (
            f"<HiddenStates of {self.model_name or 'a model'}: after blocks {ranges(self.blocks)}, {about['shape']} "
            f"{about['dtype']}, grid {format_grid(self.grid)}, noise level {self.sigma:g}, seed {self.seed}>"
        )

    def describe(self) -> dict[str, Any]:
        """Everything but the values."""
        return {
            "blocks": list(self.blocks),
            "shape": list(self.states[0].shape),
            "dtype": str(self.states[0].dtype).removeprefix("torch."),
            "grid": list(self.grid),
            "sigma": self.sigma,
            "seed": self.seed,
            "identity": self.identity,
            "model_name": self.model_name,
            "prompt": self.prompt,
        }

    def plain(self) -> dict[str, Any]:
        """As a value for the embedding store; `from_plain` reads it back."""
        return {"hidden_states": list(self.states), "format": FORMAT, **self.describe()}

    @classmethod
    def from_plain(cls, value: Any) -> HiddenStates | None:
        """What `plain` gave; None for anything else."""
        if not isinstance(value, Mapping) or value.get("format") != FORMAT or not value.get("hidden_states"):
            return None
        plain = {k: value[k] for k in ("sigma", "seed", "identity", "model_name", "prompt")}
        frames, height, width = value["grid"]
        return cls(tuple(value["hidden_states"]), tuple(value["blocks"]), (frames, height, width), **plain)


def check_states(value: Any, name: str) -> HiddenStates:
    """The value of a LATENT_EMBEDS input.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, HiddenStates):
        raise TypeError(f"{name}: expected LATENT_EMBEDS from WanVideo Latent Encoder, got {type(value).__name__}.")
    return value


class _Stop(BaseException):
    """Ends a pass. No host's `except Exception` sees it; every `finally` runs."""


class Capture:
    """Context manager around the host's sampling: ends it after the first `count` blocks of its first model call.

        with Capture(model, 3) as capture:
            sample()
        states = capture.result(seed=0)

    Args:
        model: the transformer that will be called.
        count: blocks that run, 1 to the model's number of blocks.
        every: keep the state after each of them, not after the last alone.
        after_block: called with the number of blocks that have run; may raise to stop the host.

    Raises:
        ValueError: `count` is out of range.
    """

    def __init__(
        self, model: WanModel, count: int, every: bool = False, after_block: Callable[[int], None] | None = None
    ) -> None:
        if not 1 <= count <= model.block_count:
            raise ValueError(
                f"capture_after_blocks is {count}, but {model.name} has {model.block_count} blocks. "
                f"Choose 1 to {model.block_count}."
            )
        self._model = model
        self._count = count
        self._every = every
        self._after_block = after_block
        self._signature = inspect.signature(type(model.module).forward)
        self._handles: list[Any] = []
        self._states: list[torch.Tensor] = []
        self._grid: Grid | None = None
        self._sigma = 0.0

    def __enter__(self) -> Capture:
        hide: Any = torch.compiler.disable
        register = self._handles.append
        register(self._model.module.register_forward_pre_hook(hide(self._begin), with_kwargs=True))
        for index, block in enumerate(self._model.blocks[: self._count]):
            register(block.register_forward_hook(hide(self._leaver(index))))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        return kind is _Stop

    def stoppable(self, call: Callable[[], torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """For hosts that keep calling the model after the capture: the result of a model call, or zeros like `like`."""
        try:
            return torch.zeros_like(like) if self._is_complete() else call()
        except _Stop:
            return torch.zeros_like(like)

    def result(self, **known: Any) -> HiddenStates:
        """What was captured.

        Args:
            known: `seed`, `identity`, `model_name` and `prompt`, as the host knows them.

        Raises:
            RuntimeError: the host ended without running the blocks.
        """
        if self._grid is None or not self._is_complete():
            raise RuntimeError(
                f"The host did not run block {self._count - 1} of {self._model.name}, so nothing was captured. "
                "Turn off step caches and skip-layer guidance, and compile the blocks only, not the whole model."
            )
        first = 0 if self._every else self._count - 1
        blocks = tuple(range(first, self._count))
        return HiddenStates(tuple(self._states), blocks, self._grid, self._sigma, **known)

    def _is_complete(self) -> bool:
        return len(self._states) == (self._count if self._every else 1)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._is_complete():
            return
        call = self._signature.bind_partial(module, *args, **kwargs).arguments
        self._grid = self._model.grid(call["x"] if "x" in call else call["hidden_states"])
        t = next(call[name] for name in ("t", "timestep") if name in call)
        self._sigma = float(torch.as_tensor(t).max()) / 1000
        self._states.clear()

    def _leaver(self, index: int) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if in_extra_pass() or self._is_complete():
                return
            last = index == self._count - 1
            if last or self._every:
                self._states.append(_half(output[0] if isinstance(output, tuple) else output))
            if self._after_block is not None:
                self._after_block(index + 1)
            if last:
                raise _Stop

        return leave


def _half(x: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU. Hosts change x in place after a block. float32 becomes bfloat16, which has its range."""
    dtype = torch.float16 if x.dtype == torch.float16 else torch.bfloat16
    return x.detach().to("cpu", copy=True).to(dtype)

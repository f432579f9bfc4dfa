"""What an edit does to one model call, block by block: the numbers of a block map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from ..patching.edit import Edit
from ..patching.operations import Operation
from ..patching.output_change import first_tensor
from .distances import motion_energy
from .forks import Forks, ModelCall, always

Method = Literal["forks", "integrated_gradients"]
METHODS: tuple[Method, ...] = ("forks", "integrated_gradients")
IG_POINTS = 16

Step = Callable[[int], None]
"""Called with the number of blocks that have been measured so far; may raise to stop."""


@dataclass(frozen=True, eq=False)
class CallEffects:
    """Of one model call. v is its output, v_i that with the edit in block i alone, D the change by all of them.

    Args:
        effect: |v_i - v| / |v| per block of the model; NaN where it was not measured, as below.
        share: <v_i - v, D> / <D, D> per block.
        motion: part of the energy of v_i - v that differs between frames, per block; see `motion_energy`.
        whole: effect and motion of D.
        random: effect, share and motion of a random direction of equal norm in all of the blocks.
    """

    effect: np.ndarray[Any, Any]
    share: np.ndarray[Any, Any]
    motion: np.ndarray[Any, Any]
    whole: tuple[float, float]
    random: tuple[float, float, float]


class RandomDirection:
    """An operation's own change, turned into a direction without a meaning: a control.

    The channels of the change are shuffled and their signs drawn, the same way for every token. Each token's change
    keeps its norm, and any two tokens' changes keep their angle.

    Args:
        operation: whose change it is.
        seed: of the draw.
    """

    def __init__(self, operation: Operation, seed: int) -> None:
        self._operation, self._seed = operation, seed
        self.takes = getattr(operation, "takes", None)
        self.name = f"random direction in place of {operation.name}"

    def __call__(self, x: torch.Tensor, value: torch.Tensor, strength: float) -> torch.Tensor:
        change = self._operation(x, value, strength).float() - x.float()
        generator = torch.Generator().manual_seed(self._seed)
        order = torch.randperm(x.shape[-1], generator=generator).to(x.device)
        signs = (torch.randint(0, 2, (x.shape[-1],), generator=generator) * 2 - 1).to(x.device)
        return (x.float() + change[..., order] * signs).to(x.dtype)


class Measurement:
    """Measures an edit in calls of a transformer while its host makes them.

    Args:
        call_of: what a call of a module with its arguments is as a ModelCall; None when it is not to be measured.
        done: called with each call and its effects.
        edit: what is measured, whatever its window.
        method: `forks`, or `integrated_gradients`: shares alone, from gradients along the path from no block to all.
        seed: of the control's random direction.
        step: see `Step`.
    """

    def __init__(
        self,
        call_of: Callable[[Any, tuple[Any, ...], dict[str, Any]], ModelCall | None],
        done: Callable[[ModelCall, CallEffects], None],
        edit: Edit,
        method: Method = "forks",
        seed: int = 0,
        step: Step = lambda count: None,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}.")
        self._call_of, self._done, self._step = call_of, done, step
        self._edit, self._method, self._seed = always(edit), method, seed
        self._busy = False
        self._open: tuple[Any, Callable[[torch.Tensor], CallEffects], ModelCall] | None = None

    @contextmanager
    def on(self, *modules: torch.nn.Module) -> Iterator[None]:
        """While it is open, calls of the modules are measured."""
        hide: Any = torch.compiler.disable
        handles = []
        try:
            for module in modules:
                handles.append(module.register_forward_pre_hook(hide(self._before), with_kwargs=True))
                handles.append(module.register_forward_hook(hide(self._after), always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._close()

    def _close(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            opened[0].__exit__(None, None, None)

    def _before(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._busy:
            return
        call = self._call_of(module, args, kwargs)
        if call is None:
            return
        self._busy = True
        try:
            strengths = self._edit.strengths.resolve(call.model.block_count)
            blocks = [i for i, s in enumerate(strengths) if s != 0.0]
            forks = Forks(call, self._edit)
            with call.edited(self._edit):
                whole = call.output()
            control = replace(self._edit, operation=RandomDirection(self._edit.operation, self._seed))
            with call.edited(control):
                random = call.output()
            if self._method == "forks":
                outputs = []
                for n, index in enumerate(blocks):
                    self._step(n)
                    outputs.append(forks.fork(index).to("cpu", torch.float32, copy=True))
                self._step(len(blocks))

                def finish(plain: torch.Tensor) -> CallEffects:
                    return _effects(plain, whole, random, blocks, outputs, call.model.block_count)
            else:

                def finish(plain: torch.Tensor) -> CallEffects:
                    shares = _integrated(call, self._edit, blocks, whole - plain, self._step)
                    return _effects(plain, whole, random, blocks, None, call.model.block_count, shares)

            # The host's own call is the rest of the plain pass.
            answered = forks.answered()
            answered.__enter__()
            self._open = answered, finish, call
        finally:
            self._busy = False

    def _after(self, module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._busy or self._open is None:
            return
        _, finish, call = self._open
        self._close()
        if output is None:  # the call has failed
            return
        self._busy = True
        try:
            self._done(call, finish(first_tensor(output)))
        finally:
            self._busy = False


def _effects(
    plain: torch.Tensor,
    whole: torch.Tensor,
    random: torch.Tensor,
    blocks: Sequence[int],
    outputs: Sequence[torch.Tensor] | None,
    count: int,
    shares: Sequence[float] | None = None,
) -> CallEffects:
    v = plain.detach().to("cpu", torch.float32)
    all_of_it = whole.to("cpu", torch.float32) - v
    norm, square = float(v.norm()), float((all_of_it * all_of_it).sum(dtype=torch.float64))

    def numbers(d: torch.Tensor) -> tuple[float, float, float]:
        along = float((d * all_of_it).sum(dtype=torch.float64))
        return float(d.norm()) / norm if norm else 0.0, along / square if square else 0.0, motion_energy(d)

    effect, share, motion = (np.full(count, np.nan) for _ in range(3))
    for n, index in enumerate(blocks):
        if outputs is not None:
            effect[index], share[index], motion[index] = numbers(outputs[n] - v)
        elif shares is not None:
            share[index] = shares[n]
    of_all = numbers(all_of_it)
    return CallEffects(effect, share, motion, (of_all[0], of_all[2]), numbers(random.to("cpu", torch.float32) - v))


def _integrated(call: ModelCall, edit: Edit, blocks: Sequence[int], direction: torch.Tensor, step: Step) -> list[float]:
    """Share per block: integrated gradients of <v, D> / <D, D> along one gate for all blocks, 16 midpoints.

    Source: Sundararajan, Taly, Yan, Axiomatic Attribution for Deep Networks, 2017. The shares sum to 1.
    """
    strengths = edit.strengths.resolve(call.model.block_count)
    square = (direction.double() ** 2).sum()
    total = torch.zeros(len(blocks), dtype=torch.float64)
    for point in range(IG_POINTS):
        step(point * len(blocks) // IG_POINTS)
        with torch.enable_grad():
            gates = torch.full((len(blocks),), (point + 0.5) / IG_POINTS, device=direction.device, requires_grad=True)
            with call.edited(edit) as active:
                at: list[Any] = list(active.strengths)
                for n, index in enumerate(blocks):
                    at[index] = gates[n] * strengths[index]
                active.strengths = tuple(at)
                along = (call.output().double() * direction.double()).sum() / square
            (gradient,) = torch.autograd.grad(along, gates)
        total += gradient.to("cpu", torch.float64) / IG_POINTS
    step(len(blocks))
    return [float(x) for x in total]

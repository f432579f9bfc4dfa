"""Cells on a Ray cluster: one actor per GPU holds the pipeline (without GPUs, one per machine)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from ..patching.edit import EditStack
from .cells import ATTEMPTS, KINDS, Cell, Kind, Model, Outcome, Worker, read_recipe

WAIT = 5.0  # seconds between looks at which machines there are


class _Actor:
    """A worker of another process, that takes and gives plain values and tensors."""

    def __init__(self, model: Model) -> None:
        self._worker = Worker(model)

    def block_count(self) -> int:
        return self._worker.block_count

    def run(self, cell: str, stack: Any) -> tuple[Any, ...]:
        given = None if stack is None else EditStack.from_plain(*stack)
        found = self._worker.run(Cell.from_json(cell), given)
        return found.latents, found.frames, found.seconds, found.identity


class OnRay:
    """The engine `ray`.

    A cell whose machine dies is sampled on another; machines that join get actors too. Machines need this package, and
    the folders of weights under the same path.

    Args:
        address: of the cluster, as for `ray.init`: "auto" for the one that this machine is part of; None starts Ray
            on this machine alone.
    """

    kinds: tuple[Kind, ...] = KINDS

    def __init__(self, address: str | None = None) -> None:
        import ray

        self._ray: Any = ray
        self._mine = not ray.is_initialized()
        if self._mine:
            ray.init(address=address, log_to_driver=False)
        self._model: Model | None = None
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}  # actors by the call that tells that they are ready
        self._running: dict[Any, tuple[Any, Cell]] = {}

    def block_count(self, model: Model) -> int:
        self._for(model)
        while True:
            self._start_missing()
            for call in self._ray.wait(list(self._starting), timeout=WAIT)[0]:
                return int(self._ray.get(call))

    def outcomes(self, model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome | Exception]]:
        self._for(model)
        due, failures, left = list(reversed(cells)), Counter[str](), len(cells)
        while left:
            self._start_missing()
            while due and self._idle:
                actor, cell = self._idle.pop(), due.pop()
                recipe = read_recipe(cell)
                stack = None if recipe is None else recipe.to_plain()
                self._running[actor.run.remote(cell.to_json(), stack)] = actor, cell
            for call in self._ray.wait([*self._running, *self._starting], timeout=WAIT)[0]:
                if call in self._starting:
                    self._ready(call)
                    continue
                actor, cell = self._running.pop(call)
                try:
                    found: Outcome | Exception = Outcome(*self._ray.get(call))
                    self._idle.append(actor)
                except self._ray.exceptions.RayTaskError as error:
                    found = error.cause if isinstance(error.cause, Exception) else error
                    self._idle.append(actor)
                except self._ray.exceptions.RayError as error:  # a machine or a process died, or took its result along
                    found = error
                failures[cell.id] += isinstance(found, Exception)
                if isinstance(found, Exception) and failures[cell.id] < ATTEMPTS:
                    due.append(cell)
                    continue
                left -= 1
                yield cell, found

    def close(self) -> None:
        self._drop()
        if self._mine:
            self._ray.shutdown()

    def _for(self, model: Model) -> None:
        if self._model is not model:
            self._drop()
            self._model = model

    def _drop(self) -> None:
        for actor in (*self._idle, *self._starting.values(), *(actor for actor, _ in self._running.values())):
            self._ray.kill(actor)
        self._idle, self._starting, self._running = [], {}, {}

    def _start_missing(self) -> None:
        """An actor for each GPU, or machine, that has none.

        Raises:
            RuntimeError: the cluster has no machine left.
        """
        resources = self._ray.cluster_resources()
        gpus, nodes = int(resources.get("GPU", 0)), sum(n["Alive"] for n in self._ray.nodes())
        if not nodes:
            raise RuntimeError(
                "The Ray cluster has no machine left. Start it again, and the sweep: it goes on from here."
            )
        options = {"num_gpus": 1} if gpus else {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
        for _ in range((gpus or nodes) - len(self._idle) - len(self._starting) - len(self._running)):
            actor = self._ray.remote(**options)(_Actor).remote(self._model)
            self._starting[actor.block_count.remote()] = actor

    def _ready(self, call: Any) -> None:
        """Raises what loading the model has raised; an actor whose machine died is left out."""
        actor = self._starting.pop(call)
        try:
            self._ray.get(call)
            self._idle.append(actor)
        except self._ray.exceptions.ActorDiedError as error:
            if "creation task" in str(error):
                raise RuntimeError(f"Model {self._model and self._model.name} cannot be loaded: {error}") from None

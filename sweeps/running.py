"""Running a plan: what is missing is sampled by an engine, measured here, and written to the store cell by cell."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ..storage.store import EmbeddingStore
from .cells import ATTEMPTS, KINDS, Cell, Kind, Model, Outcome, Worker
from .plan import Plan, load_plan
from .report import strip_of, write_report, write_sheet
from .results import Results, row, write_table
from .summary import summarise

log = logging.getLogger("wanvideo_activation_editor")
KEPT = 8  # plain clips in memory


class Engine(Protocol):
    """Where cells are sampled. `kinds` are those that it can sample."""

    kinds: tuple[Kind, ...]

    def block_count(self, model: Model) -> int:
        """Blocks of a model."""

    def outcomes(self, model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome | Exception]]:
        """Sample cells, in any order; a cell that has failed twice gives its last error."""

    def close(self) -> None:
        """Give back what it holds."""


class Serial:
    """In this process, one model at a time."""

    kinds: tuple[Kind, ...] = KINDS

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def _of(self, model: Model) -> Worker:
        if self._worker is None or self._worker.model is not model:
            self._worker = None  # before the next is loaded
            self._worker = Worker(model)
        return self._worker

    def block_count(self, model: Model) -> int:
        return self._of(model).block_count

    def outcomes(self, model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome | Exception]]:
        worker = self._of(model)
        for cell in cells:
            found: Outcome | Exception = RuntimeError()
            for _ in range(ATTEMPTS):
                try:
                    found = worker.run(cell)
                    break
                except Exception as error:
                    found = error
            yield cell, found

    def close(self) -> None:
        self._worker = None


@dataclass(frozen=True, eq=False)
class Swept:
    """What a sweep gave. Rows and summary are also files in `folder`: cells and summary as .parquet and .csv,
    sheet.png, report.html.

    Args:
        rows: one for each cell: its axes, distances from the plain clip of its seed, read-outs, seconds, SHA-256 of the
            latents, recipe; a failed one has `error` instead.
        summary: one for each edit, over seeds; see `summarise`.
    """

    rows: list[dict[str, Any]]
    summary: list[dict[str, Any]]
    folder: Path

    @property
    def failed(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if "error" in row]


def sweep(
    plan: Plan | str | Path,
    folder: str | Path | None = None,
    *,
    store: str | Path | EmbeddingStore | None = None,
    engine: str = "serial",
    progress: bool = True,
    **options: Any,
) -> Swept:
    """Sample every cell of a plan that has no result yet, and write the table, the sheet and the report.

    Each result is in the store before the next cell begins: after a crash, the same call samples what is missing. A
    cell that fails twice is reported, and the others go on; the next call tries it again.

    Args:
        plan: a Plan, or a TOML file.
        folder: for the files; beside the plan's file, or here, under the plan's name by default.
        store: results are kept in it; FOLDER/sweep.duckdb by default. Only one process may have it open.
        engine: `serial`, `ray` (see on_ray.py) or `comfyui` (see on_comfyui.py), with their `options`.
        progress: show a bar, if tqdm is installed.

    Raises:
        ValueError: a plan or options that do not fit; a model whose weights are not those of earlier cells.
        StoreError: the store cannot be opened or written.
    """
    beside = Path(plan).parent if isinstance(plan, str | Path) else Path()
    read = plan if isinstance(plan, Plan) else load_plan(plan)
    target = Path(folder) if folder is not None else beside / read.name
    target.mkdir(parents=True, exist_ok=True)
    with ExitStack() as exits:
        opened = store if isinstance(store, EmbeddingStore) else EmbeddingStore(store or target / "sweep.duckdb")
        if opened is not store:
            exits.callback(opened.close)
        results, running = Results(opened), _engine(engine, options)
        exits.callback(running.close)
        planned = {m.name: read.cells(m, m.block_count or running.block_count(m)) for m in read.models}
        cells = {name: [c for c in of if c.kind in running.kinds] for name, of in planned.items()}
        recorder = _Recorder(read, results, sum(map(len, cells.values())), progress)
        exits.callback(recorder.close)
        for model in read.models:
            done = results.done(cells[model.name])
            missing = [c for c in cells[model.name] if "error" in done.get(c.id, {"error": ""})]
            recorder.skip(model, done, len(cells[model.name]) - len(missing))
            for stage in (True, False):  # plain clips first: the others are compared with them
                if due := [c for c in missing if (c.kind == "plain") == stage]:
                    for cell, outcome in running.outcomes(model, due):
                        recorder.add(cell, outcome)
        return _finish(read, results, [c for of in cells.values() for c in of], target)


def reproduce(recipe: str, model: Model | None = None) -> Outcome:
    """Sample a cell of a table again: the latents are those of the sweep, bit for bit, on the same kind of device.

    Args:
        recipe: the column of that name.
        model: the plan's model; the tiny model by default.
    """
    return Worker(model or Model("tiny_wan")).run(Cell.from_json(recipe))


def digest(latents: torch.Tensor) -> str:
    """SHA-256 of the bits of latents."""
    return hashlib.sha256(latents.contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def _engine(name: str, options: dict[str, Any]) -> Engine:
    if name == "ray":
        from .on_ray import OnRay as Chosen
    elif name == "comfyui":
        from .on_comfyui import OnComfyUI as Chosen  # type: ignore[assignment]
    elif name == "serial":
        Chosen = Serial  # type: ignore[misc, assignment]  # noqa: N806
    else:
        raise ValueError(f"engine must be serial, ray or comfyui, not {name!r}.")
    try:
        inspect.signature(Chosen).bind(**options)
    except TypeError as error:
        raise ValueError(f"engine {name!r}: {error}") from None
    return Chosen(**options)


class _Recorder:
    """Measures outcomes and writes them."""

    def __init__(self, plan: Plan, results: Results, total: int, progress: bool) -> None:
        self._plan, self._results = plan, results
        self._plain: OrderedDict[str, torch.Tensor | None] = OrderedDict()
        self._identity: dict[str, str] = {}
        self._bar = _bar(total) if progress else None

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def skip(self, model: Model, done: dict[str, dict[str, Any]], count: int) -> None:
        """Count results that are there, and note which weights they are of."""
        for result in done.values():
            if "error" not in result:
                self._identity[model.name] = result["identity"]
        if self._bar is not None:
            self._bar.update(count)

    def add(self, cell: Cell, outcome: Outcome | Exception) -> None:
        if isinstance(outcome, Exception):
            message = f"{type(outcome).__name__}: {outcome}"
            log.error("Sweep: cell %s (%s, seed %d) failed twice: %s", cell.id, cell.kind, cell.seed, message)
            self._results.add(cell, {"error": message})
        else:
            known = self._identity.setdefault(cell.model, outcome.identity)
            if known != outcome.identity:
                raise ValueError(
                    f"Model {cell.model} has other weights than in the results that are in the store. Give it another "
                    "name in the plan, or the sweep another folder."
                )
            result = {"identity": outcome.identity, **self._measured(cell, outcome)}
            kept = outcome.latents if cell.kind == "plain" else None
            self._results.add(cell, result, strip_of(outcome.frames), kept)
        if self._bar is not None:
            self._bar.update()

    def _measured(self, cell: Cell, outcome: Outcome) -> dict[str, Any]:
        found: dict[str, Any] = {"seconds": outcome.seconds, "latents_sha256": digest(outcome.latents)}
        plain = outcome.latents if cell.kind == "plain" else self._plain_of(cell.plain)
        if plain is not None:
            assert not isinstance(self._plan.distances, Sequence)  # noqa: S101
            for name, distance in self._plan.distances.items():
                try:
                    found[name] = float(distance(plain, outcome.latents))
                except ValueError as error:  # it has no meaning for these clips, such as motion for one frame
                    found[name] = None
                    log.warning("Sweep: cell %s has no %s: %s", cell.id, name, error)
        if self._plan.readout is not None and outcome.frames is not None:
            assert not isinstance(self._plan.readout, str)  # noqa: S101
            found |= {f"read_{k}": v for k, v in self._plan.readout(outcome.frames).items()}
        return found

    def _plain_of(self, cell: Cell) -> torch.Tensor | None:
        """Latents of a plain clip; None when it has failed."""
        if cell.id not in self._plain:
            self._plain[cell.id] = self._results.latents(cell)
            if len(self._plain) > KEPT:
                self._plain.popitem(last=False)
        return self._plain[cell.id]


def _bar(total: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        log.info("Sweep: %d cells. For a progress bar: pip install tqdm.", total)
        return None
    return tqdm(total=total, desc="Sweep", unit="cell")


def _finish(plan: Plan, results: Results, cells: Sequence[Cell], folder: Path) -> Swept:
    done = results.done(cells)
    rows = [row(cell, done[cell.id]) for cell in cells if cell.id in done]
    summary = summarise(rows, list(plan.distances))
    write_table(rows, folder / "cells")
    write_table(summary, folder / "summary")
    strip = results.strips(done).get
    write_sheet(rows, strip, folder / "sheet.png")
    write_report(plan.name, rows, summary, strip, folder / "report.html")
    return Swept(rows, summary, folder)

"""Plans: the axes of a sweep, from Python or a TOML file, and the cells that they come to."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..patching.arguments import chosen_blocks
from ..patching.edit import Window
from ..patching.selection import parse_selection
from ..patching.sites import site_of
from ..patching.strengths import BlockStrengths, check_strength
from ..probing.block_map import BlockMap
from ..probing.distances import DISTANCES, Distance
from .cells import TINY, Cell, Model, operation_of

Readout = Callable[[Any], Mapping[str, Any]]
"""Frames uint8 [frames, height, width, 3] to numbers or words by name."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The axes of a sweep. Every combination is a cell; each (model, prompt, seed) also has a plain clip.

        Plan(pairs=[("a red circle", "a blue circle")], blocks=["each", "thirds"], seeds=4)

    Args:
        pairs: (prompt, injected prompt), or {"prompt": text, "recipe": file of save_recipe}.
        models: `Model`s; or folders of diffusers weights, or `tiny_wan`.
        blocks: selections such as "10-29:0.6", numbers, BlockStrengths; "each" is every block alone, "thirds" the
            first, middle and last third; {"top": 3, "map": BlockMap or file of its plain values} the top blocks of a
            map, by "quantity" (share).
        strengths, windows: 0..1, and (start, end) of sampling.
        operations: {"operation": "Blend", "site": "context", and fields}; {} for what the source has by default.
        seeds: their number, or a list.
        distances: names of probing/distances.py, or functions by name, between latents with and without the edit; no
            value where one raises ValueError.
        readout: see `Readout`; "tiny_wan" reads the tiny model's clips.
        controls: sample two controls beside each edit: `random_direction`, with the same norm in the same blocks, and
            `random_blocks`, as many others with the same strengths. An edit with equal strengths in all blocks has no
            random blocks.
        call: arguments of the pipeline: sizes, steps, guidance_scale, negative_prompt.

    Raises:
        ValueError: an axis that is empty or holds what has no meaning; the message names it.
    """

    pairs: Sequence[Any]
    models: Sequence[Any] = (TINY,)
    blocks: Sequence[Any] = ("all",)
    strengths: Sequence[float] = (1.0,)
    windows: Sequence[Sequence[float]] = ((0.0, 1.0),)
    operations: Sequence[Mapping[str, Any]] = ({},)
    seeds: int | Sequence[int] = 4
    distances: Sequence[str] | Mapping[str, Distance] = tuple(DISTANCES)
    readout: Readout | str | None = None
    controls: bool = True
    call: Mapping[str, Any] = field(default_factory=dict)
    name: str = "sweep"

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("seeds", tuple(range(self.seeds)) if isinstance(self.seeds, int) else tuple(self.seeds))
        put("models", tuple(m if isinstance(m, Model) else _model(m) for m in self.models))
        for axis in ("pairs", "models", "blocks", "strengths", "windows", "operations", "seeds"):
            if isinstance(getattr(self, axis), str) or not len(getattr(self, axis)):
                raise ValueError(f"{axis}: give a list with at least one entry.")
        put("pairs", tuple(_pair(p) for p in self.pairs))
        put("windows", tuple((float(a), float(b)) for a, b in self.windows))
        for window in self.windows:
            Window(*window)
        for strength in self.strengths:
            check_strength(strength, "strengths")
        for entry in self.operations:
            operation_of(entry)
            site_of(entry.get("site", "context"))
        for entry in self.blocks:
            _selections(entry, 1000)
        if len({m.name for m in self.models}) != len(self.models):
            raise ValueError("models: two of them have the same name.")
        if not isinstance(self.distances, Mapping):
            if unknown := [d for d in self.distances if d not in DISTANCES]:
                raise ValueError(f"distances: no {unknown[0]!r}. Choose from: {', '.join(DISTANCES)}.")
            put("distances", {name: DISTANCES[name] for name in self.distances})
        if isinstance(self.readout, str):
            if self.readout != TINY:
                raise ValueError(f"readout: {self.readout!r}; a plan in a file may name {TINY!r} only.")
            put("readout", tiny_readout)
        try:
            json.dumps(dict(self.call))
        except TypeError as error:
            raise ValueError(f"call: {error}; only plain values, so that a cell can be sampled again.") from None

    def cells(self, model: Model, block_count: int) -> list[Cell]:
        """The cells of one model, plain clips first.

        Raises:
            BlockRangeError: a block that the model does not have.
        """
        call = dict(self.call)
        selections = [text for entry in self.blocks for text in _selections(entry, block_count)]
        found: dict[str, Cell] = {}

        def add(cell: Cell) -> None:
            found.setdefault(cell.id, cell)

        assert not isinstance(self.seeds, int)  # noqa: S101
        for pair, seed in itertools.product(self.pairs, self.seeds):
            add(Cell("plain", model.name, pair["prompt"], int(seed), call=call))
        axes = itertools.product(self.pairs, self.operations, self.windows, self.strengths, selections, self.seeds)
        for pair, operation, window, strength, blocks, seed in axes:
            edit = Cell(
                "edit",
                model.name,
                seed=int(seed),
                blocks=blocks,
                strength=float(strength),
                window=(window[0], window[1]),
                operation=dict(operation),
                call=call,
                **pair,
            )
            add(edit)
            if self.controls:
                add(replace(edit, kind="random_direction"))
                others = _others(blocks, block_count, int(seed))
                if others is not None:
                    add(replace(edit, kind="random_blocks", blocks=others, of=blocks))
        return list(found.values())


def load_plan(path: str | Path) -> Plan:
    """Read a plan from a TOML file. Files that it names are looked for beside it.

    Raises:
        ValueError: it is no TOML, or no plan; the message says where.
        OSError: it cannot be read.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError:
            raise ValueError("Reading a plan with Python 3.10 needs tomli: pip install tomli.") from None
    file = Path(path)
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
        values.setdefault("name", file.stem)
        known = set(Plan.__dataclass_fields__)
        if unknown := sorted(set(values) - known):
            raise ValueError(f"no key {unknown[0]!r}. A plan has: {', '.join(sorted(known))}.")
        if "pairs" not in values:
            raise ValueError("no [[pairs]]: give at least one, with prompt and other.")
        for model in values.get("models", ()):
            if isinstance(model, dict) and model.get("source", TINY) != TINY:
                model["source"] = str(file.parent / model["source"])
        for pair in values.get("pairs", ()):
            if isinstance(pair, dict) and "recipe" in pair:
                pair["recipe"] = str(file.parent / pair["recipe"])
        for entry in values.get("blocks", ()):
            if isinstance(entry, dict) and isinstance(entry.get("map"), str):
                entry["map"] = str(file.parent / entry["map"])
        return Plan(**values)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{file.name}: {error}") from error


def tiny_readout(frames: Any) -> dict[str, Any]:
    """Colour, shape, motion and background of the tiny model's clip."""
    from ..tiny_wan import read

    return {kind: reading.name for kind, reading in read(frames).items()}


def _model(value: Any) -> Model:
    if isinstance(value, Mapping):
        return Model(**value)
    return Model(Path(value).name if isinstance(value, str | Path) else "model", value)


def _pair(value: Any) -> dict[str, str]:
    pair = dict(value) if isinstance(value, Mapping) else dict(zip(("prompt", "other"), value, strict=True))
    if not isinstance(pair.get("prompt"), str) or set(pair) not in ({"prompt", "other"}, {"prompt", "recipe"}):
        raise ValueError(f"pairs: {value!r:.80} is no prompt with the one to inject, or with a recipe file.")
    if "recipe" in pair:
        try:
            pair["recipe_sha256"] = hashlib.sha256(Path(pair["recipe"]).read_bytes()).hexdigest()
        except OSError as error:
            raise ValueError(f"pairs: the recipe {pair['recipe']} cannot be read: {error}") from None
    return pair


def _selections(entry: Any, count: int) -> list[str]:
    """Block selections as text, of one entry of the axis."""
    if entry == "each":
        return [str(i) for i in range(count)]
    if entry == "thirds":
        ends = [round(count * i / 3) for i in range(4)]
        return [f"{a}-{b - 1}" if b - a > 1 else str(a) for a, b in itertools.pairwise(ends) if b > a]
    if isinstance(entry, Mapping) and "top" in entry:
        found = entry.get("map")
        if isinstance(found, str | Path):
            found = BlockMap.from_plain(json.loads(Path(found).read_text(encoding="utf-8")))
        if not isinstance(found, BlockMap):
            raise ValueError('blocks: {top = 3} needs "map", a block map or a file of its plain values (to_plain).')
        top = found.top(int(entry["top"]), entry.get("quantity", "share"))
        return [_as_text(top.resolve(found.block_count))]
    if isinstance(entry, str):
        strengths: BlockStrengths = parse_selection(entry)
        strengths.resolve(count)
        return [entry]
    return [_as_text(chosen_blocks(entry).resolve(count))]


def _as_text(strengths: Sequence[float]) -> str:
    return ", ".join(str(i) if v == 1.0 else f"{i}:{v!r}" for i, v in enumerate(strengths) if v) or "none"


def _others(blocks: str, count: int, seed: int) -> str | None:
    """As many blocks drawn at random, from those that are not selected first; None when every block has one strength.

    The draw depends on the seed and the selection alone, so that a control is paired with its edit."""
    strengths = np.array(parse_selection(blocks).resolve(count))
    if (strengths == strengths[0]).all():
        return None
    rng = np.random.default_rng([abs(seed), *blocks.encode()])
    free, taken = rng.permutation(np.flatnonzero(strengths == 0)), rng.permutation(np.flatnonzero(strengths))
    drawn = np.zeros(count)
    drawn[np.concatenate([free, taken])[: len(taken)]] = rng.permutation(strengths[strengths != 0])
    return _as_text([float(v) for v in drawn])

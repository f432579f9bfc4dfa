"""Means and intervals over seeds, each edit beside its controls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..probing.intervals import bootstrap_interval

CONTROLS = ("random_direction", "random_blocks")
_AXES = ("model", "prompt", "other", "blocks", "strength", "window_start", "window_end", "operation", "site")


def summarise(rows: Sequence[Mapping[str, Any]], distances: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each edit, over its seeds.

    Per distance and number of the read-outs: `NAME_mean` with the 95 % interval `NAME_low`, `NAME_high` (see
    `bootstrap_interval`), and for each control `NAME_over_CONTROL`, the mean of the edit less that of the control, with
    the interval of the differences, paired by seed. Words of the read-outs are counted. Seeds whose cell failed are
    left out.
    """
    groups: dict[str, dict[str, dict[int, Mapping[str, Any]]]] = {}
    for row in rows:
        if row["kind"] != "plain":
            groups.setdefault(row["group"], {}).setdefault(row["kind"], {})[row["seed"]] = row
    named = [n for n in dict.fromkeys(n for row in rows for n in row) if n in distances or n.startswith("read_")]
    return [_of_group(kinds, named) for kinds in groups.values() if "edit" in kinds]


def _of_group(kinds: Mapping[str, Mapping[int, Mapping[str, Any]]], names: Sequence[str]) -> dict[str, Any]:
    edits = kinds["edit"]
    first = next(iter(edits.values()))
    out: dict[str, Any] = {"group": first["group"], **{name: first[name] for name in _AXES}}
    out["seeds"] = sum("error" not in row for row in edits.values())
    for name in names:
        values = {seed: row[name] for seed, row in edits.items() if row.get(name) is not None}
        if any(isinstance(v, str) for v in values.values()):
            out[name] = ", ".join(f"{word} {count}" for word, count in Counter(values.values()).most_common())
            continue
        out |= _interval(name, "_mean", [float(v) for v in values.values()])
        for control in CONTROLS:
            others = {seed: row[name] for seed, row in kinds.get(control, {}).items() if row.get(name) is not None}
            pairs = [float(values[seed]) - float(others[seed]) for seed in values if seed in others]
            out |= _interval(f"{name}_over_{control}", "", pairs)
    return out


def _interval(name: str, suffix: str, values: Sequence[float]) -> dict[str, float | None]:
    mean, low, high = None, None, None
    if values:
        mean = float(np.mean(values))
    if len(values) > 1:
        low, high = (float(x) for x in bootstrap_interval(np.array(values)))
    return {f"{name}{suffix}": mean, f"{name}_low": low, f"{name}_high": high}

"""The names of a store in a small file beside it, so that menus can be filled without opening the store."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path


def names_file(store: Path) -> Path:
    return store.with_name(store.name + ".names.json")


def write_names(store: Path, names: Iterable[str]) -> None:
    """Replace the list in one step. A failure is left for the next time: the store itself holds the names."""
    target = names_file(store)
    temporary = target.with_name(f"{target.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(sorted(names), ensure_ascii=False), encoding="utf-8")
        os.replace(temporary, target)


def read_names(store: Path) -> list[str]:
    """Names as last written; empty when there is no store or the list cannot be read."""
    try:
        names = json.loads(names_file(store).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []

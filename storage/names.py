"""The names of a store in a small file beside it, so that menus can be filled without opening the store."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Container, Iterable
from pathlib import Path

MAX_NAME = 200
"""Characters of a name."""


def clean_name(text: str) -> str | None:
    """A name made of text from a file: on one line and not too long; None when nothing is left."""
    return "".join(" " if ord(c) < 32 else c for c in text).strip()[:MAX_NAME].strip() or None


def free_name(name: str, taken: Container[str]) -> str:
    """The name, or with a number in parentheses where it is taken."""
    candidate, number = name, 2
    while candidate in taken:
        end = f" ({number})"
        candidate, number = name[: MAX_NAME - len(end)] + end, number + 1
    return candidate


def names_file(store: Path) -> Path:
    """Beside the file itself, where `store` is a link to it."""
    store = store.resolve()
    return store.with_name(store.name + ".names.json")


def write_names(store: Path, names: Iterable[str]) -> None:
    """Replace the list in one step. A failure is left for the next time: the store itself holds the names."""
    target = names_file(store)
    temporary = target.with_name(f"{target.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        try:
            temporary.write_text(json.dumps(sorted(names), ensure_ascii=False), encoding="utf-8")
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def read_names(store: Path) -> list[str]:
    """Names as last written; empty when there is no store or the list cannot be read."""
    try:
        names = json.loads(names_file(store).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []

"""What edits did in the samplings that they were in, for reports; of this process, and forgotten with the edit."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .edit import Edit

if TYPE_CHECKING:
    from .active import ActiveEdit


@dataclass(frozen=True)
class Acted:
    """What an edit did since it was made: sums, since one sampling may have several runs, of devices or samplers.

    Args:
        calls: model calls in which it acted.
        edited: blocks that its hooks changed, over all of them.
    """

    calls: int = 0
    edited: int = 0

    def __str__(self) -> str:
        if not self.calls:
            return "sampled since it was made, but no model call fell in its branch and window"
        if not self.edited:
            return f"none of its blocks was run in the {self.calls} model calls in which it acted"
        return f"its hooks changed blocks {self.edited} times in {self.calls} model calls since it was made"


_acted: weakref.WeakKeyDictionary[Edit, Acted] = weakref.WeakKeyDictionary()
_count = 0


def remember(edits: Iterable[ActiveEdit]) -> None:
    """Add what edits did in a run that has ended, as it should or not."""
    global _count
    _count += 1
    for active in edits:
        before = _acted.get(active.edit, Acted())
        _acted[active.edit] = Acted(before.calls + active.calls, before.edited + active.edited)


def acted(edit: Edit) -> Acted | None:
    """What this edit did; None when it was in no run."""
    return _acted.get(edit)


def run_count() -> int:
    """How many runs with edits have ended."""
    return _count

"""What an edit did in the last sampling that it was in, for reports; of this process, and forgotten with the edit."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .edit import Edit

if TYPE_CHECKING:
    from .active import ActiveEdit


@dataclass(frozen=True)
class LastRun:
    """Args:
    calls: model calls in which the edit acted.
    edited: blocks that it changed, over all of them.
    """

    calls: int
    edited: int

    def __str__(self) -> str:
        if not self.calls:
            return "it acted in no model call of its last run"
        if not self.edited:
            return f"its blocks were not run in any of the {self.calls} model calls of its last run in which it acted"
        blocks = self.edited / self.calls
        return f"its hooks changed {blocks:.3g} blocks in each of {self.calls} model calls of its last run"


_last: weakref.WeakKeyDictionary[Edit, LastRun] = weakref.WeakKeyDictionary()
_count = 0


def remember(edits: Iterable[ActiveEdit]) -> None:
    """Keep what edits did in a run that has ended."""
    global _count
    _count += 1
    for active in edits:
        _last[active.edit] = LastRun(active.calls, active.edited)


def last_run(edit: Edit) -> LastRun | None:
    """What this edit did in the last run that it was in; None when it was in none that ended."""
    return _last.get(edit)


def run_count() -> int:
    """How many runs with edits have ended."""
    return _count

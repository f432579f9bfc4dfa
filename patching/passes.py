"""The one guard against re-entry: whether a module runs a second time for this pack, so that hooks leave it alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_extra: ContextVar[bool] = ContextVar("wan_activation_editor_extra_pass", default=False)


def in_extra_pass() -> bool:
    """True while the pack itself runs a module of the model."""
    return _extra.get()


@contextlib.contextmanager
def extra_pass() -> Iterator[None]:
    """Around a run of a module for a value of an edit."""
    before = _extra.get()
    _extra.set(True)
    try:
        yield
    finally:
        _extra.set(before)

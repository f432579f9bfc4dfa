"""Running a model eagerly for as long as its whole-model compilation would hide hooks."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch

from ..edit import Edit
from ..sites import site_of
from ..wan_model import WanModel

log = logging.getLogger("wanvideo_activation_editor")


def is_compiled(module: Any) -> bool:
    """True when torch compiles the module as a whole, not only its blocks."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def edits_inside(stack: Iterable[Edit], model: WanModel) -> bool:
    """True when an edit acts at a site inside of a block, where compiled code does not see hooks that come later."""
    return any(
        (site_of(edit.site).paths or (edit.mask is not None and edit.site == "context"))
        and edit.strengths.active_blocks(model.block_count)
        for edit in stack
    )


def eager(
    setting: str, *, whole: bool = False, inside: bool = False, announce: bool = True
) -> AbstractContextManager[Any]:
    """A context in which torch.compile'd code runs eagerly, when it would hide hooks; else one that does nothing.

    Args:
        setting: what the user changes to compile per block, for the message.
        whole: the model is compiled as a whole, and may skip module hooks without a word.
        inside: its blocks are compiled, and an edit is inside of one; see `edits_inside`.
        announce: log it.

    Raises:
        RuntimeError: needed, but this torch has no compile stance (before 2.6).
    """
    if not (whole or inside):
        return contextlib.nullcontext()
    if not hasattr(torch.compiler, "set_stance"):
        raise RuntimeError(
            "The model is compiled, and edits cannot reach its blocks with this version of torch "
            f"({torch.__version__}). Compile the blocks only ({setting}), or update torch to 2.6 or newer."
        )
    if announce and whole:
        log.warning("The model is compiled as a whole; it runs uncompiled while edited. Faster: %s.", setting)
    elif announce:
        log.warning("Blocks are compiled, and an edit is inside of them; the model runs uncompiled while edited.")
    return _force_eager()


_lock = threading.Lock()
_users = 0
_stance: Any = None


@contextlib.contextmanager
def _force_eager() -> Iterator[None]:
    """Torch's stance is one for the process: the last context to close puts back what the first one found."""
    global _users, _stance
    with _lock:
        if _users == 0:
            _stance = torch.compiler.set_stance("force_eager")
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _stance.__exit__(None, None, None)

"""Features of diffusers that cannot be combined with edits or measurements, found before sampling starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..checks import warn_about_cache
from ..edit import Edit, EditStack
from ..sources import SecondStream
from ..wan_model import unwrap


def check_features(stack: EditStack, module: Any) -> None:
    """What is enabled on a transformer fits the edits.

    Raises:
        ValueError: a feature and an edit cannot be combined; the message names both.
    """
    _check_cache(stack, module)
    if any(isinstance(edit.source, SecondStream) for edit in stack):
        _check_offload(module)
    check_faces(stack, module)
    check_tokens(stack, module)


def check_faces(stack: Iterable[Edit], module: Any) -> None:
    """A second stream runs the blocks alone, and misses what Wan-Animate adds between them.

    Raises:
        ValueError: the edit and the model cannot be combined.
    """
    if hasattr(module, "face_adapter") and any(isinstance(edit.source, SecondStream) for edit in stack):
        raise ValueError(
            f"site='hidden' cannot be combined with {type(module).__name__}, whose face adapter changes the hidden "
            "state between blocks; a second stream cannot follow it. Use site='context'."
        )


def check_tokens(stack: Iterable[Edit], module: Any) -> None:
    """Edits of single tokens of the video find all of them.

    Raises:
        ValueError: under context parallelism they do not.
    """
    for edit in stack:
        if edit.mask is not None:
            check_whole(module, f"{edit.name}: a mask")
        elif edit.captured is not None and edit.captured.deltas[0].shape[1] > 1:
            check_whole(module, f"{edit.name}: a captured difference with reduce='none'")


def check_whole(module: Any, what: str) -> None:
    """Under context parallelism blocks see the tokens of one process.

    Raises:
        ValueError: it is enabled.
    """
    if getattr(getattr(module, "_parallel_config", None), "context_parallel_config", None) is not None:
        raise ValueError(
            f"{what} cannot be combined with context parallelism (enable_parallelism), where each process has a part "
            "of the video's tokens. Use one process."
        )


def _check_cache(stack: EditStack, module: Any) -> None:
    """What a step or attention cache of diffusers would replay, with the edit in it or without it.

    Raises:
        ValueError: the edit and the cache cannot be combined.
    """
    if not getattr(module, "is_cache_enabled", False):
        return
    for edit in stack:
        if edit.site == "hidden":
            check_no_cache(module, "site='hidden'")
        elif edit.text is not None and edit.site != "context":
            check_no_cache(module, f"A prompt at site={edit.site!r}")
    warn_about_cache(stack)


def check_no_cache(module: Any, what: str) -> None:
    """The caches of diffusers keep a state per block, which an extra pass through the block would read and overwrite.

    Raises:
        ValueError: one is enabled.
    """
    if getattr(module, "is_cache_enabled", False):
        raise ValueError(
            f"{what} cannot be combined with a cache of diffusers ({type(module._cache_config).__name__}). "
            "Call disable_cache() of the transformer first."
        )


def _check_offload(module: Any) -> None:
    """A second stream runs each block twice, but block-level group offload takes a group's weights after its last one.

    Raises:
        ValueError: groups of several blocks.
    """
    for block in module.blocks:
        registry = getattr(unwrap(block), "_diffusers_hook", None)
        hook = registry.get_hook("group_offloading") if registry is not None else None
        count = len(getattr(getattr(hook, "group", None), "modules", ()))
        if count > 1:
            raise ValueError(
                f"site='hidden' cannot be combined with group offloading of {count} blocks a group. Use "
                "num_blocks_per_group=1, or offload_type='leaf_level'."
            )

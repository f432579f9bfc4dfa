"""How far the edits of a run move the model's output: the model called once more, without them.

The change of a context is the same in every step; what it does to the output is not, and is what a user sees. It costs
one more model call: in every call that is logged as verbose or trace, and in the first one only for the editor's line.
The second call takes no part in sampling, so the video is what it is without it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .passes import extra_pass, in_extra_pass

if TYPE_CHECKING:
    from .runtime import Run

log = logging.getLogger("wanvideo_activation_editor")

_CACHES = ("enable_teacache", "enable_magcache", "enable_easycache")  # of the wrapper's model


class OutputChange:
    """The hook of one run that measures, and what it found.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._measured = False  # in this run
        self._refused = False

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Hook of the transformer: record the relative L2 change of its output [rows of the edits]."""
        run = self._run
        if in_extra_pass() or run.statistics is None or not run.acts or not self._is_due():
            return
        kept = keeps_state(module, kwargs)
        if kept:
            if not self._refused:
                log.info("The change of the model's output is not measured: %s keeps a state between calls.", kept)
            self._refused = True
            return
        with extra_pass(), torch.no_grad():
            plain = first_tensor(module(*args, **kwargs))
        self._measured = True
        edited = first_tensor(output)
        rows = run.output_rows(len(edited))
        a, b = (x.detach() if rows is None else x.detach()[rows] for x in (plain, edited))
        run.statistics.record_output(a, b)

    def _is_due(self) -> bool:
        return self._run.is_logged or not self._measured


def keeps_state(module: nn.Module, kwargs: Mapping[str, Any]) -> str:
    """What in a transformer's call keeps a state that another call would change; empty when nothing is known to."""
    if getattr(module, "is_cache_enabled", False):
        return "a cache of diffusers"
    for name in _CACHES:
        if getattr(module, name, False):
            return name.removeprefix("enable_")
    options = kwargs.get("transformer_options") or {}
    if "easycache" in options:
        return "EasyCache"
    if any(((options.get("wrappers") or {}).get("diffusion_model") or {}).values()):
        return "a node that wraps the model"
    if "forward" in vars(module) and not hasattr(module, "_hf_hook"):
        return "another pack that has replaced the model's forward"
    return ""


def first_tensor(output: Any) -> torch.Tensor:
    """The latents in what a transformer returns: a tensor, a tuple that begins with one, a list of videos, `.sample`.

    Raises:
        TypeError: something else.
    """
    if torch.is_tensor(output):
        return output
    if isinstance(output, tuple) and output:
        return first_tensor(output[0])
    if isinstance(output, list) and output and all(torch.is_tensor(x) for x in output):
        return torch.stack(output)
    if torch.is_tensor(getattr(output, "sample", None)):
        return output.sample  # type: ignore[no-any-return]
    raise TypeError(f"The model returned a {type(output).__name__}, in which no latents were found.")

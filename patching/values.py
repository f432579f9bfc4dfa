"""What the sources of edits hold, on the devices of the tensors that are edited."""

from __future__ import annotations

from typing import Any

import torch

from .edit import Edit
from .sources import CapturedDifference
from .wan_model import WanModel


class Values:
    """Values of sources, moved to a device once per run."""

    def __init__(self, model: WanModel) -> None:
        self._model = model
        self._of: dict[tuple[int, int, torch.dtype, torch.device], torch.Tensor] = {}
        self._moved: dict[tuple[int, torch.dtype, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, edit: Edit, index: int, x: torch.Tensor) -> torch.Tensor:
        """What an edit's source has for block `index`, on the device of x.

        Raises:
            ValueError: it is not as wide as x.
        """
        source: Any = edit.source
        key = id(source), index, x.dtype, x.device
        if key not in self._of:
            given = source.tensor(index)
            if given.shape[-1] != x.shape[-1]:
                raise ValueError(
                    f"{edit.name}: {source.title} is {given.shape[-1]} wide, but the tensor that it changes in block "
                    f"{index} of {self._model.name} is {x.shape[-1]} wide. Take it from this model."
                )
            shared = id(given), x.dtype, x.device  # blocks may share a tensor; it is held, so its id is its own
            if shared not in self._moved:
                # A captured difference is large, so it is rounded here and not in every call.
                dtype = x.dtype if isinstance(source, CapturedDifference) else None
                self._moved[shared] = given, given.to(x.device, dtype)
            self._of[key] = self._moved[shared][1]
        return self._of[key]

    def clear(self) -> None:
        self._of.clear()
        self._moved.clear()

"""What an edit did, measured on the device while sampling and read once per step.

Used only when an edit's log level is `verbose` or `trace`, or the environment asks for it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable, Sequence

import torch

from ..embeddings import changed_share
from .edit import LOG_LEVELS, Edit, LogLevel

log = logging.getLogger("wanvideo_activation_editor")

DEBUG_VARIABLE = "WAN_ACTIVATION_DEBUG"
VERBOSE_VARIABLE = "WAN_ACTIVATION_VERBOSE"


def effective_log_level(edit: Edit) -> LogLevel:
    """The edit's own level, or a higher one that the environment asks for.

    WAN_ACTIVATION_DEBUG raises it to `basic`, WAN_ACTIVATION_VERBOSE to `verbose`; both are read at each run.
    """
    levels = [LOG_LEVELS.index(edit.log_level)]
    if _is_set(DEBUG_VARIABLE):
        levels.append(LOG_LEVELS.index("basic"))
    if _is_set(VERBOSE_VARIABLE):
        levels.append(LOG_LEVELS.index("verbose"))
    return LOG_LEVELS[max(levels)]


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "no", "off")


class StepStatistics:
    """Collects one measurement per block of a model call and logs them together.

    Blocks that share a context share its measurement: it is computed once per distinct key.
    """

    def __init__(self, trace: bool = False) -> None:
        self._trace = trace
        self._label: Callable[[], str] = str
        self._blocks: list[tuple[int, Hashable, str, str]] = []
        self._measured: dict[Hashable, torch.Tensor] = {}

    def begin(self, label: Callable[[], str]) -> None:
        """Log what the last model call collected and start the next one."""
        self.flush()
        self._label = label

    def record(
        self,
        block: int,
        key: Hashable,
        main: torch.Tensor,
        edited: torch.Tensor,
        rows: Sequence[int],
        what: str = "context",
    ) -> None:
        """Measure the touched rows of `edited` against `main` [batch, tokens, dim]; no host sync.

        Args:
            what: name of the tensors in the log.
        """
        if key not in self._measured:
            index = torch.tensor(rows, device=main.device)
            a, b = main.index_select(0, index).float(), edited.index_select(0, index).float()
            self._measured[key] = torch.stack([changed_share(a, b), a.norm(), b.norm()])
        shape = f", {what} {list(edited.shape)} {edited.dtype} on {edited.device}" if self._trace else ""
        self._blocks.append((block, key, what, shape))

    def flush(self) -> None:
        """Read the measurements of the finished call (one host sync) and log a line per block."""
        if not self._blocks:
            return
        keys = list(self._measured)
        values = dict(zip(keys, torch.stack(list(self._measured.values())).tolist(), strict=True))
        label = self._label()
        for block, key, what, tail in self._blocks:
            share, before, after = values[key]
            log.info(
                "%s, block %d: %.2f%% of elements changed by more than 0.01, %s norm %.4g before, %.4g after%s",
                label,
                block,
                100 * share,
                what,
                before,
                after,
                tail,
            )
        self._blocks.clear()
        self._measured.clear()

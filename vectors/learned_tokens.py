"""Learned tokens: rows in the space of the text embeddings that stand for what no word says.

Textual inversion (Gal et al. 2022) for Wan: the rows go beside a prompt's own into the text projection, so they work in
every host and with every edit. They are learned in training.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ..patching.plain_file import read_plain_file, write_plain
from .control_vector import ControlVectorError

KIND = "file of learned tokens"
MAX_TOKENS = 512

Position = Literal["append", "prepend", "replace"]
POSITIONS: tuple[Position, ...] = get_args(Position)
Norm = Literal["free", "fixed"]

_FIELDS: dict[str, type] = {
    "norm": str, "position": str, "error": float, "baseline_error": float, "identity": str, "model_name": str,
    "origin": str,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class LearnedTokens:
    """Rows of text embeddings.

    Args:
        tokens: [count, width], float32 on the CPU.
        norm: `fixed`: all rows were kept at the mean norm of a prompt's token; `free`: not.
        position: where they stood while they were learned.
        error: on states that were held out: squared error left, in units of that of the prompt alone.
        baseline_error: the same for the difference of the prompts' mean tokens, added to each token; NaN for clips.
        identity: of the model, `host:digest`; empty when it is not known.
        model_name, origin: for people.

    Raises:
        ControlVectorError: the values do not fit together.
    """

    tokens: torch.Tensor
    norm: Norm = "free"
    position: Position = "append"
    error: float = math.nan
    baseline_error: float = math.nan
    identity: str = ""
    model_name: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        t = self.tokens
        if not torch.is_tensor(t) or t.dim() != 2 or not t.is_floating_point() or not 0 < len(t) <= MAX_TOKENS:
            raise ControlVectorError(f"tokens: expected a float tensor [1 to {MAX_TOKENS}, width].")
        if not torch.isfinite(t).all():
            raise ControlVectorError("tokens hold NaN or infinite values.")
        if self.norm not in get_args(Norm) or self.position not in POSITIONS:
            raise ControlVectorError(f"norm {self.norm!r} or position {self.position!r} is none of those there are.")
        object.__setattr__(self, "tokens", t.detach().to("cpu", torch.float32).contiguous())

    @property
    def width(self) -> int:
        return self.tokens.shape[1]

    def added_to(self, prompt: torch.Tensor, position: Position | None = None, weight: float = 1.0) -> torch.Tensor:
        """A prompt [tokens, width] without padding, with the rows, times `weight`, beside it or in its place.

        Args:
            position: as they were learned when None.

        Raises:
            ControlVectorError: another width, or more than 512 tokens; the message says how many.
        """
        if prompt.shape[-1] != self.width:
            raise ControlVectorError(
                f"The learned tokens ({self.origin}) are {self.width} wide, but the prompt is {prompt.shape[-1]} wide."
            )
        rows = (weight * self.tokens).to(prompt.device, prompt.dtype)
        return joined(prompt, rows, position or self.position)

    def to_plain(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """JSON values and named tensors."""
        values = {name: getattr(self, name) for name in _FIELDS}
        return {k: None if v != v else v for k, v in values.items()}, {"tokens": self.tokens}

    @classmethod
    def from_plain(cls, values: Any, tensors: Mapping[str, torch.Tensor]) -> LearnedTokens:
        """What `to_plain` gave.

        Raises:
            ControlVectorError: something else.
        """
        if not isinstance(values, Mapping) or set(values) != set(_FIELDS) or set(tensors) != {"tokens"}:
            raise ControlVectorError("these are no learned tokens: fields are missing, or unknown.")
        given: dict[str, Any] = {}
        for name, kind in _FIELDS.items():
            value = math.nan if kind is float and values[name] is None else values[name]
            if type(value) is int and kind is float:
                value = float(value) if abs(value) < 1e300 else math.inf
            if type(value) is not kind:
                raise ControlVectorError(f"{name}: expected {kind.__name__}, found {type(value).__name__}.")
            given[name] = value
        return cls(tokens=tensors["tokens"], **given)


def joined(prompt: torch.Tensor, rows: torch.Tensor, position: Position) -> torch.Tensor:
    """Rows beside a prompt, both [tokens, width].

    Raises:
        ControlVectorError: an unknown position, or more than 512 tokens.
    """
    if position not in POSITIONS:
        raise ControlVectorError(f"position must be one of {', '.join(POSITIONS)}, not {position!r}.")
    parts = {"append": (prompt, rows), "prepend": (rows, prompt), "replace": (rows,)}[position]
    out = torch.cat(parts)
    if len(out) > MAX_TOKENS:
        raise ControlVectorError(
            f"The prompt has {len(prompt)} tokens and {len(rows)} were learned; a text has {MAX_TOKENS} at most."
        )
    return out


def save_learned_tokens(path: str | Path, learned: LearnedTokens) -> None:
    """Write learned tokens as one safetensors file with the JSON values in its header.

    Raises:
        OSError: the file cannot be written.
    """
    write_plain(path, KIND, *learned.to_plain())


def load_learned_tokens(path: str | Path) -> LearnedTokens:
    """Read a file of `save_learned_tokens`.

    Raises:
        ControlVectorError: it is no such file.
        OSError: it cannot be read.
    """
    return LearnedTokens.from_plain(*read_plain_file(path, KIND, ControlVectorError))

"""What goes into the store and what comes out, as plain values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from .errors import UnsupportedError
from .text import checked, checked_name, checked_tags, shown

Kind = Literal["raw", "projected", "hidden", "other"]


@dataclass(frozen=True)
class EmbeddingKey:
    """Everything that decides what an encoder returns; equal keys may share a cached embedding.

    Args:
        prompt: the text, exactly as given.
        encoder: name or fingerprint of the text encoder, or of the model for hidden states.
        precision: dtype that the encoder computed in, such as `bf16`.
        quantization: such as `fp8_e4m3fn`, or `disabled`.
        kind: raw T5 output, projected to the model's width, hidden state, or other.
        details: further plain values that the result depends on: block, sigma, grid, seed, content of inputs.
    """

    prompt: str
    encoder: str
    precision: str
    quantization: str = "disabled"
    kind: Kind = "raw"
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """sha256 of all this.

        Raises:
            UnsupportedError: details that are not plain, or have keys that are not text.
        """
        plain = {**asdict(self), "details": dict(self.details)}
        try:
            text = json.dumps(plain, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise UnsupportedError(f"key: {error}") from error
        if json.loads(text) != json.loads(json.dumps(plain)) or not _text_keys(plain):
            raise UnsupportedError("key: its details need text for the keys of every dict.")
        return hashlib.sha256(text.encode()).hexdigest()


def _text_keys(plain: Any) -> bool:
    if isinstance(plain, Mapping):
        return all(isinstance(k, str) and _text_keys(v) for k, v in plain.items())
    return all(map(_text_keys, plain)) if isinstance(plain, list | tuple) else True


@dataclass(frozen=True)
class Description:
    """What is known of an embedding beside its values.

    Args:
        name: name to find it under; an embedding that had the name before keeps existing without it.
        prompt: source text, when known.
        kind: raw T5 output, projected, hidden state, or other.
        form: the host's type, such as WANVIDEOTEXTEMBEDS or CONDITIONING.
        tags: words to find it by, added to those that it has.
        note: free text.
        key: identity of the encoding, for use as a cache.

    Raises:
        UnsupportedError: text beyond the limits of text.py, or that cannot be written as UTF-8.
    """

    name: str | None = None
    prompt: str | None = None
    kind: Kind = "raw"
    form: str = "tensor"
    tags: Sequence[str] = ()
    note: str = ""
    key: EmbeddingKey | None = None

    def __post_init__(self) -> None:
        if self.name is not None:
            object.__setattr__(self, "name", checked_name(self.name))
        object.__setattr__(self, "tags", checked_tags(self.tags))
        for label in ("prompt", "note", "kind", "form"):
            if getattr(self, label) is not None:
                checked(label, getattr(self, label))


def described(given: Any) -> Description:
    """The description of an embedding that is put; an empty one for None. Raises UnsupportedError for anything else."""
    if given is None or isinstance(given, Description):
        return given or Description()
    name = shown(given, 40) if isinstance(given, str) else "'castle'"
    raise UnsupportedError(
        f"description: expected a Description, as Description(name={name}) is, got {type(given).__name__}."
    )


@dataclass(frozen=True)
class Listing:
    """One line of the view `listing`. bytes: compressed, before sharing; raw_bytes: as handed in."""

    embedding_id: int
    label: str
    name: str | None
    prompt: str | None
    note: str
    kind: str
    form: str
    tokens: int
    width: int
    dtype: str
    tags: Sequence[str]
    reads: int
    used: datetime
    created: datetime
    raw_bytes: int
    bytes: int


@dataclass(frozen=True)
class Stored:
    """A stored embedding, and the value as it was handed in."""

    id: int
    name: str | None
    prompt: str | None
    note: str
    kind: str
    form: str
    value: Any


@dataclass(frozen=True)
class OperationInput:
    """An input of an operation: its role (base, operand_1, ...), the embedding or its id, its weight."""

    role: str
    embedding: Any
    weight: float | None = None


@dataclass(frozen=True)
class Operation:
    """An operation that made an embedding.

    Args:
        type: such as `difference`, `arithmetic`, `interpolation`.
        inputs: what went in; values are stored if they are not yet.
        result: what came out (a value, or the id of a stored embedding); None when nothing is kept.
        parameters: plain values.
        duration_ms: time that the operation took.
        peak_memory_bytes: largest memory in use during it, above what was in use before; None if not measured.
        description: of the result; one that is stored already keeps its prompts.
        device: kind of device that it ran on; node: id of the node class that did it.
    """

    type: str
    inputs: Sequence[OperationInput] = ()
    result: Any = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    duration_ms: float | None = None
    peak_memory_bytes: int | None = None
    description: Description = field(default_factory=Description)
    device: str | None = None
    node: str | None = None

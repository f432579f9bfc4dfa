"""What goes in and what comes out, as plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from .errors import UnsupportedError
from .identity import EmbeddingKey, Kind


def check_text(label: str, text: Any) -> None:
    """Raises UnsupportedError for what the store cannot keep as text; `label` says where it is."""
    if not isinstance(text, str):
        raise UnsupportedError(f"{label}: expected text, got {type(text).__name__}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnsupportedError(
            f"{label}: character {error.start + 1} of {text[:40]!r} is half of a surrogate pair; type the text anew."
        ) from error


def now() -> datetime:
    """UTC without a zone: the form in which the store keeps times."""
    return datetime.now(timezone.utc).replace(tzinfo=None)


@dataclass(frozen=True)
class Description:
    """What is known of an embedding beside its values.

    Args:
        name: name to find it under; an embedding that had the name before keeps existing without it.
        prompt, negative_prompt: source texts, when known.
        kind: raw T5 output, projected, hidden state, or other.
        form: the host's type, such as WANVIDEOTEXTEMBEDS or CONDITIONING.
        tags: words to find it by, added to those that it has.
        note: free text; belongs to the name.
        key: identity of the encoding, for use as a cache.
    """

    name: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    kind: Kind = "raw"
    form: str = "tensor"
    tags: tuple[str, ...] = ()
    note: str = ""
    key: EmbeddingKey | None = None

    def __post_init__(self) -> None:
        """Raises UnsupportedError for what is no text, or text that cannot be written as UTF-8."""
        given = {"name": self.name, "prompt": self.prompt, "negative_prompt": self.negative_prompt}
        told = {"kind": self.kind, "form": self.form, "note": self.note}
        told |= {label: text for label, text in given.items() if text is not None}
        for label, text in (*told.items(), *(("tags", tag) for tag in self.tags)):
            check_text(label, text)
        if self.key is not None:
            try:
                again = EmbeddingKey(**json.loads(json.dumps(asdict(self.key))))
                same = again.cache_key == self.key.cache_key
            except (TypeError, ValueError) as error:
                raise UnsupportedError(f"key: {error}") from error
            if not same:
                raise UnsupportedError("key: its details need text for the keys of every dict.")


@dataclass(frozen=True)
class Part:
    """One tensor of an embedding: where it sits in the value, and what it was."""

    role: str
    content_hash: str
    dtype: str
    shape: tuple[int, ...]
    device: str

    def as_row(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "content_hash": self.content_hash,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "device": self.device,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Part:
        return cls(row["role"], row["content_hash"], row["dtype"], tuple(row["shape"]), row["device"])


@dataclass(frozen=True)
class Entry:
    """A stored embedding without its values."""

    embedding_id: int
    embedding_hash: str
    structure: str
    parts: tuple[Part, ...]
    main_part: int
    prompt: str | None
    negative_prompt: str | None
    kind: str
    form: str
    raw_bytes: int
    created: datetime


@dataclass(frozen=True)
class Stored:
    """A stored embedding: its entry, and the value as it was handed in."""

    entry: Entry
    value: Any


@dataclass(frozen=True)
class Listing:
    """One line of a list of embeddings; bytes as in the view `embeddings`."""

    embedding_id: int
    name: str | None
    prompt: str | None
    kind: str
    form: str
    tokens: int
    width: int
    dtype: str
    tags: tuple[str, ...]
    note: str | None
    access_count: int
    last_access: datetime
    created: datetime
    raw_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class OperationInput:
    """An input of an operation: its role (base, operand_1, ...), weight, and the embedding or its id."""

    role: str
    embedding: Any
    weight: float | None = None


@dataclass(frozen=True)
class Operation:
    """An operation that made an embedding.

    Args:
        operation_type: such as `difference`, `arithmetic`, `interpolation`.
        inputs: what went in; values are stored if they are not yet.
        result: what came out (a value, or the id of a stored embedding); None when nothing is kept.
        parameters: plain values.
        duration_ms: time that the operation took.
        peak_memory_bytes: largest memory in use during it, above what was in use before; None if not measured.
        result_description: name, prompt and tags for the result; one that is stored already keeps its prompts.
        device: kind of device it ran on, such as cpu or cuda.
        node: id of the node class that did it.
    """

    operation_type: str
    inputs: tuple[OperationInput, ...] = ()
    result: Any = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    duration_ms: float | None = None
    peak_memory_bytes: int | None = None
    result_description: Description = field(default_factory=Description)
    device: str | None = None
    node: str | None = None

"""What makes two embeddings the same, and what makes a cached one valid."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy.typing as npt

FORMAT = 1
"""Version of what the keys below cover; a change makes every cached embedding a miss, never a wrong hit."""

Kind = Literal["raw", "projected", "hidden", "other"]
KINDS: tuple[Kind, ...] = ("raw", "projected", "hidden", "other")


def content_hash(stored: str, bits: npt.NDArray[Any]) -> str:
    """sha256 (hex) of a tensor's canonical uncompressed bytes: stored dtype, rows, columns, values.

    Compressed bytes are not hashed, since they change with the zstd version.
    """
    digest = hashlib.sha256(f"{stored} {bits.shape[0]} {bits.shape[1]}\n".encode())
    digest.update(bits.data if bits.size else b"")
    return digest.hexdigest()


def embedding_hash(structure: str, parts: Sequence[tuple[str, str, str, Sequence[int]]]) -> str:
    """sha256 (hex) of a whole value: its structure, and (role, content hash, dtype, shape) of each tensor."""
    return _digest({"structure": structure, "parts": [[*p[:3], list(p[3])] for p in parts]})


@dataclass(frozen=True)
class EmbeddingKey:
    """Everything that decides what an encoder returns; equal keys may share a cached embedding.

    Args:
        prompt: the text, exactly as given.
        encoder: name or fingerprint of the text encoder, or of the model for hidden states.
        precision: dtype that the encoder computed in, such as `bf16`.
        quantization: such as `fp8_e4m3fn`, or `disabled`.
        kind: raw T5 output, projected to the model's width, hidden state, or other.
        details: further plain values the result depends on: block, sigma, grid, seed, content of inputs.
    """

    prompt: str
    encoder: str
    precision: str
    quantization: str = "disabled"
    kind: Kind = "raw"
    details: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """The key as plain values, with the format version."""
        return {"format": FORMAT, **asdict(self), "details": dict(self.details)}

    @property
    def cache_key(self) -> str:
        """sha256 (hex) of the identity."""
        return _digest(self.identity())


def _digest(plain: Mapping[str, Any]) -> str:
    text = json.dumps(plain, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

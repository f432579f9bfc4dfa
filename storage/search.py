"""Nearest neighbours by cosine over pooled vectors.

The pooled vector of a tensor is the mean of its rows, scaled to length 1 (zero rows only shorten the mean, so
padding does not matter). DuckDB keeps the vectors; searching goes through a matrix in memory, which is 15 times
faster than DuckDB's own array functions at 10,000 x 4096 (measured).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from .codec import converted

MAX_WIDTH = 16384
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Match:
    """A stored tensor and the cosine of its pooled vector with the query's, -1..1."""

    content_hash: str
    cosine: float


def pooled_vector(tensor: torch.Tensor) -> bytes | None:
    """Direction of the mean row as float16 bytes, little-endian; None for what has none.

    That is: integers, rows of one value or of more than 16384, an all-zero or non-finite mean.
    """
    vector = pooled(tensor)
    return None if vector is None else vector.astype("<f2").tobytes()


def pooled(tensor: torch.Tensor) -> Vector | None:
    """Direction of the mean row, float32 [width], or None as `pooled_vector`."""
    if not tensor.is_floating_point() or tensor.dim() < 1 or not 2 <= tensor.shape[-1] <= MAX_WIDTH:
        return None
    rows = tensor.detach().reshape(-1, tensor.shape[-1])
    if not rows.shape[0]:
        return None
    if rows.device.type == "cpu":
        mean = converted(rows.contiguous(), torch.float32).numpy().mean(axis=0)
    else:
        mean = rows.float().mean(dim=0).cpu().numpy()
    norm = np.linalg.norm(mean)
    if not np.isfinite(norm) or not norm:
        return None
    return np.asarray(mean / norm, np.float32)


class VectorIndex:
    """Unit vectors of one width, in a matrix that grows by half when full. Not for several threads at once."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._matrix: Vector = np.empty((0, width), np.float32)
        self._hashes: list[str] = []
        self._row_of: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._hashes)

    def reserve(self, count: int) -> None:
        """Make room for `count` vectors at once."""
        if count > len(self._matrix):
            grown = np.empty((count, self.width), np.float32)
            grown[: len(self)] = self._matrix[: len(self)]
            self._matrix = grown

    def add(self, content_hash: str, vector: bytes) -> None:
        """Add or replace the pooled vector of a tensor."""
        row = self._row_of.get(content_hash, len(self))
        if row == len(self._matrix):
            self.reserve(max(64, row + row // 2))
        if row == len(self):
            self._hashes.append(content_hash)
            self._row_of[content_hash] = row
        self._matrix[row] = np.frombuffer(vector, "<f2")

    def remove(self, content_hashes: Iterable[str]) -> None:
        for content_hash in content_hashes:
            row = self._row_of.pop(content_hash, None)
            if row is None:
                continue
            last = self._hashes.pop()
            if last != content_hash:
                self._matrix[row] = self._matrix[len(self._hashes)]
                self._hashes[row], self._row_of[last] = last, row

    def nearest(self, query: Vector, count: int) -> list[Match]:
        """The `count` vectors of largest cosine with a unit vector [width], best first."""
        if not len(self) or count < 1:
            return []
        scores = self._matrix[: len(self)] @ query
        count = min(count, len(self))
        best = np.argpartition(scores, -count)[-count:]
        best = best[np.argsort(-scores[best], kind="stable")]
        return [Match(self._hashes[i], float(scores[i])) for i in best]

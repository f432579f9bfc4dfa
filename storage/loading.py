"""Reading embeddings as the values that were put."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .codec import decode
from .database import Database
from .errors import DamagedError
from .packing import unpack
from .records import Stored
from .text import askable


class Loader:
    """Loads embeddings, and notes whose bytes are damaged.

    Args:
        database: of the store.
        damaged: gets the content ids whose bytes fail a check.
    """

    def __init__(self, database: Database, damaged: set[int]) -> None:
        self._database, self._damaged = database, damaged

    def load(self, condition: str, value: Any, restore_devices: bool) -> Stored | None:
        """The embedding of which a condition with one `?` holds, or None.

        Raises:
            DamagedError: its bytes on disk are damaged.
        """
        with self._database.snapshot() as db:
            found = db.execute(
                "SELECT embedding_id, name, prompt, note, kind, form, structure "  # noqa: S608
                f"FROM embeddings WHERE {condition}",
                [askable(value) if isinstance(value, str) else value],
            ).fetchall()
            if not found:
                return None
            *about, structure = found[0]
            parts = db.execute(
                "SELECT p.content_id, p.device, p.dtype, p.shape, c.stored, c.row_count, c.column_count "
                "FROM embedding_parts p LEFT JOIN contents c USING (content_id) WHERE embedding_id = ? "
                "ORDER BY position",
                [about[0]],
            ).fetchall()
            data = {part[0]: self._bytes(db, part[0]) for part in parts}
        tensors = [self._decoded(data, part, restore_devices) for part in parts]
        return Stored(*about, unpack(structure, tensors))  # type: ignore[call-arg]

    def _bytes(self, db: Any, content_id: int) -> bytes:
        try:
            rows = db.execute("SELECT part, data FROM content_parts WHERE content_id = ?", [content_id]).fetchall()
        except Exception:
            self._damaged.add(content_id)
            raise
        rows.sort()
        return b"".join(data for _, data in rows)

    def _decoded(self, data: dict[int, bytes], part: Sequence[Any], restore_devices: bool) -> torch.Tensor:
        content_id, device, dtype, shape, *kept = part
        try:
            if kept[0] is None:
                raise DamagedError("A tensor of the embedding is missing from the store.")
            tensor = decode(data[content_id], dtype, tuple(shape), *kept)
        except DamagedError:
            self._damaged.add(content_id)
            raise
        return tensor.to(available_device(device)) if restore_devices else tensor


def available_device(kind: str) -> torch.device:
    """The device of a kind such as `cuda`; the CPU where this machine has none."""
    try:
        found = kind == "cpu" or torch.get_device_module(kind).is_available()
    except (RuntimeError, AttributeError):  # a kind that this torch does not know
        found = False
    return torch.device(kind if found else "cpu")

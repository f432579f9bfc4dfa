"""A persistent store of embeddings and of the operations made with them.

No ComfyUI; nothing is opened at import, and DuckDB itself is imported at the first use of a name below.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .codec import PRECISIONS, Encoded, Precision, decode, encode
    from .errors import DamagedError, LockedError, StoreError, UnsupportedError
    from .identity import EmbeddingKey
    from .names import read_names
    from .packing import pack, unpack
    from .records import Description, Entry, Listing, Operation, OperationInput, Stored
    from .store import EmbeddingStore

_HOME = {
    "codec": ("PRECISIONS", "Encoded", "Precision", "decode", "encode"),
    "errors": ("DamagedError", "LockedError", "StoreError", "UnsupportedError"),
    "identity": ("EmbeddingKey",),
    "names": ("read_names",),
    "packing": ("pack", "unpack"),
    "records": ("Description", "Entry", "Listing", "Operation", "OperationInput", "Stored"),
    "store": ("EmbeddingStore",),
}

__all__ = [
    "PRECISIONS",
    "DamagedError",
    "Description",
    "EmbeddingKey",
    "EmbeddingStore",
    "Encoded",
    "Entry",
    "Listing",
    "LockedError",
    "Operation",
    "OperationInput",
    "Precision",
    "StoreError",
    "Stored",
    "UnsupportedError",
    "decode",
    "encode",
    "pack",
    "read_names",
    "unpack",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

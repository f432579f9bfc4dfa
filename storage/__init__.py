"""A persistent store of embeddings and of the operations made with them. No ComfyUI, nothing opened at import."""

from .codec import PRECISIONS, Encoded, Precision, decode, encode
from .errors import DamagedError, LockedError, StoreError, UnsupportedError
from .identity import EmbeddingKey
from .names import read_names
from .packing import pack, unpack
from .records import Description, Entry, Listing, Operation, OperationInput, Stored
from .store import EmbeddingStore

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

"""Copies of values that are handed to another thread. Free of DuckDB: recording does not wait for its import."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from .packing import size_of
from .records import Operation


def snapshot(value: Any) -> Any:
    """A copy of a value whose tensors no later in-place operation can change; on the CPU."""
    if torch.is_tensor(value):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(snapshot, value)) if type(value) in (list, tuple) else list(map(snapshot, value))
    return value


def snapshot_operation(operation: Operation) -> Operation:
    """A copy that no later in-place operation can change."""
    inputs = tuple(replace(i, embedding=_snapshot(i.embedding)) for i in operation.inputs)
    return replace(operation, inputs=inputs, result=_snapshot(operation.result), parameters=dict(operation.parameters))


def size_of_operation(operation: Operation) -> int:
    """Bytes of the tensors of its values."""
    values = (*(i.embedding for i in operation.inputs), operation.result)
    return sum(size_of(v) for v in values if v is not None and not isinstance(v, int))


def _snapshot(value: Any) -> Any:
    return value if value is None or isinstance(value, int) else snapshot(value)

"""Operations: what was done to make an embedding, from what, how long it took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import entries
from .codec import Precision
from .database import Cursor
from .entries import Index, Prepared
from .records import Description, Operation, OperationInput, now
from .segments import Segments


@dataclass(frozen=True)
class PreparedOperation:
    """An operation whose values are encoded."""

    operation: Operation
    inputs: tuple[tuple[OperationInput, Prepared | None], ...]
    result: Prepared | None

    @property
    def values(self) -> list[Prepared]:
        return [p for p in (*(p for _, p in self.inputs), self.result) if p is not None]


def prepare_operation(operation: Operation, precision: Precision) -> PreparedOperation:
    """Encode inputs and result. Raises UnsupportedError as entries.prepare."""
    inputs = tuple((i, _prepare(i.embedding, precision)) for i in operation.inputs)
    return PreparedOperation(operation, inputs, _prepare(operation.result, precision))


def insert_operation(
    cursor: Cursor,
    index: Index,
    segments: Segments,
    ready: PreparedOperation,
    rewrite: frozenset[str] = frozenset(),
) -> int:
    """Insert an operation with its values, inside the caller's transaction; its id."""
    operation, operation_id = ready.operation, index.next_operation

    def embedding_id(given: Any, prepared: Prepared | None, description: Description) -> int | None:
        if prepared is None:
            return given if isinstance(given, int) else None
        return entries.insert(cursor, index, segments, prepared, description, rewrite, known_prompt_stays=True)

    described = Description(kind=operation.result_description.kind, form=operation.result_description.form)
    ids = [embedding_id(i.embedding, prepared, described) for i, prepared in ready.inputs]
    result_id = embedding_id(operation.result, ready.result, operation.result_description)
    cursor.insert(
        "vector_operations",
        operation_id,
        operation.operation_type,
        result_id,
        operation.duration_ms,
        operation.peak_memory_bytes,
        now(),
        operation.device,
        operation.node,
    )
    for position, ((given, _), input_id) in enumerate(zip(ready.inputs, ids, strict=True)):
        cursor.insert("operation_inputs", operation_id, position, given.role, input_id, given.weight)
    for name, text in plain_parameters(operation.parameters).items():
        cursor.insert("operation_parameters", operation_id, name, text)
    index.next_operation += 1
    return operation_id


def plain_parameters(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Parameters as text: strings as they are, other plain values as JSON, anything else as its repr."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, default=repr) for name, value in parameters.items()
    }


def _prepare(value: Any, precision: Precision) -> Prepared | None:
    return None if value is None or isinstance(value, int) else entries.prepare(value, precision)

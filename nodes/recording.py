"""What nodes call to record what they did.

    with recorded("difference", node="WanVideoVectorDifference", enabled=store_in_db, scale=scale) as record:
        result = ...
        record.input("a", text_embeds_a)
        record.input("b", text_embeds_b, weight=-1.0)
        record.result(result)

Recording copies the tensors and returns; encoding and writing happen on another thread. Nothing here raises: a
failure is one warning in the log. An exception of the node itself passes through, and nothing is recorded.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..storage.text import plain
from .store_access import STORE, QueueFullError, store_path

if TYPE_CHECKING:
    from ..storage.records import EmbeddingKey
    from ..storage.store import EmbeddingStore

log = logging.getLogger("wanvideo_activation_editor")

CAPTURE_BYTES = 4 << 30
"""Size to which cached hidden states are kept by removing the longest unused: they are large."""

Input = tuple[str, Any] | tuple[str, Any, float | None]


class Record:
    """Collects inputs and the result of an operation. Values may be host values, tensors, or lists of them."""

    def __init__(self) -> None:
        self.inputs: list[Input] = []
        self.made: Any = None
        self.prompt: str | None = None
        self.parameters: dict[str, Any] = {}

    def input(self, role: str, embeds: Any, weight: float | None = None) -> None:
        self.inputs.append((role, embeds, weight))

    def result(self, embeds: Any, prompt: str | None = None) -> None:
        self.made, self.prompt = embeds, prompt


@contextlib.contextmanager
def recorded(operation_type: str, node: str | None = None, enabled: bool = True, **parameters: Any) -> Iterator[Record]:
    """Record the operation done inside, with its time and, on CUDA, its peak memory.

    Args:
        operation_type: such as `difference`.
        node: id of the node class.
        enabled: False measures and records nothing.
        parameters: plain values.
    """
    record = Record()
    if not enabled:
        yield record
        return
    before = _memory_in_use()
    started = time.perf_counter()
    yield record
    peak = _peak_memory(before)
    duration = (time.perf_counter() - started) * 1000
    record_operation(
        operation_type,
        record.inputs,
        record.made,
        {**parameters, **record.parameters},
        duration_ms=duration,
        peak_memory_bytes=peak,
        node=node,
        prompt=record.prompt,
    )


def record_operation(
    operation_type: str,
    inputs: Sequence[Input],
    result: Any = None,
    parameters: Mapping[str, Any] | None = None,
    duration_ms: float | None = None,
    peak_memory_bytes: int | None = None,
    node: str | None = None,
    prompt: str | None = None,
) -> None:
    """Record an operation that was measured elsewhere.

    Args:
        inputs: (role, embeds) or (role, embeds, weight).
        prompt: readable description of the result.
    """
    with _never_raises(operation_type):
        from ..storage.records import Description, Operation, OperationInput

        kept = [OperationInput(role, snapshot(embeds), *weight) for role, embeds, *weight in inputs]
        made = None if result is None else snapshot(result)
        values = [i.embedding for i in kept] + ([] if made is None else [made])
        operation = Operation(
            operation_type,
            kept,
            made,
            dict(parameters or {}),
            duration_ms,
            peak_memory_bytes,
            Description(prompt=_short(prompt), form=form_of(result)),
            device=_device(result if result is not None else [i[1] for i in inputs]),
            node=node,
        )
        STORE.later(operation_type, lambda store: store.record(operation), sum(map(size_of, values)))


def record_analysis(embeds: Any, analysis_type: str, report: str, prompt: str | None = None) -> None:
    """Keep the report of an analysis, with the embedding that it is about."""
    with _never_raises(analysis_type):
        from ..storage.records import Description

        kept, description = snapshot(embeds), Description(prompt=_short(prompt), form=form_of(embeds))

        def task(store: EmbeddingStore) -> None:
            store.put(kept, description)
            store.save_analysis(kept, analysis_type, report)

        STORE.later(f"the analysis {analysis_type}", task, size_of(kept))


def recorded_analysis(embeds: Any, analysis_type: str) -> str | None:
    """The report that an earlier run kept for these embeds, or None."""
    with _never_raises(analysis_type):
        path = store_path()
        if path is not None and (STORE.opened is not None or path.exists()):
            return STORE.open().analysis(embeds, analysis_type)
    return None


def remember(key: EmbeddingKey, value: Any, prompt: str | None = None) -> None:
    """Keep a value under a cache key, for `recall` in this or a later session."""
    with _never_raises("a cached embedding"):
        from ..storage.records import Description

        kept = snapshot(value)
        description = Description(
            prompt=_short(prompt or key.prompt or None), kind=key.kind, form=form_of(value), key=key
        )

        def task(store: EmbeddingStore) -> None:
            from ..storage.maintenance import evict

            store.put(kept, description)
            evict(store, CAPTURE_BYTES, dry_run=False, kind="hidden")

        STORE.later("a cached embedding", task, size_of(kept))


def recall(key: EmbeddingKey) -> Any | None:
    """The value kept under a cache key, tensors on the CPU; None when there is none or it cannot be read."""
    with _never_raises("reading a cached embedding"):
        found = STORE.open().find(key)
        return None if found is None else found.value
    return None


def form_of(value: Any) -> str:
    """Host type of a value, as the store lists it."""
    from ..embeddings.text_embeds import is_conditioning, is_wrapper_embeds

    if is_wrapper_embeds(value):
        return "WANVIDEOTEXTEMBEDS"
    if is_conditioning(value) and value:
        return "CONDITIONING"
    return "tensor" if torch.is_tensor(value) else type(value).__name__


def snapshot(value: Any) -> Any:
    """A copy on the CPU: what happens to the tensors later does not matter."""
    if torch.is_tensor(value):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {k: snapshot(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(snapshot, value)) if type(value) in (list, tuple) else [snapshot(v) for v in value]
    return value


def size_of(value: Any) -> int:
    """Bytes of the tensors of a value."""
    if torch.is_tensor(value):
        return value.numel() * value.element_size()
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(map(size_of, items))


def _short(text: str | None) -> str | None:
    """A prompt within the store's limits."""
    from ..storage.text import MAX_TEXT

    return None if text is None else text[:MAX_TEXT].encode(errors="replace").decode()


def _device(value: Any) -> str | None:
    from ..storage.packing import pack

    return pack(value).tensors[0].device.type


def _memory_in_use() -> int | None:
    """Bytes in use on the CUDA device, whose peak is counted anew from here; None when none is in use."""
    with _never_raises("measuring memory"):
        if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
    return None


def _peak_memory(before: int | None) -> int | None:
    """Most bytes in use since, above those before. Waits for the device, so that the time is right too."""
    with _never_raises("measuring memory"):
        if before is not None:
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - before
    return None


@contextlib.contextmanager
def _never_raises(what: str) -> Iterator[None]:
    try:
        yield
    except QueueFullError:
        pass  # said by STORE.later, once
    except Exception as error:
        log.warning("Embedding store: %s: %s", plain(what, 80), plain(error))

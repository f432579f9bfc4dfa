"""10,000 random operations on a store and on a plain dict, which must agree after each."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from wanvideo_activation_editor.storage import Description, EmbeddingStore
from wanvideo_activation_editor.storage import segments as segment_module
from wanvideo_activation_editor.storage.compaction import compact
from wanvideo_activation_editor.storage.maintenance import cleanup, evict, forget_name, remove, verify

from .helpers import randn, same_bits

OPERATIONS = 10_000
WEIGHTS = {"get": 70, "put": 20, "background": 6, "forget": 2, "remove": 1, "missing": 4}
RARE = {"reopen": 400, "compact": 900, "cleanup": 500, "evict": 1500, "verify": 1000}


@pytest.fixture
def path() -> Iterator[Path]:
    """A file in memory where there is such a folder: 3,000 commits wait for no disk."""
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    with tempfile.TemporaryDirectory(dir=folder) as made:
        yield Path(made) / "store.duckdb"


def test_the_store_agrees_with_a_dict(path: Path, monkeypatch):
    monkeypatch.setattr(segment_module, "MAX_BLOBS", 16)
    rng = random.Random(11)
    model: dict[str, int] = {}
    store = EmbeddingStore.open(path)
    names = [f"n{i}" for i in range(60)]
    values = [randn(1 + i % 9, 16, seed=i) for i in range(200)]
    for step in range(OPERATIONS):
        rare = next((name for name, every in RARE.items() if step % every == every - 1), None)
        action = rare or rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        name, number = rng.choice(names), rng.randrange(len(values))
        if action == "get" and name in model:
            assert same_bits(store.get(name).value, values[model[name]]), step
        elif action == "put":
            store.put(values[number], Description(name, tags=(f"t{number % 3}",)))
            model[name] = number
        elif action == "background":
            store.put_later(values[number], Description(name))
            model[name] = number
        elif action == "forget" and name in model:
            forget_name(store, name)
            del model[name]
        elif action == "remove" and name in model:
            gone = store.id_of(name)
            remove(store, [gone])
            model = {n: v for n, v in model.items() if v != model[name]}
        elif action == "missing":
            assert (store.id_of(name) is None) == (name not in model)
        elif action == "reopen":
            store.close()
            store = EmbeddingStore.open(path)
        elif action == "compact":
            compact(store)
        elif action == "cleanup":
            cleanup(store, days=0, min_access=10**9, dry_run=False)
        elif action == "evict":
            evict(store, 0, dry_run=False)
        elif action == "verify":
            assert not verify(store).damaged
    assert store.names() == sorted(model)
    for name, number in model.items():
        assert same_bits(store.get(name).value, values[number])
    store.close()

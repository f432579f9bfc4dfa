from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from wanvideo_activation_editor.storage.store import EmbeddingStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.duckdb"


@pytest.fixture
def store(path: Path) -> Iterator[EmbeddingStore]:
    with EmbeddingStore(path) as opened:
        yield opened

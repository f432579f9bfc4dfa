from __future__ import annotations

from collections.abc import Iterator

import pytest
from wanvideo_activation_editor.nodes.store_access import ENVIRONMENT, STORE


@pytest.fixture(autouse=True)
def no_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nodes that keep what they make keep nothing here."""
    monkeypatch.setenv(ENVIRONMENT, "off")
    yield
    STORE.close()

"""Stores of earlier versions open, a newer one is left alone."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest
import torch
import zstandard
from wanvideo_activation_editor.storage import (
    Description,
    EmbeddingKey,
    EmbeddingStore,
    UnsupportedError,
    analysis,
    analytics,
    schema,
)
from wanvideo_activation_editor.storage.maintenance import verify
from wanvideo_activation_editor.storage.selection import list_embeddings
from wanvideo_activation_editor.storage.views import VIEWS

from .fixtures.make_fixture import embeds
from .helpers import same_bits, same_value

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("schema_*.zst"))


def unpacked(fixture: Path, path: Path) -> Path:
    path.write_bytes(zstandard.decompress(fixture.read_bytes()))
    return path


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda f: f.name)
def test_a_store_of_every_schema_version_opens_with_all_its_data(fixture: Path, path: Path):
    with EmbeddingStore.open(unpacked(fixture, path)) as store:
        assert analytics.stats(store).schema_version == schema.VERSION
        castle = {"prompt_embeds": [embeds(0, 5)], "negative_prompt_embeds": [embeds(1, 3)], "echoshot": False}
        assert same_value(store.get("castle").value, castle)
        assert same_value(store.find(EmbeddingKey("a castle at dusk", "umt5-xxl", "bf16")).value, castle)
        padded = torch.cat([embeds(2, 4), torch.zeros(3, 8).bfloat16()])[None]
        assert same_bits(store.get("padded").value, padded)
        assert same_bits(store.get("castle minus noon").value, embeds(0, 5) - embeds(3, 5))
        by_name = {e.name: e for e in list_embeddings(store)}
        assert by_name["castle"].tags == ("gothic",) and by_name["castle"].access_count >= 1
        assert by_name["padded"].note == "three rows"
        steps = analytics.lineage(store, store.id_of("castle minus noon"))
        assert [(s.role, s.weight) for s in steps] == [("a", None), ("b", 0.5)]
        assert not verify(store).damaged
        store.put(torch.ones(2, 8), Description("new"))
        analysis.save_analysis(store, 1, "statistics", {"mean": 0.0})
    with EmbeddingStore.open(path) as store:
        assert "new" in store.names() and analysis.saved_analysis(store, 1, "statistics") == {"mean": 0.0}


def test_there_is_a_fixture_of_every_schema_version():
    assert [int(re.findall(r"\d+", f.name)[0]) for f in FIXTURES] == list(range(1, schema.VERSION + 1))


def test_a_store_of_a_newer_version_is_left_as_it_is(path: Path):
    with EmbeddingStore.open(path) as store:
        store.put(torch.ones(2, 8), Description("a"))
        store.write(lambda c: c.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'"))
    content = path.read_bytes()
    with pytest.raises(UnsupportedError, match="schema version 99"):
        EmbeddingStore.open(path)
    assert path.read_bytes() == content
    with EmbeddingStore.open_or_memory(path) as store:
        assert not store.persistent


def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch):
    unpacked(FIXTURES[0], path)

    def breaks(cursor) -> None:
        cursor.execute("CREATE TABLE half_done(i INTEGER)")
        raise RuntimeError("stopped in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", {**schema.MIGRATIONS, 1: breaks})
        with pytest.raises(RuntimeError):
            EmbeddingStore.open(path)
    with duckdb.connect(str(path)) as connection:
        assert connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchall() == [("1",)]
        tables = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        assert "half_done" not in tables
    with EmbeddingStore.open(path) as store:
        assert "castle" in store.names()


def test_every_name_of_the_mission_and_every_view_can_be_queried_with_plain_duckdb(path: Path):
    unpacked(FIXTURES[0], path)
    EmbeddingStore.open(path).close()
    names = ["embeddings", "vector_operations", "operation_inputs", "operation_parameters", "embedding_analysis",
             "embedding_similarities", *VIEWS]  # fmt: skip
    with duckdb.connect(str(path), read_only=True) as connection:
        for name in names:
            connection.table(name).fetchall()
        comments = connection.execute("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal").fetchall()
        assert {n: c for n, c in comments} == {n: c for n, (c, _) in VIEWS.items()}

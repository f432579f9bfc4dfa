"""Clean-up, eviction, compaction, search, statistics and reports."""

from __future__ import annotations

import os
import stat
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from wanvideo_activation_editor.storage import (
    Description,
    EmbeddingKey,
    EmbeddingStore,
    Operation,
    OperationInput,
    StoreError,
    analytics,
    encode,
    reports,
)
from wanvideo_activation_editor.storage import segments as segment_module
from wanvideo_activation_editor.storage import store as store_module
from wanvideo_activation_editor.storage.compaction import compact
from wanvideo_activation_editor.storage.maintenance import cleanup, evict, forget_name, remove, verify
from wanvideo_activation_editor.storage.search import VectorIndex
from wanvideo_activation_editor.storage.selection import list_embeddings, nearest

from .helpers import python, randn, same_bits


def age(store: EmbeddingStore, embedding_id: int, days: int) -> None:
    """Pretend that an embedding was stored and read days ago."""
    store.flush_usage()
    for table, column in (("embedding_entries", "created"), ("embedding_usage", "last_access")):
        query = f"UPDATE {table} SET {column} = {column} - ? WHERE embedding_id = ?"  # noqa: S608
        store.write(lambda cursor, q=query: cursor.execute(q, [timedelta(days=days), embedding_id]))


def test_cleanup_takes_the_old_and_little_used_that_have_no_name(store: EmbeddingStore):
    ids = [store.put(randn(5, seed=i), Description("named" if i == 3 else None)) for i in range(5)]
    for _ in range(5):
        store.load(ids[2])
    for i in (0, 2, 3):
        age(store, ids[i], 40)
    preview = cleanup(store, days=30, min_access=5)
    assert [e.embedding_id for e in preview.embeddings] == [ids[0]] and preview.dry_run
    assert analytics.stats(store).embeddings == 5
    removal = cleanup(store, days=30, min_access=5, dry_run=False)
    assert removal.stored_bytes == preview.stored_bytes > 0
    assert {e.embedding_id for e in list_embeddings(store)} == set(ids) - {ids[0]}
    with_named = cleanup(store, days=30, min_access=5, dry_run=False, keep_named=False)
    assert [e.name for e in with_named.embeddings] == ["named"]


def test_removing_an_embedding_keeps_tensors_that_others_share(store: EmbeddingStore):
    shared, own = randn(5, seed=1), randn(5, seed=2)
    first = store.put([shared, own], Description("a"))
    store.put([shared], Description("b"))
    remove(store, [first])
    assert store.names() == ["b"] and same_bits(store.get("b").value[0], shared)
    assert analytics.stats(store).tensors == 1
    assert store.put([shared, own], Description("a")) not in (first,)
    assert same_bits(store.get("a").value[1], own)


def test_forgetting_a_name_keeps_the_embedding(store: EmbeddingStore):
    number = store.put(randn(5), Description("a"))
    forget_name(store, "a")
    assert store.names() == [] and store.load(number)
    with pytest.raises(KeyError):
        forget_name(store, "a")


def test_eviction_drops_the_longest_unused_without_a_name_first(store: EmbeddingStore):
    ids = [store.put(randn(50, seed=i), Description("keep" if i == 0 else None)) for i in range(10)]
    for days, number in enumerate(reversed(ids), 1):
        age(store, number, days)
    limit = analytics.stats(store).stored_bytes // 2
    gone = {e.embedding_id for e in evict(store, limit, dry_run=False).embeddings}
    assert ids[0] not in gone and analytics.stats(store).stored_bytes <= limit
    assert gone == set(ids[1 : 1 + len(gone)])


def test_hidden_states_are_kept_under_their_bound_and_nothing_else_is_touched(store: EmbeddingStore, monkeypatch):
    size = len(encode(randn(40)).blob)
    for i in range(8):
        store.put(randn(40, seed=i), Description(kind="hidden", key=EmbeddingKey(str(i), "m", "half", kind="hidden")))
    store.put(randn(40, seed=8), Description("named", kind="hidden"))
    store.put(randn(40, seed=9), Description(kind="raw"))
    age(store, 3, -1)  # used last
    monkeypatch.setattr(store_module, "CAPTURE_BYTES", int(size * 3.5))
    store.run(store._keep_house)
    assert {e.embedding_id for e in list_embeddings(store, kind="hidden")} == {3, 8, 9}
    assert store.id_of("named") == 9 and len(list_embeddings(store, kind="raw")) == 1
    assert len(store.index.keys) == 2


def test_compacting_returns_the_space_to_the_disk(path: Path, monkeypatch):
    monkeypatch.setattr(segment_module, "MAX_BYTES", 4 << 20)
    with EmbeddingStore.open(path) as store:
        ids = [store.put(randn(200, 1024, seed=i), Description(f"n{i}", tags=("t",))) for i in range(60)]
        remove(store, ids[:30])
        result = compact(store)
        assert result.after < 0.65 * result.before
        assert not verify(store).damaged
    with EmbeddingStore.open(path) as store:
        for i in range(30, 60):
            assert same_bits(store.get(f"n{i}").value, randn(200, 1024, seed=i))
        assert analytics.performance(store) == []
        store.put(randn(3), Description("after"))
    assert [f.name for f in path.parent.iterdir() if "compact" in f.name] == []


LARGEST = """
import os, sys, torch
from wanvideo_activation_editor.storage import Description, EmbeddingStore
from wanvideo_activation_editor.storage.codec import MAX_TENSOR_BYTES
def largest(seed):
    noise = torch.randint(0, 256, (MAX_TENSOR_BYTES // 4096, 4096), generator=torch.Generator().manual_seed(seed))
    return noise.to(torch.uint8)
store = EmbeddingStore.open(sys.argv[1])
"""


def test_the_largest_tensors_go_through_everything_and_memory_is_given_back(path: Path):
    """Noise, so that nothing is gained by compression: DuckDB needs each twice, more than it may use otherwise."""
    script = "for i in range(2): store.put(largest(i), Description(f'n{i}'))\nos._exit(3)\n"
    process = python(LARGEST + script, str(path))
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 3, errors[-2000:]
    script = """
from wanvideo_activation_editor.storage import Operation, OperationInput
from wanvideo_activation_editor.storage.compaction import compact
from wanvideo_activation_editor.storage.maintenance import remove, verify
def limit(): return store.read(lambda c: c.execute("SELECT current_setting('memory_limit')").fetchall())[0][0]
low = limit()
assert low.startswith("122"), low  # MiB
for i in range(2): assert torch.equal(store.get(f"n{i}").value, largest(i))
store.record(Operation("copy", (OperationInput("a", largest(2)),), largest(0)))
store._writer.run(store._keep_house)
assert not verify(store).damaged
compact(store)
remove(store, [1])
assert torch.equal(store.get("n1").value, largest(1)) and limit() == low
store.close()
assert not os.path.exists(sys.argv[1] + ".wal")
store = EmbeddingStore.open(sys.argv[1])
assert torch.equal(store.get("n1").value, largest(1)) and limit() == low
"""
    process = python(LARGEST + script, str(path))
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0, errors[-2000:]
    assert "fail" not in errors.lower(), errors[-2000:]


def test_a_compaction_that_fails_leaves_the_store_as_it_was(store: EmbeddingStore, monkeypatch):
    store.put(randn(5), Description("a"))
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 0}))
        with pytest.raises(StoreError, match="free disk space"):
            compact(store)
    assert same_bits(store.get("a").value, randn(5))
    store.put(randn(6), Description("b"))
    assert [f.name for f in store.path.parent.iterdir() if "compact" in f.name] == []


@pytest.mark.parametrize("name", ["compacted", 'my "best" store', "it's"])
def test_a_file_of_any_name_is_compacted(tmp_path: Path, name: str):
    with EmbeddingStore.open(tmp_path / f"{name}.duckdb") as store:
        store.put(randn(5), Description("a"))
        compact(store)
        assert same_bits(store.get("a").value, randn(5))


@pytest.mark.skipif(sys.platform == "win32", reason="needs modes")
def test_compacting_keeps_the_mode_of_the_file(store: EmbeddingStore):
    store.put(randn(5))
    os.chmod(store.path, 0o640)
    compact(store)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o640


def test_segments_are_given_up_when_half_of_them_is_gone(store: EmbeddingStore, monkeypatch):
    monkeypatch.setattr(segment_module, "MAX_BLOBS", 8)
    ids = [store.put(randn(5, seed=i), Description(f"n{i}")) for i in range(32)]
    assert analytics.stats(store).segments == 4
    remove(store, [n for i, n in enumerate(ids) if i % 8 > 1])
    assert analytics.stats(store).segments < 4
    for i in range(32):
        if i % 8 <= 1:
            assert same_bits(store.get(f"n{i}").value, randn(5, seed=i))
    assert not verify(store).damaged


def test_a_missing_blob_does_not_stop_later_removals(store: EmbeddingStore, monkeypatch, caplog):
    monkeypatch.setattr(segment_module, "MAX_BLOBS", 8)
    ids = [store.put(randn(5, seed=i), Description(f"n{i}")) for i in range(24)]
    missing = encode(randn(5, seed=0)).content_hash
    store.write(lambda cursor: cursor.execute("DELETE FROM blobs_00000 WHERE content_hash = ?", [missing]))
    remove(store, ids[2:8])
    remove(store, ids[10:16])
    assert store.names() == sorted(f"n{i}" for i in (0, 1, 8, 9, *range(16, 24)))
    assert [d.embeddings for d in verify(store).damaged] == [("n0",)]
    assert "segment 0 keeps its space" in caplog.text
    for i in (1, 8, 9):
        assert same_bits(store.get(f"n{i}").value, randn(5, seed=i))
    store.put(randn(5, seed=0))  # storing it again mends it, and the segment is given up
    remove(store, ids[16:17])
    assert not verify(store).damaged and same_bits(store.get("n0").value, randn(5))


def test_ids_of_removed_embeddings_are_not_given_again(path: Path):
    """Operations that stay would point to the wrong embedding."""
    with EmbeddingStore.open(path) as store:
        kept = store.put(randn(3, seed=1), Description("kept"))
        gone = store.put(randn(3, seed=2))
        store.record(Operation("difference", (OperationInput("a", gone),), kept))
        remove(store, [gone])
        assert store.put(randn(3, seed=3)) > gone
        remove(store, [gone + 1])
    with EmbeddingStore.open(path) as store:
        assert store.put(randn(3, seed=4), Description("new")) > gone
        (step,) = analytics.lineage(store, kept)
        assert step.input == f"#{gone} (removed)"


def test_operations_without_a_result_go_with_their_inputs(store: EmbeddingStore):
    number = store.put(randn(3))
    store.record(Operation("measure", (OperationInput("a", number),)))
    store.record(Operation("nothing kept"))
    remove(store, [number])
    assert [m.operation_type for m in analytics.performance(store)] == ["nothing kept"]


def test_operations_go_when_all_they_refer_to_is_gone(store: EmbeddingStore):
    store.record(Operation("difference", (OperationInput("a", randn(3, seed=1)),), randn(3, seed=2), {"scale": 1.0}))
    remove(store, [1])
    (step,) = analytics.lineage(store, 2)
    assert step.input == "#1 (removed)"
    remove(store, [2])
    assert analytics.stats(store).operations == 0


def test_nearest_are_those_of_largest_cosine(store: EmbeddingStore):
    base = randn(20, 64, seed=0, dtype=torch.float32)
    for i in range(40):
        noise = randn(20, 64, seed=100 + i, dtype=torch.float32)
        store.put(base + i / 4 * noise, Description(f"n{i:02d}", prompt=f"prompt {i}", tags=("even",) * (i % 2 == 0)))
    means = {f"n{i:02d}": store.get(f"n{i:02d}").value.mean(0) for i in range(40)}
    query = base * 3
    cosines = {n: torch.nn.functional.cosine_similarity(query.mean(0), m, dim=0).item() for n, m in means.items()}
    expected = sorted(cosines, key=lambda n: -cosines[n])
    found = nearest(store, query, 5)
    assert [n.embedding.name for n in found] == expected[:5]
    assert [n.cosine for n in found] == pytest.approx([cosines[n] for n in expected[:5]], abs=2e-3)
    even = nearest(store, query, 5, tag="even")
    assert [n.embedding.name for n in even] == [n for n in expected if int(n[1:]) % 2 == 0][:5]
    store.put(base * 5, Description("new"))
    assert nearest(store, query, 1)[0].embedding.name in ("new", "n00")
    remove(store, [store.id_of("new"), store.id_of("n00")])
    assert nearest(store, query, 1)[0].embedding.name == expected[1]


def test_an_embedding_is_not_its_own_neighbour_unless_asked(store: EmbeddingStore):
    store.put(randn(5, seed=1), Description("self"))
    store.put(randn(5, seed=2), Description("other"))
    assert [n.embedding.name for n in nearest(store, randn(5, seed=1))] == ["other"]
    assert nearest(store, randn(5, seed=1), include_same=True)[0].cosine == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("precision", ["half", "exact", "compact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_same_embedding_is_recognised_at_every_precision(store: EmbeddingStore, precision, dtype):
    value = {"prompt_embeds": [randn(5, seed=1, dtype=dtype)], "other": randn(2, seed=3, dtype=dtype)}
    number = store.put(value, Description("self"), precision)
    store.put(randn(5, seed=2), Description("other"))
    for same in (value, store.get("self").value):
        assert store.id_of_value(same) == number
        assert [n.embedding.name for n in nearest(store, same)] == ["other"]
    assert store.id_of_value(randn(5, seed=9)) is None


def test_only_embeddings_of_the_same_width_are_compared(store: EmbeddingStore):
    store.put(randn(5, 32))
    assert nearest(store, randn(5, 64)) == []
    with pytest.raises(ValueError, match="all zero"):
        nearest(store, torch.zeros(4, 64))


def test_search_is_the_same_after_the_store_was_opened_again(path: Path):
    with EmbeddingStore.open(path) as store:
        for i in range(20):
            store.put(randn(5, seed=i), Description(f"n{i}"))
        before = nearest(store, randn(5, seed=99), 7)
    with EmbeddingStore.open(path) as store:
        after = nearest(store, randn(5, seed=99), 7)
    assert [(n.embedding.name, n.cosine) for n in after] == [(n.embedding.name, n.cosine) for n in before]


def test_vectors_can_be_replaced_and_removed():
    index = VectorIndex(4)
    unit = np.eye(4, dtype=np.float32)
    for i in range(4):
        index.add(f"h{i}", unit[i].astype("<f2").tobytes())
    index.add("h1", unit[0].astype("<f2").tobytes())
    assert {m.content_hash for m in index.nearest(unit[0], 2)} == {"h0", "h1"}
    index.remove(["h0", "absent", "h3"])
    assert [m.content_hash for m in index.nearest(unit[0], 9)] == ["h1", "h2"]
    assert index.nearest(unit[0], 0) == [] and VectorIndex(4).nearest(unit[0], 3) == []


def test_lists_by_text_tag_and_order(store: EmbeddingStore):
    store.put(randn(3, seed=1), Description("castle", prompt="A gothic Castle at dusk", tags=("gothic",)))
    store.put(randn(3, seed=2), Description("beach", prompt="a beach at noon", note="castle far away"))
    store.put(randn(3, seed=3), Description(prompt="100% o'clock_"))
    assert [e.name for e in list_embeddings(store, text="CASTLE")] == ["castle", "beach"]
    assert [e.name for e in list_embeddings(store, text="castle dusk")] == ["castle"]
    assert [e.prompt for e in list_embeddings(store, text="100% o'clock_")] == ["100% o'clock_"]
    assert [e.name for e in list_embeddings(store, tag="gothic")] == ["castle"]
    assert [e.name for e in list_embeddings(store, named_only=True, order="name")] == ["beach", "castle"]
    store.get("castle")
    store.flush_usage()
    assert list_embeddings(store, order="recent", limit=1)[0].name == "castle"


def test_statistics_and_reports_say_what_is_there(store: EmbeddingStore):
    assert "no embeddings" in reports.recent_report(list_embeddings(store))
    assert reports.performance_report([]) == "No operations are recorded."
    store.put(torch.cat([randn(77, 256), torch.zeros(435, 256).bfloat16()])[None], Description("a", tags=("t",)))
    store.record(Operation("add", (OperationInput("base", 1),), randn(3, 256), duration_ms=2.0, peak_memory_bytes=2048))
    figures = analytics.stats(store)
    assert (figures.embeddings, figures.named, figures.operations) == (2, 1, 1)
    assert figures.raw_bytes == 515 * 256 * 2 and figures.compression > 5
    text = reports.stats_report(figures)
    assert "2 (1 named)" in text and "bfloat16" in text and str(store.path) in text
    assert "2.00" in reports.performance_report(analytics.performance(store))
    assert "77x256" in reports.recent_report(list_embeddings(store))
    assert reports.verification_report(verify(store)) == "All 2 tensors are whole."
    assert reports.removal_report(cleanup(store, 1, 5)) == "Nothing to remove."
    assert "Would remove 2" in reports.removal_report(evict(store, 0, keep_named=False))
    assert "cosine" in reports.neighbours_report(nearest(store, randn(4, 256, seed=9)))
    assert [reports.size(n) for n in (None, 5, 2048, 5 << 20, 3 << 40)] == ["-", "5 B", "2.0 KB", "5.0 MB", "3072.0 GB"]


def test_reads_of_a_session_that_only_reads_are_counted(path: Path):
    with EmbeddingStore.open(path) as store:
        store.put(randn(5), Description("a"))
    with EmbeddingStore.open(path) as store:
        for _ in range(3):
            store.get("a")
    with EmbeddingStore.open(path) as store:
        counts = store.read(lambda cursor: cursor.execute("SELECT access_count FROM embedding_usage").fetchall())
    assert counts == [(3,)]

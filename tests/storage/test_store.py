"""Putting, getting, naming, caching; what the store promises about the same value stored twice."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime

import pytest
import torch
from wanvideo_activation_editor.storage import (
    Description,
    EmbeddingKey,
    EmbeddingStore,
    Operation,
    OperationInput,
    StoreError,
    UnsupportedError,
    analysis,
    analytics,
    names,
    pack,
    unpack,
    usage,
)
from wanvideo_activation_editor.storage import store as storage_store
from wanvideo_activation_editor.storage.codec import MAX_TENSOR_BYTES, available_device
from wanvideo_activation_editor.storage.names import read_names
from wanvideo_activation_editor.storage.selection import list_embeddings
from wanvideo_activation_editor.storage.writer import QueueFullError

from .helpers import finish, python, randn, same_value

WRAPPER = {
    "prompt_embeds": [randn(12, seed=1), randn(30, seed=2)],
    "negative_prompt_embeds": [randn(5, seed=3)],
    "echoshot": False,
    "nag_params": {"scale": 11.0, "tau": 2.5, "alpha": None},
}
CONDITIONING = [[torch.nn.functional.pad(randn(9)[None], (0, 0, 0, 503)), {"pooled_output": None}]]


@pytest.mark.parametrize(
    "value",
    [
        WRAPPER,
        CONDITIONING,
        randn(7),
        [randn(3), (randn(4), "text", 1, 2.5, None, True)],
        {"x": torch.tensor(3)},
    ],
    ids=["wrapper", "conditioning", "tensor", "nested", "scalar"],
)
def test_a_value_comes_back_as_it_was(store: EmbeddingStore, value):
    store.put(value, Description("a"))
    assert same_value(store.get("a").value, value)


@pytest.mark.parametrize("kind", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_tensors_return_to_the_kind_of_device_that_they_came_from(store: EmbeddingStore, kind: str):
    value = {"prompt_embeds": [randn(5).to(kind)], "mask": torch.ones(3)}
    store.put(value, Description("a", key=KEY))
    for stored in (store.get("a", restore_devices=True), store.find(KEY, restore_devices=True)):
        assert stored is not None
        assert same_value(stored.value, value)
        assert stored.value["prompt_embeds"][0].device.type == kind
        assert stored.value["mask"].device.type == "cpu"
    assert store.get("a").value["prompt_embeds"][0].device.type == "cpu"


def test_a_device_that_this_machine_lacks_becomes_the_cpu():
    assert available_device("no_such_device") == available_device("cpu") == torch.device("cpu")
    assert available_device("cuda").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_each_tensor_is_restored_by_the_kind_that_is_recorded_for_it(store: EmbeddingStore, monkeypatch):
    """On any machine: `meta` stands for the device of the first tensor."""
    store.put({"a": randn(5), "b": randn(6)}, Description("x"))
    places = iter([torch.device("meta"), torch.device("cpu")])
    monkeypatch.setattr(storage_store, "available_device", lambda kind: {"cpu": next(places)}[kind])
    value = store.get("x", restore_devices=True).value
    assert (value["a"].device.type, value["b"].device.type) == ("meta", "cpu")


def test_a_store_is_the_same_after_it_was_opened_again(path):
    with EmbeddingStore.open(path) as store:
        store.put(WRAPPER, Description("a", prompt="fox", negative_prompt="blurry", tags=("x", "y"), note="n"))
    with EmbeddingStore.open(path) as store:
        stored = store.get("a")
        assert same_value(stored.value, WRAPPER)
        assert (stored.entry.prompt, stored.entry.negative_prompt) == ("fox", "blurry")
        (listing,) = list_embeddings(store)
        assert (listing.name, listing.tags, listing.note, listing.tokens) == ("a", ("x", "y"), "n", 12)


def test_the_largest_tensor_is_stored_however_little_it_compresses(path):
    value = torch.randint(0, 256, (MAX_TENSOR_BYTES,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with EmbeddingStore.open(path) as store:
        store.put(value, Description("a"))
        assert torch.equal(store.get("a").value, value)


def test_the_same_value_stored_twice_is_one_embedding_and_one_blob(store: EmbeddingStore):
    first = store.put(WRAPPER, Description("a"))
    assert store.put(WRAPPER, Description("b", tags=("t",))) == first
    assert analytics.stats(store).tensors == 3
    assert store.names() == ["a", "b"]


def test_padded_and_trimmed_forms_of_a_prompt_share_a_blob_and_keep_their_shapes(store: EmbeddingStore):
    trimmed, padded = CONDITIONING[0][0][0, :9].clone(), CONDITIONING[0][0]
    assert store.put(trimmed, Description("t")) != store.put(padded, Description("p"))
    assert analytics.stats(store).tensors == 1
    assert store.get("t").value.shape == (9, 64) and store.get("p").value.shape == (1, 512, 64)


def test_a_name_moves_to_what_was_stored_under_it_last(store: EmbeddingStore):
    first = store.put(randn(3, seed=1), Description("a"))
    second = store.put(randn(3, seed=2), Description("a", note="newer"))
    assert store.id_of("a") == second != first
    assert store.load(first).entry.embedding_id == first


def test_a_missing_name_or_id_is_a_key_error(store: EmbeddingStore):
    with pytest.raises(KeyError):
        store.get("nothing")
    with pytest.raises(KeyError):
        store.load(99)


def test_a_description_given_later_is_added(store: EmbeddingStore):
    store.put(randn(3))
    store.put(randn(3), Description("a", prompt="fox", tags=("x",)))
    store.put(randn(3), Description(tags=("x", "y")))
    (listing,) = list_embeddings(store)
    assert (listing.name, listing.prompt, listing.tags) == ("a", "fox", ("x", "y"))


def test_what_a_later_put_knows_better_takes_the_place_of_what_was_not_known(store: EmbeddingStore):
    store.record(Operation("amplification", (OperationInput("a", randn(3)),)))
    store.put(randn(3), Description("castle", kind="projected", form="CONDITIONING"))
    store.put(randn(3), Description())
    store.put(randn(3), Description(kind="other", form="list"))
    (listing,) = list_embeddings(store)
    assert (listing.kind, listing.form) == ("projected", "CONDITIONING")
    entry = store.get("castle").entry
    assert (entry.kind, entry.form) == ("projected", "CONDITIONING")


KEY = EmbeddingKey("fox", "umt5-xxl", "bf16", "fp8_e4m3fn", "hidden", {"block": 3, "sigma": 0.9, "grid": [2, 4, 4]})


def test_a_cached_embedding_is_found_by_its_key_only(path):
    with EmbeddingStore.open(path) as store:
        store.put(WRAPPER, Description(key=KEY))
        assert same_value(store.find(KEY).value, WRAPPER)
    others = [
        replace(KEY, prompt="fox "),
        replace(KEY, encoder="umt5-xxl-v2"),
        replace(KEY, precision="fp32"),
        replace(KEY, quantization="disabled"),
        replace(KEY, kind="raw"),
        replace(KEY, details={**KEY.details, "block": 4}),
        replace(KEY, details={}),
    ]
    with EmbeddingStore.open(path) as store:
        assert same_value(store.find(replace(KEY, details=dict(reversed(KEY.details.items())))).value, WRAPPER)
        assert [store.find(key) for key in others] == [None] * len(others)
    assert len({key.cache_key for key in (KEY, *others)}) == len(others) + 1


def test_a_new_format_version_makes_every_cached_embedding_a_miss(store: EmbeddingStore, monkeypatch):
    store.put(WRAPPER, Description(key=KEY))
    monkeypatch.setattr("wanvideo_activation_editor.storage.identity.FORMAT", 2)
    assert store.find(KEY) is None


def test_a_key_points_to_what_was_stored_under_it_last(store: EmbeddingStore):
    store.put(randn(3, seed=1), Description(key=KEY))
    store.put(randn(3, seed=2), Description(key=KEY))
    assert same_value(store.find(KEY).value, randn(3, seed=2))


def test_reads_are_counted(path):
    with EmbeddingStore.open(path) as store:
        store.put(randn(3), Description("a"))
        for _ in range(3):
            store.get("a")
    with EmbeddingStore.open(path) as store:
        store.get("a")
        store.flush_usage()
        assert list_embeddings(store)[0].access_count == 4


def test_the_last_read_is_kept_with_the_count(store: EmbeddingStore, monkeypatch):
    store.put(randn(3), Description("a"))
    for year in (2040, 2041):
        monkeypatch.setattr(usage, "now", lambda year=year: datetime(year, 1, 1))
        store.get("a")
        store.flush_usage()
        assert list_embeddings(store)[0].last_access == datetime(year, 1, 1)


def test_background_puts_are_there_for_the_next_read_and_after_closing(path):
    with EmbeddingStore.open(path) as store:
        value = {"prompt_embeds": [randn(20)]}
        future = store.put_later(value, Description("a"))
        value["prompt_embeds"][0].zero_()
        assert same_value(store.get("a").value, {"prompt_embeds": [randn(20)]})
        assert future.result() == 1
        futures = [store.put_later(randn(20, seed=i), Description(f"n{i}")) for i in range(30)]
    assert all(f.done() for f in futures)
    with EmbeddingStore.open(path) as store:
        assert len(store.names()) == 31


def test_background_puts_are_written_when_the_process_ends_without_closing(path):
    finish(python(
        "import sys, torch\n"
        "from wanvideo_activation_editor.storage import *\n"
        "store = EmbeddingStore.open(sys.argv[1])\n"
        "for i in range(20): store.put_later(torch.full((50, 64), float(i)), Description(f'n{i}'))\n",
        str(path),
    ))  # fmt: skip
    with EmbeddingStore.open(path) as store:
        assert len(store.names()) == 20


def test_a_store_works_while_the_interpreter_ends_and_starts_no_threads(path, monkeypatch):
    """From Python 3.12; what was handed over and what was counted is written on the caller's thread."""

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with EmbeddingStore.open(path) as store:
            assert store.put_later(randn(5), Description("a")).result() == store.put(randn(5))
            store.record(Operation("copy", (OperationInput("a", 1),)))
            store.get("a")
        assert read_names(path) == ["a"]
    with EmbeddingStore.open(path) as store:
        assert analytics.stats(store).operations == 1
        assert [e.access_count for e in list_embeddings(store)] == [1]


def test_a_background_put_can_be_cancelled(store: EmbeddingStore):
    gate = threading.Event()
    store._writer.submit(gate.wait)
    first, second = (store.put_later(randn(5, seed=i), Description(f"n{i}")) for i in range(2))
    assert first.cancel()
    gate.set()
    assert second.result() and store.names() == ["n1"]


def test_a_read_waits_for_what_was_handed_over_before_it_only(store: EmbeddingStore):
    """The job handed over next does not end before the read does."""
    store.put(randn(5), Description("a"))
    begin, read = threading.Event(), threading.Event()
    store._writer.submit(begin.wait)
    found = []
    reader = threading.Thread(target=lambda: (found.append(store.names()), read.set()))
    waited = threading.Event()
    wait_for = store._writer._condition.wait_for

    def watched(*args):
        if threading.current_thread() is reader:
            waited.set()
        return wait_for(*args)

    store._writer._condition.wait_for = watched
    reader.start()
    assert waited.wait(30)
    later = store._writer.submit(lambda: read.wait(30))
    begin.set()
    assert later.result() and found == [["a"]]
    reader.join()


def test_the_queue_of_background_puts_is_bounded(store: EmbeddingStore):
    gate = threading.Event()
    blocked = store._writer.submit(gate.wait)
    try:
        with pytest.raises(QueueFullError):
            for i in range(20):
                store.put_later(torch.zeros(5 << 20, dtype=torch.uint8) + i)
    finally:
        gate.set()
    assert blocked.result()


def test_a_background_failure_reaches_its_future_and_not_the_next_put(store: EmbeddingStore):
    future = store.put_later(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(UnsupportedError):
        future.result()
    store.put(randn(3), Description("a"))


def test_a_recorded_result_that_is_stored_already_keeps_its_prompt(store: EmbeddingStore):
    store.put(randn(5), Description("fox", prompt="a red fox"))
    store.put(randn(6), Description("plain"))
    for n, prompt in ((5, "base + 0.0 * (a - b)"), (6, "a - b")):
        store.record(Operation("difference", result=randn(n), result_description=Description(prompt=prompt)))
    assert store.get("fox").entry.prompt == "a red fox"
    assert store.get("plain").entry.prompt == "a - b"
    store.put(randn(5), Description(prompt="a fox"))
    assert store.get("fox").entry.prompt == "a fox"


def test_a_closed_store_says_so(path):
    store = EmbeddingStore.open(path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.put(randn(3))


@pytest.mark.parametrize("value", [{}, {"a": 1}, "text", None, [object(), torch.zeros(1)]], ids=str)
def test_values_without_tensors_or_with_objects_in_lists_are_refused(store: EmbeddingStore, value):
    with pytest.raises(UnsupportedError):
        store.put(value)


def test_objects_in_dicts_are_left_out_and_named():
    packed = pack({"prompt_embeds": [torch.zeros(1, 2)], "model": object(), "deep": {"f": print}, 3: "x"})
    assert packed.dropped == ("model", "deep/f", "3")
    assert unpack(packed.structure, packed.tensors).keys() == {"prompt_embeds", "deep"}


def test_names_are_listed_without_opening_the_store(path):
    with EmbeddingStore.open(path) as store:
        store.put(randn(3), Description("fox é"))
        store.put(randn(4), Description("owl"))
    assert read_names(path) == ["fox é", "owl"]
    assert read_names(path.with_name("none.duckdb")) == []


def test_names_are_listed_through_a_link_to_the_store(store: EmbeddingStore, path, tmp_path):
    store.put(randn(3), Description("a"))
    store.close()
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.duckdb"
    try:
        link.symlink_to(path)
    except OSError:
        pytest.skip("needs symbolic links")
    assert read_names(link) == ["a"]


def test_names_that_cannot_be_written_leave_no_file(tmp_path, monkeypatch):
    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(names.os, "replace", full)
    names.write_names(tmp_path / "store.duckdb", ["a"])
    assert list(tmp_path.iterdir()) == []


def test_lineage_says_what_made_a_result(store: EmbeddingStore):
    a, b = randn(10, seed=1), randn(10, seed=2)
    store.put(a, Description("gothic", prompt="a castle at dusk"))
    style = Operation(
        "difference", (OperationInput("a", a), OperationInput("b", b, 0.5)), a - b, {"normalize": False, "scale": 2.0},
        duration_ms=3.0, peak_memory_bytes=1000, result_description=Description("style"), device="cpu", node="N",
    )  # fmt: skip
    store.record(style)
    store.record(Operation("arithmetic", (OperationInput("base", store.id_of("style")),), randn(10, seed=5)))
    steps = analytics.lineage(store, store.id_of("style"))
    assert [(s.role, s.weight, s.input) for s in steps] == [("a", None, "gothic"), ("b", 0.5, "#2")]
    assert steps[0].parameters == "normalize=false, scale=2.0"
    assert analytics.ancestors(store, 4) == [(1, 3), (2, 1), (2, 2)]
    figures = {m.operation_type: m for m in analytics.performance(store)}
    assert (figures["difference"].mean_ms, figures["difference"].mean_peak_memory_bytes) == (3.0, 1000)
    assert figures["arithmetic"].mean_ms is None


def test_analyses_and_similarities_are_kept(store: EmbeddingStore):
    store.put(randn(3, seed=1))
    store.put(randn(3, seed=2))
    analysis.save_analysis(store, 1, "statistics", {"mean": 0.5})
    analysis.save_analysis(store, 1, "statistics", {"mean": 0.25, "rank": [1, 2]})
    assert analysis.saved_analysis(store, 1, "statistics") == {"mean": 0.25, "rank": [1, 2]}
    assert analysis.saved_analysis(store, 2, "statistics") is None
    analysis.save_similarities(store, 1, [(2, 0.5)])
    analysis.save_similarities(store, 1, [(2, 0.75)])
    assert analysis.saved_similarities(store, 1) == [(2, 0.75)]


def test_a_store_in_memory_does_all_but_last(tmp_path):
    with EmbeddingStore(None) as store:
        store.put(WRAPPER, Description("a"))
        assert same_value(store.get("a").value, WRAPPER)
        assert not store.persistent
    assert list(tmp_path.iterdir()) == []


def test_a_store_in_memory_stays_small_keeps_the_newest_and_says_once_that_names_go(monkeypatch, caplog):
    monkeypatch.setattr("wanvideo_activation_editor.storage.store.MEMORY_ONLY_BYTES", 1 << 20)
    with EmbeddingStore(None) as store:
        for i in range(120):
            store.put(randn(60, 256, seed=i), Description(f"n{i}"))
        store.flush()
        names = store.names()
        assert 10 < len(names) < 60 and "n119" in names
        assert same_value(store.get("n119").value, randn(60, 256, seed=119))
    assert len([r for r in caplog.records if "in memory" in r.message and "'n0'" in r.message]) == 1


def test_queries_are_optimized_after_a_put(store: EmbeddingStore):
    store.put(randn(5, seed=0))
    store.flush()
    cursor = store.database.cursor()
    query = "EXPLAIN SELECT data FROM blobs_00000 WHERE content_hash = 'x'"
    optimized = cursor.execute(query).fetchall()
    cursor.execute("PRAGMA disable_optimizer")
    assert cursor.execute(query).fetchall() != optimized
    cursor.execute("PRAGMA enable_optimizer")
    store.put(randn(5, seed=1))
    store.flush()
    assert cursor.execute(query).fetchall() == optimized

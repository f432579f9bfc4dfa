"""What is put comes back, is found, and can be told what became of it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from wanvideo_activation_editor.storage import maintenance, reports
from wanvideo_activation_editor.storage.errors import StoreError, UnsupportedError
from wanvideo_activation_editor.storage.packing import pack
from wanvideo_activation_editor.storage.records import Description, EmbeddingKey, Operation, OperationInput
from wanvideo_activation_editor.storage.store import EmbeddingStore

from .helpers import randn, same_bits, same_value

VALUES = [
    randn(9),
    {"prompt_embeds": [randn(9), randn(4, seed=1)], "negative_prompt_embeds": [randn(2, seed=2)], "echoshot": False},
    [[randn(512, 8)[None], {"pooled_output": None, "guidance": 3.5}]],
    {"hidden": randn(7, dtype=torch.float16), "grid": (2, 3), "nested": {"a": [1, "x", None, randn(3)[0]]}},
    {"empty": torch.empty(0, 4), "scalar": torch.tensor(1.5)},
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_comes_back_as_it_was_in_this_session_and_the_next(path: Path, value):
    with EmbeddingStore(path) as store:
        store.put(value, Description(name="x", prompt="a fox", note="n", tags=("t",)), exact=True)
        assert same_value(store.get("x").value, value)
    with EmbeddingStore(path) as store:
        stored = store.get("x")
        assert same_value(stored.value, value)
        assert (stored.prompt, stored.note) == ("a fox", "n")
        assert store.names() == ["x"] and list(store.listings()[0].tags) == ["t"]


def test_objects_that_cannot_be_stored_are_left_out_of_dicts_and_refused_in_lists():
    packed = pack({"prompt_embeds": [randn(2)], "model": object()})
    assert packed.dropped == ("model",)
    with pytest.raises(UnsupportedError, match="cannot store an object of type object"):
        pack([randn(2), object()])
    for nothing in ({}, [], None, "text"):
        with pytest.raises(UnsupportedError, match="1 to"):
            pack(nothing)


def test_the_same_value_takes_no_space_and_keeps_its_id(store: EmbeddingStore):
    first = store.put(randn(50))
    assert store.put(randn(50), Description(name="fox")) == first
    assert store.put(randn(50)) == first == store.id_of("fox") == store.id_of_value(randn(50))
    assert store.id_of_value(randn(50, seed=9)) is None
    shared = store.put({"prompt_embeds": [randn(50)], "other": randn(3, seed=3)})
    assert shared != first
    assert store.database.read("SELECT count(*) FROM contents") == [(2,)]


def test_a_value_under_two_names_is_found_under_both_and_outlives_the_removal_of_one(store: EmbeddingStore):
    store.put(randn(5), Description(name="one"))
    store.put(randn(5), Description(name="two"))
    assert store.names() == ["one", "two"]
    maintenance.delete(store, "one", dry_run=False)
    assert store.names() == ["two"] and same_bits(store.get("two").value, randn(5))


def test_a_name_moves_to_what_is_stored_under_it_last(store: EmbeddingStore):
    old = store.put(randn(5), Description(name="fox"))
    new = store.put(randn(5, seed=1), Description(name="fox"))
    assert store.id_of("fox") == new != old
    assert same_bits(store.get("fox").value, randn(5, seed=1)) and same_bits(store.load(old).value, randn(5))


def test_a_cache_key_finds_what_was_stored_under_it_and_nothing_else(store: EmbeddingStore):
    key = EmbeddingKey("fox", "umt5", "bf16", details={"block": 3})
    others = [EmbeddingKey("fox ", "umt5", "bf16", details={"block": 3}), EmbeddingKey("fox", "umt5", "fp16"),
              EmbeddingKey("fox", "other", "bf16", details={"block": 3}),
              EmbeddingKey("fox", "umt5", "bf16", "fp8", details={"block": 3})]  # fmt: skip
    assert store.find(key) is None
    store.put(randn(5), Description(key=key))
    assert same_bits(store.find(key).value, randn(5))
    assert [store.find(other) for other in others] == [None] * 4
    store.put(randn(5, seed=1), Description(key=key))
    assert same_bits(store.find(key).value, randn(5, seed=1))
    with pytest.raises(UnsupportedError, match="key"):
        store.find(EmbeddingKey("fox", "umt5", "bf16", details={"blocks": {1: 2}}))


def test_a_description_that_is_none_is_refused_with_what_to_write(store: EmbeddingStore):
    for given, instead in (("castle", r"Description\(name='castle'\) is, got str"), ({"name": "castle"}, "got dict")):
        with pytest.raises(UnsupportedError, match=f"^description: expected a Description.*{instead}"):
            store.put(randn(2), given)
    assert store.listings() == []


def test_a_store_shows_its_path_and_whether_it_is_open(path: Path):
    with EmbeddingStore(path) as store:
        assert repr(store) == f"<EmbeddingStore {path}, open>"
    assert repr(store) == f"<EmbeddingStore {path}, closed>"


def test_what_is_not_stored_is_a_key_error_whatever_the_name(store: EmbeddingStore):
    for name in ("wolf", "", "a\ud800", "x" * 10_000):
        with pytest.raises(KeyError, match=r"No embedding is stored as .*names\(\) lists the names"):
            store.get(name)
    with pytest.raises(KeyError, match=r"No embedding has the id '7'.*listings\(\)"):
        store.load(7)
    assert store.id_of("\udfff") is None and store.id_of_prompt("\ud800") is None


@pytest.mark.parametrize("told", [
    {"name": ""}, {"name": "x" * 201}, {"name": "a\nb"}, {"name": "a\ud800"}, {"prompt": "x" * 20_001},
    {"note": "x" * 20_001}, {"note": "\udc00"}, {"tags": ["x" * 101]},
    {"tags": [f"t{i}" for i in range(51)]}, {"tags": ["\ud800"]}, {"name": 3},
    {"tags": "gothic"}, {"tags": 3},
])  # fmt: skip
def test_text_beyond_the_limits_is_refused_by_a_short_printable_message(told: dict):
    with pytest.raises(UnsupportedError) as caught:
        Description(**told)
    assert len(str(caught.value)) < 300 and str(caught.value).isprintable()


def test_lists_are_filtered_by_words_and_tag_and_a_search_is_bounded(store: EmbeddingStore):
    store.put(randn(3, seed=1), Description(name="Fox", prompt="a red animal", tags=("a", "b")))
    store.put(randn(3, seed=2), Description(name="owl", prompt="a grey animal", note="at night", tags=("b",)))
    store.put(randn(3, seed=3))

    def names(*args, **kwargs):
        return [e.name for e in store.listings(*args, **kwargs)]

    assert names("ANIMAL red") == ["Fox"] and names("night") == ["owl"] and names("animal day") == []
    assert names(tag="b") == ["Fox", "owl"] and names("grey", "a") == [] and names("") == ["Fox", "owl", None]
    assert names(named_only=True, order="name") == ["Fox", "owl"]
    store.get("Fox")
    store.flush_reads()
    assert names(order="recent", limit=1) == ["Fox"]
    for text in ("x" * 501, "a " * 17, "\ud800"):
        with pytest.raises(UnsupportedError, match="text"):
            store.listings(text)


def test_reads_are_counted_and_kept(path: Path):
    with EmbeddingStore(path) as store:
        store.put(randn(3), Description(name="fox"))
        for _ in range(3):
            store.get("fox")
    with EmbeddingStore(path) as store:
        assert store.listings()[0].reads == 3


def test_the_nearest_are_those_of_the_largest_cosine(store: EmbeddingStore):
    rows = {f"n{i}": randn(6, 32, seed=i) for i in range(40)}
    for name, tensor in rows.items():
        store.put(tensor, Description(name=name, tags=("even",) if int(name[1:]) % 2 == 0 else ()))
    query = randn(6, 32, seed=3)
    means = {name: tensor.float().mean(0) for name, tensor in rows.items()}
    cosines = {n: float(torch.cosine_similarity(means[n], query.float().mean(0), dim=0)) for n in rows if n != "n3"}
    expected = sorted(cosines, key=lambda n: -cosines[n])
    for _ in range(2):  # computed, then kept
        found = store.nearest(query, 5)
        assert [e.name for e, _ in found] == expected[:5]
        assert all(abs(score - cosines[e.name]) < 2e-3 for e, score in found)
    assert [e.name for e, _ in store.nearest(query, 3, tag="even")] == [n for n in expected if int(n[1:]) % 2 == 0][:3]
    maintenance.delete(store, expected[0], dry_run=False)
    assert [e.name for e, _ in store.nearest(query, 2)] == expected[1:3]
    store.put(query.float() * 2 + 0.001, Description(name="new"))
    assert store.nearest(query, 1)[0][0].name == "new"
    with pytest.raises(UnsupportedError, match="all zero"):
        store.nearest(torch.zeros(2, 8))
    assert store.nearest(randn(3, 16)) == []


def test_search_beyond_the_memory_for_vectors_gives_the_same(store: EmbeddingStore, monkeypatch):
    for i in range(60):
        store.put(randn(4, 16, seed=i), Description(name=f"n{i}"))
    query = randn(4, 16, seed=99)
    expected = [(e.name, round(s, 5)) for e, s in store.nearest(query, 7)]
    monkeypatch.setattr("wanvideo_activation_editor.storage.search.CACHED_BYTES", 4 * 16 * 20)
    monkeypatch.setattr("wanvideo_activation_editor.storage.search.CHUNK", 8)
    store.vectors.clear()
    for _ in range(2):
        assert [(e.name, round(s, 5)) for e, s in store.nearest(query, 7)] == expected


def test_an_operation_is_recorded_with_its_inputs_and_stays_when_one_is_removed(store: EmbeddingStore):
    a = store.put(randn(4, seed=1), Description(name="a", prompt="known"))
    inputs = [OperationInput("a", randn(4, seed=1)), OperationInput("b", randn(4, seed=2), -1.0)]
    told = Description(prompt="a minus b")
    store.record(Operation("difference", inputs, randn(4, seed=3), {"scale": 2.0}, 5.0, 100, told, "cpu", "Node"))
    rows = store.database.read(
        "SELECT result, role, weight, input, parameters, duration_ms FROM lineage ORDER BY position"
    )
    assert rows == [
        ("a minus b", "a", None, "a", "scale=2.0", 5.0),
        ("a minus b", "b", -1.0, rows[1][3], "scale=2.0", 5.0),
    ]
    result = store.id_of_prompt("a minus b")
    assert {d for (d,) in store.database.read("SELECT ancestor_id FROM ancestry WHERE result_id = ?", [result])} >= {a}
    assert store.database.read("SELECT operation_type, runs FROM operations_by_type") == [("difference", 1)]
    maintenance.delete(store, "a", dry_run=False)
    assert "(removed)" in store.database.read("SELECT input FROM lineage WHERE role = 'a'")[0][0]
    maintenance.remove(store, [e.embedding_id for e in store.listings()])
    assert store.database.read("SELECT count(*) FROM vector_operations") == [(0,)]


def test_a_report_is_kept_for_the_value_that_it_is_about(store: EmbeddingStore):
    store.put(randn(4))
    store.save_analysis(randn(4), "shape 1", "old")
    store.save_analysis(randn(4), "shape 1", "report")
    assert store.analysis(randn(4), "shape 1") == "report"
    assert store.analysis(randn(4), "pca 1") is None and store.analysis(randn(4, seed=1), "shape 1") is None


def test_reports_hold_the_figures_and_no_character_that_breaks_a_line(store: EmbeddingStore):
    assert "0 (0 named)" in reports.stats(store) and "No operations" in reports.performance(store)
    store.put(randn(4), Description(name="fox", prompt="p", note="a\nb"))
    store.put(randn(4, seed=1), Description(prompt="two\nlines \u202e"))
    store.record(Operation("add", duration_ms=3.0))
    assert "2 (1 named)" in reports.stats(store) and str(store.path) in reports.stats(store)
    assert len(reports.listing(store.listings()).splitlines()) == 4 and "\u202e" not in reports.listing(
        store.listings()
    )
    assert "3.00" in reports.performance(store)


def test_many_threads_read_and_write_at_once_and_see_whole_values(store: EmbeddingStore):
    def value(n: int) -> torch.Tensor:
        return torch.full((20, 512), float(n % 251)).bfloat16() + torch.arange(512).bfloat16()

    for n in range(20):
        store.put(value(n), Description(name=f"n{n}"))
    wrong, stop = [], threading.Event()

    def guarded(job, *args) -> None:
        try:
            job(*args)
        except Exception as error:
            wrong.append(repr(error))

    def read(seed: int) -> None:
        n = seed
        while not stop.is_set():
            n = (n * 7 + 3) % 20
            if not torch.equal(store.get(f"n{n}").value, value(n)):
                wrong.append(n)
            store.nearest(value(n), 2, tag="none")

    def write(seed: int) -> None:
        for i in range(15):
            store.put(value(100 + seed * 15 + i), Description(name=f"w{seed}-{i}"))
            if i == 7:
                maintenance.cleanup(store, 0, 1, dry_run=False)
        if seed == 0:
            store.database.compact()

    readers = [threading.Thread(target=guarded, args=(read, k)) for k in range(8)]
    writers = [threading.Thread(target=guarded, args=(write, k)) for k in range(4)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert wrong == [] and len(store.names()) == 80
    assert not maintenance.verify(store).damaged


def test_a_closed_store_says_so_and_closing_again_does_nothing(path: Path):
    store = EmbeddingStore(path)
    store.close()
    store.close()
    for action in (lambda: store.put(randn(2)), store.names, lambda: store.database.compact()):
        with pytest.raises(StoreError, match="is closed"):
            action()


def test_closing_a_store_again_leaves_one_that_was_opened_since(path: Path):
    first = EmbeddingStore(path)
    first.close()
    with EmbeddingStore(path) as second:
        first.close()
        second.put(randn(2), Description(name="fox"))
        assert second.names() == ["fox"]
        with pytest.raises(StoreError, match="is closed"):
            first.names()

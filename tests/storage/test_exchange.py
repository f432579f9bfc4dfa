"""Export and import: the same values again, readable by others, and files that are not what they seem."""

from __future__ import annotations

import contextlib
import json
import pickle
import tempfile
from pathlib import Path

import duckdb
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from wanvideo_activation_editor.storage import (
    Description,
    EmbeddingStore,
    Operation,
    OperationInput,
    StoreError,
    UnsupportedError,
    analytics,
    entries,
    exchange,
    journaled,
    pack,
    parquet,
)
from wanvideo_activation_editor.storage.exchange import KEY, export_safetensors, import_safetensors
from wanvideo_activation_editor.storage.maintenance import verify
from wanvideo_activation_editor.storage.parquet import export_operations, export_parquet, import_parquet
from wanvideo_activation_editor.storage.selection import list_embeddings

from .helpers import randn, same_value

VALUES = {
    "wrapper": {"prompt_embeds": [randn(5), randn(7, seed=2)], "negative_prompt_embeds": [randn(2)], "echoshot": False},
    "conditioning": [[torch.nn.functional.pad(randn(4)[None], (0, 0, 0, 9)), {"pooled_output": None}]],
    "half": randn(3, dtype=torch.float16),
    "negative zero": -torch.zeros(2, 3),
    "one": torch.tensor(1.5),
    "empty": torch.zeros(0, 4),
}


@pytest.fixture
def filled(store: EmbeddingStore) -> EmbeddingStore:
    for name, value in VALUES.items():
        store.put(value, Description(name, f"prompt of {name}", "blurry", tags=("t", "ü"), note="a note"))
    return store


EXCHANGES = {"safetensors": (export_safetensors, import_safetensors), "parquet": (export_parquet, import_parquet)}


@pytest.mark.parametrize("kind", EXCHANGES)
def test_what_is_exported_is_imported_bit_for_bit_with_its_description(filled: EmbeddingStore, tmp_path: Path, kind):
    export, load = EXCHANGES[kind]
    file = export(filled, list_embeddings(filled), tmp_path / f"shared.{kind}")
    with EmbeddingStore.open(tmp_path / "other.duckdb") as other:
        assert set(load(other, file).names) == set(VALUES)
        for name, value in VALUES.items():
            assert same_value(other.get(name).value, value)
        there, here = (list_embeddings(s, order="name") for s in (other, filled))
        for listing, original in zip(there, here, strict=True):
            for field in ("name", "prompt", "tags", "note", "kind", "form", "tokens", "dtype"):
                assert getattr(listing, field) == getattr(original, field)


@pytest.mark.parametrize("precision", ["half", "exact", "compact"])
@pytest.mark.parametrize("kind", EXCHANGES)
def test_an_import_is_stored_in_the_form_that_was_exported(store: EmbeddingStore, tmp_path: Path, kind, precision):
    export, load = EXCHANGES[kind]
    store.put(randn(9, dtype=torch.float32), Description("a"), precision)
    file = export(store, list_embeddings(store), tmp_path / f"shared.{kind}")
    with EmbeddingStore.open(tmp_path / "other.duckdb") as other:
        load(other, file)
        assert same_value(other.get("a").value, store.get("a").value)
        assert other.get("a").entry.parts == store.get("a").entry.parts
    assert load(store, file).ids == (1,)


@pytest.mark.parametrize("kind", EXCHANGES)
def test_an_import_that_fails_half_way_changes_nothing(filled: EmbeddingStore, tmp_path: Path, kind, monkeypatch):
    export, load = EXCHANGES[kind]
    file = export(filled, list_embeddings(filled), tmp_path / f"shared.{kind}")
    insert, calls = entries.insert, []

    def full_disk(*args):
        calls.append(insert(*args))
        if len(calls) == 4:
            raise duckdb.IOException("No space left on device")
        return calls[-1]

    with EmbeddingStore.open(tmp_path / "other.duckdb") as other:
        with monkeypatch.context() as patch:
            patch.setattr(journaled, "LARGE", -1)  # no journal
            patch.setattr(entries, "insert", full_disk)
            with pytest.raises(StoreError, match="disk is full"):
                load(other, file)
        figures = analytics.stats(other)
        assert (figures.embeddings, figures.tensors, other.names()) == (0, 0, [])
        assert set(load(other, file).names) == set(VALUES)
        assert not verify(other).damaged


@pytest.mark.parametrize("kind", EXCHANGES)
def test_a_file_with_more_than_may_be_imported_at_once_is_refused(
    filled: EmbeddingStore, store, tmp_path: Path, kind, monkeypatch
):
    export, load = EXCHANGES[kind]
    filled.put(randn(200, 64, dtype=torch.float32), Description("large"))
    file = export(filled, list_embeddings(filled), tmp_path / f"shared.{kind}")
    for limit in (40_000, 8 * exchange.MIN_COST):  # its values, its tensors
        for module in (exchange, parquet):
            monkeypatch.setattr(module, "MAX_TOTAL_BYTES", limit)
        with EmbeddingStore(None) as other:
            with pytest.raises(UnsupportedError, match=r"shared.*MB of values"):
                load(other, file)
            assert analytics.stats(other).embeddings == 0


def test_a_tensor_that_is_named_many_times_counts_each_time(store: EmbeddingStore, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(exchange, "MAX_TOTAL_BYTES", 1 << 20)
    file = tmp_path / "bomb.safetensors"
    save_file({"t": torch.zeros(100, 1000)}, file, metadata=described(*[{**GOOD, "name": f"n{i}"} for i in range(5)]))
    with pytest.raises(UnsupportedError, match="MB of values"):
        import_safetensors(store, file)
    twice = {**GOOD, "structure": '[{"$tensor":0},{"$tensor":0}]'}
    save_file({"t": randn(4)}, file, metadata=described(twice))
    with pytest.raises(UnsupportedError, match="each of its tensors once"):
        import_safetensors(store, file)


@pytest.mark.parametrize("kind", EXCHANGES)
def test_a_large_export_makes_files_that_can_be_imported(filled: EmbeddingStore, tmp_path: Path, kind):
    export, load = EXCHANGES[kind]
    groups = exchange.batches(list_embeddings(filled), 1000)
    assert len(groups) > 2 and [e for group in groups for e in group] == list_embeddings(filled)
    assert all(len(group) == 1 or sum(e.raw_bytes for e in group) <= 1000 for group in groups)
    with EmbeddingStore.open(tmp_path / "other.duckdb") as other:
        for i, group in enumerate(groups):
            load(other, export(filled, group, tmp_path / f"{i}.{kind}"))
        for name, value in VALUES.items():
            assert same_value(other.get(name).value, value)


@pytest.mark.parametrize("kind", EXCHANGES)
def test_tensors_whose_paths_read_alike_are_told_apart(store: EmbeddingStore, tmp_path: Path, kind):
    value = {"a/b": randn(2, seed=1), "a": {"b": randn(2, seed=2)}}
    store.put(value, Description("x"))
    export, load = EXCHANGES[kind]
    with EmbeddingStore(None) as other:
        load(other, export(store, list_embeddings(store), tmp_path / f"alike.{kind}"))
        assert same_value(other.get("x").value, value)


def test_a_file_whose_tensors_are_named_without_a_number_is_read(store: EmbeddingStore, tmp_path: Path):
    """As earlier versions wrote them."""
    value = VALUES["wrapper"]
    packed = pack(value)
    keys = [f"00000/{role}" for role in packed.roles]
    metadata = described({"name": "old", "structure": packed.structure, "tensors": keys})
    save_file(dict(zip(keys, packed.tensors, strict=True)), tmp_path / "old.safetensors", metadata=metadata)
    import_safetensors(store, tmp_path / "old.safetensors")
    assert same_value(store.get("old").value, value)


def test_an_export_with_much_text_makes_files_that_can_be_imported(store: EmbeddingStore, tmp_path: Path):
    for i in range(12):
        store.put(randn(2, seed=i), Description(f"n{i}", note="\u00fc" * 150_000))  # 6 characters each in JSON
    listed = list_embeddings(store)
    with pytest.raises(StoreError, match="export fewer"):
        export_safetensors(store, [*listed] * 2, tmp_path / "all.safetensors")
    groups = exchange.batches(listed, exchange.EXPORT_BYTES)
    assert len(groups) == 2
    with EmbeddingStore(None) as other:
        for i, group in enumerate(groups):
            import_safetensors(other, export_safetensors(store, group, tmp_path / f"{i}.safetensors"))
        assert len(other.names()) == 12


@pytest.mark.parametrize("kind", EXCHANGES)
def test_values_that_no_import_takes_are_named_at_export(store: EmbeddingStore, tmp_path: Path, kind, caplog):
    for i, value in enumerate((1.0, float("inf"))):
        store.put(torch.full((2, 4), value), Description(f"n{i}"))
    EXCHANGES[kind][0](store, list_embeddings(store), tmp_path / f"all.{kind}")
    assert [r.message for r in caplog.records if "cannot be imported" in r.message and "'n1'" in r.message]
    assert "'n0'" not in caplog.text


@pytest.mark.parametrize("kind", EXCHANGES)
def test_an_export_that_fails_leaves_no_file(filled: EmbeddingStore, tmp_path: Path, kind, monkeypatch):
    def full(*args):
        Path(args[0]).write_bytes(b"begun")
        raise OSError("No space left on device")

    monkeypatch.setattr(exchange.os, "replace", full)
    with pytest.raises(StoreError, match=r"shared.* could not be written: No space left"):
        EXCHANGES[kind][0](filled, list_embeddings(filled), tmp_path / "out" / f"shared.{kind}")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", EXCHANGES)
def test_any_path_is_a_path_and_no_pattern(filled: EmbeddingStore, store, tmp_path: Path, kind):
    export, load = EXCHANGES[kind]
    folder = tmp_path / "my [best] ones?"
    for name, file in (("half", "a*.x"), ("one", "ab.x")):
        export(filled, list_embeddings(filled, names=[name]), folder / file)
    assert load(filled, folder / "a*.x").names == ("half (2)",)


def test_names_of_a_file_become_names_that_can_be_used(store: EmbeddingStore, tmp_path: Path):
    names = {"two\nlines\t ": "two lines", "x" * 300: "x" * 200, "\r\n": None, " ": None, "夕日, 海": "夕日, 海"}
    save_file({"t": randn(4)}, tmp_path / "a.safetensors", metadata=described(*({**GOOD, "name": n} for n in names)))
    assert import_safetensors(store, tmp_path / "a.safetensors").names == tuple(n for n in names.values() if n)
    again = import_safetensors(store, tmp_path / "a.safetensors").names
    assert again[1] == "x" * 196 + " (2)"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=5) | st.sampled_from(["t", "u"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["$tensor", "$tuple", "tensors", "structure", "name", "tags", "kind", "x"]), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(embeddings=JSON, structure=JSON, tensors=JSON)
def test_metadata_of_any_kind_gives_an_embedding_or_the_error_of_an_import(embeddings, structure, tensors):
    crafted = {"structure": json.dumps(structure), "tensors": tensors}
    with tempfile.TemporaryDirectory() as folder, EmbeddingStore(None) as store:
        for given_embeddings in (embeddings, [crafted], [embeddings]):
            file = Path(folder) / "f.safetensors"
            metadata = {KEY: json.dumps({"format": 1, "embeddings": given_embeddings})}
            save_file({"t": randn(2), "u": torch.zeros(0, 2)}, file, metadata=metadata)
            with contextlib.suppress(UnsupportedError):
                assert import_safetensors(store, file).ids


def test_importing_again_numbers_the_names_or_moves_them(filled: EmbeddingStore, tmp_path: Path):
    file = export_safetensors(filled, list_embeddings(filled, names=["half"]), tmp_path / "a.safetensors")
    filled.put(randn(9), Description("half"))
    assert import_safetensors(filled, file).names == ("half (2)",)
    assert import_safetensors(filled, file).names == ("half (3)",)
    assert import_safetensors(filled, file, replace=True).names == ("half",)
    assert same_value(filled.get("half").value, VALUES["half"])
    assert analytics.stats(filled).embeddings == len(VALUES) + 1


def test_safetensors_files_are_plain_for_other_programs(filled: EmbeddingStore, tmp_path: Path):
    tensors = load_file(
        export_safetensors(filled, list_embeddings(filled, names=["wrapper"]), tmp_path / "a.safetensors")
    )
    assert [list(t.shape) for t in tensors.values()] == [[2, 64], [5, 64], [7, 64]] or len(tensors) == 3


def test_parquet_files_are_plain_for_other_engines(filled: EmbeddingStore, tmp_path: Path):
    file = export_parquet(filled, list_embeddings(filled, names=["wrapper"]), tmp_path / "a.parquet")
    rows = duckdb.read_parquet(str(file)).project('role, token, "values"').order("role, token").fetchall()
    assert len(rows) == 14 and len(rows[0][2]) == 64
    first = next(r for r in rows if r[0] == "prompt_embeds/0" and r[1] == 3)
    assert first[2] == randn(5)[3].float().tolist()


def test_operations_are_exported_with_what_went_in(filled: EmbeddingStore, tmp_path: Path):
    filled.record(Operation("difference", (OperationInput("a", 1, 0.5),), randn(3, seed=8), {"scale": 2.0}))
    file = export_operations(filled, tmp_path / "it's operations.parquet")
    with duckdb.connect() as connection:
        row = connection.read_parquet(str(file)).project("operation_type, role, weight, input, parameters").fetchall()
    assert row == [("difference", "a", 0.5, "wrapper", "scale=2.0")]


def test_wide_floats_are_refused_by_parquet_with_the_way_out(store: EmbeddingStore, tmp_path: Path):
    store.put(torch.full((2, 2), 1e300, dtype=torch.float64), Description("wide"), "exact")
    with pytest.raises(UnsupportedError, match="safetensors"):
        export_parquet(store, list_embeddings(store), tmp_path / "a.parquet")


def test_files_of_other_programs_give_their_floating_point_matrices(store: EmbeddingStore, tmp_path: Path):
    save_file(
        {"a": randn(4), "b": randn(5)[None], "ids": torch.arange(4), "bias": torch.ones(3)},
        tmp_path / "their.safetensors",
    )
    save_file({"x": randn(6)}, tmp_path / "single.safetensors")
    assert set(import_safetensors(store, tmp_path / "their.safetensors").names) == {"their/a", "their/b"}
    assert import_safetensors(store, tmp_path / "single.safetensors").names == ("single",)
    assert same_value(store.get("their/b").value, randn(5)[None])


def described(*embeddings: object, **extra: object) -> dict[str, str]:
    return {KEY: json.dumps({"format": 1, "embeddings": list(embeddings), **extra})}


GOOD = {"structure": '{"prompt_embeds":[{"$tensor":0}]}', "tensors": ["t"], "name": "ok"}
BAD_METADATA = {
    "not json": {KEY: "{"},
    "a list": {KEY: "[]"},
    "newer format": {KEY: json.dumps({"format": 99, "embeddings": [GOOD]})},
    "no embeddings": described(),
    "no tensors": described({**GOOD, "tensors": None}),
    "absent tensor": described({**GOOD, "tensors": ["other"]}),
    "index beyond": described({**GOOD, "structure": '{"a":{"$tensor":7}}'}),
    "index text": described({**GOOD, "structure": '{"a":{"$tensor":"0"}}'}),
    "structure not json": described({**GOOD, "structure": "import os"}),
    "structure without tensor": described({**GOOD, "structure": "{}"}),
    "deep": described({**GOOD, "structure": "[" * 400 + '{"$tensor":0}' + "]" * 400}),
    "a tensor twice": described({**GOOD, "structure": '[{"$tensor":0},{"$tensor":1}]', "tensors": ["t", "t"]}),
    "second is bad": described(GOOD, {"name": "x"}),
    "an embedding is text": described("x"),
}


@pytest.mark.parametrize("metadata", BAD_METADATA.values(), ids=BAD_METADATA)
def test_metadata_that_is_not_right_is_refused_and_nothing_is_stored(store: EmbeddingStore, tmp_path: Path, metadata):
    save_file({"t": randn(4)}, tmp_path / "bad.safetensors", metadata=metadata)
    with pytest.raises(UnsupportedError, match=r"bad\.safetensors"):
        import_safetensors(store, tmp_path / "bad.safetensors")
    assert analytics.stats(store).embeddings == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("metadata", [None, described(GOOD)], ids=["foreign", "own"])
def test_values_that_are_not_finite_are_refused(store: EmbeddingStore, tmp_path: Path, value, metadata):
    tensor = randn(4)
    tensor[1, 1] = value
    save_file({"t": tensor}, tmp_path / "bad.safetensors", metadata=metadata)
    with pytest.raises(UnsupportedError, match="NaN or infinite"):
        import_safetensors(store, tmp_path / "bad.safetensors")


def test_files_that_are_no_safetensors_are_refused(store: EmbeddingStore, tmp_path: Path):
    huge_header = (2**40).to_bytes(8, "little") + b"{}"
    for i, content in enumerate((b"", b"\0" * 100, pickle.dumps([1]), b"PK\x03\x04" + b"x" * 99, huge_header)):
        file = tmp_path / f"f{i}.safetensors"
        file.write_bytes(content)
        with pytest.raises(UnsupportedError, match="cannot be read"):
            import_safetensors(store, file)


def test_tensors_beyond_the_limit_are_refused_before_they_are_read(store: EmbeddingStore, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("wanvideo_activation_editor.storage.exchange.MAX_TENSOR_BYTES", 1000)
    save_file({"t": randn(40)}, tmp_path / "big.safetensors")
    with pytest.raises(UnsupportedError, match="beyond"):
        import_safetensors(store, tmp_path / "big.safetensors")


def test_parquet_files_that_are_not_right_are_refused(filled: EmbeddingStore, store, tmp_path: Path):
    good = export_parquet(filled, list_embeddings(filled, names=["wrapper"]), tmp_path / "good.parquet")
    count = analytics.stats(filled).embeddings
    changes = {
        "fewer columns": "SELECT embedding FROM g",
        "a row missing": "SELECT * FROM g WHERE NOT (tensor = 0 AND token = 2)",
        "a tensor missing": "SELECT * FROM g WHERE tensor <> 1",
        "ragged": 'SELECT * REPLACE (CASE WHEN token = 1 THEN "values"[:3] ELSE "values" END AS "values") FROM g',
        "other shape": "SELECT * REPLACE ([9::BIGINT, 64] AS shape) FROM g",
        "other dtype": "SELECT * REPLACE ('int64' AS dtype) FROM g",
        "not finite": 'SELECT * REPLACE (list_transform("values", lambda v: \'nan\'::FLOAT) AS "values") FROM g',
        "structure": "SELECT * REPLACE ('{}' AS structure) FROM g",
        "a null element": 'SELECT * REPLACE (list_transform("values", lambda v, i: CASE WHEN i = 3 THEN NULL ELSE v '
        'END) AS "values") FROM g',
        "a null row": 'SELECT * REPLACE (CASE WHEN token = 1 THEN NULL ELSE "values" END AS "values") FROM g',
        "a token twice": "SELECT * REPLACE (CASE WHEN token = 1 THEN 0 ELSE token END AS token) FROM g",
        "a token twice inside": "SELECT * REPLACE (CASE WHEN token = 2 THEN 1 ELSE token END AS token) FROM g",
        "null numbers": "SELECT * REPLACE (NULL::INTEGER AS embedding) FROM g",
        "null tensor": "SELECT * REPLACE (NULL::INTEGER AS tensor) FROM g",
        "null shape": "SELECT * REPLACE ([NULL, 64]::BIGINT[] AS shape) FROM g",
        "no shape": "SELECT * REPLACE (NULL::BIGINT[] AS shape) FROM g",
        "negative shape": "SELECT * REPLACE ([-5, -64]::BIGINT[] AS shape) FROM g",
        "null description": "SELECT * REPLACE (NULL::VARCHAR AS description) FROM g",
        "description": "SELECT * REPLACE ('[' AS description) FROM g",
        "values beyond the dtype": "SELECT * REPLACE ('float16' AS dtype, list_transform(\"values\", lambda v: "
        '1e30::FLOAT) AS "values") FROM g',
        "nothing": "SELECT * FROM g LIMIT 0",
    }
    for name, query in changes.items():
        bad = tmp_path / f"{name}.parquet"
        with duckdb.connect() as connection:
            connection.read_parquet(str(good)).create_view("g")
            connection.sql(query).write_parquet(str(bad))
        with pytest.raises(UnsupportedError, match=name):
            import_parquet(store, bad)
    (tmp_path / "text.parquet").write_text("PAR1 no")
    with pytest.raises(UnsupportedError, match="cannot be read"):
        import_parquet(store, tmp_path / "text.parquet")
    assert analytics.stats(filled).embeddings == count

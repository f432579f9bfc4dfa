"""Files that people exchange: exports come back; what is crafted, changed or no prompt is refused or named."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from wanvideo_activation_editor.storage import exchange, maintenance
from wanvideo_activation_editor.storage.errors import StoreError, UnsupportedError
from wanvideo_activation_editor.storage.records import Description, Operation
from wanvideo_activation_editor.storage.store import EmbeddingStore

from .helpers import randn, same_bits, same_value

VALUE = {"prompt_embeds": [randn(9), randn(4, seed=1)], "negative_prompt_embeds": [randn(2, seed=2)], "echoshot": False}


def exported(store: EmbeddingStore, path: Path) -> Path:
    assert exchange.export_safetensors(store, store.listings(), lambda: path).files == (path,)
    return path


@pytest.fixture
def file(store: EmbeddingStore, tmp_path: Path) -> Path:
    store.put(VALUE, Description("fox", "a fox", "blurry", tags=("a", "b"), note="n"))
    store.put([[randn(5, dtype=torch.float32)[None], {"pooled_output": None}]], Description("owl"))
    return exported(store, tmp_path / "shared.safetensors")


def changed(path: Path, change) -> Path:
    """The file with its description changed by `change`, which may also change the tensors."""
    with safe_open(str(path), "pt") as opened:
        content = json.loads(opened.metadata()[exchange.KEY])
    tensors = load_file(str(path))
    content = change(content, tensors) or content
    text = content if isinstance(content, str) else json.dumps(content)
    save_file(tensors, str(path), metadata={exchange.KEY: text})
    return path


def test_what_is_exported_comes_back_bit_for_bit_with_all_that_describes_it(store, file, tmp_path: Path):
    expected = {name: store.get(name).value for name in store.names()}
    with EmbeddingStore(tmp_path / "other.duckdb") as other:
        assert exchange.import_safetensors(other, file).names == ("fox", "owl")
        assert all(same_value(other.get(name).value, value) for name, value in expected.items())
        fox = other.listings(names=["fox"])[0]
        assert (fox.prompt, fox.note, list(fox.tags)) == ("a fox", "n", ["a", "b"])
        again = exported(other, tmp_path / "again.safetensors")
        assert load_file(str(again)).keys() == load_file(str(file)).keys()


def test_names_in_use_get_a_number_or_move(store, file):
    store.put(randn(3, seed=7), Description("fox"))
    for _ in range(2):
        assert exchange.import_safetensors(store, file).names == ("fox (2)", "owl"), "an owl is an owl"
    assert sorted(store.names()) == ["fox", "fox (2)", "owl"]
    assert same_bits(store.get("fox").value, randn(3, seed=7))
    exchange.import_safetensors(store, file, replacing=True)
    assert same_value(store.get("fox").value, VALUE)


def test_an_import_can_be_interrupted_before_anything_is_stored(store, file):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    maintenance.remove(store, [e.embedding_id for e in store.listings()])
    with pytest.raises(KeyboardInterrupt):
        exchange.import_safetensors(store, file, progress=stop)
    assert store.listings() == []


def drop_key(name):
    return lambda content, tensors: content["embeddings"][0].pop(name) and None


def structure(text):
    return lambda content, tensors: content["embeddings"][0].update(structure=text)


def first_tensor(change):
    def job(content, tensors):
        key = content["embeddings"][0]["tensors"][0]
        tensors[key] = change(tensors[key])

    return job


@pytest.mark.parametrize("change", [
    lambda c, t: "not JSON", lambda c, t: "[]", lambda c, t: {**c, "format": 99}, lambda c, t: {**c, "embeddings": []},
    lambda c, t: {**c, "embeddings": "text"}, lambda c, t: {**c, "embeddings": [None]}, lambda c, t: "[" * 100_000,
    lambda c, t: c["embeddings"][0].update(tensors=["absent"]),
    lambda c, t: c["embeddings"][0].update(tensors=c["embeddings"][0]["tensors"][:1] * 3),
    lambda c, t: c["embeddings"][1].update(tensors=c["embeddings"][0]["tensors"]),
    lambda c, t: c["embeddings"][0].update(prompt="another"), lambda c, t: c.pop("sha256") and None,
    drop_key("tensors"), drop_key("structure"), structure(3), structure('{"$tensor": 99}'), structure('{"$tensor": 0}'),
    structure("[" * 200 + "]" * 200), first_tensor(lambda t: t + 1), first_tensor(lambda t: t * torch.inf),
    first_tensor(lambda t: t[:1].clone()),
])  # fmt: skip
def test_a_crafted_or_changed_file_is_refused_and_nothing_is_stored(store, file, change):
    before = store.names()
    changed(file, change)
    with pytest.raises(UnsupportedError, match="shared") as caught:
        exchange.import_safetensors(store, file, replacing=True)
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()
    assert store.names() == before


def test_files_that_are_no_safetensors_are_refused(store, tmp_path: Path):
    path = tmp_path / "x.safetensors"
    for content in (b"", b"\x80\x04pickle", b"\xff" * 100, (1 << 40).to_bytes(8, "little") + b"{}"):
        path.write_bytes(content)
        with pytest.raises(UnsupportedError, match="cannot be read"):
            exchange.import_safetensors(store, path)


def test_foreign_tensors_that_can_be_a_prompt_are_taken_and_the_others_named(store, tmp_path: Path):
    path = tmp_path / "castle.safetensors"
    tensors = {
        "prompt": randn(20, 4096), "batch": randn(7, 5120, seed=1)[None], "mask": torch.ones(64, 64),
        "latent": randn(16, 60),
        "lora.down": randn(600, 4096, seed=2), "blocks.0.ffn.lora_A": randn(16, 5120),
        "head.weight": randn(16, 1536), "ids": torch.ones(3, 4096, dtype=torch.int64),
    }  # fmt: skip
    save_file(tensors, str(path), metadata={"caption": "a castle"})
    found = exchange.import_safetensors(store, path)
    assert set(found.names) == {"castle/prompt", "castle/batch"}
    assert {text.split()[0] for text in found.left_out} == {*tensors} - {"prompt", "batch"}
    assert same_bits(store.get("castle/prompt").value, tensors["prompt"])
    assert store.get("castle/prompt").prompt == "a castle"
    save_file({"up": randn(3, 8), "down": randn(8, 3)}, str(path))
    with pytest.raises(UnsupportedError, match="no tensor can be a Wan prompt"):
        exchange.import_safetensors(store, path)


def test_thousands_of_tiny_tensors_are_refused(store, tmp_path: Path):
    path = tmp_path / "many.safetensors"
    save_file({f"{i}": torch.zeros(1) for i in range(exchange.MAX_FILE_TENSORS + 1)}, str(path))
    with pytest.raises(UnsupportedError, match="at most"):
        exchange.import_safetensors(store, path)


def test_text_of_a_file_is_cut_to_the_stores_limits(store, file):
    def change(content, tensors):
        content["embeddings"][0].update(name="x\n" + "y" * 500, prompt="p" * 50_000, tags=["t" * 500] * 3 + [3], note=5)
        content.pop("sha256")
        told = {**content, "sha256": exchange._checksum(content, tensors.__getitem__)}
        return told

    name = exchange.import_safetensors(store, changed(file, change)).names[0]
    found = store.listings(names=[name])[0]
    assert len(name) == 200 and "\n" not in name
    assert len(found.prompt) == 20_000 and len(found.tags[0]) == 100 and found.note == ""


def test_an_export_that_fails_leaves_no_file(store, file, tmp_path: Path):
    (tmp_path / "taken").write_text("")
    with pytest.raises((StoreError, OSError)):
        exchange.export_safetensors(store, store.listings(), lambda: tmp_path / "taken" / "x.safetensors")
    assert not list(tmp_path.rglob("*.part"))


def test_views_are_exported_as_parquet(store, file, tmp_path: Path):
    store.record(Operation("add", parameters={"scale": 2}))
    for view, count in (("listing", 2), ("lineage", 1), ("operations_by_type", 1)):
        path = exchange.export_table(store, view, tmp_path / "tables" / f"{view}.parquet")
        assert duckdb.sql(f"SELECT count(*) FROM '{path}'").fetchall() == [(count,)]
    assert not list(store.path.parent.glob("*.export*"))

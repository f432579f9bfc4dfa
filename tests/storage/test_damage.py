"""Damaged, cut and foreign files: told, left in place, and never returned as data."""

from __future__ import annotations

import logging
import os
import random
import shutil
from pathlib import Path

import duckdb
import pytest
import torch
from wanvideo_activation_editor.storage import exchange, maintenance
from wanvideo_activation_editor.storage.codec import encode
from wanvideo_activation_editor.storage.errors import DamagedError, StoreError, UnsupportedError
from wanvideo_activation_editor.storage.records import Description
from wanvideo_activation_editor.storage.store import EmbeddingStore

from .helpers import finish, python, randn, same_bits


def killed(path: Path, count: int) -> None:
    """A store whose process ended after `count` puts without closing it, so that all is in the log."""
    script = f"""
import os, sys, torch
from wanvideo_activation_editor.storage.records import Description
from wanvideo_activation_editor.storage.store import EmbeddingStore
store = EmbeddingStore(sys.argv[1])
for i in range({count}):
    store.put(torch.full((20, 64), float(i)).bfloat16(), Description(f"n{{i}}"))
print("done", flush=True)
os.kill(os.getpid(), 9)
"""
    process = python(script, str(path))
    assert process.communicate()[0].strip() == "done"


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7, 0.99])
def test_puts_that_a_cut_log_has_lost_are_told(path: Path, caplog, kept: float):
    killed(path, 20)
    log = path.with_name(path.name + ".wal")
    os.truncate(log, int(log.stat().st_size * kept))
    caplog.set_level(logging.WARNING)
    try:
        store = EmbeddingStore(path)
    except DamagedError as error:
        assert ".wal" in str(error) and "move" in str(error)
        return
    with store:
        missing = 20 - len(store.names())
        assert missing > 0 and "the last changes are missing" in caplog.text
        assert all(
            torch.equal(store.get(n).value, torch.full((20, 64), float(n[1:])).bfloat16()) for n in store.names()
        )
    caplog.clear()
    EmbeddingStore(path).close()
    assert "missing" not in caplog.text  # said once


def test_a_change_that_a_cut_log_has_lost_is_told(path: Path, caplog):
    """Not only of new embeddings: a name for one that is there, a rename, a deletion."""
    with EmbeddingStore(path) as store:
        store.put(torch.ones(20, 64).bfloat16())
    script = """
import os, sys, torch
from wanvideo_activation_editor.storage.records import Description
from wanvideo_activation_editor.storage.store import EmbeddingStore
EmbeddingStore(sys.argv[1]).put(torch.ones(20, 64).bfloat16(), Description("castle"))
os._exit(0)
"""
    finish(python(script, str(path)))
    os.truncate(path.with_name(path.name + ".wal"), 0)
    caplog.set_level(logging.WARNING)
    with EmbeddingStore(path) as store:
        assert store.names() == [] and "the last changes are missing" in caplog.text


def test_what_verify_calls_whole_can_be_loaded_and_else_it_names_damage(tmp_path: Path):
    """One flipped bit in a small store, at many places."""
    source = tmp_path / "source.duckdb"
    with EmbeddingStore(source) as store:
        for i in range(12):
            store.put(torch.full((20, 64), float(i)).bfloat16(), Description(f"n{i}"))
    raw, outcomes = source.read_bytes(), {"whole": 0, "damaged": 0, "refused": 0}
    for place in range(5000, len(raw), 40_000):
        path = tmp_path / f"{place}.duckdb"
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        try:
            store = EmbeddingStore(path)
        except StoreError:
            outcomes["refused"] += 1
            continue
        with store:
            found = maintenance.verify(store)
            outcomes["damaged" if found.damaged else "whole"] += 1
            if not found.damaged:
                assert all(torch.equal(store.get(f"n{i}").value, torch.full((20, 64), float(i)).bfloat16())
                           for i in range(12))  # fmt: skip
    assert outcomes["damaged"] > 5, outcomes


def test_every_damage_of_log_or_file_is_told_and_never_returned_as_data(tmp_path: Path, caplog):
    """Flipped bits and swapped pages in copies of one store: what can be read is right, what is missing is told."""
    source = tmp_path / "source.duckdb"
    killed(source, 12)
    chance, outcomes = random.Random(11), {"whole": 0, "told": 0, "refused": 0}
    for trial in range(40):
        path = tmp_path / f"{trial}.duckdb"
        for suffix in ("", ".wal", ".last"):
            shutil.copy(f"{source}{suffix}", f"{path}{suffix}")
        if trial % 2:  # the log goes into the file
            EmbeddingStore(path).close()
        target = path if trial % 2 else path.with_name(path.name + ".wal")
        data = bytearray(target.read_bytes())
        if trial % 4 < 2:
            for _ in range(3):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        else:
            pages = len(data) // 4096
            a, b = (chance.randrange(pages) * 4096 for _ in range(2))
            data[a : a + 4096], data[b : b + 4096] = data[b : b + 4096], data[a : a + 4096]
        target.write_bytes(data)
        caplog.clear()
        try:
            store = EmbeddingStore(path)
        except StoreError as error:
            assert str(path) in str(error) and path.exists()
            outcomes["refused"] += 1
            continue
        with store:
            told = "missing" in caplog.text
            try:
                found = store.names()
                told = told or bool(maintenance.verify(store).damaged)
                for n in found:
                    value = store.get(n).value
                    assert torch.equal(value, torch.full((20, 64), float(n[1:])).bfloat16())
                assert told or len(found) == 12
            except StoreError:
                told = True
            outcomes["told" if told else "whole"] += 1
        assert path.exists()
    assert outcomes["whole"] < 40, outcomes


def test_a_damaged_tensor_is_found_left_out_of_exports_and_replaced_by_storing_it_again(path: Path, tmp_path: Path):
    def value(i: int) -> torch.Tensor:
        return randn(300, 1024, seed=i)

    with EmbeddingStore(path) as store:
        for i in range(40):
            store.put(value(i), Description(f"n{i}"))
    data = bytearray(path.read_bytes())
    data[data.index(encode(value(3)).data[8000:8100])] ^= 1
    path.write_bytes(data)
    with EmbeddingStore(path) as store:
        damaged = maintenance.verify(store).damaged
        assert any("n3" in labels for labels, _ in damaged)
        with pytest.raises(StoreError, match="damaged"):
            store.get("n3")
        result = exchange.export_safetensors(store, store.listings(), lambda: tmp_path / "out.safetensors")
        lost = {label for label, _ in result.left_out}
        assert "n3" in lost and len(lost) == len(damaged) <= 24  # DuckDB reads a row group, 8 MB, at once
        for name in lost:
            store.put(value(int(name[1:])), Description(name))
        assert not maintenance.verify(store).damaged
        assert all(same_bits(store.get(f"n{i}").value, value(i)) for i in range(40))
    with EmbeddingStore(path) as store:
        assert not maintenance.verify(store).damaged


def test_a_file_that_was_cut_off_is_refused_with_a_true_message_and_left_in_place(path: Path):
    with EmbeddingStore(path) as store:
        for i in range(6):
            store.put(randn(300, 1024, seed=i), Description(f"n{i}"))
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StoreError, match=r"cut off|damaged"), EmbeddingStore(path) as store:
        for i in range(6):
            store.get(f"n{i}")
    assert path.exists() and len(list(path.parent.iterdir())) <= 3


def test_files_that_are_no_store_or_a_newer_one_are_named_and_left_as_they_are(path: Path):
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match=r"damaged|valid"):
        EmbeddingStore(path)
    assert path.read_bytes() == b"not a database" * 1000
    path.unlink()
    duckdb.connect(str(path)).execute("CREATE TABLE other(i INT)").close()
    with pytest.raises(UnsupportedError, match="no embedding store"):
        EmbeddingStore(path)
    path.unlink()
    EmbeddingStore(path).close()
    duckdb.connect(str(path)).execute("UPDATE meta SET value = '99' WHERE key = 'format'").close()
    with pytest.raises(UnsupportedError, match="another version of the pack \\(format 99"):
        EmbeddingStore(path)


def test_a_foreign_file_cannot_read_this_machines_files_through_its_views(path: Path, tmp_path: Path):
    secret = tmp_path.parent / f"{tmp_path.name}-secret.csv"
    secret.write_text("password\n")
    EmbeddingStore(path).close()
    other = duckdb.connect(str(path))
    other.execute("DROP VIEW operations_by_type")
    other.execute(f"CREATE VIEW operations_by_type AS SELECT * FROM read_csv('{secret}')").close()
    with EmbeddingStore(path) as store:
        for query in ("SELECT * FROM operations_by_type", f"SELECT * FROM read_text('{secret}')"):
            with pytest.raises(StoreError, match="disabled by configuration"):
                store.database.read(query)

"""Bytes changed in the file, in its log, and in place of the file: found, reported, set aside, never data."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import duckdb
import pytest
import torch
from wanvideo_activation_editor.storage import DamagedError, Description, EmbeddingStore, StoreError, database
from wanvideo_activation_editor.storage.compaction import compact
from wanvideo_activation_editor.storage.journal import journal_file
from wanvideo_activation_editor.storage.maintenance import verify

from .helpers import finish, python, randn, same_bits

COUNT = 24


def filled(path: Path) -> None:
    with EmbeddingStore.open(path) as store:
        for i in range(COUNT):
            store.put(randn(80, 512, seed=i), Description(f"n{i}"))


def flipped(source: Path, target: Path, position: int, mask: int = 0xFF) -> None:
    shutil.copy(source, target)
    with target.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ mask]))


READ_ALL = """
import sys, torch
from wanvideo_activation_editor.storage import DamagedError, EmbeddingStore, StoreError
def randn(seed): return (torch.randn(80, 512, generator=torch.Generator().manual_seed(seed)) * 0.1).bfloat16()
for path in sys.argv[1:]:
    try:
        store = EmbeddingStore.open(path)
    except StoreError as error:
        print("unopened"); continue
    names = store.names()
    right = damaged = wrong = 0
    for name in names:
        try:
            same = torch.equal(store.get(name).value, randn(int(name[1:])))
        except StoreError:
            damaged += 1
        else:
            right, wrong = right + same, wrong + (not same)
    print(len(names), right, damaged, wrong)
    store.close()
"""


def test_a_flipped_byte_anywhere_in_the_file_never_becomes_data(tmp_path: Path):
    """Some 50 positions over the whole file, and every header. In processes of their own: DuckDB may end them."""
    source = tmp_path / "source.duckdb"
    filled(source)
    size = source.stat().st_size
    positions = sorted({0, 8, 100, 4096, 4100, 8192, 8200, 12288, 12300, *range(500, size, size // 48)})
    outcomes = []
    for start in range(0, len(positions), 30):
        paths = []
        for position in positions[start : start + 30]:
            paths.append(tmp_path / f"at{position}.duckdb")
            flipped(source, paths[-1], position)
        lines = finish(python(READ_ALL, *map(str, paths)), 120).splitlines()
        assert len(lines) == len(paths)
        outcomes += lines
        for path in paths:
            if path.exists():
                path.unlink()
    complete = 0
    for line in outcomes:
        if line == "unopened":
            continue
        names, right, damaged, wrong = map(int, line.split())
        assert wrong == 0
        assert right + damaged == names
        complete += names == COUNT and right < COUNT
    assert complete > 20  # most positions are in blobs, and are found


def blob_position(path: Path) -> int:
    """Somewhere inside a stored blob; the first blocks hold DuckDB's own metadata."""
    return path.read_bytes().index(b"WAES", 1 << 18) + 2000


def test_a_damaged_blob_is_reported_and_the_rest_stays_usable(path: Path):
    filled(path)
    with path.open("r+b") as file:
        file.seek(blob_position(path))
        file.write(b"\xde\xad\xbe\xef")
    with EmbeddingStore.open(path) as store:
        result = verify(store)
        names = {name for d in result.damaged for name in d.embeddings}
        assert names and result.whole + len(result.damaged) == COUNT and result.whole > 0
        for name in names:
            with pytest.raises(DamagedError):
                store.get(name)
        good = next(n for n in store.names() if n not in names)
        assert same_bits(store.get(good).value, randn(80, 512, seed=int(good[1:])))
        with pytest.raises(StoreError, match="left as it is"):
            compact(store)
        for name in names:  # storing it again mends it
            store.put(randn(80, 512, seed=int(name[1:])))
        assert not verify(store).damaged
        for name in names:
            assert same_bits(store.get(name).value, randn(80, 512, seed=int(name[1:])))
    with EmbeddingStore.open(path) as store:
        assert not verify(store).damaged


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 50_000, b"SQLite format 3\0" + b"x" * 5000], ids=["empty", "zeros", "other"]
)
def test_a_file_that_is_no_store_is_set_aside_with_its_bytes(path: Path, content: bytes, caplog):
    path.write_bytes(content)
    with EmbeddingStore.open(path) as store:
        store.put(randn(3), Description("a"))
    aside = list(path.parent.glob("store.duckdb.damaged-*"))
    assert [a.read_bytes() for a in aside] == [content]
    assert "set aside" in caplog.text


def test_a_file_cut_in_half_does_not_return_wrong_data(path: Path):
    filled(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    names, right, damaged, wrong = 0, 0, 0, 0
    for line in finish(python(READ_ALL, str(path))).splitlines():
        if line != "unopened":
            names, right, damaged, wrong = map(int, line.split())
    assert wrong == 0 and right + damaged == names


LEAVE_LOG = """
import os, sys, torch
from wanvideo_activation_editor.storage import Description, EmbeddingStore
store = EmbeddingStore.open(sys.argv[1])
for i in range(8):
    store.put(torch.randn(50, 256), Description(f"n{i}"))
    store.flush()
os._exit(1)
"""


def with_log(path: Path) -> Path:
    process = python(LEAVE_LOG, str(path))
    process.communicate()
    log = path.with_name(path.name + ".wal")
    assert log.stat().st_size > 100_000
    return log


def test_a_torn_end_of_the_log_loses_the_last_puts_only(path: Path):
    log = with_log(path)
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 1000)
    journal = journal_file(path)
    content = journal.read_bytes()
    journal.unlink()
    for kept in (False, True):  # with the journal, what the log has lost is put again
        copy = path.with_name(f"{kept}.duckdb")
        shutil.copy(path, copy)
        shutil.copy(log, copy.with_name(copy.name + ".wal"))
        if kept:
            journal_file(copy).write_bytes(content)
        with EmbeddingStore.open(copy) as store:
            assert set(store.names()) in ({f"n{i}" for i in range(n)} for n in ((8,) if kept else (6, 7)))
            assert not verify(store).damaged


def test_a_damaged_log_is_set_aside_and_the_store_goes_on(path: Path, caplog):
    log = with_log(path)
    flipped(log, log.with_suffix(".new"), log.stat().st_size // 2)
    log.with_suffix(".new").replace(log)
    content = log.read_bytes()
    caplog.set_level(logging.ERROR)
    with EmbeddingStore.open(path) as store:
        assert store.persistent
        store.put(randn(3), Description("after"))
        assert not verify(store).damaged
    aside = list(path.parent.glob("*.wal.damaged-*"))
    assert aside and aside[0].read_bytes() == content
    assert "set aside" in caplog.text


def test_a_blob_under_the_wrong_hash_is_found(store: EmbeddingStore):
    for i in range(2):
        store.put(randn(80, 512, seed=i), Description(f"n{i}"))

    def swap(cursor) -> None:
        (a, x), (b, y) = cursor.execute("SELECT content_hash, data FROM blobs_00000").fetchall()
        for key, data in ((a, y), (b, x)):
            cursor.execute("UPDATE blobs_00000 SET data = ? WHERE content_hash = ?", [data, key])

    store.write(swap)
    problems = verify(store).damaged
    assert len(problems) == 2 and "hash" in problems[0].problem
    assert isinstance(store.get("n0").value, torch.Tensor)  # whole bytes of the right form: only verify hashes them


def test_a_missing_blob_is_found(store: EmbeddingStore):
    store.put(randn(8), Description("a"))
    store.write(lambda cursor: cursor.execute("DELETE FROM blobs_00000"))
    assert [d.embeddings for d in verify(store).damaged] == [("a",)]
    with pytest.raises(DamagedError, match="missing"):
        store.get("a")


def test_an_intact_log_that_cannot_be_replayed_is_left_alone(path: Path, monkeypatch):
    """Too little memory for the replay: an error, and every put is there once there is enough."""
    path = path.parent / "Corrupt WAL checksum Data Corruption" / path.name
    path.parent.mkdir()
    log = with_log(path)
    content = log.read_bytes()
    copy = path.parent / "copy.duckdb"
    shutil.copy(path, copy)
    shutil.copy(log, copy.with_name(copy.name + ".wal"))
    with EmbeddingStore.open(copy) as store:
        names = store.names()
    monkeypatch.setattr(database, "LARGE_MEMORY_LIMIT", "1MB")
    with pytest.raises(StoreError, match="cannot be opened"):
        EmbeddingStore.open(path)
    assert log.read_bytes() == content
    assert not list(path.parent.glob("*.damaged-*"))
    monkeypatch.undo()
    with EmbeddingStore.open(path) as store:
        assert store.names() == names


def test_a_file_of_a_newer_duckdb_is_left_alone_and_says_what_to_do(path, monkeypatch):
    """The text is what DuckDB 1.5.6 says of a file of 2.0.0."""
    with EmbeddingStore.open(path) as store:
        store.put(randn(3), Description("a"))
    before = path.read_bytes()

    def refuse(path):
        raise duckdb.IOException(
            "IO Error: Trying to read a database file with version number 69, but we can only read versions between 64 "
            "and 68."
        )

    with monkeypatch.context() as patch:
        patch.setattr(database, "_plain_connect", refuse)
        with pytest.raises(StoreError, match="update the package duckdb"):
            EmbeddingStore.open(path)
    assert path.read_bytes() == before
    with EmbeddingStore.open(path) as store:
        assert store.get("a")

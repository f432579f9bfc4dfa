"""The journal: puts that are durable before they are in the database."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import struct
import sys
import threading
import time
import zlib
from pathlib import Path

import duckdb
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
    entries,
    journal,
    journaled,
    schema,
    writer,
)
from wanvideo_activation_editor.storage.maintenance import forget_name, remove, verify
from wanvideo_activation_editor.storage.selection import list_embeddings, nearest

from .helpers import python, randn, same_bits, same_value

COUNT = 6
KEY = EmbeddingKey("fox", "umt5-xxl", "bf16", details={"block": 3, "sigma": [0.5, 1.0]})
SETUP = """
import os, sys, torch
from wanvideo_activation_editor.storage import Description, EmbeddingKey, EmbeddingStore, journal
from wanvideo_activation_editor.storage.maintenance import remove
def randn(rows, seed): return (torch.randn(rows, 64, generator=torch.Generator().manual_seed(seed)) * 0.1).bfloat16()
store = EmbeddingStore.open(sys.argv[1])
store._keep_house = lambda: None  # nothing comes between
"""
PUTS = f"for i in range({COUNT}): store.put(randn(50 + i, i), Description(f'n{{i}}'))\n"


def left(path: Path, script: str) -> Path:
    """Run a process that ends at once, as if it were killed; the journal that it leaves."""
    process = python(SETUP + script + "os._exit(3)\n", str(path))
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 3, errors[-2000:]
    return journal.journal_file(path)


def expected(i: int) -> torch.Tensor:
    return randn(50 + i, seed=i)


def names_of(path: Path) -> set[str]:
    """Names in the store, each checked to lead to its value, all listed and nothing damaged."""
    with EmbeddingStore.open(path) as store:
        names = set(store.names())
        for name in names:
            assert same_bits(store.get(name).value, expected(int(name[1:])))
        assert sorted(line.name for line in list_embeddings(store)) == sorted(names)
        assert not verify(store).damaged
    assert not journal.journal_file(path).exists()
    return names


def places(content: bytes) -> list[tuple[int, int, int]]:
    """Start of each record, of its body, and its end."""
    found, position = [], 0
    while position < len(content):
        _, _, _, head, body, _ = struct.unpack_from("<4sIQQQI", content, position)
        start = position + 40 + head
        found.append((position, start, start + body))
        position = -(-(start + body) // 4096) * 4096
    return found


def test_a_put_is_durable_and_readable_before_it_is_in_the_database(path: Path):
    value = {"prompt_embeds": [randn(7), torch.zeros(3, dtype=torch.int64)], "echoshot": False}
    told = Description("fox", "a fox", "blurry", "raw", "WANVIDEOTEXTEMBEDS", ("red", "animal"), "a note", KEY)
    with EmbeddingStore.open(path) as store:
        number = store.put(value, told)
        assert journal.journal_file(path).stat().st_size > 0
        with duckdb.connect() as other, pytest.raises(duckdb.Error):
            other.execute(f"ATTACH '{path}' AS s (READ_ONLY)")  # this store's, in the meantime
        assert store._read(lambda c: c.execute("SELECT count(*) FROM embedding_entries").fetchall()) == [(0,)]
        before = store.entry(number)
        assert same_value(store.get("fox").value, value) and same_value(store.find(KEY).value, value)
        assert store.id_of("fox") == store.id_of_value(value) == number
        assert store._pending.puts  # none of this has folded it
        assert [m.embedding.embedding_id for m in nearest(store, randn(7, seed=9), 1)] == [number]
        assert not store._pending.puts
        store._known.clear()
        assert store.entry(number) == before
        (line,) = list_embeddings(store)
        assert (line.name, line.note, set(line.tags), line.prompt) == ("fox", "a note", {"red", "animal"}, "a fox")
        assert store.id_of_value(value) == store.put(value) == number
    assert not journal.journal_file(path).exists()
    with EmbeddingStore.open(path) as store:
        assert store.entry(number) == before and same_value(store.find(KEY).value, value)


def test_what_a_killed_process_has_put_is_taken_in_as_it_was(path: Path):
    script = """
key = EmbeddingKey("fox", "umt5-xxl", "bf16", details={"block": 3, "sigma": [0.5, 1.0]})
store.put({"a": (randn(7, 0), 1.5)}, Description("fox", "a fox", "blurry", "hidden", "X", ("red",), "a note", key))
store.put(randn(8, 1), Description("fox"))
entry = store.entry(1)
print(repr((entry.created, entry.parts, entry.structure)))
sys.stdout.flush()
"""
    process = python(SETUP + script + "os._exit(3)\n", str(path))
    printed = process.communicate(timeout=60)[0]
    with EmbeddingStore.open(path) as store:
        entry = store.entry(1)
        assert repr((entry.created, entry.parts, entry.structure)) == printed.strip()
        assert (entry.prompt, entry.negative_prompt, entry.kind, entry.form) == ("a fox", "blurry", "hidden", "X")
        assert same_value(store.find(KEY).value, {"a": (randn(7), 1.5)})
        assert store.id_of("fox") == 2 and same_bits(store.get("fox").value, randn(8, seed=1))
        assert {m.embedding.embedding_id for m in nearest(store, randn(7, seed=9), 2)} == {1, 2}


def test_a_torn_journal_holds_the_records_before(path: Path, tmp_path: Path):
    file = left(path, PUTS)
    content = file.read_bytes()
    ends = [end for _, _, end in places(content)]
    assert len(ends) == COUNT
    for number, (start, body, end) in enumerate(places(content)):
        for cut in (start, start + 20, (start + body) // 2, body + 1, end - 1, end):
            copy = tmp_path / f"{number}-{cut}.duckdb"
            shutil.copy(path, copy)
            journal.journal_file(copy).write_bytes(content[:cut])
            whole = sum(e <= cut for e in ends)
            assert names_of(copy) == {f"n{i}" for i in range(whole)}
            assert not list(tmp_path.glob("*damaged*"))


def test_a_flipped_byte_anywhere_costs_one_put_and_is_told(path: Path, tmp_path: Path, caplog):
    file = left(path, PUTS)
    content = file.read_bytes()
    for number, (start, body, end) in enumerate(places(content)):
        tried = [
            *range(start, start + 40, 3),
            start + 45,
            (start + body) // 2,
            body,
            body + 3,
            (body + end) // 2,
            end - 1,
        ]
        for position in tried:
            caplog.clear()
            copy = tmp_path / f"{position}.duckdb"
            shutil.copy(path, copy)
            changed = bytearray(content)
            changed[position] ^= 0xFF
            journal.journal_file(copy).write_bytes(changed)
            assert names_of(copy) == {f"n{i}" for i in range(COUNT) if i != number}
            aside = list(tmp_path.glob(f"{copy.name}.journal.damaged-*"))
            if number < COUNT - 1:  # the last one looks like a put that was cut off
                assert aside and aside[0].read_bytes() == changed
                assert "set aside" in caplog.text
            else:
                assert not aside
        gap = -(-end // 4096) * 4096 - 1
        if gap > end and gap < len(content):
            changed = bytearray(content)
            changed[gap] ^= 0xFF
            copy = tmp_path / f"gap{number}.duckdb"
            shutil.copy(path, copy)
            journal.journal_file(copy).write_bytes(changed)
            assert names_of(copy) == {f"n{i}" for i in range(COUNT)}


def test_what_is_in_the_database_is_not_taken_in_again(path: Path):
    file = left(path, PUTS + "store.flush()\nremove(store, [2])\n")
    assert file.stat().st_size > 0
    assert names_of(path) == {"n0", "n2", "n3", "n4", "n5"}


def test_a_kill_between_the_commit_and_the_next_round_doubles_nothing(path: Path):
    left(path, PUTS + "store._journal.rewind = lambda: os._exit(3)\nstore.flush()\n")
    assert names_of(path) == {f"n{i}" for i in range(COUNT)}


def test_a_shorter_round_over_a_longer_one(path: Path):
    script = "for i in range(2): store.put(randn(56 + i, 6 + i), Description(f'n{6 + i}'))\n"
    left(path, PUTS + "store.flush()\nremove(store, [5, 6])\n" + script)
    assert names_of(path) == {"n0", "n1", "n2", "n3", "n6", "n7"}
    with EmbeddingStore.open(path) as store:
        assert store.put(randn(3), Description("next")) == 9


def test_rounds_begin_in_the_background_once_the_journal_is_large(path: Path, monkeypatch):
    monkeypatch.setattr(journaled, "JOURNAL_BYTES", 30_000)
    with EmbeddingStore.open(path) as store:
        for i in range(40):
            store.put(expected(i), Description(f"n{i}"))
        assert journal.journal_file(path).stat().st_size < 90_000
    assert names_of(path) == {f"n{i}" for i in range(40)}


def test_a_put_that_the_journal_refuses_is_no_put(path: Path, monkeypatch):
    with EmbeddingStore.open(path) as store:
        store.put(expected(0), Description("n0"))
        sync = journal._sync
        for fail in (OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "broken")):

            def refuse(handle, error=fail):
                sync(handle)
                raise error

            monkeypatch.setattr(journal, "_sync", refuse)
            with pytest.raises(StoreError, match="disk is full" if fail.errno == errno.ENOSPC else "broken"):
                store.put(expected(1), Description("n1"))
            monkeypatch.undo()
            content = journal.journal_file(path).read_bytes()
            assert len(places(content[: places(content[:8192])[0][2]])) == 1
            assert store.names() == ["n0"] and store.id_of_value(expected(1)) is None
            copy = path.with_name(f"copy{fail.errno}.duckdb")
            shutil.copy(path, copy)
            journal.journal_file(copy).write_bytes(content)
            assert names_of(copy) == {"n0"}
        assert store.put(expected(2), Description("n2")) == 2
    assert names_of(path) == {"n0", "n2"}


def test_puts_wait_in_the_journal_while_the_database_refuses_them(path: Path, monkeypatch, caplog):
    store = EmbeddingStore.open(path)
    first = [store.put(expected(i), Description(f"n{i}")) for i in range(2)]

    def refuse(*args, **options):
        raise duckdb.IOException("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(entries, "insert", refuse)
        for _ in range(3):
            with pytest.raises(StoreError, match="disk is full"):
                list_embeddings(store)
            store._writer.run(store._keep_house)
        assert caplog.text.count("wait in the embedding store's journal") == 1
        assert store.put(expected(2), Description("n2")) == first[-1] + 1
        assert all(same_bits(store.get(f"n{i}").value, expected(i)) for i in range(3))
        content = journal.journal_file(path).read_bytes()
        store.close()
        assert journal.journal_file(path).read_bytes() == content
    assert names_of(path) == {"n0", "n1", "n2"}


def test_puts_after_a_refused_fold_keep_their_ids(path: Path, monkeypatch):
    with EmbeddingStore.open(path) as store:
        ids = [store.put(expected(0), Description("n0"))]
        with monkeypatch.context() as patch:
            patch.setattr(entries, "insert", lambda *a, **k: (_ for _ in ()).throw(duckdb.IOException("busy")))
            with pytest.raises(StoreError):
                list_embeddings(store)
        ids += [store.put(expected(1), Description("n1"))]
        assert [line.embedding_id for line in sorted(list_embeddings(store), key=lambda e: e.embedding_id)] == ids
        assert [store.id_of(f"n{i}") for i in range(2)] == ids


def test_a_journal_beside_another_file_of_the_same_name_takes_new_ids(path: Path, tmp_path: Path):
    other = tmp_path / "other.duckdb"
    with EmbeddingStore.open(other) as store:
        for i in range(10, 14):
            store.put(expected(i), Description(f"n{i}"))
        store.write(lambda cursor: schema.set_folded(cursor, 0))
    content = left(path, PUTS).read_bytes()
    journal.journal_file(other).write_bytes(content)
    with EmbeddingStore.open(other) as store:
        assert len(store.names()) == 10 and len({store.id_of(n) for n in store.names()}) == 10


def test_a_large_put_and_several_at_once(path: Path, monkeypatch):
    monkeypatch.setattr(journaled, "LARGE", 20_000)
    items = [(entries.prepare(expected(i), "half"), Description(f"n{i}")) for i in range(2)]
    with EmbeddingStore.open(path) as store:
        store.put(expected(9), Description("n9"))
        assert len(store.put_prepared(items)) == 2 and len(store._pending.puts) == 2
        store.put(randn(1000, 64, seed=3), Description("large"))
        assert not store._pending.puts and store.id_of("large") == 4
        remove(store, [4])
    assert names_of(path) == {"n0", "n1", "n9"}


def test_a_journal_of_a_newer_version_is_left_alone(path: Path):
    file = left(path, PUTS)
    content = bytearray(file.read_bytes())
    content[4:8] = struct.pack("<I", 2)
    content[36:40] = struct.pack("<I", zlib.crc32(content[:36]))
    file.write_bytes(content)
    with pytest.raises(UnsupportedError, match="Update WanVideo Activation Editor"):
        EmbeddingStore.open(path)
    assert file.read_bytes() == content


def test_the_first_write_after_opening_gives_ids_and_names_that_the_next_put_knows(path: Path):
    def large(store: EmbeddingStore) -> None:
        store.put(torch.rand(60, 1000), Description("n1"), "exact")

    def operation(store: EmbeddingStore) -> None:
        store.record(Operation("add", (OperationInput("a", randn(3)),), randn(4)))

    def twins(store: EmbeddingStore) -> None:
        store.put_prepared([(entries.prepare(randn(4), "half"), Description(name)) for name in ("a", "b")])

    def forgotten(store: EmbeddingStore) -> None:
        forget_name(store, "n0")
        with pytest.raises(KeyError):
            forget_name(store, "n0")
        assert store.names() == []

    for number, first_write in enumerate((large, operation, twins, forgotten)):
        file = path.with_name(f"{number}.duckdb")
        with EmbeddingStore.open(file) as store:
            store.put(expected(0), Description("n0"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(journaled, "LARGE", 20_000)
            with EmbeddingStore.open(file) as store:
                first_write(store)
                used = {line.embedding_id for line in list_embeddings(store)}
                ids = [store.put(expected(i), Description(f"n{i}")) for i in (0, 2, 3)]
                assert len(set(ids)) == 3 and not used & set(ids[1:]) and ids[0] == 1
                for i in (0, 2, 3):
                    assert same_bits(store.get(f"n{i}").value, expected(i))
                listed = [line.embedding_id for line in list_embeddings(store)]
                assert set(ids) <= set(listed) and used <= set(listed)
        with EmbeddingStore.open(file) as store:
            assert [store.id_of(f"n{i}") for i in (0, 2, 3)] == ids


SURROGATE = json.loads('"a\\ud83d"')


@pytest.mark.parametrize(
    "told", [{"name": SURROGATE}, {"prompt": SURROGATE}, {"tags": (SURROGATE,)}, {"note": SURROGATE}, {"note": None},
             {"kind": None}, {"form": None}, {"tags": (None,)}, {"name": 3},
             {"key": EmbeddingKey("p", "e", "bf16", details={1: 2, "a": 3})},
             {"key": EmbeddingKey("p", "e", "bf16", details={"a": {10: 1, 9: 2}})},
             {"key": EmbeddingKey("p", "e", "bf16", details={"a": torch.float16})}], ids=str,
)  # fmt: skip
def test_a_description_that_cannot_be_stored_is_refused_at_once(told):
    with pytest.raises(UnsupportedError, match=next(iter(told))):
        Description(**told)


def test_text_of_every_kind_comes_back(path: Path):
    key = EmbeddingKey(SURROGATE, "e", "bf16", details={"note": "\0"})
    told = Description("n\0ame", "a\0b \U0001f98a", "", "hidden", "é", ("\u2028",), "\n", key)
    with EmbeddingStore.open(path) as store:
        with pytest.raises(UnsupportedError, match="half of a surrogate pair"):
            store.put({SURROGATE: randn(3)})
        store.put({"\0": randn(3), "text": SURROGATE}, told)
        waiting = store.entry(1)
        store.flush()
        store._known.clear()
        assert store.entry(1) == waiting
        assert same_value(store.find(key).value, {"\0": randn(3), "text": SURROGATE})
        (line,) = list_embeddings(store)
        assert (line.name, line.note, line.tags) == (told.name, told.note, told.tags)


@pytest.mark.parametrize("count", [1, 4])
def test_what_the_database_refuses_is_set_aside_and_keeps_nothing_waiting(path: Path, count, monkeypatch, caplog):
    insert = entries.insert

    def refuses(cursor, index, segments, prepared, description, *rest, **named):
        if description.name == "n0":
            raise duckdb.ConversionException("not this one")
        return insert(cursor, index, segments, prepared, description, *rest, **named)

    monkeypatch.setattr(entries, "insert", refuses)
    with EmbeddingStore.open(path) as store:
        store.put(randn(5), Description("kept"))
        store.flush()
        ids = [store.put(expected(i), Description(f"n{i}")) for i in range(count)]
        store.put(expected(9), Description("n9"))
        assert {line.name for line in list_embeddings(store)} == {"kept", "n9", *(f"n{i}" for i in range(1, count))}
        assert store.id_of("n0") is None and store.id_of_value(expected(0)) is None
        with pytest.raises(KeyError):
            store.load(ids[0])
        assert store.put(expected(10), Description("n10")) > ids[-1] + 1
    assert f"refuses embedding {ids[0]} (n0)" in caplog.text
    monkeypatch.undo()
    (aside,) = path.parent.glob(f"{path.name}.journal.refused-*")
    aside.rename(journal.journal_file(path))  # with a version that can take it
    with EmbeddingStore.open(path) as store:
        assert same_bits(store.get("n0").value, expected(0))


def test_a_put_that_comes_while_the_store_closes_is_refused(path: Path):
    store = EmbeddingStore.open(path)
    go, inside = threading.Event(), threading.Event()
    caught: list[BaseException] = []

    def busy() -> None:
        inside.set()
        go.wait(30)

    def late() -> None:
        try:
            store.put(expected(1), Description("n1"))
        except StoreError as error:
            caught.append(error)

    threads = [threading.Thread(target=store._writer.run, args=(busy,))]
    threads[0].start()
    inside.wait(30)
    threads += [threading.Thread(target=late), threading.Thread(target=store.close)]
    threads[1].start()
    while not store._writer._thread or not _is_waiting(threads[1]):
        time.sleep(0.01)
    threads[2].start()
    while not store._writer.closing:
        time.sleep(0.01)
    go.set()
    for thread in threads:
        thread.join(30)
    assert [str(error) for error in caught] == ["The embedding store is closed."]
    assert not journal.journal_file(path).exists()


def _is_waiting(thread: threading.Thread) -> bool:
    """True once a thread has begun a job of the writer."""
    frame = sys._current_frames().get(thread.ident)
    while frame is not None:
        if frame.f_code is writer.Writer._alone.__wrapped__.__code__:
            return True
        frame = frame.f_back
    return False


@pytest.mark.parametrize("way", ["unlink(file)", "rename(file, str(file) + '.away')"])
def test_a_journal_that_is_deleted_while_the_store_is_open_takes_no_later_put_with_it(path: Path, way):
    left(path, f"store.put(randn(50, 0), Description('n0'))\nfile = store._journal.path\nos.{way}\n"
               "for i in (1, 2): store.put(randn(50 + i, i), Description(f'n{i}'))\n")  # fmt: skip
    assert names_of(path) == {"n0", "n1", "n2"}


def busy_store(folder: Path) -> Path:
    """A store that has brought its journal into the database more often than another's has records."""
    path = folder / "other.duckdb"
    with EmbeddingStore.open(path) as store:
        for i in range(10, 20):
            store.put(expected(i), Description(f"n{i}"))
            store.flush()
    return path


def test_a_journal_of_a_store_that_had_fewer_puts_is_taken_in(path: Path, tmp_path: Path):
    other = busy_store(tmp_path)
    journal.journal_file(other).write_bytes(left(path, PUTS).read_bytes())
    left(other, "for i in (20, 21): store.put(randn(50 + i, i), Description(f'n{i}'))\n")
    left(other, "remove(store, [store.id_of('n3')])\n")
    left(other, "")
    assert names_of(other) == {f"n{i}" for i in (*range(COUNT), *range(10, 22)) if i != 3}


def test_damage_in_a_journal_of_another_store_costs_one_put_and_is_told(path: Path, tmp_path: Path):
    other = busy_store(tmp_path)
    content = left(path, PUTS).read_bytes()
    for number, (start, body, _) in enumerate(places(content)[:-1]):
        for position in (start + 5, start + 45, body + 3):
            copy = tmp_path / f"{position}.duckdb"
            shutil.copy(other, copy)
            changed = bytearray(content)
            changed[position] ^= 0xFF
            journal.journal_file(copy).write_bytes(changed)
            assert names_of(copy) == {f"n{i}" for i in (*range(COUNT), *range(10, 20)) if i != number}
            (aside,) = tmp_path.glob(f"{copy.name}.journal.damaged-*")
            assert aside.read_bytes() == changed


def test_puts_are_found_behind_what_is_left_of_an_earlier_round(path: Path, tmp_path: Path):
    folded = left(path, PUTS + "store.flush()\n").read_bytes()
    for number, (start, _, _) in enumerate(places(folded)):
        changed = bytearray(folded)
        changed[start + 5] ^= 0xFF
        copy = tmp_path / f"{number}.duckdb"
        shutil.copy(path, copy)
        if path.with_name(path.name + ".wal").exists():
            shutil.copy(path.with_name(path.name + ".wal"), copy.with_name(copy.name + ".wal"))
        journal.journal_file(copy).write_bytes(changed)
        left(copy, "for i in (7, 8): store.put(randn(50 + i, i), Description(f'n{i}'))\n")
        assert names_of(copy) == {f"n{i}" for i in (*range(COUNT), 7, 8)}
        assert not list(tmp_path.glob("*damaged*"))


def test_damage_is_told_also_when_the_rest_has_to_wait(path: Path, monkeypatch, caplog):
    file = left(path, PUTS)
    changed = bytearray(file.read_bytes())
    changed[places(bytes(changed))[2][1] + 5] ^= 0xFF
    file.write_bytes(changed)
    with monkeypatch.context() as patch:
        patch.setattr(entries, "insert", lambda *a, **k: (_ for _ in ()).throw(duckdb.IOException("No space left")))
        EmbeddingStore.open(path).close()
    assert "set aside" not in caplog.text and file.read_bytes() == changed
    assert names_of(path) == {f"n{i}" for i in range(COUNT) if i != 2}
    (aside,) = path.parent.glob("*.journal.damaged-*")
    assert aside.read_bytes() == changed and "set aside" in caplog.text


def test_everything_of_a_put_has_the_time_of_the_put(path: Path):
    with EmbeddingStore.open(path) as store:
        store.put(randn(3), Description("a", key=KEY))
        told = store.entry(1).created
        time.sleep(0.01)
        for table in ("embedding_entries", "embedding_names", "embedding_keys", "contents"):
            assert store.read(lambda c, t=table: c.execute(f"SELECT created FROM {t}").fetchall()) == [(told,)]  # noqa: S608


def test_a_store_in_memory_has_no_journal(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with EmbeddingStore(None) as store:
        store.put(randn(3), Description("a"))
        assert not store._pending.puts and same_bits(store.get("a").value, randn(3))
    assert not list(tmp_path.iterdir())


def test_the_journal_is_of_its_owner_only(path: Path):
    with EmbeddingStore.open(path) as store:
        store.put(randn(3))
        assert journal.journal_file(path).stat().st_mode & 0o077 == 0


def test_nothing_is_said_of_a_journal_in_order(path: Path, caplog):
    caplog.set_level(logging.INFO)
    left(path, PUTS)
    assert names_of(path) == {f"n{i}" for i in range(COUNT)}
    assert "journal" not in caplog.text

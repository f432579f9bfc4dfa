"""Two processes, many threads, a full disk."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest
import torch
from wanvideo_activation_editor.storage import (
    Description,
    EmbeddingKey,
    EmbeddingStore,
    LockedError,
    Operation,
    OperationInput,
    StoreError,
    analytics,
    compaction,
    database,
    journaled,
    maintenance,
    segments,
    session,
)
from wanvideo_activation_editor.storage.compaction import compact
from wanvideo_activation_editor.storage.maintenance import cleanup, evict, remove, verify
from wanvideo_activation_editor.storage.selection import list_embeddings

from .helpers import finish, python, randn, same_bits

HOLD = """
import sys, torch
from wanvideo_activation_editor.storage import Description, EmbeddingStore
store = EmbeddingStore.open(sys.argv[1])
store.put(torch.ones(3, 8), Description("held"))
print("open", flush=True)
sys.stdin.readline()
store.close()
"""


def test_a_second_process_says_once_who_holds_the_store_and_goes_on_in_memory(path: Path, caplog):
    holder = python(HOLD, str(path), stdin=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == "open\n"
    with pytest.raises(LockedError, match=f"in use by process {holder.pid}"):
        EmbeddingStore.open(path)
    caplog.set_level(logging.WARNING)
    with EmbeddingStore.open_or_memory(path) as store:
        assert not store.persistent
        for i in range(5):
            store.put(randn(5, seed=i), Description(f"n{i}"))
        assert same_bits(store.get("n3").value, randn(5, seed=3))
    assert len([r for r in caplog.records if str(holder.pid) in r.message]) == 1
    finish(holder)
    with EmbeddingStore.open(path) as store:
        assert store.names() == ["held"]


INTRUDE = """
import sys, torch
from wanvideo_activation_editor.storage import Description, EmbeddingStore, LockedError
try:
    with EmbeddingStore.open(sys.argv[1]) as store:
        store.put(torch.ones(3, 8), Description("intruder"))
        print("stored")
except LockedError as error:
    print(error)
"""


def test_nobody_opens_the_file_while_it_is_replaced(store: EmbeddingStore, monkeypatch):
    """In the gap between closing the old file and putting the new one in its place."""
    store.put(randn(5), Description("a"))
    replace, said = os.replace, []

    def intruded(source: Path, target: Path) -> None:
        said.append(finish(python(INTRUDE, str(store.path))))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(compaction.os, "replace", intruded)
        compact(store)
    assert any(f"in use by process {os.getpid()}" in text for text in said), said
    assert not any("stored" in text for text in said)
    assert same_bits(store.get("a").value, randn(5))


CREATE = """
import sys
from pathlib import Path
from wanvideo_activation_editor.storage import EmbeddingStore, database
connect = database._plain_connect
def slowly(path):
    Path(path).touch()
    print("creating", flush=True)
    sys.stdin.readline()
    Path(path).unlink()
    return connect(path)
database._plain_connect = slowly
with EmbeddingStore.open(sys.argv[1]) as store:
    print(store.persistent)
"""


def test_a_file_that_another_process_is_just_creating_is_not_taken_for_a_damaged_one(path: Path):
    creator = python(CREATE, str(path), stdin=subprocess.PIPE)
    assert creator.stdout is not None and creator.stdout.readline() == "creating\n"
    with pytest.raises(LockedError, match=f"process {creator.pid}"):
        EmbeddingStore.open(path)
    assert path.exists() and not list(path.parent.glob("*damaged*"))
    creator.communicate("\n", 60)
    with EmbeddingStore.open(path) as store:
        assert store.persistent


def test_the_lock_of_a_process_that_was_killed_does_not_stay(path: Path):
    holder = python(HOLD, str(path), stdin=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == "open\n"
    holder.kill()
    holder.communicate()
    with EmbeddingStore.open(path) as store:
        assert store.names() == ["held"]


FORK = """
import os, sys, torch
from wanvideo_activation_editor.storage import Description, EmbeddingStore, StoreError
store = EmbeddingStore.open(sys.argv[1])
for i in range(10): store.put(torch.full((40, 64), float(i)), Description(f"n{i}"))
store.get("n1")
if os.fork() == 0:
    try: store.get("n1")
    except StoreError as error: print(error, flush=True)
    sys.exit(0)
assert os.wait()[1] == 0
for i in range(10, 20): store.put(torch.full((40, 64), float(i)), Description(f"n{i}"))
print("forked", flush=True)
sys.stdin.readline()
if sys.argv[2] == "orphan" and os.fork() == 0:
    print("orphan", flush=True)
    sys.stdin.readline()
    os._exit(0)
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_that_ends_leaves_the_store_to_its_parent(path: Path):
    parent = python(FORK, str(path), "alone", stdin=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "The embedding store is closed.\n"
    assert parent.stdout.readline() == "forked\n"
    with pytest.raises(LockedError, match=f"process {parent.pid}"):
        EmbeddingStore.open(path)
    parent.communicate("\n")
    with EmbeddingStore.open(path) as store:
        for i in range(20):
            assert same_bits(store.get(f"n{i}").value, torch.full((40, 64), float(i)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_does_not_hold_the_lock_of_a_parent_that_was_killed(path: Path):
    parent = python(FORK, str(path), "orphan", stdin=subprocess.PIPE)
    assert parent.stdin is not None and parent.stdout is not None
    parent.stdin.write("\n")
    parent.stdin.flush()
    while parent.stdout.readline() != "orphan\n":
        pass
    parent.wait()
    with EmbeddingStore.open(path) as store:
        assert len(store.names()) == 20
    parent.communicate("\n")


def test_another_process_with_the_same_number_is_not_taken_for_this_one(path: Path):
    holder = python(HOLD, str(path), stdin=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == "open\n"
    path.with_name(path.name + ".lock").write_text(f"{os.getpid()} another-host\n")
    with pytest.raises(LockedError, match=f"in use by process {os.getpid()} on another-host"):
        EmbeddingStore.open(path)
    finish(holder)


@pytest.mark.parametrize(
    "failure",
    [
        duckdb.OutOfMemoryException("failed to pin block of size 256.0 KiB (121.9 MiB/122.0 MiB used)"),
        duckdb.TransactionException("Failed to commit: could not allocate block of size 256.0 KiB"),
        duckdb.TransactionException("Failed to commit: failed to allocate data of size 4.0 KiB"),
        duckdb.FatalException("Failed to rollback transaction. Original Error: Out of Memory Error: failed to pin"),
    ],
    ids=str,
)
def test_a_write_that_memory_was_short_for_is_tried_again_with_more(store: EmbeddingStore, monkeypatch, failure):
    """Beside readers of large blobs, DuckDB may have none left for a small write."""
    real, limits = session.transaction, []

    @contextlib.contextmanager
    def short(cursor):
        with real(cursor):
            yield
            limits.append(cursor.execute("SELECT current_setting('memory_limit')").fetchall()[0][0])
            if not limits[-1].startswith("244"):
                raise failure

    store.put(randn(2), Description("before"))
    store.flush()
    monkeypatch.setattr(session, "transaction", short)
    assert store.record(Operation("x", (OperationInput("a", randn(3)),), randn(4))) == 1
    store.put(randn(5), Description("after"))
    assert {line.name for line in list_embeddings(store)} == {"before", "after", None}
    monkeypatch.undo()
    assert limits[-1].startswith("244") and len(limits) > 2
    assert store.read(lambda c: c.execute("SELECT current_setting('memory_limit')").fetchall()) == [("122.0 MiB",)]


def test_memory_that_could_not_be_given_back_is_asked_for_again(store: EmbeddingStore, monkeypatch):
    def limit() -> str:
        return store.read(lambda c: c.execute("SELECT current_setting('memory_limit')").fetchall())[0][0]

    with monkeypatch.context() as patch:
        patch.setattr(database, "MEMORY_LIMIT", "1KB")  # as refused as when too much of it is in use
        with store.database.room():
            assert limit() == "244.1 MiB"
        assert limit() == "244.1 MiB"
    store._writer.run(store._keep_house)
    assert limit() == "122.0 MiB"


def test_what_a_killed_process_had_moved_out_of_memory_is_deleted(path: Path):
    EmbeddingStore.open(path).close()
    folder = path.with_name(path.name + ".tmp")
    folder.mkdir()
    (folder / "duckdb_temp_storage_DEFAULT-0.tmp").write_bytes(bytes(100))
    EmbeddingStore.open(path).close()
    assert not folder.exists()
    folder.mkdir()
    (folder / "of somebody else").touch()
    EmbeddingStore.open(path).close()
    assert [file.name for file in folder.iterdir()] == ["of somebody else"]


def test_what_was_committed_is_not_written_again_when_the_checkpoint_after_it_fails(store, monkeypatch):
    real, failures = session.transaction, [duckdb.FatalException("Transaction COMMIT succeeded and is durable, but")]

    @contextlib.contextmanager
    def failing(cursor):
        with real(cursor):
            yield
        if failures:
            raise failures.pop()

    monkeypatch.setattr(session, "transaction", failing)
    operation = Operation("x", (OperationInput("a", randn(2)),), randn(3))
    assert store.record(operation) == 1
    assert analytics.stats(store).operations == 1
    assert store.record(operation) == 2


def test_a_write_recovers_when_duckdb_declares_the_connection_invalid(store: EmbeddingStore, monkeypatch):
    """DuckDB refuses every query on a connection after a fatal error: only a new one can take the second attempt."""
    store.put(randn(5), Description("a"))
    real, before = session.transaction, store.database._connection

    @contextlib.contextmanager
    def refusing(cursor):
        if store.database._connection is before:
            raise duckdb.FatalException("database has been invalidated because of a previous fatal error")
        with real(cursor):
            yield

    monkeypatch.setattr(session, "transaction", refusing)
    store.put(randn(6), Description("b"))
    assert store.names() == ["a", "b"] and same_bits(store.get("b").value, randn(6))


def test_a_store_that_could_not_be_opened_again_is_once_it_can(store: EmbeddingStore, monkeypatch):
    acts = (lambda: store.get("n0"), lambda: store.put(randn(5), Description("after")), lambda: compact(store))
    for i, act in enumerate(acts):
        store.put(randn(5, seed=i), Description(f"n{i}"))
        with monkeypatch.context() as patch:
            patch.setattr(database, "_plain_connect", lambda path: (_ for _ in ()).throw(duckdb.IOException("busy")))
            with pytest.raises(StoreError, match="busy"):
                compact(store)
            with pytest.raises(StoreError, match="busy"):
                act()
        act()
        assert same_bits(store.get("n0").value, randn(5))


def test_the_same_store_opened_twice_in_one_process_is_refused(path: Path):
    with EmbeddingStore.open(path) as first:
        first.put(randn(3), Description("a"))
        with pytest.raises(LockedError, match="already"):
            EmbeddingStore.open(path)
    EmbeddingStore.open(path).close()


def test_eight_threads_get_their_own_embeddings_while_others_put_and_the_store_is_compacted(store: EmbeddingStore):
    for i in range(40):
        store.put(randn(30, 256, seed=i), Description(f"n{i}"))
    stop = threading.Event()

    def read(seed: int) -> int:
        order = torch.randperm(40, generator=torch.Generator().manual_seed(seed)).tolist()
        for i in order * 3:
            assert same_bits(store.get(f"n{i}").value, randn(30, 256, seed=i))
        return len(order) * 3

    def put(start: int) -> int:
        done = 0
        while not stop.is_set() and done < 60:
            seed = 1000 + (start * 7 + done) % 50
            store.put(randn(30, 256, seed=seed), Description(f"n{seed}"))
            done += 1
        return done

    with ThreadPoolExecutor(8) as pool:
        writers = [pool.submit(put, i) for i in range(3)]
        readers = [pool.submit(read, i) for i in range(5)]
        compact(store)
        assert [r.result() for r in readers] == [120] * 5
        stop.set()
        assert all(w.result() for w in writers)
    assert not verify(store).damaged
    for name in store.names():
        assert same_bits(store.get(name).value, randn(30, 256, seed=int(name[1:])))


def test_what_is_not_committed_is_not_seen(store: EmbeddingStore, monkeypatch):
    """Another thread asks for a name and a cache key just before the commit of the put that brings them."""
    monkeypatch.setattr(journaled, "LARGE", -1)  # no journal
    key, seen = EmbeddingKey("fox", "umt5-xxl", "bf16"), []
    transaction = session.transaction

    @contextlib.contextmanager
    def watched(cursor):
        with transaction(cursor):
            yield
            with ThreadPoolExecutor(1) as reader:
                ask = reader.submit(lambda: (store.find(key), store.id_of("fox"), store.id_of_value(randn(5))))
                seen.append(ask.result())

    with monkeypatch.context() as patch:
        patch.setattr(session, "transaction", watched)
        store.put(randn(5), Description("fox", key=key))
    assert seen == [(None, None, None)]
    assert same_bits(store.find(key).value, randn(5)) and same_bits(store.get("fox").value, randn(5))


def filled_segments(store: EmbeddingStore, monkeypatch) -> list[int]:
    """Three segments of eight embeddings, n0 to n23."""
    monkeypatch.setattr(segments, "MAX_BLOBS", 8)
    ids = [store.put(randn(5, seed=i), Description(f"n{i}")) for i in range(24)]
    store.flush()
    return ids


def while_fetching(monkeypatch, action) -> None:
    """Have another thread run `action` once, after a reader has looked up a blob's segment and before it reads it."""
    fetch, pending = segments.Segments.fetch, [action]

    def interrupted(cursor, segment, content_hash):
        if pending:
            with ThreadPoolExecutor(1) as other:
                other.submit(pending.pop()).result()
        return fetch(cursor, segment, content_hash)

    monkeypatch.setattr(segments.Segments, "fetch", staticmethod(interrupted))


def test_a_blob_that_clean_up_moves_under_a_reader_is_read_where_it_went(store: EmbeddingStore, monkeypatch):
    ids = filled_segments(store, monkeypatch)
    while_fetching(monkeypatch, lambda: remove(store, ids[1:7]))
    assert same_bits(store.get("n0").value, randn(5))
    assert not store.damaged


def test_an_embedding_that_is_removed_under_a_reader_is_missing_and_not_damaged(store: EmbeddingStore, monkeypatch):
    ids = filled_segments(store, monkeypatch)
    while_fetching(monkeypatch, lambda: remove(store, ids[:7]))
    with pytest.raises(KeyError):
        store.get("n0")
    assert not store.damaged


def test_verifying_while_clean_up_moves_and_removes_finds_no_damage(store: EmbeddingStore, monkeypatch):
    ids = filled_segments(store, monkeypatch)
    while_fetching(monkeypatch, lambda: remove(store, ids[1:7]))
    result = verify(store)
    assert not result.damaged and result.whole == 18


@pytest.mark.parametrize("clean", [lambda s: cleanup(s, 0, 10**6, False), lambda s: evict(s, 0, False)],
                         ids=["cleanup", "evict"])  # fmt: skip
def test_what_is_named_while_victims_are_chosen_is_kept(store: EmbeddingStore, monkeypatch, clean):
    """The put comes from another thread between choosing and removing; however they interleave, it must hold."""
    store.put(randn(5))
    choose, started = maintenance.list_embeddings, []

    def chosen(*args, **options):
        found = choose(*args, **options)
        if not started:
            started.append(threading.Thread(target=lambda: store.put(randn(5), Description("kept"))))
            started[0].start()
            started[0].join(0.5)
        return found

    monkeypatch.setattr(maintenance, "list_embeddings", chosen)
    clean(store)
    started[0].join()
    assert same_bits(store.get("kept").value, randn(5))


def test_threads_that_store_the_same_values_make_one_of_each(store: EmbeddingStore):
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda n: store.put(randn(10, seed=n % 10)), range(160)))
    assert len(set(ids)) == 10
    assert not verify(store).damaged


def test_a_store_on_a_full_disk_is_closed_and_released(path: Path, monkeypatch, caplog):
    store = EmbeddingStore.open(path)
    store.put(randn(5), Description("a"))
    store.get("a")

    def full(*args):
        raise StoreError("The disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write", full)
        store.close()
    assert "disk is full" in caplog.text
    with EmbeddingStore.open(path) as store:
        assert store.names() == ["a"]


FULL_DISK = """
import os, resource, signal, sys, torch
from wanvideo_activation_editor.storage import Description, EmbeddingStore, StoreError
from wanvideo_activation_editor.storage.maintenance import verify
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def value(i): return (torch.randn(200, 1024, generator=torch.Generator().manual_seed(i)) * 0.1).bfloat16()
path = sys.argv[1]
store = EmbeddingStore.open(path)
for i in range(5): store.put(value(i), Description(f"n{i}"))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (6 << 20, hard))
acknowledged, failures = list(range(5)), []
for i in range(5, 40):
    try:
        store.put(value(i), Description(f"n{i}"))
        acknowledged.append(i)
    except StoreError as error:
        failures.append(str(error))
print("failed", len(failures), failures[0] if failures else "")
for i in acknowledged: assert torch.equal(store.get(f"n{i}").value, value(i)), i
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
for i in range(100, 110):
    store.put(value(i), Description(f"n{i}")); acknowledged.append(i)
store.close()
store = EmbeddingStore.open(path)
assert set(store.names()) >= {f"n{i}" for i in acknowledged}, (acknowledged, store.names())
for i in acknowledged: assert torch.equal(store.get(f"n{i}").value, value(i)), i
assert not verify(store).damaged
store.close()
print("recovered", len(acknowledged))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_fails_the_put_keeps_what_was_stored_and_is_recovered_from(path: Path):
    out = finish(python(FULL_DISK, str(path)), 120)
    lines = dict(line.split(" ", 1) for line in out.splitlines())
    count, message = lines["failed"].split(" ", 1)
    assert int(count) > 10
    assert "disk is full" in message
    assert int(lines["recovered"]) >= 15

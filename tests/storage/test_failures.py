"""Kills, interrupts, forks, a second process, a full disk: nothing is lost without a word."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pytest
import torch
from wanvideo_activation_editor.storage import maintenance, search
from wanvideo_activation_editor.storage.duckdb_errors import explained
from wanvideo_activation_editor.storage.errors import LockedError, StoreError
from wanvideo_activation_editor.storage.records import Description
from wanvideo_activation_editor.storage.store import EmbeddingStore

from .helpers import finish, python, randn, same_bits

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

PUT_FOR_EVER = """
import os, sys, torch
from wanvideo_activation_editor.storage import database
from wanvideo_activation_editor.storage.records import Description
from wanvideo_activation_editor.storage.store import EmbeddingStore
database.OPTIONS["wal_autocheckpoint"] = "2MB"  # checkpoints come often
for line in sys.stdin:
    path, number = line.rsplit(" ", 1)
    child, number = os.fork(), int(number)
    if not child:
        store = EmbeddingStore(path)
        os.write(1, f"open {os.getpid()}\\n".encode())
        while True:
            value = torch.full((40, 1024), float(number % 251)).bfloat16() + torch.arange(1024).bfloat16()
            store.put(value, Description(f"n{number}"))
            os.write(1, f"{number}\\n".encode())
            number += 1
    os.waitpid(child, 0)
    os.write(1, b"ended\\n")
"""


def counted(number: int) -> torch.Tensor:
    return torch.full((40, 1024), float(number % 251)).bfloat16() + torch.arange(1024).bfloat16()


@needs_fork
def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path, caplog):
    moments, parent = random.Random(5), python(PUT_FOR_EVER, stdin=subprocess.PIPE)
    acknowledged = 0
    for number in range(3):
        path, known = tmp_path / f"{number}.duckdb", set[int]()
        for _ in range(5):
            parent.stdin.write(f"{path} {max(known, default=-1) + 2}\n")
            parent.stdin.flush()
            word, _, process = parent.stdout.readline().partition(" ")
            assert word == "open", parent.communicate()[1]
            time.sleep(moments.uniform(0.02, 0.7))
            os.kill(int(process), signal.SIGKILL)
            while (line := parent.stdout.readline().strip()) != "ended":
                known.add(int(line))
            with EmbeddingStore(path) as store:
                names = set(store.names())
                assert not [n for n in known if f"n{n}" not in names]
                assert not maintenance.verify(store).damaged
                for n in moments.sample(sorted(known), min(5, len(known))):
                    assert torch.equal(store.get(f"n{n}").value, counted(n))
        acknowledged += len(known)
    parent.communicate()
    assert acknowledged > 15 and "missing" not in caplog.text


def test_an_interrupt_during_a_put_leaves_nothing_behind(path: Path):
    script = """
import _thread, random, signal, sys, threading, time, torch
from wanvideo_activation_editor.storage.records import Description
from wanvideo_activation_editor.storage.store import EmbeddingStore
from wanvideo_activation_editor.storage import exchange, maintenance
from wanvideo_activation_editor.storage.codec import encode
moments = random.Random(3)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
with EmbeddingStore(sys.argv[1]) as store:
    interrupted, known = 0, []
    for i in range(150):
        timer = threading.Timer(moments.uniform(0, 0.03), _thread.interrupt_main)
        try:
            timer.start()
            store.put(torch.full((100, 1024), float(i)).bfloat16(), Description(f"n{i}"))
            known.append(i)
        except KeyboardInterrupt:
            interrupted += 1
        try:
            timer.join()
            time.sleep(0)
        except KeyboardInterrupt:
            pass
    ids = [e.embedding_id for e in store.listings()]
    assert len(set(ids)) == len(ids) and set(f"n{i}" for i in known) <= set(store.names())
    assert not maintenance.verify(store).damaged
    store.put(torch.ones(2, 2), Description("after"))
    store.database.compact()
print(interrupted)
"""
    assert int(finish(python(script, str(path)))) > 5
    with EmbeddingStore(path) as store:
        assert "after" in store.names()


@needs_fork
def test_a_forked_process_is_refused_and_does_the_file_no_harm(path: Path):
    script = """
import os, sys, torch
from wanvideo_activation_editor.storage.errors import StoreError
from wanvideo_activation_editor.storage.records import Description
from wanvideo_activation_editor.storage.store import EmbeddingStore
store = EmbeddingStore(sys.argv[1])
store.put(torch.ones(9, 9), Description("before"))
for close_first in (False, True):
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        os.read(readable, 1)  # the parent has closed its store, or goes on
        refused = 0
        for action in (store.names, lambda: store.put(torch.ones(2, 2)), lambda: EmbeddingStore(sys.argv[1])):
            try:
                action()
            except StoreError as error:
                refused += "forked" in str(error)
        store.close()
        sys.exit(refused)  # an ordinary end, with all destructors
    if close_first:
        store.close()
    os.write(writable, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    if not close_first:
        store.put(torch.full((3, 3), 2.0), Description("after"))
store = EmbeddingStore(sys.argv[1])
print(store.names())
"""
    assert finish(python(script, str(path))).strip() == "['after', 'before']"


def test_a_second_process_is_refused_with_the_number_of_the_holder(store: EmbeddingStore):
    script = """
import sys
from wanvideo_activation_editor.storage.errors import LockedError
from wanvideo_activation_editor.storage.store import EmbeddingStore
try:
    EmbeddingStore(sys.argv[1])
except LockedError as error:
    print(error)
"""
    assert f"is in use by process {os.getpid()}" in finish(python(script, str(store.path)))
    with pytest.raises(LockedError, match="open in this process already"):
        EmbeddingStore(store.path)


def test_a_file_that_was_deleted_or_replaced_while_open_is_noticed(path: Path):
    store = EmbeddingStore(path)
    store.put(randn(4), Description("fox"))
    path.rename(path.with_name("moved"))
    with pytest.raises(StoreError, match="deleted or replaced while it was open"):
        store.put(randn(4, seed=1))
    shutil.copy(path.with_name("moved"), path)
    with pytest.raises(StoreError, match="deleted or replaced"):
        store.put(randn(4, seed=2))
    store.close()


def test_no_file_is_readable_by_others_at_any_moment(tmp_path: Path):
    """Other users look all the time, while a store is made, written to, brought into its file and compacted."""
    script = """
import os, sys, torch
from wanvideo_activation_editor.storage.records import Description
from wanvideo_activation_editor.storage.store import EmbeddingStore
os.umask(0o022)
for number in range(4):
    with EmbeddingStore(f"{sys.argv[1]}/{number}.duckdb") as store:
        for i in range(6):
            store.put(torch.full((200, 1024), float(i)).bfloat16(), Description(f"n{i}"))
            if i % 2:
                store.database.checkpoint()
        store.database.compact()
        store.put(torch.ones(2, 2))
        print([f.name for f in os.scandir(sys.argv[1]) if f.stat().st_mode & 0o077], flush=True)
"""
    process, seen = python(script, str(tmp_path)), set[str]()
    while process.poll() is None:
        for file in tmp_path.iterdir():  # what is in a folder of its owner cannot be reached
            try:
                if file.stat().st_mode & 0o077:
                    seen.add(file.name)
            except FileNotFoundError:
                continue
    assert finish(process) == "[]\n" * 4 and seen == set()


@pytest.mark.parametrize("name", ["store.d\udce9.duckdb", "sto're.duckdb", "[s]*?.duckdb"])
def test_unusual_paths_open_or_are_refused_printably(tmp_path: Path, name: str):
    try:
        with EmbeddingStore(tmp_path / name) as store:
            store.put(randn(3), Description("fox"))
            store.database.compact()
            assert store.names() == ["fox"]
    except StoreError as error:
        assert str(error).isprintable() and "UTF-8" in str(error)


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        EmbeddingStore(tmp_path / "file" / "store.duckdb")


def test_a_folder_without_locks_is_named_as_the_cause():
    error = duckdb.IOException('IO Error: Could not set lock on file "/n/s.duckdb": No locks available')
    said = str(explained(error, Path("/n/s.duckdb")))
    assert "no file locks" in said and "WAN_ACTIVATION_STORE" in said


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_is_told_and_what_is_stored_stays(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("cannot mount")
    try:
        stored, errors = 0, []
        with EmbeddingStore(disk / "s.duckdb") as store:
            for i in range(200):
                try:
                    store.put(randn(100, 1024, seed=i), Description(f"n{i}"))
                    stored += 1
                except StoreError as error:
                    errors.append(str(error))
                    if store.database.broken or len(errors) > 2:
                        break
        assert errors and stored > 20
        with EmbeddingStore(disk / "s.duckdb") as store:
            assert len(store.names()) == stored
            assert all(same_bits(store.get(f"n{i}").value, randn(100, 1024, seed=i)) for i in range(0, stored, 7))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_compact_waits_for_readers(store: EmbeddingStore):
    store.put(randn(3), Description("fox"))
    with store.database.snapshot():
        waiting = threading.Thread(target=store.database.compact, daemon=True)
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
    waiting.join(20)
    assert not waiting.is_alive() and store.names() == ["fox"]


def test_an_interrupt_while_compact_waits_for_a_reader_hangs_nobody(path: Path):
    script = """
import signal, sys, threading, torch
from wanvideo_activation_editor.storage.records import Description
from wanvideo_activation_editor.storage.store import EmbeddingStore
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
store, reading, done = EmbeddingStore(sys.argv[1]), threading.Event(), threading.Event()
store.put(torch.ones(3, 4), Description("fox"))

def read():
    with store.database.snapshot():
        reading.set()
        done.wait()

reader = threading.Thread(target=read)
reader.start()
reading.wait()
print("waiting", flush=True)
try:
    store.database.compact()
    sys.exit("compact did not wait")
except KeyboardInterrupt:
    print("interrupted", store.names(), flush=True)  # beside the other reader
store.put(torch.ones(2, 4), Description("owl"))
done.set()
reader.join()
store.database.compact()
store.put(torch.ones(5, 4), Description("elk"))
print(store.names(), store.get("owl").value.shape[0])
store.close()
"""
    process = python(script, str(path))
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.5)  # an interrupt before compact waits is one during it too, only of less interest
    process.send_signal(signal.SIGINT)
    assert finish(process, 30) == "interrupted ['fox']\n['elk', 'fox', 'owl'] 2\n"


def test_a_search_that_takes_too_long_is_stopped_and_the_store_works_on(store: EmbeddingStore, monkeypatch):
    """A query that would never end, in place of a search among very many entries."""
    store.put(randn(3), Description(name="fox"))
    monkeypatch.setattr(search, "MOST_SECONDS", 0.1)
    with (
        pytest.raises(StoreError, match=r"took more than 0\.1 seconds and was stopped\. Search for fewer words"),
        store.database.snapshot() as db,
        search.limited(db),
    ):
        db.execute("SELECT count(*) FROM range(10000000000000) a(x) WHERE contains(x::VARCHAR, 'fox')").fetchall()
    monkeypatch.undo()
    assert [found.name for found in store.listings("fox")] == ["fox"]

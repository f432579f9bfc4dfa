"""The embedding store beside safetensors, sqlite3 and lmdb, in turns; growth; many entries; a large file; kills.

    python benchmarks/store.py turns --items 400      (needs lmdb: pip install lmdb)
    python benchmarks/store.py growth --items 1500
    python benchmarks/store.py many --items 100000
    python benchmarks/store.py large --gigabytes 9    (needs twice that on the disk of --folder)
    python benchmarks/store.py kills --kills 200
    python benchmarks/store.py full                   (as root: mounts a small tmpfs)

Embeddings of 0.5 MB: bfloat16 rows of 4096 numbers with the spread of a T5 encoder's channels. Processor times and
bytes written do not depend on what else runs; wall times do, so compare them within one run.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import torch
from safetensors.torch import load_file, save_file
from wanvideo_activation_editor.storage import database, maintenance
from wanvideo_activation_editor.storage.codec import decode, encode
from wanvideo_activation_editor.storage.errors import StoreError
from wanvideo_activation_editor.storage.records import Description
from wanvideo_activation_editor.storage.store import EmbeddingStore

SCALE = torch.exp(torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 0.5) * 0.08


def embedding(seed: int, tokens: int = 90) -> torch.Tensor:
    return (torch.randn(tokens, 4096, generator=torch.Generator().manual_seed(seed)) * SCALE).bfloat16()


def written() -> int:
    """Bytes that this process has caused to be written to storage (Linux)."""
    return int(next(line.split()[1] for line in open("/proc/self/io") if line.startswith("write_bytes")))


def memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def size(folder: Path, prefix: str = "") -> int:
    return sum(f.stat().st_size for f in folder.iterdir() if f.name.startswith(prefix))


def at(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class Timer:
    """Wall and processor milliseconds of each call."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def __call__(self, job: Callable[..., Any], *args: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = job(*args)
        self.cpu.append((time.process_time() - cpu) * 1000)
        self.wall.append((time.perf_counter() - wall) * 1000)
        return result

    def __str__(self) -> str:
        cpu, wall = at(self.cpu, 0.5), self.wall
        return f"cpu {cpu:6.2f} ms   wall {at(wall, 0.5):6.2f}, p99 {at(wall, 0.99):7.1f}, max {max(wall):7.0f} ms"


class Safetensors:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, value: torch.Tensor) -> None:
        path = self.folder / f"file.{name}"
        save_file({"v": value}, f"{path}.part")
        with open(f"{path}.part", "rb+") as file:
            os.fsync(file.fileno())
        os.replace(f"{path}.part", path)

    def get(self, name: str) -> torch.Tensor:
        return load_file(str(self.folder / f"file.{name}"))["v"].clone()


class Sqlite:
    """The store's codec in one table, log synced at each commit."""

    def __init__(self, folder: Path) -> None:
        self.db = sqlite3.connect(folder / "sqlite", isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=FULL")
        self.db.execute("CREATE TABLE t(name TEXT PRIMARY KEY, stored TEXT, rows INT, columns INT, data BLOB)")

    def put(self, name: str, value: torch.Tensor) -> None:
        e = encode(value)
        self.db.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?)", (name, e.stored, e.rows, e.columns, e.data))

    def get(self, name: str) -> torch.Tensor:
        stored, rows, columns, data = self.db.execute(
            "SELECT stored, rows, columns, data FROM t WHERE name = ?", (name,)
        ).fetchone()
        return decode(data, "bfloat16", (rows, columns), stored, rows, columns)


class Lmdb:
    def __init__(self, folder: Path) -> None:
        import lmdb

        self.db = lmdb.open(str(folder / "lmdb"), map_size=1 << 34)

    def put(self, name: str, value: torch.Tensor) -> None:
        with self.db.begin(write=True) as transaction:
            transaction.put(name.encode(), encode(value).data)

    def get(self, name: str) -> torch.Tensor:
        with self.db.begin() as transaction:
            data = transaction.get(name.encode())
        return decode(data, "bfloat16", (90, 4096), "bfloat16", 90, 4096)


class Store:
    def __init__(self, folder: Path) -> None:
        self.store = EmbeddingStore(folder / "store.duckdb")

    def put(self, name: str, value: torch.Tensor) -> None:
        self.store.put(value, Description(name, "a fox in the snow"))

    def get(self, name: str) -> torch.Tensor:
        return self.store.get(name).value


def turns(folder: Path, count: int) -> None:
    stores: dict[str, Any] = {"safetensors": Safetensors(folder), "sqlite3": Sqlite(folder)}
    try:
        stores["lmdb"] = Lmdb(folder)
    except ImportError:
        print("lmdb is not installed")
    stores["store"] = Store(folder)
    chance = random.Random(1)
    puts, gets = {k: Timer() for k in stores}, {k: Timer() for k in stores}
    bytes_written = dict.fromkeys(stores, 0)
    for i in range(count):
        value = embedding(i)
        for name in chance.sample(list(stores), len(stores)):
            before = written()
            puts[name](stores[name].put, f"n{i}", value)
            bytes_written[name] += written() - before
    for _ in range(min(300, count)):
        i = chance.randrange(count)
        expected = embedding(i)
        for name in chance.sample(list(stores), len(stores)):
            assert torch.equal(gets[name](stores[name].get, f"n{i}"), expected)
    base = {
        k: at(puts["safetensors"].wall, 0.5) if k == "put" else at(gets["safetensors"].wall, 0.5)
        for k in ("put", "get")
    }
    for name in stores:
        ratio = at(puts[name].wall, 0.5) / base["put"], at(gets[name].wall, 0.5) / base["get"]
        print(f"put {name:12} {puts[name]}   {ratio[0]:.2f} x   written {bytes_written[name] >> 20} MB")
        print(f"get {name:12} {gets[name]}   {ratio[1]:.2f} x")
    data = encode(embedding(0)).data
    print(f"compression: {90 * 4096 * 4 / len(data):.2f} of float32; 77 of 512 padded rows: "
          f"{512 * 4096 * 4 / len(encode(embedding(1, 77)).data):.1f}")  # fmt: skip


def growth(folder: Path, count: int) -> None:
    base, timer = memory(), Timer()
    with EmbeddingStore(folder / "store.duckdb") as store:
        start = written()
        for i in range(count):
            timer(store.put, embedding(i), Description(f"n{i}"))
            if i + 1 in (1000, count):
                ((payload,),) = store.database.read("SELECT sum(bytes) FROM contents")
                print(f"{i + 1}: put {timer}")
                print(f"  written/payload {(written() - start) / payload:.2f}, "
                      f"disk/payload {size(folder) / payload:.3f}, "
                      f"payload {payload >> 20} MB, memory +{memory() - base} MB", flush=True)  # fmt: skip
        store.database.checkpoint()
        print(f"  after a checkpoint: written/payload {(written() - start) / payload:.2f}, "
              f"disk/payload {size(folder) / payload:.3f}")  # fmt: skip
        for _ in range(3):
            search = Timer()
            search(store.nearest, embedding(count), 10)
            print(
                f"top 10 of {count}: {search.wall[0]:.0f} ms, cpu {search.cpu[0]:.0f} ms, memory +{memory() - base} MB"
            )
        removal = Timer()
        removal(maintenance.remove, store, [store.id_of(f"n{i}") for i in range(0, min(count, 1500), 2)])
        print(f"removing {min(count, 1500) // 2}: {removal.wall[0] / 1000:.2f} s, cpu {removal.cpu[0] / 1000:.2f} s")
        store.database.checkpoint()
        before = size(folder)
        for i in range(min(count, 1500) // 2):
            store.put(embedding(10**6 + i), Description(f"m{i}"))
        store.database.checkpoint()
        print(f"file after the next checkpoint {before / payload:.3f} of the payload, after as many puts "
              f"{size(folder) / payload:.3f}")  # fmt: skip
        compaction = Timer()
        compaction(store.database.compact)
        print(f"compact {compaction.wall[0] / 1000:.1f} s: {size(folder) / payload:.3f}; memory at most "
              f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB")  # fmt: skip


def many(folder: Path, count: int) -> None:
    """Small embeddings: what each kind of use takes with many of them."""
    with EmbeddingStore(folder / "store.duckdb") as store:
        base, timer = memory(), Timer()
        for i in range(count):
            timer(store.put, torch.full((1, 8), float(i)), Description(f"n{i}" if i % 2 else None, f"a prompt of {i}"))
        print(f"put {timer}, last tenth {at(timer.cpu[-count // 10 :], 0.5):.2f} ms")
        for what, job in {
            "names": store.names, "list, a word": lambda: store.listings("99"),
            "list, 16 words": lambda: store.listings("a " * 16),
            "search": lambda: store.nearest(torch.arange(8.0)[None], 10), "get": lambda: store.get("n1"),
            "verify": lambda: maintenance.verify(store),
            "evict": lambda: maintenance.evict(store, count * 10, dry_run=False),
            "compact": store.database.compact,
        }.items():  # fmt: skip
            once = Timer()
            once(job)
            print(f"{what:16} {once.wall[0] / 1000:7.2f} s, memory +{memory() - base} MB", flush=True)


FILL = """
import sys, torch
from wanvideo_activation_editor.storage.records import Description
from wanvideo_activation_editor.storage.store import EmbeddingStore
path, count = sys.argv[1], int(sys.argv[2])
with EmbeddingStore(path) as store:
    value = (torch.randn(90, 4096, generator=torch.Generator().manual_seed(0)) * 0.1).bfloat16()
    first = store.put(value, Description(prompt="seed"))
    ((content,),) = store.database.read("SELECT content_id FROM contents")
    store.write(lambda db: store.database.next_ids(2 * count))
    for start in range(1, count, 100):
        def copies(db, some=f"range({start}, {min(count, start + 100)}) t(k)"):
            for table, new in (("contents", f"{content} + 2 * k AS content_id"),
                               ("content_parts", f"{content} + 2 * k AS content_id"),
                               ("embeddings", f"{first} + 2 * k AS embedding_id, {content} + 2 * k AS main_id, "
                                              "hash || k AS hash, 'a prompt of ' || k AS prompt"),
                               ("embedding_parts", f"{first} + 2 * k AS embedding_id, "
                                                   f"{content} + 2 * k AS content_id")):
                key = "content_id" if table.startswith("content") else "embedding_id"
                db.execute(f"INSERT INTO {table} SELECT s.* REPLACE ({new}) FROM "
                           f"(FROM {table} WHERE {key} = {content if key == 'content_id' else first}) s, {some} "
                           "ORDER BY k")
        store.write(copies)
"""


def large(folder: Path, gigabytes: float) -> None:
    """Peak memory of each use of a large store; its rows are copies of one embedding, written by SQL in a process."""
    path, one = folder / "store.duckdb", len(encode(embedding(0)).data)
    count = int(gigabytes * 2**30 / one)
    subprocess.run([sys.executable, "-c", FILL, str(path), str(count)], check=True)
    with EmbeddingStore(path) as store:
        print(f"{count} embeddings, {size(folder) / 2**30:.2f} GB, load {os.getloadavg()[0]:.1f}", flush=True)
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ids = [store.listings(limit=1)[0].embedding_id]
        for what, job in {
            "get": lambda: store.load(ids[0]), "list, a word": lambda: store.listings("99"),
            "search": lambda: store.nearest(embedding(1), 10), "verify": lambda: maintenance.verify(store),
            "evict": lambda: maintenance.evict(store, one * count // 2, dry_run=False),
            "compact": store.database.compact,
        }.items():  # fmt: skip
            once = Timer()
            once(job)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base >> 10
            print(
                f"{what:16} {once.wall[0] / 1000:7.2f} s, cpu {once.cpu[0] / 1000:7.2f} s, peak +{peak} MB", flush=True
            )
        print(f"{size(folder) / 2**30:.2f} GB")


CHILD = """
import os, sys, torch
from wanvideo_activation_editor.storage import database
from wanvideo_activation_editor.storage.records import Description
from wanvideo_activation_editor.storage.store import EmbeddingStore
database.OPTIONS["wal_autocheckpoint"] = "4MB"
for line in sys.stdin:
    path, number = line.rsplit(" ", 1)
    child, number = os.fork(), int(number)
    if not child:
        store = EmbeddingStore(path)
        os.write(1, b"open %d\\n" % os.getpid())
        while True:
            value = torch.full((40, 1024), float(number % 251)).bfloat16() + torch.arange(1024).bfloat16()
            store.put(value, Description(f"n{number}"))
            os.write(1, b"%d\\n" % number)
            number += 1
    os.waitpid(child, 0)
    os.write(1, b"ended\\n")
"""


def kills(folder: Path, count: int) -> None:
    chance, lost, damaged, acknowledged, opened = random.Random(7), 0, 0, 0, Timer()
    parent = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdin and parent.stdout
    known: set[int] = set()
    for kill in range(count):
        path = folder / f"{kill // 10}.duckdb"
        known = known if kill % 10 else set()
        parent.stdin.write(f"{path} {max(known, default=-1) + 2}\n")
        parent.stdin.flush()
        process = int(parent.stdout.readline().split()[1])
        time.sleep(chance.uniform(0.02, 0.9))
        os.kill(process, signal.SIGKILL)
        while (line := parent.stdout.readline().strip()) != "ended":
            known.add(int(line))
            acknowledged += 1
        with opened(EmbeddingStore, path) as store:
            names = set(store.names())
            lost += sum(f"n{n}" not in names for n in known)
            damaged += len(maintenance.verify(store).damaged)
    parent.communicate()
    print(f"{count} kills, {acknowledged} acknowledged puts, {lost} lost, {damaged} damaged; opening {opened}")


def full(folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    try:
        stored, errors = 0, set[str]()
        with EmbeddingStore(folder / "s.duckdb") as store:
            for i in range(300):
                try:
                    store.put(embedding(i), Description(f"n{i}"))
                    stored += 1
                except StoreError as error:
                    errors.add(str(error)[:200])
                    break
        with EmbeddingStore(folder / "s.duckdb") as store:
            whole = all(torch.equal(store.get(f"n{i}").value, embedding(i)) for i in range(stored))
            print(f"{stored} stored, {len(store.names())} there after opening again, all equal: {whole}; {errors}")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["turns", "growth", "many", "large", "kills", "full"])
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--gigabytes", type=float, default=9)
    parser.add_argument("--folder", help="where the files are made, and removed again")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"DuckDB {duckdb.__version__}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}, {database.OPTIONS}")
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        if given.what == "turns":
            turns(folder, given.items)
        elif given.what == "growth":
            growth(folder, given.items)
        elif given.what == "many":
            many(folder, given.items)
        elif given.what == "large":
            large(folder, given.gigabytes)
        elif given.what == "kills":
            kills(folder, given.kills)
        else:
            full(folder)


if __name__ == "__main__":
    main()

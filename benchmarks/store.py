"""The embedding store measured: compression, codec speed, puts and gets against other stores, growth, search.

    python benchmarks/store.py                            all but the 10,000 items, 2 minutes
    python benchmarks/store.py --items 10000              with them: 20 minutes on slow disks, 6 GB
    python benchmarks/store.py --encoder FOLDER           rows of a real text encoder (a transformers folder)

One process. The stores take turns item by item in random order, so that drift of the machine cancels out in the
ratios; other stores than safetensors use the same codec. Every put is durable when it counts as done: safetensors
and the store's log are fsynced, sqlite3 runs with synchronous=FULL, lmdb with its default sync.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from wanvideo_activation_editor.storage import Description, EmbeddingStore, analytics, decode, encode, search, selection

WIDTH = 4096
Row = tuple[str, str, str, str]


# data


def t5_like_float32(tokens: int, seed: int) -> torch.Tensor:
    """[tokens, 4096]: heavy-tailed values with 12 outlier channels, as T5 encoders give."""
    rng = np.random.default_rng(seed)
    scale = np.exp(np.random.default_rng(0).normal(0, 0.5, WIDTH)) * 0.08
    scale[np.random.default_rng(1).choice(WIDTH, 12, replace=False)] *= 20
    return torch.from_numpy((rng.standard_t(6, (tokens, WIDTH)) * scale).astype(np.float32))


def t5_like(tokens: int, seed: int) -> torch.Tensor:
    """The same as bfloat16, the dtype that such encoders run in."""
    return t5_like_float32(tokens, seed).bfloat16()


def encoded_rows(folder: str, count: int) -> list[torch.Tensor]:
    """Hidden states of a text encoder, [tokens, 4096]: columns of several layers and prompts side by side."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rng = random.Random(0)
    words = "a red fox castle beach storm slow pan over the snow at dusk film grain portrait of two dancers".split()  # noqa: SIM905
    states: list[torch.Tensor] = []
    with torch.no_grad():
        for _ in range(count * 2):
            text = " ".join(rng.choices(words, k=90))
            out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
            states += [h[0] for h in out.hidden_states[1:]]
    needed = -(-WIDTH // states[0].shape[1])
    made = []
    for _ in range(count):
        chosen = rng.sample(states, needed)
        rows = min(len(s) for s in chosen)
        made.append(torch.cat([s[:rows] for s in chosen], dim=1)[:, :WIDTH].clone())
    return made


# measures


def order0_ratio(tensor: torch.Tensor) -> float:
    """32 bits over the order-0 entropy of the 16-bit words: the most that coding value by value can reach."""
    words = tensor.reshape(-1).view(torch.int16).numpy().view(np.uint16)
    p = np.bincount(words, minlength=65536) / words.size
    p = p[p > 0]
    return float(32 / -(p * np.log2(p)).sum())


def written_bytes() -> int:
    """Bytes that this process has caused to be written to storage (Linux)."""
    text = Path("/proc/self/io").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("write_bytes")))


def resident() -> int:
    """Resident memory in bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def timed(action: Callable[[], Any]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def most(value: float, limit: float) -> str:
    return f"<= {limit:g}: {'met' if value <= limit else 'MISSED'}"


def least(value: float, limit: float) -> str:
    return f">= {limit:g}: {'met' if value >= limit else 'MISSED'}"


# sections


def compression(samples: dict[str, list[torch.Tensor]]) -> list[Row]:
    rows: list[Row] = []
    for name, wide in samples.items():
        tensors = [t.bfloat16() for t in wide]
        values = sum(t.numel() for t in tensors)
        joined = torch.cat([t.reshape(-1) for t in tensors])
        blob = sum(len(encode(t).blob) for t in tensors)
        ratio, bound = 4 * values / blob, order0_ratio(joined)
        share = 100 * ratio / bound
        rows += [
            (f"{name}, bf16 kept exactly, against fp32", f"{ratio:.3f}", f"limit {bound:.3f}", least(ratio, 2.9)),
            (f"{name}, share of the order-0 limit", f"{share:.1f}%", "", least(share, 98)),
        ]
        rounded = [encode(t) for t in wide]
        ratio = 4 * values / sum(len(e.blob) for e in rounded)
        rows.append((f"{name}, fp32 rounded to {rounded[0].stored}", f"{ratio:.3f}", "", least(ratio, 2.25)))
        compact = 4 * values / sum(len(encode(t, "compact").blob) for t in wide)
        rows.append((f"{name}, compact", f"{compact:.3f}", "", ""))
    longest = max(samples[next(iter(samples))], key=len)
    while len(longest) < 130:
        longest = torch.cat([longest, longest.flip(1)])
    for tokens, limit in ((77, 19), (130, 11)):
        padded = torch.zeros(1, 512, WIDTH)
        padded[0, :tokens] = longest[:tokens].bfloat16()
        ratio = padded.numel() * 4 / len(encode(padded).blob)
        rows.append((f"padded fp32 [1, 512, 4096], {tokens} tokens", f"{ratio:.2f}", "", least(ratio, limit)))
    return rows


def codec_speed() -> list[Row]:
    torch.set_num_threads(1)
    tensor = t5_like(122, 0)  # 1.0 MB of 16-bit values
    blob = encode(tensor).blob
    size = tensor.numel() * 2 / 1e6
    times: dict[str, list[float]] = {"encode": [], "decode": []}
    for _ in range(60):
        times["encode"].append(timed(lambda: encode(tensor)))
        times["decode"].append(timed(lambda: decode(blob, "bfloat16", tensor.shape)))
    rows = []
    for name, limit in (("encode", 300), ("decode", 500)):
        speed = size / statistics.median(times[name]) * 1000
        best = size / min(times[name]) * 1000
        rows.append(
            (
                f"{name}, 1 MB, one thread, MB/s of 16-bit values",
                f"{speed:.0f}",
                f"best {best:.0f}",
                least(speed, limit),
            )
        )
    return rows


class Safetensors:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, key: str, tensor: torch.Tensor) -> None:
        temporary = self.folder / f"{key}.tmp"
        save_file({"t": tensor}, temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, self.folder / key)

    def get(self, key: str) -> torch.Tensor:
        return load_file(self.folder / key)["t"]

    def reopen(self) -> None:
        pass


class Sqlite:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "store.sqlite"
        self.reopen()
        self.connection.execute("CREATE TABLE t(k TEXT PRIMARY KEY, shape TEXT, data BLOB)")

    def reopen(self) -> None:
        self.connection = sqlite3.connect(self.path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=FULL")

    def put(self, key: str, tensor: torch.Tensor) -> None:
        shape = ",".join(map(str, tensor.shape))
        self.connection.execute("INSERT INTO t VALUES (?, ?, ?)", (key, shape, encode(tensor).blob))

    def get(self, key: str) -> torch.Tensor:
        shape, data = self.connection.execute("SELECT shape, data FROM t WHERE k = ?", (key,)).fetchone()
        return decode(data, "bfloat16", tuple(map(int, shape.split(","))))


class Lmdb:
    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.environment = lmdb.open(self.folder, map_size=16 << 30)

    def reopen(self) -> None:
        self.environment.close()
        self.environment = lmdb.open(self.folder, map_size=16 << 30)

    def put(self, key: str, tensor: torch.Tensor) -> None:
        with self.environment.begin(write=True) as transaction:
            transaction.put(key.encode(), np.array(tensor.shape, np.int32).tobytes() + encode(tensor).blob)

    def get(self, key: str) -> torch.Tensor:
        with self.environment.begin() as transaction:
            data = transaction.get(key.encode())
        return decode(data[8:], "bfloat16", tuple(np.frombuffer(data[:8], np.int32).tolist()))


class Ours:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "store.duckdb"
        self.store = EmbeddingStore.open(self.path)

    def reopen(self) -> None:
        self.store.close()
        self.store = EmbeddingStore.open(self.path)

    def put(self, key: str, tensor: torch.Tensor) -> None:
        self.store.put(tensor, Description(key, prompt=f"prompt of {key}"))

    def get(self, key: str) -> torch.Tensor:
        value = self.store.get(key).value
        assert isinstance(value, torch.Tensor)
        return value


def puts_and_gets(folder: Path, count: int) -> list[Row]:
    """Items of 40 to 180 tokens, put in turns, then got in turns after every store was opened again."""
    stores: dict[str, Any] = {}
    for name, kind in {"this store": Ours, "safetensors, fsync": Safetensors, "sqlite3": Sqlite, "lmdb": Lmdb}.items():
        (folder / name).mkdir()
        stores[name] = kind(folder / name)
    rng = random.Random(3)
    times: dict[tuple[str, str], list[float]] = {(n, a): [] for n in stores for a in ("put", "get")}
    tensors = {f"e{i}": t5_like(rng.randint(40, 180), i) for i in range(count)}
    for key, tensor in tensors.items():
        for name in rng.sample(list(stores), len(stores)):
            times[name, "put"].append(timed(lambda n=name, k=key, t=tensor: stores[n].put(k, t)))
    for store in stores.values():
        store.reopen()
    for key in rng.sample(list(tensors), count):
        for name in rng.sample(list(stores), len(stores)):
            times[name, "get"].append(timed(lambda n=name, k=key: stores[n].get(k)))
        assert all(torch.equal(stores[n].get(key), tensors[key]) for n in stores if rng.random() < 0.05)
    rows = []
    for action, limit in (("put", 3), ("get", 9)):
        base = statistics.median(times["safetensors, fsync", action])
        for name in stores:
            own = times[name, action]
            ratio = statistics.median(own) / base
            calm = percentile(own, 0.1) / percentile(times["safetensors, fsync", action], 0.1)
            detail = (
                f"{statistics.median(own):.2f} ms, mean {statistics.mean(own):.2f}, p99 {percentile(own, 0.99):.0f}; "
                f"fastest tenth {calm:.2f}"
            )
            rows.append(
                (
                    f"{action}, {name}",
                    f"{ratio:.2f}",
                    detail,
                    most(ratio, limit) if name == "this store" else "",
                )
            )
    stores["this store"].store.close()
    return rows


def growth(folder: Path, count: int, started_at: int) -> list[Row]:
    """Puts of 93 tokens, 0.5 MB each; then the search over all of them."""
    path = folder / "growth" / "store.duckdb"
    store = EmbeddingStore.open(path)
    base = t5_like(93, 0)
    before, memory, rows = written_bytes(), resident(), list[Row]()
    payload, peak, puts = 0, 0, list[float]()
    marks = [m for m in (1000, 2000, 5000, 10_000) if m <= count] or [count]
    for i in range(count):
        tensor = (base.float() * (1 + 0.002 * (i % 400)) + t5_like(1, i).float() * 0.5).bfloat16()
        puts.append(timed(lambda t=tensor, n=i: store.put(t, Description(f"e{n}", prompt=f"prompt {n}"))))
        peak = max(peak, resident())
        if i + 1 in marks:
            store.flush()
            figures = analytics.stats(store)
            payload = figures.stored_bytes
            amplification = (written_bytes() - before) / payload
            recent = puts[-1000:]
            mean = statistics.mean(recent)
            size = (figures.file_bytes + figures.log_bytes) / payload
            rows += [
                (f"{i + 1} items, put median of the last 1,000, ms", f"{statistics.median(recent):.2f}",
                 f"mean {mean:.2f}, p99 {percentile(recent, 0.99):.0f}, max {max(recent):.0f}", ""),
                (f"{i + 1} items, bytes written for each byte of payload", f"{amplification:.2f}",
                 f"{payload / 1e6:.0f} MB payload", most(amplification, 4)),
                (f"{i + 1} items, file and log over payload", f"{size:.3f}", "", most(size, 1.1)),
            ]  # fmt: skip
    store.close()
    opening = timed(lambda: EmbeddingStore.open(path).close())
    store = EmbeddingStore.open(path)
    gets = [timed(lambda n=n: store.get(f"e{n}")) for n in random.Random(1).sample(range(count), min(300, count))]
    after_puts = peak
    query = t5_like(80, 77)
    first = timed(lambda: selection.nearest(store, query, 10))
    searches = [timed(lambda: selection.nearest(store, query, 10)) for _ in range(15)]
    vector = search.pooled(query)
    matrix = [timed(lambda: store.vectors.nearest(vector, 10)) for _ in range(30)]
    added, in_all = (after_puts - memory) / 1e6, (max(peak, resident()) - memory) / 1e6
    rows += [
        (f"{count} items, open, ms", f"{opening:.0f}", "", ""),
        (f"{count} items, get median, ms", f"{statistics.median(gets):.2f}", f"p99 {percentile(gets, 0.99):.0f}", ""),
        (f"top 10 of {count} x 4096, ms", f"{statistics.median(matrix):.2f}", f"first, with reading: {first:.0f}",
         most(statistics.median(matrix), 15)),
        ("the same with the lines of the report, ms", f"{statistics.median(searches):.1f}", "", ""),
        ("memory added by puts, MB", f"{added:.0f}", "", most(added, 400)),
        ("memory added by puts, gets and search, MB", f"{in_all:.0f}",
         f"after imports {started_at / 1e6:.0f} MB", most(in_all, 400)),
    ]  # fmt: skip
    store.close()
    return rows


def show(title: str, rows: Sequence[Row]) -> None:
    print(f"\n### {title}\n\n| what | measured | | target |\n|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1000, help="items of the growth section")
    parser.add_argument("--compared", type=int, default=300, help="items put into every store")
    parser.add_argument("--encoder", help="folder of a text encoder for real rows")
    parser.add_argument("--only", choices=["compression", "codec", "compared", "growth"])
    parser.add_argument("--folder", help="where to put the stores; a disk, not a RAM disk")
    args = parser.parse_args()
    started_at = resident()
    folder = Path(tempfile.mkdtemp(prefix="store-benchmark-", dir=args.folder))
    try:
        if args.only in (None, "growth"):
            show("Growth", growth(folder, args.items, started_at))
        if args.only in (None, "compression"):
            samples = {"T5-like rows": [t5_like_float32(n, n) for n in (20, 77, 130, 256)]}
            if args.encoder:
                samples[f"rows of {Path(args.encoder).parent.name}"] = encoded_rows(args.encoder, 20)
            show("Compression", compression(samples))
        if args.only in (None, "codec"):
            show("Codec", codec_speed())
        if args.only in (None, "compared"):
            show("Puts and gets, as ratios to safetensors", puts_and_gets(folder, args.compared))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

"""kill -9 in the middle of puts, many times: what was acknowledged must be there, and the file must open.

    python benchmarks/store_kill.py            200 kills, 10 to a store
    python benchmarks/store_kill.py --kills 20

A parent process forks writers (one import of torch for all); each puts until it is killed 20 to 900 ms after it
had opened the store. Then this process opens the file, verifies every blob, and compares what was acknowledged.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from wanvideo_activation_editor.storage import Description, EmbeddingStore
from wanvideo_activation_editor.storage.maintenance import verify

PER_STORE = 10


def value(number: int) -> torch.Tensor:
    """[60, 4096] bfloat16, different for each number, 0.3 MB when stored."""
    generator = torch.Generator().manual_seed(number)
    return (torch.randn(60, 4096, generator=generator) * 0.1).bfloat16()


def say(text: str) -> None:
    """One system call, so that a kill cannot cut the line."""
    os.write(1, f"{text}\n".encode())


def put_for_ever(path: str, number: int) -> None:
    store = EmbeddingStore.open(path)
    say(f"open {os.getpid()}")
    while True:
        store.put(value(number), Description(f"n{number}"))
        say(str(number))
        number += 1


def serve_writers() -> None:
    """Fork a writer for each line "path number" and wait for its end."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        path, number = line.rsplit(" ", 1)
        child = os.fork()
        if not child:
            put_for_ever(path, int(number))
        os.waitpid(child, 0)
        say("ended")


def killed_run(parent: subprocess.Popen[str], path: Path, first: int, seconds: float) -> list[int]:
    """Numbers that a writer acknowledged before it was killed."""
    assert parent.stdin is not None and parent.stdout is not None
    parent.stdin.write(f"{path} {first}\n")
    parent.stdin.flush()
    word, _, process = parent.stdout.readline().partition(" ")
    assert word == "open", "the file did not open"
    time.sleep(seconds)
    os.kill(int(process), signal.SIGKILL)
    acknowledged = []
    while (line := parent.stdout.readline().strip()) != "ended":
        acknowledged.append(int(line))
    return acknowledged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--writers", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.writers:
        serve_writers()
        return
    command = [sys.executable, __file__, "--writers"]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
    rng, known, opened = random.Random(1), set[int](), list[float]()
    lost = damaged = unacknowledged = logs = acknowledged = aside = wrong = 0
    with tempfile.TemporaryDirectory(prefix="store-kill-") as folder:
        for kill in range(args.kills):
            path = Path(folder) / f"{kill // PER_STORE}.duckdb"
            if kill % PER_STORE == 0:
                known = set()
            new = killed_run(parent, path, max(known, default=-1) + 2, rng.uniform(0.02, 0.9))
            known.update(new)
            acknowledged += len(new)
            logs += path.with_name(path.name + ".wal").exists()
            started = time.perf_counter()
            with EmbeddingStore.open(path) as store:
                opened.append((time.perf_counter() - started) * 1000)
                names = {int(n[1:]) for n in store.names()}
                lost += len(known - names)
                unacknowledged += len(names - known)
                known |= names
                if kill % PER_STORE == PER_STORE - 1 or kill == args.kills - 1:
                    damaged += len(verify(store).damaged)
                chosen = rng.sample(sorted(known), min(1, len(known)))
                wrong += sum(not torch.equal(store.get(f"n{n}").value, value(n)) for n in chosen)
            aside += len(list(Path(folder).glob("*damaged*")))
    parent.communicate()
    print(f"{args.kills} kills, {acknowledged} puts acknowledged")
    print(f"lost after being acknowledged: {lost}")
    print(f"files that did not open or were set aside: {aside}")
    print(f"damaged blobs: {damaged}, values that differ (one compared after each kill): {wrong}")
    print(f"committed but not yet acknowledged: {unacknowledged}, log present: {logs}")
    print(f"opening after a kill: median {statistics.median(opened):.0f} ms, most {max(opened):.0f} ms")
    sys.exit(1 if lost or damaged or aside or wrong else 0)


if __name__ == "__main__":
    main()

"""kill -9 in the middle of puts: what was acknowledged is there, whole, and the file always opens."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from wanvideo_activation_editor.storage import EmbeddingStore
from wanvideo_activation_editor.storage.maintenance import verify

from .helpers import python

ROUNDS = 20
ROUNDS_PER_STORE = 5

PARENT = """
import os, sys, torch
from wanvideo_activation_editor.storage import Description, EmbeddingStore
from wanvideo_activation_editor.storage import segments

segments.MAX_BYTES = 1 << 20  # checkpoints come often

def say(text):
    os.write(1, (text + "\\n").encode())  # one call: a kill cannot cut it

def put_for_ever(path, number):
    store = EmbeddingStore.open(path)
    say(f"open {os.getpid()}")
    while True:
        value = torch.full((40, 1024), float(number % 251)).bfloat16() + torch.arange(1024).bfloat16()
        store.put(value, Description(f"n{number}"))
        say(str(number))
        number += 1

for line in sys.stdin:
    path, number = line.rsplit(" ", 1)
    child = os.fork()
    if not child:
        put_for_ever(path, int(number))
    os.waitpid(child, 0)
    say("ended")
"""


def expected(number: int) -> torch.Tensor:
    return torch.full((40, 1024), float(number % 251)).bfloat16() + torch.arange(1024).bfloat16()


class Writers:
    """Processes that put until they are killed, forked from one that has imported everything."""

    def __init__(self) -> None:
        self._parent = python(PARENT, stdin=subprocess.PIPE)

    def killed_run(self, path: Path, first: int, seconds: float) -> list[int]:
        """Numbers that a writer acknowledged before it was killed, `seconds` after it had opened the store."""
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.write(f"{path} {first}\n")
        self._parent.stdin.flush()
        word, _, process = self._parent.stdout.readline().partition(" ")
        assert word == "open", self._parent.communicate()[1]
        time.sleep(seconds)
        os.kill(int(process), signal.SIGKILL)
        acknowledged = []
        while (line := self._parent.stdout.readline().strip()) != "ended":
            acknowledged.append(int(line))
        return acknowledged

    def close(self) -> None:
        self._parent.communicate()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path):
    moments, writers = random.Random(5), Writers()
    lost, acknowledged = [], 0
    for store_number in range(ROUNDS // ROUNDS_PER_STORE):
        path = tmp_path / f"{store_number}.duckdb"
        known: set[int] = set()
        for _ in range(ROUNDS_PER_STORE):
            known.update(writers.killed_run(path, max(known, default=-1) + 2, moments.uniform(0.02, 0.7)))
            with EmbeddingStore.open(path) as store:
                assert store.persistent
                names = set(store.names())
                lost += [n for n in known if f"n{n}" not in names]
                assert not verify(store).damaged
                for n in moments.sample(sorted(known), min(5, len(known))):
                    assert torch.equal(store.get(f"n{n}").value, expected(n))
            assert not list(tmp_path.glob("*damaged*"))
        acknowledged += len(known)
    writers.close()
    assert lost == []
    assert acknowledged > ROUNDS

"""Kill a sweep at random moments, again and again: no cell may be lost or sampled twice.

    python tests/sweeps/kills.py --kills 50

Each process is forked from this one, which has the model ready, and ends by SIGKILL. In the end the sweep is finished
and its table compared with that of one that was left alone.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from wanvideo_activation_editor import tiny_wan
from wanvideo_activation_editor.storage.store import EmbeddingStore
from wanvideo_activation_editor.sweeps import Model, Plan, sweep
from wanvideo_activation_editor.sweeps import running as engine

PAIR = ("a red circle moving left at night", "a blue square moving right on the sea")
CALL = {"num_inference_steps": 1, "guidance_scale": 1.0, "height": 16, "width": 16, "num_frames": 1}
MOMENTS: Counter[str] = Counter()
LATEST = 2.0  # seconds after which a sweep is killed


class Noted(engine.Worker):
    """A worker that notes the beginning of each cell."""

    notes: Path

    def run(self, cell, given=None):
        with self.notes.open("a") as file:
            file.write(f"{cell.id}\n")
        return super().run(cell, given)


def child(plan: Plan, folder: Path) -> int:
    pid = os.fork()
    if not pid:
        status = 1
        try:
            sweep(plan, folder, progress=False)
            status = 0
        finally:
            os._exit(status)
    return pid


def recorded(folder: Path) -> list[str]:
    if not (folder / "sweep.duckdb").exists():
        return []
    with EmbeddingStore(folder / "sweep.duckdb") as store:
        return [cell for (cell,) in store.database.read("SELECT cell FROM sweep_cells")]


def small() -> Model:
    """Two blocks of the tiny model, on one frame of 2 x 2 latents: cells of a few milliseconds."""
    pipe = tiny_wan.pipeline()
    pipe.transformer.blocks = pipe.transformer.blocks[:2]
    return Model("small", pipe, functools.cache(tiny_wan.encode))


def round_of_kills(plan: Plan, folder: Path, kills: int, rng: random.Random) -> int:
    """Kill a new sweep until it is done, at most `kills` times; the number of kills."""
    for killed in range(kills):
        before = recorded(folder)
        assert len(before) == len(set(before)), "a cell has two rows"
        pid = child(plan, folder)
        time.sleep(rng.uniform(0, LATEST))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        begun = Noted.notes.read_text().split() if Noted.notes.exists() else []
        assert not set(begun) & set(before), "a cell was sampled again"
        Noted.notes.unlink(missing_ok=True)
        after = recorded(folder)
        assert set(before) <= set(after), "a cell was lost"
        assert len(set(begun) - set(after)) <= 1, "more than the cell in progress was lost"
        MOMENTS["in a cell" if set(begun) - set(after) else "between cells" if begun else "while opening"] += 1
        if not os.WIFSIGNALED(status):
            assert status == 0, "the sweep has failed"
            return killed
    return kills


def main(kills: int, seeds: int, seed: int) -> None:
    plan = Plan([PAIR], [small()], blocks=["each"], seeds=seeds, distances=["relative_l2"], call=CALL)
    rng, killed, rounds = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        Noted.notes = Path(name) / "begun"
        engine.Worker = Noted
        whole = table(plan, Path(name) / "whole")
        while killed < kills:
            folder = Path(name) / str(rounds)
            Noted.notes.unlink(missing_ok=True)
            killed, rounds = killed + round_of_kills(plan, folder, kills - killed, rng), rounds + 1
            assert table(plan, folder) == whole, "the tables differ"
    sys.stdout.write(
        f"{killed} kills of sweeps of {len(whole)} cells, {rounds} sweeps in all: no cell lost, none sampled twice; "
        f"the tables are those of a sweep left alone. Killed {dict(MOMENTS)}.\n"
    )


def table(plan: Plan, folder: Path) -> list[dict]:
    found = sweep(plan, folder, progress=False)
    assert not found.failed, found.failed
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found.rows]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=20, help="of the plan, which has 7 cells for each")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    main(given.kills, given.seeds, given.seed)

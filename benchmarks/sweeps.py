"""What a sweep costs beside a bare loop, and whether its memory grows.

    python benchmarks/sweeps.py               overhead per cell, on the tiny model with its 8 steps
    python benchmarks/sweeps.py --memory      resident memory over 1,000 cells of a model of two blocks
    python benchmarks/sweeps.py --ray         time per cell of 2 s on a Ray cluster of three local nodes

The bare loop samples, decodes and measures the same clips, and writes nothing. Processor time of this process, and
elapsed time, as ratios in one run; cells of both take turns, so that drift cancels out. Cells for Ray sleep for most of
their 2 s, so that three of them run beside each other on two cores. `python tests/sweeps/kills.py` kills sweeps.
"""

from __future__ import annotations

import argparse
import functools
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from wanvideo_activation_editor import inject, tiny_wan
from wanvideo_activation_editor.probing.distances import DISTANCES
from wanvideo_activation_editor.storage.store import EmbeddingStore
from wanvideo_activation_editor.sweeps import Model, Plan, sweep
from wanvideo_activation_editor.sweeps.cells import Worker
from wanvideo_activation_editor.sweeps.plan import tiny_readout
from wanvideo_activation_editor.sweeps.results import Results
from wanvideo_activation_editor.sweeps.running import Serial, _Recorder

FIRST, SECOND = "a red circle moving left at night", "a blue square moving right on the sea"
SHORT = {"num_inference_steps": 1, "guidance_scale": 1.0, "height": 16, "width": 16, "num_frames": 1}


def overhead(cells: int) -> None:
    """Cells of a sweep and of a loop in turns; the median of the ratios of each turn."""
    pipe, encode = tiny_wan.pipeline(), functools.cache(tiny_wan.encode)
    model = Model("tiny", pipe, encode)
    call = dict(tiny_wan.CALL)
    plan = Plan(
        [(FIRST, SECOND)], [model], ["each"], seeds=-(-cells // 10), controls=False, call=call, readout="tiny_wan"
    )
    planned = plan.cells(model, 10)
    plains = {c.seed: c for c in planned if c.kind == "plain"}
    arguments = {**call, "output_type": "latent", "negative_prompt_embeds": encode("")}

    def bare(cell: Any, plain: torch.Tensor) -> None:
        generator = torch.Generator().manual_seed(cell.seed)
        with torch.no_grad(), inject(pipe, encode(SECOND), cell.blocks):
            latents = pipe(prompt_embeds=encode(FIRST), generator=generator, **arguments).frames
        tiny_readout(tiny_wan.decode(latents))
        for distance in DISTANCES.values():
            distance(plain, latents)

    with tempfile.TemporaryDirectory() as folder, EmbeddingStore(Path(folder) / "sweep.duckdb") as store:
        results, serial = Results(store), Serial()
        recorder = _Recorder(plan, results, len(planned), True)

        def swept(cell: Any) -> None:
            for found in serial.outcomes(model, [cell]):
                recorder.add(*found)

        for cell in plains.values():
            swept(cell)
        ratios: dict[str, list[float]] = {"processor": [], "elapsed": []}
        extra = []
        for number, cell in enumerate([c for c in planned if c.kind == "edit"][:cells]):
            plain = results.latents(plains[cell.seed])
            assert plain is not None
            took = {}
            turns = [("bare", lambda c=cell, p=plain: bare(c, p)), ("sweep", lambda c=cell: swept(c))]
            for name, run in turns[:: 1 if number % 2 else -1]:
                start = time.process_time(), time.perf_counter()
                run()
                took[name] = time.process_time() - start[0], time.perf_counter() - start[1]
            for i, kind in enumerate(ratios):
                ratios[kind].append(took["sweep"][i] / took["bare"][i] - 1)
            extra.append(took["sweep"][0] - took["bare"][0])
        recorder.close()
    for kind, found in ratios.items():
        low, _, high = statistics.quantiles(found, n=4)
        print(f"{kind} time over a bare loop: {statistics.median(found):+.1%} (quartiles {low:+.1%} to {high:+.1%})")
    print(f"{len(extra)} cells; median {1000 * statistics.median(extra):.1f} ms of processor time more per cell")


def memory(cells: int) -> None:
    """Resident memory after 100 cells, and after each hundred more."""
    model = small()
    taken: list[float] = []

    def noted(a: torch.Tensor, b: torch.Tensor) -> float:
        taken.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6)
        return 0.0

    plan = Plan([(FIRST, SECOND)], [model], ["each"], seeds=-(-cells // 7), distances={"memory": noted}, call=SHORT)
    with tempfile.TemporaryDirectory() as folder:
        found = sweep(plan, folder)
    assert not found.failed
    print(f"{len(taken)} cells; resident MB after each hundred: " + ", ".join(f"{m:.0f}" for m in taken[99::100]))
    print(f"last over 200th: {taken[-1] / taken[199] - 1:+.1%}")


def small(pause: float = 0.0) -> Model:
    """Two blocks of the tiny model; each cell waits first."""

    def pipeline() -> Any:
        pipe = tiny_wan.pipeline()
        pipe.transformer.blocks = pipe.transformer.blocks[:2]
        return pipe

    def encode(text: str) -> torch.Tensor:
        if text == FIRST:
            time.sleep(pause)
        return tiny_wan.encode(text)

    return Model("small", pipeline, encode, block_count=2)


def on_ray(seeds: int) -> None:
    """Time per cell of three actors, with results measured and stored, beside that of one worker alone."""
    import ray
    from ray.cluster_utils import Cluster
    from wanvideo_activation_editor.sweeps.on_ray import OnRay

    model = small(2.0)
    plan = Plan(
        [(FIRST, SECOND)], [model], ["each"], seeds=seeds, controls=False, distances=["relative_l2"], call=SHORT
    )
    cells = plan.cells(model, 2)
    plain, edits = ([c for c in cells if (c.kind == "plain") == stage] for stage in (True, False))
    worker, bare = Worker(model), []
    for cell in edits[:6]:
        start = time.perf_counter()
        worker.run(cell)
        bare.append(time.perf_counter() - start)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    with tempfile.TemporaryDirectory() as folder, EmbeddingStore(Path(folder) / "sweep.duckdb") as store:
        engine = OnRay(cluster.address)
        recorder = _Recorder(plan, Results(store), len(cells), False)
        for found in engine.outcomes(model, plain):  # the actors start
            recorder.add(*found)
        start = time.perf_counter()
        for found in engine.outcomes(model, edits):
            assert not isinstance(found[1], Exception), found[1]
            recorder.add(*found)
        took = 3 * (time.perf_counter() - start) / len(edits)
        engine.close()
    ray.shutdown()
    cluster.shutdown()
    alone = statistics.median(bare)
    print(
        f"{len(edits)} cells on 3 actors: {took:.3f} s of an actor per cell, {took / alone - 1:+.1%} over {alone:.3f} s"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--ray", action="store_true")
    given = parser.parse_args()
    if given.memory:
        memory(1000)
    elif given.ray:
        on_ray(seeds=9)
    else:
        overhead(given.cells)

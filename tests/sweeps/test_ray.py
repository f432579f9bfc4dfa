"""A Ray cluster of three local nodes, one of which is killed in mid-run, gives the table of one process.

Needs `ray`, which CI does not install: it is skipped there.
"""

from __future__ import annotations

import threading
import time

import pytest
import torch
from wanvideo_activation_editor.storage.store import EmbeddingStore
from wanvideo_activation_editor.sweeps import sweep

from .conftest import plan

ray = pytest.importorskip("ray", minversion="2.60")


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield made, [made.add_node(num_cpus=1) for _ in range(2)]
    finally:
        ray.shutdown()
        made.shutdown()


def test_three_nodes_with_one_killed_give_the_table_of_one_process(cluster, tmp_path):
    made, (_, victim) = cluster
    made.wait_for_nodes()
    many = plan(blocks=["each"], seeds=[0])
    store = EmbeddingStore(tmp_path / "sweep.duckdb")
    killed_at = []

    def kill() -> None:
        while not (count := store.database.read("SELECT count(*) FROM sweep_cells")[0][0]):
            time.sleep(0.05)
        made.remove_node(victim, allow_graceful=False)
        killed_at.append(count)

    thread = threading.Thread(target=kill)
    thread.start()
    with store:
        found = sweep(many, tmp_path / "ray", store=store, engine="ray", address=made.address, progress=False)
        thread.join()
    assert killed_at and killed_at[0] < len(found.rows)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as Ray gives each actor
    try:
        alone = sweep(many, tmp_path / "alone", progress=False)
    finally:
        torch.set_num_threads(threads)
    tables = [[{k: v for k, v in row.items() if k != "seconds"} for row in t.rows] for t in (found, alone)]
    assert not found.failed and tables[0] == tables[1]


def test_a_cell_that_fails_twice_is_reported_and_the_rest_goes_on(tmp_path):
    from wanvideo_activation_editor.sweeps import Model

    def encode(text):
        from wanvideo_activation_editor import tiny_wan

        if text == "broken":
            raise RuntimeError("no such words")
        return tiny_wan.encode(text)

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        pairs, models = [("a red circle", "broken"), ("a red circle", "a red circle")], [Model("tiny", encode=encode)]
        given = plan(pairs=pairs, models=models, seeds=[0], blocks=["1"], controls=False)
        found = sweep(given, tmp_path, engine="ray", progress=False)
    finally:
        ray.shutdown()
    (failed,) = found.failed
    assert failed["other"] == "broken" and "no such words" in failed["error"] and len(found.rows) == 3

"""Sweeps on ComfyUI servers: two give the table of one, and one that is killed leaves its cells to the other."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from wanvideo_activation_editor.storage.store import EmbeddingStore
from wanvideo_activation_editor.sweeps import Model, Plan, sweep
from wanvideo_activation_editor.tiny_wan import comfyui

from .server import ComfyServer
from .test_tiny_wan import CFG, FIRST, MODEL, SECOND, SHIFT, TEXTS, VAE, caption, prompt, read
from .workflows import Workflow, output

SWEPT = Plan(
    [(FIRST, SECOND)],
    [Model("tiny", block_count=10)],
    blocks=["all", "7-9", "0-2"],
    seeds=[7, 8],
    call={"steps": 4},
    readout=lambda frames: {"caption": caption(read(frames))},
)


def workflow() -> Workflow:
    """The tiny model's sampling, with names where a plan's values go."""
    flow = Workflow()
    model = flow.add("UNETLoader", unet_name=MODEL, weight_dtype="default")
    model = flow.add("ModelSamplingSD3", model=model, shift=SHIFT)
    edited = flow.add(
        "WanVideoActivationEditor",
        model=model,
        text_embeds=prompt(flow, "{prompt}"),
        injection_embeds=prompt(flow, "{other}"),
        injection_strength="{strength}",
        block_activations="{blocks}",
        enable_patching=True,
        log_level="off",
        injection_mode="context",
        start_percent="{window_start}",
        end_percent="{window_end}",
    )
    latents = flow.add(
        "KSampler",
        model=edited,
        positive=output(edited, 1),
        negative=prompt(flow, comfyui.EMPTY),
        latent_image=flow.add("EmptyHunyuanLatentVideo", width=64, height=64, length=17, batch_size=1),
        seed="{seed}",
        steps="{steps}",
        cfg=CFG,
        sampler_name="euler",
        scheduler="simple",
        denoise=1.0,
    )
    flow.add("SaveLatent", samples=latents, filename_prefix="sweep")
    images = flow.add("VAEDecode", samples=latents, vae=flow.add("VAELoader", vae_name=VAE))
    flow.add("SaveImage", images=images, filename_prefix="sweep")
    return flow


def ready(server: ComfyServer) -> ComfyServer:
    comfyui.write_files(server.base)
    flow = Workflow()
    flow.add("WanVideoImportEmbeddings", file=TEXTS, replace=True)
    server.run(flow).checked()
    return server


@pytest.fixture
def second(server: ComfyServer, tmp_path: Path):
    (tmp_path / "models").symlink_to((server.base / "models").resolve(), target_is_directory=True)
    other = ComfyServer(tmp_path, server.wrapper)
    try:
        other.start()
        yield ready(other)
    finally:
        other.stop()


def table(found) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found.rows]


def test_two_servers_one_of_which_is_killed_give_the_table_of_one(server: ComfyServer, second: ComfyServer, tmp_path):
    ready(server)
    store = EmbeddingStore(tmp_path / "sweep.duckdb")

    def kill() -> None:
        while (
            store.database.read("SELECT count(*) FROM sweep_cells")[0][0] < 3
            or not second.call("/queue")["queue_running"]
        ):
            time.sleep(0.01)
        second._process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    options = {"engine": "comfyui", "workflow": workflow(), "progress": False}
    with store:
        found = sweep(SWEPT, tmp_path / "two", store=store, servers=[second.url, server.url], **options)
        killer.join()
    alone = sweep(SWEPT, tmp_path / "one", servers=[server.url], **options)
    assert not found.failed and table(found) == table(alone)
    by = {(r["kind"], r["blocks"], r["seed"]): r for r in found.rows}
    assert {r["kind"] for r in found.rows} == {"plain", "edit", "random_blocks"}
    for seed in (7, 8):
        assert by["plain", "none", seed]["read_caption"] == FIRST
        assert by["edit", "all", seed]["read_caption"] == SECOND
    only = sweep(
        Plan([(SECOND, FIRST)], SWEPT.models, seeds=[7], call=SWEPT.call),
        tmp_path / "swapped",
        servers=[server.url],
        **options,
    )
    (plain,) = (r for r in only.rows if r["kind"] == "plain")
    assert plain["latents_sha256"] == by["edit", "all", 7]["latents_sha256"]


def test_what_a_server_refuses_is_in_the_table(server: ComfyServer, tmp_path):
    flow = ready(server) and workflow()
    flow["1"]["inputs"]["unet_name"] = "nowhere.safetensors"
    plan = Plan([(FIRST, SECOND)], SWEPT.models, seeds=[7])
    found = sweep(plan, tmp_path, engine="comfyui", workflow=flow, servers=[server.url], progress=False)
    assert len(found.failed) == len(found.rows) == 2
    assert all("nowhere.safetensors" in row["error"] for row in found.failed)


def test_options_without_meaning_are_refused(tmp_path):
    for options, message in (
        ({}, "servers: give a list"),
        ({"servers": ["file:///etc"]}, "no address such as"),
        ({"servers": ["http://127.0.0.1:1"], "workflow": {"1": {}}}, r'no input is "{seed}"'),
        ({"speed": 1}, "engine 'comfyui'"),
    ):
        with pytest.raises(ValueError, match=message):
            sweep(SWEPT, tmp_path, engine="comfyui", progress=False, **options)
    with pytest.raises(ValueError, match="No ComfyUI server answers"):
        sweep(SWEPT, tmp_path, engine="comfyui", servers=["http://127.0.0.1:1"], workflow=workflow(), progress=False)

"""The tiny trained model in ComfyUI: its files are read by stock loaders, and what an edit does can be seen."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from wanvideo_activation_editor import tiny_wan
from wanvideo_activation_editor.tiny_wan import comfy_vae, comfyui
from wanvideo_activation_editor.tiny_wan.codec import scaled
from wanvideo_activation_editor.tiny_wan.wan_pipeline import WEIGHTS

from . import graph_files
from .server import REPOSITORY, ComfyServer, Result
from .workflows import Link, Workflow, output

FIRST, SECOND = comfyui.SUGGESTED[:2]
SHIFT, STEPS, CFG, SEED = 3.0, 8, 2.0, 7
numbers = itertools.count()  # in file names: what ComfyUI has run before, it does not run again
MODEL, VAE, TEXTS = (Path(name).name for name in (comfyui.MODEL, comfyui.VAE, comfyui.TEXTS))


@pytest.fixture(scope="module")
def tiny(server: ComfyServer) -> ComfyServer:
    """The server with the tiny model's files, and its prompts in the store."""
    comfyui.write_files(server.base)
    flow = Workflow()
    flow.add("WanVideoImportEmbeddings", file=TEXTS, replace=True)
    server.run(flow).checked()
    return server


def prompt(flow: Workflow, text: str) -> Link:
    name = f"{Path(TEXTS).stem}/{text}"
    return output(flow.add("WanVideoLoadEmbedding", embedding=name, device="offload", dtype="stored"), 1)


def sampled(flow: Workflow, first: str = FIRST, second: str | None = None, blocks: str = "all") -> Link:
    """Latents of the first prompt, with the second in some blocks."""
    model = flow.add("UNETLoader", unet_name=MODEL, weight_dtype="default")
    model, positive = flow.add("ModelSamplingSD3", model=model, shift=SHIFT), prompt(flow, first)
    if second is not None:
        model = flow.add(
            "WanVideoActivationEditor",
            model=model,
            text_embeds=positive,
            injection_embeds=prompt(flow, second),
            injection_strength=1.0,
            block_activations=blocks,
            enable_patching=True,
            log_level="off",
            injection_mode="context",
        )
        positive = output(model, 1)
    noise = flow.add("EmptyHunyuanLatentVideo", width=64, height=64, length=17, batch_size=1)
    return flow.add(
        "KSampler",
        model=model,
        positive=positive,
        negative=prompt(flow, comfyui.EMPTY),
        latent_image=noise,
        seed=SEED,
        steps=STEPS,
        cfg=CFG,
        sampler_name="euler",
        scheduler="simple",
        denoise=1.0,
    )


def saved_latents(server: ComfyServer, flow: Workflow, latents: Link) -> torch.Tensor:
    """The latents that SaveLatent writes, at the tiny model's own scale."""
    node, _ = flow.add("SaveLatent", samples=latents, filename_prefix="tiny_wan")
    (file,) = server.run(flow).checked().output(node, "latents")
    found = load_file(server.base / "output" / file["subfolder"] / file["filename"])["latent_tensor"]
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (comfy_vae.MEAN, comfy_vae.STD))
    return (found.float() - mean) / std


def pictures(server: ComfyServer, flow: Workflow, latents: Link) -> torch.Tensor:
    """What VAE Decode shows of them, uint8 [frames, 64, 64, 3]."""
    vae = flow.add("VAELoader", vae_name=VAE)
    images = flow.add("VAEDecode", samples=latents, vae=vae)
    node, _ = flow.add("SaveImage", images=images, filename_prefix=f"tiny_wan_{next(numbers)}")
    return written(server, server.run(flow).checked().output(node, "images"))


def written(server: ComfyServer, files: list[dict[str, str]]) -> torch.Tensor:
    """Pictures that SaveImage wrote."""
    folder = server.base / "output"
    return torch.stack([torch.from_numpy(np.array(Image.open(folder / f["subfolder"] / f["filename"]))) for f in files])


def read(clip: torch.Tensor) -> dict[str, Any]:
    """Colour, shape, motion and background of the key frames, which are every fourth picture."""
    keys = clip[::4].permute(0, 3, 1, 2).float()
    return tiny_wan.read(scaled(keys, 96).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))


def caption(found: dict[str, Any]) -> str:
    return "a " + " ".join(reading.name for reading in found.values())


@torch.no_grad()
def by_diffusers(text: str) -> torch.Tensor:
    """The same sampling around diffusers' transformer: Euler steps on ComfyUI's `simple` noise levels."""
    transformer = tiny_wan.pipeline().transformer
    step = torch.arange(1, 1001) / 1000
    table = SHIFT * step / (1 + (SHIFT - 1) * step)
    levels = [float(table[-1 - int(i * 1000 / STEPS)]) for i in range(STEPS)] + [0.0]
    x = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(SEED))
    for now, after in itertools.pairwise(levels):
        positive, negative = (
            transformer(x, torch.tensor([1000 * now]), tiny_wan.encode(t), return_dict=False)[0] for t in (text, "")
        )
        x = x + (after - now) * (negative + CFG * (positive - negative))
    return x


def test_the_native_checkpoint_gives_what_the_diffusers_model_gives(tiny: ComfyServer):
    flow = Workflow()
    found = saved_latents(tiny, flow, sampled(flow))
    wanted = by_diffusers(FIRST)
    assert found.shape == wanted.shape
    assert (found - wanted).norm() / wanted.norm() < 1e-3


def test_the_vae_file_decodes_as_the_library_does(tiny: ComfyServer):
    flow = Workflow()
    shown = pictures(tiny, flow, sampled(flow)).float() / 255
    assert shown.shape == (17, 64, 64, 3)
    wanted = comfy_vae.load(WEIGHTS / "comfy_vae.safetensors")(by_diffusers(FIRST)[0].transpose(0, 1))
    keys = shown[::4].permute(0, 3, 1, 2)
    assert (keys - wanted.clamp(0, 1)).abs().max() < 0.02
    assert all(torch.equal(shown[i], shown[-(-i // 4) * 4]) for i in range(17))  # four frames of each key frame
    assert "Missing VAE keys" not in tiny.log()


@pytest.mark.parametrize(
    ("second", "blocks", "seen"),
    [
        (None, "all", FIRST),
        (SECOND, "all", SECOND),
        ("a red circle moving left on the sea", "7-9", "a red circle moving left on the sea"),
        ("a red circle moving left on the sea", "0-2", FIRST),
    ],
)
def test_what_an_edit_does_can_be_seen(tiny: ComfyServer, second, blocks, seen):
    flow = Workflow()
    assert caption(read(pictures(tiny, flow, sampled(flow, second=second, blocks=blocks)))) == seen


def shown_by(tiny: ComfyServer, flow: Workflow, graph: dict[str, Any]) -> tuple[dict[str, str], Result]:
    """What the clips of a graph show, by the title of the node that decodes them, and the whole result."""
    seen = {}
    for node in graph["nodes"]:
        if node["type"] == "VAEDecode":
            save, title = f"{node['id']}00", node["title"]
            inputs = {"images": [str(node["id"]), 0], "filename_prefix": f"{title} {next(numbers)}"}
            flow[save], seen[title] = {"class_type": "SaveImage", "inputs": inputs}, save
    result = tiny.run(flow).checked()
    (video,) = (number for number, node in flow.items() if node["class_type"] == "SaveVideo")
    assert result.output(video, "images")
    shown = {title: caption(read(written(tiny, result.output(save, "images")))) for title, save in seen.items()}
    return shown, result


def test_the_example_does_what_its_note_says(tiny: ComfyServer):
    graph = graph_files.read(REPOSITORY / "example_workflows" / "01 Tiny model (native).json")
    importing = graph_files.api_workflow(graph, tiny.call("/object_info"))
    assert {node["class_type"] for node in importing.values()} == {"WanVideoImportEmbeddings"}
    tiny.run(importing).checked()
    for node in graph["nodes"]:
        if node["type"] not in graph_files.FRONT_END_ONLY:
            node["mode"] = graph_files.ALWAYS if node["mode"] == graph_files.MUTED else graph_files.MUTED
    flow = graph_files.api_workflow(graph, tiny.call("/object_info"))
    found, _ = shown_by(tiny, flow, graph)
    assert found == {"Decode plain": FIRST, "Decode edited": "a blue square moving right at night"}


def test_the_example_of_a_map_finds_the_block_of_the_background(tiny: ComfyServer):
    graph = graph_files.read(REPOSITORY / "example_workflows" / "14 Which block does what (native).json")
    flow = graph_files.api_workflow(graph, tiny.call("/object_info"))
    ((viewer, node),) = ((n, node) for n, node in flow.items() if node["class_type"] == "WanVideoBlockMapViewer")
    assert node["inputs"]["top"] == 1
    found, result = shown_by(tiny, flow, graph)
    assert found == {"Decode plain": FIRST, "Decode edited": FIRST.replace("at night", "on the sea")}
    (report,) = result.output(viewer, "text")
    rows = [line.split()[0] for line in report.splitlines() if line[:16].strip().isdigit()]
    assert rows == ["8"]

    (editor,) = (node["inputs"] for node in flow.values() if node["class_type"] == "WanVideoActivationEditor")
    del editor["block_strengths"]
    editor["block_activations"] = "0-7,9"  # the other blocks, as the note says
    assert shown_by(tiny, flow, graph)[0]["Decode edited"] == FIRST

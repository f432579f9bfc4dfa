"""Every example workflow: its nodes exist, it passes the server's validation, and it runs on tiny models.

Those of the tiny trained model run in test_tiny_wan.py, on the model that they are for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from . import graph_files, tiny_models
from .server import REPOSITORY, ComfyServer
from .workflows import Workflow

FILES = sorted((REPOSITORY / "example_workflows").glob("*.json"))

BF16 = {"dtype": "bfloat16"}  # what the real text encoder returns

# What stands in for models that are too large for a test, by node: (node, inputs kept by their new name, inputs set).
STAND_INS: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "WanVideoTextEncode": ("TestTextEmbeds", {"positive_prompt": "prompt", "negative_prompt": "negative"}, BF16),
    "WanVideoTextEncodeSingle": ("TestTextEmbeds", {"prompt": "prompt"}, {"negative": "", **BF16}),
    "CLIPTextEncode": ("TestConditioning", {"text": "prompt"}, {}),
    "CLIPLoader": ("TestTextEncoder", {}, {}),
}
NOT_LOADED = {"LoadWanVideoT5TextEncoder"}
SMALLER: dict[str, dict[str, Any]] = {
    "WanVideoModelLoader": {"model": tiny_models.WRAPPER_T2V, "base_precision": "fp32", "load_device": "main_device"},
    "WanVideoVAELoader": {"model_name": tiny_models.VAE, "precision": "fp32"},
    "UNETLoader": {"unet_name": tiny_models.NATIVE_T2V},
    "VAELoader": {"vae_name": tiny_models.VAE},
    "WanVideoEmptyEmbeds": {"width": 64, "height": 64, "num_frames": 5},
    "EmptyHunyuanLatentVideo": {"width": 64, "height": 64, "length": 5},
    "WanVideoSampler": {"steps": 2},
    "KSampler": {"steps": 2},
    "WanVideoControlVector": {"width": 64, "height": 64, "num_frames": 5, "steps": 2},
    "WanVideoLatentEncoder": {"width": 64, "height": 64, "num_frames": 5},
}


def small(flow: Workflow) -> Workflow:
    """The same workflow on tiny models and a tiny video."""
    changed = Workflow()
    for number, node in flow.items():
        kind, inputs = node["class_type"], node["inputs"]
        if kind in NOT_LOADED:
            continue
        if kind in STAND_INS:
            stand_in, renamed, given = STAND_INS[kind]
            inputs = {**{new: inputs[old] for old, new in renamed.items()}, **given}
            kind = stand_in
        elif kind in SMALLER:
            inputs = {**inputs, **{k: v for k, v in SMALLER[kind].items() if k in inputs}}
        changed[number] = {"class_type": kind, "inputs": inputs}
    return changed


@pytest.fixture(scope="module")
def definitions(server: ComfyServer) -> dict[str, Any]:
    return server.call("/object_info")


def outputs(flow: Workflow, kind: str) -> list[str]:
    return [number for number, node in flow.items() if node["class_type"] == kind]


TRAINED = {"01 Tiny model (native)", "14 Which block does what (native)"}


@pytest.mark.parametrize("path", [p for p in FILES if p.stem not in TRAINED], ids=lambda path: path.stem)
def test_example_runs(server: ComfyServer, definitions, path: Path):
    graph = graph_files.read(path)
    flow = small(graph_files.api_workflow(graph, definitions))
    result = server.run(flow).checked()
    for number, shown in result.outputs.items():
        assert all(text.strip() for text in shown.get("text", ())), f"{path.stem}: the report of {number} is empty"
    for number in outputs(flow, "SaveVideo"):
        assert result.output(number, "images"), "no video was written"
    assert outputs(flow, "SaveVideo") or path.stem == "10 Store and reuse prompts (wrapper)"


def test_hidden_state_example_runs_with_its_bypassed_nodes(server: ComfyServer, definitions):
    graph = graph_files.read(REPOSITORY / "example_workflows" / "05 Mix hidden states (wrapper).json")
    bypassed = [node for node in graph["nodes"] if node["mode"] == graph_files.BYPASSED]
    assert {"WanVideoLatentEncoder", "WanVideoLatentInjector"} <= {node["type"] for node in bypassed}
    for node in bypassed:
        node["mode"] = graph_files.ALWAYS
    server.run(small(graph_files.api_workflow(graph, definitions))).checked()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_example_has_todays_sockets_and_a_note(definitions, path: Path):
    graph = graph_files.read(path)
    assert any(node["type"] in graph_files.FRONT_END_ONLY for node in graph["nodes"]), "no note says what to look at"
    for node in graph["nodes"]:
        if node["type"] in graph_files.FRONT_END_ONLY:
            continue
        definition = definitions[node["type"]]
        known = {*definition["input"].get("required", {}), *definition["input"].get("optional", {})}
        assert {i["name"] for i in node["inputs"]} <= known, node["type"]
        names = definition["output_name"]  # a newer ComfyUI may have given its own nodes more
        ours = definition["category"].startswith("WanVideo/Activation Editor")
        assert [o["name"] for o in node["outputs"]] == (names if ours else names[: len(node["outputs"])]), node["type"]


def test_stored_prompts_give_the_same_video_as_fresh_ones(server: ComfyServer, definitions):
    graph = graph_files.read(REPOSITORY / "example_workflows" / "10 Store and reuse prompts (wrapper).json")
    storing = small(graph_files.api_workflow(graph, definitions))
    server.run(storing).checked()

    # What the note says: mute the groups that encode and look, and let the others run.
    loaders = {"WanVideoModelLoader", "WanVideoVAELoader"}
    for node in graph["nodes"]:
        if node["type"] not in loaders:
            node["mode"] = graph_files.ALWAYS if node["mode"] == graph_files.MUTED else graph_files.MUTED
    reusing = small(graph_files.api_workflow(graph, server.call("/object_info")))
    probe = str(1 + max(map(int, reusing)))
    reusing[probe] = {"class_type": "TestDigest", "inputs": {"samples": [outputs(reusing, "WanVideoSampler")[0], 0]}}
    assert not outputs(reusing, "TestTextEmbeds"), "nothing is encoded"

    fresh = Workflow({n: node for n, node in reusing.items() if node["class_type"] != "WanVideoLoadEmbedding"})
    (editor,) = outputs(fresh, "WanVideoActivationEditor")
    stores = {
        storing[n]["inputs"]["name"]: storing[n]["inputs"]["text_embeds"]
        for n in outputs(storing, "WanVideoStoreEmbedding")
    }
    inputs = fresh[editor]["inputs"]
    encoded = {
        name: stores[reusing[inputs[name][0]]["inputs"]["embedding"]] for name in ("text_embeds", "injection_embeds")
    }
    fresh[editor] = {**fresh[editor], "inputs": {**inputs, **encoded}}
    fresh.update({number: storing[number] for number, _ in encoded.values()})

    assert server.run(reusing).checked().output(probe, "sha256") == server.run(fresh).checked().output(probe, "sha256")

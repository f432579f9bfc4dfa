"""Weights and embeddings of lower precision: the injected prompt is projected as the host projects its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from . import tiny_models
from .server import comfyui_path, comfyui_python
from .workflows import FOX, MOON, Host, NativeHost, Workflow, WrapperHost, edit


def holds(host: Host, load, encode=None):
    other = host.digest(MOON, load=load, encode=encode, steps=1)
    assert host.digest(FOX, edit(), load=load, encode=encode, steps=1) == other
    plain = host.digest(FOX, load=load, encode=encode, steps=1)
    assert plain != other
    assert host.digest(FOX, edit(FOX, injection_strength=0.5), load=load, encode=encode, steps=1) == plain


@pytest.mark.parametrize("embeds", ["float32", "bfloat16"])
@pytest.mark.parametrize(("precision", "quantization"), [("bf16", "disabled"), ("bf16", "fp8_e4m3fn")])
def test_every_block_at_full_strength_equals_the_injected_prompt(wrapper: WrapperHost, precision, quantization, embeds):
    def load(flow: Workflow):
        model = wrapper.load(flow)
        flow[model[0]]["inputs"] |= {"base_precision": precision, "quantization": quantization}
        return model

    holds(wrapper, load, lambda *args: wrapper.embeds(*args, dtype=embeds))


def test_embeds_of_unlike_precision_can_be_injected(wrapper: WrapperHost):
    half = lambda flow, prompt, *_: wrapper.embeds(flow, prompt, dtype="bfloat16")  # noqa: E731
    injected = wrapper.digest(FOX, edit(inject=lambda flow: half(flow, MOON)), cfg=1.0, steps=1)
    assert injected == wrapper.digest(MOON, encode=half, cfg=1.0, steps=1)


@pytest.mark.parametrize("weights", ["fp8_e4m3fn", "fp8_e5m2"])
def test_every_block_at_full_strength_equals_the_injected_prompt_on_native(native: NativeHost, weights):
    def load(flow: Workflow):
        unet = flow.add("UNETLoader", unet_name="native_t2v.safetensors", weight_dtype=weights)
        return flow.add("ModelSamplingSD3", model=unet, shift=5.0)

    holds(native, load)


TO_GGUF = """
import sys, numpy, gguf
from safetensors.numpy import load_file
source, target, kind = sys.argv[1:]
kinds = gguf.GGMLQuantizationType
writer = gguf.GGUFWriter(target, arch="wan")
writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
for name, value in load_file(source).items():
    value = value.astype(numpy.float32)
    if name.startswith("text_embedding") and name.endswith("weight"):
        writer.add_tensor(name, gguf.quants.quantize(value, kinds[kind]), raw_dtype=kinds[kind])
    else:
        writer.add_tensor(name, value)
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
"""


def convert(command: list, lacking: str) -> None:
    """Write a model file by ComfyUI's Python; skip where it says that it is lacking something."""
    made = subprocess.run(command, capture_output=True, text=True)
    if lacking in made.stderr:
        pytest.skip(f"ComfyUI's Python: {made.stderr.strip().splitlines()[-1]}")
    assert made.returncode == 0, made.stderr


@pytest.fixture(params=["F16", "BF16", "Q8_0", "Q4_0"])
def gguf_model(request, models: Path) -> str:
    """A file of the wrapper's model whose text projection is stored in another way than its width."""
    name, python = f"wrapper_{request.param}.gguf", comfyui_python(comfyui_path())
    folder = models / "diffusion_models"
    convert(
        [python, "-c", TO_GGUF, folder / tiny_models.WRAPPER_T2V, folder / name, request.param],
        "No module named 'gguf'",
    )
    return name


def test_a_text_projection_of_gguf_is_edited_again_once_the_model_is_loaded(wrapper: WrapperHost, gguf_model):
    """Packed weights have other sizes than the layer; they take its place at the first run."""

    def load(flow: Workflow):
        return wrapper.load(flow, gguf_model)

    holds(wrapper, load)
    other = wrapper.digest(MOON, load=load, steps=1)
    for mode in ("context", "hidden_states"):
        assert wrapper.digest(FOX, edit(injection_mode=mode), load=load, steps=1) == other


TO_QUANTISED = """
import sys
root, source, target, kind = sys.argv[1:]
sys.path.insert(0, root)
import comfy.cli_args
comfy.cli_args.args.cpu = True
import json, torch
from comfy import quant_ops
from safetensors.torch import load_file, save_file
if kind not in getattr(quant_ops, "QUANT_ALGOS", {}):
    sys.exit("has no " + kind)
made = {}
for name, value in load_file(source).items():
    if value.dim() == 2 and name.endswith(".weight") and name.startswith(("text_embedding", "blocks")):
        layout = quant_ops.QUANT_ALGOS[kind]["comfy_tensor_layout"]
        packed = quant_ops.QuantizedTensor.from_float(value.bfloat16(), layout)
        made |= packed.state_dict(name)
        made[name.removesuffix("weight") + "comfy_quant"] = torch.tensor(
            list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)
    else:
        made[name] = value
save_file({k: v.contiguous() for k, v in made.items()}, target)
"""


@pytest.fixture(params=["float8_e4m3fn", "int8_tensorwise", "mxfp8"])
def quantised_model(request, models: Path) -> str:
    """A file of the native model whose linear layers ComfyUI has quantised, those of the text projection too."""
    name, root = f"native_{request.param}.safetensors", comfyui_path()
    folder = models / "diffusion_models"
    files = folder / tiny_models.NATIVE_T2V, folder / name
    convert([comfyui_python(root), "-c", TO_QUANTISED, root, *files, request.param], f"has no {request.param}")
    return name


def test_quantised_layers_are_edited_again_once_the_model_is_loaded(native: NativeHost, quantised_model):
    def load(flow: Workflow):
        return native.load(flow, quantised_model)

    holds(native, load)
    other = native.digest(MOON, load=load, steps=1)
    for mode in ("context", "hidden_states"):
        assert native.digest(FOX, edit(injection_mode=mode), load=load, steps=1) == other
    narrow = edit(inject=lambda flow: native.embeds(flow, MOON, width=2048))
    message = str(native.run(FOX, narrow, load=load).error)
    assert "2048 wide" in message and "projects text of width 4096" in message
    assert native.reference(MOON, steps=1) != other, "the layers are quantised"

"""Text projections and blocks that diffusers has quantised: their storage has other sizes and types than the layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from wanvideo_activation_editor.patching.hosts.diffusers import capture, inject, projection_weights
from wanvideo_activation_editor.patching.projection import project_text
from wanvideo_activation_editor.patching.wan_model import discover

from .conftest import TEXT_WIDTH, Sampler, hook_count, make_transformer
from .test_streams import T, X, block_outputs


def torchao(name: str, **options) -> Callable[[Path], WanTransformer3DModel]:
    def load(folder: Path) -> WanTransformer3DModel:
        configs = pytest.importorskip("torchao.quantization", reason="pip install torchao")
        from diffusers import TorchAoConfig

        made = {key: getattr(torch, value) if isinstance(value, str) else value for key, value in options.items()}
        config = TorchAoConfig(getattr(configs, f"{name}Config")(**made))
        return WanTransformer3DModel.from_pretrained(folder, quantization_config=config, dtype=torch.float32)

    return load


def quanto(kind: str) -> Callable[[Path], WanTransformer3DModel]:
    def load(folder: Path) -> WanTransformer3DModel:
        pytest.importorskip("optimum.quanto", reason="pip install optimum-quanto")
        from diffusers import QuantoConfig

        return WanTransformer3DModel.from_pretrained(
            folder, quantization_config=QuantoConfig(weights_dtype=kind), dtype=torch.float32
        )

    return load


def gguf(kind: str) -> Callable[[Path], WanTransformer3DModel]:
    """Through a file whose linear layers of blocks and text projection are stored as `kind`."""

    def load(folder: Path) -> WanTransformer3DModel:
        package = pytest.importorskip("gguf", reason="pip install gguf")
        from diffusers import GGUFQuantizationConfig

        stored = package.GGMLQuantizationType[kind]
        writer = package.GGUFWriter(folder / "wan.gguf", arch="wan")
        writer.add_quantization_version(package.GGML_QUANT_VERSION)
        for name, value in WanTransformer3DModel.from_pretrained(folder).state_dict().items():
            array = value.numpy().astype(np.float32)
            if name.endswith(".weight") and value.dim() == 2 and ("blocks" in name or "text_embedder" in name):
                writer.add_tensor(name, package.quants.quantize(array, stored), raw_dtype=stored)
            else:
                writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        config = GGUFQuantizationConfig(compute_dtype=torch.float32)
        return WanTransformer3DModel.from_single_file(
            str(folder / "wan.gguf"), config=str(folder), quantization_config=config, dtype=torch.float32
        )

    return load


KINDS = {
    "torchao int8": torchao("Int8WeightOnly"),
    "torchao float8": torchao("Float8WeightOnly"),
    "torchao int4": torchao("IntxWeightOnly", weight_dtype="int4"),
    "torchao int8 activations": torchao("Int8DynamicActivationInt8Weight"),
    "quanto int8": quanto("int8"),
    "quanto int4": quanto("int4"),
    "quanto float8": quanto("float8"),
    "GGUF Q8_0": gguf("Q8_0"),
    "GGUF Q4_0": gguf("Q4_0"),
    "GGUF BF16": gguf("BF16"),
}


@pytest.fixture(params=KINDS)
def quantised(request, tmp_path) -> Sampler:
    """A pipeline whose transformer diffusers has loaded with quantised linear layers, also in its text projection."""
    make_transformer().save_pretrained(tmp_path)
    loaded = KINDS[request.param](tmp_path)
    for linear in (loaded.condition_embedder.text_embedder.linear_1, loaded.blocks[0].attn2.to_k):
        assert type(linear) is not torch.nn.Linear or type(linear.weight) is not torch.nn.Parameter, "not quantised"
    return Sampler(loaded.eval())


@pytest.mark.parametrize("site", ["context", "hidden"])
def test_every_block_at_full_strength_is_the_other_prompt_in_every_run(quantised, main, other, site):
    """The first run and later ones; nothing stays behind."""
    before, plain, wanted = hook_count(quantised.pipe.transformer), quantised(main), quantised(other)
    for _ in range(2):
        with inject(quantised.pipe, other, site=site):
            assert torch.equal(quantised(main), wanted)
        with inject(quantised.pipe, other, site=site, strength=0.0):
            assert torch.equal(quantised(main), plain)
    assert torch.equal(quantised(main), plain) and not torch.equal(plain, wanted)
    assert hook_count(quantised.pipe.transformer) == before


def test_the_width_is_that_of_the_layer_and_not_of_its_storage(quantised, main):
    transformer = quantised.pipe.transformer
    assert discover(transformer).text_width == TEXT_WIDTH
    with (
        pytest.raises(ValueError, match=f"are 32 wide, but .* projects text of width {TEXT_WIDTH}"),
        inject(quantised.pipe, torch.ones(1, 512, 32)),
    ):
        pass
    weights = projection_weights(quantised.pipe)
    if weights is not None:  # as readable, and then right
        with torch.no_grad():
            wanted = transformer.condition_embedder.text_embedder(main)[0]
        assert torch.allclose(project_text(main[0], weights), wanted, atol=1e-3)
    transformer.register_to_config(text_dim=None)
    assert discover(transformer).text_width is None, "a model that does not say it, and packed weights that cannot"


def test_hidden_states_are_captured_as_the_packed_weights_make_them(quantised, main, other):
    transformer = quantised.pipe.transformer
    for prompt in (main, other, main):
        states = capture(transformer, prompt, 3, latents=X, timestep=float(T))
        assert torch.equal(states.states[0], block_outputs(transformer, prompt)[2].bfloat16())

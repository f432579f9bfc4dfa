"""Text projections and blocks that diffusers has quantised: their storage has other sizes and types than the layer."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel
from wanvideo_activation_editor.patching.hosts.diffusers import inject, projection_weights
from wanvideo_activation_editor.patching.projection import project_text
from wanvideo_activation_editor.patching.wan_model import discover

from .conftest import TEXT_WIDTH, Sampler, hook_count, make_transformer


def torchao(kind: str):
    configs = pytest.importorskip("torchao.quantization", reason="pip install torchao")
    from diffusers import TorchAoConfig

    return TorchAoConfig(getattr(configs, f"{kind}WeightOnlyConfig")())


def quanto(kind: str):
    pytest.importorskip("optimum.quanto", reason="pip install optimum-quanto")
    from diffusers import QuantoConfig

    return QuantoConfig(weights_dtype=kind)


KINDS = {
    "torchao int8": lambda: torchao("Int8"),
    "torchao float8": lambda: torchao("Float8"),
    "quanto int8": lambda: quanto("int8"),
}


@pytest.fixture(params=KINDS)
def quantised(request, tmp_path) -> Sampler:
    """A pipeline whose transformer diffusers has loaded with quantised linear layers, also in its text projection."""
    config = KINDS[request.param]()
    make_transformer().save_pretrained(tmp_path)
    loaded = WanTransformer3DModel.from_pretrained(tmp_path, quantization_config=config, dtype=torch.float32)
    linear = loaded.condition_embedder.text_embedder.linear_1
    assert type(linear) is not torch.nn.Linear or type(linear.weight) is not torch.nn.Parameter, "nothing is quantised"
    return Sampler(loaded.eval())


@pytest.mark.parametrize("site", ["context", "hidden"])
def test_every_block_at_full_strength_is_the_other_prompt_in_every_run(quantised, main, other, site):
    """The first run and later ones; nothing stays behind."""
    before, plain, wanted = hook_count(quantised.pipe.transformer), quantised(main), quantised(other)
    for _ in range(2):
        with inject(quantised.pipe, other, site=site):
            assert torch.equal(quantised(main), wanted)
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

"""The branch of each call in pipelines of diffusers that do not name their calls."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, ClassifierFreeGuidance, UniPCMultistepScheduler
from PIL import Image
from wanvideo_activation_editor.patching.hosts.diffusers import inject

from .conftest import TEXT_WIDTH, Sampler, hook_count, make_transformer, prompt_embeds, randomise

NEGATIVE = prompt_embeds(99, tokens=5)
Sample = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def of_diffusers(name: str) -> type:
    """A class that older releases lack; skips the test there."""
    if not hasattr(diffusers, name):
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}")
    return getattr(diffusers, name)


def parts(transformer) -> dict:
    vae = AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4,
                           latents_std=[1.0] * 4)  # fmt: skip
    randomise(vae, 3)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return {
        "tokenizer": None,
        "text_encoder": None,
        "vae": vae.eval(),
        "scheduler": scheduler,
        "transformer": transformer,
    }


def options() -> dict:
    return {
        "height": 32,
        "width": 32,
        "guidance_scale": 3.0,
        "generator": torch.Generator().manual_seed(7),
        "output_type": "latent",
    }


def frames(count: int = 5) -> list[Image.Image]:
    return [Image.fromarray((np.random.RandomState(i).rand(32, 32, 3) * 255).astype("uint8")) for i in range(count)]


def video_to_video() -> tuple[object, Sample]:
    pipe = diffusers.WanVideoToVideoPipeline(**parts(make_transformer()))

    def sample(prompt, negative):
        return pipe(
            video=frames(), prompt_embeds=prompt, negative_prompt_embeds=negative, num_inference_steps=4, **options()
        ).frames

    return pipe, sample


def chrono_edit() -> tuple[object, Sample]:
    transformer = make_transformer(
        cls=of_diffusers("ChronoEditTransformer3DModel"), in_channels=12, image_dim=32, added_kv_proj_dim=32
    )
    pipe = diffusers.ChronoEditPipeline(**parts(transformer), image_encoder=None, image_processor=None)
    image, tokens = torch.rand(1, 3, 32, 32), torch.randn(1, 257, 32, generator=torch.Generator().manual_seed(5))
    pipe.encode_image = lambda *_, **__: tokens

    def sample(prompt, negative):
        return pipe(
            image=image,
            prompt_embeds=prompt,
            negative_prompt_embeds=negative,
            num_frames=5,
            num_inference_steps=3,
            **options(),
        ).frames

    return pipe, sample


def any_flow() -> tuple[object, Sample]:
    transformer = of_diffusers("AnyFlowTransformer3DModel")(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
        text_dim=TEXT_WIDTH, freq_dim=32, ffn_dim=64, num_layers=6, rope_max_seq_len=32,
    )  # fmt: skip
    randomise(transformer, 0)
    pipe = diffusers.AnyFlowPipeline(
        **parts(transformer.eval()) | {"scheduler": diffusers.FlowMapEulerDiscreteScheduler()}
    )

    def sample(prompt, negative):
        return pipe(
            prompt_embeds=prompt, negative_prompt_embeds=negative, num_frames=5, num_inference_steps=3, **options()
        ).frames

    return pipe, sample


def modular() -> tuple[object, Sample]:
    wan = pytest.importorskip("diffusers.modular_pipelines.wan.modular_blocks_wan")
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=16, in_channels=16, out_channels=16,
        text_dim=TEXT_WIDTH, freq_dim=32, ffn_dim=64, num_layers=6, rope_max_seq_len=32,
    )  # fmt: skip
    randomise(transformer, 0)
    pipe = wan.WanCoreDenoiseStep().init_pipeline()
    pipe.update_components(
        scheduler=parts(None)["scheduler"],
        transformer=transformer.eval(),
        guider=ClassifierFreeGuidance(guidance_scale=3.0),
    )

    def sample(prompt, negative):
        return pipe(
            prompt_embeds=prompt,
            negative_prompt_embeds=negative,
            height=32,
            width=32,
            num_frames=5,
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(7),
            output="latents",
        )

    return pipe, sample


@pytest.fixture(params=[video_to_video, chrono_edit, any_flow, modular], ids=lambda make: make.__name__)
def unnamed(request) -> SimpleNamespace:
    pipe, sample = request.param()
    pipe.set_progress_bar_config(disable=True)
    return SimpleNamespace(pipe=pipe, sample=sample)


def test_each_branch_is_edited_alone_where_calls_have_no_names(unnamed, main, other):
    pipe, sample = unnamed.pipe, unnamed.sample
    plain = sample(main, NEGATIVE)
    wanted = {"cond": sample(other, NEGATIVE), "uncond": sample(main, other), "both": sample(other, other)}
    for branch, latents in wanted.items():
        assert not torch.equal(latents, plain)
        with inject(pipe, other, branch=branch):
            assert torch.equal(sample(main, NEGATIVE), latents), branch
    assert torch.equal(sample(main, NEGATIVE), plain) and hook_count(pipe.transformer) == 0
    assert "encode_prompt" not in vars(pipe)
    assert not any(name.startswith("prepare_inputs") for name in vars(getattr(pipe, "guider", pipe)))


def test_contexts_on_both_branches_close_in_any_order(unnamed, main, other):
    third = prompt_embeds(3)
    wanted, rest = unnamed.sample(other, third), unnamed.sample(main, third)
    first, second = inject(unnamed.pipe, other), inject(unnamed.pipe, third, branch="uncond")
    first.__enter__(), second.__enter__()
    assert torch.equal(unnamed.sample(main, NEGATIVE), wanted)
    first.__exit__(None, None, None)
    assert torch.equal(unnamed.sample(main, NEGATIVE), rest)
    second.__exit__(None, None, None)
    assert "encode_prompt" not in vars(unnamed.pipe)


def test_a_prompt_that_is_its_own_negative_is_refused_where_calls_have_no_names(main, other):
    pipe, sample = any_flow()  # hands over both in one batch
    with inject(pipe, other), pytest.raises(RuntimeError, match="equals the negative prompt"):
        sample(main, main)
    wanted = sample(other, other)
    with inject(pipe, other, branch="both"):
        assert torch.equal(sample(main, main), wanted)


def call(model, embeds, x):
    return model(hidden_states=x, timestep=torch.tensor([500]), encoder_hidden_states=embeds).sample


def test_guidance_around_a_bare_transformer_is_refused_unless_calls_are_named(main, other):
    model, x = make_transformer(), torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    plain, wanted = call(model, NEGATIVE, x), call(model, other, x)
    with inject(model, other), pytest.raises(RuntimeError, match="two prompts, as guidance does"):
        call(model, main, x)
        call(model, NEGATIVE, x)
    with inject(model, other), pytest.raises(RuntimeError, match="two prompts, as guidance does"):
        call(model, torch.cat([NEGATIVE, main]), torch.cat([x, x]))
    with inject(model, other):
        with model.cache_context("cond"):
            assert torch.equal(call(model, main, x), wanted)
        with model.cache_context("uncond"):
            assert torch.equal(call(model, NEGATIVE, x), plain)


def test_another_pipeline_with_guidance_on_the_same_transformer_is_refused(main, other):
    transformer = make_transformer()
    given = Sampler(transformer)
    pipe = diffusers.WanVideoToVideoPipeline(**parts(transformer))
    with inject(given.pipe, other), pytest.raises(RuntimeError, match="Give `inject` the pipeline that samples"):
        pipe(video=frames(), prompt_embeds=main, negative_prompt_embeds=NEGATIVE, num_inference_steps=4, **options())

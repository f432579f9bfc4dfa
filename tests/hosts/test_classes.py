"""Every class of the Wan family that diffusers exports: edited as the table of docs/reference/diffusers.md says."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from wanvideo_activation_editor.patching.hosts.diffusers import inject
from wanvideo_activation_editor.patching.wan_model import NotAWanModelError

from .conftest import TEXT_WIDTH, hook_count, prompt_embeds, randomise
from .test_branches import NEGATIVE, any_flow, chrono_edit, frames, modular, options, parts, video_to_video

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "diffusers.md"
ROWS = dict(re.findall(r"^\| `(\w+)` \| (works|refused)", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
FAMILY = re.compile(r"\.(wan\w*|skyreels\w*|chronoedit|anyflow\w*|lucy)\.")
TRANSFORMER = re.compile(r"\.transformer_(wan\w*|skyreels\w*|chronoedit|anyflow\w*)$")
CLIP = torch.randn(1, 257, 32, generator=torch.Generator().manual_seed(5))
IMAGE, VIDEO = frames(1)[0], frames(5)
READS_IMAGES = {"in_channels": 12, "image_dim": 32, "added_kv_proj_dim": 32}


def exported() -> list[str]:
    """Transformers and pipelines of the family; blocks of modular pipelines are parts of them."""
    found = []
    for name in dir(diffusers):
        cls = getattr(diffusers, name)
        module = getattr(inspect.getmodule(cls), "__name__", "") if inspect.isclass(cls) else ""
        if (FAMILY.search(module) and name.endswith("Pipeline")) or TRANSFORMER.search(module):
            found.append(name)
    return found


def test_the_table_has_every_class():
    assert set(exported()) <= set(ROWS)
    if diffusers.__version__.startswith("0.42."):
        assert set(exported()) == set(ROWS)


def small(name: str, seed: int = 0, **config):
    """A transformer of a class: 6 blocks of width 32, latents of 4 channels."""
    if name == "WanVACETransformer3DModel":
        config = {"vace_layers": [0, 2], "vace_in_channels": 72, **config}
    if name == "WanAnimateTransformer3DModel":
        config |= {"in_channels": 12, "latent_channels": 4, "image_dim": 32, "added_kv_proj_dim": 32}
        config |= {"motion_encoder_size": 32, "motion_style_dim": 32, "motion_dim": 8, "motion_encoder_dim": 32}
        config |= {"face_encoder_hidden_dim": 32, "face_encoder_num_heads": 2, "inject_face_latents_blocks": 2}
    model = getattr(diffusers, name)(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=16, text_dim=TEXT_WIDTH, freq_dim=32,
        ffn_dim=64, num_layers=6, **{"in_channels": 4, "out_channels": 4, "rope_max_seq_len": 32, **config},
    )  # fmt: skip
    randomise(model, seed)
    return model.eval()


def of(pipeline: str, transformer: str, config: dict | None = None, made: dict | None = None, **call):
    """A builder of a pipeline and a function that samples with it."""

    def build() -> tuple[Any, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
        model = small(transformer, **(config or {}))
        given = {name: value() if callable(value) else value for name, value in (made or {}).items()}
        pipe = getattr(diffusers, pipeline)(**{**parts(model), **given})
        pipe.encode_image = lambda *_, **__: CLIP

        def sample(prompt, negative):
            arguments = {"num_inference_steps": 2, "num_frames": 5, **options(), **call}
            if "segment_frame_length" in call:
                del arguments["num_frames"]
            return pipe(prompt_embeds=prompt, negative_prompt_embeds=negative, **arguments).frames

        return pipe, sample

    return build


def core(module: str, step: str, transformer: str, count: int, channels: int, config: dict | None = None, **call):
    """The denoising of a modular pipeline, with one or two transformers."""

    def build():
        blocks = getattr(importlib.import_module(f"diffusers.modular_pipelines.wan.{module}"), step)()
        pipe = blocks.init_pipeline()
        own = {"in_channels": channels, "out_channels": 16, **(config or {})}
        components = {"scheduler": parts(None)["scheduler"]}
        for number in range(count):
            suffix = f"_{number + 1}" if number else ""
            components[f"transformer{suffix}"] = small(transformer, number, **own)
            components[f"guider{suffix}"] = diffusers.ClassifierFreeGuidance(guidance_scale=3.0)
        pipe.update_components(**components)

        def sample(prompt, negative):
            from diffusers.modular_pipelines import PipelineState

            state = PipelineState()
            if "control" in call:
                state.set("control_hidden_states", call["control"], "denoiser_input_fields")
            given = {name: value for name, value in call.items() if name != "control"}
            return pipe(
                state=state, prompt_embeds=prompt, negative_prompt_embeds=negative, height=32, width=32, num_frames=5,
                num_inference_steps=3, generator=torch.Generator().manual_seed(7), output="latents", **given,
            )  # fmt: skip

        return pipe, sample

    return build


SKY, FORCING = "SkyReelsV2Transformer3DModel", "SkyReelsV2DiffusionForcing"
LATENT = torch.randn(1, 20, 2, 4, 4, generator=torch.Generator().manual_seed(6))
PIPELINES = {
    "WanPipeline": of("WanPipeline", "WanTransformer3DModel"),
    "WanVideoToVideoPipeline": video_to_video,
    "WanImageToVideoPipeline": of("WanImageToVideoPipeline", "WanTransformer3DModel", READS_IMAGES, image=IMAGE),
    "WanVACEPipeline": of("WanVACEPipeline", "WanVACETransformer3DModel"),
    "WanAnimatePipeline": of(
        "WanAnimatePipeline", "WanAnimateTransformer3DModel", made={"image_encoder": None, "image_processor": None},
        image=IMAGE, pose_video=VIDEO, face_video=VIDEO, segment_frame_length=5,
    ),
    "LucyEditPipeline": of("LucyEditPipeline", "WanTransformer3DModel", {"in_channels": 8}, video=VIDEO),
    "ChronoEditPipeline": chrono_edit,
    "AnyFlowPipeline": any_flow,
    "AnyFlowFARPipeline": of(
        "AnyFlowFARPipeline", "AnyFlowFARTransformer3DModel",
        made={"scheduler": lambda: diffusers.FlowMapEulerDiscreteScheduler()}, num_frames=9, chunk_partition=[1, 2],
    ),
    "SkyReelsV2Pipeline": of("SkyReelsV2Pipeline", SKY),
    "SkyReelsV2ImageToVideoPipeline": of(
        "SkyReelsV2ImageToVideoPipeline", SKY, READS_IMAGES, {"image_encoder": None, "image_processor": None},
        image=IMAGE,
    ),
    f"{FORCING}Pipeline": of(f"{FORCING}Pipeline", SKY, prompt=None, base_num_frames=5),
    f"{FORCING}ImageToVideoPipeline": of(f"{FORCING}ImageToVideoPipeline", SKY, image=IMAGE, base_num_frames=5),
    f"{FORCING}VideoToVideoPipeline": of(
        f"{FORCING}VideoToVideoPipeline", SKY, video=VIDEO, num_frames=9, base_num_frames=5, overlap_history=1
    ),
    "WanModularPipeline": modular,
    "Wan22ModularPipeline": core("modular_blocks_wan22", "Wan22CoreDenoiseStep", "WanTransformer3DModel", 2, 16),
    "WanImage2VideoModularPipeline": core(
        "modular_blocks_wan_i2v", "WanImage2VideoCoreDenoiseStep", "WanTransformer3DModel", 1, 36,
        {"image_dim": 32, "added_kv_proj_dim": 32}, image_embeds=CLIP, image_condition_latents=LATENT,
    ),
    "Wan22Image2VideoModularPipeline": core(
        "modular_blocks_wan22_i2v", "Wan22Image2VideoCoreDenoiseStep", "WanTransformer3DModel", 2, 36,
        image_condition_latents=LATENT,
    ),
    "Wan22VaceModularPipeline": core(
        "modular_blocks_wan_vace", "Wan22VaceCoreDenoiseStep", "WanVACETransformer3DModel", 2, 16,
        {"vace_in_channels": 96}, control=torch.zeros(1, 96, 2, 4, 4),
    ),
}  # fmt: skip


def test_every_pipeline_that_works_is_sampled():
    works = {name for name, verdict in ROWS.items() if verdict == "works" and name.endswith("Pipeline")}
    assert works == set(PIPELINES)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline(name, main, other):
    """All blocks equal the other prompt, in two halves of sampling too; the other branch as the other negative."""
    if not hasattr(diffusers, name):
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}")
    pipe, sample = PIPELINES[name]()
    pipe.set_progress_bar_config(disable=True)
    wanted = sample(other, NEGATIVE)
    assert not torch.equal(sample(main, NEGATIVE), wanted)
    with inject(pipe, other, window=(0, 0.5)), inject(pipe, other, window=(0.5, 1)):
        assert torch.equal(sample(main, NEGATIVE), wanted)
    wanted = sample(main, prompt_embeds(3))
    with inject(pipe, prompt_embeds(3), branch="uncond"):
        assert torch.equal(sample(main, NEGATIVE), wanted)
    assert hook_count(pipe.transformer) == 0


def test_wan_animate_2_is_refused(other):
    assert {name for name, verdict in ROWS.items() if verdict == "refused"} >= {"WanAnimate2Transformer3DModel"}
    cls = getattr(diffusers, "WanAnimate2Transformer3DModel", None)
    if cls is None:
        pytest.skip("this diffusers has no WanAnimate2Transformer3DModel")
    model = cls(in_dim=12, dim=32, ffn_dim=64, freq_dim=32, text_dim=TEXT_WIDTH, out_dim=4, num_heads=2, num_layers=4)
    with pytest.raises(NotAWanModelError, match="takes a list of texts"), inject(model, other):
        pass


def test_a_second_stream_beside_the_face_of_wan_animate_is_refused(other):
    if not hasattr(diffusers, "WanAnimateTransformer3DModel"):
        pytest.skip(f"diffusers {diffusers.__version__} has no WanAnimateTransformer3DModel")
    model = small("WanAnimateTransformer3DModel")
    with pytest.raises(ValueError, match=r"face adapter.*Use site='context'"), inject(model, other, site="hidden"):
        pass
    with inject(model, other):
        assert hook_count(model) > 0
    with inject(model, other, site="hidden", strength=0.0):
        assert not any(hook_count(block) for block in model.blocks), "which changes nothing"
    assert hook_count(model) == 0

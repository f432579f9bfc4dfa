"""Nodes that capture hidden states and add them: WanVideo Latent Encoder and Latent Injector."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from comfy_api.latest import io

from ..embeddings.text_embeds import read_text_embeds
from ..patching.capture import HiddenStates, check_states
from ..patching.checks import check_stack
from ..patching.difference import REDUCTIONS, captured_difference
from ..patching.edit import Edit, Window, stack_of
from ..patching.fingerprint import known_identity
from ..patching.grid import Size, format_grid
from ..patching.hosts import host_of
from ..patching.operations import Add
from ..patching.schedule import parse_schedule
from ..patching.selection import parse_selection
from ..patching.sources import check_width
from .capture_cache import CachedCapture
from .parts import mask_input, read_mask
from .shown import model_told
from .sockets import (
    CATEGORY,
    WanVideoModel,
    activations_input,
    check_texts,
    embeds_input,
    errors_named,
    log_level_input,
    model_input,
    node_label,
    schedule_input,
    shown_schema,
    strength_input,
    transformer_options,
    window_and_branch_inputs,
)

log = logging.getLogger("wanvideo_activation_editor")

LatentEmbeds = io.Custom("LATENT_EMBEDS")
ImageEmbeds = io.Custom("WANVIDIMAGE_EMBEDS")


def pixels_input(name: str, default: int) -> Any:
    """Width or height of the video."""
    tooltip = f"{name.title()} of the video, in pixels."
    return io.Int.Input(name, default=default, min=16, max=8192, step=16, optional=True, tooltip=tooltip)


class WanVideoLatentEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return shown_schema(
            node_id="WanVideoLatentEncoder",
            display_name="WanVideo Latent Encoder",
            category=f"{CATEGORY}/Hidden States",
            description="Runs the model's first blocks on a prompt and captures the hidden state after them.",
            inputs=[
                model_input("The model, as the sampler gets it. Edits on it are left out of the capture."),
                embeds_input("text_embeds", "The prompt to run."),
                io.Int.Input(
                    "capture_after_blocks",
                    default=3,
                    min=1,
                    max=100,
                    tooltip="Blocks that run before the capture: 1 to 30 for 1.3B and 5B, 1 to 40 for 14B.",
                ),
                io.Boolean.Input(
                    "use_cache",
                    default=True,
                    tooltip="Use an earlier capture of the same model, prompt, size, sigma, seed and blocks.",
                ),
                pixels_input("width", 832),
                pixels_input("height", 480),
                io.Int.Input(
                    "num_frames", default=81, min=1, max=10000, step=4, optional=True, tooltip="Frames of the video."
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="The sampler's latent: gives the size, and its content is noised to sigma.",
                ),
                ImageEmbeds.Input(
                    "image_embeds", optional=True, tooltip="image_embeds of the wrapper's sampler: gives the size."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    optional=True,
                    control_after_generate=False,
                    tooltip="Seed of the noise, that of the sampler. Both captures of an injection need the same.",
                ),
                io.Float.Input(
                    "sigma",
                    default=1.0,
                    min=0.001,
                    max=1.0,
                    step=0.001,
                    round=0.001,
                    optional=True,
                    tooltip="Noise level: 1 is the first step (0.999 for unipc, vibt_unipc, dpm++, dpm++_sde, deis and "
                    "flowmatch_causvid of the wrapper). "
                    "Below, connect latent for real content.",
                ),
                io.Boolean.Input(
                    "all_blocks",
                    default=False,
                    optional=True,
                    tooltip="Keep the state after every block that runs, in the computer's memory.",
                ),
            ],
            outputs=[
                LatentEmbeds.Output(id="latent_embeds", display_name="latent_embeds"),
                io.String.Output(id="info", display_name="info"),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        text_embeds: Any,
        capture_after_blocks: int,
        use_cache: bool,
        width: int = 832,
        height: int = 480,
        num_frames: int = 81,
        latent: Any = None,
        image_embeds: Any = None,
        seed: int = 0,
        sigma: float = 1.0,
        all_blocks: bool = False,
    ) -> io.NodeOutput:
        with errors_named("WanVideo Latent Encoder"):
            host = host_of(model)
            wan_model = host.wan_model(model)
            host.check_embeds(text_embeds)
            prompt = read_text_embeds(text_embeds, "text_embeds", host.MAX_PROMPT_TOKENS)
            check_width(prompt, wan_model, "text_embeds is")
            if not 0.0 < sigma <= 1.0:
                raise ValueError(f"sigma must be above 0 and at most 1, not {sigma!r}.")
            size = Size(width, height, num_frames)
            settings = {"size": (width, height, num_frames), "seed": seed, "sigma": sigma}
            settings |= {"blocks": capture_after_blocks, "all_blocks": all_blocks}
            cached = CachedCapture(host, model, text_embeds, prompt, settings, latent, image_embeds)
            if use_cache and (found := cached.find()) is not None:
                report = capture_report(found, "from the cache")
                return io.NodeOutput(found, report, ui={"text": (report,)})
            started = time.perf_counter()
            states = host.capture(
                model,
                text_embeds,
                capture_after_blocks,
                all_blocks,
                size=size,
                seed=seed,
                sigma=sigma,
                latent=latent,
                image_embeds=image_embeds,
                after_block=progress(capture_after_blocks),
                identity=cached.identity,
                model_name=wan_model.name,
                prompt=prompt.prompt or "",
            )
            source = f"captured in {time.perf_counter() - started:.1f} s"
            if use_cache:
                source += cached.keep(states)
        report = capture_report(states, source)
        return io.NodeOutput(states, report, ui={"text": (report,)})


def progress(blocks: int) -> Callable[[int], None]:
    """Called after each block: moves the node's progress bar, and raises if the user interrupts."""
    from comfy.model_management import throw_exception_if_processing_interrupted
    from comfy.utils import ProgressBar

    bar = ProgressBar(blocks)

    def after_block(done: int) -> None:
        bar.update_absolute(done, blocks)
        throw_exception_if_processing_interrupted()

    return after_block


def capture_report(states: HiddenStates, source: str) -> str:
    """Text of the encoder's info output."""
    first = states.states[-1]
    name = states.model_name or "model"
    blocks = f"{states.blocks[0]} to {states.blocks[-1]}" if len(states.blocks) > 1 else f"{states.blocks[0]}"
    norms = torch.linalg.vector_norm(first, dim=-1, dtype=torch.float32)
    channels = first.abs().amax(dim=(0, 1)).float()
    return "\n".join(
        [
            f"{name}: hidden state after block {blocks}, {source}",
            f"{list(first.shape)} (batch, tokens, width) {str(first.dtype).removeprefix('torch.')}, "
            f"grid {format_grid(states.grid)}, {states.size / 1e6:.1f} MB",
            f"sigma {states.sigma:.3f}, seed {states.seed}",
            f"norm per token {norms.mean():.4g} on average; largest channel {channels.max():.4g}, "
            f"median channel {channels.median():.4g}",
        ]
    )


class WanVideoLatentInjector(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        template = io.MatchType.Template("model", [WanVideoModel, io.Model])
        return shown_schema(
            node_id="WanVideoLatentInjector",
            display_name="WanVideo Latent Injector",
            category=f"{CATEGORY}/Hidden States",
            description="Adds the difference of two captured hidden states after chosen blocks while sampling.",
            inputs=[
                io.MatchType.Input(
                    "model", template=template, tooltip="WANVIDEOMODEL of the wrapper, or a native Wan MODEL."
                ),
                LatentEmbeds.Input("main_latent", tooltip="Captured with the main prompt."),
                LatentEmbeds.Input(
                    "injection_latent", tooltip="Captured with the prompt to inject, at the same size, seed and sigma."
                ),
                strength_input("Factor of injection_latent - main_latent. Multiplies block strengths."),
                activations_input(),
                io.Combo.Input(
                    "reduce",
                    options=list(REDUCTIONS),
                    default="none",
                    optional=True,
                    tooltip="none adds token by token, which needs equal sizes; mean adds the mean and fits any size.",
                ),
                io.Boolean.Input(
                    "preserve_norm",
                    default=False,
                    optional=True,
                    tooltip="Scale each token back to its norm, since a few channels are much larger than the others.",
                ),
                *window_and_branch_inputs(),
                log_level_input(optional=True),
                schedule_input(),
                mask_input(),
            ],
            outputs=[io.MatchType.Output(template=template, id="model", display_name="model")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, block_activations: Any = None, schedule: Any = None) -> bool | str:
        return check_texts(block_activations, schedule)

    @classmethod
    def execute(
        cls,
        model: Any,
        main_latent: Any,
        injection_latent: Any,
        injection_strength: float,
        block_activations: str,
        reduce: str = "none",
        preserve_norm: bool = False,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        branch: str = "cond",
        log_level: str = "off",
        schedule: str = "",
        mask: Any = None,
    ) -> io.NodeOutput:
        with errors_named("WanVideo Latent Injector"):
            host = host_of(model)
            wan_model = host.wan_model(model)
            main = check_states(main_latent, "main_latent")
            injection = check_states(injection_latent, "injection_latent")
            strengths = parse_selection(block_activations) * injection_strength
            window = Window(start_percent, end_percent)
            label = node_label(cls, "WanVideo Latent Injector")
            chosen = strengths.active_blocks(wan_model.block_count)
            delta = captured_difference(main, injection, chosen, reduce)  # type: ignore[arg-type]
            if not chosen:
                log.warning("%s: no block is selected, so the model is passed on unchanged.", label)
                return io.NodeOutput(model, ui=model_told(model, strengths))
            edit = Edit(
                source=delta,
                strengths=strengths,
                site="hidden",
                operation=Add(preserve_norm),
                window=window,
                branch=branch,  # type: ignore[arg-type]
                label=label,
                log_level=log_level,  # type: ignore[arg-type]
                schedule=parse_schedule(schedule),
                mask=read_mask(mask),
            )
            check_stack([edit], wan_model)
            if delta.identity and known_identity(host, model) not in ("", delta.identity):
                log.warning(
                    "%s: the hidden states were captured from another model, or with other LoRA or patches on it. "
                    "Connect the encoders to the model that is sampled.",
                    label,
                )
            stack = stack_of(transformer_options(model)).append(edit)
            return io.NodeOutput(host.with_stack(model, stack), ui=model_told(model, strengths))


NODES = [WanVideoLatentEncoder, WanVideoLatentInjector]

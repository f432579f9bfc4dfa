"""Nodes that capture hidden states and add them: WanVideo Latent Encoder and Latent Injector."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ..embeddings import TextEmbeds, read_text_embeds
from ..patching import (
    KEY,
    LOG_LEVELS,
    REDUCTIONS,
    ActivationAddition,
    Edit,
    HiddenStates,
    Size,
    UnidentifiedError,
    Window,
    check_stack,
    check_states,
    check_width,
    fingerprint,
    format_grid,
    hidden_delta,
    host_of,
    parse_selection,
    stack_of,
)
from .recording import recall, remember
from .sockets import (
    CATEGORY,
    WanVideoModel,
    activations_input,
    check_activations,
    check_same_host,
    embeds_input,
    errors_named,
    model_input,
    node_label,
    transformer_options,
    window_and_branch_inputs,
)
from .store_access import STORE, store_path

if TYPE_CHECKING:
    from ..storage import EmbeddingKey

log = logging.getLogger("wanvideo_activation_editor")

LatentEmbeds = io.Custom("LATENT_EMBEDS")
ImageEmbeds = io.Custom("WANVIDIMAGE_EMBEDS")

CACHE_BYTES = 2**31
"""Most that captured states take in memory beside ComfyUI's own cache of node outputs."""


class StateCache:
    """Captured states by a key of their content; the least recently used go first when the bound is reached."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[str, HiddenStates] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> HiddenStates | None:
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            return found

    def put(self, key: str, states: HiddenStates) -> None:
        """Keep them, unless they alone are more than the bound."""
        with self._lock:
            self._held.pop(key, None)
            if states.size > self._limit:
                return
            self._held[key] = states
            while sum(kept.size for kept in self._held.values()) > self._limit:
                self._held.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._held.clear()


CACHE = StateCache(CACHE_BYTES)


class WanVideoLatentEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
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
                io.Int.Input(
                    "width",
                    default=832,
                    min=16,
                    max=8192,
                    step=16,
                    optional=True,
                    tooltip="Width of the video, in pixels.",
                ),
                io.Int.Input(
                    "height",
                    default=480,
                    min=16,
                    max=8192,
                    step=16,
                    optional=True,
                    tooltip="Height of the video, in pixels.",
                ),
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
                    tooltip="Noise level: 1 is the first step (0.999 for unipc and dpm++_sde of the wrapper). "
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
            check_same_host(model, text_embeds)
            prompt = read_text_embeds(text_embeds, "text_embeds", host.MAX_PROMPT_TOKENS)
            check_width(prompt, wan_model, "text_embeds is")
            if not 0.0 < sigma <= 1.0:
                raise ValueError(f"sigma must be above 0 and at most 1, not {sigma!r}.")
            size = Size(width, height, num_frames)
            settings = {"size": (width, height, num_frames), "seed": seed, "sigma": sigma}
            settings |= {"blocks": capture_after_blocks, "all_blocks": all_blocks}
            cached = _Cached(host, model, text_embeds, prompt, settings, latent, image_embeds)
            if use_cache and (found := cached.find()) is not None:
                return io.NodeOutput(found, capture_report(found, "from the cache"))
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
        return io.NodeOutput(states, capture_report(states, source))


def progress(blocks: int) -> Callable[[int], None]:
    """Called after each block: moves the node's progress bar, and raises if the user interrupts."""
    from comfy.model_management import throw_exception_if_processing_interrupted
    from comfy.utils import ProgressBar

    bar = ProgressBar(blocks)

    def after_block(done: int) -> None:
        bar.update_absolute(done, blocks)
        throw_exception_if_processing_interrupted()

    return after_block


class _Cached:
    """Where a capture may be found again: in memory, and in the embedding store when there is one on disk."""

    def __init__(
        self,
        host: Any,
        model: Any,
        text_embeds: Any,
        prompt: TextEmbeds,
        settings: Mapping[str, Any],
        latent: Any,
        image_embeds: Any,
    ) -> None:
        self._prompt, self._settings = prompt, settings
        self.identity, self._content, self._unknown = "", "", ""
        try:
            self.identity = host.identity(model)
            given = {k: latent.get(k) for k in ("samples", "noise_mask", "batch_index")} if latent else None
            content = (_without_negative(text_embeds), given, image_embeds)
            self._content = fingerprint(content)
        except UnidentifiedError as error:
            self._unknown = f"; not cached: {error}, which cannot be told from another"
        self._memory_key = fingerprint((self.identity, self._content, settings))

    def find(self) -> HiddenStates | None:
        if self._unknown:
            return None
        found = CACHE.get(self._memory_key)
        if found is None and (key := self._store_key()) is not None:
            found = HiddenStates.from_plain(recall(key))
            if found is not None:
                CACHE.put(self._memory_key, found)
        return found

    def keep(self, states: HiddenStates) -> str:
        """Keep them; returns what is to be said of it."""
        if self._unknown:
            return self._unknown
        CACHE.put(self._memory_key, states)
        if (key := self._store_key()) is not None:
            from ..storage.codec import MAX_TENSOR_BYTES

            if states.size > MAX_TENSOR_BYTES:
                return f"; kept in memory only, the embedding store takes up to {MAX_TENSOR_BYTES >> 20} MB"
            remember(key, states.plain(), self._prompt.prompt)
        return ""

    def _store_key(self) -> EmbeddingKey | None:
        """None while there is no file, and for all_blocks, which is too much for it."""
        path = store_path()
        if self._settings["all_blocks"] or path is None or (STORE.opened is None and not path.exists()):
            return None
        try:
            from ..storage import EmbeddingKey
        except ImportError as error:
            log.info("WanVideo Latent Encoder: captures are cached in memory only: %s", error)
            return None
        details = {**self._settings, "size": list(self._settings["size"]), "inputs": self._content}
        return EmbeddingKey(self._prompt.prompt or "", self.identity, "half", kind="hidden", details=details)


def _without_negative(text_embeds: Any) -> Any:
    """What a conditional call reads of the embeddings."""
    if isinstance(text_embeds, Mapping):
        return {k: v for k, v in text_embeds.items() if k not in (KEY, "negative_prompt_embeds")}
    return [[tensor, {k: v for k, v in extra.items() if k not in (KEY, "uuid")}] for tensor, extra in text_embeds]


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
        return io.Schema(
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
                io.Float.Input(
                    "injection_strength",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Factor of injection_latent - main_latent. Multiplies block strengths.",
                ),
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
                io.Combo.Input(
                    "log_level",
                    options=list(LOG_LEVELS),
                    default="off",
                    optional=True,
                    tooltip="basic: which blocks, once per run. verbose: what changed, per step. trace: also shapes.",
                ),
            ],
            outputs=[io.MatchType.Output(template=template, id="model", display_name="model")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, block_activations: Any = None) -> bool | str:
        return check_activations(block_activations)

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
            delta = hidden_delta(main, injection, chosen, reduce)  # type: ignore[arg-type]
            if not chosen:
                log.warning("%s: no block is selected, so the model is passed on unchanged.", label)
                return io.NodeOutput(model)
            edit = Edit(
                source=delta,
                strengths=strengths,
                site="hidden",
                operation=ActivationAddition(preserve_norm),
                window=window,
                branch=branch,  # type: ignore[arg-type]
                label=label,
                log_level=log_level,  # type: ignore[arg-type]
            )
            check_stack([edit], wan_model)
            if delta.identity and _identity(host, model) not in ("", delta.identity):
                log.warning(
                    "%s: the latents were captured from another model, or with other LoRA or patches on it. Connect "
                    "the encoders to the model that is sampled.",
                    label,
                )
            stack = stack_of(transformer_options(model)).append(edit)
            return io.NodeOutput(host.with_stack(model, stack))


def _identity(host: Any, model: Any) -> str:
    """Of the model; empty when it cannot be told."""
    try:
        identity: str = host.identity(model)
    except UnidentifiedError:
        return ""
    return identity


NODES = [WanVideoLatentEncoder, WanVideoLatentInjector]

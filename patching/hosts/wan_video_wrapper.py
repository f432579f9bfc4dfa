"""ComfyUI-WanVideoWrapper: models of type WANVIDEOMODEL.

Its samplers call the transformer themselves and honour none of ComfyUI's wrappers, callbacks or object patches,
so their `process` method is wrapped once per class, the first time an edit is attached. Without an edit
stack on the model the wrapper calls straight through.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import torch

from ...embeddings import MAX_TOKENS, EmbedsError, TextEmbeds, is_wrapper_embeds, read_text_embeds
from ..capture import Capture, HiddenStates
from ..checks import check_stack, warn_about_cache
from ..edit import KEY, Edit, EditStack, stack_of
from ..fingerprint import fingerprint, unwrapped
from ..grid import Size, format_grid
from ..passes import in_extra_pass
from ..projection import readable_weights
from ..runtime import Run, skipped_message
from ..sources import SecondStream
from ..wan_model import WanModel, discover, unwrap
from .compile import eager
from .status import observer_for

log = logging.getLogger("wanvideo_activation_editor")

NAME = "ComfyUI-WanVideoWrapper"
MAX_PROMPT_TOKENS = MAX_TOKENS
SAMPLERS = ("WanVideoSampler", "WanVideoDiffusionForcingSampler")

_CHANNELS_5B = 48  # of the latents of Wan 2.2 5B
_IMAGE_CHANNELS = 36  # inputs of an image-to-video model: noise, image and mask
_WRAPPED = "_wan_activation_editor_wrapped"
_running: ContextVar[bool] = ContextVar("wan_activation_editor_running", default=False)


def owns(model: Any) -> bool:
    """True for a model of this host: its transformer's forward takes `is_uncond` and `seq_len`."""
    transformer = getattr(getattr(model, "model", None), "diffusion_model", None)
    if transformer is None:
        return False
    parameters = inspect.signature(type(transformer).forward).parameters
    return "is_uncond" in parameters and "seq_len" in parameters


def wan_model(model: Any) -> WanModel:
    """The transformer of a WANVIDEOMODEL. Its weights may still be on `meta`.

    Raises:
        NotAWanModelError: a variant without blocks, text projection or cross-attention.
    """
    return discover(model.model.diffusion_model)


def with_stack(model: Any, stack: EditStack) -> Any:
    """A clone of the model that carries `stack`; the model itself is not changed."""
    wrap_samplers(model.model.diffusion_model)
    clone = model.clone()
    clone.model_options.setdefault("transformer_options", {})[KEY] = stack
    return clone


def capture(
    model: Any,
    text_embeds: Any,
    count: int,
    every: bool = False,
    *,
    size: Size,
    seed: int = 0,
    sigma: float = 1.0,
    latent: Any = None,
    image_embeds: Any = None,
    after_block: Callable[[int], None] | None = None,
    **known: Any,
) -> HiddenStates:
    """Run the first `count` blocks on a prompt, through WanVideoSampler with one step. The model's edits are left out.

    Args:
        model: WANVIDEOMODEL.
        text_embeds: WANVIDEOTEXTEMBEDS.
        count, every, after_block: see `Capture`.
        size: of the video, where neither `latent` nor `image_embeds` says it.
        seed: seed of the noise.
        sigma: noise level, above 0 to 1, in steps of 0.001.
        latent: LATENT to which the noise is added.
        image_embeds: WANVIDIMAGE_EMBEDS, as the sampler gets them.
        known: see `Capture.result`.

    Raises:
        ValueError: the model needs image_embeds, this version of the wrapper cannot add noise to a latent, or
            `latent` and `image_embeds` are of a kind or size that does not fit.
    """
    transformer = model.model.diffusion_model
    sampler = sampler_classes(transformer).get(SAMPLERS[0])
    if sampler is None:
        raise RuntimeError(f"No {SAMPLERS[0]} was found beside {type(transformer).__name__}. Update {NAME}.")
    parameters = inspect.signature(sampler.process).parameters
    samples = None
    # The sampler takes shapes at an eighth of the video's size and halves them for the 5B model.
    scale = 2 if getattr(transformer, "out_dim", 16) == _CHANNELS_5B else 1
    _check_inputs(latent, image_embeds, scale)
    if latent is not None:
        samples = {"samples": latent["samples"]}
        if "add_noise_to_samples" not in parameters:
            raise ValueError(
                f"latent: this version of {NAME} cannot add noise to a latent. Update it, or disconnect it."
            )
    if image_embeds is None:
        if getattr(transformer, "in_dim", None) == _IMAGE_CHANNELS:
            raise ValueError("This is an image-to-video model. Connect the sampler's image_embeds.")
        frames, height, width = latent["samples"].shape[-3:] if latent is not None else size.latent(8 * scale)
        shape = (16, frames, height * scale, width * scale)
        image_embeds = {"target_shape": shape, "num_frames": 4 * (frames - 1) + 1}
    clone = without_stack(model)
    arguments = {
        "model": clone,
        "image_embeds": {**image_embeds},
        "text_embeds": {k: v for k, v in text_embeds.items() if k != KEY},
        "shift": 1.0,
        "steps": 1,
        "cfg": 1.0,
        "seed": seed,
        "scheduler": "unipc",
        "riflex_freq_index": 0,
        "force_offload": True,
        "rope_function": "comfy",
        "sigmas": torch.tensor([sigma, 0.0]),
        "samples": samples,
    }
    if samples is not None:
        arguments["add_noise_to_samples"] = True
    running = Capture(wan_model(clone), count, every, after_block)
    try:
        with _compile_stance(model), running:
            sampler().process(**arguments)
    finally:
        _offload(model, sampler)
    return running.result(seed=seed, **known)


def _check_inputs(latent: Any, image_embeds: Mapping[str, Any] | None, scale: int) -> None:
    """What the sampler would stumble over, or run on without a word.

    Args:
        scale: the sampler's shapes over the latents': 2 for Wan 2.2 5B, else 1.

    Raises:
        ValueError: with what to connect instead.
    """
    lynx = (image_embeds or {}).get("lynx_embeds") or {}
    if lynx.get("ref_latent") is not None:
        raise ValueError(
            "image_embeds: the reference of Lynx has a pass of its own before the first step, which would be captured "
            "instead. Capture without the reference image."
        )
    if latent is None:
        return
    shape, channels = list(latent["samples"].shape), _CHANNELS_5B if scale == 2 else 16
    if len(shape) != 5 or shape[:2] != [1, channels]:
        raise ValueError(
            f"latent is {shape}, but the model takes [1, {channels}, frames, height, width]: one video, encoded with "
            "the VAE that belongs to the model. Connect the latent that the sampler gets, or disconnect it."
        )
    target = (image_embeds or {}).get("target_shape")
    size = None if target is None else [target[2] // scale, target[3] // scale]
    if size is not None and shape[3:] != size:
        raise ValueError(
            f"latent is {shape[3]} x {shape[4]} (height x width), but image_embeds is for {size[0]} x {size[1]}. "
            "Make both at the video's size, or disconnect one."
        )


def _offload(model: Any, sampler: type) -> None:
    """What the sampler does at its end with force_offload, for versions that do not when it ends early.

    Not for weights on `meta`, which cannot be moved: loading failed, or the sampler has offloaded them itself.
    """
    transformer, namespace = model.model.diffusion_model, vars(sys.modules[sampler.__module__])
    if any(parameter.is_meta for parameter in transformer.parameters()):
        return
    try:
        own_way = model.model["auto_cpu_offload"]
    except KeyError:
        own_way = False
    if own_way:
        return
    if "offload_transformer" in namespace:
        namespace["offload_transformer"](transformer)
    elif "offload_device" in namespace:
        transformer.to(namespace["offload_device"])


def without_stack(model: Any) -> Any:
    """A clone of the model without edits."""
    clone = model.clone()
    clone.model_options.get("transformer_options", {}).pop(KEY, None)
    return clone


def identity(model: Any) -> str:
    """Fingerprint of the model's weights, LoRA and options, without the pack's edits.

    Raises:
        UnidentifiedError: it carries something whose content cannot be told.
    """
    transformer, pipeline = model.model.diffusion_model, getattr(model.model, "pipeline", {})
    options = dict(model.model_options.get("transformer_options") or {})
    options.pop(KEY, None)
    state = {unwrapped(k): v for k, v in (pipeline.get("sd") or transformer.state_dict()).items()}
    # What the loader adds to the model itself, such as Stand-In's LoRA, is in no state dict of the pipeline.
    added = {unwrapped(k): v for k, v in transformer.named_parameters() if not v.is_meta}
    settings = ("base_dtype", "weight_dtype", "dtype", "quantization", "fp8_matmul", "model_name", "base_path")
    values = {
        "class": f"{type(transformer).__module__}.{type(transformer).__name__}",
        "state": {**added, **state},
        "patches": dict(model.patches),
        "options": options,
        "settings": {k: str(pipeline[k]) for k in settings if k in pipeline},
        "lora": pipeline.get("lora"),  # merged ones, which a sample of the weights may not show
        "attention": str(getattr(transformer, "attention_mode", "")),
    }
    return fingerprint(values, sampled=True)


def projection_weights(model: Any) -> Mapping[str, torch.Tensor] | None:
    """Readable text projection weights as `0.weight, 0.bias, 2.weight, 2.bias`, or None.

    The transformer is on `meta` until sampling starts; the loader keeps the checkpoint's state dict beside it.
    """
    prefix = "text_embedding."
    try:
        state = model.model["sd"]
    except (KeyError, TypeError):
        state = None
    if not state:
        return readable_weights(model.model.diffusion_model.text_embedding.state_dict())
    return readable_weights({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})


def wrap_samplers(transformer: torch.nn.Module) -> None:
    """Wrap `process` of this transformer's own samplers; does nothing when they are wrapped already.

    Raises:
        RuntimeError: the package that the transformer comes from has no sampler that is known here.
    """
    classes = sampler_classes(transformer)
    if not classes:
        raise RuntimeError(
            f"No {' or '.join(SAMPLERS)} was found beside {type(transformer).__name__} "
            f"({_package(transformer)}). Update {NAME}, or use the native MODEL workflow."
        )
    for cls in classes.values():
        process = vars(cls)["process"]
        if not getattr(process, _WRAPPED, False):
            cls.process = _wrap(process)


def sampler_classes(transformer: torch.nn.Module) -> dict[str, Any]:
    """The sampler classes of the package that the transformer comes from, by name."""
    root = _package(transformer)
    found: dict[str, Any] = {}
    for module_name, module in list(sys.modules.items()):
        if module is not None and (module_name == root or module_name.startswith(root + ".")):
            for sampler in SAMPLERS:
                cls = vars(module).get(sampler)
                if isinstance(cls, type) and "process" in vars(cls):
                    found[sampler] = cls
    return found


def _package(transformer: torch.nn.Module) -> str:
    return type(transformer).__module__.split(".wanvideo.")[0]


def _wrap(process: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(process)

    @functools.wraps(process)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        model = kwargs.get("model", args[0] if args else None)
        stack = stack_of((getattr(model, "model_options", None) or {}).get("transformer_options"))
        if not len(stack) or _running.get():
            return process(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        token = _running.set(True)
        try:
            return _sample(process, bound, stack)
        finally:
            _running.reset(token)

    setattr(wrapped, _WRAPPED, True)
    return wrapped


def _sample(process: Callable[..., Any], bound: inspect.BoundArguments, stack: EditStack) -> Any:
    arguments = bound.arguments
    model = arguments["model"]
    target = wan_model(model)
    transformer = target.module
    embeds = _check(target, stack, arguments)

    device = getattr(sys.modules.get(process.__module__), "device", None) or getattr(transformer, "main_device", None)
    if device is None:
        raise RuntimeError(f"Cannot tell the device that this build of {NAME} samples on. Update it.")
    arguments["text_embeds"] = embeds = _on_device(embeds, device)
    positive, negative = _pointers(embeds["prompt_embeds"]), _pointers(embeds.get("negative_prompt_embeds"))
    progress = _progress_map(arguments.get("scheduler"), arguments.get("shift"))
    signature = inspect.signature(type(transformer).forward)

    run = Run(
        stack,
        target,
        text_length=MAX_TOKENS,
        after_projection=_zero_padding if getattr(transformer, "is_longcat", False) else None,
        observer_for=observer_for,
    )

    streamed = any(isinstance(edit.source, SecondStream) for edit in stack)

    def on_call(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = signature.bind_partial(module, *args, **kwargs).arguments
        if streamed:
            _check_between_blocks(call)
        t = call["t"]
        run.begin(
            rows=_rows(call["context"], positive, negative, bool(call.get("is_uncond", False))),
            progress=lambda _: progress(t, call.get("current_step_percentage", 0.0)),
            label=lambda: f"Step at sigma {float(t.max()) / 1000:.4f}",
            grid=target.grid(call["x"]),
            sigma=lambda: float(t.max()) / 1000,
        )

    def attach_and_call(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if in_extra_pass():
            return
        # By its first model call the sampler has loaded weights, replaced linears and compiled blocks.
        if not attached:
            attached.append(stack_of_hooks.enter_context(run))
            _hook_control_blocks(run, transformer)
        on_call(module, args, kwargs)

    attached: list[Run] = []
    completed = False
    with contextlib.ExitStack() as stack_of_hooks, _compile_stance(model):
        hook = torch.compiler.disable(attach_and_call)  # type: ignore[no-untyped-call]
        stack_of_hooks.callback(transformer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        try:
            result = process(*bound.args, **bound.kwargs)
            completed = True
        finally:
            run.close(completed)
    return result


def _check(target: WanModel, stack: EditStack, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Everything that can be wrong before sampling starts; returns the sampler's text embeds."""
    embeds: Any = arguments.get("text_embeds")
    if not is_wrapper_embeds(embeds):
        raise EmbedsError(
            "The model carries WanVideo Activation Editor edits, but the sampler has no text_embeds. "
            "Connect the editor's text_embeds output to the sampler; with Latent Injector alone, the main prompt."
        )
    main = read_text_embeds(embeds, "text_embeds of the sampler")
    check_stack(stack, target, prompt_count=len(main.prompts), context_tokens=MAX_TOKENS)
    for edit in stack:
        if edit.site == "hidden":
            _check_skipped(edit, target, arguments.get("slg_args"))
        if edit.captured is not None:
            _check_windows(edit, arguments.get("context_options"), arguments["image_embeds"].get("num_frames", 0))
        if edit.text is None:
            continue
        check_echoshot(main.echoshot, main.token_counts, edit.text.token_counts, edit.label)
        edited_controls = [i for _, i in target.control_blocks if edit.strengths.resolve(target.block_count)[i]]
        if edited_controls and len(main.prompts) > 1:
            raise ValueError(
                f"{edit.label or 'Edit'}: a VACE model with several prompts ('|') cannot be edited. Use one prompt."
            )
    if arguments.get("cache_args") or arguments.get("teacache_args"):
        warn_about_cache(stack)
    if getattr(target.module, "audio_model", None) is not None:
        log.warning("Ovi: the video blocks are edited; the audio blocks keep the main prompt.")
    return dict(embeds)


def _check_skipped(edit: Edit, target: WanModel, slg_args: Mapping[str, Any] | None) -> None:
    """Skip-layer guidance leaves blocks out of the negative prompt's calls, so their hidden state cannot be edited.

    Raises:
        ValueError: an edit of that branch chooses such a block.
    """
    skipped = set((slg_args or {}).get("blocks") or ()) & set(edit.strengths.active_blocks(target.block_count))
    if skipped and edit.branch != "cond":
        raise ValueError(f"{edit.label or 'Edit'}: {skipped_message(skipped, 'slg_args (skip-layer guidance)')}")


def _check_windows(edit: Edit, context_options: Mapping[str, Any] | None, num_frames: int) -> None:
    """With context windows each model call sees `context_frames` frames of a video that has no fewer.

    Raises:
        ValueError: the captured difference is of another length.
    """
    grid = edit.captured.grid if edit.captured is not None else None
    if context_options is None or grid is None or context_options["context_frames"] > num_frames:
        return
    frames = (context_options["context_frames"] - 1) // 4 + 1
    if grid[0] != frames:
        raise ValueError(
            f"{edit.label or 'Edit'}: context_options samples windows of {frames} latent frames, but the hidden states "
            f"were captured on {format_grid(grid)} tokens. Capture with num_frames = "
            f"{context_options['context_frames']}, set reduce to mean, or disconnect context_options."
        )


# Arguments of a model call whose effect comes between blocks, in place, with the wrapper's node that sets each.
_BETWEEN_BLOCKS = {
    "uni3c_data": "Uni3C",
    "controlnet": "WanVideo ControlNet",
    "dual_control_input": "LongVie control",
    "flashvsr_LQ_latent": "FlashVSR",
    "s2v_audio_input": "S2V audio",
    "wananim_face_pixel_values": "WanAnimate face",
    "one_to_all_input": "One-to-All",
    "standin_input": "Stand-In",
    "x_ovi": "Ovi",
    "pcd_data": "Uni3C",
}


def _check_between_blocks(call: Mapping[str, Any]) -> None:
    """A second stream runs the blocks alone, so what the wrapper adds between them would be missing from it.

    Raises:
        ValueError: with what has to be disconnected.
    """
    found = sorted({name for argument, name in _BETWEEN_BLOCKS.items() if call.get(argument) is not None})
    if found:
        raise ValueError(
            f"injection_mode hidden_states and both cannot be combined with {', '.join(found)}, which acts between the "
            "blocks. Disconnect it, or use injection_mode context."
        )


def check_echoshot(echoshot: bool, main_counts: Sequence[int], counts: Sequence[int], label: str = "") -> None:
    """EchoShot ties shots to token counts: an injected prompt must have the same counts.

    Raises:
        ValueError: the counts differ.
    """
    wanted = list(main_counts)
    given = list(counts) * len(wanted) if len(counts) == 1 else list(counts)
    if echoshot and given != wanted:
        raise ValueError(
            f"{label or 'Edit'}: the prompt uses EchoShot, which ties shots to token counts {wanted}, "
            f"but the injected prompt has {list(counts)}. Use prompts of equal token counts, or one prompt without [1]."
        )


def _hook_control_blocks(run: Run, transformer: Any) -> None:
    """VACE control blocks are called past `__call__`, so their own hooks never fire unless compiled."""
    uncompiled = {id(b) for b in getattr(transformer, "vace_blocks", ()) if unwrap(b) is b}
    for block, index in run.model.control_blocks:
        if id(unwrap(block)) in uncompiled:
            run.hook_control_attention(unwrap(block), index)


def _compile_stance(model: Any) -> AbstractContextManager[Any]:
    """A transformer compiled as a whole ignores hooks; per-block compilation keeps its speed."""
    try:
        compile_args = model.model["compile_args"]
    except (KeyError, TypeError):
        compile_args = None
    whole = compile_args is not None and not compile_args.get("compile_transformer_blocks_only", True)
    return eager(whole, "compile_transformer_blocks_only in WanVideo Torch Compile Settings")


def _on_device(embeds: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The sampler's own move of the prompts, made here so that each model call's context can be recognised."""

    def move(value: Any) -> Any:
        if torch.is_tensor(value):
            return value.to(device)
        return [t.to(device) for t in value] if value is not None else None

    moved = {k: move(embeds[k]) for k in ("prompt_embeds", "negative_prompt_embeds") if k in embeds}
    return {**embeds, **moved}


def _pointers(tensors: Any) -> list[int]:
    return [t.data_ptr() for t in tensors] if tensors is not None else []


def _rows(context: Any, positive: list[int], negative: list[int], is_uncond: bool) -> dict[str, list[tuple[int, int]]]:
    """Which rows of the context are the prompt and which the negative one.

    Told by the tensors' identity: `is_uncond` is also False in extra passes (audio, pose, reference) that
    read the negative prompt. The flag decides only when one tensor serves as both.
    """
    rows: dict[str, list[tuple[int, int]]] = {"cond": [], "uncond": []}
    for row, pointer in enumerate(_pointers(context)):
        known = [name for name, found in (("cond", positive), ("uncond", negative)) if pointer in found]
        if len(known) == 2:
            known = ["uncond" if is_uncond else "cond"]
        if known == ["cond"]:
            rows["cond"].append((row, positive.index(pointer)))
        elif known:
            rows["uncond"].append((row, row))
    return rows


def _progress_map(scheduler: Any, shift: float | None) -> Callable[[torch.Tensor, float], float]:
    """How the sampler's timestep and its own step counter (a fraction) give the fraction of sampling done.

    Told by the noise level, since the counter restarts in two-sampler workflows and stands still in some of the
    wrapper's loops. `t` is 1000 * sigma, scalar or per frame, where clean frames are 0.

    Args:
        scheduler: a name, or the dict of WanVideo Scheduler, which holds its whole schedule.
        shift: the flow shift, when the sampler has it.
    """
    schedule = (
        getattr(scheduler.get("sample_scheduler"), "all_timesteps", None) if isinstance(scheduler, dict) else None
    )
    timesteps = torch.as_tensor(schedule).float().cpu() if schedule is not None else None

    def progress(t: torch.Tensor, step_fraction: float) -> float:
        now = float(t.max())
        if timesteps is not None:
            distance, index = (timesteps - now).abs().min(dim=0)
            if distance <= 1.0:  # rCM schedules count in other units than the model's timesteps
                return int(index) / len(timesteps)
        if shift is None or shift <= 0:
            return step_fraction
        # Flow matching shifts u = 1 - progress to sigma = shift u / (1 + (shift - 1) u).
        sigma = min(max(now / 1000, 0.0), 1.0)
        return 1.0 - sigma / (shift - (shift - 1.0) * sigma)

    return progress


def _zero_padding(projected: torch.Tensor, rows: list[int], source: TextEmbeds) -> None:
    """LongCat sets projected padding to zero: in every row of the batch, beyond the first prompt's length as given."""
    for row in rows:
        projected[row, source.given_lengths[0] :] = 0

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
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import torch

from ...embeddings.text_embeds import MAX_TOKENS, EmbedsError, TextEmbeds, is_conditioning
from ..capture import HiddenStates
from ..edit import KEY, EditStack, stack_of
from ..fingerprint import fingerprint as digest
from ..fingerprint import unwrapped
from ..messages import warn_if_unused
from ..noise import progress_at, shift_of
from ..passes import in_extra_pass
from ..projection import readable_weights
from ..runtime import Run
from ..sources import SecondStream
from ..wan_model import WanModel, discover, unwrap
from .compile import eager, edits_inside
from .status import observer_for
from .wrapper_checks import check, check_between_blocks, check_echoshot

log = logging.getLogger("wanvideo_activation_editor")

NAME = "ComfyUI-WanVideoWrapper"
MAX_PROMPT_TOKENS = MAX_TOKENS
SAMPLERS = ("WanVideoSampler", "WanVideoDiffusionForcingSampler")

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


def without_stack(model: Any) -> Any:
    """A clone of the model without edits."""
    clone = model.clone()
    clone.model_options.get("transformer_options", {}).pop(KEY, None)
    return clone


def run(model: Any, stack: EditStack) -> AbstractContextManager[Any]:
    """The clone that carries the edits; its samplers do the rest."""
    return contextlib.nullcontext(with_stack(model, stack))


def capture(model: Any, text_embeds: Any, count: int, every: bool = False, **more: Any) -> HiddenStates:
    """See wrapper_capture.py."""
    from .wrapper_capture import capture

    return capture(without_stack(model), text_embeds, count, every, **more)


def check_prompts(main: TextEmbeds, injected: TextEmbeds, edit: str) -> None:
    """Raise ValueError for EchoShot prompts of other token counts."""
    check_echoshot(main, injected, edit)


def check_embeds(text_embeds: Any) -> None:
    """Raise EmbedsError for CONDITIONING."""
    if is_conditioning(text_embeds):
        raise EmbedsError(
            "text_embeds is CONDITIONING, but the model is a WANVIDEOMODEL. Convert it with WanVideo TextEmbed Bridge."
        )


def fingerprint(model: Any) -> str:
    """Fingerprint of the model's weights, LoRA and options, without the pack's edits.

    Raises:
        UnidentifiedError: it carries something that cannot be fingerprinted.
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
    return digest(values, sampled=True)


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
    embeds = check(target, stack, arguments)

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

    streamed = any(isinstance(edit.source, SecondStream) for edit in stack.acting(target.block_count))

    def on_call(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = signature.bind_partial(module, *args, **kwargs).arguments
        if streamed:
            check_between_blocks(call)
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
    inside = edits_inside(stack, wan_model(model))
    with contextlib.ExitStack() as stack_of_hooks, compile_stance(model, inside):
        hook = torch.compiler.disable(attach_and_call)  # type: ignore[no-untyped-call]
        stack_of_hooks.callback(transformer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        try:
            result = process(*bound.args, **bound.kwargs)
            completed = True
        except StopIteration as error:  # ComfyUI's coroutine would hide where it comes from
            raise RuntimeError(f"StopIteration was raised while sampling: {error}") from error
        finally:
            edits = run.close(completed)
            if completed:
                warn_if_unused(edits)
    return result


def _hook_control_blocks(run: Run, transformer: Any) -> None:
    """VACE control blocks are called past `__call__`, so their own hooks never fire unless compiled."""
    uncompiled = {id(b) for b in getattr(transformer, "vace_blocks", ()) if unwrap(b) is b}
    for block, index in run.model.control_blocks:
        if id(unwrap(block)) in uncompiled:
            run.hook_control_attention(unwrap(block), index)


def compile_stance(model: Any, inside: bool = False) -> AbstractContextManager[Any]:
    """Lets hooks be reached that compiled code would ignore. The sampler compiles by itself, before its first call.

    Args:
        inside: hooks inside of blocks are to be reached.
    """
    try:
        compile_args = model.model["compile_args"]
    except (KeyError, TypeError):
        compile_args = None
    whole = compile_args is not None and not compile_args.get("compile_transformer_blocks_only", True)
    setting = "compile_transformer_blocks_only in WanVideo Torch Compile Settings"
    return eager(setting, whole=whole, inside=inside and compile_args is not None)


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
        scheduler: a name, or the dict of WanVideo Scheduler, whose shift counts and not the sampler's.
        shift: the sampler's flow shift, when it has it.
    """
    if isinstance(scheduler, dict):
        shift = shift_of(scheduler.get("sample_scheduler")) or shift

    def progress(t: torch.Tensor, step_fraction: float) -> float:
        if shift is None or shift <= 0:
            return step_fraction
        return progress_at(float(t.max()) / 1000, shift)

    return progress


def _zero_padding(projected: torch.Tensor, rows: list[int], source: TextEmbeds) -> None:
    """LongCat sets projected padding to zero: in every row of the batch, beyond the first prompt's length as given."""
    for row in rows:
        projected[row, source.given_lengths[0] :] = 0

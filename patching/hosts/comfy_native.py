"""ComfyUI's own Wan models: MODEL.

Three of ComfyUI's wrappers do the work, plain module-level functions that read the edit stack from the run's own
options: OUTER_SAMPLE opens a run for one sampler call, CALC_COND_BATCH notes which conditioning is which, and
APPLY_MODEL installs hooks around each model call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from ...embeddings.text_embeds import EmbedsError, TextEmbeds, is_wrapper_embeds
from ..active import ActiveEdit
from ..capture import HiddenStates
from ..edit import KEY, EditStack, stack_of
from ..fingerprint import fingerprint as digest
from ..fingerprint import unwrapped
from ..messages import warn_if_unused
from ..projection import readable_weights
from ..runtime import Run
from ..wan_model import WanModel, discover, unwrap
from .compile import eager, edits_inside, is_compiled
from .native_checks import check
from .status import observer_for

NAME = "ComfyUI"
MAX_PROMPT_TOKENS = None  # long prompts are not cut
SAMPLING_KEY = KEY + "_sampling"

COMPILE_SETTING = "compile the blocks, not the whole diffusion_model"

APPLY_MODEL = "apply_model"  # comfy.patcher_extension.WrappersMP.APPLY_MODEL


def owns(model: Any) -> bool:
    """True for a ModelPatcher around one of ComfyUI's own models."""
    return hasattr(model, "add_wrapper_with_key") and hasattr(getattr(model, "model", None), "model_sampling")


def wan_model(model: Any) -> WanModel:
    """The transformer of a MODEL.

    Raises:
        NotAWanModelError: the model is no Wan model.
    """
    return discover(model.model.diffusion_model)


def with_stack(model: Any, stack: EditStack) -> Any:
    """A clone of the model that carries `stack`; the model itself is not changed."""
    clone = model.clone()
    clone.model_options.setdefault("transformer_options", {})[KEY] = stack
    for kind, wrapper in _WRAPPERS.items():
        clone.remove_wrappers_with_key(kind, KEY)
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    return clone


def without_stack(model: Any) -> Any:
    """A clone of the model without edits."""
    clone = model.clone()
    clone.model_options.get("transformer_options", {}).pop(KEY, None)
    for kind in _WRAPPERS:
        clone.remove_wrappers_with_key(kind, KEY)
    return clone


def run(model: Any, stack: EditStack) -> AbstractContextManager[Any]:
    """The clone that carries the edits; its samplers do the rest."""
    return contextlib.nullcontext(with_stack(model, stack))


def capture(model: Any, text_embeds: Any, count: int, every: bool = False, **more: Any) -> HiddenStates:
    """See native_capture.py."""
    from .native_capture import capture

    return capture(without_stack(model), text_embeds, count, every, **more)


def check_prompts(main: TextEmbeds, injected: TextEmbeds, edit: str) -> None:
    """Any prompts go together."""


def check_embeds(text_embeds: Any) -> None:
    """Raise EmbedsError for the wrapper's embeddings."""
    if is_wrapper_embeds(text_embeds):
        raise EmbedsError(
            "text_embeds is WANVIDEOTEXTEMBEDS, but the model is a native MODEL. Connect CONDITIONING from "
            "CLIP Text Encode."
        )


def fingerprint(model: Any) -> str:
    """Fingerprint of the model's weights, patches and options, without the pack's edits.

    Raises:
        UnidentifiedError: it carries something that cannot be fingerprinted.
    """
    plain = without_stack(model)
    state = plain.model.diffusion_model.state_dict(prefix="diffusion_model.")
    for key, saved in plain.backup.items():  # weights before the patches that are merged into the loaded model
        if key in state:
            state[key] = saved.weight
    options = plain.model_options
    # ComfyUI may cast these to the model's type when it loads it, which is no other model.
    for prefix, module in plain.model.diffusion_model.named_modules(prefix="diffusion_model"):
        for key in (f"{prefix}.{name}" for name in module._parameters if any(True for _ in module.children())):
            if key in state and state[key].is_floating_point():
                state[key] = state[key].to(plain.model.get_dtype())
    values = {
        "class": f"{type(plain.model).__module__}.{type(plain.model).__name__}",
        "state": {unwrapped(k): v for k, v in state.items()},
        "patches": plain.patches,
        "object_patches": plain.object_patches,
        "wrappers": {kind: keyed for kind, keyed in plain.wrappers.items() if any(keyed.values())},
        "callbacks": {kind: keyed for kind, keyed in plain.callbacks.items() if any(keyed.values())},
        "options": options.get("transformer_options", {}),
        "function": options.get("model_function_wrapper"),
        "dtype": str(plain.model.get_dtype()),
    }
    return digest(values, sampled=True)


def projection_weights(model: Any) -> Mapping[str, torch.Tensor] | None:
    """Readable text projection weights as `0.weight, 0.bias, 2.weight, 2.bias`, or None. LoRA is not in them."""
    return readable_weights(model.model.diffusion_model.text_embedding.state_dict())


class Sampling:
    """What one sampler call knows: its conditionings by name, and its runs.

    Args:
        stack: the edits.
        conds: the guider's conditionings, `positive` and `negative` among them; None outside a guider.
        percent_to_sigma: the model's own map from a fraction of sampling to a noise level, falling.
    """

    def __init__(
        self, stack: EditStack, conds: Mapping[str, Any] | None, percent_to_sigma: Callable[[float], float]
    ) -> None:
        self._stack = stack
        self._percent_to_sigma = percent_to_sigma
        self._runs: dict[int, Run] = {}
        self._branches: dict[Any, str] | None = None
        if conds is not None:
            names = (("negative", "uncond"), ("positive", "cond"))
            self._branches = {c.get("uuid"): branch for name, branch in names for c in conds.get(name) or ()}
        self._groups: dict[tuple[int, Any], tuple[str, int, int]] = {}  # branch, first prompt, prompts
        self.announced = False  # that the model runs uncompiled

    def __deepcopy__(self, memo: dict[int, Any]) -> Sampling:
        return self

    def run_for(self, transformer: Any) -> Run:
        """The run of one transformer object; several devices work on copies of the model."""
        key = id(unwrap(transformer))
        if key not in self._runs:
            self._runs[key] = Run(self._stack, discover(transformer), observer_for=observer_for)
        return self._runs[key]

    def close(self, completed: bool) -> None:
        """End every run; `completed` is False after an error or an interrupt.

        An edit had an effect if it had one in any run: a device may see one branch alone.
        """
        runs = list(self._runs.values())
        self._runs.clear()
        ended: list[list[ActiveEdit]] = []

        def end(run: Run) -> None:
            ended.append(run.close(completed))

        with contextlib.ExitStack() as ends:  # all of them, whatever one raises
            for run in runs:
                ends.callback(end, run)
        if completed and ended:
            warn_if_unused([max(same, key=lambda e: (e.calls, e.edited)) for same in zip(*ended, strict=True)])

    @contextlib.contextmanager
    def batch(self, conds: Sequence[Sequence[Mapping[str, Any]] | None]) -> Iterator[None]:
        """For one batch of conditionings: note which branch and prompt each of them is.

        A list's branch is that of its first conditioning, found by its id. The index of the list means something else
        under skip-attention and dual guidance, and later ids may be the other branch's: to cover an area, ComfyUI
        appends a copy of the opposite conditioning that has this branch's text.
        """
        before, self._groups = self._groups, {}
        for i, group in enumerate(conds):
            branch = (self._branches or {}).get(group[0].get("uuid"), "") if group else ""
            texts: list[Any] = []
            for cond in group or ():
                text = (cond.get("model_conds") or {}).get("c_crossattn")
                if not any(text is known for known in texts):
                    texts.append(text)
                number = next(n for n, known in enumerate(texts) if known is text)
                self._groups[i, cond.get("uuid")] = (branch, sum(map(_prompts_in, texts[:number])), _prompts_in(text))
        try:
            yield
        finally:
            self._groups = before

    def rows(self, options: Mapping[str, Any], batch: int) -> dict[str, list[tuple[int, int]]]:
        """Rows of a batch of `batch` that belong to the positive and the negative conditioning.

        Outside a guider the index of a conditioning is all there is: 0 is the positive one.
        """
        indices = options.get("cond_or_uncond") or [0]
        if self._branches is None:
            groups = [("uncond" if index else "cond", 0, 1) for index in indices]
        else:
            keys = zip(indices, options.get("uuids") or (), strict=False)
            groups = [self._groups.get(key, ("", 0, 1)) for key in keys]
        size = batch // max(len(groups), 1)
        rows: dict[str, list[tuple[int, int]]] = {"cond": [], "uncond": []}
        for k, (branch, first, count) in enumerate(groups):
            if branch:  # ComfyUI repeats the prompts of a conditioning over the latents of the batch
                rows[branch].extend((k * size + i, first + i % count) for i in range(size))
        return rows

    def progress(self, sigma: float) -> float:
        """Fraction of sampling done at `sigma`: the inverse of the model's percent_to_sigma, by bisection."""
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            if self._percent_to_sigma(middle) > sigma:
                low = middle
            else:
                high = middle
        return high


def _prompts_in(text: Any) -> int:
    """Prompts of one conditioning: rows of its text."""
    tensor = getattr(text, "cond", None)
    return len(tensor) if torch.is_tensor(tensor) and len(tensor) else 1


def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Around one sampler call: check the edits, open a sampling session and always close it."""
    guider = executor.class_obj
    options = guider.model_options.setdefault("transformer_options", {})
    stack = stack_of(options)
    if not len(stack):
        return executor(*args, **kwargs)
    # outer_sample(noise, latent_image, sampler, sigmas, ...)
    noise = kwargs["noise"] if "noise" in kwargs else args[0]
    check(stack, guider, noise, kwargs["sampler"] if "sampler" in kwargs else args[2] if len(args) > 2 else None)
    _make_innermost(options)
    # Nodes such as ModelSamplingSD3 patch the sampling when the model is loaded, which is yet to come.
    model_sampling = guider.model_patcher.get_model_object("model_sampling")
    sampling = Sampling(stack, guider.conds, model_sampling.percent_to_sigma)
    options[SAMPLING_KEY] = sampling
    completed = False
    try:
        result = executor(*args, **kwargs)
        completed = True
        return result
    except StopIteration as error:  # ComfyUI's coroutine would hide where it comes from
        raise RuntimeError(f"StopIteration was raised while sampling: {error}") from error
    finally:
        options.pop(SAMPLING_KEY, None)
        sampling.close(completed)


def calc_cond_batch(executor: Any, model: Any, conds: Any, x: Any, t: Any, model_options: Any) -> Any:
    """Around one batch of conditionings: tell the sampling which is which."""
    sampling = (model_options.get("transformer_options") or {}).get(SAMPLING_KEY)
    if sampling is None:
        return executor(model, conds, x, t, model_options)
    with sampling.batch(conds):
        return executor(model, conds, x, t, model_options)


def _make_innermost(options: Mapping[str, Any]) -> None:
    """Move this pack's model wrapper behind torch.compile's, so that it sees the module that really runs.

    The options are the sampler call's own copy.
    """
    wrappers = options.get("wrappers", {}).get(APPLY_MODEL)
    if wrappers and KEY in wrappers:
        wrappers[KEY] = wrappers.pop(KEY)


def apply_model(executor: Any, x: torch.Tensor, t: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """Around one model call: hooks on, call, hooks off.

    Args:
        executor: the next wrapper, or BaseModel.apply_model; `class_obj` is the BaseModel.
        x: latents [batch, channels, frames, height, width].
        t: sigma per batch element.
    """
    # apply_model(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
    options = kwargs["transformer_options"] if "transformer_options" in kwargs else args[3] if len(args) > 3 else {}
    stack = stack_of(options)
    if not len(stack):
        return executor(x, t, *args, **kwargs)
    base_model = executor.class_obj
    given: Sampling | None = options.get(SAMPLING_KEY)
    sampling = given or Sampling(stack, None, base_model.model_sampling.percent_to_sigma)
    transformer = base_model.diffusion_model
    run = sampling.run_for(transformer)
    run.begin(
        rows=sampling.rows(options, x.shape[0]),
        progress=lambda _: sampling.progress(float(t.max())),
        label=lambda: f"Step at sigma {float(t.max()):.4f}",
        grid=run.model.grid(x),
        sigma=lambda: float(t.max()),
        text=kwargs["c_crossattn"] if "c_crossattn" in kwargs else args[1] if len(args) > 1 else None,
    )
    completed = False
    try:
        whole = is_compiled(transformer) and run.acts
        inside = run.acts and edits_inside(stack, run.model) and any(map(is_compiled, run.model.module.blocks))  # type: ignore[arg-type]
        with run, eager(COMPILE_SETTING, whole=whole, inside=inside, announce=not sampling.announced):
            sampling.announced = sampling.announced or whole or inside
            result = executor(x, t, *args, **kwargs)
            replaced = (options.get("patches_replace") or {}).get("dit") or {}
            run.check_skipped([key[1] for key in replaced if key[0] == "double_block"])
        completed = True
        return result
    finally:
        if given is None:
            sampling.close(completed)


# Kinds are the values of comfy.patcher_extension.WrappersMP.
_WRAPPERS = {"outer_sample": outer_sample, "calc_cond_batch": calc_cond_batch, APPLY_MODEL: apply_model}

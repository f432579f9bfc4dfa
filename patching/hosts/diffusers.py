"""diffusers: `WanPipeline` and its relatives, or a bare `WanTransformer3DModel`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ...embeddings.text_embeds import TextEmbeds
from ..arguments import Blocks, batch_of, chosen_blocks, encoded, given_prompt, given_window, warn_without_block
from ..capture import Capture, HiddenStates
from ..checks import check_stack
from ..difference import Reduce, captured_difference
from ..edit import Branch, Edit, EditStack, LogLevel
from ..fingerprint import fingerprint as digest
from ..fingerprint import unwrapped
from ..grid import Size
from ..mask import Box, Mask, as_mask
from ..operations import Add, Operation
from ..projection import readable_weights
from ..schedule import parse_schedule
from ..transforms import ContextTransform
from ..wan_model import WanModel, discover, unwrap
from ..words import tokens_of
from .attachment import COMPILE_SETTING, attached, call_was_cut, calls_of_prompt
from .compile import eager, is_compiled
from .diffusers_checks import check_features, check_no_cache, check_whole

NAME = "diffusers"
MAX_PROMPT_TOKENS = None  # given embeddings are not cut


@contextlib.contextmanager
def inject(
    target: Any,
    embeds: Any,
    blocks: Blocks = "all",
    strength: float = 1.0,
    *,
    window: tuple[float, float] = (0.0, 1.0),
    branch: Branch = "cond",
    operation: Operation | None = None,
    site: str = "context",
    transforms: Sequence[ContextTransform] = (),
    log_level: LogLevel = "off",
    schedule: str = "",
    tokens: str = "",
    prompt: str = "",
    mask: Mask | Box | torch.Tensor | None = None,
) -> Iterator[EditStack]:
    """Have chosen blocks attend to another prompt for as long as the `with` block lasts.

    Contexts nest: each works on the result of the outer one. The context keeps the main prompt's number of rows, so
    encode both prompts with the same `max_sequence_length`; Wan was trained with 512.

        with inject(pipe, other_embeds, blocks="10-29:0.6"):
            video = pipe(prompt_embeds=embeds, negative_prompt_embeds=negative).frames

    Args:
        target: a diffusers Wan pipeline (both of its transformers, when it has two) or a Wan transformer.
        embeds: the prompt to inject: text, or [tokens, 4096] or [batch, tokens, 4096] as `pipe.encode_prompt` gives it;
            or a source such as a Direction.
        blocks: a selection (`"10-29:0.6"`), a block, several ([1, 2], range(10, 30)), or
            strengths by block ({1: 0.5}). Left blank, nothing changes, and the log says so; `none` is silent.
        strength: multiplies the strengths of `blocks`, 0..1.
        window: part of sampling in which it acts, as fractions (start, end). Needs a pipeline.
        branch: `cond` (the prompt), `uncond` (the negative prompt) or `both`. A pipeline's calls are identified by
            their names, by the prompts that it encoded, or by its guider. A bare transformer's call is the prompt's
            unless it is within `transformer.cache_context("uncond")`.
        operation: what is done with the tensor at the site; any object with `name` that is called as
            `operation(x, value, strength)` (see patching/operations.py). Blend() by default for a prompt, Add() for a
            direction.
        site: where in the block it acts (see patching/sites.py): `context` swaps what the blocks attend to; `hidden`
            mixes the hidden state with that of a second stream, which runs the same blocks with the injected prompt;
            `attention` and others change a tensor inside.
        transforms: changes to the injected prompt after projection, such as Boost(10) or ForceDifference("blend", 0.5).
        log_level: off, basic, verbose or trace.
        schedule: multiplies the strengths over sampling, as in "0:0.2, 0.5:0.8, 1:1" (see patching/schedule.py). Needs
            a pipeline.
        tokens: those of the main prompt that are touched, at a site of the text: `"a phrase"`, `word 3`, `12-15`,
            `real`, `padding`, each with `:weight` (see patching/tokens.py). All of them by default.
        prompt: text of the main prompt, for `tokens` that name words; the pipeline's tokenizer cuts it.
        mask: the part of the video that is touched: weights [frames, height, width] or [height, width], or a Box. At
            site `context`, the part that reads the changed text.

    Raises:
        ValueError: a malformed selection, a block that the model lacks, a strength outside 0..1, embeddings of
            another width or with more than 512 tokens, no Wan model, a cache of diffusers that would replay the edit,
            group offload of several blocks beside a second stream, a mask under context parallelism.
    """
    chosen = chosen_blocks(blocks)
    warn_without_block(chosen, "inject")
    edit = Edit(
        source=embeds if hasattr(embeds, "gives") else given_prompt(target, embeds),  # type: ignore[arg-type]
        strengths=chosen * strength,
        window=given_window(window),
        branch=branch,
        operation=operation,  # type: ignore[arg-type]  # None: the default of the source
        site=site,
        label="inject",
        log_level=log_level,
        transforms=tuple(transforms),
        schedule=parse_schedule(schedule),
        tokens=tokens_of(target, tokens, prompt),
        mask=as_mask(mask),
    )
    stack = EditStack((edit,))
    with edited(target, stack):
        yield stack


@contextlib.contextmanager
def inject_hidden(
    target: Any,
    main: HiddenStates,
    injection: HiddenStates,
    blocks: Blocks,
    strength: float = 1.0,
    *,
    reduce: Reduce = "none",
    preserve_norm: bool = False,
    window: tuple[float, float] = (0.0, 1.0),
    branch: Branch = "cond",
    log_level: LogLevel = "off",
    schedule: str = "",
) -> Iterator[EditStack]:
    """Add strength * (injection - main) to the hidden state after chosen blocks for as long as the `with` block lasts.

    Args:
        target: a diffusers Wan pipeline or transformer.
        main, injection: captured hidden states; see `capture`.
        blocks, strength, window, branch, log_level, schedule: as for `inject`.
        reduce: `none` adds token by token, `mean` the mean over tokens.
        preserve_norm: scale each token back to its norm.

    Raises:
        ValueError: as `inject` and `captured_difference`.
    """
    chosen = chosen_blocks(blocks)
    warn_without_block(chosen, "inject_hidden")
    strengths = chosen * strength
    count = discover(_transformers(target)[0]).block_count
    edit = Edit(
        source=captured_difference(main, injection, strengths.active_blocks(count), reduce),
        strengths=strengths,
        site="hidden",
        operation=Add(preserve_norm),
        window=given_window(window),
        branch=branch,
        label="inject_hidden",
        log_level=log_level,
        schedule=parse_schedule(schedule),
    )
    stack = EditStack((edit,))
    with edited(target, stack):
        yield stack


@torch.no_grad()
def capture(
    model: Any,
    text_embeds: Any,
    count: int,
    every: bool = False,
    *,
    latents: torch.Tensor | None = None,
    timestep: float = 1000.0,
    size: Size | None = None,
    seed: int = 0,
    after_block: Callable[[int], None] | None = None,
    **inputs: Any,
) -> HiddenStates:
    """Run the first `count` blocks of a transformer on a prompt: one call of it, cut short.

    An `inject` or `inject_hidden` around it acts in that call. Capture outside of them for the unedited model.

    Args:
        model: a diffusers Wan pipeline (its first transformer) or a Wan transformer.
        text_embeds: the prompt: text, or embeddings [batch, tokens, 4096].
        count, every, after_block: see `Capture`.
        latents: noisy latents [batch, channels, frames, height, width]; None for noise.
        timestep: 1000 times the noise level.
        size, seed: of the noise, without `latents`.
        inputs: further inputs of the transformer, such as `encoder_hidden_states_image`.

    Raises:
        ValueError: `count` is out of range; a cache of diffusers or context parallelism is enabled.
    """
    transformer = _transformers(model)[0]
    parts = discover(transformer)
    module: Any = parts.module
    text = batch_of(encoded(model, text_embeds, "text_embeds"), "text_embeds")
    check_no_cache(module, "capture")
    check_whole(module, "capture")
    if latents is None:
        channels = module.config.in_channels
        shape = (1, channels, *(size or Size()).latent(channels))
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(module.device)
    device, dtype = latents.device, module.dtype
    running = Capture(parts, count, every, after_block)
    try:
        with eager(COMPILE_SETTING, whole=is_compiled(transformer)), calls_of_prompt(module), running:
            transformer(
                hidden_states=latents.to(dtype),
                timestep=torch.full((len(latents),), timestep, device=device),
                encoder_hidden_states=text.to(device, dtype),
                **inputs,
            )
        call_was_cut(module)
        if (offload := getattr(module, "_hf_hook", None)) is not None:  # of accelerate; a call cut short leaves it out
            offload.post_forward(module, None)
    finally:
        if getattr(model, "_all_hooks", None):  # model offload: what a pipeline does at its end
            model.maybe_free_model_hooks()
    return running.result(model_name=parts.name)


def owns(model: Any) -> bool:
    """True for a pipeline or transformer of diffusers."""
    return hasattr(unwrap(_transformers(model)[0]), "condition_embedder")


def wan_model(model: Any) -> WanModel:
    """The transformer, of a pipeline the first one.

    Raises:
        NotAWanModelError: it is no Wan model.
    """
    return discover(_transformers(model)[0])


@contextlib.contextmanager
def run(model: Any, stack: EditStack) -> Iterator[Any]:
    """`edited`, with the model."""
    with edited(model, stack):
        yield model


def fingerprint(model: Any) -> str:
    """Identity of the transformers' weights and adapters.

    Raises:
        UnidentifiedError: it carries something that cannot be fingerprinted.
    """
    values = []
    for transformer in _transformers(model):
        module = unwrap(transformer)
        adapters = {
            name: {"scaling": dict(layer.scaling), "active": list(layer.active_adapters), "off": layer.disable_adapters}
            for name, layer in module.named_modules()
            if hasattr(layer, "scaling") and hasattr(layer, "active_adapters")
        }
        state = {unwrapped(k): v for k, v in module.state_dict().items()}
        values.append({"class": type(module).__name__, "state": state, "adapters": adapters})
    return digest(values, sampled=True)


def projection_weights(model: Any) -> Mapping[str, torch.Tensor] | None:
    """Of the first transformer."""
    state: dict[str, torch.Tensor] = wan_model(model).projection.state_dict()
    return readable_weights({k.replace("linear_1.", "0.").replace("linear_2.", "2."): v for k, v in state.items()})


def check_prompts(main: TextEmbeds, injected: TextEmbeds, edit: str) -> None:
    """Any prompts go together."""


def _transformers(target: Any) -> list[Any]:
    """Of a pipeline both transformers, if it has two; else the target itself."""
    found = [t for t in (getattr(target, name, None) for name in ("transformer", "transformer_2")) if t is not None]
    return found or [target]


@contextlib.contextmanager
def edited(target: Any, stack: EditStack) -> Iterator[None]:
    """Apply an edit stack to a pipeline or transformer for as long as the `with` block lasts.

    Raises:
        ValueError: as `inject`.
    """
    transformers = _transformers(target)
    scheduler = getattr(target, "scheduler", None) if transformers[0] is not target else None
    if scheduler is None and any(edit.is_timed for edit in stack):
        raise ValueError("A window or schedule needs the pipeline's scheduler: pass the pipeline, not its transformer.")
    for transformer in transformers:
        model = discover(transformer)
        check_stack(stack, model)
        check_features(stack.acting(model.block_count), model.module)
    with attached(target, transformers, stack, scheduler):
        yield

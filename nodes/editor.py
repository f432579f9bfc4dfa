"""Nodes that add an edit to a model: WanVideo Activation Editor and its per-block sibling."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..embeddings.difference import mean_difference
from ..embeddings.text_embeds import MAX_TOKENS, TextEmbeds, read_text_embeds
from ..patching.checks import check_stack
from ..patching.edit import Edit, Window, stack_of
from ..patching.hosts import host_of
from ..patching.schedule import parse_schedule
from ..patching.selection import parse_selection
from ..patching.sources import check_width, prompt_at
from ..patching.strengths import BlockStrengths, as_block_strengths
from ..patching.transforms import ContextTransform
from ..patching.wan_model import WanModel
from .parts import mask_input, read_mask, read_tokens, tokens_input, words_inputs
from .shown import model_told
from .sockets import (
    CATEGORY,
    activations_input,
    address,
    block_strengths_input,
    check_texts,
    compared_prompts,
    embeds_input,
    errors_named,
    log_level_input,
    node_label,
    passed_on_sockets,
    schedule_input,
    shown_schema,
    strength_input,
    transformer_options,
    window_and_branch_inputs,
    with_description,
)

log = logging.getLogger("wanvideo_activation_editor")

MODES: dict[str, tuple[str, ...]] = {
    "context": ("context",),
    "hidden_states": ("hidden",),
    "both": ("context", "hidden"),
}


def append_edits(
    node: str,
    model: Any,
    text_embeds: Any,
    strengths: BlockStrengths,
    make: Callable[[TextEmbeds, WanModel], list[Edit]],
) -> tuple[Any, Any]:
    """The model with edits after those that it has, and the embeds with their description.

    Args:
        node: label of the edits.
        strengths: of the edits; without a block nothing is made.
        make: the edits for the main prompt and the model; none leave both as they are.
    """
    host = host_of(model)
    wan_model = host.wan_model(model)
    host.check_embeds(text_embeds)
    main = read_text_embeds(text_embeds, "text_embeds", host.MAX_PROMPT_TOKENS)
    check_width(main, wan_model, "text_embeds is")
    if not any(strengths.resolve(wan_model.block_count)):
        log.warning("%s: no block is selected, so the model is passed on unchanged.", node)
        return model, text_embeds
    edits = make(main, wan_model)
    if not edits:
        return model, text_embeds
    check_stack(edits, wan_model, prompt_count=len(main.prompts))
    stack = stack_of(transformer_options(model)).append(*edits)
    return host.with_stack(model, stack), with_description(text_embeds, stack)


def add_edit(
    node: str,
    model: Any,
    text_embeds: Any,
    injection_embeds: Any,
    strengths: BlockStrengths,
    log_level: str,
    window: Window,
    branch: str,
    sites: tuple[str, ...] = ("context",),
    transforms: tuple[ContextTransform, ...] = (),
    reports_to: tuple[str, str] | None = None,
    schedule: str = "",
    tokens: str = "",
    mask: Any = None,
    prompt: str = "",
    text_encoder: Any = None,
) -> tuple[Any, Any]:
    """Append an edit per site to a clone of the model; inputs that change nothing are handed back as they are.

    Args:
        node: label of the edit: the node's name and id.
        sites: what is edited in the chosen blocks, in order.
        transforms: changes to the injected prompt after projection.
        reports_to: node and workflow that show what the first of the edits does while sampling.
        schedule: multiplies the strengths over sampling.
        tokens, mask: the part that is edited.
        prompt, text_encoder: of the main prompt, where `tokens` names words.

    Returns:
        The model with the edit and the text embeds with its description.
    """
    host = host_of(model)
    both: list[tuple[TextEmbeds, TextEmbeds]] = []  # the main prompt and the injected one, when edits are made

    def make(main: TextEmbeds, wan_model: WanModel) -> list[Edit]:
        if injection_embeds is None:
            raise ValueError(
                "injection_embeds is not connected. Connect the second prompt's embeddings, or turn enable_patching "
                "off."
            )
        longest = max((MAX_TOKENS, *main.given_lengths))
        source = read_text_embeds(injection_embeds, "injection_embeds", longest).detached()
        chosen = read_tokens(tokens, main, branch, prompt, text_encoder)
        edits = [
            Edit(
                source=prompt_at(site, source),
                strengths=strengths,
                site=site,
                window=window,
                branch=branch,  # type: ignore[arg-type]
                label=node,
                log_level=log_level,  # type: ignore[arg-type]
                transforms=transforms,
                reports_to=reports_to if site == sites[0] else None,
                schedule=parse_schedule(schedule),
                tokens=chosen,
                mask=read_mask(mask),
            )
            for site in sites
        ]
        both.append((main, source))
        return edits

    edited = append_edits(node, model, text_embeds, strengths, make)
    for main, source in both:
        host.check_prompts(main, source, node)
        if not transforms and (compared := compared_prompts(main.detached(), branch)):
            _report_difference(node, compared, source.prompts, log_level)
    return edited


def _report_difference(node: str, main: Any, injected: Any, log_level: str) -> None:
    if len(injected) not in (1, len(main)):
        return
    difference = mean_difference(main, injected)
    if difference.alike:
        log.warning(
            "%s: the prompts are nearly alike (%s), so the effect will be small. Use prompts that differ more.",
            node,
            difference,
        )
    elif log_level != "off":
        log.info("%s: injected against main prompt: %s", node, difference)


class WanVideoActivationEditor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        passed_on = passed_on_sockets()
        return shown_schema(
            node_id="WanVideoActivationEditor",
            display_name="WanVideo Activation Editor (inject prompt)",
            category=f"{CATEGORY}/Injection",
            description="Lets chosen transformer blocks attend to a second prompt while the video is sampled.",
            inputs=[
                *passed_on.inputs,
                strength_input(
                    "0 keeps the main prompt, 1 replaces it in the chosen blocks. Multiplies block strengths."
                ),
                activations_input(),
                io.Boolean.Input("enable_patching", default=True, tooltip="Off passes model and embeds on unchanged."),
                log_level_input(),
                io.Combo.Input(
                    "injection_mode",
                    options=list(MODES),
                    default="context",
                    tooltip="context swaps the text that blocks read; hidden_states mixes in a second stream; or both.",
                ),
                embeds_input("injection_embeds", "The second prompt: its embeddings are injected.", optional=True),
                block_strengths_input(),
                *window_and_branch_inputs(),
                schedule_input(),
                tokens_input(),
                mask_input(),
                *words_inputs(),
            ],
            outputs=[
                *passed_on.outputs,
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, block_activations: Any = None, schedule: Any = None, tokens: Any = None) -> bool | str:
        return check_texts(block_activations, schedule, tokens)

    @classmethod
    def execute(
        cls,
        model: Any,
        text_embeds: Any,
        injection_strength: float,
        block_activations: str,
        enable_patching: bool,
        log_level: str,
        injection_mode: str,
        injection_embeds: Any = None,
        block_strengths: Any = None,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        branch: str = "cond",
        schedule: str = "",
        tokens: str = "real",
        mask: Any = None,
        prompt: str = "",
        text_encoder: Any = None,
    ) -> io.NodeOutput:
        if not enable_patching:
            return io.NodeOutput(model, text_embeds)
        with errors_named("WanVideo Activation Editor"):
            strengths = choose_blocks(block_activations, block_strengths) * injection_strength
            window = Window(start_percent, end_percent)
            label = node_label(cls, "WanVideo Activation Editor")
            return io.NodeOutput(
                *add_edit(
                    label,
                    model,
                    text_embeds,
                    injection_embeds,
                    strengths,
                    log_level,
                    window,
                    branch,
                    MODES[injection_mode],
                    reports_to=address(cls.hidden) if log_level != "off" else None,
                    schedule=schedule,
                    tokens=tokens,
                    mask=mask,
                    prompt=prompt,
                    text_encoder=text_encoder,
                ),
                ui=model_told(model, strengths),
            )


class WanVideoAdvancedActivationEditor(io.ComfyNode):
    """Id of older shared workflow files; its strength comes from block_strengths, else from uniform_strength."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        passed_on = passed_on_sockets()
        return shown_schema(
            node_id="WanVideoAdvancedActivationEditor",
            display_name="WanVideo Per-Block Activation Editor",
            category=f"{CATEGORY}/Injection",
            description="Kept for older workflow files. WanVideo Activation Editor does the same and more.",
            is_deprecated=True,
            inputs=[
                *passed_on.inputs,
                activations_input(),
                io.Boolean.Input("enable_patching", default=True, tooltip="Off passes model and embeds on unchanged."),
                embeds_input("injection_embeds", "The second prompt: its embeddings are injected.", optional=True),
                block_strengths_input(),
                io.Float.Input(
                    "uniform_strength",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Strength of every chosen block when block_strengths is not connected.",
                ),
                *window_and_branch_inputs(),
            ],
            outputs=[
                *passed_on.outputs,
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, block_activations: Any = None) -> bool | str:
        return check_texts(block_activations)

    @classmethod
    def execute(
        cls,
        model: Any,
        text_embeds: Any,
        block_activations: str,
        enable_patching: bool,
        injection_embeds: Any = None,
        block_strengths: Any = None,
        uniform_strength: float = 0.5,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        branch: str = "cond",
    ) -> io.NodeOutput:
        if not enable_patching:
            return io.NodeOutput(model, text_embeds)
        name = "WanVideo Per-Block Activation Editor"
        with errors_named(name):
            strengths = choose_blocks(block_activations, block_strengths)
            if block_strengths is None:
                strengths = strengths * uniform_strength
            window = Window(start_percent, end_percent)
            label = node_label(cls, name)
            return io.NodeOutput(
                *add_edit(label, model, text_embeds, injection_embeds, strengths, "off", window, branch),
                ui=model_told(model, strengths),
            )


def choose_blocks(block_activations: str, block_strengths: Any) -> BlockStrengths:
    """The selection, the per-block strengths, or where both say something their product."""
    selection = parse_selection(block_activations)
    if block_strengths is None:
        return selection
    strengths = as_block_strengths(block_strengths)
    return strengths if selection.is_blank() else selection * strengths


NODES = [WanVideoActivationEditor, WanVideoAdvancedActivationEditor]

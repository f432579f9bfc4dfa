"""Nodes that report on a model's edits: the viewer and the tester."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io

from ..embeddings.difference import Difference, mean_difference
from ..embeddings.text_embeds import MAX_TOKENS, TextEmbeds, pad_tokens, read_text_embeds
from ..patching.acted import acted, run_count
from ..patching.edit import KEY, Edit, EditStack, stack_of
from ..patching.hosts import host_of
from ..patching.projection import project_text
from ..patching.selection import parse_selection
from ..patching.transforms import ContextTransform, apply_transforms
from ..patching.verdict import verdict
from ..patching.views import NO_EDIT, block_list, cell_grid, model_summary, stack_report, strength_summary
from .shown import bars, difference_table, model_told
from .sockets import (
    CATEGORY,
    check_texts,
    compared_prompts,
    embeds_input,
    errors_named,
    model_input,
    schema,
    transformer_options,
)


class WanVideoBlockActivationViewer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="WanVideoBlockActivationViewer",
            display_name="WanVideo Block Activation Viewer",
            category=f"{CATEGORY}/Inspection",
            description="Shows which blocks of a model are edited, and how.",
            is_output_node=True,
            inputs=[
                model_input("The model, with or without edits."),
                io.Boolean.Input("show_visual", default=True, tooltip="Draw the blocks as cells, ten to a row."),
                io.String.Input(
                    "block_activations",
                    default="",
                    optional=True,
                    tooltip="A selection to show beside the model's edits; empty shows the edits alone.",
                ),
                embeds_input("text_embeds", "Text embeds whose description is shown.", optional=True),
            ],
            outputs=[io.String.Output(id="visualization", display_name="visualization")],
        )

    @classmethod
    def validate_inputs(cls, block_activations: Any = None) -> bool | str:
        return check_texts(block_activations)

    @classmethod
    def execute(
        cls, model: Any, show_visual: bool, block_activations: str | None = None, text_embeds: Any = None
    ) -> io.NodeOutput:
        with errors_named("WanVideo Block Activation Viewer"):
            host = host_of(model)
            wan_model = host.wan_model(model)
            count = wan_model.block_count
            parts = [model_summary(wan_model, host.NAME)]
            selection = parse_selection(block_activations or "")
            if not selection.is_blank():
                strengths = selection.resolve(count)
                parts += ["", f"Selection: {strength_summary(strengths)}"]
                parts += [cell_grid(strengths)] if show_visual else []
            stack = stack_of(transformer_options(model))
            parts += ["", stack_report(stack, count, show_visual)]
            shown = [(edit.label, edit.strengths.resolve(count)) for edit in stack] if show_visual else []
            if text_embeds is not None:
                parts += ["", _embeds_line(text_embeds)]
        text = "\n".join(parts)
        return io.NodeOutput(text, ui={"text": (text,), **model_told(model, shown=bars(shown))})


def _embeds_line(text_embeds: Any) -> str:
    main = read_text_embeds(text_embeds, "text_embeds", None)
    first = text_embeds if isinstance(text_embeds, dict) else text_embeds[0][1]
    edits = len(first[KEY]["edits"]) if KEY in first else 0
    return f"Text embeds: {len(main.prompts)} prompt(s), {list(main.token_counts)} tokens, {edits} edit(s) described"


class WanVideoInjectionTester(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="WanVideoInjectionTester",
            display_name="WanVideo Injection Tester",
            category=f"{CATEGORY}/Inspection",
            description="Measures how far each injected prompt is from the main one, before and after the projection.",
            is_output_node=True,
            inputs=[
                model_input("The model output of WanVideo Activation Editor."),
                embeds_input("text_embeds", "The main prompt."),
                io.Boolean.Input("show_details", default=True, tooltip="All figures; off gives one line per edit."),
            ],
            outputs=[io.String.Output(id="test_results", display_name="test_results")],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> int:
        return run_count()

    @classmethod
    def execute(cls, model: Any, text_embeds: Any, show_details: bool) -> io.NodeOutput:
        with errors_named("WanVideo Injection Tester"):
            host = host_of(model)
            wan_model = host.wan_model(model)
            main = read_text_embeds(text_embeds, "text_embeds", host.MAX_PROMPT_TOKENS).detached()
            stack = stack_of(transformer_options(model))
            parts = [model_summary(wan_model, host.NAME)]
            if not len(stack):
                parts.append(NO_EDIT)
            weights = host.projection_weights(model)
            tables = []
            for edit in stack:
                measured: list[tuple[str, Difference]] = []
                strengths = edit.strengths.resolve(wan_model.block_count)
                parts += ["", f"{edit.label}: {strength_summary(strengths)}", f"  blocks {block_list(strengths)}"]
                lines = (
                    _measurements(stack, main, edit, strengths, weights, show_details, measured)
                    if edit.text
                    else [_without_prompt(edit)]
                )
                run = acted(edit) or "not sampled since it was made"
                parts += [*lines, f"  {run}"] if any(strengths) else lines
                if measured:
                    expected = lines[0].strip().removeprefix("Verdict: ")
                    caption = f"{edit.label}: {strength_summary(strengths)}"
                    tables.append(
                        difference_table(caption, measured, f"{expected}; {run}" if any(strengths) else expected)
                    )
        text = "\n".join(parts)
        return io.NodeOutput(text, ui={"text": (text,), **model_told(model, tables=tables)})


def _without_prompt(edit: Edit) -> str:
    delta = edit.captured
    if delta is None:
        return f"  {edit.operation.name} at {edit.site}: no prompt to compare"
    return (
        f"  {edit.operation.name} of a difference captured {delta.origin}: relative L2 {delta.relative_l2:.3f} of the "
        "main hidden state"
    )


def _measurements(
    stack: EditStack,
    main: TextEmbeds,
    edit: Edit,
    strengths: Sequence[float],
    weights: Any,
    details: bool,
    measured: list[tuple[str, Difference]],
) -> list[str]:
    """Lines of the report; what was measured is appended to `measured`."""
    source, prompts = edit.text, compared_prompts(main, edit.branch)
    assert source is not None  # noqa: S101  # by the caller
    if not prompts:
        return ["  It edits the negative prompt, which text_embeds does not hold, so there is nothing to compare."]
    try:
        raw = mean_difference(prompts, source.prompts)
    except ValueError as error:
        return [f"  {error} Connect the text_embeds that the editor got."]
    injected = [source.prompts[0]] * len(prompts) if len(source.prompts) == 1 else list(source.prompts)
    transforms = stack.transforms_of(edit)
    read = None if weights is None else _read_by_blocks(prompts, injected, weights, transforms, edit, max(strengths))
    measured.append(("before projection", raw))
    distance = raw.relative_l2
    if transforms and weights is not None:
        distance = _read_by_blocks(prompts, injected, weights, transforms, edit, 1.0).relative_l2
    peak = max((multiplier for _, multiplier in edit.schedule.points), default=1.0)
    expected = verdict([peak * strength for strength in strengths], edit.window, distance)
    if not details:
        return [f"  {expected} (relative L2 {raw.relative_l2:.3f} before projection)"]

    rows = max(MAX_TOKENS, *(p.shape[0] for p in prompts))

    def padded(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [pad_tokens(p, rows) for p in tensors]

    raw_all = mean_difference(padded(prompts), padded(source.prompts))
    measured.append((f"before, all {rows} rows", raw_all))
    lines = [
        f"  Verdict: {expected}",
        f"  Before projection, real tokens: {raw}",
        f"  Before projection, all {rows} rows: {raw_all}",
        f"  Dimensions that differ most before projection: {_dimensions(prompts, injected)}",
    ]
    if weights is None:
        lines.append(
            "  After projection: the weights can be read only while sampling (GGUF or scaled fp8). "
            "Set the editor's log_level to verbose to see the figures per step."
        )
        return lines
    a, b = ([project_text(p, weights) for p in padded(tensors)] for tensors in (prompts, injected))
    real = raw.tokens
    after, after_all = mean_difference([p[:real] for p in a], [p[:real] for p in b]), mean_difference(a, b)
    after_what = "".join(f", after {transform.name}" for transform in transforms)
    measured += [("after projection", after), (f"after, all {rows} rows", after_all)]
    return [
        *lines,
        f"  After projection, real tokens: {after}",
        f"  After projection, all {rows} rows: {after_all}",
        f"  Read by the blocks at strength {max(strengths):g}{after_what}, real tokens: {read}",
        "  The share above 0.01 depends on the scale of the values and on padding rows, equal in both prompts: "
        f"{100 * raw.changed_share:.2f}% of the real tokens before projection reads as "
        f"{100 * after_all.changed_share:.2f}% of all rows after it. Relative L2 and cosine do not depend on scale.",
    ]


def _read_by_blocks(
    prompts: Sequence[torch.Tensor],
    injected: Sequence[torch.Tensor],
    weights: Any,
    transforms: Sequence[ContextTransform],
    edit: Edit,
    strength: float,
) -> Difference:
    """What blocks at `strength` read in place of the main prompt: projected, transformed and blended; real tokens."""
    before, after = [], []
    for first, second in zip(prompts, injected, strict=True):
        real = max(len(first), len(second))
        a, b = (project_text(pad_tokens(p, real), weights) for p in (first, second))
        changed = apply_transforms(transforms, a, b, torch.ones(real, 1, dtype=torch.bool))
        blended = edit.operation(a[None], changed[None], strength)[0]
        if edit.tokens is not None:
            known = torch.arange(max(real, 1 + max((t.last for t in edit.tokens.terms), default=0))) < real
            blended = torch.lerp(a, blended, edit.tokens.weights(known)[:real, None].to(a))
        before.append(a)
        after.append(blended)
    return mean_difference(before, after)


def _dimensions(prompts: Sequence[torch.Tensor], injected: Sequence[torch.Tensor]) -> str:
    """The five dimensions with the largest mean difference over real tokens."""
    total = torch.zeros(prompts[0].shape[-1])
    for first, second in zip(prompts, injected, strict=True):
        real = max(len(first), len(second))
        a, b = (pad_tokens(p, real).detach().to("cpu", torch.float32) for p in (first, second))
        total += (b - a).abs().mean(dim=0) / len(prompts)
    values, indices = total.topk(min(5, len(total)))
    return ", ".join(f"{i} ({v:.3g})" for v, i in zip(values.tolist(), indices.tolist(), strict=True))


NODES = [WanVideoBlockActivationViewer, WanVideoInjectionTester]

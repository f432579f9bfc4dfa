"""Nodes that scale what blocks get: words of the prompt, or a whole stream."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..embeddings.text_embeds import TextEmbeds
from ..patching.edit import Edit, Window
from ..patching.gains import gain_edit, streams_of, word_gains
from ..patching.schedule import parse_schedule
from ..patching.sites import STREAMS
from ..patching.tokens import Tokens, parse_tokens
from ..patching.wan_model import WanModel
from ..patching.words import Words
from .editor import append_edits, choose_blocks
from .parts import words_inputs, words_named
from .shown import model_told
from .sockets import (
    CATEGORY,
    activations_input,
    block_strengths_input,
    check_texts,
    errors_named,
    log_level_input,
    node_label,
    passed_on_sockets,
    refusal,
    schedule_input,
    shown_schema,
    window_and_branch_inputs,
)

FAMILY = f"{CATEGORY}/Gains"
MOST = 4.0
"""The largest gain."""


def timing_inputs() -> list[Any]:
    """Optional inputs of these nodes, last."""
    return [block_strengths_input(), schedule_input(), *window_and_branch_inputs(), log_level_input(optional=True)]


def timed(
    label: str,
    schedule: str = "",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    branch: str = "cond",
    log_level: str = "off",
) -> dict[str, Any]:
    """Arguments of an Edit, by the label and values of `timing_inputs` but for the strengths."""
    return {
        "window": Window(start_percent, end_percent),
        "schedule": parse_schedule(schedule),
        "branch": branch,
        "label": label,
        "log_level": log_level,
    }


class WanVideoPromptWeight(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        passed_on = passed_on_sockets()
        return shown_schema(
            node_id="WanVideoPromptWeight",
            display_name="WanVideo Prompt Weight",
            category=FAMILY,
            description="Gives words of the prompt a weight of their own in chosen transformer blocks.",
            inputs=[
                *passed_on.inputs,
                io.String.Input(
                    "weights",
                    default="",
                    tooltip='Words with a weight of 0 to 4: red:1.4, "slow pan":0.6, word 3:0, 12-15:2.',
                ),
                activations_input("all"),
                *timing_inputs(),
                *words_inputs(),
            ],
            outputs=[*passed_on.outputs, io.String.Output("info", display_name="info")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, weights: Any = None, block_activations: Any = None, schedule: Any = None) -> bool | str:
        try:
            if isinstance(weights, str):
                _parse_weights(weights)
        except ValueError as error:
            return refusal(error)
        return check_texts(block_activations, schedule)

    @classmethod
    def execute(
        cls,
        model: Any,
        text_embeds: Any,
        weights: str,
        block_activations: str,
        block_strengths: Any = None,
        branch: str = "cond",
        prompt: str = "",
        text_encoder: Any = None,
        **timing: Any,
    ) -> io.NodeOutput:
        name = "WanVideo Prompt Weight"
        with errors_named(name):
            strengths = choose_blocks(block_activations, block_strengths)
            parsed, label = _parse_weights(weights), node_label(cls, name)
            options = timed(label, branch=branch, **timing)
            lines: list[str] = []

            def make(main: TextEmbeds, _: WanModel) -> list[Edit]:
                words = words_named(parsed, main, branch, prompt, text_encoder, "weights")
                lines.extend(_found(parsed, words))
                prompts = main.negative if branch == "uncond" else main.prompts  # CONDITIONING has no negative
                length = max(map(len, prompts), default=None)
                return word_gains(parsed.located(words), length, strengths, **options)

            edited = append_edits(label, model, text_embeds, strengths, make)
            report = "\n".join(lines) or "No weight."
            return io.NodeOutput(*edited, report, ui={"text": (report,), **model_told(model, strengths)})


def _parse_weights(text: str) -> Tokens:
    return parse_tokens(text, "weights", MOST, bare_words=True)


def _found(parsed: Tokens, words: Words | None) -> list[str]:
    """A line per term: its tokens and its weight."""
    lines = []
    for term in parsed.terms:
        numbers = ", ".join(str(t).split(":")[0] for t in Tokens((term,)).located(words).terms)
        what = {"phrase": f'"{term.text}"', "word": f"word {term.first}"}.get(term.kind)
        lines.append(f"{what + ': ' if what else ''}tokens {numbers}, weight {term.weight:g}")
    return lines


class WanVideoConditioningGain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        passed_on = passed_on_sockets()
        return shown_schema(
            node_id="WanVideoConditioningGain",
            display_name="WanVideo Conditioning Gain",
            category=FAMILY,
            description="Scales what chosen transformer blocks add of the text, of images, audio, a face, a "
            "reference or a control video.",
            inputs=[
                *passed_on.inputs,
                io.Combo.Input(
                    "stream",
                    options=list(STREAMS),
                    default="text",
                    tooltip="What is scaled. A stream that the model does not have is an error: it lists those it has.",
                ),
                io.Float.Input(
                    "gain",
                    default=1.0,
                    min=0.0,
                    max=MOST,
                    step=0.01,
                    tooltip="Factor in blocks of strength 1: 1 changes nothing, 0 leaves the stream out.",
                ),
                activations_input("all"),
                *timing_inputs(),
            ],
            outputs=[*passed_on.outputs],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, block_activations: Any = None, schedule: Any = None) -> bool | str:
        return check_texts(block_activations, schedule)

    @classmethod
    def execute(
        cls,
        model: Any,
        text_embeds: Any,
        stream: str,
        gain: float,
        block_activations: str,
        block_strengths: Any = None,
        **timing: Any,
    ) -> io.NodeOutput:
        name = "WanVideo Conditioning Gain"
        with errors_named(name):
            strengths = choose_blocks(block_activations, block_strengths)
            label = node_label(cls, name)
            options = timed(label, **timing)

            def make(_: TextEmbeds, wan_model: WanModel) -> list[Edit]:
                has = streams_of(wan_model)
                if stream not in has:
                    raise ValueError(f"{wan_model.name} has no {stream}. It has {', '.join(has)}.")
                edit = gain_edit(stream, gain, strengths, **options)
                return [] if gain == 1.0 else [edit]

            edited = append_edits(label, model, text_embeds, strengths, make)
            return io.NodeOutput(*edited, ui=model_told(model, strengths))


NODES = [WanVideoPromptWeight, WanVideoConditioningGain]

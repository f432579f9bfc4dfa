"""Socket types and inputs that several nodes share."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from comfy_api.latest import io

from ..embeddings.text_embeds import TextEmbeds, is_wrapper_embeds
from ..patching.edit import BRANCHES, KEY, LOG_LEVELS, EditStack
from ..patching.schedule import parse_schedule
from ..patching.selection import parse_selection
from ..patching.tokens import parse_tokens
from ..storage.text import plain

CATEGORY = "WanVideo/Activation Editor"

WanVideoModel = io.Custom("WANVIDEOMODEL")
WanVideoTextEmbeds = io.Custom("WANVIDEOTEXTEMBEDS")
BlockStrengthsType = io.Custom("BLOCK_STRENGTHS")

FRESH_BLOCKS = "mid_blocks"
"""What a new node edits; a saved file carries its own choice."""

SEARCH_WORDS = Path(__file__).parents[1] / "web" / "js" / "search_words.json"

MAX_MESSAGE = 2000
"""Characters of a line of an error."""

ACTIVATIONS_TOOLTIP = (
    "Which blocks are edited: 40 characters of 0 and 1, or terms such as 7, 3-9, even, /4, !12, early_blocks, "
    "each with an optional strength, as in 10-29:0.6, 30-39:0.2."
)


def embeds_template() -> Any:
    """WANVIDEOTEXTEMBEDS or CONDITIONING; outputs built from the same template give back the type that came in."""
    return io.MatchType.Template("embeds", [WanVideoTextEmbeds, io.Conditioning])


class PassedOn(NamedTuple):
    """Sockets of a node that stands between model loader and sampler."""

    inputs: list[Any]
    outputs: list[Any]


def passed_on_sockets() -> PassedOn:
    """model and text_embeds, the first inputs and outputs of every node that edits; each gives back the type it got."""
    model, embeds = io.MatchType.Template("model", [WanVideoModel, io.Model]), embeds_template()
    return PassedOn(
        [
            io.MatchType.Input("model", template=model, tooltip="WANVIDEOMODEL of the wrapper, or a native Wan MODEL."),
            io.MatchType.Input("text_embeds", template=embeds, tooltip="The main prompt, as the sampler gets it."),
        ],
        [
            io.MatchType.Output(template=model, id="model", display_name="model"),
            io.MatchType.Output(template=embeds, id="text_embeds", display_name="text_embeds"),
        ],
    )


def model_input(tooltip: str) -> Any:
    return io.MultiType.Input("model", [WanVideoModel, io.Model], tooltip=tooltip)


def operand_inputs(input_of: Callable[..., Any], what: str) -> list[Any]:
    """Three optional operands, each with a weight.

    Args:
        input_of: makes the socket of an operand from its name and tooltip.
        what: of the tooltip, after "Operand 1".
    """
    operands: list[Any] = []
    for i in (1, 2, 3):
        operands += [
            input_of(f"operand_{i}", f"Operand {i}{what}", optional=True),
            io.Float.Input(
                f"weight_{i}",
                default=1.0,
                min=-10.0,
                max=10.0,
                step=0.01,
                optional=True,
                tooltip=f"Factor on operand {i}. The base has weight 1.",
            ),
        ]
    return operands


def embeds_input(name: str, tooltip: str, optional: bool = False) -> Any:
    return io.MultiType.Input(name, [WanVideoTextEmbeds, io.Conditioning], optional=optional, tooltip=tooltip)


def activations_input(default: str = FRESH_BLOCKS) -> Any:
    return io.String.Input("block_activations", default=default, tooltip=ACTIVATIONS_TOOLTIP)


def strength_input(tooltip: str) -> Any:
    return io.Float.Input("injection_strength", default=0.5, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


@functools.cache
def _search_words() -> dict[str, list[str]]:
    words: dict[str, list[str]] = json.loads(SEARCH_WORDS.read_text(encoding="utf-8"))
    return words


def schema(**fields: Any) -> io.Schema:
    """The schema of a node, with the words that people search it by where ComfyUI knows the field."""
    if "search_aliases" in io.Schema.__dataclass_fields__:
        fields["search_aliases"] = _search_words().get(fields["node_id"], [])
    return io.Schema(**fields)


def shown_schema(**fields: Any) -> io.Schema:
    """The schema of a node that shows something on itself, which newer ComfyUI sends to a reloaded page too."""
    if "has_intermediate_output" in io.Schema.__dataclass_fields__:
        fields["has_intermediate_output"] = not fields.get("is_output_node")
    return schema(**fields)


def log_level_input(optional: bool = False) -> Any:
    created = io.Combo.Input(
        "log_level",
        options=list(LOG_LEVELS),
        default="off",
        optional=optional,
        tooltip="basic: which blocks, once per run. verbose: what changed, per step. trace: also shapes.",
    )
    if hasattr(created, "advanced"):  # newer ComfyUI folds such inputs away
        created.advanced = True
    return created


def block_strengths_input() -> Any:
    return BlockStrengthsType.Input(
        "block_strengths",
        optional=True,
        tooltip="Strength per block, multiplied by that of block_activations: choose all there to let these decide.",
    )


def window_and_branch_inputs() -> list[Any]:
    """Optional inputs of every node that adds an edit; they come last."""
    percent = {"min": 0.0, "max": 1.0, "step": 0.01, "optional": True}
    return [
        io.Float.Input(
            "start_percent", default=0.0, tooltip="Fraction of sampling at which the edit begins.", **percent
        ),
        io.Float.Input("end_percent", default=1.0, tooltip="Fraction of sampling at which the edit ends.", **percent),
        io.Combo.Input(
            "branch",
            options=list(BRANCHES),
            default="cond",
            optional=True,
            tooltip="Guidance branch that is edited: the prompt (cond), the negative prompt (uncond), or both.",
        ),
    ]


def schedule_input() -> Any:
    return io.String.Input(
        "schedule",
        default="",
        optional=True,
        tooltip="Multiplier of the strength over sampling, progress:multiplier, as in 0:0.2, 0.5:0.8, 1:1. Empty is 1.",
    )


def store_in_db_input() -> Any:
    """Optional last input of nodes that can record what they do (recording.py)."""
    return io.Boolean.Input(
        "store_in_db",
        default=True,
        optional=True,
        tooltip="Record the operation, its inputs and its result in the embedding store, in the background.",
    )


def refusal(error: ValueError) -> str:
    """What `validate_inputs` gives back for an error: text that a log can hold."""
    return plain(error, MAX_MESSAGE)


def check_texts(block_activations: Any = None, schedule: Any = None, tokens: Any = None) -> bool | str:
    """For `validate_inputs`: True, or what is wrong. A linked input is not known yet and passes."""
    given = ((block_activations, parse_selection), (schedule, parse_schedule), (tokens, parse_tokens))
    for text, parse in given:
        if isinstance(text, str):
            try:
                parse(text)  # type: ignore[operator]
            except ValueError as error:
                return refusal(error)
    return True


def compared_prompts(main: TextEmbeds, branch: str) -> tuple[torch.Tensor, ...]:
    """The prompts that an edit of `branch` is compared with; none when the text input does not hold them."""
    return main.negative if branch == "uncond" else main.prompts


def with_description(text_embeds: Any, stack: EditStack) -> Any:
    """A copy of the host's value with the stack's plain description in it."""
    if is_wrapper_embeds(text_embeds):
        return {**text_embeds, KEY: stack.describe()}
    return [[tensor, {**extra, KEY: stack.describe()}] for tensor, extra in text_embeds]


def transformer_options(model: Any) -> dict[str, Any]:
    return (getattr(model, "model_options", None) or {}).get("transformer_options") or {}


@contextlib.contextmanager
def errors_named(node: str) -> Iterator[None]:
    """Put the node's display name in front of an error's message, unless it begins with it.

    Text of users in it is escaped: ComfyUI could not write some of it to its log, and its prompt worker would end.
    """
    try:
        try:
            yield
        except StopIteration as error:  # ComfyUI's coroutine would hide where it comes from
            raise RuntimeError(f"StopIteration was raised: {error}") from error
    except (ValueError, TypeError, RuntimeError, LookupError, OSError) as error:
        said = str(error)
        text = said if said.startswith(node) else f"{node}: {said}"
        safe = "\n".join(plain(line, MAX_MESSAGE) for line in text[: 4 * MAX_MESSAGE].splitlines())
        if safe == said:
            raise
        kind = ValueError if isinstance(error, UnicodeError) else type(error)
        raise kind(safe) from (error if safe == text else None)  # a cause is written to the log too


def node_label(cls: Any, name: str) -> str:
    """Display name and id of the executing node; only the name outside of a prompt."""
    node_id = getattr(cls.hidden, "unique_id", None)
    return f"{name} (node {node_id})" if node_id is not None else name


def address(hidden: Any) -> tuple[str, str] | None:
    """Ids of the executing node and its workflow, where an edit's progress is shown; None outside of a prompt.

    Args:
        hidden: the node's hidden inputs, with its `unique_id` and the workflow's `extra_pnginfo`.
    """
    node = getattr(hidden, "unique_id", None)
    workflow = ((getattr(hidden, "extra_pnginfo", None) or {}).get("workflow") or {}).get("id")
    return None if node is None else (str(node), str(workflow or ""))

"""Control vectors as edits: in Python by `steer`, in ComfyUI by the nodes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Literal

import torch

from ..patching.arguments import Blocks, chosen_blocks, given_window, warn_without_block
from ..patching.concepts import Concept, pack
from ..patching.edit import Branch, Edit, EditStack, LogLevel, Window
from ..patching.fingerprint import known_identity
from ..patching.mask import Box, Mask, as_mask
from ..patching.schedule import parse_schedule
from ..patching.steering import STEERING, ChangedText, Steering, Turn
from ..patching.tokens import Tokens
from ..patching.words import tokens_of
from .arithmetic import at_levels
from .control_vector import CONTEXT, ControlVector, ControlVectorError, check_vector

OperationName = Literal["add", "ablate", "set_point", "rotate", "transport"]


@contextlib.contextmanager
def steer(
    target: Any,
    vector: ControlVector,
    strength: float = 1.0,
    operation: OperationName | Steering = "add",
    *,
    blocks: Blocks = "all",
    window: tuple[float, float] = (0.0, 1.0),
    schedule: str = "",
    tokens: str = "real",
    prompt: str = "",
    mask: Mask | Box | torch.Tensor | None = None,
    branch: Branch = "cond",
    log_level: LogLevel = "off",
    other_model: bool = False,
    **options: Any,
) -> Iterator[EditStack]:
    """Steer a diffusers pipeline along a control vector for as long as the `with` block lasts.

        with steer(pipe, night, 0.3, blocks="8-20"):
            video = pipe(prompt_embeds=embeds, negative_prompt_embeds=negative).frames

    Contexts nest, with those of `inject` too: each works on the result of the outer one.

    Args:
        target: a diffusers Wan pipeline (both of its transformers, when it has two) or a Wan transformer.
        vector: of this model; at site `context` of any model with the same text encoder.
        strength: signed; at 0 nothing changes. For `add`, in mean norms of a token at that block.
        operation: `add`, `ablate`, `set_point`, `rotate`, `transport`, or one made from patching/steering.py.
        blocks: as for `inject`; they multiply the strength. `all` and `all:0.5` mean the blocks of the vector.
        window, schedule, tokens, prompt, mask, branch, log_level: as for `inject`; padding of the text is left alone.
        other_model: apply a vector whose model had other weights than this one.
        options: of the operation: `unit`; `one_sided` and `to_zero`; `angle` and `radius`.

    Raises:
        ControlVectorError: no control vector, or one of another model; an option that is none of the operation's.
        ValueError: as `inject`, or a block that the vector was not fitted on.
    """
    from ..patching.hosts import diffusers

    check_vector(vector, "vector")
    if not other_model:
        check_identity(vector, diffusers, target)
    edit = steering_edit(
        vector,
        operation if isinstance(operation, Steering) else make_operation(operation, strength, **options),
        blocks,
        window=given_window(window),
        schedule=parse_schedule(schedule),
        tokens=tokens_of(target, tokens, prompt),
        mask=as_mask(mask),
        branch=branch,
        label="steer",
        log_level=log_level,
    )
    warn_without_block(edit.strengths, "steer")
    stack = EditStack((edit,))
    with diffusers.edited(target, stack):
        yield stack


def make_operation(name: str, strength: float, **options: Any) -> Steering:
    """The operation of a name.

    Raises:
        ControlVectorError: there is none of this name, or it has no such option.
        ValueError: the strength or an option is none that it takes.
    """
    if name not in STEERING:
        raise ControlVectorError(f"operation must be one of {', '.join(STEERING)}, not {name!r}.")
    known = [field.name for field in fields(STEERING[name]) if field.name != "amount"]
    if unknown := [option for option in options if option not in known]:
        raise ControlVectorError(
            f"The operation {name} has the options {', '.join(known) or 'none'}, not {', '.join(unknown)}."
        )
    return STEERING[name](amount=strength, **options)


def steering_edit(
    vector: ControlVector | Concept,
    operation: Steering,
    blocks: Blocks = "all",
    *,
    window: Window | None = None,
    schedule: Any = None,
    tokens: Tokens | None = None,
    mask: Mask | Box | None = None,
    branch: Branch = "cond",
    label: str = "steer",
    log_level: LogLevel = "off",
    reports_to: tuple[str, str] | None = None,
) -> Edit:
    """The edit that acts along a control vector, or in the plane of `plane`.

    Raises:
        ValueError: the operation needs what the vector does not have.
    """
    concept = vector if isinstance(vector, Concept) else concept_of(vector)
    if isinstance(blocks, str):
        blocks = fitted_blocks(concept, blocks)
    settings: dict[str, Any] = {"window": window or Window(), "schedule": schedule or parse_schedule("")}
    if concept.site == CONTEXT:
        operation.check_source(concept)
        settings["source"] = ChangedText(concept, operation)
    else:
        settings |= {"source": concept, "operation": operation}
    return Edit(
        strengths=chosen_blocks(blocks),
        site=concept.site,
        tokens=tokens,
        mask=mask,
        branch=branch,
        label=label,
        log_level=log_level,
        reports_to=reports_to,
        **settings,
    )


def fitted_blocks(concept: Concept, selection: str) -> str:
    """A selection of blocks in which `all`, alone or as `all:0.5`, means those that a concept was fitted on."""
    found = None if concept.site == CONTEXT else re.fullmatch(r"\s*all(:0*(?:0?\.\d+|[01]\.?0*))?\s*", selection, re.I)
    return ", ".join(f"{block}{found[1] or ''}" for block in concept.blocks) if found else selection


def concept_of(vector: ControlVector) -> Concept:
    """What the runtime reads of a control vector."""
    a, b = vector.transport_scale, vector.transport_shift
    transport = None if a is None or b is None else (a, b)
    return Concept(
        vector.site,
        vector.blocks,
        vector.levels,
        pack(vector.directions, vector.scale, vector.neutral, vector.positive, transport),
        transport is not None,
        vector.block_count,
        vector.origin,
    )


def plane(first: ControlVector, second: ControlVector) -> Concept:
    """The plane of two directions, for the operation `Turn`.

    Raises:
        ControlVectorError: the vectors do not go together, or are parallel somewhere.
    """
    from .arithmetic import orthogonalise

    orthogonalise(second, [first])  # raises as it has to
    other = at_levels(second, first.levels)
    directions = torch.cat([first.directions, other.directions], 2)
    ends = [torch.cat([getattr(first, name), getattr(other, name)], 2) for name in ("neutral", "positive")]
    return Concept(
        first.site,
        first.blocks,
        first.levels,
        pack(directions, first.scale, ends[0], ends[1]),
        block_count=first.block_count,
        origin=f"({first.origin}) to ({second.origin})",
        unit_rows=False,
    )


@contextlib.contextmanager
def turn(
    target: Any, first: ControlVector, second: ControlVector, angle: float | None = None, strength: float = 1.0,
    **options: Any,
) -> Iterator[EditStack]:  # fmt: skip
    """Rotate the plane of two control vectors, as `steer` does along one.

    Args:
        angle: in degrees from the first to the second; None for the angle between them.
        strength: multiplies the angle.
        options: `blocks`, `window` and others of `steer`.

    Raises:
        ControlVectorError, ValueError: as `plane` and `steer`.
    """
    from ..patching.hosts import diffusers

    check_vector(first, "first")
    check_vector(second, "second")
    if not options.pop("other_model", False):
        for vector in (first, second):
            check_identity(vector, diffusers, target)
    window, schedule = given_window(options.pop("window", (0.0, 1.0))), parse_schedule(options.pop("schedule", ""))
    mask = as_mask(options.pop("mask", None))
    tokens = tokens_of(target, options.pop("tokens", "real"), options.pop("prompt", ""))
    edit = steering_edit(
        plane(first, second), Turn(strength, angle), window=window, schedule=schedule, mask=mask, tokens=tokens,
        label="turn", **options,
    )  # fmt: skip
    warn_without_block(edit.strengths, "turn")
    stack = EditStack((edit,))
    with diffusers.edited(target, stack):
        yield stack


def check_identity(vector: ControlVector, host: Any, model: Any) -> None:
    """Raise ControlVectorError when a vector is known to come from a model with other weights.

    Identities of different hosts cannot be compared; there the widths and numbers of blocks have to do.
    """
    if not vector.identity:
        return
    identity = known_identity(host, model)
    known = bool(identity) and identity.split(":")[0] == vector.identity.split(":")[0]
    if known and identity != vector.identity:
        raise ControlVectorError(
            f"The control vector ({vector.origin}) was fitted on {vector.model_name} with weights {vector.identity}, "
            f"but this model is {host.wan_model(model).name} with weights {identity}. Fit it on this model, or set "
            "other_model if the two are close enough, as a model and the same with a LoRA are."
        )

"""Gains: how much of a stream that a host hands its blocks is added there.

A stream is what cross-attention and its siblings add to the video: text, CLIP image tokens, audio, a face, references,
VACE's control. Text, image tokens and control are scaled as tensors: values of attention enter its output linearly and
leave its softmax alone. The others come with a factor of their own, a keyword of the block, which is multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from .active import ActiveEdit, Hook, hidden_from_compile
from .edit import Edit
from .operations import Scale
from .sites import KEYWORDS, STREAMS
from .sources import Zero
from .strengths import BlockStrengths
from .tokens import Tokens, TokensError
from .wan_model import WanModel, unwrap


def gain_edit(stream: str, gain: float, strengths: BlockStrengths, **more: Any) -> Edit:
    """An edit that multiplies a stream by `gain` where the strength is 1; in between it lies between that and 1.

    Args:
        stream: one of `STREAMS`.
        more: further arguments of Edit.

    Raises:
        ValueError: no such stream, or a gain that is no number from 0 on.
    """
    if stream not in STREAMS:
        raise ValueError(f"stream must be one of {', '.join(STREAMS)}, not {stream!r}.")
    return Edit(Zero(), strengths, STREAMS[stream].name, Scale(gain), **more)


def word_gains(tokens: Tokens, count: int | None, strengths: BlockStrengths, **more: Any) -> list[Edit]:
    """Edits that give tokens of a prompt the gain that is their weight; tokens that no term names keep theirs.

    Values of attention are scaled and its softmax is not: a token of weight 0 takes its part of the attention and says
    nothing, which is not what the video is without it. `real` and `padding` are those of each row that is edited.

    Args:
        tokens: located terms; where they overlap the later one wins.
        count: tokens of the longest prompt; None where the prompt is not known here.
        more: further arguments of Edit.

    Raises:
        TokensError: a token beyond the prompt's last.
    """
    last = max((term.last for term in tokens.terms if term.kind == "range"), default=0)
    if count is not None and last >= count:
        raise TokensError(f"weights: there is no token {last}; the prompt has {count}, from 0.")
    edits = []
    for gain in sorted({term.weight for term in tokens.terms} - {1.0}):
        chosen = Tokens(tuple(replace(term, weight=float(term.weight == gain)) for term in tokens.terms))
        edits.append(gain_edit("text", gain, strengths, tokens=chosen, **more))
    return edits


def streams_of(model: WanModel) -> list[str]:
    """Streams that a model has, by its modules; whether audio, a face or a reference is connected, sampling tells."""
    return [name for name, site in STREAMS.items() if site.is_in(model.blocks, [b for b, _ in model.control_blocks])]


class KeywordEdit(ActiveEdit):
    """Multiplies the factor that comes with a stream, where it comes: a host may hand it on in some steps only.

    Raises:
        ValueError: after the first call of the model, when none of the stream is there; the message lists what is.
    """

    _connected = False
    _others: Sequence[str] = ()  # streams that came instead

    def hooks(self, block: nn.Module, index: int) -> Iterator[Hook]:
        if index not in self.blocks:
            return

        def scale(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not self.acts:
                return None
            self._check_rows()
            found = {factor.name: kwargs[factor.name] for factor in self.site.factors if factor.comes(kwargs)}
            if not found:
                self._others = _coming(kwargs)
                return None
            assert isinstance(self.edit.operation, Scale)  # noqa: S101  # Edit allows no other
            weight = self.edit.operation.weight(self.factor * self.strengths[index])
            self.edited += 1
            self.missed.discard(index)
            self._connected = True
            return args, {**kwargs, **{name: _times(value, weight) for name, value in found.items()}}

        def check(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            given = any(kwargs.get(factor.given) is not None for factor in self.site.factors)
            if self.acts and not self._connected and not given:
                raise ValueError(
                    f"{self.edit.name}: {self.run.model.name} gets no {self.edit.site} while sampling. It gets "
                    f"{', '.join(self._others)}. Connect it to the sampler, or choose one of those."
                )

        if index == self.blocks[0]:
            yield self.run.model.module.register_forward_hook(hidden_from_compile(check), with_kwargs=True)
        yield block.register_forward_pre_hook(hidden_from_compile(scale), with_kwargs=True)

    def _check_rows(self) -> None:
        batch = self.run.prompts.batch
        if batch is not None and len(self.rows) != batch:
            raise ValueError(
                f"{self.edit.name}: both guidance branches are in one call of {self.run.model.name}, which has one "
                f"factor for its {self.edit.site}. Set branch to both, or switch off batched_cfg."
            )


class ControlEdit(ActiveEdit):
    """Scales what VACE's control blocks add to the main blocks."""

    def hooks(self, block: nn.Module, index: int) -> Iterator[Hook]:
        if index not in self.blocks:
            return
        for control, main in self.run.model.control_blocks:
            if main == index:
                yield from self._scaled(self.site.module(unwrap(control)), index)

    def _scaled(self, leaf: nn.Module, index: int) -> Iterator[Hook]:
        def change(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return self.apply(index, output, self.run.value(self.edit, index, output)) if self.acts else None

        yield leaf.register_forward_hook(hidden_from_compile(change))


def _coming(kwargs: dict[str, Any]) -> list[str]:
    streams = [name for name, site in KEYWORDS.items() if any(factor.comes(kwargs) for factor in site.factors)]
    return ["text", *(["clip_image"] if kwargs.get("clip_embed") is not None else []), *streams]


def _times(value: Any, weight: float) -> Any:
    return [v * weight for v in value] if isinstance(value, list | tuple) else value * weight

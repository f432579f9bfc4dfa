"""Injected prompts in one run: projected by the model's own text projection, at the moment when the host runs it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from ..embeddings.text_embeds import TextEmbeds, check_fits
from .edit import Edit
from .passes import extra_pass, in_extra_pass
from .steering import ChangedText
from .transforms import ContextTransform, apply_transforms, real_share
from .wan_model import WanModel

log = logging.getLogger("wanvideo_activation_editor")

Rows = Mapping[str, Sequence[tuple[int, int]]]
"""Rows of the text batch per guidance branch, each with the number of its prompt: {"cond": [(0, 0)]}."""


class Injection(Protocol):
    """An edit with a prompt that acts in the model call in progress."""

    edit: Edit
    rows: list[tuple[int, int]]
    blocks: list[int]
    transforms: tuple[ContextTransform, ...]


class Prompts:
    """What the edits of a run inject as text.

    Args:
        model: the transformer.
        text_length: tokens of text at the end of the projection's input; None when all of it is text.
        after_projection: see `Run`.
    """

    def __init__(
        self,
        model: WanModel,
        text_length: int | None,
        after_projection: Callable[[torch.Tensor, list[int], TextEmbeds], None] | None,
    ) -> None:
        self._model = model
        self._text_length = text_length
        self._after_projection = after_projection
        self._moved: dict[tuple[int, int, torch.device, torch.dtype], torch.Tensor] = {}
        self._checked: set[tuple[int, str, int]] = set()  # edit, branch, prompt: transforms verified in this run
        self._projected: dict[int, torch.Tensor] = {}  # per edit
        self._changed: dict[tuple[int, ...], torch.Tensor] = {}  # the main prompts, by the edits that changed them
        self._wanted: list[Injection] = []
        self._count: int | None = None
        self._branches: dict[int, str] = {}
        self.batch: int | None = None  # rows of the text batch, once the projection ran in this call
        self._tokens = 0
        self._raw: torch.Tensor | None = None  # what the projection was given
        self._announced: torch.Tensor | None = None
        self._turn = 0  # the announced row that is expected next where the model takes rows in turn

    def begin(
        self, rows: Rows, wanted: Sequence[Injection], count: int | None, announced: torch.Tensor | None = None
    ) -> None:
        """A model call begins, in which the edits `wanted` inject prompts; `count` and `text` as in `Run.begin`."""
        self._branches = {row: branch for branch, numbered in rows.items() for row, _ in numbered}
        self._wanted, self._count = list(wanted), count
        self._announced, self._turn = announced, 0

    def rows_in_turn(self, args: tuple[Any, ...]) -> list[int] | None:
        """Which announced rows the projection is given, where a model takes the rows of a batch in turn; else None.

        Raises:
            RuntimeError: a row that was not announced.
        """
        raw, announced = args[0], self._announced
        if in_extra_pass() or announced is None or raw.dim() != 3 or len(raw) >= len(announced):
            return None
        found = []
        for given in raw:
            order = [(self._turn + k) % len(announced) for k in range(len(announced))]
            same = next((row for row in order if _same_text(given, announced[row])), None)
            if same is None:
                raise RuntimeError(
                    f"{self._model.name} was called with {len(announced)} text rows and projects {len(raw)} that are "
                    "none of them. Another pack changes the batch; disable it."
                )
            found.append(same)
            self._turn = (same + 1) % len(announced)
        return found

    def restart(self) -> None:
        """The model projects other rows of the same call."""
        self._projected.clear()
        self._changed.clear()
        self.batch = None

    def end(self) -> None:
        """The call has ended."""
        self._projected.clear()
        self._changed.clear()
        self._wanted, self.batch, self._announced, self._raw = [], None, None, None

    def clear(self) -> None:
        """Release every tensor."""
        self.end()
        self._moved.clear()

    @property
    def ran(self) -> bool:
        """True once the host has projected its prompts in this call."""
        return self.batch is not None

    def project(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        """Hook of the text projection: project the injected prompts, in a batch of the shape of the host's."""
        if in_extra_pass() or self.ran:
            return
        self._raw = raw = args[0]
        self.batch, self._tokens = output.shape[0], min(self._text_length or output.shape[1], output.shape[1])
        shared: dict[tuple[int, tuple[tuple[int, int], ...]], torch.Tensor] = {}
        for injection in self._wanted:
            edit, embeds, rows = injection.edit, injection.edit.text, injection.rows
            if embeds is None and rows:
                self._change(module, raw, injection)
            if embeds is None or not rows:
                continue
            key = id(embeds.prompts), tuple(rows)
            if key not in shared:
                with extra_pass():
                    shared[key] = module(self._substitute(raw, edit, embeds, rows))
                if self._after_projection is not None:
                    self._after_projection(shared[key], [row for row, _ in rows], embeds)
            self._projected[id(edit)] = self._transform(injection, embeds, raw, output, shared[key])

    def text_start(self, context: torch.Tensor) -> int:
        """Index of the first text token of a context [batch, image + text tokens, dim]."""
        if not self.ran:
            raise RuntimeError(
                f"{self._model.name} did not run its text projection in this call, so the injected prompt has "
                "no projected form. A pack that caches or replaces the projected context conflicts with "
                "WanVideo Activation Editor: disable it."
            )
        if context.shape[0] < (self.batch or 0) or context.shape[1] < self._tokens:
            raise RuntimeError(
                f"{self._model.name} hands its blocks a context {list(context.shape)}, shorter than the projected "
                f"prompts [{self.batch}, {self._tokens}]. Another pack changes the context; disable it."
            )
        return context.shape[1] - self._tokens

    def value(self, edit: Edit, context: torch.Tensor) -> torch.Tensor:
        """The injected text [batch, text tokens, dim] that takes the place of that in `context`."""
        self.text_start(context)
        return self._projected[id(edit)][:, -self._tokens :]

    def is_real(self, row: int, tokens: int, edit: Edit) -> torch.Tensor:
        """Where the text of a row has a token, its own or one of the edit's prompt: bool [tokens].

        Raises:
            RuntimeError: the tensor at the site does not have the text's tokens.
        """
        if self._raw is None or tokens != self._tokens:
            raise RuntimeError(
                f"{edit.name}: {self._model.name} has {tokens} tokens where its text has {self._tokens}, so `tokens` "
                "cannot be found there. Use tokens = all."
            )
        real = (self._raw[row, -tokens:] != 0).any(dim=-1)
        if edit.text is not None:
            real[: max(edit.text.token_counts)] = True
        return real

    def changed(self, injection: Injection, context: torch.Tensor, block: int) -> torch.Tensor:
        """The text [batch, text tokens, dim] that an edit of the main prompt puts in place of that in `context`."""
        first = self.text_start(context)
        key = tuple(id(one.edit) for one in self._chain(injection, block))
        after = self._changed[key][:, -self._tokens :]
        here = context[: len(after), first:]
        if len(key) > 1:
            after = here + (after - self._changed[key[:-1]][:, -self._tokens :])
        assert self._raw is not None  # noqa: S101  # text_start has checked it
        return torch.where((self._raw[:, -self._tokens :] != 0).any(dim=-1, keepdim=True), after, here)

    def real(self, injection: Injection, x: torch.Tensor) -> torch.Tensor:
        """Where the main or the injected prompt has a token, in a tensor [batch, image + text tokens, dim]: [batch,
        tokens], for figures that padding does not dilute."""
        found = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        if self._raw is None:
            return ~found
        text = (self._raw[:, self._raw.shape[1] - self._tokens :] != 0).any(dim=-1)
        found[: len(text), x.shape[1] - self._tokens :] = text.to(x.device)
        if (embeds := injection.edit.text) is not None:
            for row, number in injection.rows:
                first = x.shape[1] - self._tokens
                found[row, first : first + len(self._prompt(injection.edit, embeds, number, self._raw))] = True
        return found

    def context(self, injection: Injection, context: torch.Tensor) -> torch.Tensor:
        """A copy of a context with the injected text in the touched rows."""
        first, text, out = self.text_start(context), self.value(injection.edit, context), context.clone()
        for row, _ in injection.rows:
            out[row, first:] = text[row]
        return out

    def _substitute(
        self, raw: torch.Tensor, edit: Edit, embeds: TextEmbeds, rows: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        """The host's raw embeddings [batch, tokens, width] with the injected prompt in the touched rows."""
        length = raw.shape[1] if self._text_length is None else self._text_length
        out = raw.clone()
        for row, number in rows:
            tokens = self._prompt(edit, embeds, number, raw)
            check_fits(tokens, length)
            text = out[row, raw.shape[1] - length :]
            text[: len(tokens)] = tokens
            text[len(tokens) :] = 0
        return out

    def _change(self, module: nn.Module, raw: torch.Tensor, injection: Injection) -> None:
        """Project the host's prompts as an edit changes them, after those before it that act in the same block."""
        first = 0 if self._text_length is None else raw.shape[1] - self._text_length
        for block in injection.blocks:
            chain = self._chain(injection, block)
            for count in range(1, len(chain) + 1):
                key = tuple(id(one.edit) for one in chain[:count])
                if key in self._changed:
                    continue
                out = raw.clone()
                for one in chain[:count]:
                    assert isinstance(one.edit.source, ChangedText)  # noqa: S101  # all others have embeddings
                    for row, _ in one.rows:
                        out[row, first:] = one.edit.source.change_text(out[row, first:])
                with extra_pass():
                    self._changed[key] = module(out)

    def _chain(self, injection: Injection, block: int) -> list[Injection]:
        """The edits of the main prompt that act in a block, up to this one; one with a mask comes after all without."""
        chain: list[Injection] = []
        for one in self._wanted:
            if one is injection and one.edit.mask is None:
                return [*chain, one]
            if block in one.blocks and isinstance(one.edit.source, ChangedText) and one.edit.mask is None:
                chain.append(one)
        return [*chain, injection]

    def _prompt(self, edit: Edit, embeds: TextEmbeds, number: int, like: torch.Tensor) -> torch.Tensor:
        """The injected prompt that goes into prompt `number` of the call, where `like` is."""
        prompts = embeds.prompts
        count = self._count or max(len(prompts), number + 1)
        if count % len(prompts) != 0:
            raise ValueError(
                f"{edit.name}: {len(prompts)} prompts are injected, but the model is called "
                f"with {count}. Inject one prompt, or as many as the main text input has."
            )
        number = number * len(prompts) // count
        key = id(prompts), number, like.device, like.dtype
        if key not in self._moved:
            self._moved[key] = prompts[number].to(like.device, like.dtype)
        return self._moved[key]

    def _transform(
        self, injection: Injection, embeds: TextEmbeds, raw: torch.Tensor, main: torch.Tensor, injected: torch.Tensor
    ) -> torch.Tensor:
        """The projected prompts [batch, tokens, dim] with the touched rows as the edit's transforms want them."""
        if not injection.transforms:
            return injected
        first = 0 if self._text_length is None else raw.shape[1] - self._text_length
        out = injected.clone()
        for row, number in injection.rows:
            real = (raw[row, first:] != 0).any(dim=-1, keepdim=True)
            real[: self._prompt(injection.edit, embeds, number, raw).shape[0]] = True
            branch = self._branches[row]
            key = id(injection.edit), branch, number
            a, b, check = main[row, first:], injected[row, first:], key not in self._checked
            try:
                out[row, first:] = result = apply_transforms(injection.transforms, a, b, real, check)
            except ValueError as error:
                raise ValueError(f"{injection.edit.name}: {error}") from error
            if check:
                self._checked.add(key)
                _log_transforms(f"{injection.edit.name} ({branch}, prompt {number + 1})", injection, a, b, result, real)
        return out


def _same_text(given: torch.Tensor, announced: torch.Tensor) -> bool:
    """True for the same prompt, whatever type and padding the host gave it."""
    count = min(len(given), len(announced))
    rest = given[count:] if len(given) > count else announced[count:]
    return torch.equal(given[:count], announced[:count].to(given.device, given.dtype)) and not bool(rest.any())


def _log_transforms(what: str, injection: Injection, main: Any, injected: Any, result: Any, real: Any) -> None:
    before, after = (100 * real_share(main, x, real).item() for x in (injected, result))
    log.info(
        "%s: %s: %.2f%% of elements of real tokens differ by more than 0.01 before, %.2f%% after.",
        what,
        "; ".join(t.name for t in injection.transforms),
        before,
        after,
    )

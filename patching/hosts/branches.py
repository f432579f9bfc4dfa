"""diffusers: which rows of a call's text are the prompt's, and which the negative prompt's.

Most pipelines name their calls, `transformer.cache_context("uncond")`. The others are identified by tensors: the
negative prompt that the pipeline's `encode_prompt` returned, or a batch that a guider handed out without condition.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch

from ..prompts import Rows

_listening: dict[int, Encoded] = {}
_lock = threading.RLock()


class Encoded:
    """The prompts that a pipeline encodes while edits are open on it, by branch.

    Args:
        pipeline: its `encode_prompt` and its guiders are wrapped until `stop`.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.texts: dict[str, list[torch.Tensor]] = {}
        self.users = 0
        self._exits = contextlib.ExitStack()
        if hasattr(pipeline, "encode_prompt"):
            self._exits.callback(replace_method(pipeline, "encode_prompt", self._encoder))
        for guider in filter(None, (getattr(pipeline, name, None) for name in ("guider", "guider_2"))):
            for name in ("prepare_inputs", "prepare_inputs_from_block_state"):
                if hasattr(guider, name):
                    self._exits.callback(replace_method(guider, name, functools.partial(self._guider, guider)))

    def stop(self) -> None:
        """Undo what was wrapped and release the prompts."""
        self._exits.close()
        self.texts.clear()

    def _encoder(self, encode_prompt: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(encode_prompt)
        def heard(*args: Any, **kwargs: Any) -> Any:
            given = encode_prompt(*args, **kwargs)
            if isinstance(given, tuple):
                pairs = zip(("cond", "uncond"), given, strict=False)
                self.texts = {branch: [text] for branch, text in pairs if torch.is_tensor(text)}
            return given

        return heard

    def _guider(self, guider: Any, prepare: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(prepare)
        def heard(*args: Any, **kwargs: Any) -> Any:
            batches = prepare(*args, **kwargs)
            self.texts = {}
            for batch in batches:
                branch = branch_named(str(getattr(batch, guider._identifier_key, "")))
                text = getattr(batch, "encoder_hidden_states", None)
                if branch and torch.is_tensor(text):
                    self.texts.setdefault(branch, []).append(text)
            return batches

        return heard


@contextlib.contextmanager
def listening(pipeline: Any) -> Iterator[Encoded]:
    """What a pipeline encodes, for as long as the `with` block lasts; contexts may close in any order."""
    with _lock:
        if id(pipeline) not in _listening:
            _listening[id(pipeline)] = Encoded(pipeline)
        encoded = _listening[id(pipeline)]
        encoded.users += 1
    try:
        yield encoded
    finally:
        with _lock:
            encoded.users -= 1
            if encoded.users == 0:
                del _listening[id(pipeline)]
                encoded.stop()


def branch_named(name: str) -> str | None:
    """The branch of a call by its name: cond, pred_cond_skip, uncond; None for cond_uncond and others."""
    if "uncond" in name:
        return None if "cond" in name.replace("uncond", "") else "uncond"
    return "cond" if "cond" in name else None


class Branches:
    """Tells the branch of each row in the calls of one transformer.

    Args:
        model: its name, for messages.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self.named: str | None = None  # by the cache context around the call
        self._last: tuple[Any, torch.Tensor] | None = None  # latents and text of a call of unknown branch
        self._told: dict[tuple[int, ...], tuple[Rows, list[torch.Tensor]]] = {}

    def rows(self, text: torch.Tensor, latents: Any, encoded: Collection[Encoded], split: bool) -> Rows:
        """Rows of a call's text per branch, with the number of their prompt.

        Args:
            text: [rows, tokens, width].
            latents: of the same call.
            encoded: what the pipelines encoded.
            split: an edit touches one branch and not the other.

        Raises:
            RuntimeError: an edit depends on the branch, and the branch is unknown.
        """
        everything: Rows = {"cond": [(row, row) for row in range(len(text))]}
        if self.named is not None:
            return {self.named: everything["cond"]}
        if not split:
            return everything
        cond = [t for e in encoded for t in e.texts.get("cond", ())]
        uncond = [t for e in encoded for t in e.texts.get("uncond", ())]
        if not uncond:
            self._check_one_text(text, latents)
            return everything
        key = id(text), text._version, *map(id, [*cond, *uncond])
        if key not in self._told:
            if len(self._told) > 16:
                self._told.clear()
            # The tensors are kept so that their ids stay theirs.
            self._told[key] = self._compare(text, cond, uncond), [text, *cond, *uncond]
        return self._told[key][0]

    def _compare(self, text: torch.Tensor, cond: list[torch.Tensor], uncond: list[torch.Tensor]) -> Rows:
        found: dict[str, list[tuple[int, int]]] = {"cond": [], "uncond": []}
        for row in range(len(text)):
            matches = [name for name, texts in (("cond", cond), ("uncond", uncond)) if _is_one_of(text, row, texts)]
            if len(matches) != 1:
                what = "that equals the negative prompt" if matches else "that is none of those its pipeline encoded"
                raise RuntimeError(
                    f"{self._model} was called with a prompt {what}, and the call has no name, so an edit of one "
                    "branch cannot be placed. Use branch='both', or call the transformer within "
                    "transformer.cache_context('cond') and cache_context('uncond')."
                )
            found[matches[0]].append((row, len(found[matches[0]])))
        return found

    def _check_one_text(self, text: torch.Tensor, latents: Any) -> None:
        """Without a known negative prompt a call is the prompt's; guidance has other text on the same latents."""
        last, self._last = self._last, None
        twice = last is not None and last[0]() is latents and not _equal(last[1], text)
        half = len(text) // 2
        doubled = half > 0 and len(text) == 2 * half == len(latents) and torch.equal(latents[:half], latents[half:])
        if twice or (doubled and not _equal(text[:half], text[half:])):
            raise RuntimeError(
                f"{self._model} was called on the same latents with two prompts, as guidance does, and nothing tells "
                "which is the negative one. Give `inject` the pipeline that samples, call the transformer within "
                "transformer.cache_context('cond') and cache_context('uncond'), or use branch='both'."
            )
        self._last = weakref.ref(latents), text


def replace_method(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Callable[[], None]:
    """Put `wrap(method)` in the place of a method of one object; returns what undoes it."""
    before = vars(owner).get(name)
    object.__setattr__(owner, name, wrap(getattr(owner, name)))

    def undo() -> None:
        if before is None:
            del vars(owner)[name]
        else:
            object.__setattr__(owner, name, before)

    return undo


def _is_one_of(text: torch.Tensor, row: int, known: list[torch.Tensor]) -> bool:
    """True when a row is one of the prompts in `known`, each [rows, tokens, width]."""
    if any(text is given for given in known):
        return True
    return any(_equal(text[row], prompt) for given in known for prompt in given)


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a, b.to(a.device, a.dtype)))

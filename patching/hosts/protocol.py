"""What a host is: a module with these members, checked by mypy where `hosts` lists them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from ...embeddings.text_embeds import TextEmbeds
from ..capture import HiddenStates
from ..edit import EditStack
from ..wan_model import WanModel


class Host(Protocol):
    """A program that runs Wan models.

    A run of edits, `run`, tells the runtime what only the host knows: which rows of the batch belong to the prompt and
    to the negative prompt, how much of sampling is done, and the grid of tokens. See CONTRIBUTING, "A host".
    """

    @property
    def NAME(self) -> str:  # noqa: N802  # a module's constant
        """For people."""

    @property
    def MAX_PROMPT_TOKENS(self) -> int | None:  # noqa: N802
        """Tokens after which the host cuts a prompt; None when it does not."""

    def owns(self, model: Any) -> bool:
        """True for a model of this host."""

    def wan_model(self, model: Any) -> WanModel:
        """Its transformer.

        Raises:
            NotAWanModelError: it is no Wan model.
        """

    def run(self, model: Any, stack: EditStack) -> AbstractContextManager[Any]:
        """A context with the model in which the edits act while the host samples."""

    def capture(self, model: Any, text_embeds: Any, count: int, every: bool = ..., **more: Any) -> HiddenStates:
        """Run the first `count` blocks on a prompt and keep the hidden state; `more` is what this host needs."""

    def fingerprint(self, model: Any) -> str:
        """Identity of the model: its weights, patches and settings, without the pack's edits.

        Raises:
            UnidentifiedError: it carries something that cannot be fingerprinted.
        """

    def projection_weights(self, model: Any) -> Mapping[str, torch.Tensor] | None:
        """Of the text projection as `0.weight, 0.bias, 2.weight, 2.bias`, or None where they cannot be read."""

    def check_prompts(self, main: TextEmbeds, injected: TextEmbeds, edit: str) -> None:
        """Raise ValueError when the host cannot run with the injected prompt beside the main one."""


class GraphHost(Host, Protocol):
    """A host whose models go through a graph of nodes: clones carry the edits."""

    def with_stack(self, model: Any, stack: EditStack) -> Any:
        """A clone of the model that carries `stack`; the model itself is not changed."""

    def check_embeds(self, text_embeds: Any) -> None:
        """Raise EmbedsError for text embeddings of another host."""

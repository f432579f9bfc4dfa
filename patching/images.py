"""Edits of the CLIP image tokens that cross-attention reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .active import ActiveEdit, Hook, hidden_from_compile
from .passes import extra_pass, in_extra_pass
from .sites import MORE_SITES
from .sources import Image
from .wan_model import cross_attention


class ImageEdit(ActiveEdit):
    """Changes what keys and values of image attention are made of: by a second image, or by what other sources have."""

    _projected: torch.Tensor | None = None
    _reached = False

    def end(self) -> None:
        super().end()
        self._projected = None

    def project(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        """Hook of the image projection: project the second image after the host's own."""
        if in_extra_pass() or not self.rows or not isinstance(self.edit.source, Image):
            return
        own, tokens = args[0], self.edit.source.tokens
        if own.shape[-2:] != tokens.shape:
            raise ValueError(
                f"{self.edit.name}: the image has {list(tokens.shape)} tokens and values, but {self.run.model.name} "
                f"reads {list(own.shape[-2:])}. Encode as many images with the CLIP vision model of this model."
            )
        with extra_pass():
            self._projected = module(tokens.to(own.device, own.dtype)[None])

    def hooks(self, block: nn.Module, index: int) -> Iterator[Hook]:
        if index not in self.blocks:
            return
        if index == self.blocks[0] and self.run.model.image_projection is not None:
            yield self.run.model.image_projection.register_forward_hook(hidden_from_compile(self.project))

        def change(module: nn.Module, args: tuple[Any, ...]) -> Any:
            if not self.acts or not args[0].shape[1]:  # diffusers asks for no tokens where there is no image
                return None
            self._reached = True
            x = args[0]
            return (self.apply(index, x, self._value(index, x)), *args[1:])

        def check(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self.run.asks_again:
                return
            reached, self._reached = self._reached, False
            if self.acts and not reached:
                raise RuntimeError(
                    f"{self.edit.name}: {self.run.model.name} gets no CLIP image while sampling, so there is none to "
                    "change. Sample with an image that CLIP vision has encoded."
                )

        for site in (self.site, MORE_SITES["image_values"]):
            yield site.module(block).register_forward_pre_hook(hidden_from_compile(change))
        yield cross_attention(block).register_forward_hook(hidden_from_compile(check))

    def _value(self, index: int, x: torch.Tensor) -> torch.Tensor:
        if not isinstance(self.edit.source, Image):
            return self.run.value(self.edit, index, x)
        if self._projected is None:
            raise RuntimeError(
                f"{self.edit.name}: {self.run.model.name} did not run its image projection in this call. A pack that "
                "caches projected image tokens conflicts with WanVideo Activation Editor: disable it."
            )
        return self._projected.to(x.dtype)

"""What an edit works with: a prompt, the stream of a prompt, a captured difference, or a direction.

A source says at which sites it has a value, and what kind of value: a `state`, which can stand in for the one that is
there, a `difference`, which can be added to it, or a `concept`, along which it can be steered (concepts.py). The
table that follows from it is `edit.check_combination`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch

from ..embeddings.text_embeds import TextEmbeds
from .grid import Grid, format_grid
from .sites import MORE_SITES, SITES
from .wan_model import WanModel

Gives = Literal["state", "difference", "concept"]


class Source(Protocol):
    """What every source says of itself.

    One that is not text also has `tensor(block) -> [batch or 1, tokens or 1, dim]` on the CPU, which the runtime moves
    to the device once per run, and may have `at(tensor, sigma)`, which makes of it there what holds at a noise level.
    """

    gives: ClassVar[Gives]

    @property
    def sites(self) -> tuple[str, ...]: ...

    @property
    def title(self) -> str: ...

    def describe(self) -> dict[str, Any]:
        """As plain values, for people."""

    def check(self, model: WanModel, site: str, edit: str) -> None:
        """Raise ValueError, beginning with the name `edit`, when it does not fit the model."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """A second prompt, projected by the model at the moment when it projects its own.

    Its value at a site is what the block has there with this text and the same hidden state.
    """

    embeds: TextEmbeds

    gives: ClassVar[Gives] = "state"
    sites: ClassVar[tuple[str, ...]] = tuple(name for name, site in SITES.items() if site.follows_text)
    title: ClassVar[str] = "a prompt"

    def describe(self) -> dict[str, Any]:
        return self.embeds.describe()

    def check(self, model: WanModel, site: str, edit: str) -> None:
        check_width(self.embeds, model, f"{edit}: the injected embeddings are")


_BETWEEN_BLOCKS = {
    "vace_blocks": "a VACE model, whose control blocks",
    "audio_injector": "an S2V model, whose audio layers",
    "music_injector": "a WanDancer model, whose music layers",
}


@dataclass(frozen=True, eq=False)
class SecondStream:
    """A second prompt's own hidden state, which passes through the same blocks beside the main one."""

    embeds: TextEmbeds

    gives: ClassVar[Gives] = "state"
    sites: ClassVar[tuple[str, ...]] = ("hidden",)
    title: ClassVar[str] = "a second stream"

    def describe(self) -> dict[str, Any]:
        return self.embeds.describe()

    def check(self, model: WanModel, site: str, edit: str) -> None:
        check_width(self.embeds, model, f"{edit}: the injected embeddings are")

    def check_alone(self, model: WanModel, edit: str) -> None:
        """Raise ValueError, beginning with the name `edit`, when layers of the model act between its blocks."""
        for part, kind in _BETWEEN_BLOCKS.items():
            if getattr(model.module, part, None) is not None:
                raise ValueError(
                    f"{edit}: {model.name} is {kind} change the hidden state between blocks; a second stream cannot "
                    "follow them. Use injection_mode context."
                )


@dataclass(frozen=True, eq=False)
class CapturedDifference:
    """The difference of two captured hidden states.

    Args:
        deltas: tensors [batch, tokens, dim] on the CPU; [batch, 1, dim] when reduced to the mean over tokens.
        index_of: which of them each chosen block gets.
        grid: frames, height and width in tokens that they fit; None for any.
        origin: where they were captured, for people.
        relative_l2: norm of the first difference over the norm of the main state that it was taken from.
        identity: of the model that both were captured from; empty when it is not known, or they differ.
    """

    deltas: tuple[torch.Tensor, ...]
    index_of: Mapping[int, int]
    grid: Grid | None
    origin: str
    relative_l2: float
    identity: str = ""

    gives: ClassVar[Gives] = "difference"
    sites: ClassVar[tuple[str, ...]] = ("hidden",)
    title: ClassVar[str] = "a captured difference"

    def __post_init__(self) -> None:
        if not all(torch.isfinite(d).all() for d in self.deltas):
            raise ValueError("A captured difference holds NaN or infinite values.")
        shapes = {tuple(d.shape[1:]) for d in self.deltas}
        if not self.deltas or any(d.dim() != 3 or not d.is_floating_point() or not d.numel() for d in self.deltas):
            raise ValueError("A captured difference is made of floating point tensors [batch, tokens, dim].")
        if len(shapes) > 1:
            raise ValueError(f"The tensors of a captured difference have different shapes: {sorted(shapes)}.")
        if not all(0 <= i < len(self.deltas) for i in self.index_of.values()):
            raise ValueError(f"A captured difference of {len(self.deltas)} tensors gives a block another one.")

    @property
    def width(self) -> int:
        return self.deltas[0].shape[-1]

    def tensor(self, block: int) -> torch.Tensor:
        """What block `block` gets, on the CPU."""
        return self.deltas[self.index_of[block]]

    def describe(self) -> dict[str, Any]:
        return {
            "captured": self.origin,
            "shape": list(self.deltas[0].shape),
            "grid": None if self.grid is None else list(self.grid),
            "dtype": str(self.deltas[0].dtype).removeprefix("torch."),
            "relative_l2": self.relative_l2,
        }

    def check(self, model: WanModel, site: str, edit: str) -> None:
        if model.width not in (None, self.width):
            raise ValueError(
                f"{edit}: the hidden states are {self.width} wide, but that of {model.name} is {model.width} wide. "
                "Capture them from this model."
            )

    def check_grid(self, grid: Grid, label: str) -> None:
        """Raise ValueError unless the difference fits a sampler's grid of tokens."""
        if self.grid is not None and self.grid != grid:
            raise ValueError(
                f"{label}: the hidden states were captured on a grid of {format_grid(self.grid)} tokens, but the "
                f"sampler runs on {format_grid(grid)}. Capture at the sampler's size, or set reduce to mean."
            )


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector of the model's width: [dim] for every block, or [blocks, dim] with one for each.

    Operations get it in float32.
    """

    vector: torch.Tensor

    gives: ClassVar[Gives] = "difference"
    sites: ClassVar[tuple[str, ...]] = tuple(SITES)
    title: ClassVar[str] = "a direction"

    def __post_init__(self) -> None:
        v = self.vector
        if not torch.is_tensor(v) or v.dim() not in (1, 2) or not v.is_floating_point() or not v.numel():
            got = f"{v.dtype} {list(v.shape)}" if torch.is_tensor(v) else type(v).__name__
            raise ValueError(f"A direction is a floating point tensor [dim] or [blocks, dim], not {got}.")
        if not torch.isfinite(v).all():
            raise ValueError("A direction holds NaN or infinite values.")
        object.__setattr__(self, "vector", v.detach().to("cpu", torch.float32, copy=True).contiguous())

    @property
    def width(self) -> int:
        return self.vector.shape[-1]

    def tensor(self, block: int) -> torch.Tensor:
        """What block `block` gets, [1, 1, dim] on the CPU."""
        return (self.vector if self.vector.dim() == 1 else self.vector[block])[None, None]

    def check(self, model: WanModel, site: str, edit: str) -> None:
        if self.vector.dim() == 2 and len(self.vector) != model.block_count:
            raise ValueError(
                f"{edit}: the direction has vectors for {len(self.vector)} blocks, but {model.name} has "
                f"{model.block_count}."
            )
        if model.width not in (None, self.width):
            raise ValueError(
                f"{edit}: the direction is {self.width} wide, but {site} of {model.name} is {model.width} wide."
            )

    def describe(self) -> dict[str, Any]:
        return {"direction": list(self.vector.shape), "norm": float(self.vector.norm(dim=-1).mean())}


@dataclass(frozen=True)
class Zero:
    """Nothing: a tensor of zeros. Scale with it is a gain, Blend fades out."""

    gives: ClassVar[Gives] = "state"
    sites: ClassVar[tuple[str, ...]] = (*SITES, *MORE_SITES)
    title: ClassVar[str] = "zero"

    def describe(self) -> dict[str, Any]:
        return {"zero": True}

    def check(self, model: WanModel, site: str, edit: str) -> None:
        """It fits any model."""


@dataclass(frozen=True, eq=False)
class Image:
    """A second image: its CLIP vision tokens, projected by the model at the moment when it projects its own.

    Args:
        tokens: [tokens, width] or [1, tokens, width], as CLIP vision gives them before its last layer.

    Raises:
        ValueError: another shape, or NaN or infinite values.
    """

    tokens: torch.Tensor

    gives: ClassVar[Gives] = "state"
    sites: ClassVar[tuple[str, ...]] = ("image_tokens",)
    title: ClassVar[str] = "an image"

    def __post_init__(self) -> None:
        t = self.tokens
        if torch.is_tensor(t) and t.dim() == 3 and len(t) == 1:
            t = t[0]
        if not torch.is_tensor(t) or t.dim() != 2 or not t.is_floating_point() or not t.numel():
            got = f"{t.dtype} {list(t.shape)}" if torch.is_tensor(t) else type(t).__name__
            raise ValueError(f"An image is a floating point tensor [tokens, width] of CLIP vision, not {got}.")
        if not torch.isfinite(t).all():
            raise ValueError("An image holds NaN or infinite values.")
        object.__setattr__(self, "tokens", t.detach().to("cpu").contiguous())

    def check(self, model: WanModel, site: str, edit: str) -> None:
        if model.image_projection is None:
            raise ValueError(f"{edit}: {model.name} reads no CLIP image. Use an I2V model that does (Wan 2.1 I2V).")

    def describe(self) -> dict[str, Any]:
        return {"image": list(self.tokens.shape)}


def prompt_at(site: str, embeds: TextEmbeds) -> Prompt | SecondStream:
    """The source that a second prompt is at a site."""
    return SecondStream(embeds) if site == "hidden" else Prompt(embeds)


def check_width(embeds: TextEmbeds, model: WanModel, subject: str) -> None:
    """Raise ValueError unless the embeddings are as wide as the text that the model projects.

    Args:
        subject: beginning of the message: what the embeddings are, with its verb.
    """
    if model.text_width not in (None, embeds.width):
        raise ValueError(
            f"{subject} {embeds.width} wide, but {model.name} projects text of width {model.text_width}. "
            "Encode the prompt with the text encoder that belongs to this model (UMT5-XXL)."
        )


SOURCES: dict[str, type[Any]] = {
    cls.__name__: cls for cls in (Prompt, SecondStream, CapturedDifference, Direction, Zero, Image)
}
"""Sources that a file may name."""

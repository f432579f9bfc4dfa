"""How different two prompts are, in figures that are not mistaken for one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .text_embeds import pad_tokens

CHANGED_THRESHOLD = 0.01
ALIKE_RELATIVE_L2 = 0.1


@dataclass(frozen=True)
class Difference:
    """Difference of an embedding `b` from an embedding `a`.

    Args:
        relative_l2: norm of (b - a) over norm of a; 0 is equal, independent of scale.
        token_cosine: mean cosine over the tokens that both have; 1 is the same direction.
        norm_ratio: norm of b over norm of a.
        changed_share: share of elements that differ by more than 0.01, 0..1. Depends on the scale of the
            values and is diluted by padding rows, so compare it only between like and like.
        tokens: rows that were compared.
    """

    relative_l2: float
    token_cosine: float
    norm_ratio: float
    changed_share: float
    tokens: int

    @property
    def alike(self) -> bool:
        """True when injecting one for the other can hardly show: relative L2 below 0.1."""
        return self.relative_l2 < ALIKE_RELATIVE_L2

    def __str__(self) -> str:
        return (
            f"relative L2 {self.relative_l2:.4f}, mean token cosine {self.token_cosine:.4f}, "
            f"norm ratio {self.norm_ratio:.4f}, elements changed by more than 0.01: "
            f"{100 * self.changed_share:.2f}% ({self.tokens} tokens)"
        )


def changed_share(a: torch.Tensor, b: torch.Tensor, threshold: float = CHANGED_THRESHOLD) -> torch.Tensor:
    """Share of elements with |b - a| > threshold, as a scalar tensor 0..1 on their device."""
    return ((b.float() - a.float()).abs() > threshold).float().mean()


def difference(a: torch.Tensor, b: torch.Tensor) -> Difference:
    """Compare two prompts [tokens, width] over their rows; the shorter one is padded with zero rows.

    Pass embeddings without padding for figures over real tokens, padded ones to see the dilution.

    Raises:
        ValueError: the widths differ.
    """
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"Cannot compare widths {a.shape[-1]} and {b.shape[-1]}.")
    length = max(len(a), len(b))
    x, y = pad_tokens(a.float(), length), pad_tokens(b.float(), length)
    norm_x, norm_y = x.norm().item(), y.norm().item()
    both = (x != 0).any(dim=-1) & (y != 0).any(dim=-1)  # padding has no direction
    cosine = torch.nn.functional.cosine_similarity(x[both], y[both], dim=-1).mean().item() if both.any() else 1.0
    return Difference(
        relative_l2=(y - x).norm().item() / norm_x if norm_x else float(norm_y != 0.0),
        token_cosine=cosine,
        norm_ratio=norm_y / norm_x if norm_x else float("inf") if norm_y else 1.0,
        changed_share=changed_share(x, y).item(),
        tokens=length,
    )


def mean_difference(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> Difference:
    """Prompt by prompt difference, averaged; a single prompt in `b` is compared with each of `a`.

    Raises:
        ValueError: the numbers of prompts or the widths differ.
    """
    if len(b) not in (1, len(a)):
        raise ValueError(f"Cannot compare {len(b)} injected prompts with {len(a)} main prompts.")
    pairs = list(zip(a, list(b) * len(a) if len(b) == 1 else b, strict=True))
    each = [difference(x, y) for x, y in pairs]
    n = len(each)
    return Difference(
        relative_l2=sum(d.relative_l2 for d in each) / n,
        token_cosine=sum(d.token_cosine for d in each) / n,
        norm_ratio=sum(d.norm_ratio for d in each) / n,
        changed_share=sum(d.changed_share for d in each) / n,
        tokens=max(d.tokens for d in each),
    )

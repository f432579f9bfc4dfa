"""Figures about one prompt [tokens, width] as text for people."""

from __future__ import annotations

import torch

from .analysis import NEAR_ZERO, highest_variance_dimensions, principal_components, statistics

LEADING = 5


def shape_report(prompt: torch.Tensor) -> str:
    """Sizes, dtype and device in one line."""
    tokens, width = prompt.shape
    dtype = str(prompt.dtype).removeprefix("torch.")
    size = prompt.numel() * prompt.element_size() / 1024
    return f"  Shape: {tokens} tokens x {width}, {dtype} on {prompt.device}, {size:.0f} KiB"


def statistics_report(prompt: torch.Tensor) -> str:
    """Values, norms and the share of near-zero values."""
    s = statistics(prompt)
    return (
        f"  Values: mean {s.mean:.5g}, std {s.std:.5g}, min {s.minimum:.5g}, max {s.maximum:.5g}\n"
        f"  L2 norm: {s.norm:.5g}; per token mean {s.token_norm_mean:.5g}, std {s.token_norm_std:.5g}, "
        f"{s.token_norm_min:.5g} to {s.token_norm_max:.5g}\n"
        f"  Near zero (below {NEAR_ZERO:g}): {100 * s.near_zero:.2f}%"
    )


def pca_report(prompt: torch.Tensor) -> str:
    """Explained variance, effective rank, and the dimensions that vary most over the tokens."""
    pca = principal_components(prompt)
    if not pca.explained_variance:
        return "  Principal components: none, since all tokens are equal"
    leading = ", ".join(f"{100 * share:.1f}%" for share in pca.explained_variance[:LEADING])
    dimensions = ", ".join(f"{index} ({variance:.4g})" for index, variance in highest_variance_dimensions(prompt))
    return (
        f"  Principal components of the tokens: the leading ones explain {leading}\n"
        f"  Components for 90% of the variance: {pca.components_for(0.9)}, for 95%: {pca.components_for(0.95)}, "
        f"of {len(pca.explained_variance)}; effective rank {pca.effective_rank:.2f}\n"
        f"  Dimensions of highest variance: {dimensions}"
    )

"""The text projection of Wan models, computed from its weights alone, for reports outside of sampling."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional


def readable_weights(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """A text projection's state dict, or None where it does not hold plain values: on `meta`, quantised, other keys."""
    plain = all(v.is_floating_point() and not v.is_meta and v.element_size() > 1 for v in state.values())
    return dict(state) if plain and {"0.weight", "2.weight"} <= state.keys() else None


def project_text(raw: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Linear, GELU (tanh), Linear in float32 on the CPU. [tokens, text_width] -> [tokens, dim].

    Source: `text_embedding` in the Wan 2.1 reference model.

    Args:
        raw: T5 embeddings, padding rows included if they matter.
        weights: `0.weight`, `2.weight` and, where the layers have them, `0.bias` and `2.bias`.
    """

    def linear(x: torch.Tensor, layer: str) -> torch.Tensor:
        bias = weights.get(f"{layer}.bias")
        weight = weights[f"{layer}.weight"].detach().to("cpu", torch.float32)
        return functional.linear(x, weight, None if bias is None else bias.detach().to("cpu", torch.float32))

    hidden = linear(raw.detach().to("cpu", torch.float32), "0")
    return linear(functional.gelu(hidden, approximate="tanh"), "2")

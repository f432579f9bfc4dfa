"""What every embedding operation does first and last: align, compute in float32, return what the base was."""

from __future__ import annotations

import torch

from .text_embeds import EmbedsError, pad_tokens


def align(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Zero-pad prompts [tokens, width] to the longest of them. Equal lengths are handed back as they are.

    Raises:
        EmbedsError: the widths differ: raw T5 embeddings and embeddings in a model's own width do not mix.
    """
    widths = [t.shape[-1] for t in tensors]
    if len(set(widths)) > 1:
        raise EmbedsError(f"Embeddings of widths {', '.join(map(str, widths))} cannot be combined.")
    length = max(t.shape[0] for t in tensors)
    return tuple(pad_tokens(t, length) for t in tensors)


def working(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Aligned copies to compute with: float32 (float64 where the first is float64), on the first one's device.

    A tensor that is in that form already is not copied, so callers do not write into the result.
    """
    base = tensors[0]
    dtype = torch.promote_types(torch.float32, base.dtype)
    return align(*(t.to(base.device, dtype) for t in tensors))


def returned(result: torch.Tensor, base: torch.Tensor, operation: str) -> torch.Tensor:
    """A result in the base's dtype.

    Raises:
        EmbedsError: the result holds NaN or Inf in that dtype; the message names the operation.
    """
    out = result.to(base.dtype)
    if not all_finite(out):
        dtype = str(base.dtype).removeprefix("torch.")
        raise EmbedsError(
            f"{operation}: the result does not fit {dtype} (NaN or infinite values). Use smaller weights or scale."
        )
    return out


def all_finite(tensor: torch.Tensor) -> bool:
    """True when no value is NaN or infinite.

    A finite sum proves it in one pass over the values; only a sum that overflowed needs the closer look.
    """
    if torch.isfinite(tensor.sum(dtype=torch.promote_types(torch.float32, tensor.dtype))):
        return True
    return bool(torch.isfinite(tensor).all())

"""Text embeddings: reading them from hosts, comparing them. Plain torch, no ComfyUI."""

from .difference import Difference, changed_share, difference, mean_difference
from .text_embeds import (
    MAX_TOKENS,
    RAW_WIDTH,
    EmbedsError,
    TextEmbeds,
    check_fits,
    is_conditioning,
    is_wrapper_embeds,
    pad_tokens,
    read_text_embeds,
    trim_padding,
)

__all__ = [
    "MAX_TOKENS",
    "RAW_WIDTH",
    "Difference",
    "EmbedsError",
    "TextEmbeds",
    "changed_share",
    "check_fits",
    "difference",
    "is_conditioning",
    "is_wrapper_embeds",
    "mean_difference",
    "pad_tokens",
    "read_text_embeds",
    "trim_padding",
]

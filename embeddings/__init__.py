"""Text embeddings: reading them from hosts, comparing, combining and amplifying them. Plain torch, no ComfyUI."""

from .amplification import (
    AMPLIFICATION_MODES,
    METRICS,
    Amplified,
    UnreachableTargetError,
    amplify,
    measure,
)
from .analysis import (
    PrincipalComponents,
    Statistics,
    effective_rank,
    highest_variance_dimensions,
    principal_components,
    statistics,
)
from .arithmetic import ARITHMETIC_OPERATIONS, combine, difference_vector, unit_tokens
from .difference import Difference, changed_share, difference, mean_difference
from .interpolation import METHODS, interpolate
from .precision import align
from .promptwise import SEQUENCE_KEY, check_matching, promptwise, read_truncated, title, write_text_embeds
from .sequence import read_sequence, write_sequence
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
    "AMPLIFICATION_MODES",
    "ARITHMETIC_OPERATIONS",
    "MAX_TOKENS",
    "METHODS",
    "METRICS",
    "RAW_WIDTH",
    "SEQUENCE_KEY",
    "Amplified",
    "Difference",
    "EmbedsError",
    "PrincipalComponents",
    "Statistics",
    "TextEmbeds",
    "UnreachableTargetError",
    "align",
    "amplify",
    "changed_share",
    "check_fits",
    "check_matching",
    "combine",
    "difference",
    "difference_vector",
    "effective_rank",
    "highest_variance_dimensions",
    "interpolate",
    "is_conditioning",
    "is_wrapper_embeds",
    "mean_difference",
    "measure",
    "pad_tokens",
    "principal_components",
    "promptwise",
    "read_sequence",
    "read_text_embeds",
    "read_truncated",
    "statistics",
    "title",
    "trim_padding",
    "unit_tokens",
    "write_sequence",
    "write_text_embeds",
]

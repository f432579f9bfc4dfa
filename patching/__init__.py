"""Block selection, edits, and the runtime that applies them while a host samples."""

from .addition import REDUCTIONS, ActivationAddition, HiddenDelta, format_grid, hidden_delta
from .capture import Capture, HiddenStates, Size, check_states
from .checks import check_prompt_count, check_stack, check_width
from .edit import BRANCHES, KEY, LOG_LEVELS, Edit, EditStack, Observer, Site, Window, stack_of
from .fingerprint import UnidentifiedError, fingerprint
from .hosts import host_of
from .operations import Blend, Operation
from .runtime import Run
from .selection import Selection, SelectionError, parse_selection
from .strengths import (
    DEFAULT_BLOCK_COUNT,
    PATTERNS,
    PRESETS,
    BlockRangeError,
    BlockStrengths,
    Explicit,
    Pattern,
    Product,
    Uniform,
    as_block_strengths,
    matching_preset,
    preset_blocks,
)
from .transforms import FORCE_MODES, Boost, ContextTransform, ForceDifference
from .views import block_pattern
from .wan_model import NotAWanModelError, WanModel, discover

__all__ = [
    "BRANCHES",
    "DEFAULT_BLOCK_COUNT",
    "FORCE_MODES",
    "KEY",
    "LOG_LEVELS",
    "PATTERNS",
    "PRESETS",
    "REDUCTIONS",
    "ActivationAddition",
    "Blend",
    "BlockRangeError",
    "BlockStrengths",
    "Boost",
    "Capture",
    "ContextTransform",
    "Edit",
    "EditStack",
    "Explicit",
    "ForceDifference",
    "HiddenDelta",
    "HiddenStates",
    "NotAWanModelError",
    "Observer",
    "Operation",
    "Pattern",
    "Product",
    "Run",
    "Selection",
    "SelectionError",
    "Site",
    "Size",
    "UnidentifiedError",
    "Uniform",
    "WanModel",
    "Window",
    "as_block_strengths",
    "block_pattern",
    "check_prompt_count",
    "check_stack",
    "check_states",
    "check_width",
    "discover",
    "fingerprint",
    "format_grid",
    "hidden_delta",
    "host_of",
    "matching_preset",
    "parse_selection",
    "preset_blocks",
    "stack_of",
]

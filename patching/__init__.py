"""Block selection, edits, and the runtime that applies them while a host samples."""

from .capture import Capture, HiddenStates, check_states
from .checks import check_prompt_count, check_stack
from .difference import REDUCTIONS, captured_difference
from .edit import BRANCHES, KEY, LOG_LEVELS, Edit, EditStack, Window, stack_of
from .fingerprint import UnidentifiedError, fingerprint
from .grid import Size, format_grid
from .hosts import host_of
from .operations import Add, Blend, Operation, Replace
from .runtime import Run
from .schedule import Schedule, ScheduleError, parse_schedule
from .selection import Selection, SelectionError, parse_selection
from .sites import SITES
from .sources import CapturedDifference, Direction, Prompt, SecondStream, check_width, prompt_at
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
    "SITES",
    "Add",
    "Blend",
    "BlockRangeError",
    "BlockStrengths",
    "Boost",
    "Capture",
    "CapturedDifference",
    "ContextTransform",
    "Direction",
    "Edit",
    "EditStack",
    "Explicit",
    "ForceDifference",
    "HiddenStates",
    "NotAWanModelError",
    "Operation",
    "Pattern",
    "Product",
    "Prompt",
    "Replace",
    "Run",
    "Schedule",
    "ScheduleError",
    "SecondStream",
    "Selection",
    "SelectionError",
    "Size",
    "UnidentifiedError",
    "Uniform",
    "WanModel",
    "Window",
    "as_block_strengths",
    "block_pattern",
    "captured_difference",
    "check_prompt_count",
    "check_stack",
    "check_states",
    "check_width",
    "discover",
    "fingerprint",
    "format_grid",
    "host_of",
    "matching_preset",
    "parse_schedule",
    "parse_selection",
    "preset_blocks",
    "prompt_at",
    "stack_of",
]

"""Writes patterns.json, the table that Python and JavaScript tests both check: python tests/vectors/make_patterns.py"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from wanvideo_activation_editor.patching.schedule import parse_schedule
from wanvideo_activation_editor.patching.selection import parse_selection
from wanvideo_activation_editor.patching.strengths import PATTERNS, PRESETS, Pattern, preset_blocks, uniform_random

FILE = Path(__file__).with_name("patterns.json")
COUNTS = (1, 5, 30, 40)
PARAMETERS = (
    {},
    {"base": 1.0, "peak": 0, "spread": 0.5, "step": 1, "seed": 1},
    {"base": 0.73, "peak": 39, "spread": 20.0, "step": 20, "seed": 0xFFFFFFFF},
    {"base": 0.3, "peak": 12, "spread": 2.7, "step": 7, "seed": 123456789},
)
SELECTIONS = (
    "", "none", "7", "0, 39", "3-9", "even", "odd:0.5", "/4", "/7:0.25", "!12", "!3-5 !odd", "all, !0-9", "1101",
    "0" * 40, "10-29:0.6, 30-39:0.2", "5-20, 10-12:0", "EARLY_BLOCKS, late_blocks:1e-2", "mid_blocks !sparse",
    "0110:0.5, 2:0.1",
    "first_half:.5 second_half", "alternating, !/6", "29", "40", "30-45", "0001" * 12,
)  # fmt: skip
UNREADABLE = ("9-3", "/0", "!4:0.5", "3:", "3:2", "3:x", "01", "007", "early", "1 2 3-", "all, -4", "even:0.5:0.5")

SCHEDULES = ("", "0:0.2, 0.5:0.8, 1:1", "0:1 1:0", ".3:.25", "0.1:0, 0.102:1", "0:1e-1,0.5:1", "0.25:0, 0.5:0, 0.75:1")
UNREADABLE_SCHEDULES = ("0.5", "0:1, x:2", "0:1:1", "0:-1", "0:1, 2:1", "0:1.5", "0.5:1, 0.5:0", ":", "0:1;1:0")


def resolved(text: str, count: int) -> list[float] | None:
    """None where the selection names a block that the model does not have."""
    try:
        return list(parse_selection(text).resolve(count))
    except ValueError:
        return None


def position(text: str, parse: Any = parse_selection) -> str:
    """The place that the error for `text` names."""
    try:
        parse(text)
    except ValueError as error:
        return str(error).split(": ")[0].split(", ", 1)[1]
    raise AssertionError(f"{text!r} is readable")


def table() -> dict[str, Any]:
    return {
        "presets": [
            {"name": name, "count": count, "blocks": list(preset_blocks(name, count))}
            for name, count in itertools.product(PRESETS, COUNTS)
        ],
        "patterns": [
            {"name": name, "count": count, "parameters": given, "strengths": Pattern(name, **given).resolve(count)}
            for name, count, given in itertools.product(PATTERNS, COUNTS, PARAMETERS)
        ],
        "random": [{"seed": s, "values": uniform_random(s, 8)} for s in (0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)],
        "selections": [
            {
                "text": text,
                "count": count,
                "blank": parse_selection(text).is_blank(),
                "strengths": resolved(text, count),
            }
            for text, count in itertools.product(SELECTIONS, (30, 40))
        ],
        "unreadable": [{"text": text, "position": position(text)} for text in UNREADABLE],
        "schedules": [
            {"text": text, "strengths": [parse_schedule(text).at(i / 200) for i in range(201)]} for text in SCHEDULES
        ],
        "unreadable_schedules": [
            {"text": text, "position": position(text, parse_schedule)} for text in UNREADABLE_SCHEDULES
        ],
    }


def lines(value: dict[str, Any]) -> str:
    """JSON with one case to a line."""
    parts = [f'"{key}": [\n' + ",\n".join(json.dumps(case) for case in cases) + "\n]" for key, cases in value.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(lines(table()), encoding="utf-8")

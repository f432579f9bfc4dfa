"""The grammar of block selections: `blocks` in Python, `block_activations` of nodes.

A selection is a string of 0 and 1 (one character per block, three or more), or terms separated by
commas or spaces:

    7          one block                 even, odd      every second block
    3-9        a range, both ends        /4             every 4th block: 0, 4, 8, ...
    early_blocks, sparse, all, ...       any preset     !12, !3-5      without these

Each term may end in `:strength` (0 to 1), as in `10-29:0.6, 30-39:0.2`. Where terms overlap the later
one wins; exclusions apply last, and a selection of exclusions alone starts from all blocks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .strengths import PRESETS, BlockStrengths, check_block, preset_blocks

NAMES = ("even", "odd", *PRESETS)
MAX_LENGTH = 4000
"""Characters of a selection, a schedule or the like."""

_TOKEN = re.compile(r"[^\s,]+")
NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:e-?[0-9]+)?"  # takes time linear in the text
_STRENGTH = re.compile(NUMBER)
_BITS = re.compile(r"[01]{3,}")
_NUMBER = r"0|[1-9][0-9]{0,5}"  # no leading zeros: 0102 is a mistyped string of 0 and 1
_INDEX = re.compile(_NUMBER)
_RANGE = re.compile(f"({_NUMBER})-({_NUMBER})")
_EVERY = re.compile(f"/({_NUMBER})")


class SelectionError(ValueError):
    """The text is no block selection; the message gives position, token and what is allowed."""


@dataclass(frozen=True)
class Term:
    """One term of a selection: a set of blocks, its strength, or an exclusion."""

    blocks: str
    strength: float = 1.0
    exclude: bool = False

    def indices(self, count: int) -> list[int]:
        """Blocks of this term in a model of `count` blocks.

        Raises:
            BlockRangeError: it names a block beyond the last one.
        """
        if _BITS.fullmatch(self.blocks):
            chosen = [i for i, bit in enumerate(self.blocks) if bit == "1"]
            for i in chosen:
                check_block(i, count)
            return chosen
        if self.blocks in ("even", "odd"):
            return list(range(self.blocks == "odd", count, 2))
        if self.blocks in PRESETS:
            return list(preset_blocks(self.blocks, count))
        if match := _EVERY.fullmatch(self.blocks):
            return list(range(0, count, int(match[1])))
        if match := _RANGE.fullmatch(self.blocks):
            first, last = int(match[1]), int(match[2])
        else:
            first = last = int(self.blocks)
        check_block(first, count)
        check_block(last, count)
        return list(range(first, last + 1))

    def __str__(self) -> str:
        tail = "" if self.strength == 1.0 else f":{self.strength!r}"
        return f"{'!' if self.exclude else ''}{self.blocks}{tail}"


@dataclass(frozen=True)
class Selection(BlockStrengths):
    """A parsed selection; `str` prints text that parses to an equal selection."""

    terms: tuple[Term, ...]

    def resolve(self, count: int) -> tuple[float, ...]:
        only_exclusions = bool(self.terms) and all(t.exclude for t in self.terms)
        out = [1.0 if only_exclusions else 0.0] * count
        for term in sorted(self.terms, key=lambda t: t.exclude):  # stable: exclusions last
            for i in term.indices(count):
                out[i] = 0.0 if term.exclude else term.strength
        return tuple(out)

    def is_blank(self) -> bool:
        """True for what an untouched widget holds: nothing, or a string of zeros. `none` is a choice, not blank."""
        return all(_BITS.fullmatch(t.blocks) and "1" not in t.blocks and not t.exclude for t in self.terms)

    def __str__(self) -> str:
        return ", ".join(str(t) for t in self.terms)


def check_length(name: str, text: str, error: type[ValueError]) -> None:
    """Raise `error` for a text that is too long to be read at once."""
    if len(text) > MAX_LENGTH:
        raise error(f"{name} has {len(text)} characters, but at most {MAX_LENGTH} are read.")


def parse_selection(text: str, name: str = "block_activations") -> Selection:
    """Parse a block selection.

    Args:
        name: of the input or argument, for errors.

    Raises:
        SelectionError: with the 1-based position and the token that could not be read.
    """
    if not isinstance(text, str):
        raise SelectionError(f"{name} must be text, not {type(text).__name__}.")
    check_length(name, text, SelectionError)
    return Selection(tuple(_parse_term(m[0].lower(), m.start() + 1, name) for m in _TOKEN.finditer(text)))


def _parse_term(token: str, position: int, name: str) -> Term:
    def fail(why: str) -> SelectionError:
        return SelectionError(f"{name}, position {position}: {token!r} {why}")

    blocks, colon, strength_text = token.partition(":")
    exclude = blocks.startswith("!")
    blocks = blocks.removeprefix("!")
    strength = 1.0
    if colon:
        if exclude:
            raise fail("excludes blocks, so it takes no strength.")
        if not _STRENGTH.fullmatch(strength_text):
            raise fail(f"has no readable strength after ':' ({strength_text!r}); write a number from 0 to 1.")
        strength = float(strength_text)
        if not 0.0 <= strength <= 1.0:
            raise fail("has a strength outside 0 to 1.")
    if match := _RANGE.fullmatch(blocks):
        if int(match[1]) > int(match[2]):
            raise fail(f"runs backwards; write {match[2]}-{match[1]}.")
    elif match := _EVERY.fullmatch(blocks):
        if int(match[1]) == 0:
            raise fail("steps by 0; write /2 for every second block.")
    elif not (_BITS.fullmatch(blocks) or _INDEX.fullmatch(blocks) or blocks in NAMES):
        raise fail(
            "is not a block (7), a range (3-9), a step (/4), an exclusion (!12), a string of 0 and 1, "
            f"or one of: {', '.join(NAMES)}."
        )
    return Term(blocks, strength, exclude)

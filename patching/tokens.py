"""The grammar of `tokens`: which tokens of the text an edit touches, and how much.

Terms, separated by commas or spaces:

    real       tokens of the prompt             "a phrase"   the tokens of these words
    padding    what fills the text up           word 3       the third word
    all        both                             12-15, 7     tokens by number, from 0

Each may end in `:weight`. Where terms overlap the later one wins; what no term names is not touched. Tokens are those
of the main prompt. A phrase stands for all places where the prompt has it, and a word for all its tokens. Phrases and
words become numbers by `Tokens.located`, which needs the text and its tokenizer (words.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from .selection import NUMBER, check_length

Kind = Literal["real", "padding", "all", "range", "phrase", "word"]

_TERM = re.compile(rf"""
    (?: "(?P<phrase>[^"]*)" | word\s+(?P<word>[0-9]{{1,4}}) | (?P<name>real|padding|all)
      | (?P<first>[0-9]{{1,4}})(?:-(?P<last>[0-9]{{1,4}}))? )
    (?::(?P<weight>{NUMBER}))?
    (?=[\s,]|$)""", re.VERBOSE | re.IGNORECASE)  # fmt: skip
_GAP = re.compile(r"[\s,]*")
_PLAIN = re.compile(rf"(?P<phrase>[^\s,:\"]+):(?P<weight>{NUMBER})(?=[\s,]|$)")


class TokensError(ValueError):
    """The text names no tokens, or the prompt does not have them; the message says what it has."""


class Locator(Protocol):
    """Where words are among a prompt's tokens; see words.py."""

    def phrase(self, text: str) -> Sequence[tuple[int, int]]: ...

    def word(self, number: int) -> tuple[int, int]: ...


@dataclass(frozen=True)
class TokenTerm:
    """One term.

    Args:
        kind: what it names.
        first, last: token numbers of a range, both included; `first` is the number of a word.
        text: of a phrase.
        weight: of the edit's strength there.
    """

    kind: Kind
    first: int = 0
    last: int = 0
    text: str = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight <= 100.0:  # False for NaN too
            raise TokensError(f"tokens: a weight of {self.weight:g} is outside 0 to 100.")
        if self.kind == "range" and not 0 <= self.first <= self.last:
            raise TokensError(f"tokens: {self.first}-{self.last} runs backwards; write {self.last}-{self.first}.")

    def __str__(self) -> str:
        numbers = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        what = {"range": numbers, "phrase": f'"{self.text}"', "word": f"word {self.first}"}.get(self.kind, self.kind)
        return what if self.weight == 1.0 else f"{what}:{self.weight!r}"


@dataclass(frozen=True)
class Tokens:
    """Parsed terms; `str` prints text that parses to equal ones."""

    terms: tuple[TokenTerm, ...]

    @property
    def is_located(self) -> bool:
        """True when no term is left that needs the prompt's text."""
        return not any(term.kind in ("phrase", "word") for term in self.terms)

    @property
    def takes_all(self) -> bool:
        """True when every token has its full strength."""
        return self.terms[-1:] == (TokenTerm("all"),)

    @property
    def takes_real(self) -> bool:
        """True when it is the prompt's tokens at their full strength, and nothing else."""
        return self.terms == (TokenTerm("real"),)

    def located(self, words: Locator | None) -> Tokens:
        """The same with token numbers for words.

        Args:
            words: of the prompt; None when no term needs them.

        Raises:
            TokensError: the prompt does not have one.
        """
        if self.is_located or words is None:
            return self
        found: list[TokenTerm] = []
        for term in self.terms:
            if term.kind == "phrase":
                found += [TokenTerm("range", a, b, weight=term.weight) for a, b in words.phrase(term.text)]
            elif term.kind == "word":
                found.append(TokenTerm("range", *words.word(term.first), weight=term.weight))
            else:
                found.append(term)
        return Tokens(tuple(found))

    def weights(self, real: torch.Tensor, rest: float = 0.0) -> torch.Tensor:
        """Weight of each token.

        Args:
            real: bool [tokens], True where the prompt has a token.
            rest: weight of tokens that no term names.

        Returns:
            float32 [tokens], where `real` is.

        Raises:
            TokensError: a token beyond the last, or a term that is not located.
        """
        out = torch.full(real.shape, rest, dtype=torch.float32, device=real.device)
        for term in self.terms:
            if term.kind == "all":
                out.fill_(term.weight)
            elif term.kind in ("real", "padding"):
                out.masked_fill_(real if term.kind == "real" else ~real, term.weight)
            elif term.kind == "range":
                if term.last >= len(real):
                    raise TokensError(f"tokens: there is no token {term.last}; the model reads {len(real)}, from 0.")
                out[term.first : term.last + 1] = term.weight
            else:
                raise TokensError(f"tokens: {term} needs the prompt's text and its tokenizer, or token numbers.")
        return out

    def __str__(self) -> str:
        return ", ".join(str(term) for term in self.terms)


def parse_tokens(text: str, name: str = "tokens", most: float = 1.0, bare_words: bool = False) -> Tokens:
    """Parse terms.

    Args:
        name: of the input, for errors.
        most: the largest weight that is allowed.
        bare_words: also read a word without quotes as a phrase, if it has a weight.

    Raises:
        TokensError: with the 1-based position of what could not be read.
    """
    if not isinstance(text, str):
        raise TokensError(f"{name} must be text, not {type(text).__name__}.")
    check_length(name, text, TokensError)
    terms: list[TokenTerm] = []
    at = _end_of_gap(text, 0)
    while at < len(text):
        match = _TERM.match(text, at) or (_PLAIN.match(text, at) if bare_words else None)
        where = f"{name}, position {at + 1}: {text[at : at + 40]!r}"
        if match is None:
            raise TokensError(
                f'{where} is not real, padding, all, "a phrase", word 3, a token (7) or a range (12-15), each with '
                "an optional :weight." + (" A word needs no quotes before a :weight." if bare_words else "")
            )
        groups = match.groupdict()
        weight = float(groups["weight"] or 1.0)
        if not weight <= most:
            raise TokensError(f"{where} has a weight outside 0 to {most:g}.")
        if groups["phrase"] is not None:
            if not groups["phrase"].strip():
                raise TokensError(f"{where} is a phrase without words.")
            terms.append(TokenTerm("phrase", text=" ".join(groups["phrase"].split()), weight=weight))
        elif groups["word"]:
            if int(groups["word"]) == 0:
                raise TokensError(f"{where}: words are counted from 1.")
            terms.append(TokenTerm("word", int(groups["word"]), weight=weight))
        elif groups["name"]:
            terms.append(TokenTerm(groups["name"].lower(), weight=weight))  # type: ignore[arg-type]  # of three
        else:
            first = int(groups["first"])
            last = int(groups["last"] or first)
            if last < first:
                raise TokensError(f"{where} runs backwards; write {last}-{first}.")
            terms.append(TokenTerm("range", first, last, weight=weight))
        at = _end_of_gap(text, match.end())
    return Tokens(tuple(terms))


def _end_of_gap(text: str, at: int) -> int:
    match = _GAP.match(text, at)
    return match.end() if match else at

"""Words of a prompt among its tokens, from the pieces that a SentencePiece tokenizer cuts it into."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from .tokens import Tokens, TokensError, parse_tokens

_SPACE = "\u2581"  # SentencePiece writes it before a piece that begins a word
_SPECIAL = re.compile(r"<[^<>]*>")  # an unknown character, a byte
_UNSPACED = re.compile(  # Thai and Lao, Burmese, Khmer, kana, Chinese characters
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_WEIGHT_END = re.compile(r"\n|:[\d.]+\)")


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M"


def _joined(text: str, place: int) -> bool:
    """True when the characters before and after a place belong to one word; scripts without spaces have no edges."""
    around = text[place - 1 : place + 1] if place > 0 else ""
    return len(around) == 2 and all(_in_word(c) and not _UNSPACED.match(c) for c in around)


@dataclass(frozen=True)
class Words:
    """The words of one prompt.

    Args:
        pieces: text of each token in order, as the tokenizer's vocabulary has it, without the end token.
        clean: makes a phrase look as the prompt did when it was encoded.
    """

    pieces: tuple[str, ...]
    clean: Callable[[str], str] = str.strip

    @cached_property
    def _places(self) -> tuple[str, tuple[int, ...]]:
        """The text, and the number of the token of each of its characters."""
        text, owners = "", []
        for number, piece in enumerate(self.pieces):
            shown = " " if _SPECIAL.fullmatch(piece) else piece.replace(_SPACE, " ")
            text += shown
            owners += [number] * len(shown)
        return text, tuple(owners)

    @cached_property
    def words(self) -> tuple[tuple[str, int, int], ...]:
        """Each word with its first and last token."""
        text, owners = self._places
        letters = "".join("a" if _in_word(c) else c for c in text)  # \w leaves out marks, as of Devanagari's vowels
        found = re.finditer(r"a+(?:['\u2019-]a+)*", letters)
        return tuple((text[m.start() : m.end()], owners[m.start()], owners[m.end() - 1]) for m in found)

    def _span(self, start: int, end: int) -> tuple[int, int]:
        """First and last token of a part of the text, with the space that begins its first word where that is one."""
        owners = self._places[1]
        first = owners[start]
        return first - (first > 0 and self.pieces[first - 1] == _SPACE), owners[end - 1]

    @property
    def listed(self) -> str:
        """The words with their numbers, for messages."""
        shown = ", ".join(f"{n} {word}" for n, (word, *_) in enumerate(self.words[:60], 1))
        return shown + (", ..." if len(self.words) > 60 else "")

    def phrase(self, text: str) -> list[tuple[int, int]]:
        """First and last token of every place where the prompt has these words, whatever their case.

        Raises:
            TokensError: it has them nowhere; the message lists its words.
        """
        whole, _ = self._places
        pattern = r"\s+".join(map(re.escape, self.clean(text).split()))
        spans = [m.span(1) for m in re.finditer(f"(?=({pattern}))", whole, re.IGNORECASE)] if pattern else []
        found = [self._span(a, b) for a, b in spans if not (_joined(whole, a) or _joined(whole, b))]
        if not found:
            raise TokensError(f'The prompt does not have "{text}". Its words: {self.listed}.')
        return found

    def word(self, number: int) -> tuple[int, int]:
        """First and last token of a word, counted from 1.

        Raises:
            TokensError: there are fewer.
        """
        if not 1 <= number <= len(self.words):
            raise TokensError(f"There is no word {number}. Words of the prompt: {self.listed}.")
        return self.words[number - 1][1:]


def words_of(encoder: Any, prompt: str) -> Words:
    """The words of a prompt by its text encoder's own tokenizer.

    Args:
        encoder: a CLIP of ComfyUI, a WANTEXTENCODER of the wrapper, or a tokenizer of transformers.
        prompt: the text as the encoder gets it.

    Raises:
        TokensError: the encoder has no tokenizer that is known here.
    """
    if hasattr(encoder, "tokenize") and hasattr(encoder, "tokenizer"):
        found = _comfy_pieces(encoder, prompt)
    elif isinstance(encoder, dict) and hasattr(getattr(encoder.get("model"), "tokenizer", None), "tokenizer"):
        own = encoder["model"].tokenizer
        found = _pieces(own.tokenizer, getattr(own, "_clean", str)(_without_weights(prompt.strip())))
    elif callable(getattr(encoder, "convert_ids_to_tokens", None)):
        found = _pieces(encoder, " ".join(prompt.split()))
    else:
        raise TokensError(
            f"text_encoder: {type(encoder).__name__} has no tokenizer that is known here. Give the text "
            "encoder that encodes the prompt, or token numbers."
        )
    return Words(tuple(found))


def cleaned(prompt: str) -> str:
    """A prompt as diffusers' Wan pipelines encode it: without HTML entities and double spaces."""
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    return str(prompt_clean(prompt))


def tokens_of(pipeline: Any, tokens: str, prompt: str) -> Tokens | None:
    """What `tokens` says, in token numbers, by the tokenizer of a pipeline; None for all tokens."""
    if not tokens.strip():
        return None
    parsed = parse_tokens(tokens)
    if parsed.is_located:
        return parsed
    tokenizer = getattr(pipeline, "tokenizer", None)
    if not prompt or tokenizer is None:
        raise ValueError(
            f"tokens: {parsed} names words. Pass the pipeline with its tokenizer, and the text as `prompt`."
        )
    return parsed.located(replace(words_of(tokenizer, cleaned(prompt)), clean=cleaned))


def _without_weights(text: str) -> str:
    r"""What the wrapper leaves of `(words:1.2)`: as re.sub(r"\((.*?):([\d\.]+)\)", r"\1", text), in linear time."""
    out, at = "", 0
    while (start := text.find("(", at)) >= 0 and (end := _WEIGHT_END.search(text, start)):
        weighed = end[0] != "\n"
        out += text[at:start] + text[start + 1 : end.start()] if weighed else text[at : end.end()]
        at = end.end()
    return out + text[at:]


def _pieces(tokenizer: Any, text: str) -> list[str]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return list(tokenizer.convert_ids_to_tokens(ids))


def _comfy_pieces(clip: Any, text: str) -> list[str]:
    """Of the part of a CLIP whose tokens Wan reads; tokens that are embeddings have no text."""
    batches = clip.tokenize(text)
    name = "umt5xxl" if "umt5xxl" in batches else next(iter(batches))
    holder = clip.tokenizer
    # SD1Tokenizer, which Wan's is, keeps its part under `clip_NAME`, and says so in `clip`.
    part: Any = next((p for n in (getattr(holder, "clip", ""), name) if (p := getattr(holder, n, None))), holder)
    names: Callable[[Any], str] = lambda token: part.inv_vocab.get(token, "") if isinstance(token, int) else ""  # noqa: E731
    tokens = [token for batch in batches[name] for token, *_ in batch]
    while tokens and isinstance(tokens[-1], int) and tokens[-1] == part.pad_token:
        tokens.pop()
    if tokens and isinstance(tokens[-1], int) and tokens[-1] == part.end_token:
        tokens.pop()
    return [names(token) for token in tokens]


def check_count(words: Words, tokens: int) -> None:
    """Raise TokensError unless a prompt of `tokens` tokens, end token included, can be the one with these words."""
    if len(words.pieces) + 1 != tokens:
        raise TokensError(
            f"prompt: the text has {len(words.pieces) + 1} tokens with the end token, but text_embeds {tokens}. Give "
            "the text that text_embeds was encoded from, with the same text encoder."
        )

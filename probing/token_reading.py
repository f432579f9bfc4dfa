"""Which block reads which word, and where in the picture: a value, and the words' tokens."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..patching.plot import colour
from ..patching.views import ranges
from .intervals import Array
from .reader import PADDING, BlockReading

if TYPE_CHECKING:
    from PIL import Image

OTHER = "other tokens"


@dataclass(frozen=True, eq=False)
class TokenReading:
    """What blocks read of a prompt.

    Args:
        words: groups of tokens; `padding` is the last, and `other tokens` before it when words were chosen.
        tokens: token numbers per word, without the padding.
        share: [levels, blocks, words] signed parts of what cross-attention puts out; each block's sum is 1. NaN for
            blocks that were not read.
        maps: [levels, words, frames, height, width] the same split over the video's tokens, mean over blocks; a map's
            sum is the mean share.
        noise_levels: that were read.
        seed: of the clip.
        model_name, identity: of the model.
    """

    words: tuple[str, ...]
    tokens: Mapping[str, tuple[int, ...]]
    share: Array
    maps: Array
    noise_levels: tuple[float, ...]
    seed: int
    model_name: str = ""
    identity: str = ""

    def __post_init__(self) -> None:
        levels, words = len(self.noise_levels), len(self.words)
        if self.share.ndim != 3 or (len(self.share), self.share.shape[-1]) != (levels, words):
            raise ValueError(f"Token reading: share is {list(self.share.shape)}, not [{levels}, blocks, {words}].")
        if self.maps.ndim != 5 or self.maps.shape[:2] != (levels, words):
            raise ValueError(f"Token reading: maps are {list(self.maps.shape)}, not [{levels}, {words}, f, h, w].")

    @property
    def blocks(self) -> list[int]:
        """Blocks that were read."""
        return [int(i) for i in np.flatnonzero(~np.isnan(self.share[0, :, 0]))]

    def report(self) -> str:
        """A table blocks x words, mean over noise levels, with the mean over blocks at the end."""
        share = self.share.mean(axis=0)
        wide = max(8, *(min(len(word), 16) for word in self.words))
        levels = ", ".join(f"{x:.3g}" for x in self.noise_levels)
        lines = [
            f"{self.model_name}: share of each word in what cross-attention puts out; noise level {levels}, "
            f"seed {self.seed}",
            "",
            "block  " + "  ".join(f"{word[:16]:>{wide}}" for word in self.words),
            "  ".join(["-" * 5, *["-" * wide] * len(self.words)]),
        ]
        rows = [*((str(i), share[i]) for i in self.blocks), ("mean", np.nanmean(share, axis=0))]
        lines += [f"{name:>5}  " + "  ".join(f"{100 * x:>{wide - 1}.1f}%" for x in row) for name, row in rows]
        return "\n".join(lines)

    def video(self, word: str, size: tuple[int, int] | None = None) -> Array:
        """Where blocks read a word: uint8 [frames, height, width, 3], dark violet to yellow (the most of all frames).

        Args:
            word: one of `words`.
            size: height and width; 16 pixels per token when None.

        Raises:
            KeyError: there is no such word.
        """
        from PIL import Image

        if word not in self.words:
            raise KeyError(f"No word {word!r} was read. There are {', '.join(map(repr, self.words))}.")
        heat = self.maps[:, self.words.index(word)].mean(axis=0).clip(min=0)
        scaled = heat / (heat.max() or 1.0)
        height, width = size or (16 * heat.shape[1], 16 * heat.shape[2])
        palette = np.array([colour(i / 255) for i in range(256)], dtype=np.uint8)
        frames = [palette[(255 * frame).round().astype(np.uint8)] for frame in scaled]
        return np.stack(
            [np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BILINEAR)) for f in frames]
        )

    def plot(self) -> Image.Image:
        """The heat maps of all words in the middle frame, side by side, with their mean shares."""
        from PIL import Image, ImageDraw, ImageFont

        from ..patching.plot import BACKGROUND, TEXT

        tile, columns = 200, min(len(self.words), 5)
        rows = -(-len(self.words) // columns)
        image = Image.new("RGB", (columns * tile + 10, rows * (tile + 34) + 10), BACKGROUND)
        draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=14)
        mean = np.nanmean(self.share, axis=(0, 1))
        for n, word in enumerate(self.words):
            x, y = 10 + n % columns * tile, 10 + n // columns * (tile + 34)
            draw.text((x, y), f"{word[:18]}  {100 * mean[n]:.1f}%", font=font, fill=TEXT)
            frames = self.video(word, (tile - 10, tile - 10))
            image.paste(Image.fromarray(frames[len(frames) // 2]), (x, y + 22))
        return image

    def __repr__(self) -> str:
        words = ", ".join([*map(repr, self.words[:8]), *["..."] * (len(self.words) > 8)])
        levels = ", ".join(f"{level:.3g}" for level in self.noise_levels)
        return (
            f"<TokenReading of {self.model_name or 'a model'}: words {words}\n  noise levels {levels}, "
            f"blocks {ranges(self.blocks)}, seed {self.seed}; report() for the table>"
        )

    def _repr_html_(self) -> str:
        from .block_map import as_html

        return as_html(self.plot(), self.report())

    def to_plain(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """The reading as JSON values and named arrays; `from_plain` reads them."""
        values = {
            "token_reading": 1,
            "words": list(self.words),
            "tokens": {word: list(tokens) for word, tokens in self.tokens.items()},
            "noise_levels": list(self.noise_levels),
            "seed": self.seed,
            "model_name": self.model_name,
            "identity": self.identity,
        }
        return values, {"share": self.share, "maps": self.maps}

    @classmethod
    def from_plain(cls, values: Any, arrays: Mapping[str, Any]) -> TokenReading:
        """The reading that `to_plain` gave.

        Raises:
            ValueError: the values are not those of a reading.
        """
        if not isinstance(values, Mapping) or values.get("token_reading") != 1:
            raise ValueError("This is no token reading of format 1. Read the words again.")
        try:
            return cls(
                words=tuple(map(str, values["words"])),
                tokens={str(word): tuple(map(int, tokens)) for word, tokens in values["tokens"].items()},
                share=np.asarray(arrays["share"]),
                maps=np.asarray(arrays["maps"]),
                noise_levels=tuple(map(float, values["noise_levels"])),
                seed=int(values["seed"]),
                model_name=str(values["model_name"]),
                identity=str(values["identity"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"The values of this token reading are damaged: {error}. Read the words again.") from error


def collected_reading(
    found: Sequence[tuple[float, Mapping[int, BlockReading]]],
    groups: Mapping[str, Sequence[int]],
    block_count: int,
    **known: Any,
) -> TokenReading:
    """The reading of several calls.

    Args:
        found: noise level and readings by block, per call.
        groups: tokens by word, the padding included.
        known: `seed`, `model_name` and `identity`.
    """
    share = np.full((len(found), block_count, len(groups)), np.nan)
    for level, (_, readings) in enumerate(found):
        for index, reading in readings.items():
            share[level, index] = reading.shares.numpy()
    maps = np.stack([np.mean([r.maps.numpy() for r in readings.values()], axis=0) for _, readings in found])
    tokens = {word: tuple(numbers) for word, numbers in groups.items() if numbers}
    return TokenReading(tuple(groups), tokens, share, maps, tuple(sigma for sigma, _ in found), **known)


def word_tokens(
    words: Sequence[str] | Mapping[str, Sequence[int]] | None,
    prompt: str | None,
    offsets: Sequence[tuple[int, int]] | None,
    count: int,
    clean: Callable[[str], str] = str.strip,
) -> dict[str, list[int]]:
    """Token numbers per word, and those of no word under `other tokens`.

    Args:
        words: words or phrases of the prompt; token numbers by name; None for every word of the prompt, or every token
            where the tokenizer does not say which word a token is of.
        prompt: the text, when it is known.
        offsets: first and last character of each token in it, of a tokenizer that tells them; (0, 0) for special ones.
        count: tokens of the prompt before the padding.
        clean: what makes the words look as in the prompt.

    Raises:
        ValueError: a word that the prompt does not have, tokens out of range, or a word that needs offsets.
    """
    found: dict[str, list[int]] = {}
    if isinstance(words, Mapping):
        for word, tokens in words.items():
            found[str(word)] = numbers = [int(token) for token in tokens]
            if not numbers or min(numbers) < 0 or max(numbers) >= count:
                raise ValueError(f"words: {word!r} is tokens {numbers}, but the prompt has {count} (0 to {count - 1}).")
    elif prompt is None or offsets is None:
        if words is not None:
            raise ValueError(
                f"words: {', '.join(words)} were asked for, but which tokens they are is not known here. Give token "
                f'numbers, as in {{"{next(iter(words), "red")}": [1]}}; the prompt has tokens 0 to {count - 1}.'
            )
        found = {f"token {token}": [token] for token in range(count)}
    else:
        for name, start, end in _each_word(prompt) if words is None else _asked(prompt, words, clean):
            inside = [t for t, (a, b) in enumerate(offsets[:count]) if a < b and a < end and b > start]
            if name not in found and inside:
                found[name] = inside
    if reserved := found.keys() & {PADDING, OTHER}:
        raise ValueError(f"words: {min(reserved)!r} is a row of every reading. Give those tokens another name.")
    rest = sorted(set(range(count)) - {token for tokens in found.values() for token in tokens})
    return {**found, OTHER: rest} if rest else found


def _each_word(prompt: str) -> list[tuple[str, int, int]]:
    """Every word of a prompt: its name, `red (2)` for the second time, and where it begins and ends."""
    return _numbered((m[0], m) for m in re.finditer(r"\w[\w'-]*", prompt))


def _asked(prompt: str, words: Sequence[str], clean: Callable[[str], str]) -> list[tuple[str, int, int]]:
    """The same for words or phrases, in whichever case they stand in the prompt.

    Raises:
        ValueError: one is not there.
    """
    found = []
    for word in words:
        places = list(re.finditer(rf"(?<!\w){re.escape(clean(word))}(?!\w)", prompt, re.IGNORECASE))
        if not places or not clean(word):
            raise ValueError(f"words: {word!r} is not in the prompt {prompt!r}. Write it as it stands there.")
        found += _numbered((word, place) for place in places)
    return found


def _numbered(places: Iterable[tuple[str, re.Match[str]]]) -> list[tuple[str, int, int]]:
    seen: Counter[str] = Counter()
    named = []
    for word, place in places:
        seen[word] += 1
        name = f'"{word}"' if word in (PADDING, OTHER) else word
        named.append((name if seen[word] == 1 else f"{name} ({seen[word]})", place.start(), place.end()))
    return named

"""The node that reads words: WanVideo Token Reading."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io

from ..embeddings.text_embeds import read_text_embeds
from ..patching.fingerprint import known_identity
from ..patching.grid import Size
from ..patching.hosts import host_of
from ..patching.selection import check_length, parse_selection
from ..patching.sources import check_width
from ..probing.hosted import hosted_reading
from ..probing.token_reading import TokenReading
from ..storage.text import shown
from .measured_cache import CACHE
from .probing_inputs import (
    LEVELS_TOOLTIP,
    blocks_input,
    cache_key,
    check_levels,
    content_of,
    parse_levels,
    progress,
    size_inputs,
    use_cache_input,
)
from .sockets import CATEGORY, check_texts, embeds_input, errors_named, model_input, refusal, shown_schema

PIXELS = 1 << 22
"""Of one frame of the heat map, about 2048 x 2048."""
_NUMBERS = re.compile(r"([0-9]{1,4})\s*(?:-\s*([0-9]{1,4}))?")


class WanVideoTokenReading(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return shown_schema(
            node_id="WanVideoTokenReading",
            display_name="WanVideo Token Reading",
            category=f"{CATEGORY}/Probing",
            description="Measures which block reads which part of the prompt, and where in the video.",
            inputs=[
                model_input("The model, as the sampler gets it. Edits on it are left out."),
                embeds_input("text_embeds", "The prompt."),
                io.String.Input(
                    "words",
                    default="each",
                    tooltip="each: every token. Or names with their token numbers, as in red: 1, the sea: 6-7.",
                ),
                io.String.Input("noise_levels", default="0.6", tooltip=LEVELS_TOOLTIP),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=False,
                    tooltip="Seed of the noise.",
                ),
                blocks_input(),
                *size_inputs(),
                use_cache_input(),
            ],
            outputs=[
                io.Image.Output(id="heat_map", display_name="heat_map"),
                io.String.Output(id="report", display_name="report"),
            ],
        )

    @classmethod
    def validate_inputs(cls, words: Any = None, block_activations: Any = None, noise_levels: Any = None) -> bool | str:
        for checked in (check_texts(block_activations), check_levels(noise_levels)):
            if checked is not True:
                return checked
        try:
            parse_words(words) if isinstance(words, str) else None
        except ValueError as error:
            return refusal(error)
        return True

    @classmethod
    def execute(
        cls,
        model: Any,
        text_embeds: Any,
        words: str,
        noise_levels: str,
        seed: int,
        block_activations: str,
        image_embeds: Any = None,
        width: int = 832,
        height: int = 480,
        num_frames: int = 81,
        use_cache: bool = True,
    ) -> io.NodeOutput:
        with errors_named("WanVideo Token Reading"):
            host = host_of(model)
            wan_model = host.wan_model(model)
            host.check_embeds(text_embeds)
            prompt = read_text_embeds(text_embeds, "text_embeds", host.MAX_PROMPT_TOKENS)
            check_width(prompt, wan_model, "text_embeds is")
            blocks = parse_selection(block_activations).active_blocks(wan_model.block_count)
            if not blocks:
                raise ValueError("block_activations selects no block, so there is nothing to read.")
            levels, named = parse_levels(noise_levels), parse_words(words)
            settings = {"levels": levels, "seed": seed, "size": (width, height, num_frames), "words": named}
            identity = known_identity(host, model)
            key = cache_key(
                "reading", identity, (content_of(text_embeds), image_embeds), {**settings, "blocks": blocks}
            )
            found = CACHE.get(key) if use_cache and key else None
            if found is None:
                found = hosted_reading(
                    model,
                    text_embeds,
                    prompt,
                    named,
                    levels,
                    seed,
                    blocks,
                    size=Size(width, height, num_frames),
                    image_embeds=image_embeds,
                    identity=identity,
                    progress=progress(),
                )
                if use_cache and key:
                    CACHE.put(key, found)
        report = found.report()
        return io.NodeOutput(heat_frames(found), report, ui={"text": (report,)})


def heat_frames(found: TokenReading) -> torch.Tensor:
    """The heat videos of all words below each other, the padding's last, each with its word: [frames, height, width, 3]
    from 0 to 1. A token of the video is 16 pixels wide, fewer where a frame would have more than PIXELS.
    """
    height, width = found.maps.shape[-2:]
    side = min(16, max(1, math.isqrt(PIXELS // (len(found.words) * height * width))))
    videos = [_labelled(found.video(word, (side * height, side * width)), word) for word in found.words]
    return torch.from_numpy(np.concatenate(videos, axis=1)).float().div_(255)


def _labelled(video: Any, word: str) -> Any:
    """The video with its word, of which 40 characters are drawn."""
    from PIL import Image, ImageDraw, ImageFont

    frames, font = [Image.fromarray(frame) for frame in video], ImageFont.load_default(size=12)
    for frame in frames:
        ImageDraw.Draw(frame).text((3, 1), word[:40], "white", font, stroke_width=1, stroke_fill="black")
    return np.stack([np.asarray(frame) for frame in frames])


def parse_words(text: str) -> dict[str, list[int]] | None:
    """`each` (None), or names with token numbers: `red: 1, the sea: 6-7`.

    Raises:
        ValueError: something else.
    """
    check_length("words", text, ValueError)
    if text.strip() in ("", "each"):
        return None
    found: dict[str, list[int]] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, numbers = (piece.strip() for piece in part.rpartition(":"))
        match = _NUMBERS.fullmatch(numbers)
        if not name or match is None:
            raise ValueError(
                f"words: {shown(part)} has no token numbers. ComfyUI's embeddings do not say which tokens a word "
                "has: write each, or names with numbers as in red: 1, the sea: 6-7."
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"words: {shown(part)} runs backwards; write {last}-{first}.")
        found.setdefault(name, []).extend(range(first, last + 1))
    return found


NODES = [WanVideoTokenReading]

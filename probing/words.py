"""Readings of words in diffusers pipelines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..embeddings.text_embeds import read_text_embeds
from ..patching.arguments import Blocks, chosen_blocks
from ..patching.hosts.diffusers_checks import check_whole
from ..patching.wan_model import discover
from ..patching.words import cleaned
from .pipeline_calls import Due, Pipeline, Stop, checked_levels, latents_of
from .pipelines import Progress
from .reader import PADDING, BlockReading, DueReading, WordReader, reading_calls
from .token_reading import TokenReading, collected_reading, word_tokens


def read_words(
    pipe: Any,
    prompt: Any,
    words: Sequence[str] | Mapping[str, Sequence[int]] | None = None,
    noise_levels: Sequence[float] = (0.6,),
    seed: int = 0,
    *,
    blocks: Blocks = "all",
    progress: Progress = lambda done, total: None,
    **call: Any,
) -> TokenReading:
    """Measure which block reads which word of the prompt, and where in the video, while the pipeline samples it.

        found = read_words(pipe, "a red circle on the sea", words=["red", "the sea"])
        found.video("red")

    Args:
        pipe: a diffusers Wan pipeline.
        prompt: a string, or embeddings [1, tokens, 4096] as `pipe.encode_prompt` gives them, with zeros for padding.
        words: words or phrases of the prompt; every word when None. With embeddings, token numbers by name, as in
            {"red": [1]}; every token when None.
        noise_levels: 1 (only noise) to 0; each is read at the step nearest to it.
        seed: of the noise that the clip starts from.
        blocks: which are read: a selection, a block or several ([1, 2]).
        progress: see `Progress`.
        call: further arguments of the pipeline.

    Raises:
        ValueError: inputs that do not fit; a word that the prompt does not have; overlapping words; context parallelism
            is on.
        RuntimeError: an `inject` is open on the transformer.
    """
    levels = checked_levels(noise_levels)
    pipeline = Pipeline(pipe, call)
    check_whole(pipeline.models[0].module, "read_words")
    text = pipeline.encode(prompt, "prompt")
    count = read_text_embeds(text, "prompt").prompts[0].shape[0]
    written = cleaned(prompt) if isinstance(prompt, str) else None
    groups = word_tokens(words, written, _offsets(pipe, written), count, cleaned)
    chosen = chosen_blocks(blocks).active_blocks(pipeline.models[0].block_count)
    if not chosen:
        raise ValueError("No block is selected, so there is nothing to read.")
    due = Due(pipeline, levels, text, other_text=False)
    found: dict[float, tuple[float, dict[int, BlockReading]]] = {}
    total = len(levels) * len(chosen)
    readers = {
        m.module: WordReader(m, groups, chosen, lambda n: progress(len(found) * len(chosen) + n, total))
        for m in pipeline.models
    }

    def call_of(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DueReading | None:
        at = due.level(args, kwargs)
        return None if at is None else DueReading(*at, readers[module], discover(module).grid(latents_of(args, kwargs)))

    def done(level: float, sigma: float, readings: dict[int, BlockReading]) -> None:
        found[level] = (sigma, readings)
        if due.done(level):
            raise Stop

    with pipeline.stoppable(inside=True), reading_calls([m.module for m in pipeline.models], call_of, done):
        pipeline.sample(text, seed)
    due.check_all()
    return collected_reading(
        [found[level] for level in levels],
        {**groups, PADDING: []},
        pipeline.models[0].block_count,
        seed=seed,
        model_name=pipeline.models[0].name,
        identity=pipeline.identity(),
    )


def _offsets(pipe: Any, prompt: str | None) -> list[tuple[int, int]] | None:
    """First and last character of each token, as the pipeline's tokenizer gives them; None when it does not."""
    tokenizer: Any = getattr(pipe, "tokenizer", None)
    if prompt is None or not getattr(tokenizer, "is_fast", False):
        return None
    tokens = tokenizer(prompt, add_special_tokens=True, return_offsets_mapping=True)
    return [(int(first), int(last)) for first, last in tokens["offset_mapping"]]

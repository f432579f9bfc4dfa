"""A block map says beforehand what injections do to the clip: pairs drawn at random, read by measuring pixels."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch
import wanvideo_activation_editor as wae
from wanvideo_activation_editor import tiny_wan
from wanvideo_activation_editor.probing.intervals import bootstrap_interval, rank_correlation
from wanvideo_activation_editor.tiny_wan.data import NAMES

pytestmark = pytest.mark.skipif(
    not os.environ.get("WAN_LONG_TESTS"), reason="samples for a quarter of an hour; set WAN_LONG_TESTS=1"
)


KINDS = list(NAMES)
SEEDS = (0, 1, 2, 3)
BLOCKS = 10


class Pair:
    """Two captions that differ in one attribute, what each block alone does to it, and the map."""

    def __init__(self, pipe, first: list[str], second: list[str], kind: str) -> None:
        self.kind, self.name = kind, f"{_caption(first)} -> {second[KINDS.index(kind)]}"
        self._pipe, self._first, self._second = pipe, _caption(first), _caption(second)
        self.start, self.end = self._latents(self._first), self._latents(self._second)
        self.readings = [self._read(self.start), self._read(self.end)]
        self.shown = all(
            [clip[k].name for k in KINDS] == wanted
            for clips, wanted in zip(self.readings, (first, second), strict=True)
            for clip in clips
        )

    def measure(self) -> Pair:
        """Sample with each block alone; measure the map."""
        self.moved, self.change = np.zeros((2, len(SEEDS), BLOCKS))
        for index in range(BLOCKS):
            with wae.inject(self._pipe, tiny_wan.encode(self._second), blocks=str(index)):
                latents = self._latents(self._first)
            for seed, clip in enumerate(self._read(latents)):
                self.moved[seed, index] = self._far(clip, seed)
                self.change[seed, index] = wae.relative_l2(self.start[seed], latents[seed])
        texts = (tiny_wan.encode(text) for text in (self._first, self._second))
        self.map = wae.block_map(
            self._pipe, *texts, seeds=SEEDS, negative_prompt_embeds=tiny_wan.encode(""), **tiny_wan.CALL
        )
        return self

    def _latents(self, caption: str) -> torch.Tensor:
        return self._pipe(
            prompt_embeds=tiny_wan.encode(caption).repeat(len(SEEDS), 1, 1),
            negative_prompt_embeds=tiny_wan.encode("").repeat(len(SEEDS), 1, 1),
            generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
            output_type="latent",
            **tiny_wan.CALL,
        ).frames

    @staticmethod
    def _read(latents: torch.Tensor):
        return [tiny_wan.read(tiny_wan.decode(one[None])) for one in latents]

    def _far(self, clip, seed: int) -> float:
        """How far the attribute has gone, from 0 to 1; of a shape, how far its distances from the two names have."""
        start, end, kind = self.readings[0][seed], self.readings[1][seed], self.kind
        if kind != "shape":
            return tiny_wan.moved(clip, start, end)[kind]

        def nearer(reading) -> float:
            return reading[kind].distances[start[kind].name] - reading[kind].distances[end[kind].name]

        return (nearer(clip) - nearer(start)) / (nearer(end) - nearer(start))


def _caption(attributes: list[str]) -> str:
    return "a " + " ".join(attributes)


@pytest.fixture(scope="module")
def pairs(studio) -> list[Pair]:
    """Ten pairs in turn of each attribute, of those whose plain clips show what the captions say."""
    draw, found = random.Random(18), []
    while len(found) < 10:
        kind = KINDS[len(found) % 4]
        first = [draw.choice(list(NAMES[k])) for k in KINDS]
        second = list(first)
        while second == first:
            second[KINDS.index(kind)] = draw.choice(list(NAMES[kind]))
        pair = Pair(studio.pipe, first, second, kind)
        if pair.shown:
            found.append(pair.measure())
    return found


def test_the_top_block_is_one_that_moves_the_attribute_most_in_9_of_10_pairs(pairs):
    """At least 95 % as far as the farthest: two blocks that move it alike change places with the seeds."""
    found = {}
    for pair in pairs:
        moved = pair.moved.mean(axis=0)
        found[pair.name] = moved[pair.map.order()[0]] / moved.max()
    assert sum(ratio >= 0.95 for ratio in found.values()) >= 9, found


def test_effects_rank_blocks_as_their_change_of_the_finished_latents_does(pairs):
    found = [rank_correlation(pair.map.effect.mean(axis=0), pair.change.mean(axis=0)) for pair in pairs]
    assert np.mean(found) >= 0.9 and min(found) >= 0.8, found


def test_shares_rank_blocks_better_than_chance_by_far(pairs):
    """A map that says nothing has rank correlations around 0."""
    found = [rank_correlation(pair.map.share.mean(axis=0), pair.moved.mean(axis=0)) for pair in pairs]
    assert np.mean(found) > 0.6, found


def test_intervals_of_20_repeats_with_other_seeds_cover_the_mean(studio):
    """20 maps of 4 seeds each; the mean is that of all 80."""
    first, second = "a blue circle moving left at night", "a blue star moving right on the sea"
    found = wae.block_map(
        studio.pipe,
        tiny_wan.encode(first),
        tiny_wan.encode(second),
        (0.9,),
        80,
        **{**tiny_wan.CALL, "guidance_scale": 1.0},
    )
    for quantity in ("share", "effect", "motion"):
        samples = found.samples[quantity][:, 0]
        mean, repeats = samples.mean(axis=0), samples.reshape(20, 4, BLOCKS)
        ends = np.stack([bootstrap_interval(repeat) for repeat in repeats], axis=1)
        covered = (ends[0] <= mean) & (mean <= ends[1])
        assert covered.mean() >= 0.9, (quantity, covered.mean(axis=0))
        # Intervals that cover because they are wide would say nothing.
        assert np.median(ends[1] - ends[0]) < 6 * samples.std(axis=0).mean()

"""Control vectors on the tiny model: what they move, what they leave, and by how much.

Roles of blocks and strengths are those of this file of weights. The figures of docs/guides/control-vectors.md are those
of the long tests (WAN_LONG_TESTS=1), on 20 captions that took no part in fitting.
"""

from __future__ import annotations

import dataclasses
import os
import random
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from wanvideo_activation_editor import tiny_wan
from wanvideo_activation_editor.tiny_wan.codec import load_codec
from wanvideo_activation_editor.tiny_wan.data import HELD_OUT, NAMES, caption, draw, render
from wanvideo_activation_editor.tiny_wan.measure import noise
from wanvideo_activation_editor.tiny_wan.readouts import measure
from wanvideo_activation_editor.tiny_wan.wan_pipeline import CODEC
from wanvideo_activation_editor.vectors.applying import steer
from wanvideo_activation_editor.vectors.pairs import real_rows
from wanvideo_activation_editor.vectors.pipelines import calibrate, control_vector
from wanvideo_activation_editor.vectors.training import learn_tokens, padded

LONG = pytest.mark.skipif(not os.environ.get("WAN_LONG_TESTS"), reason="samples for minutes; set WAN_LONG_TESTS=1")
CALL = {name: tiny_wan.CALL[name] for name in ("height", "width", "num_frames")}
ENDS = {  # positive, negative
    "colour": ("blue", "red"),
    "shape": ("square", "circle"),
    "background": ("on the sea", "at night"),
    "motion": ("moving right", "moving left"),
}
# Site, operation, strength and blocks of each. Motion is no matter of one direction for all tokens of the video.
STEERED = {
    "colour": ("attention", "add", 2.0, "all"),
    "shape": ("attention", "add", 3.0, "all"),
    "background": ("attention", "set_point", 1.0, "all"),
    "motion": ("context", "add", 1.4, "2-3"),
}


def pairs(kind: str, count: int, seed: int) -> list[tuple[str, str]]:
    """Captions of trained combinations that differ in one attribute."""
    rng, found = random.Random(seed), []
    while len(found) < count:
        rest = {other: rng.choice(NAMES[other]) for other in NAMES if other != kind}
        ends = [{**rest, kind: name} for name in ENDS[kind]]
        pair = tuple(caption(**end) for end in ends)
        if pair not in found and all((end["colour"], end["shape"]) not in HELD_OUT for end in ends):
            found.append(pair)
    return found


class Clips:
    """Samples many captions at once, with one noise each, and reads them."""

    def __init__(self, pipe, kind: str, count: int) -> None:
        self.pipe, self.kind = pipe, kind
        self.column, self.codec = list(NAMES).index(kind), load_codec(CODEC)
        fitted = pairs(kind, 16, seed=1)
        apart = [pair for pair in pairs(kind, count + 16, seed=77) if pair not in fitted][:count]
        self.positive, self.negative = zip(*apart, strict=True)
        self.fitted = [tuple(map(tiny_wan.encode, pair)) for pair in fitted]

    @torch.no_grad()
    def read(self, captions, context=None):
        embeds = torch.cat([tiny_wan.encode(text) if isinstance(text, str) else text for text in captions])
        with context or nullcontext():
            latents = self.pipe(
                prompt_embeds=embeds,
                negative_prompt_embeds=tiny_wan.encode("").expand(len(embeds), -1, -1),
                latents=noise(list(range(len(embeds)))),
                output_type="latent",
                **tiny_wan.CALL,
            ).frames
        return measure(self.codec.decode(latents))

    def fit(self, site: str):
        return control_vector(self.pipe, self.fitted, site=site, levels=8, **({} if site == "context" else CALL))

    def share(self, found, name: str) -> float:
        """Part of the clips that show a name."""
        return float((found.names()[:, self.column] == NAMES[self.kind].index(name)).float().mean())

    def distance(self, found, name: str) -> float:
        return float(found.distances[self.kind][:, NAMES[self.kind].index(name)].mean())

    def kept(self, found, plain) -> list[float]:
        """Part of the clips whose other attributes are those of the plain ones, for each."""
        same = (found.names() == plain.names()).float().mean(0)
        return [float(x) for n, x in enumerate(same) if n != self.column]


def test_a_colour_is_moved_and_the_rest_left(studio):
    clips = Clips(studio.pipe, "colour", 4)
    vector, plain = clips.fit("attention"), clips.read(clips.negative)
    found = clips.read(clips.negative, steer(studio.pipe, vector, 2.0))
    assert clips.share(plain, "blue") == 0 and clips.share(found, "blue") == 1
    assert min(clips.kept(found, plain)) == 1
    back = clips.read(clips.positive, steer(studio.pipe, vector, -1.0, "set_point"))
    assert clips.share(back, "red") == 1


def test_separability_says_where_the_motion_is(studio):
    """Blocks 2 and 3, as test_effects.py finds by injecting."""
    clips = Clips(studio.pipe, "motion", 1)
    vector = clips.fit("attention")
    ranked = vector.separability.argsort(descending=True).tolist()
    assert set(ranked[:2]) == {2, 3}
    assert vector.separability[ranked[1]] > 0.95 > 0.9 > vector.separability[ranked[2]]


@LONG
@pytest.mark.parametrize("kind", ENDS)
def test_each_attribute_is_moved_in_90_percent_and_the_others_are_left(studio, kind):
    clips = Clips(studio.pipe, kind, 20)
    site, operation, strength, blocks = STEERED[kind]
    vector, plain = clips.fit(site), clips.read(clips.negative)
    found = clips.read(clips.negative, steer(studio.pipe, vector, strength, operation, blocks=blocks))
    moved, kept = clips.share(found, ENDS[kind][0]), clips.kept(found, plain)
    print(kind, site, operation, strength, blocks, "moved", moved, "kept", kept)  # noqa: T201
    assert clips.share(plain, ENDS[kind][1]) >= 0.9
    assert moved >= 0.9 and min(kept) >= 0.9


@LONG
def test_ablation_negative_strength_and_a_random_direction(studio):
    clips = Clips(studio.pipe, "colour", 20)
    pipe, vector = studio.pipe, clips.fit("attention")
    red, blue = clips.read(clips.negative), clips.read(clips.positive)
    # In the text, at the word itself, all of the concept is removed, and the neutral prompts' colour is what is left.
    ablated = clips.read(clips.positive, steer(pipe, clips.fit("context"), 1.0, "ablate", tokens="1"))
    print("ablated, text: red", clips.share(ablated, "red"), "kept", clips.kept(ablated, blue))  # noqa: T201
    assert clips.share(ablated, "red") >= 0.9 and min(clips.kept(ablated, blue)) >= 0.9
    assert abs(clips.distance(ablated, "red") - clips.distance(red, "red")) < 0.1
    # At cross-attention the neutral level is a mean over all tokens, those of the shape and others: half of the way.
    ablated = clips.read(clips.positive, steer(pipe, vector, 1.0, "ablate", one_sided=False))
    ends = [clips.distance(ablated, name) for name in ("red", "blue")]
    print("ablated, attention: to red, to blue", ends, "blue", clips.share(ablated, "blue"))  # noqa: T201
    assert clips.share(ablated, "blue") <= 0.2 and ends[1] > 0.4 and min(clips.kept(ablated, blue)) >= 0.9
    for sign, captions, end in ((1.0, clips.negative, "blue"), (-1.0, clips.positive, "red")):
        found = clips.read(captions, steer(pipe, vector, sign, "set_point"))
        print("set_point", sign, end, clips.share(found, end))  # noqa: T201
        assert clips.share(found, end) >= 0.8
    drawn = torch.randn(vector.directions.shape, generator=torch.Generator().manual_seed(0))
    other = dataclasses.replace(vector, directions=torch.nn.functional.normalize(drawn, dim=-1))
    found = clips.read(clips.negative, steer(pipe, other, 2.0))
    print("random", clips.share(found, "blue"), clips.distance(found, "red"), clips.distance(red, "red"))  # noqa: T201
    assert clips.share(found, "red") == clips.share(red, "red") and min(clips.kept(found, red)) >= 0.95
    assert abs(clips.distance(found, "red") - clips.distance(red, "red")) < 0.1


def area(points: list[tuple[float, float]], cutoff: float = 0.1) -> float:
    """Area under the best alignment that is reached at a loss of preservation, up to a cutoff, in 0..1."""
    total, ends = 0.0, sorted({0.0, cutoff, *(loss for loss, _ in points if loss < cutoff)})
    for low, high in pairwise(ends):
        total += (high - low) * max([moved for loss, moved in points if loss <= low], default=0.0)
    return total / cutoff


@LONG
@pytest.mark.parametrize("kind", ENDS)
def test_alignment_against_preservation_beats_the_embedding_difference(studio, kind):
    """The baseline: the mean difference of embeddings, added to every token of the prompt, for all blocks."""
    clips = Clips(studio.pipe, kind, 12)
    site, operation, strength, blocks = STEERED[kind]
    plain = clips.read(clips.negative)

    def curve(vector, operation, strengths, blocks):
        points = []
        for value in strengths:
            found = clips.read(clips.negative, steer(studio.pipe, vector, value, operation, blocks=blocks))
            kept = clips.kept(found, plain)
            points.append((1 - sum(kept) / len(kept), clips.share(found, ENDS[kind][0])))
        return points

    base = curve(clips.fit("context"), "add", (0.3, 0.6, 0.9, 1.2, 1.5), "all")
    ours = curve(clips.fit(site), operation, [strength * x for x in (0.25, 0.5, 0.75, 1.0, 1.25)], blocks)
    print(kind, "area: ours", area(ours), "embedding difference", area(base), ours, base)  # noqa: T201
    assert area(ours) > area(base)


@LONG
def test_calibrated_levels_change_the_video_by_even_steps(studio):
    clips = Clips(studio.pipe, "colour", 1)
    vector = clips.fit("attention")
    call = {**tiny_wan.CALL, "negative_prompt_embeds": tiny_wan.encode("")}
    found = calibrate(studio.pipe, tiny_wan.encode(clips.negative[0]), vector, levels=4, limit=0.4, seeds=2, **call)
    print(found.report())  # noqa: T201
    assert len(found.measured) <= 10 and found.monotone


@LONG
def test_tokens_learned_from_16_clips_bring_back_an_attribute_that_no_word_names(studio):
    """Orange clips with captions that say no colour."""
    generator, codec = torch.Generator().manual_seed(3), load_codec(CODEC)
    column, orange = list(NAMES).index("colour"), NAMES["colour"].index("orange")

    def unnamed(row):
        return caption(**{k: NAMES[k][int(n)] for k, n in zip(NAMES, row, strict=True) if k != "colour"})

    drawn = draw(400, generator)
    rows = drawn[drawn[:, column] == orange][:16]
    clips = torch.cat([codec.encode(render(row[None], generator)) for row in rows])
    learned = learn_tokens(studio.pipe, clips, [tiny_wan.encode(unnamed(row)) for row in rows], 8, steps=100, batch=4,
                           rate=0.1)  # fmt: skip
    asked = draw(20, torch.Generator().manual_seed(9))
    reader = Clips(studio.pipe, "colour", 1)
    prompts = [tiny_wan.encode(unnamed(row)) for row in asked]
    longer = [padded(learned.added_to(real_rows(prompt)))[None] for prompt in prompts]
    plain, found = reader.read(prompts), reader.read(longer)
    print("orange", reader.share(plain, "orange"), reader.share(found, "orange"), "error", learned.error)  # noqa: T201
    assert learned.error < 1 and reader.share(plain, "orange") < 0.5
    assert reader.share(found, "orange") >= 0.8
    for other in set(range(4)) - {column}:
        assert (found.names()[:, other] == asked[:, other]).float().mean() >= 0.9

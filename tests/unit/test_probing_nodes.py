"""The nodes that measure: their texts, their cache, and what the viewer makes of a map."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from wanvideo_activation_editor.nodes.measured_cache import MeasuredCache
from wanvideo_activation_editor.nodes.probing import WanVideoBlockMap, WanVideoBlockMapViewer, stored_form
from wanvideo_activation_editor.nodes.probing_inputs import cache_key, parse_levels
from wanvideo_activation_editor.nodes.token_reading import parse_words
from wanvideo_activation_editor.probing.block_map import PER_BLOCK, PER_CALL, BlockMap
from wanvideo_activation_editor.probing.hosted import schedule


def made(blocks: int = 40, seeds: int = 3) -> BlockMap:
    """A map whose largest shares are those of blocks 7, 20 and 3; block 39 was not measured."""
    rng = np.random.default_rng(0)
    samples = {name: rng.normal(0.01, 0.002, (seeds, 2, blocks)) for name in PER_BLOCK}
    for block, share in ((7, 0.5), (20, 0.3), (3, 0.1)):
        samples["share"][..., block] += share
    for name in PER_BLOCK:
        samples[name][..., 39] = np.nan
    samples |= {name: rng.normal(0.01, 0.002, (seeds, 2)) for name in PER_CALL}
    return BlockMap(samples, (0.8, 0.4), tuple(range(seeds)), model_name="Wan")


def test_the_viewer_gives_the_top_blocks_their_strength_and_the_page_its_numbers():
    image, report, strengths = WanVideoBlockMapViewer.execute(made(), "share", 2, 0.6).args
    assert {i: s for i, s in enumerate(strengths.resolve(40)) if s} == {7: 0.6, 20: 0.6}
    assert image.dim() == 4 and image.shape[-1] == 3 and 0 <= float(image.min()) < float(image.max()) <= 1
    rows = [line.split()[0] for line in report.splitlines() if line.strip()[:1].isdigit()]
    assert rows == ["7", "20"]
    assert "random direction" in report and "random blocks" in report
    shown = json.loads(WanVideoBlockMapViewer.execute(made(), "effect", 2, 0.6).ui["block_map"][0])
    assert shown["quantity"] == "effect" and shown["levels"] == [0.8, 0.4]
    assert shown["values"][0][39] is None and shown["values"][1][0] == pytest.approx(made().effect[1, 0], abs=1e-5)
    assert shown["low"][0][5] < shown["values"][0][5] < shown["high"][0][5]
    assert WanVideoBlockMapViewer.execute(made(), "share", 0, 1.0).args[2].active_blocks(40) == []


def test_the_viewer_refuses_another_value():
    with pytest.raises(TypeError, match=r"WanVideo Block Map Viewer: block_map: expected BLOCK_MAP"):
        WanVideoBlockMapViewer.execute({}, "share", 2, 0.6)


def test_a_map_can_be_stored():
    values = stored_form(made())
    assert values["samples"]["share"].shape == (3, 2, 40)
    again = BlockMap.from_plain({**values, "samples": {k: v.tolist() for k, v in values["samples"].items()}})
    assert np.allclose(again.share, made().share, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("text", ["", "high", "0.8; 0.4", "0, 0.5", "1.2", "0.5, 0.5"])
def test_noise_levels_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="noise_levels"):
        parse_levels(text)
    assert "noise_levels" in str(WanVideoBlockMap.validate_inputs(block_activations="all", noise_levels=text))
    assert WanVideoBlockMap.validate_inputs(block_activations="all", noise_levels="0.8, 0.4") is True


def test_words_are_read_with_their_tokens():
    assert parse_words("each") is parse_words(" ") is None
    assert parse_words("red: 1, the sea: 6-7, red: 9") == {"red": [1, 9], "the sea": [6, 7]}
    with pytest.raises(ValueError, match="'red' has no token numbers"):
        parse_words("red, blue: 2")


@pytest.mark.parametrize("levels", [[0.8, 0.6, 0.4], [1.0], [0.05], [0.97, 0.96], [0.999, 0.3]])
@pytest.mark.parametrize("finish", [True, False])
def test_a_schedule_falls_from_1_to_0_and_meets_its_levels(levels, finish):
    sigmas = schedule(levels, finish=finish)
    assert sigmas[0] == 1.0 and sigmas[-1] == 0.0
    assert all(a > b for a, b in itertools.pairwise(sigmas))
    assert set(levels) <= set(sigmas)
    assert finish or sigmas[-2] == min(levels)


def test_levels_too_close_to_tell_apart_are_refused():
    with pytest.raises(ValueError, match="too close"):
        schedule([0.5, 0.501])


def test_the_cache_keeps_the_most_recent_and_a_key_is_by_content():
    cache = MeasuredCache(2)
    for key in ("a", "b"):
        cache.put(key, key)
    assert cache.get("a") == "a"
    cache.put("c", "c")
    assert cache.get("b") is None and cache.get("a") == "a" and cache.get("c") == "c"
    key = cache_key("map", "model", [1], {"seed": 0})
    assert key == cache_key("map", "model", [1], {"seed": 0})
    others = [("map", "model", [2], {"seed": 0}), ("map", "m", [1], {"seed": 0}), ("map", "model", [1], {"seed": 1})]
    assert key not in {cache_key(*other) for other in others}
    assert cache_key("map", "", [1], {}) == "" == cache_key("map", "model", [print], {})

"""The words that people search nodes by: in the definitions where ComfyUI knows the field."""

from __future__ import annotations

import json

import pytest

from .server import REPOSITORY
from .workflows import NativeHost

WORDS = json.loads((REPOSITORY / "web" / "js" / "search_words.json").read_text(encoding="utf-8"))


def test_every_word_is_of_a_node_of_the_pack_and_no_two_nodes_share_one(native: NativeHost):
    known = native.server.call("/object_info")
    assert WORDS.keys() <= known.keys()
    words = [word for of_node in WORDS.values() for word in of_node]
    assert len(words) == len(set(words)) > 100


def test_the_definitions_hold_the_words(native: NativeHost):
    known = native.server.call("/object_info")
    if "search_aliases" not in known["WanVideoActivationEditor"]:
        pytest.skip("this ComfyUI has no field for them; the page adds them")
    assert {name: known[name]["search_aliases"] for name in WORDS} == WORDS

"""Translations against the node schemas."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

_spec = importlib.util.spec_from_file_location("locales_tool", REPOSITORY / "tools" / "locales.py")
locales = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(locales)


@pytest.fixture(scope="module")
def english() -> dict:
    return locales.schema_definitions()


def test_every_input_has_a_tooltip_and_every_node_a_description(english):
    assert len(english) > 20
    for node, definition in english.items():
        assert definition["description"], node
        for name, texts in definition["inputs"].items():
            assert texts["tooltip"], f"{node}.{name} has no tooltip"


def test_english_is_what_the_schemas_say(english):
    assert locales.read("en") == english, "run tools/locales.py"


@pytest.mark.parametrize("language", locales.languages())
def test_no_key_is_missing_or_stale(english, language):
    assert locales.keys(locales.read(language)) == locales.keys(english), "tools/locales.py names them"


def test_other_languages_are_translated(english):
    assert "zh" in locales.languages()
    for language in set(locales.languages()) - {"en"}:
        for node, definition in locales.read(language).items():
            ours = english[node]
            for text in ("display_name", "description"):
                assert definition[text] and definition[text] != ours[text], (language, node)
            assert all(texts["tooltip"] for texts in definition["inputs"].values()), (language, node)
            same = [n for n, t in definition["inputs"].items() if t == ours["inputs"][n]]
            assert not same, (language, node, same)
            named = {**definition["inputs"], **definition["outputs"]}
            for key, texts in {**ours["inputs"], **ours["outputs"]}.items():
                assert named[key]["name"] and named[key]["name"] != texts["name"], (language, node, key)


def test_help_pages_in_other_languages_are_those_of_their_texts(english):
    pages = locales.help_pages(english)
    assert {path.stem for path in pages} == set(locales.languages()) - {"en"}
    assert {path.parent.name for path in pages} == set(english)
    written = {path: path.read_text(encoding="utf-8") for path in locales.DOCS.glob("*/*.md")}
    assert written == pages, "run tools/locales.py"


@pytest.mark.parametrize("language", sorted(set(locales.languages()) - {"en"}))
def test_every_note_of_an_example_is_translated(language):
    texts = locales.read_notes(language)
    assert len(texts) > 10 and set(texts) == locales.notes(), "a note without a translation, or one of no note"
    for english, translated in texts.items():
        assert translated != english
        for pattern in (r"`[^`]+`", r"\w+\.safetensors", r"https://[^)]+", r"^#+ ", r"^\d\. "):
            given = re.findall(pattern, english, re.MULTILINE)
            assert set(given) <= set(re.findall(pattern, translated, re.MULTILINE)), (english[:40], pattern)

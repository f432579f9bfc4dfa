"""The selection grammar."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wanvideo_activation_editor.patching.schedule import parse_schedule
from wanvideo_activation_editor.patching.selection import NAMES, SelectionError, parse_selection
from wanvideo_activation_editor.patching.strengths import PRESETS, BlockRangeError, preset_blocks
from wanvideo_activation_editor.patching.tokens import parse_tokens


def blocks(text: str, count: int = 40) -> list[int]:
    return parse_selection(text).active_blocks(count)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("7", [7]),
        ("0", [0]),
        ("10", [10]),
        ("3-6", [3, 4, 5, 6]),
        ("5-5", [5]),
        ("0101", [1, 3]),
        ("1" + "0" * 39, [0]),
        ("/16", [0, 16, 32]),
        ("1, 3 5,7", [1, 3, 5, 7]),
        (" ,, 2 ,", [2]),
        ("EVEN", list(range(0, 40, 2))),
        ("odd", list(range(1, 40, 2))),
        ("all, !3-39", [0, 1, 2]),
        ("!2-39", [0, 1]),
        ("!even !odd", []),
        ("!5, 4-6", [4, 6]),
        ("none", []),
        ("3:0", []),
    ],
)
def test_known_selections(text, expected):
    assert blocks(text) == expected


def test_strengths_and_overlaps():
    strengths = parse_selection("10-29:0.6, 30-39:.2, 12, !13").resolve(40)
    assert strengths[9] == 0.0
    assert strengths[10] == 0.6
    assert strengths[30] == 0.2
    assert strengths[12] == 1.0
    assert strengths[13] == 0.0


@pytest.mark.parametrize(
    ("text", "position", "token"),
    [
        ("3-", 1, "3-"),
        ("1, 2, x9", 7, "x9"),
        ("1,,-3", 4, "-3"),
        ("all 9-3", 5, "9-3"),
        ("/0", 1, "/0"),
        ("7:", 1, "7:"),
        ("7:nan", 1, "7:nan"),
        ("7:inf", 1, "7:inf"),
        ("7:1.01", 1, "7:1.01"),
        ("7:-0.1", 1, "7:-0.1"),
        ("!7:0.5", 1, "!7:0.5"),
        ("!!7", 1, "!!7"),
        ("custom", 1, "custom"),
        ("012", 1, "012"),
        ("٣", 1, "٣"),
        ("1 2\n0102", 5, "0102"),
    ],
)
def test_errors_give_position_and_token(text, position, token):
    with pytest.raises(SelectionError) as caught:
        parse_selection(text)
    assert f"position {position}: {token.lower()!r}" in str(caught.value)


@pytest.mark.parametrize("value", [None, 3, ["1"], b"1"])
def test_no_text_is_an_error(value):
    with pytest.raises(SelectionError, match="must be text"):
        parse_selection(value)


@pytest.mark.parametrize("text", ["30", "29-30", "0" * 30 + "1", "999999", "!30"])
def test_a_block_beyond_the_last_names_the_count(text):
    with pytest.raises(BlockRangeError, match=r"has 30 blocks \(0 to 29\)"):
        parse_selection(text).resolve(30)


@pytest.mark.parametrize("count", [30, 40, 48])
def test_a_trailing_run_of_zeros_fits_any_model(count):
    assert blocks("1" * 30 + "0" * 70, count) == list(range(30))


@pytest.mark.parametrize(
    ("text", "blank"),
    [
        ("", True),
        ("0" * 40, True),
        (" ,", True),
        ("none", False),
        ("3:0", False),
        ("3", False),
        ("!3", False),
        ("000, 3", False),
    ],
)
def test_blank_is_what_an_untouched_widget_holds(text, blank):
    assert parse_selection(text).is_blank() is blank


@given(st.text())
def test_any_text_parses_or_raises_a_selection_error(text):
    try:
        selection = parse_selection(text)
    except SelectionError as error:
        assert "position" in str(error)
        return
    with contextlib.suppress(BlockRangeError):
        assert len(selection.resolve(40)) == 40


@given(st.text(alphabet="0123456789-,/:!. evnodal_"))
def test_text_of_the_grammars_own_characters_never_breaks_it(text):
    test_any_text_parses_or_raises_a_selection_error.hypothesis.inner_test(text)


strengths = st.floats(0, 1).filter(lambda x: x == 0 or x >= 1e-300)
indices = st.integers(0, 39)
sets = st.one_of(
    indices.map(str),
    st.tuples(indices, indices).map(lambda p: f"{min(p)}-{max(p)}"),
    st.integers(1, 50).map(lambda n: f"/{n}"),
    st.sampled_from(NAMES),
    st.text("01", min_size=3, max_size=40),
)
terms = st.one_of(sets, sets.map("!{}".format), st.builds("{}:{!r}".format, sets, strengths))


@given(st.lists(terms, max_size=6), st.sampled_from([", ", " ", ","]))
def test_printing_and_parsing_again_gives_the_same_selection(parts, separator):
    selection = parse_selection(separator.join(parts))
    assert parse_selection(str(selection)) == selection
    assert parse_selection(str(selection)).resolve(40) == selection.resolve(40)
    assert all(0.0 <= s <= 1.0 for s in selection.resolve(40))


@given(st.lists(st.booleans(), min_size=3, max_size=48))
def test_a_bit_string_selects_its_ones(bits):
    text = "".join("01"[b] for b in bits)
    assert blocks(text, 48) == [i for i, b in enumerate(bits) if b]


@given(st.sampled_from(PRESETS), st.integers(1, 100))
def test_presets_are_terms_that_fit_every_model(name, count):
    assert blocks(name, count) == list(preset_blocks(name, count))


@given(st.integers(1, 100))
def test_presets_partition_the_blocks(count):
    everything = list(range(count))
    for parts in (("first_half", "second_half"), ("early_blocks", "mid_blocks", "late_blocks")):
        assert [i for name in parts for i in preset_blocks(name, count)] == everything
    assert sorted([*blocks("even", count), *blocks("odd", count)]) == everything
    assert blocks("alternating", count) == blocks("even", count)
    assert blocks("sparse", count) == blocks("/4", count)


@pytest.mark.parametrize("parse", [parse_selection, parse_schedule, parse_tokens])
def test_a_text_of_any_length_is_read_or_refused_at_once(parse):
    """Numbers of any length take time linear in the text."""
    for text in ("7:" + "1" * 3_900 + "x", "7:" + "1" * 1_000_000 + "x", "word " * 1_000_000, '"' + "a " * 500_000):
        with pytest.raises(ValueError) as refused:
            parse(text)
        assert len(str(refused.value)) < 10_000

"""The grammar of `tokens`, words among pieces, and what each term is worth."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from wanvideo_activation_editor.patching.tokens import Tokens, TokensError, TokenTerm, parse_tokens
from wanvideo_activation_editor.patching.words import Words, _without_weights, check_count, words_of

WEIGHT = st.floats(0, 1)
TERMS = st.one_of(
    st.builds(TokenTerm, st.sampled_from(["real", "padding", "all"]), weight=WEIGHT),
    st.builds(lambda a, n, w: TokenTerm("range", a, a + n, weight=w), st.integers(0, 400), st.integers(0, 99), WEIGHT),
    st.builds(lambda n, w: TokenTerm("word", n, weight=w), st.integers(1, 99), WEIGHT),
    st.builds(lambda t, w: TokenTerm("phrase", text=t, weight=w), st.sampled_from(["red", "slow pan", "a: b"]), WEIGHT),
)
FOX = Words(("▁a", "▁red", "▁fo", "x", ",", "▁re", "dder", "▁than", "▁Red", "▁pa", "nda"))
REAL = torch.arange(16) < 12


@given(st.lists(TERMS, max_size=6))
def test_what_terms_print_parses_to_them(terms):
    assert parse_tokens(str(Tokens(tuple(terms)))) == Tokens(tuple(terms))


@given(
    st.lists(
        st.one_of(
            TERMS,
            st.builds(
                lambda t, w: TokenTerm("phrase", text=t, weight=w),
                st.sampled_from(["red", "fox's", "été", "лиса", "real-time", "wordy", "12b"]),
                st.floats(0, 4),
            ),
        ),
        max_size=6,
    ),
    st.sampled_from([" ", ", ", ",", "  ,\n"]),
)
def test_words_need_no_quotes_before_a_weight(terms, gap):
    """And weights reach 4."""
    written = [f"{t.text}:{t.weight!r}" if t.kind == "phrase" and " " not in t.text else str(t) for t in terms]
    assert parse_tokens(gap.join(written), most=4.0, bare_words=True) == Tokens(tuple(terms))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slow pan:0.6", r"weights, position 1: 'slow pan:0.6' is not .* A word needs no quotes before a :weight"),
        ("red:2 fox", r"position 7: 'fox'"),
        ("red:5", r"position 1: 'red:5' has a weight outside 0 to 4"),
        ("red:-1", r"position 1"),
    ],
)
def test_a_word_without_quotes_needs_a_weight(text, message):
    with pytest.raises(TokensError, match=message):
        parse_tokens(text, "weights", 4.0, bare_words=True)


def weights(text: str) -> list[float]:
    return parse_tokens(text).located(FOX).weights(REAL).tolist()


def at(*places: int, weight: float = 1.0) -> list[float]:
    return [weight if i in places else 0.0 for i in range(16)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", at()),
        ("all", at(*range(16))),
        ("real", at(*range(12))),
        ("padding", at(12, 13, 14, 15)),
        ("2", at(2)),
        ("2-4, 7", at(2, 3, 4, 7)),
        ('"red"', at(1, 8)),
        ('"RED fox"', at(1, 2, 3)),
        ('"redder than"', at(5, 6, 7)),
        ('"ox"', None),
        ("word 2", at(1)),
        ("word 3", at(2, 3)),
        ("real:0.5 word 2:0", [0.5, 0.0, *[0.5] * 10, 0, 0, 0, 0]),
        ("padding, real", at(*range(16))),
    ],
)
def test_terms_are_worth_what_they_say(text, expected):
    if expected is None:
        with pytest.raises(TokensError, match="does not have"):
            weights(text)
    else:
        assert weights(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("red", r"position 1: 'red' is not real"),
        ("all, word", r"position 6: 'word' is not"),
        ('"red', r"position 1"),
        ('" "', r"phrase without words"),
        ("9-3", r"runs backwards; write 3-9"),
        ("word 0", r"counted from 1"),
        ("real:1.5", r"weight outside 0 to 1"),
        ("real:x", r"position 1: 'real:x'"),
        ("12:0.5:0.5", r"position 1"),
    ],
)
def test_what_cannot_be_read_is_named(text, message):
    with pytest.raises(TokensError, match=message):
        parse_tokens(text)


def test_words_that_the_prompt_does_not_have_are_an_error_that_lists_those_it_has():
    with pytest.raises(
        TokensError, match=r'does not have "blue". Its words: 1 a, 2 red, 3 fox, 4 redder, 5 than, 6 Red'
    ):
        weights('"blue"')
    with pytest.raises(TokensError, match=r"no word 8. Words of the prompt: 1 a"):
        weights("word 8")
    with pytest.raises(TokensError, match="there is no token 16; the model reads 16"):
        weights("12-16")
    with pytest.raises(TokensError, match="needs the prompt's text"):
        parse_tokens("word 1").weights(REAL)


def test_a_script_without_spaces_has_phrases_too():
    assert Words(("▁", "一只", "红色", "狐狸")).phrase("红色") == [(2, 2)]
    assert Words(("▁一只", "red", "狐狸")).phrase("red") == [(1, 1)]


def test_words_end_where_they_end_in_every_script():
    assert Words(("▁который", "▁кот")).phrase("кот") == [(1, 1)]
    assert Words(("▁répété", "▁été")).phrase("été") == [(1, 1)]
    assert [w for w, *_ in Words(("▁लाल", "▁बिल्ली", "▁cafe\u0301")).words] == ["लाल", "बिल्ली", "cafe\u0301"]


class Tokenizer:
    """As transformers' SentencePiece tokenizers: pieces by number."""

    pieces = ("▁a", "▁red", "▁fox")

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [self.pieces.index("▁" + word) for word in text.split()]}

    def convert_ids_to_tokens(self, ids):
        return [self.pieces[i] for i in ids]


class Clip:
    """As ComfyUI's CLIP of Wan."""

    class tokenizer:  # noqa: N801
        clip = "clip_umt5xxl"

        class clip_umt5xxl:  # noqa: N801
            inv_vocab = dict(enumerate(["<pad>", "</s>", "▁a", "▁red", "▁fox"]))
            pad_token, end_token = 0, 1

    def tokenize(self, text):
        ids = [{"a": 2, "red": 3, "fox": 4}[w.strip("()").split(":")[0]] for w in text.split()]
        return {"umt5xxl": [[(i, 1.0) for i in [*ids, 1, 0, 0]]]}


class WrapperTokenizer:
    tokenizer = Tokenizer()

    def _clean(self, text):
        return " ".join(text.split())


class WrapperEncoder:
    tokenizer = WrapperTokenizer()


@pytest.mark.parametrize(
    "encoder", [Tokenizer(), Clip(), {"model": WrapperEncoder()}], ids=["transformers", "native", "wrapper"]
)
def test_every_hosts_tokenizer_gives_the_words(encoder):
    words = words_of(encoder, "a  (red:1.5) fox" if not isinstance(encoder, Tokenizer) else "a  red fox")
    assert words.phrase("red fox") == [(1, 2)] and words.word(3) == (2, 2)
    check_count(words, 4)
    with pytest.raises(TokensError, match="has 4 tokens with the end token, but text_embeds 6"):
        check_count(words, 6)


@given(st.text("(a:1.)\n", max_size=30))
def test_weights_are_taken_out_as_the_wrapper_takes_them_out(text):
    assert _without_weights(text) == re.sub(r"\((.*?):([\d\.]+)\)", r"\1", text)


def test_a_megabyte_of_brackets_is_read_at_once():
    text = "(" * 1_000_000 + ":1"
    assert _without_weights(text) == text


def test_what_is_no_text_encoder_is_an_error():
    with pytest.raises(TokensError, match="object has no tokenizer that is known here"):
        words_of(object(), "a")

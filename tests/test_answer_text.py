"""Tests of bert_tf.answer_text: what the original makes of an answer's pieces."""

import pytest

from bert_tf.answer_text import joined, realigned, whitespace_words
from bert_tf.tokenization import Words


def test_words_are_split_at_the_originals_white_space_only():
    text = "  The\u202fcat\tsat.\r\n\u00a0A\u2003b c "
    assert [text[slice(*place)] for place in whitespace_words(text)] == [
        *("The", "cat", "sat.", "\u00a0A\u2003b", "c"),
    ]
    assert whitespace_words("") == whitespace_words(" \n") == []
    assert whitespace_words("one") == [(0, 3)]


@pytest.mark.parametrize(
    ("pieces", "words", "expected"),
    [
        (["steve", "smith"], "Steve Smith's", "Steve Smith"),  # the original's own example
        (["1895"], "(1895-1943).", "1895"),
        (["cafe"], "the Café,", "Café"),  # cased and accented as in the context
        (["cafe"], "the Cafe\u0301,", "the Cafe\u0301,"),  # another number of characters: all
        (["ing"], "(running)", "ing"),
        (["[UNK]"], "\u2603 snow", "\u2603 snow"),
        (["a", "b"], "ab", "ab"),  # not found as it stands
        ([], "ab", "ab"),
    ],
)
def test_an_answer_is_looked_for_in_its_words(pieces, words, expected):
    assert realigned(joined(pieces), words, Words(do_lower_case=True)) == expected


def test_case_counts_for_cased_models():
    assert realigned("Smith", "SMITH Smith's", Words(do_lower_case=False)) == "Smith"
    assert realigned("smith", "Smith's", Words(do_lower_case=False)) == "Smith's"


def test_pieces_are_joined_to_words():
    assert joined(["un", "##aff", "##able", "cat", "##s"]) == "unaffable cats"
    assert joined(["##ing", "on"]) == "ing on"

"""Tests of bert_tf.tag_schemes: the same entities in each scheme, and what no scheme has."""

import itertools

import pytest

from bert_tf import tag_schemes
from bert_tf.errors import InputError

# The same entities: A over one word, another A right after it, a B over three, a B, an A.
IOB1 = ["I-A", "B-A", "O", "I-B", "I-B", "I-B", "B-B", "I-A", "O"]
IOB2 = ["B-A", "B-A", "O", "B-B", "I-B", "I-B", "B-B", "B-A", "O"]
BIOES = ["S-A", "S-A", "O", "B-B", "I-B", "E-B", "S-B", "S-A", "O"]
WRITTEN = {"iob1": IOB1, "iob2": IOB2, "bioes": BIOES}


def where(number):
    return f"file:{number + 1}"


@pytest.mark.parametrize("scheme", WRITTEN)
def test_each_scheme_is_read_and_written(scheme):
    assert tag_schemes.to_iob2(WRITTEN[scheme], scheme, where) == IOB2
    assert tag_schemes.from_iob2(IOB2, scheme) == WRITTEN[scheme]
    assert tag_schemes.find_scheme([["O"], WRITTEN[scheme]]) == scheme


def valid_sequences(length):
    """Every sequence of IOB2 over two types."""
    for tags in itertools.product(["O", "B-A", "I-A", "B-B", "I-B"], repeat=length):
        if all(tag_schemes.may_follow(b, a) for a, b in zip([None, *tags], tags, strict=False)):
            yield list(tags)


@pytest.mark.parametrize("scheme", ["iob1", "iob2", "bioes"])
def test_every_sequence_survives_the_way_there_and_back(scheme):
    sequences = list(valid_sequences(5))
    assert len(sequences) == 571
    for tags in sequences:
        written = tag_schemes.from_iob2(tags, scheme)
        assert tag_schemes.to_iob2(written, scheme, where) == tags
    as_written = {tuple(tag_schemes.from_iob2(tags, scheme)) for tags in sequences}
    assert len(as_written) == len(sequences)


def test_tags_that_are_no_entities_stay_as_they_are():
    tags = ["NOUN", "I-am", "-LRB-", "O"]
    assert tag_schemes.to_iob2(tags, "none", where) == tags
    assert tag_schemes.from_iob2(tags, "none") == tags


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        ([["NOUN", "VERB"], ["O"]], "none"),
        ([["O", "O"]], "iob2"),
        ([["B-A", "O"], ["X"]], "iob2"),  # X is a mistake, of which reading tells the line
        ([["B-A", "I-A"], ["O", "I-A"]], "iob1"),
        ([["B-A", "I-B"]], "iob1"),
        ([["B-A", "O", "B-A"], ["O", "I-A"]], "iob2"),  # I-A is a mistake
        ([["B-A", "O"], ["O", "I-A", "O", "I-A"]], "iob1"),  # B-A is one
        ([["O", "S-A"]], "bioes"),
        ([["-LRB-", "O-"]], "none"),
    ],
)
def test_the_scheme_is_found(sentences, scheme):
    assert tag_schemes.find_scheme(sentences) == scheme


@pytest.mark.parametrize(
    ("tags", "scheme", "message"),
    [
        ("O X-A", "iob2", "file:2: 'X-A' is no tag of the scheme iob2, whose tags are O, B-TYPE"),
        ("O B-", "iob2", "file:2: 'B-' is no tag"),
        ("O NOUN", "iob1", "file:2: 'NOUN' is no tag of the scheme iob1"),
        ("E-A", "iob2", "file:1: 'E-A' is no tag of the scheme iob2"),
        ("O I-A", "iob2", "file:2: 'I-A' after 'O': in the scheme iob2 an entity begins with B-"),
        ("B-A I-B", "iob2", "file:2: 'I-B' after 'B-A'"),
        ("B-A O", "bioes", "file:2: 'O' after 'B-A': in the scheme bioes"),
        ("S-A I-A", "bioes", "file:2: 'I-A' after 'S-A'"),
        ("B-A E-B", "bioes", "file:2: 'E-B' after 'B-A'"),
        ("O B-A", "bioes", "file:2: the sentence ends after 'B-A'"),
    ],
)
def test_what_a_scheme_does_not_have_is_named_with_its_place(tags, scheme, message):
    with pytest.raises(InputError) as error:
        tag_schemes.to_iob2(tags.split(), scheme, where)
    assert message in str(error.value)
    assert "--tag_scheme" in str(error.value)


def test_spans():
    assert tag_schemes.spans(IOB2) == [
        ("A", 0, 1),
        ("A", 1, 2),
        ("B", 3, 6),
        ("B", 6, 7),
        ("A", 7, 8),
    ]
    assert tag_schemes.spans(["O", "B-A", "I-A"]) == [("A", 1, 3)]
    assert tag_schemes.spans([]) == []

"""Tests of bert_tf.tasks.tagging_data: files of tags to numbered labels."""

import numpy as np
import pytest

from bert_tf import crf
from bert_tf.errors import InputError
from bert_tf.tasks import tagging_data

IOB1 = "EU I-ORG\nrejects O\n\n-DOCSTART- O\n\nPeter I-PER\nSmith I-PER\nAnn B-PER\n"


def write(path, text):
    path.write_text(text)
    return path


def test_sentences_are_iob2_inside(tmp_path):
    path = write(tmp_path / "train.txt", IOB1)
    found = tagging_data.read_sentences(path, None, "auto")
    assert found.words == [["EU", "rejects"], ["Peter", "Smith", "Ann"]]
    assert found.tags == [["B-ORG", "O"], ["B-PER", "I-PER", "B-PER"]]
    assert found.lines == [[1, 2], [6, 7, 8]]
    assert found.scheme == "iob1"
    assert found.documents.tolist() == [0, 1]


def test_without_tags_the_scheme_is_the_one_to_write(tmp_path):
    path = write(tmp_path / "test.txt", "EU\nrejects\n")
    assert tagging_data.read_sentences(path, None, "auto", with_tags=False).tags is None
    assert tagging_data.read_sentences(path, None, "bioes", with_tags=False).scheme == "bioes"
    assert tagging_data.read_sentences(path, None, "auto", with_tags=False).scheme == "none"


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("EU S-ORG\nrejects O\n", "bioes"),
        (IOB1, "iob1"),
        ("EU O\n", "none"),
        ("EU NNP\nrejects O\n", "none"),
    ],
)
def test_tags_that_are_not_read_tell_their_scheme(tmp_path, text, scheme):
    path = write(tmp_path / "test.txt", text)
    found = tagging_data.read_sentences(path, None, "auto", with_tags=False)
    assert (found.tags, found.scheme) == (None, scheme)


@pytest.mark.parametrize("tag", ["", "B-X ", "\u00a0O", "B-\u2028X"])
def test_a_tag_is_one_line_without_white_space_at_its_ends(tmp_path, tag):
    path = write(tmp_path / "train.txt", f"a\tO\nb\t{tag}\n")
    with pytest.raises(InputError, match=r"train.txt:2: the tag is '.*': a tag is one line"):
        tagging_data.read_sentences(path, None, "none")


def test_with_the_scheme_none_tags_are_no_entities():
    assert tagging_data.find_labels([["B-X", "O"]], "none") == ("B-X", "O")
    labels = ("I-X", "O")
    assert tagging_data.are_entities(labels, "iob1")
    assert not tagging_data.are_entities(labels, "none")
    assert tagging_data.allowed_by(labels, "none").start.all()
    assert not tagging_data.allowed_by(labels, "iob1").start.all()


def test_a_given_scheme_is_kept_to(tmp_path):
    path = write(tmp_path / "train.txt", IOB1)
    with pytest.raises(InputError, match=r"train.txt:1: 'I-ORG' after 'O'"):
        tagging_data.read_sentences(path, None, "iob2")
    found = tagging_data.read_sentences(path, None, "none")
    assert found.tags == [["I-ORG", "O"], ["I-PER", "I-PER", "B-PER"]]


def test_labels_are_sorted_and_entities_complete():
    assert tagging_data.find_labels([["B-X", "O"], ["B-A", "I-A"]]) == (
        *("B-A", "B-X", "I-A", "I-X", "O"),
    )
    assert tagging_data.find_labels([["B-X"]]) == ("B-X", "I-X", "O")
    assert tagging_data.find_labels([["VERB", "NOUN"], ["VERB"]]) == ("NOUN", "VERB")
    assert tagging_data.find_labels([["O"]]) == ("O",)
    assert not tagging_data.are_entities(["O"])
    assert not tagging_data.are_entities(["B-A", "NOUN"])


def test_what_is_allowed_is_the_scheme():
    labels = ("B-A", "B-X", "I-A", "I-X", "O")
    allowed = tagging_data.allowed_by(labels)
    assert allowed.start.tolist() == [True, True, False, False, True]
    assert allowed.end.all()
    forbidden = {(labels[row], labels[column]) for row, column in np.argwhere(~allowed.transitions)}
    assert forbidden == {
        *(("B-X", "I-A"), ("I-X", "I-A"), ("O", "I-A")),
        *(("B-A", "I-X"), ("I-A", "I-X"), ("O", "I-X")),
    }
    for part, free in zip(
        tagging_data.allowed_by(("NOUN", "VERB")), crf.everything(2), strict=True
    ):
        np.testing.assert_array_equal(part, free)


def test_label_ids_and_a_tag_that_is_none(tmp_path):
    path = write(tmp_path / "dev.txt", IOB1)
    found = tagging_data.read_sentences(path, None, "auto")
    labels = ("B-ORG", "B-PER", "I-ORG", "I-PER", "O")
    ids = tagging_data.label_ids(found, labels)
    assert ids.tolist() == [0, 4, 1, 3, 1]
    assert ids.dtype == np.int32
    with pytest.raises(InputError) as error:
        tagging_data.label_ids(found, ("B-ORG", "I-ORG", "O"))
    assert f"{path}:6: the tag 'B-PER' (in IOB2) is not among" in str(error.value)

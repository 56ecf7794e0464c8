"""Tests of bert_tf.word_windows: no word is lost, and each is read where it has most around it."""

import numpy as np
import pytest

from bert_tf.errors import InputError
from bert_tf.packing import RaggedIds
from bert_tf.word_windows import pack_words

CLS, SEP, UNK = 101, 102, 100


def ragged(rows):
    splits = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return RaggedIds(np.array([x for row in rows for x in row], np.int32), splits)


def pack(words, sentence_lengths, max_seq_length, documents=None, doc_context=False):
    splits = np.concatenate([[0], np.cumsum(sentence_lengths)]).astype(np.int64)
    if documents is None:
        documents = np.zeros(len(sentence_lengths), np.int64)
    return pack_words(
        ragged(words), splits, np.array(documents), max_seq_length,
        doc_context=doc_context, cls_id=CLS, sep_id=SEP, unk_id=UNK,
    )  # fmt: skip


def rows_of(found):
    """(ids, positions of owned words) of each row."""
    texts, starts = found.texts.input_ids, found.word_starts
    return [
        (
            texts.values[texts.row_splits[i] : texts.row_splits[i + 1]].tolist(),
            starts.values[starts.row_splits[i] : starts.row_splits[i + 1]].tolist(),
        )
        for i in range(len(starts.row_splits) - 1)
    ]


def test_short_sentences_are_a_row_each():
    found = pack([[1, 2], [3], [4], [], [6]], [2, 3], 8)
    assert rows_of(found) == [
        ([CLS, 1, 2, 3, SEP], [1, 3]),
        ([CLS, 4, UNK, 6, SEP], [1, 2, 3]),
    ]
    assert found.is_continued.tolist() == [False, False]
    assert found.num_split == found.texts.num_truncated == 0
    assert found.texts.segment_starts.tolist() == [5, 5]


def test_a_long_sentence_is_cut_into_rows_that_overlap():
    found = pack([[i] for i in range(1, 11)], [10], 6)  # four words in a row
    assert rows_of(found) == [
        ([CLS, 1, 2, 3, 4, SEP], [1, 2, 3]),
        ([CLS, 3, 4, 5, 6, SEP], [2, 3]),
        ([CLS, 5, 6, 7, 8, SEP], [2, 3]),
        ([CLS, 7, 8, 9, 10, SEP], [2, 3, 4]),
    ]
    assert found.is_continued.tolist() == [False, True, True, True]
    assert found.num_split == 1


def test_a_word_that_does_not_fit_loses_its_last_pieces():
    found = pack([[1], [2] * 9, [3] * 4], [3], 6)
    assert rows_of(found) == [
        ([CLS, 1, SEP], [1]),
        ([CLS, 2, 2, 2, 2, SEP], [1]),
        ([CLS, 3, 3, 3, 3, SEP], [1]),
    ]


def test_context_comes_from_both_sides_of_the_same_document():
    words = [[i] for i in range(1, 10)]
    found = pack(words, [3, 1, 3, 2], 7, documents=[0, 0, 0, 1], doc_context=True)
    assert rows_of(found) == [
        ([CLS, 1, 2, 3, 4, 5, SEP], [1, 2, 3]),
        ([CLS, 2, 3, 4, 5, 6, SEP], [3]),
        ([CLS, 3, 4, 5, 6, 7, SEP], [3, 4, 5]),
        ([CLS, 8, 9, SEP], [1, 2]),
    ]


@pytest.mark.parametrize("doc_context", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_every_word_is_owned_once_and_shown_where_it_is_owned(seed, doc_context):
    rng = np.random.default_rng(seed)
    max_seq_length = int(rng.integers(4, 20))
    room = max_seq_length - 2
    lengths = rng.integers(1, 30, size=7)
    documents = np.sort(rng.integers(0, 3, size=7))
    # Pieces are numbers that say which word and which place in it they are.
    words = [
        [word * 50 + place + 1000 for place in range(rng.integers(0, 25 if word % 9 == 0 else 4))]
        for word in range(lengths.sum())
    ]
    found = pack(words, lengths, max_seq_length, documents, doc_context)
    sentence_of = np.repeat(np.arange(7), lengths)

    word = 0
    continued = []
    for ids, starts in rows_of(found):
        assert ids[0] == CLS
        assert ids[-1] == SEP
        assert len(ids) <= max_seq_length
        sentences = set()
        for start in starts:
            pieces = words[word][:room] or [UNK]
            assert ids[start : start + len(pieces)] == pieces
            sentences.add(sentence_of[word])
            word += 1
        (sentence,) = sentences
        first = np.flatnonzero(sentence_of == sentence)[0]
        continued.append(bool(word - len(starts) > first))
        shown = [(i - 1000) // 50 for i in ids if i >= 1000]
        unit = documents if doc_context else np.arange(7)
        assert {unit[sentence_of[i]] for i in shown} <= {unit[sentence]}
        if doc_context and len(pieces_of(words, sentence_of, sentence, room)) <= room:
            after = max(shown, default=len(words)) + 1
            if after < len(words) and documents[sentence_of[after]] == documents[sentence]:
                assert len(ids) + len(words[after][:room] or [UNK]) > max_seq_length or (
                    not words[after]  # [UNK] does not say which word it is
                )
    assert word == len(words)
    assert found.is_continued.tolist() == continued
    assert found.num_split == sum(
        len(pieces_of(words, sentence_of, sentence, room)) > room for sentence in range(7)
    )


def pieces_of(words, sentence_of, sentence, room):
    """The pieces of a sentence."""
    return [
        piece
        for word in np.flatnonzero(sentence_of == sentence)
        for piece in words[word][:room] or [UNK]
    ]


def test_an_owned_word_has_more_room_around_it_than_in_the_other_rows():
    words = [[i] for i in range(1, 200)]
    found = pack(words, [199], 34)
    rows = rows_of(found)
    shown = {}
    for number, (ids, starts) in enumerate(rows):
        for position, piece in enumerate(ids[1:-1], 1):
            margin = min(position, len(ids) - 1 - position)
            shown.setdefault(piece, []).append((margin, number, position in starts))
    for places in shown.values():
        best = max(margin for margin, _, _ in places)
        assert sum(is_owner for *_, is_owner in places) == 1
        assert next(margin for margin, _, is_owner in places if is_owner) >= best - 1


def test_there_must_be_room_for_words():
    with pytest.raises(InputError, match="max_seq_length 3 is too small for words"):
        pack([[1]], [1], 3)

"""Tests of bert_tf.long_text, against slices of lists."""

import numpy as np
import pytest

from bert_tf.long_text import shortened, windows
from bert_tf.packing import RaggedIds

LENGTHS = [0, 1, 7, 8, 9, 23, 40, 3]


def ragged(lengths):
    splits = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return RaggedIds(np.arange(splits[-1], dtype=np.int32), splits)


def rows(ids):
    return [part.tolist() for part in np.split(ids.values, ids.row_splits[1:-1])]


@pytest.mark.parametrize("how", ["head", "tail", "head_tail"])
@pytest.mark.parametrize("most", [1, 8, 12, 60])
def test_shortened_texts(how, most):
    texts = ragged(LENGTHS)
    head = {"head": most, "tail": 0, "head_tail": round(most * 128 / 510)}[how]
    expected = [
        text if len(text) <= most else text[:head] + text[len(text) - (most - head) :]
        for text in rows(texts)
    ]
    assert rows(shortened(texts, most, how)) == expected


def test_the_share_of_the_head_is_that_of_the_paper():
    (text,) = rows(shortened(ragged([1000]), 510, "head_tail"))
    assert text == [*range(128), *range(1000 - 382, 1000)]


@pytest.mark.parametrize(("size", "stride"), [(8, 8), (8, 3), (5, 4), (1, 1)])
@pytest.mark.parametrize("max_windows", [1, 3, 99])
def test_windows(size, stride, max_windows):
    texts = ragged(LENGTHS)
    found, row_splits, shown = windows(texts, size, stride, max_windows)
    assert row_splits.dtype == found.row_splits.dtype == np.int64
    all_rows = rows(found)
    for number, text in enumerate(rows(texts)):
        expected = [text[:size]]
        start = stride
        while start - stride + size < len(text) and len(expected) < max_windows:
            expected.append(text[start : start + size])
            start += stride
        assert all_rows[row_splits[number] : row_splits[number + 1]] == expected
        assert shown[number] == len(set().union(*expected))

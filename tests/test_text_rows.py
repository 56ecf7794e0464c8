"""Rows that are made in the graph are those that `packing` and `long_text` make of arrays."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from bert_tf.export.text_rows import RowBuilder
from bert_tf.long_text import shortened, windows
from bert_tf.packing import RaggedIds, pack_texts

CLS, SEP = 71, 72


class Vocabulary:
    cls_id = CLS
    sep_id = SEP


def texts(seed, lengths):
    """Texts of 1 to 59 as pieces: for arrays and for the graph."""
    values = np.random.default_rng(seed).integers(1, 60, sum(lengths), dtype=np.int32)
    splits = np.cumsum([0, *lengths])
    return RaggedIds(values, splits), tf.RaggedTensor.from_row_splits(values, splits)


def dense(packed, longest):
    """What rows without padding are as model inputs."""
    splits, values = packed.input_ids.row_splits, packed.input_ids.values
    ids, mask, segments = (np.zeros((len(splits) - 1, longest), np.int32) for _ in range(3))
    for row, (start, end) in enumerate(itertools.pairwise(splits)):
        ids[row, : end - start] = values[start:end]
        mask[row, : end - start] = 1
        segments[row, packed.segment_starts[row] : end - start] = 1
    return ids, mask, segments


def assert_rows(rows, packed, fixed):
    longest = fixed or max([2, *packed.lengths])
    for part, expected in zip(rows, dense(packed, longest), strict=True):
        assert part.dtype == tf.int32
        np.testing.assert_array_equal(part, expected)


LENGTHS = [[0, 3, 19, 9, 10, 8, 1, 30, 11], [0], [2, 1], [17], []]


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("how", ["head", "tail", "head_tail"])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_texts(lengths, how, fixed):
    for size in (3, 7, 11):
        arrays, ragged = texts(1, lengths)
        build = RowBuilder(Vocabulary, size, fixed_length=fixed).of_texts
        packed = pack_texts(shortened(arrays, size - 2, how), None, size, CLS, SEP)
        assert_rows(build(ragged, how), packed, fixed and size)


@pytest.mark.parametrize("fixed", [False, True])
def test_pairs_of_all_lengths(fixed):
    lengths = [(a, b) for a in range(9) for b in range(9)]
    a, ragged_a = texts(2, [pair[0] for pair in lengths])
    b, ragged_b = texts(3, [pair[1] for pair in lengths])
    for size in range(5, 14):
        build = RowBuilder(Vocabulary, size, fixed_length=fixed).of_pairs
        packed = pack_texts(a, b, size, CLS, SEP)
        assert_rows(build(ragged_a, ragged_b), packed, fixed and size)
        is_pair = b.lengths > 0
        packed = pack_texts(a, b, size, CLS, SEP, is_pair)
        assert_rows(build(ragged_a, ragged_b, is_pair), packed, fixed and size)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("stride", "most"), [(5, 3), (3, 7), (1, 4), (5, 1)])
def test_windows(lengths, stride, most, fixed):
    size = 7
    arrays, ragged = texts(4, lengths)
    build = RowBuilder(Vocabulary, size, fixed_length=fixed).of_windows
    found = build(ragged, stride, most)
    rows, splits, _ = windows(arrays, size - 2, stride, most)
    counts = np.diff(splits)
    shape = (len(lengths), most if fixed else max([1, *counts]))
    packed = pack_texts(rows, None, size, CLS, SEP)
    longest = size if fixed else max([2, *packed.lengths])
    for part, flat in zip(found, dense(packed, longest), strict=True):
        expected = np.zeros((*shape, longest), np.int32)
        expected[np.arange(shape[1]) < counts[:, np.newaxis]] = flat
        np.testing.assert_array_equal(part, expected)

"""Tests of bert_tf.packing: closed forms against the original's loops."""

import itertools

import numpy as np
import pytest

from bert_tf.errors import InputError
from bert_tf.packing import RaggedIds, pack_texts, truncated_lengths

CLS, SEP = 101, 102


def popped_lengths(length_a, length_b, budget):
    """_truncate_seq_pair of the original, piece by piece."""
    while length_a + length_b > budget:
        if length_a > length_b:
            length_a -= 1
        else:
            length_b -= 1
    return length_a, length_b


def ragged(rows):
    return RaggedIds(
        np.array(list(itertools.chain(*rows)), np.int32),
        np.cumsum([0, *map(len, rows)]).astype(np.int64),
    )


def naive_row(a, b, max_seq_length):
    a = list(a)
    if b is None:
        del a[max_seq_length - 2 :]
        return [CLS, *a, SEP], len(a) + 2
    length_a, length_b = popped_lengths(len(a), len(b), max_seq_length - 3)
    return [CLS, *a[:length_a], SEP, *b[:length_b], SEP], length_a + 2


def test_truncated_lengths_equal_the_loop_for_all_small_lengths():
    cases = np.array(list(itertools.product(range(13), range(14), range(15))))
    expected = [popped_lengths(*case) for case in cases.tolist()]
    kept = np.array([truncated_lengths(a, b, budget) for a, b, budget in cases], dtype=np.int64)
    np.testing.assert_array_equal(kept, expected)


def test_truncated_lengths_takes_arrays():
    kept_a, kept_b = truncated_lengths(np.array([9, 1, 4]), np.array([2, 9, 4]), 7)
    assert kept_a.tolist() == [5, 1, 4]
    assert kept_b.tolist() == [2, 6, 3]


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("max_seq_length", [5, 6, 11, 64])
def test_packing_equals_a_row_by_row_recomputation(pairs, max_seq_length):
    rng = np.random.default_rng(max_seq_length)
    # Empty texts among them, at both ends too.
    a = [rng.integers(1000, 2000, n).tolist() for n in (0, *rng.integers(0, 13, 29), 0)]
    b = [rng.integers(2000, 3000, n).tolist() for n in (0, *rng.integers(0, 9, 29), 3)]
    packed = pack_texts(ragged(a), ragged(b) if pairs else None, max_seq_length, CLS, SEP)
    naive = [naive_row(x, y if pairs else None, max_seq_length) for x, y in zip(a, b, strict=True)]
    splits = packed.input_ids.row_splits
    rows = [packed.input_ids.values[i:j].tolist() for i, j in itertools.pairwise(splits)]
    assert rows == [row for row, _ in naive]
    assert packed.segment_starts.tolist() == [start for _, start in naive]
    full = [len(x) + len(y) + 3 if pairs else len(x) + 2 for x, y in zip(a, b, strict=True)]
    lost = [len(row) < length for (row, _), length in zip(naive, full, strict=True)]
    assert packed.num_truncated == sum(lost)
    special = (3 if pairs else 2) * len(full)
    lost = (sum(full) - len(packed.input_ids.values)) / (sum(full) - special)
    assert packed.share_lost == pytest.approx(lost)
    assert packed.input_ids.values.dtype == np.int32
    assert packed.input_ids.lengths.tolist() == [len(row) for row in rows]


@pytest.mark.parametrize("max_seq_length", [5, 6, 11, 64])
def test_single_texts_among_pairs_are_packed_as_by_themselves(max_seq_length):
    rng = np.random.default_rng(max_seq_length)
    is_pair = rng.random(23) < 0.5
    a = [rng.integers(1000, 2000, n).tolist() for n in rng.integers(0, 13, 23)]
    b = [rng.integers(2000, 3000, n).tolist() for n in rng.integers(0, 9, 23) * is_pair]
    packed = pack_texts(ragged(a), ragged(b), max_seq_length, CLS, SEP, is_pair)
    naive = [
        naive_row(x, y if pair else None, max_seq_length)
        for x, y, pair in zip(a, b, is_pair, strict=True)
    ]
    splits = packed.input_ids.row_splits
    rows = [packed.input_ids.values[i:j].tolist() for i, j in itertools.pairwise(splits)]
    assert rows == [row for row, _ in naive]
    assert packed.segment_starts.tolist() == [start for _, start in naive]
    full = [len(x) + len(y) + 2 + pair for x, y, pair in zip(a, b, is_pair, strict=True)]
    assert packed.num_truncated == sum(map(int.__lt__, map(len, rows), map(int, full)))


def test_nothing_packs_to_nothing():
    packed = pack_texts(ragged([]), ragged([]), 9, CLS, SEP)
    assert packed.input_ids.row_splits.tolist() == [0]
    assert len(packed.input_ids.values) == len(packed.segment_starts) == packed.num_truncated == 0


@pytest.mark.parametrize(("pairs", "smallest"), [(False, 3), (True, 5)])
def test_a_length_without_room_for_text_is_refused(pairs, smallest):
    text = ragged([[7]])
    assert pack_texts(text, text if pairs else None, smallest, CLS, SEP).num_truncated == 0
    with pytest.raises(InputError, match=f"max_seq_length {smallest - 1} .* at least {smallest}"):
        pack_texts(text, text if pairs else None, smallest - 1, CLS, SEP)

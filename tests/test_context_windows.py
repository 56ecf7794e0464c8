"""Tests of bert_tf.context_windows: against the loops of the original's run_squad.py."""

import numpy as np
import pytest

from bert_tf.context_windows import best_rows, plan_windows, truncated
from bert_tf.errors import InputError
from bert_tf.packing import RaggedIds


def original_spans(num_pieces, room, stride):
    """What the original's ``convert_examples_to_features`` calls doc_spans."""
    spans = []
    start = 0
    while start < num_pieces:
        length = min(num_pieces - start, room)
        spans.append((start, length))
        if start + length == num_pieces:
            break
        start += min(length, stride)
    return spans


def original_best(spans, position):
    """Its ``_check_is_max_context``, turned round: which span of a position is it true for?"""
    best = best_score = None
    for number, (start, length) in enumerate(spans):
        end = start + length - 1
        if position < start or position > end:
            continue
        score = min(position - start, end - position) + 0.01 * length
        if best_score is None or score > best_score:
            best, best_score = number, score
    return best


@pytest.mark.parametrize("seed", range(10))
def test_windows_are_the_originals(seed):
    rng = np.random.default_rng(seed)
    max_seq_length, stride = int(rng.integers(12, 40)), int(rng.integers(1, 30))
    questions = rng.integers(0, 8, 9)
    contexts = rng.integers(1, 150, 9)
    found = plan_windows(questions, contexts, max_seq_length, stride)
    for number in range(9):
        rows = slice(*found.row_splits[number : number + 2])
        spans = original_spans(contexts[number], max_seq_length - 3 - questions[number], stride)
        assert list(zip(found.starts[rows], found.lengths[rows], strict=True)) == spans
        assert (found.questions[rows] == number).all()
        best = best_rows(found.starts[rows], found.lengths[rows])
        assert best.tolist() == [original_best(spans, place) for place in range(contexts[number])]


def test_a_context_without_pieces_has_a_row_all_the_same():
    found = plan_windows(np.array([2, 3]), np.array([0, 5]), 20, 4)
    assert found.row_splits.tolist() == [0, 1, 2]
    assert found.lengths.tolist() == [0, 5]
    assert best_rows(found.starts[:1], found.lengths[:1]).tolist() == []


def test_there_must_be_room_for_a_context():
    with pytest.raises(InputError, match=r"--max_seq_length=12 leaves no room .* of 9 pieces"):
        plan_windows(np.array([2, 9]), np.array([5, 5]), 12, 4)


def test_truncated_rows_keep_their_first_pieces():
    pieces = RaggedIds(np.arange(6, dtype=np.int32), np.array([0, 3, 3, 6]))
    cut = truncated(pieces, 2)
    assert cut.values.tolist() == [0, 1, 3, 4]
    assert cut.row_splits.tolist() == [0, 2, 2, 4]

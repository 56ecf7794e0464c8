"""Tests of bert_tf.shared_rows: plans by counting, layouts against loops."""

import numpy as np
import pytest
import tensorflow as tf

from bert_tf.errors import InputError
from bert_tf.shared_rows import (
    RowShape,
    first_fit,
    lay_out,
    members,
    num_shares,
    shape_of,
    share_rows,
    sharing_inputs,
    spread,
)


def naive_first_fit(sizes, room):
    """One batch, one example after the other."""
    free, rows = [], {}
    for example in sorted(range(len(sizes)), key=lambda i: (-sizes[i][0], i)):
        fitting = [row for row, left in enumerate(free) if (left >= sizes[example]).all()]
        row = fitting[0] if fitting else len(free)
        if not fitting:
            free.append(np.array(room))
        free[row] -= sizes[example]
        rows[example] = row
    return [rows[example] for example in range(len(sizes))]


def test_spread_batches_have_each_example_once_and_nearly_equal_lengths():
    lengths = np.random.default_rng(1).integers(3, 60, 11 * 7)
    plan = spread(lengths, 7, [5, 2])
    assert plan.shape == (11, 7)
    assert sorted(plan.ravel()) == list(range(77))
    # A batch's examples differ from another's by less than a run of 11 spans, 7 times.
    sums = lengths[plan].sum(axis=1)
    assert np.ptp(sums) <= np.ptp(lengths)
    assert np.ptp(sums) < np.ptp(lengths.reshape(11, 7).sum(axis=1)) / 3
    np.testing.assert_array_equal(spread(lengths, 7, [5, 2]), plan)
    assert (spread(lengths, 7, [5, 3]) != plan).any()
    # Who meets whom is chance.
    assert len({tuple(np.argsort(lengths[row], kind="stable")) for row in plan}) == 1
    assert len(set(plan[:, 0].tolist())) == 11


@pytest.mark.parametrize("chunk", [1, 1 << 22])
def test_first_fit_equals_a_loop(chunk, monkeypatch):
    monkeypatch.setattr("bert_tf.shared_rows._CHUNK", chunk)
    rng = np.random.default_rng(2)
    sizes = np.stack([rng.integers(0, 18, (9, 13)), rng.integers(0, 6, (9, 13))], axis=2)
    rows = first_fit(sizes, np.array([17, 5]))
    assert rows.dtype == np.int64
    assert rows.tolist() == [naive_first_fit(batch, [17, 5]) for batch in sizes]
    one = first_fit(sizes[:, :, :1], np.array([17]))
    assert one.tolist() == [naive_first_fit(batch, [17]) for batch in sizes[:, :, :1]]
    assert (one != rows).any()  # the second size counts
    with pytest.raises(InputError, match=r"\[17, 5\] does not fit in a row of \[17, 4\]"):
        first_fit(sizes, np.array([17, 4]))


@pytest.mark.parametrize("chunk", [1, 1 << 22])
def test_members_are_those_of_the_rows(chunk, monkeypatch):
    monkeypatch.setattr("bert_tf.shared_rows._CHUNK", chunk)
    rows = np.array([[1, 0, 1, 1], [0, 2, 1, 0]])
    shape = shape_of(rows)
    assert shape == RowShape(3, 3)
    assert members(rows, shape).tolist() == [
        [[1, -1, -1], [0, 2, 3], [-1, -1, -1]],
        [[0, 3, -1], [2, -1, -1], [1, -1, -1]],
    ]
    assert shape.padded_to(5) == RowShape(5, 3)
    assert shape.padded_to(3) == shape
    assert members(rows, shape.padded_to(5)).shape == (2, 5, 3)


def test_a_plan_of_rows_has_each_steps_examples():
    rng = np.random.default_rng(3)
    lengths = rng.integers(2, 14, 40)
    plan = rng.integers(0, 40, (8, 7))
    rows = share_rows(plan, lengths, 13, multiple=4)
    assert rows.shape[1] % 4 == 0
    for step, batch in zip(rows, plan, strict=True):
        assert sorted(step[step >= 0]) == sorted(batch)
        assert (np.where(step >= 0, lengths[step], 0).sum(axis=1) <= 13).all()
    assert (
        rows.shape[1] - 4 < max(max(naive_first_fit(lengths[b][:, None], [13])) for b in plan) + 1
    )


@pytest.mark.parametrize(
    ("batch_size", "micro_batch_size", "num_replicas", "shares"),
    [(12, None, 1, 1), (12, None, 4, 4), (12, 3, 1, 4), (12, 3, 2, 4), (12, 6, 3, 6)],
)
def test_shares_are_equal_for_micro_batches_and_replicas(
    batch_size, micro_batch_size, num_replicas, shares
):
    assert num_shares(batch_size, micro_batch_size, num_replicas) == shares


def test_a_layout_equals_a_loop():
    lengths = np.array([[3, 2, 0], [0, 0, 0], [4, 1, 2]])
    firsts = np.array([[10, 0, 0], [0, 0, 0], [3, 7, 20]])
    source = np.arange(100, 130, dtype=np.int32)
    layout = lay_out(tf.constant(lengths), 7)
    found = layout.values(tf.constant(source), tf.constant(firsts)).numpy()
    inputs = sharing_inputs(layout, tf.constant(lengths > 0))
    expected = {
        name: np.zeros((3, 7), int)
        for name in ("values", "input_mask", "example_numbers", "positions", "kind")
    }
    starts = np.zeros((3, 3), int)
    for row in range(3):
        place = 0
        for number, (length, first) in enumerate(zip(lengths[row], firsts[row], strict=True)):
            starts[row, number] = place if length else 0
            for i in range(length):
                expected["values"][row, place] = source[first + i]
                expected["input_mask"][row, place] = 1
                expected["example_numbers"][row, place] = number + 1
                expected["positions"][row, place] = i
                expected["kind"][row, place] = 10 * row + number
                place += 1
    np.testing.assert_array_equal(found, expected["values"])
    assert found.dtype == np.int32
    for name in ("input_mask", "example_numbers", "positions"):
        assert inputs[name].dtype == tf.int32
        np.testing.assert_array_equal(inputs[name], expected[name])
    np.testing.assert_array_equal(inputs["cls_positions"], starts)
    np.testing.assert_array_equal(inputs["example_weights"], (lengths > 0).astype(np.float32))
    kinds = layout.of_examples(10 * np.arange(3)[:, None] + np.arange(3)).numpy()
    np.testing.assert_array_equal(kinds[layout.inside], expected["kind"][layout.inside])

"""Tests of bert_tf.input_pipeline: plans by counting, batches against naive padding."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from bert_tf.config import Classification
from bert_tf.context_windows import pack_windows
from bert_tf.input_pipeline import (
    LENGTH_MULTIPLE,
    SORT_WINDOW,
    Features,
    batches,
    evaluation_plan,
    filled,
    shared_batches,
    training_plan,
)
from bert_tf.packing import PackedTexts, RaggedIds
from bert_tf.tasks.feature_runner import FeatureRunner


def lengths_of(n, seed=0):
    return np.random.default_rng(seed).integers(3, 30, n)


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(12)
    lengths = lengths_of(23)
    values = rng.integers(5, 100, lengths.sum()).astype(np.int32)
    splits = np.concatenate([[0], np.cumsum(lengths)])
    starts = rng.integers(2, lengths + 1)
    starts[3] = lengths[3]  # one segment only
    return Features(
        PackedTexts(RaggedIds(values, splits), starts, 0), {"label_ids": np.arange(23) % 4}
    )


def naive(features, rows, fixed_length=None, length_multiple=LENGTH_MULTIPLE):
    """What a batch is, row by row."""
    splits = features.texts.input_ids.row_splits
    texts = [features.texts.input_ids.values[splits[r] : splits[r + 1]] for r in rows]
    longest = max(map(len, texts))
    size = fixed_length or -(-longest // length_multiple) * length_multiple
    batch = {
        name: np.zeros((len(rows), size), np.int32)
        for name in ("input_ids", "input_mask", "segment_ids")
    }
    for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
        batch["input_ids"][i, : len(text)] = text
        batch["input_mask"][i, : len(text)] = 1
        batch["segment_ids"][i, features.texts.segment_starts[row] : len(text)] = 1
    batch["example_ids"] = np.array(rows)
    return batch | {name: values[rows] for name, values in features.labels.items()}


def assert_same_batch(actual, expected):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype, name
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


# --- plans --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "batch_size", "num_steps"), [(23, 5, 92), (7, 3, 70), (100, 9, 11)])
def test_a_training_plan_takes_each_epochs_examples_once(n, batch_size, num_steps):
    plan = training_plan(lengths_of(n), batch_size, num_steps, seed=3)
    assert plan.shape == (num_steps, batch_size)
    assert plan.dtype == np.int64
    # At the end of every window, no example is more than one epoch ahead of another.
    for stop in (*range(SORT_WINDOW, num_steps, SORT_WINDOW), num_steps):
        counts = np.bincount(plan[:stop].ravel(), minlength=n)
        assert counts.max() - counts.min() <= 1
        assert counts.sum() == stop * batch_size


def test_whole_epochs_are_whole():
    plan = training_plan(lengths_of(24), 6, 3 * 4, seed=1)
    assert np.bincount(plan.ravel()).tolist() == [3] * 24
    windows = training_plan(lengths_of(SORT_WINDOW * 5), 5, SORT_WINDOW * 2, seed=1)
    for epoch in (windows[:SORT_WINDOW], windows[SORT_WINDOW:]):
        assert sorted(epoch.ravel()) == list(range(SORT_WINDOW * 5))
    assert (windows[:SORT_WINDOW] != windows[SORT_WINDOW:]).any()


def test_every_epoch_is_shuffled_anew():
    # Equal lengths leave the shuffled order as it is inside a window, which is one epoch here.
    plan = training_plan(np.full(SORT_WINDOW * 5, 9), 5, SORT_WINDOW * 3, seed=1)
    batches_of = [
        {frozenset(batch) for batch in epoch} for epoch in plan.reshape(3, SORT_WINDOW, 5).tolist()
    ]
    assert len(set.union(*batches_of)) == 3 * SORT_WINDOW


def test_a_training_plan_is_a_function_of_its_seed():
    lengths = lengths_of(50)
    plan = training_plan(lengths, 7, 100, seed=5)
    np.testing.assert_array_equal(training_plan(lengths, 7, 100, seed=5), plan)
    assert (training_plan(lengths, 7, 100, seed=6) != plan).mean() > 0.9


def test_a_step_does_not_depend_on_how_many_follow():
    lengths = lengths_of(50)
    whole = 3 * SORT_WINDOW
    short = training_plan(lengths, 7, whole, seed=5)
    np.testing.assert_array_equal(training_plan(lengths, 7, whole + 41, seed=5)[:whole], short)


def test_batches_of_training_hold_rows_of_similar_length():
    lengths = np.random.default_rng(2).integers(3, 128, 1000)
    plan = training_plan(lengths, 8, 3 * SORT_WINDOW, seed=5)
    padded = lengths[plan].max(axis=1).sum() * 8
    unsorted = lengths[np.random.default_rng(3).permutation(plan.ravel())].reshape(-1, 8)
    assert lengths[plan].sum() / padded > 0.93 > unsorted.sum() / (unsorted.max(axis=1).sum() * 8)
    # But not in the order of their lengths, and with other neighbours each time.
    first = lengths[plan[:SORT_WINDOW]].max(axis=1)
    assert 0 < np.sum(np.diff(first) > 0) < SORT_WINDOW - 1
    neighbours = [set(row) for row in plan.tolist() if 0 in row]
    assert len({frozenset(row) for row in neighbours}) == len(neighbours)


def test_a_spread_plan_has_the_windows_of_the_other_and_batches_of_equal_length():
    lengths = np.random.default_rng(2).integers(3, 128, 300)
    plan = training_plan(lengths, 8, 2 * SORT_WINDOW + 9, seed=5)
    spread = training_plan(lengths, 8, 2 * SORT_WINDOW + 9, seed=5, is_spread=True)
    assert spread.dtype == np.int64
    for first in range(0, len(plan), SORT_WINDOW):
        window, other = (p[first : first + SORT_WINDOW] for p in (plan, spread))
        assert sorted(window.ravel()) == sorted(other.ravel())
        assert np.ptp(lengths[other].sum(axis=1)) < 128
        assert np.ptp(lengths[window].sum(axis=1)) > 500


def test_an_evaluation_plan_takes_each_example_once_the_longest_first():
    lengths = lengths_of(23)
    plan = evaluation_plan(lengths, 5)
    assert plan.shape == (5, 5)
    flat = plan.ravel()
    assert flat[23:].tolist() == [-1, -1]
    assert sorted(flat[:23]) == list(range(23))
    assert (np.diff(lengths[flat[:23]]) <= 0).all()
    assert evaluation_plan(lengths, 23).shape == (1, 23)
    assert evaluation_plan(lengths[:0], 5).shape == (0, 5)


# --- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fixed_length", [None, 32])
def test_batches_equal_naive_padding(features, fixed_length):
    plan = training_plan(features.texts.input_ids.lengths, 4, 9, seed=1)
    dataset = batches(features, plan, fixed_length)
    assert dataset.element_spec["input_ids"].shape.as_list() == [4, fixed_length]
    assert int(dataset.cardinality()) == 9
    for batch, rows in zip(dataset.as_numpy_iterator(), plan, strict=True):
        assert_same_batch(batch, naive(features, rows, fixed_length))


def test_rounding_up_stops_at_the_longest_that_a_model_takes(features):
    lengths = features.texts.input_ids.lengths
    longest = int(lengths.max())
    assert longest % 8  # else there is nothing to see
    plan = evaluation_plan(lengths, 5)
    bounded = list(batches(features, plan, max_length=longest).as_numpy_iterator())
    rounded = list(batches(features, plan).as_numpy_iterator())
    assert bounded[0]["input_ids"].shape[1] == longest < rounded[0]["input_ids"].shape[1]
    for batch, other in zip(bounded, rounded, strict=True):
        for name in ("input_ids", "input_mask", "segment_ids"):
            np.testing.assert_array_equal(batch[name], other[name][:, :longest])


@pytest.mark.parametrize("xla", [False, True])
def test_lengths_are_rounded_up_for_xla_only(features, xla):
    settings = Classification(do_eval=True, output_dir="run", data_dir="data", xla=xla)
    plan = evaluation_plan(features.texts.input_ids.lengths, 5)
    dataset = FeatureRunner(settings, None, None).batches(features, plan)
    for batch, rows in zip(dataset.as_numpy_iterator(), plan, strict=True):
        expected = naive(features, rows[rows >= 0], length_multiple=LENGTH_MULTIPLE if xla else 1)
        assert_same_batch(batch, expected)


def test_the_last_batch_of_an_evaluation_is_smaller(features):
    plan = evaluation_plan(features.texts.input_ids.lengths, 5)
    seen = []
    for batch, rows in zip(batches(features, plan).as_numpy_iterator(), plan, strict=True):
        assert_same_batch(batch, naive(features, rows[rows >= 0]))
        seen += batch["example_ids"].tolist()
    assert len(batch["example_ids"]) == 3
    assert sorted(seen) == list(range(23))


def test_batches_of_one_size_are_filled_up_with_zeros(features):
    plan = evaluation_plan(features.texts.input_ids.lengths, 5)
    as_they_come = batches(features, plan, fixed_length=32)
    whole = filled(as_they_come, 5)
    for name, spec in as_they_come.element_spec.items():
        assert whole.element_spec[name].shape.as_list() == [5, *spec.shape[1:]]
    for batch, smaller in zip(whole, as_they_come, strict=True):
        size = len(smaller["example_ids"])
        assert batch["example_weights"].numpy().tolist() == [1.0] * size + [0.0] * (5 - size)
        for name, values in smaller.items():
            np.testing.assert_array_equal(batch[name][:size], values)
            assert (batch[name][size:].numpy() == (-1 if name == "example_ids" else 0)).all()
    assert size == 3


def test_examples_of_an_evaluation_stay_in_their_window():
    lengths = lengths_of(29)
    plan = evaluation_plan(lengths, 3, window=4)
    seen = [row for row in plan.flatten().tolist() if row >= 0]
    for start in range(0, 29, 12):
        window = range(start, min(start + 12, 29))
        expected = sorted(window, key=lambda row: (-lengths[row], row))
        assert seen[start : start + 12] == expected
    assert plan[-1].tolist() == [seen[27], seen[28], -1]


def test_a_resumed_plan_gives_the_tail(features):
    plan = training_plan(features.texts.input_ids.lengths, 4, 9, seed=1)
    whole = list(batches(features, plan).as_numpy_iterator())
    tail = list(batches(features, plan[6:]).as_numpy_iterator())
    assert len(tail) == 3
    for batch, expected in zip(tail, whole[6:], strict=True):
        assert_same_batch(batch, expected)


def test_batches_inside_a_graph_equal_those_outside(features):
    plan = evaluation_plan(features.texts.input_ids.lengths, 5)[:3]

    @tf.function
    def total():
        return batches(features, plan).reduce(
            0, lambda sum, batch: sum + tf.reduce_sum(batch["input_ids"] * batch["segment_ids"])
        )

    expected = [naive(features, rows) for rows in plan]
    assert int(total()) == sum((b["input_ids"] * b["segment_ids"]).sum() for b in expected)


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"label_ids": np.linspace(0, 5, 23).astype(np.float32)},
        {"label_ids": np.eye(23, 3, dtype=np.float32), "start_positions": np.arange(23)},
    ],
)
def test_labels_of_every_kind(features, labels):
    plan = np.array([[4, 0, 22]])
    labelled = Features(features.texts, labels)
    (batch,) = batches(labelled, plan).as_numpy_iterator()
    assert_same_batch(batch, naive(labelled, plan[0]))
    assert set(labels) <= set(batch)


@pytest.mark.parametrize("fixed_length", [None, 64])
def test_ragged_values_are_padded_with_zeros(features, fixed_length):
    lengths = np.arange(23) % 12
    splits = np.concatenate([[0], np.cumsum(lengths)])
    values = np.arange(1, splits[-1] + 1, dtype=np.int32)
    more = Features(features.texts, ragged={"word_starts": RaggedIds(values, splits)})
    plan = np.array([[10, 0, 22], [2, 1, -1]])
    found = list(batches(more, plan, fixed_length).as_numpy_iterator())
    for batch, rows in zip(found, ([10, 0, 22], [2, 1]), strict=True):
        longest = -(-max(lengths[rows]) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        expected = np.zeros((len(rows), fixed_length or longest), np.int32)
        for i, row in enumerate(rows):
            expected[i, : lengths[row]] = values[splits[row] : splits[row + 1]]
        np.testing.assert_array_equal(batch["word_starts"], expected)
        assert batch["word_starts"].dtype == np.int32
        np.testing.assert_array_equal(batch["example_ids"], rows)


def test_features_know_how_many_they_are(features):
    assert len(features) == 23
    assert len(Features(features.texts, row_splits=np.array([0, 20, 23]))) == 2


@pytest.mark.parametrize("fixed_length", [None, 32])
def test_examples_of_several_rows(features, fixed_length):
    splits = np.array([0, 2, 5, 6, 10, 23])
    grouped = Features(features.texts, {"label_ids": np.arange(5)}, row_splits=splits)
    row_lengths = features.texts.input_ids.lengths
    assert grouped.lengths.tolist() == [
        (last - first) * row_lengths[first:last].max() for first, last in itertools.pairwise(splits)
    ]
    plan = np.array([[1, 0, 3], [2, -1, -1]])
    dataset = batches(grouped, plan, fixed_length)
    most = None if fixed_length is None else 13
    assert dataset.element_spec["input_ids"].shape.as_list() == [None, most, fixed_length]
    for batch, examples in zip(dataset.as_numpy_iterator(), ([1, 0, 3], [2]), strict=True):
        assert batch["example_ids"].tolist() == batch["label_ids"].tolist() == examples
        rows = [list(range(splits[i], splits[i + 1])) for i in examples]
        size = most or max(map(len, rows))
        flat = naive(features, list(itertools.chain.from_iterable(rows)), fixed_length)
        for name in ("input_ids", "input_mask", "segment_ids"):
            expected = np.zeros((len(rows), size, flat[name].shape[1]), np.int32)
            done = 0
            for number, of_example in enumerate(rows):
                expected[number, : len(of_example)] = flat[name][done : done + len(of_example)]
                done += len(of_example)
            np.testing.assert_array_equal(batch[name], expected)


@pytest.mark.parametrize("fixed_length", [None, 24])
def test_windows_over_contexts_equal_rows_put_together_one_by_one(fixed_length):
    rng = np.random.default_rng(4)

    def ragged(lengths):
        splits = np.concatenate([[0], np.cumsum(lengths)])
        return RaggedIds(rng.integers(10, 99, splits[-1]).astype(np.int32), splits)

    questions, contexts = ragged([3, 0, 5, 2]), ragged([40, 1, 17])
    context_of = np.array([2, 0, 0, 1])
    packed = pack_windows(
        questions, contexts, context_of,
        max_seq_length=24, max_query_length=4, doc_stride=7, cls_id=2, sep_id=3,
    )  # fmt: skip
    assert packed.num_truncated == 1
    rows = []
    for question, start, length in zip(
        packed.windows.questions, packed.windows.starts, packed.windows.lengths, strict=True
    ):
        asked, context = (
            ids.values[ids.row_splits[row] : ids.row_splits[row + 1]].tolist()
            for ids, row in ((questions, question), (contexts, context_of[question]))
        )
        rows.append([[2, *asked[:4], 3], [*context[start : start + length], 3]])
    assert len(rows) > 10
    flat = [piece for one, other in rows for piece in one + other]
    lengths = [len(one) + len(other) for one, other in rows]
    texts = PackedTexts(
        RaggedIds(np.array(flat, np.int32), np.concatenate([[0], np.cumsum(lengths)])),
        np.array([len(one) for one, _ in rows]),
        0,
    )
    assert packed.lengths.tolist() == lengths
    plan = evaluation_plan(packed.lengths, 4)
    for windows, batch in zip(
        batches(Features(packed), plan, fixed_length).as_numpy_iterator(),
        batches(Features(texts), plan, fixed_length).as_numpy_iterator(),
        strict=True,
    ):
        assert_same_batch(windows, batch)
    plan = np.arange(8).reshape(2, 2, 2)
    for windows, batch in zip(
        shared_batches(Features(packed), plan, 50).as_numpy_iterator(),
        shared_batches(Features(texts), plan, 50).as_numpy_iterator(),
        strict=True,
    ):
        assert_same_batch(windows, batch)


def test_shared_batches_equal_naive_rows(features):
    ragged = RaggedIds(np.arange(100, 100 + 46, dtype=np.int32), 2 * np.arange(24))
    starts = RaggedIds(np.tile([1, 2], 23).astype(np.int32), ragged.row_splits)
    features = dataclasses.replace(features, ragged={"label_ids": ragged, "word_starts": starts})
    numbers = np.arange(23)
    labels = {"value": numbers.astype(np.float32), "end_positions": (numbers % 4).astype(np.int32)}
    features = dataclasses.replace(features, labels=labels)
    lengths = features.lengths
    plan = np.array([[[3, 5, -1], [-1, -1, -1]], [[22, -1, -1], [0, 7, 9]]])
    assert lengths[[0, 7, 9]].sum() < 70
    found = list(shared_batches(features, plan, 70).as_numpy_iterator())
    for batch, rows in zip(found, plan, strict=True):
        for number, row in enumerate(rows):
            row = row[row >= 0]
            alone = [naive(features, [example], int(lengths[example])) for example in row]
            begins = np.concatenate([[0], np.cumsum(lengths[row])]).astype(int)

            def padded(parts):
                values = np.concatenate([[], *parts])
                return np.pad(values, (0, 70 - len(values)))

            expected = {
                name: padded([one[name][0] for one in alone])
                for name in ("input_ids", "input_mask", "segment_ids")
            }
            pairs = list(enumerate(row))
            expected["example_numbers"] = padded([[k + 1] * lengths[e] for k, e in pairs])
            expected["positions"] = padded([range(lengths[e]) for e in row])
            expected["label_ids"] = padded([[100 + 2 * e, 101 + 2 * e] for e in row])
            expected["word_starts"] = padded([[begins[k] + 1, begins[k] + 2] for k, _ in pairs])
            for name, values in expected.items():
                assert batch[name].dtype == np.int32
                np.testing.assert_array_equal(batch[name][number], values, err_msg=name)
            assert batch["cls_positions"][number, : len(row)].tolist() == begins[:-1].tolist()
            assert batch["value"][number, : len(row)].tolist() == row.tolist()
            ends = batch["end_positions"][number]
            assert ends.dtype == np.int32
            assert ends.tolist() == [*(begins[:-1] + row % 4), *[0] * (3 - len(row))]
            assert batch["example_weights"][number].tolist() == [
                float(k < len(row)) for k in range(3)
            ]

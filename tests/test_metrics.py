"""Tests of bert_tf.metrics: each number against its definition, computed in plain Python."""

import itertools
import math

import numpy as np
import pytest

from bert_tf.errors import InputError
from bert_tf.metrics import CLASSIFICATION_METRICS, classification_metrics


def metric(task_type, name, logits, labels):
    (value,) = classification_metrics(task_type, [name], np.asarray(logits), labels).values()
    assert type(value) is float
    return value


def first_largest(row):
    return max(range(len(row)), key=lambda k: (row[k], -k))


def f1_by_counting(pairs):
    """F1 of (is given, is predicted) decisions."""
    pairs = list(pairs)
    hits = sum(given and predicted for given, predicted in pairs)
    total = sum(given for given, _ in pairs) + sum(predicted for _, predicted in pairs)
    return 2 * hits / total if total else 0.0


def pearson_by_definition(x, y):
    x, y = [float(v) for v in x], [float(v) for v in y]
    if len(set(x)) == 1 or len(set(y)) == 1:
        return 0.0
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    covariance = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    square_x = math.fsum((a - mean_x) ** 2 for a in x)
    square_y = math.fsum((b - mean_y) ** 2 for b in y)
    return covariance / math.sqrt(square_x * square_y)


def ranks_by_counting(x):
    """The mean place, from 1, of each number among the sorted ones."""
    return [sum(b < a for b in x) + (sum(b == a for b in x) + 1) / 2 for a in x]


def auc_by_counting(scores, given):
    """The share of (has the label, has it not) pairs of examples in the right order."""
    positive = [s for s, g in zip(scores, given, strict=True) if g]
    negative = [s for s, g in zip(scores, given, strict=True) if not g]
    wins = sum((p > n) + 0.5 * (p == n) for p, n in itertools.product(positive, negative))
    return wins / (len(positive) * len(negative))


def correlation_of_classes(predictions, labels, num_labels):
    """Matthews' coefficient for any number of classes: Pearson's over one-hot vectors (R_K)."""
    n = len(labels)

    def covariance(x, y):
        return sum(
            math.fsum(
                ((a == k) - x.count(k) / n) * ((b == k) - y.count(k) / n)
                for a, b in zip(x, y, strict=True)
            )
            for k in range(num_labels)
        )

    product = covariance(predictions, predictions) * covariance(labels, labels)
    return covariance(predictions, labels) / math.sqrt(product) if product > 1e-12 else 0.0


SIZES = [(1, 2), (3, 2), (7, 3), (23, 2), (41, 5)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("num_examples", "num_labels"), SIZES)
def test_single_label(num_examples, num_labels, seed):
    generator = np.random.default_rng(seed)
    # Few different values, so that the largest logit is often not alone.
    logits = generator.integers(0, 4, [num_examples, num_labels]).astype(np.float32)
    labels = generator.integers(0, num_labels, num_examples).astype(np.int32)
    predictions = [first_largest(row) for row in logits.tolist()]
    given = labels.tolist()
    f1s = [
        f1_by_counting((g == k, p == k) for g, p in zip(given, predictions, strict=True))
        for k in range(num_labels)
    ]
    expected = {
        "accuracy": sum(map(int.__eq__, predictions, given)) / num_examples,
        "f1": f1s[1],
        "f1_macro": sum(f1s) / num_labels,
        "mcc": correlation_of_classes(predictions, given, num_labels),
    }
    result = classification_metrics("single_label", list(expected), logits, labels)
    assert result == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("num_examples", "num_labels"), SIZES)
def test_multi_label(num_examples, num_labels, seed):
    generator = np.random.default_rng(seed)
    # Whole numbers, so that there are ties, and logits of exactly 0, which predict nothing.
    logits = generator.integers(-2, 3, [num_examples, num_labels]).astype(np.float32)
    labels = (generator.random([num_examples, num_labels]) < 0.4).astype(np.float32)
    pairs = [
        [(bool(g), logit > 0) for g, logit in zip(given, row, strict=True)]
        for given, row in zip(labels.tolist(), logits.tolist(), strict=True)
    ]
    columns = list(zip(*pairs, strict=True))
    aucs = [
        auc_by_counting(logits[:, k].tolist(), labels[:, k].tolist())
        for k in range(num_labels)
        if 0 < labels[:, k].sum() < num_examples
    ]
    expected = {
        "accuracy": sum(all(g == p for g, p in row) for row in pairs) / num_examples,
        "f1_micro": f1_by_counting(itertools.chain(*pairs)),
        "f1_macro": sum(map(f1_by_counting, columns)) / num_labels,
        "auc": sum(aucs) / len(aucs) if aucs else 0.0,
    }
    result = classification_metrics("multi_label", list(expected), logits, labels)
    assert result == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_examples", [2, 3, 11, 29])
@pytest.mark.parametrize("values", [3, 1000])
def test_regression(num_examples, seed, values):
    generator = np.random.default_rng(seed)
    logits = (generator.integers(0, values, [num_examples, 1]) / 7).astype(np.float32)
    labels = (generator.integers(0, values, num_examples) / 5).astype(np.float32)
    x, y = logits[:, 0].tolist(), labels.tolist()
    expected = {
        "pearson": pearson_by_definition(x, y),
        "spearman": pearson_by_definition(ranks_by_counting(x), ranks_by_counting(y)),
    }
    result = classification_metrics("regression", list(expected), logits, labels)
    assert result == pytest.approx(expected, abs=1e-6)


def test_a_small_case_by_hand():
    logits = np.array([[2, 1], [0, 1], [3, 0], [0, 9], [1, 5]], np.float32)
    labels = np.array([0, 1, 1, 1, 0], np.int32)
    result = classification_metrics("single_label", ["accuracy", "f1", "mcc"], logits, labels)
    # True positives 2, false positives 1, false negatives 1, true negatives 1.
    expected = {"accuracy": 3 / 5, "f1": 4 / 6, "mcc": (2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2)}
    assert result == pytest.approx(expected)


ONE_CLASS = [[0.0, 1.0]] * 5


@pytest.mark.parametrize(
    ("name", "logits", "labels", "expected"),
    [
        ("mcc", ONE_CLASS, [0, 1, 1, 0, 1], 0.0),
        ("mcc", [[0, 1], [1, 0], [1, 0]], [1, 1, 1], 0.0),
        ("mcc", ONE_CLASS, [1] * 5, 0.0),
        ("mcc", [[0, 1], [1, 0], [1, 0]], [1, 0, 0], 1.0),
        ("mcc", [[0, 1], [1, 0], [1, 0]], [0, 1, 1], -1.0),
        ("f1", [[1, 0]] * 3, [0, 0, 0], 0.0),
        ("f1", [[1, 0]] * 3, [0, 1, 0], 0.0),
        ("f1", ONE_CLASS, [1] * 5, 1.0),
        ("f1_macro", ONE_CLASS, [1] * 5, 0.5),
        ("accuracy", [[1, 1]] * 3, [0, 1, 0], 2 / 3),
    ],
)
def test_degenerate_single_label(name, logits, labels, expected):
    logits = np.array(logits, np.float32)
    assert metric("single_label", name, logits, np.array(labels, np.int32)) == expected


@pytest.mark.parametrize(
    ("name", "logits", "labels", "expected"),
    [
        # No label anywhere and none predicted: every example is right, and F1 has nothing to count.
        ("accuracy", [[-1, -1, -1]] * 2, [[0, 0, 0]] * 2, 1.0),
        ("f1_micro", [[-1, -1, -1]] * 2, [[0, 0, 0]] * 2, 0.0),
        ("f1_macro", [[-1, -1, -1]] * 2, [[0, 0, 0]] * 2, 0.0),
        ("auc", [[-1, -1, -1]] * 2, [[0, 0, 0]] * 2, 0.0),
        ("auc", [[1, 1, 1]] * 2, [[1, 1, 1]] * 2, 0.0),
        # Only the second label is on some examples and not on others.
        ("auc", [[9, 2, 9], [0, 3, 0]], [[0, 0, 1], [0, 1, 1]], 1.0),
        ("auc", [[5, 5]] * 3, [[0, 1], [1, 0], [1, 1]], 0.5),
    ],
)
def test_degenerate_multi_label(name, logits, labels, expected):
    logits, labels = np.array(logits, np.float32), np.array(labels, np.float32)
    assert metric("multi_label", name, logits, labels) == expected


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize(
    ("logits", "labels", "expected"),
    [
        ([2.5] * 4, [1.0, 2.0, 3.0, 4.0], 0.0),
        ([1.0, 2.0, 3.0], [4.5] * 3, 0.0),
        ([2.0], [3.0], 0.0),
        ([1.0, 2.0, 4.0], [2.0, 4.0, 8.0], 1.0),
        ([1.0, 2.0, 4.0], [-2.0, -4.0, -8.0], -1.0),
    ],
)
def test_degenerate_regression(name, logits, labels, expected):
    logits, labels = np.array(logits, np.float32)[:, None], np.array(labels, np.float32)
    assert metric("regression", name, logits, labels) == pytest.approx(expected, abs=1e-12)


def test_nearly_constant_predictions():
    logits = np.full([9, 1], 1e6, np.float32)
    logits[4] = np.nextafter(np.float32(1e6), np.float32(2e6))
    labels = np.arange(9, dtype=np.float32)
    labels[4] = 100.0
    assert metric("regression", "pearson", logits, labels) == pytest.approx(
        pearson_by_definition(logits[:, 0], labels), abs=1e-6
    )


def test_predictions_as_far_apart_as_float32_allows():
    logits = np.array([[-3.4e38], [3.4e38], [0]], np.float32)
    labels = np.array([0, 2, 1], np.float32)
    assert metric("regression", "pearson", logits, labels) == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_outputs_that_are_not_finite(bad):
    logits = np.zeros([3, 5], np.float32)
    logits[2, 1] = bad
    with pytest.raises(InputError, match="1 of the model's 15 outputs are not finite"):
        classification_metrics("single_label", ["accuracy"], logits, np.zeros(3, np.int32))


def test_results_keep_the_order_of_the_names():
    names = ["f1", "accuracy"]
    logits, labels = np.eye(2, dtype=np.float32), np.array([0, 1], np.int32)
    assert list(classification_metrics("single_label", names, logits, labels)) == names
    assert set(CLASSIFICATION_METRICS) == {"single_label", "multi_label", "regression"}

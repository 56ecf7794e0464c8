"""Tests of a classifier's error views: the file of errors, the pictures, the calibration."""

import json
import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from bert_tf.tasks.classification_data import Examples
from bert_tf.tasks.error_views import MOST_ERRORS, write_errors
from bert_tf.tasks.label_errors import write_views

NAMES = ("$no$5_$", "yes \u732b", "maybe" * 20)


def make_examples(labels, pairs=False):
    size = len(labels)
    return Examples(
        pathlib.Path("dev.tsv"),
        list(range(2, size + 2)),
        [f"text {i}" for i in range(size)],
        [f"other {i}" for i in range(size)] if pairs else None,
        labels,
    )


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def pictures(folder):
    """Name, step and [height, width, channels] of each picture that TensorBoard is given."""
    found = {}
    for path in folder.glob("events.out.tfevents.*"):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                encoded = value.tensor.string_val[2]
                found[value.tag] = event.step, tf.io.decode_png(encoded).shape.as_list()
    return found


def test_views_of_single_labels(tmp_path):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(17, 3)).astype(np.float32) * 2
    labels = rng.integers(0, 3, 17).astype(np.int32)
    found = write_views(
        tmp_path, "single_label", NAMES, make_examples(labels, pairs=True), logits, step=7
    )
    expected = []
    for row in range(17):
        exponentials = [math.exp(value) for value in logits[row].tolist()]
        predicted = exponentials.index(max(exponentials))
        if predicted != labels[row]:
            said = {
                "line": row + 2,
                "text": f"text {row}",
                "text_b": f"other {row}",
                "label": NAMES[labels[row]],
                "predicted": NAMES[predicted],
            }
            loss = -math.log(exponentials[labels[row]] / sum(exponentials))
            expected.append((loss, max(exponentials) / sum(exponentials), said))
    expected.sort(key=lambda item: -item[0])
    written = read(tmp_path / "eval_errors.jsonl")
    assert [error.pop("loss") for error in written] == pytest.approx([e[0] for e in expected])
    assert [error.pop("score") for error in written] == pytest.approx([e[1] for e in expected])
    assert written == [said for _, _, said in expected]
    assert 0 < found["ece"] < 1
    for name in ("confusion_matrix", "calibration"):
        drawn = tf.io.decode_png((tmp_path / f"{name}.png").read_bytes())
        assert pictures(tmp_path)[name] == (7, drawn.shape.as_list())
        assert drawn.numpy().std() > 10  # something is drawn


def test_views_of_several_labels(tmp_path):
    logits = np.array([[2.0, -1, 0.5], [-3, -3, -3], [1, 1, -1]], np.float32)
    labels = np.array([[1, 0, 1], [0, 1, 1], [1, 0, 0]], np.float32)
    found = write_views(
        tmp_path, "multi_label", NAMES, make_examples(labels), logits, step=1, part="mm"
    )
    first, second = read(tmp_path / "eval_errors_mm.jsonl")
    assert (first["labels"], first["predicted"], first["line"]) == ([*NAMES[1:]], [], 3)
    assert (second["labels"], second["predicted"]) == ([NAMES[0]], [*NAMES[:2]])
    sigmoid = [1 / (1 + math.exp(-value)) for value in (1.0, 1.0, -1.0)]
    loss = -math.log(sigmoid[0]) - math.log(1 - sigmoid[1]) - math.log(1 - sigmoid[2])
    assert second["loss"] == pytest.approx(loss)
    assert set(found) == {"ece"}
    assert (tmp_path / "calibration_mm.png").exists()
    assert not (tmp_path / "confusion_matrix_mm.png").exists()


def test_views_of_numbers(tmp_path):
    logits = np.array([[1.0], [4.0], [2.5]], np.float32)
    labels = np.array([1.5, 2.0, 2.5], np.float32)
    assert write_views(tmp_path, "regression", (), make_examples(labels), logits, step=1) == {}
    written = read(tmp_path / "eval_errors.jsonl")
    assert [(error["loss"], error["label"]) for error in written] == [
        (4.0, 2.0),
        (0.25, 1.5),
        (0.0, 2.5),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["eval_errors.jsonl"]


def test_half_of_a_surrogate_pair_is_written_as_json_writes_it(tmp_path):
    write_errors(tmp_path, [(1.0, {"text": "\ud83d caf\u00e9"})])
    assert read(tmp_path / "eval_errors.jsonl")[0]["text"] == "\ud83d caf\u00e9"
    assert "caf\u00e9" in (tmp_path / "eval_errors.jsonl").read_text()


def test_only_the_worst_are_written(tmp_path):
    write_errors(tmp_path, ((float(i), {}) for i in range(MOST_ERRORS + 50)))
    losses = [error["loss"] for error in read(tmp_path / "eval_errors.jsonl")]
    assert losses == [float(i) for i in range(MOST_ERRORS + 49, 49, -1)]

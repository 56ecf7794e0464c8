"""Takes a classifier's logits on labelled examples, returns views of its errors; next: tasks.

Axes: n = number of examples, L = num_labels.
"""

import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from bert_tf.calibration import Calibration, calibrate
from bert_tf.tasks import error_views
from bert_tf.tasks.classification_data import Examples


def write_views(
    folder: pathlib.Path,
    task_type: str,
    names: tuple[str, ...],
    examples: Examples,
    logits: np.ndarray,
    *,
    step: int,
    part: str = "",
) -> dict[str, float]:
    """Writes the worst errors, the confusion matrix of single labels, and the calibration.

    Args:
        folder: the run's.
        task_type: single_label, multi_label or regression.
        names: of the labels; none for a regression.
        examples: with labels.
        logits: float32 [n, L].
        step: of the training.
        part: which of several dev sets.

    Returns:
        ``ece``, the expected calibration error; nothing for a regression.
    """
    labels = examples.labels
    assert labels is not None
    if task_type == "regression":
        errors = _values(examples, logits[:, 0].astype(np.float64), labels.astype(np.float64))
        error_views.write_errors(folder, errors, part)
        return {}
    if task_type == "single_label":
        predicted = np.argmax(logits, axis=1)
        errors = _single(examples, logits, labels, names)
        error_views.write_confusion(folder, labels, predicted, names, step, part)
        calibration = single_calibration(logits, labels)
    else:
        errors = _several(examples, logits, labels > 0, names)
        calibration = calibrate(scipy.special.expit(logits).ravel(), labels.ravel() > 0)
    error_views.write_errors(folder, errors, part)
    error_views.write_calibration(folder, calibration, step, part)
    return {"ece": calibration.error}


def single_calibration(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Of the likeliest labels: float32 [n, L] and int [n], the right ones."""
    confidences = scipy.special.softmax(logits.astype(np.float64), axis=1).max(axis=1)
    return calibrate(confidences, np.argmax(logits, axis=1) == labels)


class WrongLabel(NamedTuple):
    """A wrong prediction.

    Attributes:
        row: of the example.
        predicted: the label.
        score: its probability.
        loss: the negative log-probability of the right label, in nats.
    """

    row: int
    predicted: int
    score: float
    loss: float


def wrong_labels(logits: np.ndarray, labels: np.ndarray) -> Iterator[WrongLabel]:
    """The wrong ones among single labels: float32 [n, L] and int [n], the right ones."""
    log_probs = scipy.special.log_softmax(logits.astype(np.float64), axis=1)
    predicted = np.argmax(logits, axis=1)
    for row in np.flatnonzero(predicted != labels).tolist():
        of_row = log_probs[row]
        score = float(np.exp(of_row[predicted[row]]))
        yield WrongLabel(row, int(predicted[row]), score, -float(of_row[labels[row]]))


_Errors = Iterator[tuple[float, dict[str, Any]]]


def _single(
    examples: Examples,
    logits: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...],
) -> _Errors:
    for wrong in wrong_labels(logits, labels):
        said = {
            "label": names[labels[wrong.row]],
            "predicted": names[wrong.predicted],
            "score": wrong.score,
        }
        yield wrong.loss, _texts(examples, wrong.row) | said


def _several(
    examples: Examples, logits: np.ndarray, labels: np.ndarray, names: tuple[str, ...]
) -> _Errors:
    signs = np.where(labels, 1.0, -1.0)
    losses = -np.sum(scipy.special.log_expit(signs * logits), axis=1)
    predicted = logits > 0
    for row in np.flatnonzero(np.any(predicted != labels, axis=1)).tolist():
        said = {
            "labels": [names[k] for k in np.flatnonzero(labels[row])],
            "predicted": [names[k] for k in np.flatnonzero(predicted[row])],
        }
        yield float(losses[row]), _texts(examples, row) | said


def _values(examples: Examples, predicted: np.ndarray, labels: np.ndarray) -> _Errors:
    for row, (value, right) in enumerate(zip(predicted.tolist(), labels.tolist(), strict=True)):
        said = {"label": right, "predicted": value}
        yield (value - right) ** 2, _texts(examples, row) | said


def _texts(examples: Examples, row: int) -> dict[str, Any]:
    """Where an example is and what it says."""
    said: dict[str, Any] = {"line": examples.lines[row], "text": examples.text_a[row]}
    if examples.text_b is not None:
        said["text_b"] = examples.text_b[row]
    return said

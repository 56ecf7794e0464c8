"""Takes a trained classifier and texts, returns named labels; next: predictor."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_tf.config import ModelFiles
from bert_tf.errors import InputError
from bert_tf.tasks import classification
from bert_tf.tasks.task_predictor import NameOf, Text, is_pair, parse_pair
from bert_tf.tasks.text_classifier import LABEL_THRESHOLD, TextClassifier


def load(model: pathlib.Path | ModelFiles) -> "LabelPredictor":
    """The predictor of a finished run's folder.

    Raises:
        InputError: if the folder holds no trained classifier.
    """
    return LabelPredictor(classification.load(model))


class LabelPredictor:
    """Labels texts, or pairs of texts.

    - One label per text: ``label``, its ``score`` and all ``probabilities``;
    - several labels: ``labels`` (those above one half), and the same three, ``label`` being the
      likeliest;
    - regression: ``score``, the value.

    Args:
        classifier: a trained one.

    Attributes:
        takes_pairs: whether it takes pairs of texts.
    """

    def __init__(self, classifier: TextClassifier) -> None:
        self._classifier = classifier
        self.takes_pairs = classification.takes_pairs(classifier)

    def parse(self, line: str, name: str) -> Text:
        """See TaskPredictor."""
        if not self.takes_pairs:
            return line
        return parse_pair(line, name)

    def predict(
        self, texts: Sequence[Any], batch_size: int, name_of: NameOf
    ) -> list[dict[str, Any]]:
        """See TaskPredictor."""
        text_a, text_b = self._split(texts, name_of)
        rows = self._classifier.probabilities(text_a, text_b, batch_size)
        results = []
        for i, row in enumerate(rows):
            result: dict[str, Any] = {"text": text_a[i]}
            if text_b is not None:
                result["text_b"] = text_b[i]
            results.append(result | self._named(row))
        return results

    def _named(self, row: np.ndarray) -> dict[str, Any]:
        """What a row of ``probabilities``, float32 [L], says."""
        if self._classifier.task_type == "regression":
            return {"score": float(row[0])}
        labels = self._classifier.labels
        best = int(np.argmax(row))
        named = {
            "label": labels[best],
            "score": float(row[best]),
            "probabilities": dict(zip(labels, map(float, row), strict=True)),
        }
        if self._classifier.task_type == "multi_label":
            chosen = [
                label for label, value in zip(labels, row, strict=True) if value > LABEL_THRESHOLD
            ]
            return {"labels": chosen, **named}
        return named

    def _split(self, texts: Sequence[Any], name_of: NameOf) -> tuple[list[str], list[str] | None]:
        for i, text in enumerate(texts):
            if not (is_pair(text) if self.takes_pairs else isinstance(text, str)):
                wanted = "a pair (str, str)" if self.takes_pairs else "a str"
                raise InputError(f"{name_of(i)} must be {wanted} for this model, but is {text!r}")
        if not self.takes_pairs:
            return list(texts), None
        return [text[0] for text in texts], [text[1] for text in texts]

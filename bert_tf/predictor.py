"""Takes the folder of a trained model, returns labels for texts; next: cli."""

import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from bert_tf.errors import InputError
from bert_tf.tasks import classification
from bert_tf.tasks.text_classifier import TextClassifier

Text = str | tuple[str, str]


class Predictor:
    """Text in, labels out.

    Args:
        classifier: a trained one; ``Predictor.load`` makes it from a folder.
        batch_size: texts that go through the model at once.
    """

    def __init__(self, classifier: TextClassifier, batch_size: int = 32) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, but is {batch_size}")
        self._classifier = classifier
        self.takes_pairs = classification.takes_pairs(classifier)
        self.batch_size = batch_size

    @classmethod
    def load(cls, model_dir: str | os.PathLike[str], batch_size: int = 32) -> "Predictor":
        """Loads a trained model.

        Args:
            model_dir: the ``output_dir`` of a finished training run.
            batch_size: texts that go through the model at once.

        Raises:
            InputError: if the folder holds no trained model.
        """
        return cls(classification.load(pathlib.Path(model_dir)), batch_size)

    def predict(self, texts: Iterable[Text]) -> list[dict[str, Any]]:
        """Predicts.

        Args:
            texts: one str each, or (str, str) for a model of pairs.

        Returns:
            One dict per text: ``text`` (and ``text_b``), and

            - one label per text: ``label``, its ``score`` and all ``probabilities``;
            - several labels: ``labels`` (those above one half), and the same three, ``label``
              being the likeliest;
            - regression: ``score``, the value.

        Raises:
            InputError: for anything but strings or pairs, whichever the model takes.
        """
        text_a, text_b = self._split(texts)
        if not text_a:
            return []
        rows = self._classifier.probabilities(text_a, text_b, self.batch_size)
        results = []
        for i, row in enumerate(rows):
            result: dict[str, Any] = {"text": text_a[i]}
            if text_b is not None:
                result["text_b"] = text_b[i]
            results.append(result | self._named(row))
        return results

    def _named(self, row: np.ndarray) -> dict[str, Any]:
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
            chosen = [label for label, value in zip(labels, row, strict=True) if value > 0.5]
            return {"labels": chosen, **named}
        return named

    def _split(self, texts: Iterable[Text]) -> tuple[list[str], list[str] | None]:
        if isinstance(texts, str):
            raise InputError("predict takes a list of texts, not one text: predict([text])")
        texts = list(texts)
        for i, text in enumerate(texts):
            is_pair = (
                isinstance(text, (tuple, list))
                and len(text) == 2
                and all(isinstance(part, str) for part in text)
            )
            if is_pair is not self.takes_pairs or not (is_pair or isinstance(text, str)):
                wanted = "a pair (str, str)" if self.takes_pairs else "a str"
                raise InputError(f"texts[{i}] must be {wanted} for this model, but is {text!r}")
        if not self.takes_pairs:
            return [str(text) for text in texts], None
        return [text[0] for text in texts], [text[1] for text in texts]

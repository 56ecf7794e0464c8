"""Takes a trained classifier, returns what it exports; next: exporter.

Axes: B texts, S = seq_length, C = windows of a text, L = num_labels, M = most labels of a text.
"""

import functools
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from bert_tf.config import ModelFiles
from bert_tf.export.row_blocks import MOST_ROWS, in_blocks
from bert_tf.export.served_model import (
    DEFAULT,
    TOKENS,
    Arrays,
    ServedModel,
    Signature,
    Tensors,
    label_file,
    measuring,
    merge_projections,
    rows,
    texts,
)
from bert_tf.export.text_rows import RowBuilder
from bert_tf.graph_tokenization import GraphTokenizer
from bert_tf.tasks import classification
from bert_tf.tasks.text_classifier import LABEL_THRESHOLD, TextClassifier
from bert_tf.use_config import Export


def served(model: pathlib.Path | ModelFiles, settings: Export) -> ServedModel:
    """What ``LabelPredictor`` says of texts, or pairs of texts.

    Of each text, as ``Predictor`` has it: ``label``, ``score`` and ``probabilities`` [B, L], whose
    columns ``classes`` names; with several labels per text also ``labels`` [B, M], those above one
    half, filled up with ``""``; for a regression the ``score`` alone.
    """
    classifier = classification.load(model, **settings.changes())
    merge_projections(classifier.model)
    pairs = classification.takes_pairs(classifier)
    answers = _LabelAnswers(classifier, pairs, settings)
    windows = classifier.settings.long_text == "windows"
    sample = {"text": "Where is my parcel?", "text_b": "It has not come."}
    inputs = texts("text", "text_b") if pairs else texts("text")
    return ServedModel(
        task="classification",
        config=classifier.model.config,
        vocabulary=classifier.tokenizer.vocabulary,
        signatures={
            DEFAULT: Signature(inputs, answers.of_texts),
            TOKENS: Signature(rows(windows=windows), answers.of_rows),
        },
        sample={DEFAULT: {name: sample[name] for name in inputs}},
        rows_of=answers.rows_of,
        settings=answers.settings,
        files=label_file(classifier.labels),
        measure_on=measuring(
            functools.partial(classification.measure_on, classifier),
            lambda outputs: _logits(outputs, classifier.task_type),
        ),
    )


def _logits(outputs: Arrays, task_type: str) -> np.ndarray:
    """What of the outputs of ``of_rows`` ranks as the logits do, float32 [B, L]."""
    if task_type == "regression":
        return outputs["score"][:, np.newaxis]
    probabilities = np.clip(outputs["probabilities"], 1e-7, 1 - 1e-7)
    return np.log(probabilities) - np.log1p(-probabilities) * (task_type == "multi_label")


class _LabelAnswers:
    """The classifier's functions.

    Attributes:
        settings: what they are made with.
    """

    def __init__(self, classifier: TextClassifier, pairs: bool, settings: Export) -> None:
        self._classifier = classifier
        self._window_stride = (
            classifier.settings.window_stride or classifier.settings.max_seq_length - 2
        )
        self.settings: dict[str, Any] = {
            "max_seq_length": classifier.settings.max_seq_length,
            "do_lower_case": classifier.tokenizer.do_lower_case,
            "task_type": classifier.task_type,
        }
        if classifier.task_type == "multi_label":
            self.settings["label_threshold"] = LABEL_THRESHOLD
        if not pairs:
            self.settings["long_text"] = classifier.settings.long_text
        if classifier.settings.long_text == "windows":
            self.settings |= {
                "window_stride": self._window_stride,
                "max_windows": classifier.settings.max_windows,
                "window_pooling": classifier.settings.window_pooling,
            }
        vocabulary = classifier.tokenizer.vocabulary
        self._tokenizer = GraphTokenizer(vocabulary, classifier.tokenizer.do_lower_case)
        self._rows = RowBuilder(
            vocabulary,
            classifier.settings.max_seq_length,
            pairs=pairs,
            fixed_length=settings.fixed_length,
        )

    def of_texts(self, inputs: Tensors) -> Tensors:
        """From strings [B] ``text`` and, of pairs, ``text_b``."""
        shown = self.rows_of(inputs)
        if self._classifier.settings.long_text != "windows":
            return self.of_rows(shown)
        num_windows = tf.shape(shown["input_ids"])[1]  # at most --max_windows
        most_texts = tf.maximum(MOST_ROWS // num_windows, 1)
        num_labels = self._classifier.model.num_labels
        logits = in_blocks(self._logits, shown, [num_labels], most_texts)
        return self._named(logits)

    def rows_of(self, inputs: Tensors) -> Tensors:
        """The model's inputs that show texts."""
        settings = self._classifier.settings
        pieces = self._tokenizer.tokenize(inputs["text"])
        if "text_b" in inputs:
            found = self._rows.of_pairs(pieces, self._tokenizer.tokenize(inputs["text_b"]))
        elif settings.long_text == "windows":
            found = self._rows.of_windows(pieces, self._window_stride, settings.max_windows)
        else:
            found = self._rows.of_texts(pieces, settings.long_text)
        return found._asdict()

    def of_rows(self, inputs: Tensors) -> Tensors:
        """From the model's inputs."""
        return self._named(self._logits(inputs))

    def _logits(self, inputs: Tensors) -> tf.Tensor:
        """The model's, float32 [B, L]."""
        logits: tf.Tensor = self._classifier.model(inputs, training=False)
        return logits

    def _named(self, logits: tf.Tensor) -> Tensors:
        """What texts' logits, float32 [B, L], say."""
        task_type = self._classifier.task_type
        if task_type == "regression":
            return {"score": logits[:, 0]}
        function = tf.sigmoid if task_type == "multi_label" else tf.nn.softmax
        probabilities = function(logits)
        classes = tf.constant(self._classifier.labels)
        best = tf.argmax(probabilities, axis=1, output_type=tf.int32)
        found = {
            "label": tf.gather(classes, best),
            "score": tf.reduce_max(probabilities, axis=1),
            "probabilities": probabilities,
            "classes": tf.broadcast_to(classes, tf.shape(probabilities)),
        }
        if task_type == "multi_label":
            chosen = tf.ragged.boolean_mask(found["classes"], probabilities > LABEL_THRESHOLD)
            found["labels"] = chosen.to_tensor("")
        return found

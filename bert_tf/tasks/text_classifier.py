"""Takes texts, returns a classifier's logits, losses and metrics; next: tasks.classification.

Axes: n = number of examples, L = num_labels.
"""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.special

from bert_tf.config import BertConfig, Classification
from bert_tf.distribution import DTYPE_POLICIES
from bert_tf.heads import BertClassifier
from bert_tf.input_pipeline import Features
from bert_tf.long_text import shortened, windows
from bert_tf.losses import (
    Batch,
    Loss,
    LossTerm,
    examples_weight,
    multi_label_loss,
    of_examples,
    regression_loss,
    single_label_loss,
)
from bert_tf.packing import PackedTexts, RaggedIds, pack_texts
from bert_tf.tasks.classification_data import Examples
from bert_tf.tasks.feature_runner import FeatureRunner
from bert_tf.tokenization import FullTokenizer

log = logging.getLogger(__name__)

# A text of a multi-label task has the labels whose probability is above this, as the metrics count.
LABEL_THRESHOLD = 0.5


class TextClassifier:
    """A model with all it takes to go from texts to logits.

    Args:
        settings: of the run that it belongs to.
        config: the model's architecture.
        tokenizer: of the model's vocabulary.
        labels: in the order of their ids; none for a regression.
        task_type: single_label, multi_label or regression.
        dtype: a Keras dtype policy; by default the one of the settings' precision.

    Attributes:
        model: with new weights.
        loss: of its logits, float32 [B, L], and a batch with ``label_ids``.
    """

    def __init__(
        self,
        settings: Classification,
        config: BertConfig,
        tokenizer: FullTokenizer,
        labels: tuple[str, ...],
        task_type: str,
        *,
        dtype: str | None = None,
    ) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.labels = labels
        self.task_type = task_type
        pooling = settings.window_pooling if settings.long_text == "windows" else None
        self.model = BertClassifier(
            config,
            num_labels=len(labels) or 1,
            window_pooling=pooling,
            dtype=dtype or DTYPE_POLICIES[settings.precision],
        )
        self.loss = Loss(
            self._terms, lambda batch: {"loss": examples_weight(*of_examples(batch, "label_ids"))}
        )
        self._run = FeatureRunner(settings, self.model, self.loss)

    def _terms(self, logits: Any, batch: Batch) -> dict[str, LossTerm]:
        function = {
            "single_label": single_label_loss,
            "multi_label": multi_label_loss,
            "regression": regression_loss,
        }[self.task_type]
        return {"loss": function(logits, *of_examples(batch, "label_ids"))}

    def features(
        self, text_a: Sequence[str], text_b: Sequence[str] | None, labels: np.ndarray | None = None
    ) -> Features:
        """Tokenizes and packs texts, of long ones what the settings say."""
        ragged_a = RaggedIds(*self.tokenizer.encode_batch(text_a))
        ragged_b = None if text_b is None else RaggedIds(*self.tokenizer.encode_batch(text_b))
        named = {} if labels is None else {"label_ids": labels}
        how = self.settings.long_text
        if how == "head":
            return Features(self._packed(ragged_a, ragged_b), named)
        room = self.settings.max_seq_length - 2
        row_splits = None
        if how == "windows":
            stride = self.settings.window_stride or room
            rows, row_splits, shown = windows(ragged_a, room, stride, self.settings.max_windows)
        else:
            rows = shortened(ragged_a, room, how)
            shown = rows.lengths
        lost = ragged_a.lengths - shown
        packed = dataclasses.replace(
            self._packed(rows, None),
            num_truncated=int(np.count_nonzero(lost)),
            share_lost=float(lost.sum() / max(1, ragged_a.lengths.sum())),
        )
        return Features(packed, named, row_splits=row_splits)

    def described(self, features: Features) -> str:
        """How long texts are, and what of them is not shown, for the log."""
        texts = features.texts
        assert isinstance(texts, PackedTexts)
        said = f"median length {np.median(features.lengths):.0f}"
        if features.row_splits is not None:
            said += f" in {np.mean(np.diff(features.row_splits)):.2f} windows"
        if not texts.num_truncated:
            return f"{said}, none cut"
        share = texts.num_truncated / len(features)
        return (
            f"{said}, {texts.num_truncated} ({share:.1%}) cut, which leaves out "
            f"{texts.share_lost:.1%} of all pieces"
        )

    def _packed(self, text_a: RaggedIds, text_b: RaggedIds | None) -> PackedTexts:
        vocabulary = self.tokenizer.vocabulary
        return pack_texts(
            text_a, text_b, self.settings.max_seq_length, vocabulary.cls_id, vocabulary.sep_id
        )

    def batches(self, features: Features, plan: np.ndarray) -> Any:
        """The planned batches, padded as the settings say."""
        return self._run.batches(features, plan)

    def evaluate(self, examples: Examples) -> tuple[np.ndarray, dict[str, float]]:
        """The logits of labelled examples, float32 [n, L], and the loss."""
        features = self.features(examples.text_a, examples.text_b, examples.labels)
        log.info("evaluating on %d examples; %s", len(features), self.described(features))
        found = self._run(features, self.settings.eval_batch_size, "evaluating")
        return np.stack(found.outputs), found.losses

    def probabilities(
        self,
        text_a: Sequence[str],
        text_b: Sequence[str] | None,
        batch_size: int,
        description: str | None = None,
    ) -> np.ndarray:
        """What a text gets: float32 [n, L].

        Softmax for single_label, sigmoid for multi_label, the value itself for a regression.
        """
        found = self._run(self.features(text_a, text_b), batch_size, description)
        logits = np.stack(found.outputs)
        if self.task_type == "single_label":
            return scipy.special.softmax(logits, axis=-1)
        return scipy.special.expit(logits) if self.task_type == "multi_label" else logits

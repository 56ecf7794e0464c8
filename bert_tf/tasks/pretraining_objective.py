"""Takes a pretrainer and batches of records, returns losses and metrics; next: tasks.pretraining.

Axes: B = batch_size, P = max_predictions_per_seq, V = vocab_size.
"""

from typing import Any

import keras
import tensorflow as tf

from bert_tf.losses import (
    Batch,
    Loss,
    LossTerm,
    examples_weight,
    masked_lm_loss,
    masked_lm_weight,
    of_examples,
    single_label_loss,
)
from bert_tf.replicas import OnReplicas
from bert_tf.training import MODEL_INPUTS, evaluated_batches


class Objective:
    """What a model is trained for, and judged by.

    Args:
        next_sentence: whether next sentences are to be told from random ones.

    Attributes:
        loss: of BertPretrainer's outputs and a batch with ``masked_lm_ids`` int32 [B, P],
            ``masked_lm_weights`` float32 [B, P] and ``next_sentence_labels`` int32 [B, 1], or as
            ``SharedRecords`` has them.
        logged: the names of what a training step has to log.
    """

    def __init__(self, next_sentence: bool) -> None:
        self._next_sentence = next_sentence
        self.loss = Loss(self._terms, self._weights)
        parts = ("masked_lm", "next_sentence") if next_sentence else ("masked_lm",)
        self.logged = (
            "loss",
            *(f"{part}_loss" for part in parts),
            *(f"{part}_accuracy" for part in parts),
            "grad_norm",
            "learning_rate",
        )

    def metrics(self, outputs: Any, batch: Batch) -> dict[str, LossTerm]:
        """Shares of right predictions."""
        ids, weights = batch["masked_lm_ids"], batch["masked_lm_weights"]
        right = _is_right(outputs["masked_lm_logits"], ids)
        found = {
            "masked_lm_accuracy": LossTerm(
                tf.reduce_sum(weights * right), masked_lm_weight(weights)
            )
        }
        if self._next_sentence:
            labels, weights = of_examples(batch, "next_sentence_labels")
            right = _is_right(outputs["next_sentence_logits"], labels[:, 0])
            if weights is not None:
                right *= weights
            found["next_sentence_accuracy"] = LossTerm(
                tf.reduce_sum(right), examples_weight(labels, weights)
            )
        return found

    def _terms(self, outputs: Any, batch: Batch) -> dict[str, LossTerm]:
        terms = {
            "masked_lm_loss": masked_lm_loss(
                outputs["masked_lm_logits"], batch["masked_lm_ids"], batch["masked_lm_weights"]
            )
        }
        if self._next_sentence:
            labels, example_weights = of_examples(batch, "next_sentence_labels")
            terms["next_sentence_loss"] = single_label_loss(
                outputs["next_sentence_logits"], labels[:, 0], example_weights
            )
        return terms

    def _weights(self, batch: Batch) -> dict[str, tf.Tensor]:
        weights = {"masked_lm_loss": masked_lm_weight(batch["masked_lm_weights"])}
        if self._next_sentence:
            weights["next_sentence_loss"] = examples_weight(
                *of_examples(batch, "next_sentence_labels")
            )
        return weights


class PretrainingEvaluator:
    """Evaluates a model as ``metric_fn`` of run_pretraining.py does.

    Args:
        model: a BertPretrainer.
        objective: what it was trained for.
    """

    def __init__(self, model: keras.Model, objective: Objective) -> None:
        def forward(batch: Batch) -> tuple[dict[str, LossTerm], dict[str, LossTerm]]:
            inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
            outputs = model(inputs, training=False)
            return objective.loss.terms(outputs, batch), objective.metrics(outputs, batch)

        self._forward = OnReplicas(forward)

    def __call__(
        self, dataset: tf.data.Dataset, num_batches: int, description: str | None = None
    ) -> dict[str, float]:
        """Evaluates a data set, without dropout.

        Args:
            dataset: batches of records.
            num_batches: how many.
            description: what the progress line calls it; None for no such line.

        Returns:
            Accuracies and losses over all predictions, and ``loss``, the mean of the batches' total
            losses: what the original's Estimator reports, and so a little off the parts' sum.
        """
        totals: dict[str, float] = {}
        weights: dict[str, float] = {}
        losses = []
        for _, parts in evaluated_batches(self._forward, dataset, num_batches, description):
            terms, metrics = (_summed([part[i] for part in parts]) for i in range(2))
            losses.append(
                sum(float(term.total / (term.weight + term.epsilon)) for term in terms.values())
            )
            for name, term in (terms | metrics).items():
                totals[name] = totals.get(name, 0.0) + float(term.total)
                weights[name] = weights.get(name, 0.0) + float(term.weight)
        # A loss of nothing is 0, as in the original's metrics.
        values = {name: totals[name] / weights[name] if weights[name] else 0.0 for name in totals}
        return dict(sorted({**values, "loss": sum(losses) / len(losses)}.items()))


def _summed(parts: list[dict[str, LossTerm]]) -> dict[str, LossTerm]:
    """The terms of a batch, from those of its parts."""
    return {
        name: LossTerm(
            tf.add_n([part[name].total for part in parts]),
            tf.add_n([part[name].weight for part in parts]),
            term.epsilon,
        )
        for name, term in parts[0].items()
    }


def _is_right(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Float32 [..., classes] and int32 [...] -> float32 [...], 1 where the highest is the label."""
    return tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32) == labels, tf.float32)

"""Takes logits and targets, returns each head's loss as a sum and a weight; next: optimization.

A loss is kept as (total, weight) so that the training step can divide by the weight of the
*global* batch, whatever number of replicas or micro-batches it came in. The weight depends on the
targets alone: it is known before the model runs.

Axes: B = batch_size, S = seq_length, P = max_predictions_per_seq, V = vocab_size, L = num_labels,
W = words of a row. Where examples share rows, B is the number of places for one, R rows of K. What
holds none has the weight 0, as has what fills a batch up.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from bert_tf import crf

Batch = dict[str, tf.Tensor]


class LossTerm(NamedTuple):
    """A weighted mean in parts: ``total / (weight + epsilon)``.

    Attributes:
        total: float32 [], the weighted sum.
        weight: float32 [], what to divide by, summed over all parts of the batch first.
        epsilon: added to the weight once.
    """

    total: tf.Tensor
    weight: tf.Tensor
    epsilon: float = 0.0


class Loss(NamedTuple):
    """A task's loss: named parts whose values are added.

    Attributes:
        terms: (the model's outputs, the batch) -> the parts.
        weights: the batch -> the weight of each part, float32 [], as in ``terms``. It is known
            before the model has run, so that a micro-batch can be divided by the weight of the
            whole batch that it belongs to.
    """

    terms: Callable[[Any, Batch], dict[str, LossTerm]]
    weights: Callable[[Batch], dict[str, tf.Tensor]]


def masked_lm_loss(logits: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor) -> LossTerm:
    """Negative log-likelihood of the masked tokens (get_masked_lm_output of run_pretraining.py).

    Args:
        logits: float32 [B, P, V].
        ids: int32 [B, P], the tokens that were masked.
        weights: float32 [B, P], 0 for padding.
    """
    nll = tf.nn.sparse_softmax_cross_entropy_with_logits(ids, tf.cast(logits, tf.float32))
    return LossTerm(tf.reduce_sum(weights * nll), masked_lm_weight(weights), 1e-5)


def masked_lm_weight(weights: tf.Tensor) -> tf.Tensor:
    """The weight of ``masked_lm_loss``: float32 [B, P] -> float32 []."""
    return tf.reduce_sum(weights)


def single_label_loss(
    logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor | None = None
) -> LossTerm:
    """Mean negative log-likelihood: the next-sentence loss, and a classifier's.

    Args:
        logits: float32 [B, L].
        labels: int32 [B].
        weights: float32 [B], of the examples; by default 1 each.
    """
    nll = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
    return LossTerm(_weighted_sum(nll, weights), examples_weight(labels, weights))


def multi_label_loss(
    logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor | None = None
) -> LossTerm:
    """Negative log-likelihood of independent labels: binary cross-entropy, summed over labels.

    A mean over labels would divide the gradients by L, which takes them down to the size of Adam's
    epsilon for tens of labels, and the model then hardly learns.

    Args:
        logits: float32 [B, L].
        labels: float32 [B, L], 0 or 1.
        weights: float32 [B], of the examples; by default 1 each.
    """
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
    if weights is not None:
        entropy *= weights[:, tf.newaxis]
    return LossTerm(tf.reduce_sum(entropy), examples_weight(labels, weights))


def regression_loss(
    logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor | None = None
) -> LossTerm:
    """Mean squared error.

    Args:
        logits: float32 [B, 1].
        labels: float32 [B].
        weights: float32 [B], of the examples; by default 1 each.
    """
    errors = tf.cast(logits[:, 0], tf.float32) - labels
    return LossTerm(_weighted_sum(tf.square(errors), weights), examples_weight(labels, weights))


def word_labels_loss(logits: tf.Tensor, labels: tf.Tensor, lengths: tf.Tensor) -> LossTerm:
    """Mean over words of the negative log-likelihood of each one's label.

    Args:
        logits: float32 [B, W, L].
        labels: int32 [B, W].
        lengths: int32 [B], words of each row.
    """
    nll = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
    inside = tf.sequence_mask(lengths, tf.shape(labels)[1], tf.float32)  # [B, W]
    return LossTerm(tf.reduce_sum(nll * inside), words_weight(lengths))


def crf_loss(
    logits: tf.Tensor,
    labels: tf.Tensor,
    lengths: tf.Tensor,
    chain: crf.Chain,
    examples: tf.Tensor | None = None,
) -> LossTerm:
    """Negative log-likelihood of each row's labels as a whole, as a mean over words.

    So it is on the scale of ``word_labels_loss``, which it equals for a chain of zeros.

    Args:
        logits: float32 [B, W, L].
        labels: int32 [B, W].
        lengths: int32 [B], words of each row.
        chain: of the model.
        examples: int32 [B, W], the number of each word's example, where several share a row: the
            labels of each are one whole.
    """
    likelihood = crf.log_likelihood(logits, labels, lengths, chain, examples)
    return LossTerm(-tf.reduce_sum(likelihood), words_weight(lengths))


def span_loss(
    logits: tf.Tensor,
    start_positions: tf.Tensor,
    end_positions: tf.Tensor,
    mask: tf.Tensor,
    weights: tf.Tensor | None = None,
) -> LossTerm:
    """Mean negative log-likelihood of each row's first and last piece of the answer.

    Half of each, as in model_fn_builder of run_squad.py; there, padding is among the pieces that
    may be chosen. Here it is not, so that the loss does not depend on how a batch is padded.

    Args:
        logits: float32 [B, S, 2], of being the first and the last piece.
        start_positions: int32 [B].
        end_positions: int32 [B].
        mask: int32 [B, S], 0 for padding.
        weights: float32 [B], of the rows; by default 1 each.
    """
    logits = tf.where(mask[:, :, tf.newaxis] > 0, tf.cast(logits, tf.float32), -1e9)
    nll = [
        tf.nn.sparse_softmax_cross_entropy_with_logits(positions, logits[:, :, side])
        for side, positions in enumerate((start_positions, end_positions))
    ]
    return LossTerm(
        _weighted_sum(tf.add_n(nll), weights) / 2.0, examples_weight(start_positions, weights)
    )


def words_weight(lengths: tf.Tensor) -> tf.Tensor:
    """The weight of a mean over words: int32 [B], words of each row -> float32 []."""
    return tf.cast(tf.reduce_sum(lengths), tf.float32)


def examples_weight(labels: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
    """The weight of a mean over examples: any dtype [B, …] -> float32 [], which is B.

    With the weights of the examples, float32 of any shape, it is their sum.
    """
    return tf.cast(tf.shape(labels)[0], tf.float32) if weights is None else tf.reduce_sum(weights)


def of_examples(batch: Batch, name: str) -> tuple[tf.Tensor, tf.Tensor | None]:
    """What a batch has of its examples, and their weights, wherever they are.

    Args:
        batch: where examples share rows, with ``example_weights`` float32 [R, K]; where it is
            filled up, float32 [B].
        name: of what [B, …], or [R, K, …] where examples share rows.

    Returns:
        It [B, …], and the weights, float32 [B]: None where all of them are 1. B is R * K where
        examples share rows, as it is for a model's pooled output.
    """
    values, weights = batch[name], batch.get("example_weights")
    if weights is None or weights.shape.rank == 1:
        return values, weights
    shape = tf.concat([[-1], tf.shape(values)[2:]], axis=0)
    return tf.reshape(values, shape), tf.reshape(weights, [-1])


def _weighted_sum(values: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    return tf.reduce_sum(values if weights is None else values * weights)

"""Tests of bert_tf.losses: each against its definition, in float64 NumPy."""

import numpy as np
import tensorflow as tf

from bert_tf import crf, losses


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def value(term):
    return float(term.total) / (float(term.weight) + term.epsilon)


def test_masked_lm_loss_is_the_originals():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3, 4, 11)).astype(np.float32) * 5
    ids = rng.integers(0, 11, (3, 4)).astype(np.int32)
    weights = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    nll = -np.take_along_axis(log_softmax(logits), ids[..., None], -1)[..., 0]
    term = losses.masked_lm_loss(logits, ids, weights)
    np.testing.assert_allclose(value(term), (weights * nll).sum() / (4 + 1e-5), rtol=1e-6)
    assert float(term.weight) == 4.0
    assert term.epsilon == 1e-5


def test_a_batch_without_predictions_has_loss_zero():
    term = losses.masked_lm_loss(tf.zeros([2, 3, 5]), tf.zeros([2, 3], tf.int32), tf.zeros([2, 3]))
    assert value(term) == 0.0


def test_single_label_loss_is_the_mean_negative_log_likelihood():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(5, 3)).astype(np.float32) * 3
    labels = np.array([0, 2, 1, 2, 2], np.int32)
    expected = -log_softmax(logits)[np.arange(5), labels].mean()
    np.testing.assert_allclose(value(losses.single_label_loss(logits, labels)), expected, rtol=1e-6)


def test_multi_label_loss_is_the_binary_cross_entropy_summed_over_labels():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(5, 3)).astype(np.float32) * 3
    labels = rng.integers(0, 2, (5, 3)).astype(np.float32)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).sum(axis=1).mean()
    np.testing.assert_allclose(value(losses.multi_label_loss(logits, labels)), expected, rtol=1e-6)


def test_regression_loss_is_the_mean_squared_error():
    logits = np.array([[1.5], [-2.0], [0.25]], np.float32)
    labels = np.array([1.0, 1.0, 0.0], np.float32)
    expected = (0.5**2 + 3.0**2 + 0.25**2) / 3
    np.testing.assert_allclose(value(losses.regression_loss(logits, labels)), expected, rtol=1e-6)


def test_parts_of_a_batch_add_up_to_the_whole():
    rng = np.random.default_rng(4)
    logits = tf.constant(rng.normal(size=(7, 3)), tf.float32)
    labels = tf.constant(rng.integers(0, 3, 7), tf.int32)
    whole = losses.single_label_loss(logits, labels)
    parts = [losses.single_label_loss(logits[s], labels[s]) for s in (slice(2), slice(2, None))]
    np.testing.assert_allclose(sum(float(p.total) for p in parts), float(whole.total), rtol=1e-6)
    assert sum(float(p.weight) for p in parts) == float(whole.weight) == 7.0


WORDS = np.array([3, 0, 2], np.int32)  # of the rows of a batch


def test_word_labels_loss_is_a_mean_over_words():
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(3, 4, 5)).astype(np.float32) * 3
    labels = rng.integers(0, 5, (3, 4)).astype(np.int32)
    nll = -np.take_along_axis(log_softmax(logits), labels[..., None], -1)[..., 0]
    expected = (nll[0, :3].sum() + nll[2, :2].sum()) / 5
    term = losses.word_labels_loss(logits, labels, WORDS)
    np.testing.assert_allclose(value(term), expected, rtol=1e-6)
    assert float(term.weight) == float(losses.words_weight(WORDS)) == 5.0


def test_crf_loss_without_transitions_is_the_word_labels_loss():
    rng = np.random.default_rng(6)
    logits = rng.normal(size=(3, 4, 5)).astype(np.float32) * 3
    labels = rng.integers(0, 5, (3, 4)).astype(np.int32)
    zeros = crf.Chain(*(tf.zeros([5] * rank) for rank in (1, 2, 1)))
    term = losses.crf_loss(logits, labels, WORDS, zeros)
    expected = losses.word_labels_loss(logits, labels, WORDS)
    np.testing.assert_allclose(value(term), value(expected), rtol=1e-5)
    assert float(term.weight) == 5.0
    penalized = zeros._replace(start=-5 * tf.one_hot(labels[0, 0], 5))
    first = (logits[:1], labels[:1], WORDS[:1])
    assert value(losses.crf_loss(*first, penalized)) > value(losses.crf_loss(*first, zeros)) + 0.1


def test_losses_of_bfloat16_logits_are_float32():
    logits = tf.constant([[1.0, 2.0, 4.0]], tf.bfloat16)
    term = losses.single_label_loss(logits, tf.constant([1]))
    assert term.total.dtype == tf.float32
    np.testing.assert_allclose(value(term), -log_softmax([[1, 2, 4]])[0, 1], rtol=1e-6)


def test_span_loss_is_half_of_both_sides_and_does_not_see_padding():
    rng = np.random.default_rng(8)
    logits = rng.normal(size=(3, 6, 2)).astype(np.float32) * 3
    lengths = [6, 4, 1]
    mask = (np.arange(6) < np.array(lengths)[:, None]).astype(np.int32)
    starts, ends = np.array([2, 0, 0], np.int32), np.array([5, 3, 0], np.int32)
    expected = 0.0
    for row, length in enumerate(lengths):
        for side, position in enumerate((starts[row], ends[row])):
            expected -= log_softmax(logits[row, :length, side])[position] / 2 / 3
    term = losses.span_loss(logits, starts, ends, mask)
    np.testing.assert_allclose(value(term), expected, rtol=1e-6)
    assert float(term.weight) == 3.0
    longer = np.concatenate([logits, np.full((3, 2, 2), 50.0, np.float32)], axis=1)
    padded = losses.span_loss(longer, starts, ends, np.pad(mask, ((0, 0), (0, 2))))
    np.testing.assert_allclose(value(padded), expected, rtol=1e-6)

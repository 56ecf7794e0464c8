"""Tests of bert_tf.crf: against the enumeration of all sequences in float64."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from bert_tf import crf

WORDS, LABELS = 4, 3
EVERYTHING = crf.everything(LABELS)


def random_chain(rng, scale=2.0):
    return crf.Chain(
        *(rng.normal(scale=scale, size=(LABELS,) * rank).astype(np.float32) for rank in (1, 2, 1))
    )


def random_allowed(rng):
    """Constraints under which every length has a sequence: label 0 may always be and follow."""
    allowed = crf.Allowed(*(rng.random((LABELS,) * rank) < 0.6 for rank in (1, 2, 1)))
    for part in allowed:
        part[0] = True
    allowed.transitions[:, 0] = True
    return allowed


def enumerate_sequences(emissions, length, chain):
    """(labels, score) of every sequence, from the formula of the module's docstring."""
    start, transitions, end = (np.asarray(part, np.float64) for part in chain)
    for labels in itertools.product(range(LABELS), repeat=length):
        score = start[labels[0]] + end[labels[-1]]
        score += sum(np.float64(emissions[i, label]) for i, label in enumerate(labels))
        score += sum(transitions[a, b] for a, b in itertools.pairwise(labels))
        yield labels, score


def brute_force(emissions, labels, length, chain):
    """Log-likelihood of the labels, marginals, best labels and their score."""
    sequences = list(enumerate_sequences(emissions, length, chain))
    scores = np.array([score for _, score in sequences])
    top = scores.max()
    log_sum = top + np.log(np.exp(scores - top).sum())
    own = dict(sequences)[tuple(labels[:length])]
    marginals = np.zeros((len(emissions), LABELS))
    for sequence, score in sequences:
        for word, label in enumerate(sequence):
            marginals[word, label] += np.exp(score - log_sum)
    best = int(scores.argmax())
    return own - log_sum, marginals, sequences[best][0], scores[best]


def test_marginals_of_a_long_row_are_as_exact_as_those_of_a_short_one():
    rng = np.random.default_rng(11)
    num_words = 3000
    chain = random_chain(rng)
    emissions = rng.normal(50.0, 5.0, (1, num_words, LABELS)).astype(np.float32)
    found = crf.marginals(emissions, np.array([num_words], np.int32), chain).numpy()[0]
    start, transitions, end = (np.asarray(part, np.float64) for part in chain)
    forward = [start + emissions[0, 0]]
    for word in emissions[0, 1:].astype(np.float64):
        forward.append(np.logaddexp.reduce(forward[-1][:, None] + transitions, axis=0) + word)
    backward = [end]
    for word in emissions[0, :0:-1].astype(np.float64):
        backward.append(np.logaddexp.reduce(transitions + word + backward[-1], axis=1))
    sums = np.array(forward) + np.array(backward[::-1])
    expected = np.exp(sums - np.logaddexp.reduce(sums, axis=1, keepdims=True))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("is_constrained", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_all_lengths_agree_with_enumeration(seed, is_constrained):
    rng = np.random.default_rng([seed, 7])
    chain = random_chain(rng)
    if is_constrained:
        chain = crf.constrained(chain, random_allowed(rng))
    lengths = np.arange(1, WORDS + 1, dtype=np.int32)
    emissions = rng.normal(scale=3.0, size=(len(lengths), WORDS, LABELS)).astype(np.float32)
    # Labels that are allowed: a likelihood of 0 has no logarithm to compare.
    labels = np.zeros((len(lengths), WORDS), np.int32)
    for row, length in enumerate(lengths):
        possible = [s for s, v in enumerate_sequences(emissions[row], length, chain) if v > -1e20]
        labels[row, :length] = possible[rng.integers(len(possible))]

    likelihoods = crf.log_likelihood(emissions, labels, lengths, chain).numpy()
    probabilities = crf.marginals(emissions, lengths, chain).numpy()
    best, scores = (x.numpy() for x in crf.best_labels(emissions, lengths, chain))
    for row, length in enumerate(lengths):
        expected = brute_force(emissions[row], labels[row], length, chain)
        np.testing.assert_allclose(likelihoods[row], expected[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(probabilities[row], expected[1], atol=1e-5)
        assert tuple(best[row, :length]) == expected[2]
        assert not best[row, length:].any()
        np.testing.assert_allclose(scores[row], expected[3], rtol=1e-5)


@pytest.mark.parametrize("is_constrained", [False, True])
def test_gradients_agree_with_differences_of_the_enumeration(is_constrained):
    rng = np.random.default_rng(11)
    allowed = random_allowed(rng) if is_constrained else EVERYTHING
    weights = random_chain(rng, scale=1.0)
    emissions = rng.normal(size=(WORDS, LABELS)).astype(np.float32)
    labels, length = np.array([0, 0, 0, 2], np.int32), 3
    parts = [tf.constant(part) for part in (emissions[np.newaxis], *weights)]
    with tf.GradientTape() as tape:
        tape.watch(parts)
        chain = crf.constrained(crf.Chain(*parts[1:]), allowed)
        value = crf.log_likelihood(parts[0], labels[np.newaxis], tf.constant([length]), chain)[0]
    gradients = tape.gradient(value, parts)

    def at(values):
        chain = [np.where(a, w, crf.FORBIDDEN) for a, w in zip(allowed, values[1:], strict=True)]
        return brute_force(values[0], labels, length, chain)[0]

    values = [emissions.astype(np.float64), *(w.astype(np.float64) for w in weights)]
    for part, gradient in zip(values, gradients, strict=True):
        found = tf.convert_to_tensor(gradient).numpy().reshape(part.shape)
        for index in np.ndindex(part.shape):
            kept = part[index]
            part[index] = kept + 1e-4
            above = at(values)
            part[index] = kept - 1e-4
            below = at(values)
            part[index] = kept
            np.testing.assert_allclose(found[index], (above - below) / 2e-4, atol=1e-4)


def test_no_forbidden_transition_is_ever_chosen():
    rng = np.random.default_rng(12)
    for _ in range(20):
        allowed = random_allowed(rng)
        # Emissions that want a forbidden sequence much more than any that is allowed.
        emissions = rng.normal(scale=300.0, size=(5, 9, LABELS)).astype(np.float32)
        lengths = np.array([1, 2, 5, 9, 0], np.int32)
        chain = crf.constrained(random_chain(rng, scale=300.0), allowed)
        labels, _ = (x.numpy() for x in crf.best_labels(emissions, lengths, chain))
        probabilities = crf.marginals(emissions, lengths, chain).numpy()
        for row, length in zip(labels, lengths, strict=True):
            if length:
                assert allowed.start[row[0]]
                assert allowed.end[row[length - 1]]
                assert allowed.transitions[row[: length - 1], row[1:length]].all()
        assert not probabilities[0, 0, ~(allowed.start & allowed.end)].any()


def test_rows_of_no_words_count_nothing():
    rng = np.random.default_rng(13)
    chain = random_chain(rng)
    emissions = rng.normal(size=(2, WORDS, LABELS)).astype(np.float32)
    lengths = np.array([0, 2], np.int32)
    labels = np.full((2, WORDS), 2, np.int32)
    assert crf.log_likelihood(emissions, labels, lengths, chain).numpy()[0] == 0.0
    assert crf.best_labels(emissions, lengths, chain)[1].numpy()[0] == 0.0
    assert not crf.marginals(emissions, lengths, chain).numpy()[0].any()


def test_padding_and_batch_change_nothing():
    rng = np.random.default_rng(14)
    chain = random_chain(rng)
    emissions = rng.normal(size=(3, WORDS, LABELS)).astype(np.float32)
    labels = rng.integers(0, LABELS, (3, WORDS)).astype(np.int32)
    lengths = np.array([1, 3, 2], np.int32)
    whole = crf.log_likelihood(emissions, labels, lengths, chain).numpy()
    for row, length in enumerate(lengths):
        alone = crf.log_likelihood(
            emissions[row : row + 1, :length],
            labels[row : row + 1, :length],
            np.int32([length]),
            chain,
        )
        np.testing.assert_allclose(alone[0], whole[row], rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_graph_computes_the_same_and_so_does_xla(jit_compile):
    rng = np.random.default_rng(15)
    chain = tuple(map(tf.constant, random_chain(rng)))
    emissions = tf.constant(rng.normal(size=(3, WORDS, LABELS)).astype(np.float32))
    labels = tf.constant(rng.integers(0, LABELS, (3, WORDS)).astype(np.int32))
    lengths = tf.constant([4, 1, 3])

    def everything(emissions, labels, lengths, chain):
        with tf.GradientTape() as tape:
            tape.watch([emissions, *chain])
            likelihood = crf.log_likelihood(emissions, labels, lengths, crf.Chain(*chain))
        gradients = tape.gradient(likelihood, [emissions, *chain])
        best = crf.best_labels(emissions, lengths, crf.Chain(*chain))
        return [likelihood, *map(tf.convert_to_tensor, gradients), *best]

    eager = everything(emissions, labels, lengths, chain)
    graph = tf.function(everything, jit_compile=jit_compile)
    for one, other in zip(eager, graph(emissions, labels, lengths, chain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_a_graph_takes_any_batch_and_length():
    rng = np.random.default_rng(16)
    chain = crf.Chain(*map(tf.constant, random_chain(rng)))
    spec = tf.TensorSpec([None, None, LABELS])
    graph = tf.function(
        lambda emissions, lengths: crf.best_labels(emissions, lengths, chain),
        input_signature=[spec, tf.TensorSpec([None], tf.int32)],
    )
    for batch, words in ((2, 1), (1, 5), (3, 2)):
        emissions = rng.normal(size=(batch, words, LABELS)).astype(np.float32)
        lengths = np.full(batch, words, np.int32)
        for one, other in zip(
            graph(emissions, lengths), crf.best_labels(emissions, lengths, chain), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-6)


def test_everything_is_float32_whatever_the_emissions_are():
    rng = np.random.default_rng(17)
    chain = random_chain(rng)
    emissions = tf.cast(rng.normal(size=(2, WORDS, LABELS)), tf.bfloat16)
    labels = np.zeros((2, WORDS), np.int32)
    lengths = np.array([4, 2], np.int32)
    found = crf.log_likelihood(emissions, labels, lengths, chain)
    wanted = crf.log_likelihood(tf.cast(emissions, tf.float32), labels, lengths, chain)
    assert found.dtype == tf.float32
    np.testing.assert_array_equal(found, wanted)
    assert crf.marginals(emissions, lengths, chain).dtype == tf.float32


def test_the_layers_weights_have_names_and_stay_float32():
    layer = crf.Crf(LABELS, dtype="mixed_bfloat16")
    layer.build()
    assert {w.path: (tuple(w.shape), w.dtype) for w in layer.weights} == {
        "crf/start": ((LABELS,), "float32"),
        "crf/transitions": ((LABELS, LABELS), "float32"),
        "crf/end": ((LABELS,), "float32"),
    }
    assert not any(part.numpy().any() for part in layer.chain())


@pytest.mark.parametrize("jit_compile", [False, True])
def test_sequences_that_share_a_row_do_not_see_each_other(jit_compile):
    rng = np.random.default_rng(11)
    chain = crf.constrained(random_chain(rng), random_allowed(rng))
    rows = [[2, 1, 3], [4, 2], [1], []]
    emissions = rng.normal(scale=3.0, size=(4, 7, LABELS)).astype(np.float32)
    labels = np.zeros((4, 7), np.int32)
    examples = np.zeros((4, 7), np.int32)
    expected = np.zeros(4)
    for row, lengths in enumerate(rows):
        start = 0
        for number, length in enumerate(lengths):
            own = emissions[row, start : start + length]
            possible = [s for s, v in enumerate_sequences(own, length, chain) if v > -1e20]
            chosen = possible[rng.integers(len(possible))]
            labels[row, start : start + length] = chosen
            examples[row, start : start + length] = number + 1
            expected[row] += brute_force(own, np.array(chosen), length, chain)[0]
            start += length
    likelihood = tf.function(crf.log_likelihood, jit_compile=jit_compile, autograph=False)
    lengths = tf.constant([sum(row) for row in rows])
    found = likelihood(tf.constant(emissions), labels, lengths, chain, examples)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    as_one = likelihood(tf.constant(emissions), labels, lengths, chain).numpy()
    assert (abs(as_one - expected)[:2] > 0.1).all()

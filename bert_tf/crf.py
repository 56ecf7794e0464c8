"""Takes the scores of a sequence's labels, returns log-likelihood or best labels; next: heads.

A linear-chain conditional random field (Lafferty et al. 2001; with a neural network's scores,
Lample et al. 2016, arXiv 1603.01360, section 2.2). The labels y of n words have the score

    start[y_1] + sum_i emissions[i, y_i] + sum_i transitions[y_{i-1}, y_i] + end[y_n]

and their log-likelihood is that minus the log of the summed exponentials of all sequences' scores.
All of it is float32 under every dtype policy.

Axes: B = batch_size, W = words, L = num_labels.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

# The score of what may not be. So far below any sum of scores that its exponential is 0, and so far
# from float32's limit, 3e38, that one for each word can be added up.
FORBIDDEN = -1e30


class Chain(NamedTuple):
    """What a sequence's score is made of beside the emissions, float32.

    Attributes:
        start: [L], of the first label.
        transitions: [L, L], from a row's label to a column's.
        end: [L], of the last label.
    """

    start: tf.Tensor
    transitions: tf.Tensor
    end: tf.Tensor


class Allowed(NamedTuple):
    """What a tag scheme permits, as the arguments of Chain: bool [L], [L, L] and [L]."""

    start: np.ndarray
    transitions: np.ndarray
    end: np.ndarray


def everything(num_labels: int) -> Allowed:
    """Without a tag scheme, any label may be anywhere."""
    return Allowed(*(np.ones((num_labels,) * rank, bool) for rank in (1, 2, 1)))


def constrained(chain: Chain, allowed: Allowed) -> Chain:
    """The chain, with FORBIDDEN where nothing is allowed."""
    return Chain(
        *(
            tf.where(may_be, part, tf.constant(FORBIDDEN))
            for may_be, part in zip(allowed, chain, strict=True)
        )
    )


class Crf(keras.layers.Layer):
    """A chain that is learned.

    Args:
        num_labels: L.
    """

    def __init__(self, num_labels: int, **kwargs: Any) -> None:
        super().__init__(name="crf", **kwargs)
        self.num_labels = num_labels

    def build(self, input_shape: Any = None) -> None:
        """Creates ``start`` and ``end``, float32 [L], and ``transitions``, float32 [L, L]."""
        ranks = {"start": 1, "transitions": 2, "end": 1}
        self.parts = {
            name: self.add_weight(
                name=name,
                shape=(self.num_labels,) * rank,
                initializer="zeros",
                dtype="float32",
                autocast=False,
            )
            for name, rank in ranks.items()
        }

    def chain(self) -> Chain:
        """The weights."""
        return Chain(**{name: part.value for name, part in self.parts.items()})


def log_likelihood(
    emissions: tf.Tensor,
    labels: tf.Tensor,
    lengths: tf.Tensor,
    chain: Chain,
    examples: tf.Tensor | None = None,
) -> tf.Tensor:
    """The log-probability of each row's labels.

    Args:
        emissions: float [B, W, L].
        labels: int32 [B, W]; those beyond a row's length do not count.
        lengths: int32 [B], 0 to W.
        chain: the chain.
        examples: int32 [B, W], where a row has several sequences, one behind the other: a number
            for each word that changes where another sequence begins. What they have in sum is
            what the row has.

    Returns:
        float32 [B]; 0 for a row of no words.
    """
    score = sequence_score(emissions, labels, lengths, chain, examples)
    return score - log_normalizer(emissions, lengths, chain, examples)


def sequence_score(
    emissions: tf.Tensor,
    labels: tf.Tensor,
    lengths: tf.Tensor,
    chain: Chain,
    examples: tf.Tensor | None = None,
) -> tf.Tensor:
    """The score of each row's labels; arguments and result as for ``log_likelihood``."""
    emissions = tf.cast(emissions, tf.float32)
    inside = tf.sequence_mask(lengths, tf.shape(emissions)[1])  # [B, W]
    emitted = tf.gather(emissions, labels, batch_dims=2)  # [B, W]
    before, after = labels[:, :-1], labels[:, 1:]
    moved = tf.gather_nd(chain.transitions, tf.stack([before, after], axis=-1))
    if examples is not None:
        anew = tf.gather(chain.end, before) + tf.gather(chain.start, after)
        moved = tf.where(examples[:, 1:] != examples[:, :-1], anew, moved)
    last = tf.gather(labels, tf.maximum(lengths - 1, 0), batch_dims=1)  # [B]
    ends = tf.gather(chain.start, labels[:, 0]) + tf.gather(chain.end, last)
    return (
        tf.where(lengths > 0, ends, 0.0)
        + tf.reduce_sum(tf.where(inside, emitted, 0.0), axis=1)
        + tf.reduce_sum(tf.where(inside[:, 1:], moved, 0.0), axis=1)
    )


def log_normalizer(
    emissions: tf.Tensor, lengths: tf.Tensor, chain: Chain, examples: tf.Tensor | None = None
) -> tf.Tensor:
    """The log of the summed exponentials of the scores of all labels a row can have.

    The forward algorithm: after word i, entry k is the log-sum over all beginnings that end in
    label k.

    Args:
        emissions: float [B, W, L].
        lengths: int32 [B], 0 to W.
        chain: the chain.
        examples: as for ``log_likelihood``.

    Returns:
        float32 [B]; 0 for a row of no words.
    """
    emissions = tf.cast(emissions, tf.float32)
    words: tuple[tf.Tensor, ...] = _words(emissions, lengths)
    if examples is not None:
        begins = tf.pad(examples[:, 1:] != examples[:, :-1], [[0, 0], [1, 0]])  # [B, W]
        words = (*words, tf.expand_dims(tf.transpose(begins), -1))
    step = functools.partial(_step_forward, chain)
    forward = tf.foldl(step, words, chain.start + emissions[:, 0])
    return tf.where(lengths > 0, tf.reduce_logsumexp(forward + chain.end, axis=1), 0.0)


def marginals(emissions: tf.Tensor, lengths: tf.Tensor, chain: Chain) -> tf.Tensor:
    """The probability of each label of each word, over all sequences.

    The forward-backward algorithm: of a label of word i, all beginnings that end in it times all
    that may follow it.

    Args:
        emissions: float [B, W, L].
        lengths: int32 [B], 0 to W.
        chain: the chain.

    Returns:
        float32 [B, W, L]; 0 beyond a row's length.
    """
    emissions = tf.cast(emissions, tf.float32)
    words = _words(emissions, lengths)

    def step_forward(forward: tf.Tensor, word: Sequence[tf.Tensor]) -> tf.Tensor:
        return _from_its_maximum(_step_forward(chain, forward, word))

    forward = _states(step_forward, words, chain.start + emissions[:, 0])  # [W, B, L]

    def step_back(following: tf.Tensor, word: Sequence[tf.Tensor]) -> tf.Tensor:
        emission, is_taken = word
        left = tf.expand_dims(emission + following, 1)  # [B, 1, L]
        followed = tf.reduce_logsumexp(chain.transitions + left, axis=2)
        return _from_its_maximum(tf.where(is_taken, followed, following))

    last = tf.broadcast_to(chain.end, tf.shape(emissions[:, 0]))  # [B, L]
    backward = _states(step_back, words, last, reverse=True)  # [W, B, L], of the label before each
    backward = tf.concat([backward[1:], last[tf.newaxis]], axis=0)
    probabilities = tf.transpose(tf.nn.softmax(forward + backward), [1, 0, 2])
    inside = tf.sequence_mask(lengths, tf.shape(emissions)[1])
    return tf.where(tf.expand_dims(inside, -1), probabilities, 0.0)


def best_labels(
    emissions: tf.Tensor, lengths: tf.Tensor, chain: Chain
) -> tuple[tf.Tensor, tf.Tensor]:
    """The labels with the highest score (Viterbi).

    Args:
        emissions: float [B, W, L].
        lengths: int32 [B], 0 to W.
        chain: the chain.

    Returns:
        labels: int32 [B, W], 0 beyond a row's length.
        scores: float32 [B]; 0 for a row of no words.
    """
    emissions = tf.cast(emissions, tf.float32)
    stay = tf.broadcast_to(tf.range(tf.shape(emissions)[2]), tf.shape(emissions[:, 0]))  # [B, L]

    def step(state: Sequence[tf.Tensor], word: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        best, _ = state  # [B, L]: the best score of the beginnings that end in a label
        emission, is_taken = word
        arrived = tf.expand_dims(best, -1) + chain.transitions  # [B, L, L]
        came_from = tf.argmax(arrived, axis=1, output_type=tf.int32)  # [B, L]
        return (
            tf.where(is_taken, tf.reduce_max(arrived, axis=1) + emission, best),
            tf.where(is_taken, came_from, stay),
        )

    first = chain.start + emissions[:, 0]  # [B, L]
    bests, came_from = _states(step, _words(emissions, lengths), (first, stay))  # [W, B, L] each
    final = bests[-1] + chain.end
    last = tf.argmax(final, axis=1, output_type=tf.int32)  # [B]

    def back(label: tf.Tensor, pointers: tf.Tensor) -> tf.Tensor:
        return tf.gather(pointers, label, batch_dims=1)

    before = _states(back, came_from, last, reverse=True)  # [W, B], the label before each word
    labels = tf.transpose(tf.concat([before[1:], last[tf.newaxis]], axis=0))  # [B, W]
    labels = tf.where(tf.sequence_mask(lengths, tf.shape(emissions)[1]), labels, 0)
    return labels, tf.where(lengths > 0, tf.reduce_max(final, axis=1), 0.0)


def _step_forward(chain: Chain, forward: tf.Tensor, word: Sequence[tf.Tensor]) -> tf.Tensor:
    """From the log-sums [B, L] of the beginnings up to one word to those up to the next."""
    emission, is_taken, *is_first = word  # [B, L], [B, 1], [B, 1]
    arrived = tf.reduce_logsumexp(tf.expand_dims(forward, -1) + chain.transitions, axis=1)
    if is_first:
        # The sums of two sequences multiply: one ends with all that it has.
        ended = tf.reduce_logsumexp(forward + chain.end, axis=1, keepdims=True)  # [B, 1]
        arrived = tf.where(is_first[0], ended + chain.start, arrived)
    return tf.where(is_taken, arrived + emission, forward)


def _from_its_maximum(scores: tf.Tensor) -> tf.Tensor:
    """Float32 [B, L], the largest 0: sums over a long row would leave no bits for differences."""
    return scores - tf.reduce_max(scores, axis=1, keepdims=True)


def _states(
    step: Callable[[Any, Any], Any], words: Any, first: Any, *, reverse: bool = False
) -> Any:
    """``tf.scan`` without lists of tensors, which LiteRT lacks for a batch of any size.

    Args:
        step: takes a state and what belongs to a word, returns the next state.
        words: tensors [W, …].
        first: the state before the first step, tensors [B, …].
        reverse: whether to begin with the last word.

    Returns:
        The states after each word, tensors [W, B, …].
    """
    num_words = tf.shape(tf.nest.flatten(words)[0])[0]
    moved = -1 if reverse else 1

    def goes_on(number: tf.Tensor, *_: Any) -> tf.Tensor:
        return (number >= 0) & (number < num_words)

    def body(number: tf.Tensor, state: Any, states: Any) -> tuple[tf.Tensor, Any, Any]:
        state = step(state, tf.nest.map_structure(lambda part: tf.gather(part, number), words))
        # Not a scatter, which stops at a batch of no rows.
        is_now = tf.range(num_words) == number
        states = tf.nest.map_structure(
            lambda old, new: tf.where(_with_rank(is_now, old), new[tf.newaxis], old), states, state
        )
        return number + moved, state, states

    none = tf.nest.map_structure(
        lambda part: tf.zeros(tf.concat([[num_words], tf.shape(part)], 0), part.dtype), first
    )
    start = num_words - 1 if reverse else tf.zeros_like(num_words)
    _, _, states = tf.while_loop(goes_on, body, (start, first, none), maximum_iterations=num_words)
    return states


def _with_rank(values: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """[n] -> [n, 1, …], of as many axes as another tensor has."""
    return tf.reshape(values, [-1, *[1] * (other.shape.rank - 1)])


def _words(emissions: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """What a scan over the words takes: emissions float32 [W, B, L], bool [W, B, 1].

    The second says where a step is to be taken: at the words of a row, but for the first, with
    which the scan begins. (Without the first, a graph would stop at rows of one word, since it
    cannot stack the results of no step.)

    Args:
        emissions: float32 [B, W, L].
        lengths: int32 [B].
    """
    number = tf.range(tf.shape(emissions)[1])[:, tf.newaxis]  # [W, 1]
    taken = (number > 0) & (number < lengths)  # [W, B]
    return tf.transpose(emissions, [1, 0, 2]), tf.expand_dims(taken, -1)

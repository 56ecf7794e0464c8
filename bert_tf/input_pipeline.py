"""Takes packed examples, returns batches as a tf.data.Dataset; next: modeling.

The order of training is a function of (seed, step): each epoch is a permutation of its own, and
any step's batch can be computed without those before it, so a resumed run continues where it was.

Axes: B = batch_size, S = length of the batch's longest row, rounded up.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from bert_tf.packing import PackedTexts, RaggedIds

# Rows are padded to a multiple of this, which keeps the number of distinct shapes small.
LENGTH_MULTIPLE = 8
# Training sorts this many batches' worth of shuffled examples by length, so that a batch holds
# rows of similar length while its members still change from epoch to epoch.
SORT_WINDOW = 32


@dataclasses.dataclass(frozen=True)
class Features:
    """Examples in memory.

    Attributes:
        texts: the model inputs.
        labels: ``label_ids``: int32 [n], or float32 [n] or [n, num_labels]; None where unknown.
        ragged: what else an example has, by its name in a batch; padded there with zeros.
    """

    texts: PackedTexts
    labels: np.ndarray | None = None
    ragged: Mapping[str, RaggedIds] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts.segment_starts)


def training_plan(lengths: np.ndarray, batch_size: int, num_steps: int, seed: int) -> np.ndarray:
    """Which examples each step takes.

    Epoch after epoch of shuffled examples, without a break between them; within a window of
    SORT_WINDOW batches, examples are sorted by length, cut into batches, and the batches shuffled.

    Args:
        lengths: int64 [n], the rows' lengths.
        batch_size: B.
        num_steps: number of batches.
        seed: of both shuffles.

    Returns:
        int64 [num_steps, B], row numbers.
    """
    needed = num_steps * batch_size
    epochs = -(-needed // len(lengths))
    order = np.concatenate(
        [
            np.random.default_rng([seed, 0, epoch]).permutation(len(lengths))
            for epoch in range(epochs)
        ]
    )[:needed]
    plan = np.empty((num_steps, batch_size), np.int64)
    for window, first in enumerate(range(0, num_steps, SORT_WINDOW)):
        last = min(first + SORT_WINDOW, num_steps)
        rows = order[first * batch_size : last * batch_size]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        shuffle = np.random.default_rng([seed, 1, window]).permutation(last - first)
        plan[first:last] = rows.reshape(last - first, batch_size)[shuffle]
    return plan


def evaluation_plan(lengths: np.ndarray, batch_size: int) -> np.ndarray:
    """All examples once, the longest first (what does not fit in memory fails at once).

    Returns:
        int64 [number of batches, B]; -1 fills the last batch.
    """
    order = np.argsort(-lengths, kind="stable")
    filled = np.full(-(-len(order) // batch_size) * batch_size, -1, np.int64)
    filled[: len(order)] = order
    return filled.reshape(-1, batch_size)


def batches(
    features: Features,
    plan: np.ndarray,
    fixed_length: int | None = None,
    max_length: int | None = None,
) -> tf.data.Dataset:
    """Gathers and pads the planned batches.

    Args:
        features: the examples.
        plan: int64 [number of batches, B], of ``training_plan`` or ``evaluation_plan``.
        fixed_length: S of every batch; by default each batch's own.
        max_length: what rounding up does not go beyond.

    Returns:
        A dataset of dicts: ``input_ids``, ``input_mask``, ``segment_ids`` int32 [B, S],
        ``example_ids`` int64 [B] (row numbers), if there are labels, ``label_ids``, and all that
        is ``ragged``, int32 [B, longest]. The rows that a plan fills with -1 are left out, so the
        last batch may be smaller.
    """
    texts = features.texts
    ids = _ragged_tensor(texts.input_ids)
    ragged = {name: _ragged_tensor(values) for name, values in features.ragged.items()}
    lengths = tf.constant(texts.input_ids.lengths)
    segment_starts = tf.constant(texts.segment_starts)
    labels = None if features.labels is None else tf.constant(features.labels)

    def padded_length(row_lengths: tf.Tensor) -> tf.Tensor:
        if fixed_length is not None:
            return tf.constant(fixed_length, tf.int64)
        rounded = -(-tf.reduce_max(row_lengths) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        return rounded if max_length is None else tf.minimum(rounded, max_length)

    def gather(rows: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.boolean_mask(rows, rows >= 0)  # [B]
        row_lengths = tf.gather(lengths, rows)
        seq_length = padded_length(row_lengths)
        position = tf.range(seq_length)[tf.newaxis]  # [1, S]
        mask = tf.cast(position < row_lengths[:, tf.newaxis], tf.int32)  # [B, S]
        second = tf.cast(position >= tf.gather(segment_starts, rows)[:, tf.newaxis], tf.int32)
        padded = tf.gather(ids, rows).to_tensor(shape=tf.stack([-1, seq_length]))
        batch = {
            "input_ids": tf.ensure_shape(padded, [None, fixed_length]),
            "input_mask": tf.ensure_shape(mask, [None, fixed_length]),
            "segment_ids": tf.ensure_shape(second * mask, [None, fixed_length]),
            "example_ids": rows,
        }
        if labels is not None:
            batch["label_ids"] = tf.gather(labels, rows)
        for name, values in ragged.items():
            chosen = tf.gather(values, rows)
            shape = tf.stack([-1, padded_length(chosen.row_lengths())])
            batch[name] = tf.ensure_shape(chosen.to_tensor(shape=shape), [None, fixed_length])
        return batch

    dataset = tf.data.Dataset.from_tensor_slices(plan)
    return dataset.map(gather, num_parallel_calls=2, deterministic=True).prefetch(4)


def _ragged_tensor(ids: RaggedIds) -> tf.RaggedTensor:
    return tf.RaggedTensor.from_row_splits(ids.values, ids.row_splits, validate=False)

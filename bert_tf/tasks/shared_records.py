"""Takes pretraining records, returns batches in which several share a row; next: tasks.pretraining.

How long a record is, and how many pieces of it are masked, is looked up once, ahead of training,
and so is the order of training: the rows that the fullest of all batches needs are the rows of all.

Axes: n = records, B = batch_size, R = rows of a step, K = most records of a row, S =
max_seq_length, P = max_predictions_per_seq, of a row here too.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
import tqdm

from bert_tf.losses import Batch
from bert_tf.record_dataset import (
    RecordFiles,
    evaluation_batches,
    reading,
    training_batches,
    training_numbers,
)
from bert_tf.shared_rows import (
    RowShape,
    first_fit,
    lay_out,
    members,
    shape_of,
    sharing_inputs,
    spread,
)
from bert_tf.tfrecord import RecordSchema
from bert_tf.training import progress_interval

# Records that are dealt out to batches of nearly equal length together.
_WINDOW = 4096


class SharedRecords:
    """The batches of a run.

    Args:
        files: the records.
        batch_size: B.
        num_steps: of the run.
        seed: of the run.
        max_seq_length: S.
        max_predictions_per_seq: P.
        num_shares: what R is to be a multiple of.
        num_predictions: int64 [n], pieces of records -> int64 [n], the most of them that are
            masked; for records without masks.

    Attributes:
        shape: R and K.
        fill: the share of all rows that is no padding.
    """

    def __init__(
        self,
        files: RecordFiles,
        *,
        batch_size: int,
        num_steps: int,
        seed: int,
        max_seq_length: int,
        max_predictions_per_seq: int,
        num_shares: int = 1,
        num_predictions: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self._files = files
        self._batch_size = batch_size
        self._num_steps = num_steps
        self._seed = seed
        self._room = np.array([max_seq_length, max_predictions_per_seq])
        self._num_predictions = num_predictions
        self._batches_of_window = max(1, _WINDOW // batch_size)
        num_rows, most, num_pieces = 0, 0, 0
        for sizes in self._planned_sizes():
            shape = shape_of(first_fit(sizes, self._room))
            num_rows, most = max(num_rows, shape.rows), max(most, shape.examples)
            num_pieces += int(sizes[..., 0].sum())
        self.shape = RowShape(num_rows, most).padded_to(num_shares)
        self.fill = num_pieces / (num_steps * self.shape.rows * max_seq_length)

    def spread(self, first_step: int) -> tf.data.Dataset:
        """The batches from a step on to the last, each record still in a row of its own."""
        window, skipped = divmod(first_step, self._batches_of_window)
        windows = training_batches(
            self._files, self._batches_of_window * self._batch_size, self._seed, window
        )

        def deal(number: tf.Tensor, records: Batch) -> Batch:
            lengths = tf.reduce_sum(tf.cast(records["input_mask"], tf.int64), axis=1)
            order = tf.numpy_function(self._dealt, [lengths, number], tf.int64)
            order = tf.ensure_shape(order, [self._batches_of_window, self._batch_size])
            return {name: tf.gather(values, order) for name, values in records.items()}

        dealt = windows.enumerate(window).map(deal, num_parallel_calls=1, deterministic=True)
        return dealt.unbatch().skip(skipped).take(self._num_steps - first_step)

    def shared(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """The batches of ``spread``, with masks, in rows that records share.

        Returns:
            A dataset of dicts: ``input_ids``, ``segment_ids`` and, of ``sharing_inputs``,
            ``input_mask``, ``example_numbers``, ``positions`` int32 [R, S], ``cls_positions`` int32
            [R, K] and ``example_weights`` float32 [R, K]; ``masked_lm_positions`` and
            ``masked_lm_ids`` int32 [R, P], ``masked_lm_weights`` float32 [R, P];
            ``next_sentence_labels`` int32 [R, K, 1].
        """
        return batches.map(self._share, num_parallel_calls=2, deterministic=True).prefetch(4)

    def _share(self, batch: Batch) -> Batch:
        seq_length, num_predictions = map(int, self._room)
        weights = batch["masked_lm_weights"]
        chosen = tf.numpy_function(self._members, [batch["input_mask"], weights], tf.int64)
        chosen = tf.ensure_shape(chosen, self.shape)
        is_example = chosen >= 0  # [R, K]
        chosen = tf.maximum(chosen, 0)

        def of_chosen(counts: tf.Tensor) -> tf.Tensor:
            return tf.where(is_example, tf.gather(tf.cast(counts, tf.int64), chosen), 0)

        pieces = lay_out(of_chosen(tf.reduce_sum(batch["input_mask"], axis=1)), seq_length)
        number = tf.range(1, num_predictions + 1)
        used = tf.reduce_max(tf.where(weights != 0, number, 0), axis=1)  # [B]
        masks = lay_out(of_chosen(used), num_predictions)

        def of_pieces(name: str) -> tf.Tensor:
            return pieces.values(tf.reshape(batch[name], [-1]), chosen * seq_length)

        def of_masks(name: str) -> tf.Tensor:
            return masks.values(tf.reshape(batch[name], [-1]), chosen * num_predictions)

        moved = tf.cast(masks.of_examples(pieces.starts), tf.int32)  # [R, P]
        positions = of_masks("masked_lm_positions") + moved
        return {
            **sharing_inputs(pieces, is_example),
            "input_ids": of_pieces("input_ids"),
            "segment_ids": of_pieces("segment_ids"),
            "masked_lm_positions": tf.where(masks.inside, positions, 0),
            "masked_lm_ids": of_masks("masked_lm_ids"),
            "masked_lm_weights": of_masks("masked_lm_weights"),
            "next_sentence_labels": tf.gather(batch["next_sentence_labels"], chosen),
        }

    def _planned_sizes(self) -> Iterator[np.ndarray]:
        """The sizes of all steps' records, window by window: int64 [batches, B, 2]."""
        sizes = self._sizes_of_records()
        numbers = training_numbers(self._files, self._seed)
        windows = numbers.batch(self._batches_of_window * self._batch_size)
        num_windows = -(-self._num_steps // self._batches_of_window)
        progress = tqdm.tqdm(
            windows.take(num_windows).as_numpy_iterator(),
            total=num_windows,
            desc="planning rows",
            unit="window",
            mininterval=progress_interval(),
        )
        left = self._num_steps
        for window, records in enumerate(progress):
            found = sizes[records]
            dealt = self._dealt(found[:, 0], window)[:left]
            left -= len(dealt)
            yield found[dealt]

    def _sizes_of_records(self) -> np.ndarray:
        """Int64 [n, 2], of all records in the files' order."""
        wanted = ("input_mask", "masked_lm_weights")
        features = tuple(f for f in self._files.schema.features if f.name in wanted)
        files = dataclasses.replace(
            self._files,
            schema=RecordSchema(features),
            limits={"input_mask": self._files.limits["input_mask"]},
        )
        num_batches = -(-len(files) // _WINDOW)
        with reading(files.paths):
            found = [
                self._sizes(batch["input_mask"], batch.get("masked_lm_weights"))
                for batch in evaluation_batches(files, _WINDOW, num_batches).as_numpy_iterator()
            ]
        return np.concatenate(found)

    def _sizes(self, input_mask: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        """Int32 [n, S] and float32 [n, P] -> int64 [n, 2]: pieces, and how many are masked."""
        lengths = input_mask.sum(axis=1, dtype=np.int64)
        if self._num_predictions is not None:
            return np.stack([lengths, self._num_predictions(lengths)], axis=1)
        assert weights is not None
        used = np.where(weights != 0, np.arange(1, weights.shape[1] + 1), 0).max(axis=1)
        return np.stack([lengths, used], axis=1)

    def _dealt(self, lengths: np.ndarray, window: int) -> np.ndarray:
        return spread(lengths, self._batch_size, [self._seed, 1, int(window)])

    def _members(self, input_mask: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Which records each row has, int64 [R, K]."""
        rows = first_fit(self._sizes(input_mask, weights)[np.newaxis], self._room)
        return members(rows, self.shape)[0]

"""Takes packed examples, returns batches as a tf.data.Dataset; next: modeling.

The order of training is a function of (seed, step): each epoch is a permutation of its own, and
any step's batch can be computed without those before it, so a resumed run continues where it was.

Axes: B = batch_size, S = length of the batch's longest row, rounded up, C = rows of the batch's
example with the most of them; where examples share rows, R = rows of a batch, K = most examples of
a row.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from bert_tf.context_windows import PackedWindows
from bert_tf.packing import PackedTexts, RaggedIds
from bert_tf.shared_rows import lay_out, sharing_inputs, spread

# Where something is compiled for each shape, rows are padded to a multiple of this, so that the
# shapes are few.
LENGTH_MULTIPLE = 8
# Training sorts this many batches' worth of shuffled examples by length, so that a batch holds
# rows of similar length while its members still change from epoch to epoch.
SORT_WINDOW = 32
# What holds positions in the row, from 0 in each example.
POSITIONS = ("word_starts", "start_positions", "end_positions")
# (rows, positions in them), int64 of shapes that broadcast -> the pieces that are there, int32;
# beyond a row's end any.
PieceAt = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
# A data set hands its functions to AutoGraph, which takes most of a second before the first batch
# and finds nothing to convert.
_as_written = tf.autograph.experimental.do_not_convert


@dataclasses.dataclass(frozen=True)
class Features:
    """Examples in memory.

    Attributes:
        texts: the model inputs, row by row.
        labels: what an example has, by its name in a batch: ``label_ids`` int32 [n], float32 [n] or
            [n, num_labels], ``start_positions`` int32 [n] and so on. Empty where unknown.
        ragged: what else an example has, by its name in a batch; padded there with zeros.
        row_splits: int64 [n + 1], where an example is several rows, such as the choices of a
            question: it has the rows ``row_splits[i]`` to ``row_splits[i + 1] - 1``. None where
            each row is an example.
    """

    texts: PackedTexts | PackedWindows
    labels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    ragged: Mapping[str, RaggedIds] = dataclasses.field(default_factory=dict)
    row_splits: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.texts.lengths if self.row_splits is None else self.row_splits[1:])

    @property
    def is_labelled(self) -> bool:
        """Whether there is something to compute a loss by."""
        return bool(self.labels) or "label_ids" in self.ragged

    @property
    def lengths(self) -> np.ndarray:
        """Pieces of each example, int64 [n], its rows padded to the longest of them."""
        if self.row_splits is None:
            return self.texts.lengths
        longest = np.maximum.reduceat(self.texts.lengths, self.row_splits[:-1])
        return longest * np.diff(self.row_splits)


def training_plan(
    lengths: np.ndarray, batch_size: int, num_steps: int, seed: int, *, is_spread: bool = False
) -> np.ndarray:
    """Which examples each step takes.

    Epoch after epoch of shuffled examples, without a break between them; within a window of
    SORT_WINDOW batches, examples are sorted by length, cut into batches, and the batches shuffled.

    Args:
        lengths: int64 [n], pieces of each example.
        batch_size: B.
        num_steps: number of batches.
        seed: of both shuffles.
        is_spread: for rows that examples share: within a window, every batch gets examples of all
            lengths instead.

    Returns:
        int64 [num_steps, B], numbers of examples.
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
        if is_spread:
            plan[first:last] = rows[spread(lengths[rows], batch_size, [seed, 1, window])]
            continue
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        shuffle = np.random.default_rng([seed, 1, window]).permutation(last - first)
        plan[first:last] = rows.reshape(last - first, batch_size)[shuffle]
    return plan


def evaluation_plan(lengths: np.ndarray, batch_size: int, window: int | None = None) -> np.ndarray:
    """All examples once, the longest first (what does not fit in memory fails at once).

    Args:
        lengths: int64 [n], pieces of each example.
        batch_size: B.
        window: if given, examples leave their order for lengths within so many batches only.

    Returns:
        int64 [number of batches, B]; -1 fills the last batch.
    """
    rows_of_window = len(lengths) + 1 if window is None else window * batch_size
    order = np.lexsort((-lengths, np.arange(len(lengths)) // rows_of_window))
    filled = np.full(-(-len(order) // batch_size) * batch_size, -1, np.int64)
    filled[: len(order)] = order
    return filled.reshape(-1, batch_size)


def batches(
    features: Features,
    plan: np.ndarray,
    fixed_length: int | None = None,
    max_length: int | None = None,
    length_multiple: int = LENGTH_MULTIPLE,
) -> tf.data.Dataset:
    """Gathers and pads the planned batches.

    Args:
        features: the examples.
        plan: int64 [number of batches, B], of ``training_plan`` or ``evaluation_plan``.
        fixed_length: S of every batch; by default each batch's own.
        max_length: what rounding up does not go beyond.
        length_multiple: what a batch's own length is rounded up to; 1 has the least padding.

    Returns:
        A dataset of dicts: ``input_ids``, ``input_mask``, ``segment_ids`` int32 [B, S], or
        [B, C, S] where an example is several rows, of which those that it lacks are all 0;
        ``example_ids`` int64 [B] (numbers of examples), the ``labels``, and all that is ``ragged``,
        int32 [B, longest]. What a plan fills with -1 is left out, so the last batch may be smaller.
    """
    texts = features.texts
    piece_at = _piece_at(texts)
    ragged = {name: _ragged_tensor(values) for name, values in features.ragged.items()}
    lengths = tf.constant(texts.lengths)
    segment_starts = tf.constant(texts.segment_starts)
    labels = {name: tf.constant(values) for name, values in features.labels.items()}
    rows_of = None if features.row_splits is None else _rows_of(features.row_splits, fixed_length)

    def padded_length(row_lengths: tf.Tensor) -> tf.Tensor:
        if fixed_length is not None:
            return tf.constant(fixed_length, tf.int64)
        rounded = -(-tf.reduce_max(row_lengths) // length_multiple) * length_multiple
        return rounded if max_length is None else tf.minimum(rounded, max_length)

    def inputs(rows: tf.Tensor, row_lengths: tf.Tensor) -> dict[str, tf.Tensor]:
        """int64 [R] each -> int32 [R, S] each."""
        seq_length = padded_length(row_lengths)
        position = tf.range(seq_length)[tf.newaxis]  # [1, S]
        mask = tf.cast(position < row_lengths[:, tf.newaxis], tf.int32)  # [R, S]
        second = tf.cast(position >= tf.gather(segment_starts, rows)[:, tf.newaxis], tf.int32)
        return {
            "input_ids": piece_at(rows[:, tf.newaxis], position) * mask,
            "input_mask": mask,
            "segment_ids": second * mask,
        }

    # The size of all batches; None where a plan's last one is smaller.
    batch_size = None if len(plan) and plan.min() < 0 else plan.shape[1]

    @_as_written
    def gather(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        if batch_size is None:
            examples = tf.boolean_mask(examples, examples >= 0)  # [B]
        if rows_of is None:
            batch = inputs(examples, tf.gather(lengths, examples))
            shape = [batch_size, fixed_length]
        else:
            rows, is_row = rows_of(examples)  # [B, C]
            row_lengths = tf.where(is_row, tf.gather(lengths, rows), 0)
            flat = inputs(tf.reshape(rows, [-1]), tf.reshape(row_lengths, [-1]))  # [B * C, S]
            split = tf.concat([tf.shape(rows), [-1]], axis=0)
            batch = {name: tf.reshape(value, split) for name, value in flat.items()}  # [B, C, S]
            shape = [batch_size, rows.shape[1], fixed_length]
        batch = {name: tf.ensure_shape(value, shape) for name, value in batch.items()}
        batch["example_ids"] = examples
        batch |= {name: tf.gather(values, examples) for name, values in labels.items()}
        for name, values in ragged.items():
            chosen = tf.gather(values, examples)
            padded = chosen.to_tensor(shape=tf.stack([-1, padded_length(chosen.row_lengths())]))
            batch[name] = tf.ensure_shape(padded, [batch_size, fixed_length])
        return batch

    dataset = tf.data.Dataset.from_tensor_slices(plan)
    return dataset.map(gather, num_parallel_calls=2, deterministic=True).prefetch(4)


def filled(dataset: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Makes all batches of one size, for shapes that are fixed (TPU, XLA): what is added is zeros.

    Args:
        dataset: dicts of tensors whose first axis is the batch's, at most ``batch_size`` long.
        batch_size: B.

    Returns:
        A dataset of the same, with ``example_weights`` float32 [B]: 0 for what was added, whose
        ``example_ids`` are -1.
    """

    @_as_written
    def fill(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        size = tf.shape(batch["input_ids"])[0]
        whole = {}
        for name, value in batch.items():
            paddings = tf.pad([[0, batch_size - size]], [[0, value.shape.rank - 1], [0, 0]])
            nothing = -1 if name == "example_ids" else 0
            padded = tf.pad(value, paddings, constant_values=nothing)
            whole[name] = tf.ensure_shape(padded, [batch_size, *value.shape[1:]])
        return whole | {"example_weights": tf.sequence_mask(size, batch_size, tf.float32)}

    return dataset.map(fill)


def shared_batches(features: Features, plan: np.ndarray, seq_length: int) -> tf.data.Dataset:
    """Gathers the planned batches, several examples to a row; all shapes are fixed.

    Args:
        features: the examples, each one row.
        plan: int64 [number of batches, R, K], which examples each row has; -1 for none.
        seq_length: S, which the examples of every row fit in together.

    Returns:
        A dataset of dicts: ``input_ids``, ``segment_ids`` and, of ``sharing_inputs``,
        ``input_mask``, ``example_numbers``, ``positions`` int32 [R, S], ``cls_positions`` int32
        [R, K] and ``example_weights`` float32 [R, K]; the ``labels`` [R, K, …], any that there can
        be where there is no example; all that is ``ragged``, int32 [R, S], those of a row's
        examples behind each other, then zeros.
    """
    texts = features.texts
    assert features.row_splits is None
    piece_at, lengths = _piece_at(texts), tf.constant(texts.lengths)
    segment_starts = tf.constant(texts.segment_starts)
    labels = {name: tf.constant(values) for name, values in features.labels.items()}
    ragged = {
        name: (
            tf.constant(np.append(ids.values, np.int32(0))),  # one more, so that there is one
            tf.constant(ids.row_splits[:-1]),
            tf.constant(ids.lengths),
        )
        for name, ids in features.ragged.items()
    }

    @_as_written
    def gather(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        is_example = examples >= 0  # [R, K]
        examples = tf.maximum(examples, 0)
        layout = lay_out(tf.where(is_example, tf.gather(lengths, examples), 0), seq_length)
        shown = layout.of_examples(examples)  # [R, S]
        second = layout.within >= tf.gather(segment_starts, shown)
        batch = sharing_inputs(layout, is_example)
        batch["input_ids"] = piece_at(shown, layout.within) * batch["input_mask"]
        batch["segment_ids"] = tf.cast(second, tf.int32) * batch["input_mask"]
        for name, values in labels.items():
            found = tf.gather(values, examples)
            if name in POSITIONS:
                found = tf.where(is_example, found + tf.cast(layout.starts, tf.int32), 0)
            batch[name] = found
        for name, (values, firsts, counts) in ragged.items():
            places = lay_out(tf.where(is_example, tf.gather(counts, examples), 0), seq_length)
            found = places.values(values, tf.gather(firsts, examples))
            if name in POSITIONS:
                moved = tf.cast(places.of_examples(layout.starts), tf.int32)
                found = tf.where(places.inside, found + moved, 0)
            batch[name] = found
        return batch

    dataset = tf.data.Dataset.from_tensor_slices(plan)
    return dataset.map(gather, num_parallel_calls=2, deterministic=True).prefetch(4)


def _rows_of(
    row_splits: np.ndarray, fixed_length: int | None
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Examples int64 [B] -> their rows int64 [B, C], and bool [B, C], which of them there are."""
    firsts, counts = tf.constant(row_splits[:-1]), tf.constant(np.diff(row_splits))
    # Shapes that are to be fixed have as many rows in every batch.
    most = None if fixed_length is None else int(np.diff(row_splits).max())

    def rows_of(examples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        count = tf.gather(counts, examples)[:, tf.newaxis]  # [B, 1]
        number = tf.range(tf.reduce_max(count) if most is None else tf.constant(most, tf.int64))
        is_row = number < count  # [B, C]
        rows = tf.gather(firsts, examples)[:, tf.newaxis] + number
        return tf.ensure_shape(tf.where(is_row, rows, 0), [None, most]), is_row

    return rows_of


def _piece_at(texts: PackedTexts | PackedWindows) -> PieceAt:
    return _in_windows(texts) if isinstance(texts, PackedWindows) else _in_texts(texts)


def _in_texts(texts: PackedTexts) -> PieceAt:
    value_at = _value_at(texts.input_ids.values)
    starts = tf.constant(texts.input_ids.row_splits[:-1])
    return lambda rows, position: value_at(tf.gather(starts, rows) + position)


def _in_windows(texts: PackedWindows) -> PieceAt:
    value_at = _value_at(np.concatenate([texts.questions.values, texts.contexts.values]))
    windows = texts.windows
    question_starts = tf.constant(texts.questions.row_splits[windows.questions])
    context_starts = tf.constant(
        len(texts.questions.values)
        + texts.contexts.row_splits[texts.context_of[windows.questions]]
        + windows.starts
    )
    segment_starts, lengths = tf.constant(texts.segment_starts), tf.constant(texts.lengths)

    def piece_at(rows: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        first, second = 1, tf.gather(segment_starts, rows)  # of the two texts
        in_question = tf.gather(question_starts, rows) + position - first
        in_context = tf.gather(context_starts, rows) + position - second
        found = value_at(tf.where(position < second, in_question, in_context))
        is_sep = (position == second - 1) | (position == tf.gather(lengths, rows) - 1)
        found = tf.where(is_sep, tf.constant(texts.sep_id), found)
        return tf.where(position == 0, tf.constant(texts.cls_id), found)

    return piece_at


def _value_at(values: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    """Places int64 -> the values there; any for places that there are not."""
    held = tf.constant(np.append(values, np.int32(0)))  # one more, so that there is one
    return lambda place: tf.gather(held, tf.clip_by_value(place, 0, len(values)))


def _ragged_tensor(ids: RaggedIds) -> tf.RaggedTensor:
    return tf.RaggedTensor.from_row_splits(ids.values, ids.row_splits, validate=False)

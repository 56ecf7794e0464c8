"""Takes the lengths of a batch's examples, returns rows that several share; next: input_pipeline.

Rows of a fixed length without padding examples one by one: an example goes where there is room
behind others (Krell et al. 2021, arXiv 2107.02027). A batch has the same examples as ever; only
the rows that they are shown in are others, and fewer. How many there are is fixed for a run, and so
is how many examples a row has at most, so that all shapes are. The first axis of all that a batch
holds is R: micro-batches and replicas take equal numbers of rows.

Axes: N = steps, B = examples of a step, R = rows of a step, K = most examples of a row, S = length
of a row, D = what a row has limited room for.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from bert_tf.errors import InputError

# Examples whose rows are found at once; bounds the memory that it takes.
_CHUNK = 1 << 22


def spread(lengths: np.ndarray, batch_size: int, seed: list[int]) -> np.ndarray:
    """Deals examples out to batches of nearly equal length in sum, which need as many rows.

    Of each run of equally long examples, every batch gets one, by chance.

    Args:
        lengths: int64 [n], n a multiple of ``batch_size``.
        batch_size: B.
        seed: of the chance, as NumPy takes it.

    Returns:
        int64 [n / B, B], numbers of examples.
    """
    order = np.argsort(lengths, kind="stable").reshape(batch_size, -1)
    return np.random.default_rng(seed).permuted(order, axis=1).T


def first_fit(sizes: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Puts each example into the first row with room for it, the longest first.

    First-fit decreasing (Johnson 1973, Near-optimal bin packing algorithms).

    Args:
        sizes: int64 [N, B, D], of each example; the first of D says which is the longest.
        room: int64 [D], of a row.

    Returns:
        int64 [N, B], the row of each example.

    Raises:
        InputError: if an example does not fit in a row of its own.
    """
    num_steps, batch_size, _ = sizes.shape
    if (sizes > room).any():
        raise InputError(
            f"an example of the sizes {sizes.max(axis=(0, 1)).tolist()} does not fit in a row of "
            f"{np.asarray(room).tolist()}"
        )
    rows = np.empty((num_steps, batch_size), np.int64)
    order = np.argsort(-sizes[..., 0], axis=1, kind="stable")
    part = max(1, _CHUNK // batch_size**2)
    for first in range(0, num_steps, part):
        steps = np.arange(first, min(first + part, num_steps))
        free = np.broadcast_to(room, (len(steps), *sizes.shape[1:])).copy()  # [steps, rows, D]
        opened = 1  # rows beyond these are empty
        for examples in order[steps].T:  # of each step the longest, then the second longest, …
            size = sizes[steps, examples]  # [steps, D]
            chosen = (free[:, :opened] >= size[:, np.newaxis]).all(axis=2).argmax(axis=1)
            free[steps - first, chosen] -= size
            rows[steps, examples] = chosen
            opened = min(batch_size, max(opened, int(chosen.max()) + 2))
    return rows


class RowShape(NamedTuple):
    """How many rows a step has, R, and how many examples a row has at most, K."""

    rows: int
    examples: int

    def padded_to(self, multiple: int) -> "RowShape":
        """The same with as many more rows as it takes to cut them into so many equal parts."""
        return self._replace(rows=-(-self.rows // multiple) * multiple)


def shape_of(rows: np.ndarray) -> RowShape:
    """The smallest shape for all steps: int64 [N, B] of ``first_fit`` -> RowShape."""
    num_rows = int(rows.max()) + 1
    most = 0
    part = max(1, _CHUNK // num_rows)
    for first in range(0, len(rows), part):
        steps = rows[first : first + part]
        places = np.arange(len(steps))[:, np.newaxis] * num_rows + steps
        most = max(most, int(np.bincount(places.ravel()).max()))
    return RowShape(num_rows, most)


def members(rows: np.ndarray, shape: RowShape) -> np.ndarray:
    """Which examples each row has.

    Args:
        rows: int64 [N, B], of ``first_fit``.
        shape: R and K.

    Returns:
        int64 [N, R, K], numbers of 0 to B - 1, ascending, then -1.
    """
    num_steps, batch_size = rows.shape
    order = np.argsort(rows, axis=1, kind="stable")  # [N, B], row after row
    sorted_rows = np.take_along_axis(rows, order, axis=1)
    column = np.arange(batch_size)
    begins = np.ones_like(rows, dtype=bool)
    begins[:, 1:] = sorted_rows[:, 1:] != sorted_rows[:, :-1]
    within = column - np.maximum.accumulate(np.where(begins, column, 0), axis=1)
    found = np.full((num_steps, *shape), -1, np.int64)
    found[np.arange(num_steps)[:, np.newaxis], sorted_rows, within] = order
    return found


def share_rows(
    plan: np.ndarray, lengths: np.ndarray, seq_length: int, multiple: int = 1
) -> np.ndarray:
    """Plans the rows of all steps.

    Args:
        plan: int64 [N, B], which examples each step takes.
        lengths: int64 [n], pieces of each example.
        seq_length: S.
        multiple: what R is to be a multiple of.

    Returns:
        int64 [N, R, K], which examples each row has; -1 for none.
    """
    rows = first_fit(lengths[plan][:, :, np.newaxis], np.array([seq_length]))
    places = members(rows, shape_of(rows).padded_to(multiple))  # [N, R, K], numbers in the batch
    found = np.take_along_axis(plan, np.maximum(places, 0).reshape(len(plan), -1), axis=1)
    return np.where(places >= 0, found.reshape(places.shape), -1)


def num_shares(batch_size: int, micro_batch_size: int | None, num_replicas: int) -> int:
    """Into how many equal shares a step's rows are cut: one for each micro-batch of each replica.

    Args:
        batch_size: B.
        micro_batch_size: examples that are to go through the model at once, a divisor of B.
        num_replicas: of the model.
    """
    return math.lcm(batch_size // (micro_batch_size or batch_size), num_replicas)


class Layout(NamedTuple):
    """What is where in rows that are shared.

    Attributes:
        examples: int64 [R, S], the number in its row of the example that is there, from 0.
        within: int64 [R, S], the place in that example, from 0.
        inside: bool [R, S], whether there is one.
        starts: int64 [R, K], where each example begins.
    """

    examples: tf.Tensor
    within: tf.Tensor
    inside: tf.Tensor
    starts: tf.Tensor

    def values(self, source: tf.Tensor, starts: tf.Tensor) -> tf.Tensor:
        """What the examples have at each place: any dtype [R, S], and zeros outside.

        Args:
            source: [number of values].
            starts: int64 [R, K], where each example's values begin in it.
        """
        place = tf.gather(starts, self.examples, batch_dims=1) + self.within
        found = tf.gather(source, tf.where(self.inside, place, 0))
        return tf.where(self.inside, found, tf.zeros([], source.dtype))

    def of_examples(self, values: tf.Tensor) -> tf.Tensor:
        """What the example that is there has: any dtype [R, K] -> [R, S]."""
        return tf.gather(values, self.examples, batch_dims=1)


def lay_out(lengths: tf.Tensor, size: int) -> Layout:
    """Puts examples behind each other.

    Args:
        lengths: int64 [R, K], 0 for examples that a row lacks.
        size: S, at least the sum of a row's lengths.
    """
    ends = tf.cumsum(lengths, axis=1)  # [R, K]
    starts = ends - lengths
    place = tf.range(size, dtype=tf.int64)
    examples = tf.reduce_sum(
        tf.cast(place[:, tf.newaxis] >= ends[:, tf.newaxis], tf.int64), axis=2
    )  # [R, S]
    inside = place < ends[:, -1:]
    examples = tf.where(inside, examples, 0)
    within = tf.where(inside, place - tf.gather(starts, examples, batch_dims=1), 0)
    return Layout(examples, within, inside, starts)


def sharing_inputs(layout: Layout, is_example: tf.Tensor) -> dict[str, tf.Tensor]:
    """What a model must know of rows that are shared, and the weights of their examples.

    Args:
        layout: of the pieces.
        is_example: bool [R, K], which examples there are.

    Returns:
        ``input_mask``, ``example_numbers`` and ``positions`` int32 [R, S], ``cls_positions`` int32
        [R, K], as for BertModel; ``example_weights`` float32 [R, K], 0 for examples that a row
        lacks.
    """
    inside = tf.cast(layout.inside, tf.int32)
    return {
        "input_mask": inside,
        "example_numbers": (tf.cast(layout.examples, tf.int32) + 1) * inside,
        "positions": tf.cast(layout.within, tf.int32),
        "cls_positions": tf.where(is_example, tf.cast(layout.starts, tf.int32), 0),
        "example_weights": tf.cast(is_example, tf.float32),
    }

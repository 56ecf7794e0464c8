"""Takes a function of rows, runs it on blocks of them, one after another; next: the tasks' graphs.

A request may hold a text of any length, and its windows are as many rows. All at once they would
take memory that grows with the text: the scores of attention alone are 4 N S^2 bytes a row. In
blocks it is the memory of one block, whatever the text.

Axes: R rows (or texts of several rows), S = seq_length, N heads.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from bert_tf.export.served_model import Tensors
from bert_tf.export.text_rows import Rows

MOST_ROWS = 32  # of a block; Predictor runs as many at once


def in_blocks(
    function: Callable[[Tensors], tf.Tensor],
    inputs: Tensors,
    row_shape: Sequence[int | None],
    most_rows: int | tf.Tensor = MOST_ROWS,
) -> tf.Tensor:
    """What a function returns for rows that it is given a block at a time.

    Unless S is fixed, a block is as long as its own longest row.

    Args:
        function: takes such inputs of fewer and shorter rows; returns float32 [rows, …] of a shape
            that depends on nothing else of them, and of each row what depends on that row alone.
        inputs: int32 [R, …, S] each of Rows, and others [R, …], by name.
        row_shape: of what is returned of a row; None where the inputs decide.
        most_rows: of a block, at least 1; a number or int32 [].

    Returns:
        float32 [R, …], what ``function(inputs)`` would be.
    """
    size = tf.shape(inputs["input_mask"])[0]
    count = tf.maximum((size + most_rows - 1) // most_rows, 1)  # of no rows, one without any

    def step(number: tf.Tensor, found: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        start = number * most_rows
        block = {name: value[start : start + most_rows] for name, value in inputs.items()}
        return number + 1, found.write(number, function(_shortened(block)))

    found = tf.TensorArray(tf.float32, count, infer_shape=False, element_shape=[None, *row_shape])
    # One at a time, or else several blocks would be in memory.
    _, found = tf.while_loop(
        lambda number, _: number < count, step, (0, found), parallel_iterations=1
    )
    return found.concat()


def _shortened(block: Tensors) -> Tensors:
    """The block without the columns in which all its rows have padding."""
    mask = block["input_mask"]
    if mask.shape[-1] is not None:
        return block
    longest = tf.maximum(tf.reduce_max(tf.reduce_sum(mask, axis=-1)), 1)
    return block | {name: block[name][..., :longest] for name in Rows._fields}

"""Takes a layer and its inputs, returns its output without the memory of how; next: modeling.

Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): of a layer only the input is kept, and
the backward pass computes the layer's activations again when it needs them.

Axes: B = batch_size, S = seq_length, T = B * S tokens, H = hidden_size.
"""

from typing import Any

import keras
import tensorflow as tf


def recomputed(
    layer: keras.layers.Layer, x: tf.Tensor, mask_adder: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """``layer(x, mask_adder, seed)``, whose backward pass begins with the same call again.

    Args:
        layer: a transformer layer: a function of its weights and these arguments alone, so that
            the second call drops the same elements.
        x: float [T, H].
        mask_adder: float32 [B, 1, 1, S]; no gradient goes there.
        seed: int32 [2].

    Returns:
        Float [T, H].
    """

    def run(x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        with keras.StatelessScope(state_mapping=list(zip(layer.weights, weights, strict=True))):
            # Else a graph's executor would draw the dropout of all layers before the first begins.
            return layer(x, mask_adder, _once_known(x, seed))

    # The weights are arguments as well, because whatever the tape is to reach must be one.
    @tf.custom_gradient
    def call(x: tf.Tensor, *weights: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradient(dy: tf.Tensor) -> list[tf.Tensor]:
            # Without this, a graph's executor would compute it all again right away, if the graph's
            # optimizer had not merged it with the first computation before.
            late_x = _once_known(dy, x)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([late_x, *weights])
                y = run(late_x, *weights)
            gradients = tape.gradient(y, [late_x, *weights], output_gradients=dy)
            # All of them, before the layer below begins: else a graph's executor would put off
            # those of the weights, and with them keep what several layers have computed again.
            with tf.control_dependencies(gradients):
                return [tf.identity(g) for g in gradients]

        # An outer tape would keep the activations in eager mode.
        return run(*map(tf.stop_gradient, (x, *weights))), gradient

    return call(x, *(tf.convert_to_tensor(weight.value) for weight in layer.weights))


def _once_known(other: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """``x``, but not before ``other``: plus a 0 that no optimizer knows to be one.

    A control dependency would not do, as XLA does not see it, nor would a comparison whose outcome
    it can tell, such as that of an absolute value with 0.
    """
    first = tf.reduce_max(tf.reshape(other, [-1])[:1])  # of an empty tensor too
    return x + tf.cast(tf.math.is_nan(first), x.dtype)

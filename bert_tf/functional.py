"""Takes activations, returns activations: functions that have no weights; next: modeling.

Axes: T = number of tokens, H = hidden_size.
"""

import math
from typing import Any

import tensorflow as tf

LAYER_NORM_EPSILON = 1e-12


@tf.custom_gradient
def gelu(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Gaussian error linear unit, tanh form (Hendrycks and Gimpel 2016, arXiv 1606.08415).

    ``0.5 x (1 + tanh(z))`` with ``z = sqrt(2 / pi) (x + 0.044715 x^3)`` is written as
    ``x sigmoid(2 z)``, the same function with fewer passes over memory, and so is its gradient
    ``s + x s (1 - s) 2 z'``, whose ``x s (1 - s)`` is one operation of TensorFlow's.

    Args:
        x: float, any shape.

    Returns:
        Same shape and dtype as ``x``.
    """
    c = 2.0 * math.sqrt(2.0 / math.pi)
    s = tf.sigmoid(x * (c + (c * 0.044715) * tf.square(x)))

    def gradient(dy: tf.Tensor) -> tf.Tensor:
        u = tf.raw_ops.SigmoidGrad(y=s, dy=x)
        # Where x^2 is beyond the dtype's range, u is 0, and so must the product be.
        slope = tf.minimum(c + (3.0 * c * 0.044715) * tf.square(x), x.dtype.max)
        return dy * (s + u * slope)

    return x * s, gradient


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_erf": lambda x: tf.nn.gelu(x, approximate=False),
    "relu": tf.nn.relu,
    "tanh": tf.tanh,
    "linear": tf.identity,
}


@tf.custom_gradient
def layer_norm(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Layer normalization over the last axis (Ba et al. 2016, arXiv 1607.06450, section 3).

    ``y = gamma (x - mean) / sqrt(variance + 1e-12) + beta``. The gradient is written out, in the
    same paper's notation, because the automatic one makes twice as many passes over memory.

    Args:
        x: float32 [T, H].
        gamma: float32 [H].
        beta: float32 [H].

    Returns:
        float32 [T, H].
    """
    centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    scale = tf.math.rsqrt(variance + LAYER_NORM_EPSILON)
    normalised = centred * scale

    def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        dy_gamma = dy * gamma
        mean = tf.reduce_mean(dy_gamma, axis=-1, keepdims=True)
        projection = tf.reduce_mean(dy_gamma * normalised, axis=-1, keepdims=True)
        dx = (dy_gamma - mean - normalised * projection) * scale
        return dx, tf.reduce_sum(dy * normalised, axis=0), tf.reduce_sum(dy, axis=0)

    return normalised * gamma + beta, gradient


def dropout(x: tf.Tensor, rate: float, seed: tf.Tensor | None, site: int) -> tf.Tensor:
    """Zeroes each element with probability ``rate`` and scales the others by ``1 / (1 - rate)``.

    Stateless: the same seed and site give the same mask, after a resume and under recomputation.
    An element is decided by 16 random bits, which halves the cost of the usual 32, so the rate is
    the nearest multiple of 2^-16, and so is the scale: the expectation is exact.

    Args:
        x: float, any shape.
        rate: in [0, 1).
        seed: int32 [2], or None for no dropout (inference).
        site: a number for this call, different from that of every other call under one seed.

    Returns:
        Same shape and dtype as ``x``.
    """
    dropped = min(round(rate * 65536), 65535)  # of the 65536 values of 16 bits
    if seed is None or dropped == 0:
        return x
    seed = tf.random.experimental.stateless_fold_in(seed, site)
    size = tf.size(x)
    words = tf.random.stateless_uniform(
        [(size + 1) // 2], seed, minval=None, maxval=None, dtype=tf.uint32
    )
    bits = tf.reshape(tf.bitcast(words, tf.uint16), [-1])[:size]
    kept = tf.cast(tf.reshape(bits, tf.shape(x)) >= tf.constant(dropped, tf.uint16), x.dtype)
    return x * (kept * (65536 / (65536 - dropped)))

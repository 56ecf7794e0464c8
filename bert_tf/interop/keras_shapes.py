"""Takes a weight of the original's, returns it as layers of Keras hold it; next: keras_hub.

keras-hub and Model Garden both have Keras's MultiHeadAttention, whose kernels have an axis for the
heads, and Dense where the original's small heads have a transposed matrix.
Axes: H = hidden_size, N = num_attention_heads, D = H / N.
"""

import numpy as np

from bert_tf.config import BertConfig


def keras_shape(name: str, shape: tuple[int, ...], config: BertConfig) -> tuple[int, ...]:
    """The shape there.

    Args:
        name: in a checkpoint of the original.
        shape: there.
        config: has N.
    """
    heads = (config.num_attention_heads, config.hidden_size // config.num_attention_heads)
    if "/attention/self/" in name:
        return (*shape[:-1], *heads)  # [H, N, D], and [N, D] of a bias
    if name.endswith("/attention/output/dense/kernel"):
        return (*heads, *shape[1:])  # [N, D, H]
    return shape[::-1] if _is_transposed(name) else shape


def to_keras(name: str, value: np.ndarray, config: BertConfig) -> np.ndarray:
    """A weight of the original's as Keras holds it; see ``keras_shape``."""
    if _is_transposed(name):
        return np.ascontiguousarray(value.T)
    return value.reshape(keras_shape(name, value.shape, config))


def from_keras(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The reverse; ``shape`` is that in a checkpoint of the original."""
    return np.ascontiguousarray(value.T) if _is_transposed(name) else value.reshape(shape)


def _is_transposed(name: str) -> bool:
    return name.endswith("output_weights")

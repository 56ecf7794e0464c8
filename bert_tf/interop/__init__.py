"""Weights of other libraries, in and out: one module for each of their formats.

``bert_tf.interop.convert`` does from Python what ``bert-tf convert_checkpoint`` does.
"""

from typing import Any

__all__ = ["convert"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'bert_tf.interop' has no attribute {name!r}")
    from bert_tf.interop.conversion import convert  # here: it loads TensorFlow

    return convert

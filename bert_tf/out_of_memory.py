"""Takes TensorFlow's word that memory ran out, returns what to change; next: training."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from bert_tf.errors import InputError

# TensorFlow says of a full disk, too, that a resource is exhausted.
_ABOUT_MEMORY = re.compile(r".*(\bOOM\b|out of memory|allocate).*", re.IGNORECASE)


@contextlib.contextmanager
def out_of_memory_explained(
    doing: Callable[[], str], shape: Callable[[], Sequence[int]], advice: str
) -> Iterator[None]:
    """Turns an allocation that fails inside into a message that says how to need less.

    A process that the kernel ends, for having too much memory, does not come to this.

    Args:
        doing: gives what was being done, such as ``evaluating``.
        shape: gives the shape of the batch's ``input_ids``.
        advice: what to change.

    Raises:
        InputError: if memory runs out.
    """
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        said = _ABOUT_MEMORY.search(error.message)
        if said is None:
            raise
        raise InputError(
            f"out of memory while {doing()}, with input_ids of shape {list(shape())} "
            f"({said[0].strip()}). {advice}"
        ) from error

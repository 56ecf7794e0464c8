"""Takes what a caller gives a model, returns checked int32 tensors; next: modeling.

Axes: B = batch_size, S = seq_length, P = max_predictions_per_seq, C = choices or windows of an
example, K = most examples of a row where several share one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from bert_tf.config import BertConfig
from bert_tf.errors import InputError

ROWS = ("batch_size", "length")
CHOICES = ("batch_size", "choices", "length")
WINDOWS = ("batch_size", "windows", "length")


class ModelInputs(NamedTuple):
    """The encoder's inputs, int32 [B, S] each, or [B, C, S] where an example is several rows."""

    input_ids: tf.Tensor
    input_mask: tf.Tensor
    segment_ids: tf.Tensor


def read_inputs(
    inputs: Mapping[str, Any], config: BertConfig, axes: Sequence[str] = ROWS
) -> ModelInputs:
    """Checks a model's inputs and fills in what may be left out.

    Shapes are checked as far as they are known. The values of ids are looked at in eager mode only:
    in a graph, the gather refuses word ids outside the table on CPU, and data pipelines make none.

    Args:
        inputs: as for BertModel.
        config: the model's.
        axes: ROWS, CHOICES or WINDOWS, which says the shape of each input.

    Raises:
        InputError: naming the input, what was expected and what came.
    """
    input_ids = _ids("input_ids", _required(inputs, "input_ids"), axes)
    given = {
        name: _ids(name, inputs[name], axes)
        for name in ("input_mask", "segment_ids")
        if inputs.get(name) is not None
    }
    for name, tensor in given.items():
        if not tensor.shape.is_compatible_with(input_ids.shape):
            raise InputError(
                f"{name} has the shape {tensor.shape}, but input_ids has {input_ids.shape}"
            )
    seq_length = input_ids.shape[-1]
    if seq_length is not None and not 1 <= seq_length <= config.max_position_embeddings:
        raise InputError(
            f"input_ids: a sequence of {seq_length} tokens, but it must have 1 to "
            f"{config.max_position_embeddings} (max_position_embeddings); cut the input"
        )
    found = ModelInputs(
        input_ids,
        given.get("input_mask", tf.ones_like(input_ids)),
        given.get("segment_ids", tf.zeros_like(input_ids)),
    )
    _check_values("input_ids", input_ids, config.vocab_size, "vocab_size")
    _check_values("segment_ids", found.segment_ids, config.type_vocab_size, "type_vocab_size")
    return found


class Sharing(NamedTuple):
    """What tells the examples apart that share a row, int32.

    Attributes:
        example_numbers: [B, S], 1 to K, and 0 for padding.
        positions: [B, S], a piece's position in its example.
        cls_positions: [B, K], where each example begins; any position if there is no such example.
    """

    example_numbers: tf.Tensor
    positions: tf.Tensor
    cls_positions: tf.Tensor


def read_sharing(inputs: Mapping[str, Any], config: BertConfig) -> Sharing | None:
    """The inputs that rows of several examples have, checked as ``read_inputs`` does, or None.

    Raises:
        InputError: also if there are some of them but not all.
    """
    if all(inputs.get(name) is None for name in Sharing._fields):
        return None
    found = Sharing(*(_ids(name, _required(inputs, name), ROWS) for name in Sharing._fields))
    for name in ("example_numbers", "positions"):
        tensor, shape = getattr(found, name), tf.convert_to_tensor(inputs["input_ids"]).shape
        if not tensor.shape.is_compatible_with(shape):
            raise InputError(f"{name} has the shape {tensor.shape}, but input_ids has {shape}")
    _check_values(
        "positions", found.positions, config.max_position_embeddings, "max_position_embeddings"
    )
    if found.positions.shape[1] is not None:
        length = found.positions.shape[1]
        _check_values("cls_positions", found.cls_positions, length, "the sequence's length")
    return found


def read_positions(inputs: Mapping[str, Any], name: str, seq_length: int | None) -> tf.Tensor:
    """Positions in the sequence, int32 [B, P], checked as ``read_inputs`` does."""
    positions = _ids(name, _required(inputs, name), ROWS)
    if seq_length is not None:
        _check_values(name, positions, seq_length, "the sequence's length")
    return positions


def _required(inputs: Mapping[str, Any], name: str) -> Any:
    if inputs.get(name) is None:
        raise InputError(f"{name} is missing; the inputs are {', '.join(sorted(inputs)) or 'none'}")
    return inputs[name]


def _ids(name: str, value: Any, axes: Sequence[str]) -> tf.Tensor:
    tensor = tf.convert_to_tensor(value)
    if not (tensor.dtype.is_integer or (name == "input_mask" and tensor.dtype != tf.string)):
        raise InputError(f"{name} must be of an integer dtype, but is {tensor.dtype.name}")
    if tensor.shape.rank not in (len(axes), None):
        raise InputError(f"{name} must have the shape [{', '.join(axes)}], but has {tensor.shape}")
    return tf.cast(tensor, tf.int32)


def _check_values(name: str, ids: tf.Tensor, limit: int, what: str) -> None:
    if not tf.executing_eagerly():
        return
    outside = tf.where((ids < 0) | (ids >= limit))
    if len(outside):
        place = tuple(int(i) for i in outside[0])
        raise InputError(
            f"{name}{list(place)} is {int(ids[place])}, but {what} is {limit}: it must "
            f"lie in 0 to {limit - 1}. Do the vocabulary and the checkpoint belong together?"
        )

import numpy as np
import pytest
import tensorflow as tf

from bert_tf.config import BertConfig
from bert_tf.errors import InputError
from bert_tf.model_inputs import CHOICES, read_inputs, read_positions, read_sharing

CONFIG = BertConfig(vocab_size=37, type_vocab_size=3, max_position_embeddings=11)
IDS = np.array([[5, 0, 36], [7, 8, 9]])


@pytest.mark.parametrize("ids", [IDS, IDS.tolist(), tf.constant(IDS), IDS.astype(np.uint8)])
def test_what_is_left_out_is_filled_in(ids):
    inputs = read_inputs({"input_ids": ids}, CONFIG)
    for tensor, expected in zip(inputs, (IDS, np.ones((2, 3)), np.zeros((2, 3))), strict=True):
        assert tensor.dtype == tf.int32
        np.testing.assert_array_equal(tensor, expected)


def test_given_masks_and_segments_are_taken():
    mask, segments = np.array([[True, True, False]] * 2), np.array([[0, 1, 2]] * 2)
    inputs = read_inputs({"input_ids": IDS, "input_mask": mask, "segment_ids": segments}, CONFIG)
    np.testing.assert_array_equal(inputs.input_mask, mask.astype(int))
    np.testing.assert_array_equal(inputs.segment_ids, segments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_ids": None}, "input_ids is missing"),
        ({"input_ids": IDS[0]}, r"input_ids must have the shape \[batch_size, length\].*\(3,\)"),
        ({"input_ids": IDS.astype(float)}, "input_ids must be of an integer dtype.*float64"),
        ({"input_ids": IDS + 1}, r"input_ids\[0, 2\] is 37, but vocab_size is 37"),
        ({"input_ids": IDS - 1}, r"input_ids\[0, 1\] is -1"),
        ({"input_ids": IDS[:, :0]}, "a sequence of 0 tokens"),
        ({"input_ids": np.zeros((2, 12), int)}, "a sequence of 12 tokens.*1 to 11"),
        ({"input_mask": IDS[:, :2]}, r"input_mask has the shape \(2, 2\)"),
        ({"segment_ids": IDS * 0 + 3}, "segment_ids.* is 3, but type_vocab_size is 3"),
    ],
)
def test_wrong_inputs_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        read_inputs({"input_ids": IDS, **changes}, CONFIG)


def test_examples_of_several_rows():
    ids = np.arange(30).reshape(2, 5, 3)
    inputs = read_inputs({"input_ids": ids}, CONFIG, CHOICES)
    np.testing.assert_array_equal(inputs.input_ids, ids)
    for changes, message in (
        ({"input_ids": IDS}, r"must have the shape \[batch_size, choices, length\].*\(2, 3\)"),
        ({"input_ids": ids + 8}, r"input_ids\[1, 4, 2\] is 37"),
        ({"input_mask": ids.reshape(5, 2, 3)}, r"input_mask has the shape \(5, 2, 3\)"),
        ({"input_ids": np.zeros((2, 5, 12), int)}, "a sequence of 12 tokens"),
    ):
        with pytest.raises(InputError, match=message):
            read_inputs({"input_ids": ids, **changes}, CONFIG, CHOICES)


def test_positions():
    positions = read_positions({"word_starts": [[1, 2], [0, 0]]}, "word_starts", 3)
    np.testing.assert_array_equal(positions, [[1, 2], [0, 0]])
    with pytest.raises(InputError, match=r"masked_lm_positions\[0, 1\] is 2"):
        read_positions({"masked_lm_positions": [[1, 2]]}, "masked_lm_positions", 2)
    with pytest.raises(
        InputError, match="masked_lm_positions is missing; the inputs are input_ids"
    ):
        read_positions({"input_ids": IDS}, "masked_lm_positions", 3)


def test_unknown_shapes_in_a_graph():
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int64)])
    def count(ids):
        return tf.reduce_sum(read_inputs({"input_ids": ids}, CONFIG).input_mask)

    assert int(count(IDS)) == 6


def test_what_tells_examples_of_a_row_apart():
    inputs = {
        "input_ids": IDS,
        "example_numbers": [[1, 1, 2], [1, 0, 0]],
        "positions": [[0, 1, 0], [0, 0, 0]],
        "cls_positions": [[0, 2], [0, 0]],
    }
    assert read_sharing({"input_ids": IDS}, CONFIG) is None
    sharing = read_sharing(inputs, CONFIG)
    for name, tensor in sharing._asdict().items():
        assert tensor.dtype == tf.int32
        np.testing.assert_array_equal(tensor, inputs[name])
    for changes, message in (
        ({"positions": None}, "positions is missing"),
        ({"example_numbers": IDS[:, :2]}, r"example_numbers has the shape \(2, 2\)"),
        ({"positions": IDS[:1]}, r"positions has the shape \(1, 3\)"),
        ({"positions": IDS * 0 + 11}, "positions.* is 11, but max_position_embeddings is 11"),
        ({"cls_positions": [[0, 3], [0, 0]]}, r"cls_positions\[0, 1\] is 3"),
    ):
        with pytest.raises(InputError, match=message):
            read_sharing({**inputs, **changes}, CONFIG)

"""Windows of long texts go through the model in blocks, and answers are those of all at once."""

import numpy as np
import pytest
import serving_tasks
import tensorflow as tf

from bert_tf.export.exporter import EXPORTERS
from bert_tf.export.row_blocks import MOST_ROWS, in_blocks
from bert_tf.export.served_model import DEFAULT
from bert_tf.modeling import BertModel
from bert_tf.use_config import Export

S, W = 11, 3


def rows(lengths):
    """Rows of such lengths and something else of each."""
    random = np.random.default_rng(len(lengths))
    mask = (np.arange(S) < np.reshape(lengths, [-1, 1])).astype(np.int32)
    ids = random.integers(1, 99, mask.shape, np.int32) * mask
    others = random.integers(0, 99, [len(mask), W], np.int32)
    return {"input_ids": ids, "input_mask": mask, "segment_ids": ids % 2, "word_starts": others}


def of_each(inputs):
    """Float32 [rows, W, 2]: sums of a row, with what else there is of it."""
    sums = [tf.reduce_sum(inputs[name], axis=1) for name in ("input_ids", "segment_ids")]
    both = tf.stack(sums, axis=1)[:, tf.newaxis]
    return tf.cast(both * inputs["word_starts"][:, :, tf.newaxis], tf.float32)


def shape_of(inputs):
    """Float32 [rows, 2]: of each row, how many there are with it and how long they are."""
    shape = tf.shape(inputs["input_ids"])
    assert tf.executing_eagerly() or inputs["segment_ids"].shape[0] is None
    return tf.cast(tf.broadcast_to(shape, [shape[0], 2]), tf.float32)


def graph(function, row_shape, *most_rows, seq_length=None):
    """What a served graph would have, of requests of any number of rows."""
    specs = {name: tf.TensorSpec([None, seq_length], tf.int32) for name in rows([1])}
    specs["word_starts"] = tf.TensorSpec([None, W], tf.int32)
    return tf.function(
        lambda inputs: in_blocks(function, inputs, row_shape, *most_rows),
        input_signature=[specs],
        autograph=False,
    )


LENGTHS = [9, 2, 5, 5, 0, 3, 7, 2, 2, 4, 6, 10, 2]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 8, len(LENGTHS)])
def test_blocks_are_of_so_many_rows_and_as_long_as_the_longest(size):
    inputs = rows(LENGTHS[:size])
    found = graph(of_each, [W, 2], tf.constant(4))(inputs)
    np.testing.assert_array_equal(found, of_each(inputs))
    parts = [LENGTHS[start : min(start + 4, size)] for start in range(0, size, 4)]
    shapes = [[len(part), max([1, *part])] for part in parts for _ in part]
    np.testing.assert_array_equal(graph(shape_of, [2], 4)(inputs), np.reshape(shapes, [-1, 2]))


def test_rows_of_one_length_stay_of_that_length():
    found = graph(shape_of, [2], 4, seq_length=S)(rows(LENGTHS[1:7]))
    assert found.numpy().tolist() == [[4, S]] * 4 + [[2, S]] * 2


def test_shapes_are_known_as_far_as_they_are_given():
    assert graph(of_each, [None, 2]).get_concrete_function().output_shapes.as_list() == [
        *(None, None, 2)
    ]


@pytest.mark.parametrize("kind", ["tags without a CRF", "answers there always are", "windows"])
def test_no_more_rows_than_a_block_has_go_through_the_encoder(kind, tmp_path, monkeypatch):
    run = serving_tasks.write_run(tmp_path / "run", kind)
    long = serving_tasks.long_text(90)
    asked = ["the river", long, "the", f"able {long}", *["the"] * 4]
    if serving_tasks.KINDS[kind] == "question_answering":
        asked = [("of able", text * 2) for text in asked]
    settings = Export(model_dir=str(run), export_dir="-")
    served = EXPORTERS[serving_tasks.KINDS[kind]](run, settings)
    num_rows = []
    method = "pooled_output" if kind == "windows" else "call"
    call = getattr(BertModel, method)

    def recorded(self, inputs, *arguments, **named):
        num_rows.append(len(inputs["input_ids"]))
        return call(self, inputs, *arguments, **named)

    monkeypatch.setattr(BertModel, method, recorded)
    inputs, function = served.signatures[DEFAULT]
    ranks = {name: spec.shape.rank for name, spec in inputs.items()}
    columns = serving_tasks.columns(ranks, asked)
    function({name: tf.constant(column) for name, column in columns.items()})
    assert len(num_rows) > 1 and max(num_rows) <= MOST_ROWS

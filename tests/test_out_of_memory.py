"""Tests of bert_tf.out_of_memory, with tensors that no allocator gives."""

import numpy as np
import pytest
import tensorflow as tf
from test_training import NAMES, global_batch, pretraining_loss

from bert_tf.errors import InputError
from bert_tf.heads import BertPretrainer
from bert_tf.optimization import create_optimizer
from bert_tf.out_of_memory import out_of_memory_explained
from bert_tf.tasks.pretraining_objective import Objective, PretrainingEvaluator
from bert_tf.training import Evaluator, TrainStep, train


class Greedy(BertPretrainer):
    """Wants 2^48 bytes for every row whose first id is 36: more than a process can address."""

    def call(self, inputs, training=False, dropout_seed=None):
        outputs = super().call(inputs, training=training, dropout_seed=dropout_seed)
        rows = tf.reduce_sum(tf.cast(inputs["input_ids"][:, 0] == 36, tf.int64))
        huge = tf.fill([rows * 2**46], outputs["pooled_output"][0, 0])
        outputs["next_sentence_logits"] += tf.reduce_sum(huge)
        return outputs


def batches_of(config, first, last):
    """As global_batches, but the batch of step 3 has a row that begins with 36."""
    batches = [global_batch(config, number) for number in range(first, last)]
    for number, batch in zip(range(first, last), batches, strict=True):
        batch["input_ids"][:, 0] = 36 if number == 3 else 1
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    return tf.data.Dataset.from_tensor_slices(stacked)


@pytest.mark.parametrize(
    ("micro_batch_size", "recompute", "advice"),
    [
        (None, False, r"Give --recompute, with .* --micro_batch_size, a divisor of"),
        (2, True, r"\)\. Give --micro_batch_size, smaller than 2, or a smaller --max_seq_length"),
    ],
)
def test_a_step_that_does_not_fit_says_so(
    tiny_config, tmp_path, micro_batch_size, recompute, advice
):
    step = TrainStep(
        Greedy(tiny_config), create_optimizer(0.01, 10, 2), pretraining_loss, seed=3,
        micro_batch_size=micro_batch_size, recompute=recompute,
    )  # fmt: skip
    with pytest.raises(InputError) as error:
        train(
            step, NAMES, lambda first: batches_of(tiny_config, first, 8), tmp_path,
            num_train_steps=8, examples_per_step=6, log_steps=8, save_checkpoints_steps=2,
        )  # fmt: skip
    assert error.match(
        r"^out of memory while training, at step 3 of 8, with input_ids of shape \[6, 7\] \(OOM "
    )
    assert error.match(advice)
    assert error.match("--train_batch_size, in another folder or with --overwrite$")
    assert tf.train.latest_checkpoint(tmp_path / "resume").endswith("ckpt-2")


def test_an_evaluation_that_does_not_fit_says_so(tiny_config):
    model = Greedy(tiny_config)
    dataset = batches_of(tiny_config, 2, 5)
    says = r"while evaluating, with input_ids of shape \[6, 7\] \(OOM .*--eval_batch_size .*--pred"
    forward = lambda inputs, training: model(inputs, training=training)["next_sentence_logits"]  # noqa: E731
    with_ids = dataset.map(lambda batch: {**batch, "example_ids": tf.range(6, dtype=tf.int64)})
    seen = Evaluator(forward).by_batch(with_ids, 3)
    next(seen)
    with pytest.raises(InputError, match=says):
        next(seen)
    columns = dataset.map(
        lambda batch: {**batch, "next_sentence_labels": batch["next_sentence_labels"][:, None]}
    )
    with pytest.raises(InputError, match=says):
        PretrainingEvaluator(model, Objective(next_sentence=True))(columns, 3)


def test_a_full_disk_is_not_taken_for_it():
    full = tf.errors.ResourceExhaustedError(None, None, "out/events: No space left on device")
    with (
        pytest.raises(tf.errors.ResourceExhaustedError, match="No space"),
        out_of_memory_explained(lambda: "training", lambda: [1, 2], "Give less"),
    ):
        raise full

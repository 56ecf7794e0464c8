"""Tests of bert_tf.training: the original's 50 steps, several devices, resuming, evaluation."""

import csv
import dataclasses
import itertools
import json
import math
import pathlib
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from forked import run_forked

from bert_tf import training
from bert_tf.checkpoint import load_checkpoint, save_checkpoint, variables_by_name
from bert_tf.errors import InputError
from bert_tf.functional import dropout
from bert_tf.heads import BertClassifier, BertMultipleChoice, BertPretrainer
from bert_tf.input_pipeline import Features, batches, evaluation_plan
from bert_tf.losses import (
    Loss,
    LossTerm,
    examples_weight,
    masked_lm_loss,
    masked_lm_weight,
    single_label_loss,
)
from bert_tf.optimization import create_optimizer
from bert_tf.packing import PackedTexts, RaggedIds
from bert_tf.termination import Terminated
from bert_tf.training import Evaluator, LoopLength, TrainLog, TrainStep, dropout_seed, train


def pretraining_terms(outputs, batch):
    return {
        "masked_lm_loss": masked_lm_loss(
            outputs["masked_lm_logits"], batch["masked_lm_ids"], batch["masked_lm_weights"]
        ),
        "next_sentence_loss": single_label_loss(
            outputs["next_sentence_logits"], batch["next_sentence_labels"]
        ),
    }


def pretraining_weights(batch):
    return {
        "masked_lm_loss": masked_lm_weight(batch["masked_lm_weights"]),
        "next_sentence_loss": examples_weight(batch["next_sentence_labels"]),
    }


pretraining_loss = Loss(pretraining_terms, pretraining_weights)
classifier_loss = Loss(
    lambda logits, batch: {"loss": single_label_loss(logits, batch["label_ids"])},
    lambda batch: {"loss": examples_weight(batch["label_ids"])},
)


@pytest.fixture(scope="module")
def tiny_config(tiny_config):
    """With one layer: a step, and a loop of them, does with a second what it does with one."""
    return dataclasses.replace(tiny_config, num_hidden_layers=1)


def without_dropout(config):
    return dataclasses.replace(config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


# --- against the original code ------------------------------------------------------------------


def original_records(path):
    """Batches of 16 of the original's pretraining file, in its order."""
    schema = {name: tf.io.FixedLenFeature([64], tf.int64) for name in ("input_ids", "input_mask")}
    schema["segment_ids"] = schema["input_ids"]
    for name in ("masked_lm_positions", "masked_lm_ids"):
        schema[name] = tf.io.FixedLenFeature([10], tf.int64)
    schema["masked_lm_weights"] = tf.io.FixedLenFeature([10], tf.float32)
    schema["next_sentence_labels"] = tf.io.FixedLenFeature([], tf.int64)
    for records in tf.data.TFRecordDataset(str(path)).batch(16):
        batch = tf.io.parse_example(records, schema)
        yield {
            name: tf.cast(value, tf.int32) if value.dtype == tf.int64 else value
            for name, value in batch.items()
        }


def test_fifty_steps_equal_the_originals(shared, testdata, original_tiny):
    config, path = original_tiny
    folder = testdata / "original_tiny"
    with (folder / "trajectory.csv").open() as file:
        trajectory = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert len(trajectory) == 50
    model = BertPretrainer(without_dropout(config))
    load_checkpoint(model, path)
    step = TrainStep(model, create_optimizer(5e-4, 50, 10), pretraining_loss, seed=1)
    update = tf.function(step)
    records = original_records(shared / "goldens" / "original_tiny" / "pretrain.tfrecord")
    for number, (expected, batch) in enumerate(zip(trajectory, records, strict=False)):
        values = {name: float(value) for name, value in update(batch).items()}
        assert values.pop("learning_rate") == pytest.approx(
            5e-4 * (number / 10 if number < 10 else 1 - number / 50), abs=1e-7 * 5e-4
        )
        values["grad_global_norm"] = values.pop("grad_norm")
        assert values == pytest.approx(expected, rel=1e-5), f"step {number}"
    assert int(step.optimizer.iterations) == 50
    named = variables_by_name(model)
    final = np.load(folder / "final_weights.npz")
    assert len(final) == 8
    for name in final:
        np.testing.assert_allclose(named[name], final[name], rtol=0, atol=1e-5, err_msg=name)


# --- seeds --------------------------------------------------------------------------------------


def test_a_dropout_seed_differs_between_seeds_steps_and_replicas():
    cases = list(itertools.product((0, 1, 2, 2**31, 2**40 + 1), (0, 1, 2, 1000), range(3)))
    seeds = {tuple(dropout_seed(s, tf.constant(n), r).numpy().tolist()) for s, n, r in cases}
    assert len(seeds) == len(cases)
    one, other = (dropout_seed(5, tf.constant(3, tf.int64), 1) for _ in range(2))
    assert one.dtype == tf.int32 and one.shape == (2,)
    np.testing.assert_array_equal(one, other)


def test_masks_of_other_steps_replicas_and_sites_are_independent():
    def kept(step, replica, site):
        seed = dropout_seed(5, tf.constant(step), replica)
        return dropout(tf.ones([50_000]), 0.3, seed, site).numpy() > 0

    mask = kept(3, 0, 1)
    np.testing.assert_array_equal(kept(3, 0, 1), mask)
    # Steps, replicas and sites are small numbers: none of them may stand in for another.
    for other in ((4, 0, 1), (3, 1, 1), (3, 0, 2), (1, 0, 3), (3, 1, 0), (0, 3, 1)):
        assert abs(np.mean(kept(*other) == mask) - 0.58) < 5 * np.sqrt(0.58 * 0.42 / 50_000)


class Probe(keras.Model):
    """One weight; remembers the dropout seeds that it is called with."""

    def __init__(self):
        super().__init__()
        self.kernel = self.add_weight(name="kernel", shape=[2], initializer="ones")
        self.unused = self.add_weight(name="unused", shape=[3], initializer="ones")
        self.seeds = []

    def call(self, inputs, training=False, dropout_seed=None):
        self.seeds.append((training, dropout_seed.numpy().tolist()))
        return self.kernel.value * tf.cast(inputs["input_ids"], tf.float32)


probe_loss = Loss(
    lambda outputs, batch: {"loss": LossTerm(tf.reduce_sum(outputs), tf.constant(1.0))},
    lambda batch: {"loss": tf.constant(1.0)},
)


def test_each_step_gives_the_model_the_seed_of_its_number():
    model = Probe()
    step = TrainStep(model, create_optimizer(0.1, 10, 0), probe_loss, seed=7)
    for number in range(3):
        step({"input_ids": tf.constant([[1, 2]]), "label_ids": tf.constant([0])})
        expected = dropout_seed(7, tf.constant(number), 0).numpy().tolist()
        assert model.seeds[number] == (True, expected)


def test_a_weight_that_the_loss_does_not_reach_stays_and_the_norm_is_the_unclipped():
    model = Probe()
    step = TrainStep(model, create_optimizer(0.1, 10, 0), probe_loss, seed=7)
    values = step({"input_ids": tf.constant([[3, 4]])})
    assert (model.unused.numpy() == 1).all()
    assert set(values) == {"loss", "grad_norm", "learning_rate"}
    assert float(values["loss"]) == 7.0
    assert float(values["grad_norm"]) == 5.0
    assert float(values["learning_rate"]) == pytest.approx(0.1)
    # The slots hold the clipped gradient.
    np.testing.assert_allclose(step.optimizer.adam_m[0], [0.06, 0.08], rtol=1e-6)


def test_a_loss_of_one_part_is_reported_by_its_name_too():
    loss = Loss(
        lambda outputs, batch: {"only": LossTerm(tf.reduce_sum(outputs), tf.constant(1.0))},
        lambda batch: {"only": tf.constant(1.0)},
    )
    step = TrainStep(Probe(), create_optimizer(0.1, 10, 0), loss, seed=7)
    values = step({"input_ids": tf.constant([[3, 4]])})
    assert float(values["loss"]) == float(values["only"]) == 7.0


# --- several devices ----------------------------------------------------------------------------


def global_batch(config, number, size=6):
    """Rows with different numbers of predictions, so that replicas' weights differ."""
    rng = np.random.default_rng(number)
    lengths = rng.integers(2, 8, [size, 1])
    mask = (np.arange(7) < lengths).astype(np.int32)
    weights = (np.arange(4) < rng.integers(0, 5, [size, 1])).astype(np.float32)
    weights[: size // 2] = 1.0
    return {
        "input_ids": rng.integers(0, config.vocab_size, (size, 7)).astype(np.int32) * mask,
        "input_mask": mask,
        "segment_ids": (np.arange(7) >= lengths // 2).astype(np.int32) * mask,
        "masked_lm_positions": rng.integers(0, lengths, (size, 4)).astype(np.int32),
        "masked_lm_ids": rng.integers(0, config.vocab_size, (size, 4)).astype(np.int32),
        "masked_lm_weights": weights,
        "next_sentence_labels": rng.integers(0, 2, size).astype(np.int32),
    }


def global_batches(config, first, last):
    numbers = [global_batch(config, number) for number in range(first, last)]
    stacked = {name: np.stack([batch[name] for batch in numbers]) for name in numbers[0]}
    return tf.data.Dataset.from_tensor_slices(stacked)


NAMES = ("loss", "masked_lm_loss", "next_sentence_loss", "grad_norm", "learning_rate")
RATES = ("examples_per_second", "tokens_per_second")


def masked_lm_accuracy(outputs, batch):
    right = tf.argmax(outputs["masked_lm_logits"], -1, tf.int32) == batch["masked_lm_ids"]
    weights = batch["masked_lm_weights"]
    total = tf.reduce_sum(tf.cast(right, tf.float32) * weights)
    return {"masked_lm_accuracy": LossTerm(total, tf.reduce_sum(weights))}


def train_tiny(
    config, folder, weights=None, last=8, available=None, micro_batch_size=None, model=None,
    optimizer=None, **arguments,
):  # fmt: skip
    """Trains a small pretrainer; returns its weights, and its initial ones."""
    model = model or BertPretrainer(config)
    if weights is not None:
        model.set_weights(weights)
    initial = model.get_weights()
    step = TrainStep(
        model,
        optimizer or create_optimizer(0.01, 10, 2),
        pretraining_loss,
        seed=3,
        metrics=masked_lm_accuracy,
        micro_batch_size=micro_batch_size,
    )
    train(
        step,
        (*NAMES, "masked_lm_accuracy"),
        lambda first: global_batches(config, first, available or last),
        folder,
        num_train_steps=last,
        examples_per_step=6,
        **{"log_steps": 2, "save_checkpoints_steps": 4} | arguments,
    )
    return model.get_weights(), initial


def read_log(folder):
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


def without_rates(folder):
    return [
        {name: value for name, value in line.items() if name not in RATES}
        for line in read_log(folder)
    ]


def scalars(path):
    """The points of a file of TensorBoard's: ((step, name), value)."""
    for record in tf.data.TFRecordDataset(str(path)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            yield (event.step, value.tag), float(tf.make_ndarray(value.tensor))


TWO_DEVICES = """
import pathlib, sys
import numpy as np
import tensorflow as tf
sys.path.insert(0, sys.argv[1])
import test_training
from bert_tf.config import BertConfig, Classification
from bert_tf.distribution import devices_of
folder = pathlib.Path(sys.argv[2])
config = BertConfig.from_json_file(folder / "bert_config.json")
initial = np.load(folder / "initial.npz")
with devices_of(Classification(do_train=True, output_dir="unused", num_devices=2)):
    strategy = tf.distribute.get_strategy()
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    weights = [initial[f"arr_{i}"] for i in range(len(initial))]
    final, _ = test_training.train_tiny(
        config,
        folder,
        weights,
        optimizer=test_training.create_optimizer(0.01, 10, 2, optimizer="lamb"),
        micro_batch_size=1,  # of the 3 examples that each device takes
    )
    model = test_training.Probe()
    step = test_training.TrainStep(
        model, test_training.create_optimizer(0.1, 9, 0), test_training.probe_loss, seed=7
    )
    # With dropout, another mask for each device: a run, and one that is cut off after step 7.
    dropping = BertConfig.from_json_file(folder / "dropping.json")
    whole, first = test_training.train_tiny(dropping, folder / "whole")
    try:
        test_training.train_tiny(dropping, folder / "cut", first, available=7)
    except tf.errors.OutOfRangeError:
        cut, other = test_training.train_tiny(dropping, folder / "cut")
found = {"final": final, "whole": whole, "cut": cut, "first": first, "other": other}
for name, weights in found.items():
    np.savez(folder / f"{name}.npz", *weights)
ids = {"input_ids": tf.constant([[3, 4]])}
values = strategy.run(step, args=(ids,))
print(sorted(seed for _, seed in model.seeds))
print([float(v) for v in strategy.experimental_local_results(values["grad_norm"])])
print(model.kernel.numpy().tolist(), step.optimizer.adam_m[0].numpy().tolist())
"""


def assert_same_training(actual, expected, initial, config):
    """Weights of equal updates whose sums were taken in another order."""
    paths = [variable.path for variable in BertPretrainer(config).weights]
    moved = 0
    distance, norm = 0.0, 0.0
    for path, value, goal, start in zip(paths, actual, expected, initial, strict=True):
        # The gradient of a key's bias is 0 (softmax does not see it): what Adam makes of its
        # rounding errors differs with the order of a sum.
        if path.endswith("key/bias"):
            assert np.abs(value - goal).max() < 1e-4
        else:
            assert np.linalg.norm(value - goal) <= 1e-5 * max(np.linalg.norm(goal), 1.0), path
            distance += np.sum(np.square(value - goal))
            norm += np.sum(np.square(goal))
        moved += np.abs(goal - start).max() > 1e-3
    assert distance**0.5 <= 1e-6 * norm**0.5
    assert moved > len(initial) // 2


def test_two_devices_give_the_weights_of_one(tiny_config, tmp_path):
    config = without_dropout(tiny_config)
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two, two / "whole", two / "cut"):
        folder.mkdir()
    lamb = create_optimizer(0.01, 10, 2, optimizer="lamb")
    expected, initial = train_tiny(config, one, optimizer=lamb)
    np.savez(two / "initial.npz", *initial)
    (two / "bert_config.json").write_text(config.to_json_string())
    assert tiny_config.hidden_dropout_prob > 0
    dropping = dataclasses.replace(tiny_config, num_hidden_layers=1)
    (two / "dropping.json").write_text(dropping.to_json_string())
    run = run_forked(TWO_DEVICES, pathlib.Path(__file__).parent, two)
    assert run.returncode == 0, run.stderr

    def weights(file):
        stored = np.load(two / file)
        return [stored[f"arr_{i}"] for i in range(len(stored))]

    assert_same_training(weights("final.npz"), expected, initial, config)
    for a, b in zip(without_rates(two), without_rates(one), strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    # Each replica drops other elements; the gradient is summed, then clipped, then applied once.
    seeds, norms, kernel_and_slot = run.stdout.splitlines()[-3:]
    assert json.loads(seeds) == sorted(
        dropout_seed(7, tf.constant(0), replica).numpy().tolist() for replica in (0, 1)
    )
    assert json.loads(norms) == [5.0, 5.0]  # two gradients over the weight of both, 2
    kernel, slot = json.loads(f"[{kernel_and_slot.replace('] [', '], [')}]")
    np.testing.assert_allclose(slot, [0.06, 0.08], rtol=1e-6)
    u = np.array(slot) / (np.sqrt(0.001 * np.array([0.36, 0.64])) + 1e-6) + 0.01
    np.testing.assert_allclose(kernel, 1 - 0.1 * u, rtol=1e-5)
    # The one that was cut off went on from step 4, bit for bit, whatever weights it began with.
    for value, goal in zip(weights("cut.npz"), weights("whole.npz"), strict=True):
        np.testing.assert_array_equal(value, goal)
    starts = zip(weights("first.npz"), weights("other.npz"), strict=True)
    assert any((one != other).any() for one, other in starts)
    assert without_rates(two / "cut") == without_rates(two / "whole")
    assert [line["step"] for line in read_log(two / "cut")] == [2, 4, 6, 8]


def test_xla_gives_the_same_weights(tiny_config, tmp_path):
    config = without_dropout(tiny_config)
    for name in ("graph", "xla"):
        (tmp_path / name).mkdir()
    expected, initial = train_tiny(config, tmp_path / "graph")
    actual, _ = train_tiny(config, tmp_path / "xla", initial, xla=True)
    # XLA has functions of its own for tanh, exp and the like.
    for a, b in zip(
        without_rates(tmp_path / "xla"), without_rates(tmp_path / "graph"), strict=True
    ):
        assert a == pytest.approx(b, rel=1e-4)
    value, goal = (np.concatenate([w.ravel() for w in ws]) for ws in (actual, expected))
    assert np.linalg.norm(value - goal) <= 1e-3 * np.linalg.norm(goal)


# --- micro-batches ------------------------------------------------------------------------------


class MeanOfMeans(TrainStep):
    """The usual mistake: each micro-batch is divided by its own weight, then by their number."""

    def _differentiate(self, batch, weights, seed):
        own = self.loss.weights(batch)
        number = tf.cast(6 // self.micro_batch_size, tf.float32)
        return super()._differentiate(batch, {n: number * own[n] for n in own}, seed)


def take_steps(kind, step_class, config, initial, micro_batch_size, size=6):
    """Five steps; returns the weights and the last step's values."""
    keras.utils.set_random_seed(5)
    model = {
        "pretrainer": lambda: BertPretrainer(config),
        "classifier": lambda: BertClassifier(config, 3),
        "multiple_choice": lambda: BertMultipleChoice(config),
    }[kind]()
    if initial:
        model.set_weights(initial)
    start = model.get_weights()
    step = step_class(
        model,
        create_optimizer(0.01, 10, 2),
        pretraining_loss if kind == "pretrainer" else classifier_loss,
        seed=3,
        metrics=masked_lm_accuracy if kind == "pretrainer" else None,
        micro_batch_size=micro_batch_size,
    )

    def batch_of(number):
        batch = global_batch(config, number, size)
        batch["label_ids"] = batch["next_sentence_labels"]
        if kind == "multiple_choice":  # between each row and the next one
            for name in ("input_ids", "input_mask", "segment_ids"):
                batch[name] = np.stack([batch[name], np.roll(batch[name], 1, axis=0)], axis=1)
        return batch

    # A batch's shape is not known ahead: rows are as long as its longest, the last one is smaller.
    specs = {n: tf.TensorSpec([None] * value.ndim, value.dtype) for n, value in batch_of(0).items()}
    update = tf.function(step, autograph=False, input_signature=[specs])
    for number in range(5):
        values = update(batch_of(number))
    return model.get_weights(), start, {name: float(value) for name, value in values.items()}


@pytest.mark.parametrize("kind", ["pretrainer", "classifier", "multiple_choice"])
def test_micro_batches_give_the_update_of_the_whole_batch(tiny_config, kind):
    config = without_dropout(tiny_config)
    weights = [global_batch(config, number)["masked_lm_weights"] for number in range(5)]
    assert all(w[:3].sum() != w[3:].sum() for w in weights)
    expected, initial, values = take_steps(kind, TrainStep, config, None, None)
    for micro_batch_size in (1, 2, 3, 6):
        final, _, accumulated = take_steps(kind, TrainStep, config, initial, micro_batch_size)
        assert accumulated == pytest.approx(values, rel=1e-5)
        if kind == "pretrainer":
            assert_same_training(final, expected, initial, config)
        for value, goal in zip(final, expected, strict=True):
            np.testing.assert_allclose(value, goal, rtol=0, atol=1e-4)
    if kind == "pretrainer":  # the others' weights are equal, so that it would not be seen
        wrong, _, _ = take_steps(kind, MeanOfMeans, config, initial, 3)
        with pytest.raises(AssertionError):
            assert_same_training(wrong, expected, initial, config)


class Noise(Probe):
    """Its gradient is a function of the dropout seed."""

    def call(self, inputs, training=False, dropout_seed=None):
        return self.kernel.value * tf.random.stateless_uniform([2], dropout_seed)


def test_micro_batches_drop_other_elements_in_other_steps(tiny_config):
    step = TrainStep(Noise(), create_optimizer(0.1, 9, 0), probe_loss, 7, micro_batch_size=2)
    for number in range(2):
        values = step({"input_ids": tf.zeros([6, 4], tf.int32)})
        seed = dropout_seed(7, tf.constant(number), 0)
        parts = [
            tf.random.stateless_uniform([2], tf.random.experimental.stateless_fold_in(seed, i))
            for i in range(3)
        ]
        assert len({tuple(part.numpy()) for part in parts}) == 3
        np.testing.assert_allclose(values["grad_norm"], np.linalg.norm(sum(parts)), rtol=1e-6)
    assert (step.model.unused.numpy() == 1).all()  # no gradient is not a gradient of 0


def test_the_graph_does_not_grow_with_the_number_of_micro_batches(tiny_config):
    def nodes(size):
        model = BertPretrainer(tiny_config)
        step = TrainStep(
            model, create_optimizer(0.1, 9, 0), pretraining_loss, 7, micro_batch_size=1
        )
        batch = {name: tf.constant(v) for name, v in global_batch(tiny_config, 0, size).items()}
        graph = tf.function(step, autograph=False).get_concrete_function(batch).graph.as_graph_def()
        return len(graph.node) + sum(len(function.node_def) for function in graph.library.function)

    assert nodes(8) == nodes(2)


def test_micro_batches_of_different_sizes_are_refused(tiny_config, tmp_path):
    step = TrainStep(
        BertPretrainer(tiny_config), create_optimizer(0.1, 9, 0), pretraining_loss, 7,
        micro_batch_size=4,
    )  # fmt: skip
    says = "--micro_batch_size=4 does not divide the 6 examples"
    with pytest.raises(InputError, match=says):
        step({name: tf.constant(value) for name, value in global_batch(tiny_config, 0).items()})
    with pytest.raises(InputError, match=says):
        train_tiny(tiny_config, tmp_path, micro_batch_size=4)
    assert not list(tmp_path.iterdir())


def test_a_metric_without_weight_is_0():
    def metrics(outputs, batch):
        return {
            "a": LossTerm(tf.constant(3.0), tf.constant(0.0)),
            "b": LossTerm(tf.constant(3.0), tf.constant(4.0)),
        }

    for micro_batch_size in (None, 1):
        step = TrainStep(
            Noise(), create_optimizer(0.1, 9, 0), probe_loss, 7,
            metrics=metrics, micro_batch_size=micro_batch_size,
        )  # fmt: skip
        values = step({"input_ids": tf.constant([[1, 2], [3, 4]])})
        assert (float(values["a"]), float(values["b"])) == (0.0, 0.75)


# --- the loop -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adamw", "lamb"])
def test_a_run_that_was_cut_off_goes_on_bit_for_bit(kind, tiny_config, tmp_path):
    def arguments():
        optimizer = create_optimizer(0.01, 10, 2, optimizer=kind)
        return {"optimizer": optimizer, "micro_batch_size": 2 if kind == "lamb" else None}

    assert tiny_config.hidden_dropout_prob > 0
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    expected, initial = train_tiny(tiny_config, whole, **arguments())
    # The data ends after step 7: logged up to 6, saved at 4.
    with pytest.raises(tf.errors.OutOfRangeError):
        train_tiny(tiny_config, cut, initial, available=7, **arguments())
    assert [line["step"] for line in read_log(cut)] == [2, 4, 6]
    assert [path.name for path in (cut / "resume").glob("*.index")] == ["ckpt-4.index"]
    # Another initialisation: what the run needs is all in its folder.
    final, other = train_tiny(tiny_config, cut, **arguments())
    assert any((a != b).any() for a, b in zip(other, initial, strict=True))
    for value, goal in zip(final, expected, strict=True):
        np.testing.assert_array_equal(value, goal)
    assert without_rates(cut) == without_rates(whole)
    assert [line["step"] for line in read_log(cut)] == [2, 4, 6, 8]


def test_an_evaluation_that_a_sigterm_breaks_off_is_made_up_for(tiny_config, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()

    def start(folder, weights=None, stop_at=None):
        """Trains; returns after which steps it was evaluated, and weights as ``train_tiny``."""
        model, optimizer = BertPretrainer(tiny_config), create_optimizer(0.01, 10, 2)
        evaluated = []

        def evaluate():
            done = int(optimizer.iterations.numpy())
            if done == stop_at:
                signal.raise_signal(signal.SIGTERM)
                pytest.fail("the evaluation went on")
            evaluated.append(done)
            return {"a": float(np.sum(model.weights[0]))}

        found = train_tiny(
            tiny_config, folder, weights, model=model, optimizer=optimizer,
            evaluate=evaluate, eval_steps=3,
        )  # fmt: skip
        return evaluated, *found

    evaluated, expected, initial = start(whole)
    assert evaluated == [3, 6, 8]
    before = signal.getsignal(signal.SIGTERM)
    for attempt in range(2):  # the second time, what is broken off is what makes up for the first
        with pytest.raises(Terminated, match=r"after step 3 of 8; the same command .*/resume$"):
            start(stopped, None if attempt else initial, stop_at=3)
        assert signal.getsignal(signal.SIGTERM) == before
        assert [("a" in line, line["step"]) for line in read_log(stopped)] == [(0, 2), (0, 3)]
        assert [path.name for path in (stopped / "resume").glob("*.index")] == ["ckpt-3.index"]
    with pytest.raises(Terminated, match="after step 8 of 8"):  # it has made up for step 3
        start(stopped, stop_at=8)
    assert [line["step"] for line in read_log(stopped) if "a" in line] == [3, 6]
    evaluated, final, _ = start(stopped)
    assert evaluated == [8]
    assert start(stopped)[0] == []
    for value, goal in zip(final, expected, strict=True):
        np.testing.assert_array_equal(value, goal)
    assert without_rates(stopped) == without_rates(whole)
    assert [list(line) for line in read_log(stopped)] == [list(line) for line in read_log(whole)]
    shown = {point: value for path in stopped.glob("events*") for point, value in scalars(path)}
    for line in read_log(stopped):
        for name in set(line) - {"step"}:
            assert shown[line["step"], name] == pytest.approx(line[name]), name


def test_the_host_looks_in_every_few_seconds(monkeypatch):
    now = 100.0
    monkeypatch.setattr(training.time, "perf_counter", lambda: now)
    length = LoopLength([30, 1000])
    done, lengths = 0, []
    for seconds_per_step in (9.0, 2.0, 0.001, 0.001, 0.5, 0.5):
        lengths.append(length(done))
        now += lengths[-1] * seconds_per_step
        done += lengths[-1]
    # Of the first step nothing is known; 5 s are then 1 step, 2, up to step 30, and 10 again.
    assert lengths == [1, 1, 2, 26, 30, 10]


def test_a_log_that_cannot_be_written_ends_the_run_with_one_line(tiny_config, tmp_path):
    (tmp_path / "full.jsonl").symlink_to("/dev/full")
    log = TrainLog(tmp_path / "log.jsonl", 0, 8, 6, 1)
    log._file.close()
    log._file = (tmp_path / "full.jsonl").open("w")
    with pytest.raises(InputError, match=r"log.jsonl: cannot write it: No space left.* goes on"):
        log(1, 30, {"loss": 1.0}, None)
    log.close()


def test_a_damaged_log_is_named_and_kept(tmp_path):
    path = tmp_path / "train_log.jsonl"
    path.write_text('{"step": 1}\n\0\0\0\n')
    with pytest.raises(InputError, match=r"train_log.jsonl: damaged"):
        TrainLog(path, 1, 8, 6, 1)
    assert path.read_text() == '{"step": 1}\n\0\0\0\n'


def test_a_damaged_resume_point_is_named(tiny_config, tmp_path):
    train_tiny(tiny_config, tmp_path, last=4)
    (data,) = (tmp_path / "resume").glob("ckpt-4.data-*")
    content = data.read_bytes()
    data.write_bytes(content[:100] + bytes(100) + content[200:])
    with pytest.raises(InputError, match=r"ckpt-4: cannot go on from it: .* --overwrite"):
        train_tiny(tiny_config, tmp_path)
    data.unlink()
    with pytest.raises(InputError, match=r"ckpt-4: cannot go on from it: .* --overwrite"):
        train_tiny(tiny_config, tmp_path)


def test_the_last_points_are_kept(tiny_config, tmp_path):
    train_tiny(tiny_config, tmp_path, last=5, save_checkpoints_steps=1, keep_checkpoint_max=3)
    kept = {path.stem for path in (tmp_path / "resume").glob("*.index")}
    assert kept == {"ckpt-3", "ckpt-4", "ckpt-5"}


def test_a_run_goes_back_to_the_point_before_a_damaged_one_bit_for_bit(
    tiny_config, tmp_path, caplog
):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    expected, initial = train_tiny(tiny_config, whole)
    with pytest.raises(tf.errors.OutOfRangeError):
        train_tiny(tiny_config, cut, initial, available=7, save_checkpoints_steps=2)
    (data,) = (cut / "resume").glob("ckpt-6.data-*")
    data.write_bytes(data.read_bytes()[:5000])
    with caplog.at_level("INFO", "bert_tf"):
        final, _ = train_tiny(tiny_config, cut)
    assert "ckpt-6: cannot read it" in caplog.text
    assert "resuming at step 4 of 8" in caplog.text
    for value, goal in zip(final, expected, strict=True):
        np.testing.assert_array_equal(value, goal)
    assert without_rates(cut) == without_rates(whole)
    assert tf.train.latest_checkpoint(cut / "resume").endswith("ckpt-8")


def test_a_run_can_start_from_another_runs_step(tiny_config, tmp_path, caplog):
    folders = [tmp_path / name for name in ("whole", "first", "second")]
    for folder in folders:
        folder.mkdir()
    whole, first, second = folders
    expected, initial = train_tiny(tiny_config, whole)

    def begin():
        """What another run has left after step 3, as a checkpoint with slots and step."""
        model = BertPretrainer(tiny_config)
        optimizer = create_optimizer(0.01, 10, 2)
        load_checkpoint(model, tmp_path / "at_3.ckpt", optimizer=optimizer)
        assert int(optimizer.iterations) == 3
        return {"model": model, "optimizer": optimizer}

    model, optimizer = BertPretrainer(tiny_config), create_optimizer(0.01, 10, 2)
    model.set_weights(initial)
    update = tf.function(TrainStep(model, optimizer, pretraining_loss, seed=3), autograph=False)
    for number in range(3):
        update({n: tf.constant(v) for n, v in global_batch(tiny_config, number).items()})
    save_checkpoint(model, tmp_path / "at_3.ckpt", optimizer=optimizer)
    reader = tf.train.load_checkpoint(str(tmp_path / "at_3.ckpt"))
    assert reader.get_variable_to_dtype_map()["global_step"] == tf.int64
    assert reader.get_tensor("global_step") == 3

    with caplog.at_level("INFO", "bert_tf"):
        with pytest.raises(tf.errors.OutOfRangeError):
            train_tiny(tiny_config, first, available=7, **begin())
        assert "starting at step 3 of 8" in caplog.text
        assert [line["step"] for line in read_log(first)] == [4, 6]
        final, _ = train_tiny(tiny_config, first, **begin())  # its own resume/ comes first
        assert "resuming at step 4 of 8" in caplog.text
    for value, goal in zip(final, expected, strict=True):
        np.testing.assert_array_equal(value, goal)
    assert without_rates(first) == without_rates(whole)[1:]

    with pytest.raises(InputError, match="3 steps are done already, but num_train_steps is 2"):
        train_tiny(tiny_config, second, last=2, **begin())


def strictly_read(log):
    """The lines of a log, read by what takes no NaN, as JSON has none."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_a_run_that_diverges_ends_before_it_replaces_its_last_good_state(
    tiny_config, tmp_path, spoilt
):
    model = BertPretrainer(tiny_config)

    def evaluate():
        model.cls.seq_relationship.output_bias.assign([spoilt, 0.0])
        return {"eval_loss": spoilt, "eval_accuracy": 0.5}

    step = TrainStep(model, create_optimizer(0.01, 10, 2), pretraining_loss, seed=3)
    with pytest.raises(InputError, match=r"diverged: \w+ is (nan|inf) at step 4"):
        train(
            step, NAMES, lambda first: global_batches(tiny_config, first, 8), tmp_path,
            num_train_steps=8, examples_per_step=6, log_steps=2, save_checkpoints_steps=1,
            evaluate=evaluate, eval_steps=3,
        )  # fmt: skip
    log = strictly_read(tmp_path / "train_log.jsonl")
    assert [line["step"] for line in log] == [2, 3]
    assert (log[1]["eval_loss"], log[1]["eval_accuracy"]) == (None, 0.5)
    saved = tf.train.latest_checkpoint(tmp_path / "resume")
    assert saved.endswith("ckpt-3")


def test_a_step_that_float16_leaves_out_is_no_divergence():
    skipped = {"loss": np.nan, "grad_norm": 0.0, "loss_scale": 4.0, "skipped_in_a_row": 1.0}
    kept = {name: value for name, value in skipped.items() if name != "loss"}
    assert training._refuse_divergence(skipped, 7) == kept
    with pytest.raises(InputError, match="diverged: loss is nan at step 7"):
        training._refuse_divergence({**skipped, "skipped_in_a_row": 0.0}, 7)
    with pytest.raises(InputError, match=r"gradients of 51 steps in a row, up to step 7, .* of 4:"):
        training._refuse_divergence({**skipped, "skipped_in_a_row": 51.0}, 7)


def test_a_finished_run_is_not_trained_again(tiny_config, tmp_path):
    expected, _ = train_tiny(tiny_config, tmp_path, last=4)
    log = read_log(tmp_path)
    final, _ = train_tiny(tiny_config, tmp_path, last=4)
    for value, goal in zip(final, expected, strict=True):
        np.testing.assert_array_equal(value, goal)
    assert read_log(tmp_path) == log


def test_the_log_has_every_interval_and_the_last_step(tiny_config, tmp_path, capsys):
    train_tiny(tiny_config, tmp_path, last=7, log_steps=3, save_checkpoints_steps=5)
    log = read_log(tmp_path)
    assert [line["step"] for line in log] == [3, 6, 7]
    assert set(log[0]) == {"step", *NAMES, "masked_lm_accuracy", *RATES}
    first = 0
    for line in log:
        batches = [global_batch(tiny_config, number) for number in range(first, line["step"])]
        first = line["step"]
        tokens = sum(int(batch["input_mask"].sum()) for batch in batches)
        examples = sum(len(batch["input_mask"]) for batch in batches)
        assert line["tokens_per_second"] / line["examples_per_second"] == pytest.approx(
            tokens / examples
        )
        total = line["masked_lm_loss"] + line["next_sentence_loss"]
        assert line["loss"] == pytest.approx(total, rel=1e-6)
        # The rate of the update that made this step, counted from 0.
        update = line["step"] - 1
        rate = 0.01 * (update / 2 if update < 2 else 1 - update / 10)
        assert line["learning_rate"] == pytest.approx(rate, rel=1e-6)
        assert line["examples_per_second"] > 0
    assert list(tmp_path.glob("events.out.tfevents.*"))
    assert (tmp_path / "resume").is_dir()
    captured = capsys.readouterr()
    assert captured.out == ""  # stdout belongs to a command's results
    assert "training" in captured.err and "7/7" in captured.err


def test_a_log_line_that_was_cut_off_is_dropped(tmp_path):
    path = tmp_path / "train_log.jsonl"
    lines = [json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (2, 4, 6)]
    for torn in ("", '{"step": 8, "lo', '{"step": 4'):
        path.write_text("".join(lines) + torn)
        TrainLog(path, 4, 8, 3, 2).close()
        assert path.read_text() == "".join(lines[:2])


def test_an_evaluation_that_is_made_up_for_is_null_if_it_is_no_number(tmp_path):
    path = tmp_path / "train_log.jsonl"
    path.write_text('{"step": 2, "loss": 1.0, "eval_loss": null}\n{"step": 4, "loss": 0.5}\n')
    log = TrainLog(path, 4, 8, 3, 2)
    assert log.lacks(4, ["loss"])
    log.complete({"eval_loss": math.nan, "eval_f1": -math.inf, "eval_accuracy": 0.75})
    log.close()
    assert strictly_read(path) == [
        {"step": 2, "loss": 1.0, "eval_loss": None},
        {"step": 4, "loss": 0.5, "eval_loss": None, "eval_f1": None, "eval_accuracy": 0.75},
    ]


def test_an_evaluation_is_logged_at_its_steps_and_at_the_end(tiny_config, tmp_path):
    rounds = iter(range(1, 9))
    train_tiny(
        tiny_config, tmp_path, log_steps=2, save_checkpoints_steps=100, eval_steps=3,
        evaluate=lambda: {"eval_loss": 0.5 * next(rounds)},
    )  # fmt: skip
    log = read_log(tmp_path)
    assert [line["step"] for line in log] == [2, 3, 4, 6, 8]
    evaluated = {line["step"]: line["eval_loss"] for line in log if "eval_loss" in line}
    assert evaluated == {3: 0.5, 6: 1.0, 8: 1.5}
    assert set(log[1]) == {"step", *NAMES, "masked_lm_accuracy", *RATES, "eval_loss"}
    (events,) = tmp_path.glob("events.out.tfevents.*")
    shown = dict(scalars(events))
    for line in log:
        for name in set(line) - {"step"}:
            assert shown[line["step"], name] == pytest.approx(line[name]), name


def test_an_evaluation_takes_no_time_from_the_rates(tmp_path, monkeypatch):
    seconds = iter([100.0, 101.0, 131.0, 102.0 + 30.0, 135.0])
    monkeypatch.setattr("bert_tf.training.time.perf_counter", lambda: next(seconds))
    log = TrainLog(tmp_path / "train_log.jsonl", 4, 8, 3, 2)
    with log.paused():  # from second 101 to 131
        pass
    log(6, 50, {"loss": 1.0}, {"eval_loss": 2.0})
    log(8, 80, {"loss": 1.0}, None)
    log.close()
    one, other = read_log(tmp_path)
    assert (one["examples_per_second"], one["tokens_per_second"]) == (3.0, 25.0)
    assert (other["examples_per_second"], other["tokens_per_second"]) == (2.0, 10.0)


# --- evaluation ---------------------------------------------------------------------------------


@pytest.fixture
def features(tiny_config):
    rng = np.random.default_rng(4)
    lengths = rng.integers(3, 16, 23)
    values = rng.integers(0, tiny_config.vocab_size, lengths.sum()).astype(np.int32)
    texts = PackedTexts(RaggedIds(values, np.concatenate([[0], np.cumsum(lengths)])), lengths, 0)
    return Features(texts, {"label_ids": rng.integers(0, 3, 23).astype(np.int32)})


@pytest.mark.parametrize("batch_size", [1, 5, 23, 40])
def test_evaluation_counts_each_example_once_in_its_own_place(tiny_config, features, batch_size):
    keras.utils.set_random_seed(1)
    model = BertClassifier(tiny_config, 3)
    plan = evaluation_plan(features.texts.input_ids.lengths, batch_size)
    evaluation = Evaluator(model, classifier_loss)(batches(features, plan), len(plan))
    assert np.stack(evaluation.outputs).shape == (23, 3)
    splits = features.texts.input_ids.row_splits
    total = 0.0
    for row in range(23):
        ids = features.texts.input_ids.values[None, splits[row] : splits[row + 1]]
        logits = model({"input_ids": ids})[0].numpy().astype(np.float64)
        np.testing.assert_allclose(evaluation.outputs[row], logits, rtol=0, atol=1e-5)
        total += np.log(np.exp(logits).sum()) - logits[features.labels["label_ids"][row]]
    assert set(evaluation.losses) == {"loss"}
    assert evaluation.losses["loss"] == pytest.approx(total / 23, rel=1e-5)


def test_evaluation_without_labels_and_with_several_losses(tiny_config, features):
    model = BertClassifier(tiny_config, 3)
    plan = evaluation_plan(features.texts.input_ids.lengths, 5)
    unlabelled = batches(Features(features.texts), plan)
    assert Evaluator(model)(unlabelled, len(plan)).losses == {}

    def two(logits, batch):
        term = single_label_loss(logits, batch["label_ids"])
        return {"a": term, "b": LossTerm(2.0 * term.total, term.weight, 1.0)}

    evaluator = Evaluator(model, Loss(two, classifier_loss.weights))
    losses = evaluator(batches(features, plan), len(plan)).losses
    assert list(losses) == ["loss", "a", "b"]
    assert losses["loss"] == pytest.approx(losses["a"] + losses["b"])
    assert losses["b"] == pytest.approx(2 * losses["a"] * 23 / 24, rel=1e-6)

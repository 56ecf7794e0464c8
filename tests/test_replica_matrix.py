"""Replicas end with the weights of one: each kind of devices, clipped, in parts, in shared rows."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from forked import Forked
from test_distribution import assert_equal_weights, workers
from test_shared_records import CONFIG, P, S, write_records

from bert_tf.heads import BertPretrainer
from bert_tf.record_dataset import RecordFiles
from bert_tf.tasks.shared_records import SharedRecords
from bert_tf.tfrecord import pretraining_schema

NUM_STEPS = 20
BATCH_SIZE = 36  # 18, 12 or 9 for each of 2, 3 or 4 replicas
NUM_ROWS = 24  # that a batch's examples share: 12, 8 or 6 for each
LIMIT = 0.5  # of the norm, in the place of CLIP_NORM: about half of the steps are above it
ONE_LAYER = dataclasses.replace(CONFIG, num_hidden_layers=1)
DEVICES = {
    "2 devices": lambda: [{"num_devices": 2}],
    "4 devices": lambda: [{"num_devices": 4}],
    "2 workers": lambda: workers(2),
    "3 workers": lambda: workers(3),
}

# What each process does: combinations one after the other, then an evaluation. Making the graphs is
# what takes time: there is one for both limits of the norm, which a variable holds, and its batches
# begin again when all 20 of them are used.
PROCESS = """
import json, os, pathlib, sys
import numpy as np
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
from bert_tf import optimization
from bert_tf.config import BertConfig, Classification
from bert_tf.distribution import devices_of
from bert_tf.heads import BertPretrainer
from bert_tf.replicas import agreed, distributed, is_chief
from bert_tf.tasks.pretraining_objective import Objective, PretrainingEvaluator
from bert_tf.training import Trainer, TrainStep

given, folder = map(pathlib.Path, sys.argv[1:3])
flags, combinations = map(json.loads, sys.argv[3:])
data = {name: dict(np.load(given / f"{name}.npz")) for name in ("alone", "packed")}
initial = np.load(given / "initial.npz")
objective = Objective(next_sentence=True)
with devices_of(Classification(do_train=True, output_dir="unused", **flags)):
    model = BertPretrainer(BertConfig.from_json_file(given / "bert_config.json"))
    optimization.CLIP_NORM = tf.Variable(0.0, trainable=False)
    trainers = {}
    for number, combination in enumerate(combinations):
        clip_norm, kind = combination["clip_norm"], tuple(combination["kind"])
        if kind not in trainers:
            optimizer = optimization.create_optimizer(0.01, 25, 2)
            step = TrainStep(model, optimizer, objective.loss, seed=3, micro_batch_size=kind[1])
            trainer = Trainer(step, ("loss", "grad_norm"))
            batches = tf.data.Dataset.from_tensor_slices(data[kind[0]]).repeat()
            trainer.train_dataset = distributed(lambda: batches)
            trainers[kind] = optimizer, trainer
        optimizer, trainer = trainers[kind]
        optimization.CLIP_NORM.assign(clip_norm)
        model.set_weights([initial[f"arr_{i}"] for i in range(len(initial))])
        for variable in optimizer.variables:
            variable.assign(tf.zeros_like(variable.value))
        norms = [trainer.train(tf.constant(1))["grad_norm"] for _ in range(20)]
        if is_chief():
            np.savez(folder / f"{number}.npz", *model.get_weights(), norms=norms)
    if is_chief():
        held_out = {name: value.reshape(-1, *value.shape[2:])[:31]
                    for name, value in data["alone"].items()}
        evaluate = PretrainingEvaluator(model, objective)
        evaluated = evaluate(tf.data.Dataset.from_tensor_slices(held_out).batch(8), 4)
        (folder / "evaluated.json").write_text(json.dumps(evaluated))
    agreed(0)
"""


@dataclasses.dataclass(frozen=True)
class Combination:
    clipped: bool
    in_parts: bool
    packed: bool

    def __str__(self):
        return ", ".join(
            (
                "clipped" if self.clipped else "not clipped",
                "micro-batches" if self.in_parts else "whole batches",
                "shared rows" if self.packed else "rows of their own",
            )
        )

    def to_json(self):
        """What a process is told."""
        return {
            # A power of two, by which gradients are multiplied and divided without rounding.
            "clip_norm": LIMIT if self.clipped else 2.0**100,
            # Which batches, and how large a micro-batch is.
            "kind": [
                "packed" if self.packed else "alone",
                (2 if self.packed else 3) if self.in_parts else None,
            ],
        }


COMBINATIONS = [Combination(*on) for on in itertools.product((True, False), repeat=3)]
ON_ONE_DEVICE = [combination for combination in COMBINATIONS if not combination.in_parts]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The folder of what all processes take: the model, its first weights, and the batches."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "bert_config.json").write_text(ONE_LAYER.to_json_string())
    variables = BertPretrainer(ONE_LAYER).weights
    rng = np.random.default_rng(5)
    np.savez(folder / "initial.npz", *(rng.normal(0, 0.3, v.shape).astype("f") for v in variables))
    write_records(folder / "records", 131, seed=4)
    files = RecordFiles((folder / "records",), (131,), pretraining_schema(S, P), {"input_mask": 2})
    shared = SharedRecords(
        files,
        batch_size=BATCH_SIZE,
        num_steps=NUM_STEPS,
        seed=9,
        max_seq_length=S,
        max_predictions_per_seq=P,
        num_shares=12,
    )
    for name, batches in (("alone", shared.spread(0)), ("packed", shared.shared(shared.spread(0)))):
        steps = list(batches.as_numpy_iterator())
        np.savez(
            folder / name, **{key: np.stack([step[key] for step in steps]) for key in steps[0]}
        )
    return folder


@pytest.fixture(scope="module")
def paths():
    """The names of the weights."""
    return [variable.path for variable in BertPretrainer(ONE_LAYER).weights]


@pytest.fixture(scope="module")
def train(given, tmp_path_factory):
    """Goes through combinations in as many processes as there are flags."""

    def train(flags, combinations):
        folder = tmp_path_factory.mktemp("runs")
        told = json.dumps([combination.to_json() for combination in combinations])
        processes = [
            Forked(PROCESS, given, folder, json.dumps(of_process), told) for of_process in flags
        ]
        try:
            for process in processes:
                said = process.communicate(timeout=280)
                assert process.returncode == 0, said
        finally:
            for process in processes:
                process.kill()
                process.wait()
        final, norms = {}, {}
        for number, combination in enumerate(combinations):
            stored = np.load(folder / f"{number}.npz")
            final[combination] = [stored[f"arr_{i}"] for i in range(len(stored) - 1)]
            norms[combination] = stored["norms"]
        return final, norms, json.loads((folder / "evaluated.json").read_text())

    return train


@pytest.fixture(scope="module")
def alone(train):
    """Weights, norms and evaluation of one device that takes whole batches."""
    return train([{}], ON_ONE_DEVICE)


@pytest.fixture(scope="module", params=DEVICES)
def replicas(request, train):
    """The same of several."""
    return train(DEVICES[request.param](), COMBINATIONS)


@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
def test_replicas_give_the_weights_of_one_device(combination, replicas, alone, paths):
    (final, norms, _), (expected, expected_norms, _) = replicas, alone
    on_one_device = dataclasses.replace(combination, in_parts=False)
    assert_equal_weights(final[combination], expected[on_one_device], paths, 1e-6)
    np.testing.assert_allclose(norms[combination], expected_norms[on_one_device], rtol=1e-4)


def test_replicas_give_the_evaluation_of_one_device(replicas, alone):
    assert COMBINATIONS[-1] == ON_ONE_DEVICE[-1]  # what was trained last is evaluated
    assert replicas[2] == pytest.approx(alone[2], rel=1e-5)


def test_clipping_and_sharing_rows_do_something(alone, given):
    final, norms, _ = alone
    for packed in (False, True):
        clipped, free = (Combination(on, False, packed) for on in (True, False))
        for combination in (clipped, free):
            assert 2 < np.sum(norms[combination] > LIMIT) < NUM_STEPS
        distances = [np.abs(a - b).max() for a, b in zip(final[clipped], final[free], strict=True)]
        assert sum(distance > 1e-4 for distance in distances) > len(distances) // 2
    packed = np.load(given / "packed.npz")
    assert packed["input_ids"].shape == (NUM_STEPS, NUM_ROWS, S)
    assert (packed["example_numbers"].max(axis=2) >= 2).mean() > 0.3
    for batches in (packed, np.load(given / "alone.npz")):
        for number in (2, 3, 4):  # replicas whose masks weigh differently in all steps
            weights = batches["masked_lm_weights"].reshape(NUM_STEPS, number, -1).sum(axis=2)
            assert (np.ptp(weights, axis=1) > 0).mean() > 0.8

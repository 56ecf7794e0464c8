"""Tests of bert_tf.recomputation: the same gradients, for less memory."""

import dataclasses
import gc
import json
import pathlib
import subprocess
import sys
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from forked import run_forked
from test_training import take_steps

from bert_tf import modeling
from bert_tf.heads import BertClassifier, BertPretrainer
from bert_tf.training import TrainStep


@pytest.fixture
def config(tiny_config):
    return dataclasses.replace(
        tiny_config, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2
    )


def differentiate(model, inputs, seed):
    """The logits of a call with dropout, and the gradient of a function of all of them."""
    seed = tf.constant(seed, tf.int32)
    weights = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        logits = model(inputs, training=True, dropout_seed=seed)
        loss = tf.reduce_sum(tf.sin(logits) * tf.range(1.0, 4.0))
    return logits, tape.gradient(loss, weights)


def assert_close(actual, expected, tolerance):
    for value, goal in zip(actual, expected, strict=True):
        value, goal = (tf.convert_to_tensor(tensor).numpy() for tensor in (value, goal))
        assert value.dtype == goal.dtype
        np.testing.assert_allclose(value, goal, rtol=0, atol=tolerance * np.abs(goal).max())


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_gradients_with_dropout_are_the_same(config, make_inputs, policy, in_graph):
    keras.utils.set_random_seed(2)
    model = BertClassifier(config, 3, dtype=policy)
    inputs = {name: tf.constant(value) for name, value in make_inputs(config).items()}
    found = {}
    for recompute in (False, True):
        model.bert.recompute = recompute
        function = differentiate
        if in_graph:  # a new function, which is traced anew
            function = tf.function(lambda *args: differentiate(*args), autograph=False)
        for seed in ((5, 1), (5, 2)):
            found[recompute, seed] = function(model, inputs, seed)
    tolerance = 2e-6 if policy == "float32" else 2e-2
    for seed in ((5, 1), (5, 2)):
        (logits, gradients), (expected, goals) = found[True, seed], found[False, seed]
        np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)
        # The gradient of a key's bias is 0 but for rounding: softmax does not see it.
        reached = [not v.path.endswith("key/bias") for v in model.trainable_variables]
        assert_close(
            [g for g, one in zip(gradients, reached, strict=True) if one],
            [g for g, one in zip(goals, reached, strict=True) if one],
            tolerance,
        )
    paths = [variable.path for variable in model.trainable_variables]
    (kernel,) = (i for i, p in enumerate(paths) if p.endswith("/layer_0/output/dense/kernel"))
    one, other = (found[True, seed][1][kernel].numpy() for seed in ((5, 1), (5, 2)))
    assert np.abs(one - other).max() > 0.1 * np.abs(one).max()  # dropout is on


class Recomputed(TrainStep):
    def __init__(self, *arguments, **more):
        super().__init__(*arguments, recompute=True, **more)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_xla_computes_the_layers_again_too(config, make_inputs, policy):
    """XLA merges equal computations; the second one of a layer must not be equal for it."""
    model = BertClassifier(config, 3, dtype=policy)
    inputs = {name: tf.constant(value) for name, value in make_inputs(config).items()}
    num_norms = {}
    for recompute in (False, True):
        model.bert.recompute = recompute

        @tf.function(jit_compile=True, autograph=False)
        def gradients(inputs):
            return differentiate(model, inputs, (5, 1))[1]

        program = gradients.experimental_get_compiler_ir(inputs)(stage="optimized_hlo")
        num_norms[recompute] = program.count(" rsqrt(")
    # The last layer of a classifier is not computed again.
    assert num_norms[True] == num_norms[False] + 2 * (config.num_hidden_layers - 1)


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_five_steps_give_the_same_weights(config, micro_batch_size):
    expected, initial, values = take_steps("pretrainer", TrainStep, config, None, micro_batch_size)
    final, _, found = take_steps("pretrainer", Recomputed, config, initial, micro_batch_size)
    assert found == pytest.approx(values, rel=1e-5)
    for value, goal in zip(final, expected, strict=True):
        # What Adam makes of the rounding errors of a key's bias may be that large.
        np.testing.assert_allclose(value, goal, rtol=0, atol=1e-4)
    moved = sum(np.abs(a - b).max() > 1e-3 for a, b in zip(final, initial, strict=True))
    assert moved > len(initial) // 2


TWO_DEVICES = """
import json, sys
import keras
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path.insert(0, sys.argv[1])
import test_training
from bert_tf.config import BertConfig
from bert_tf.heads import BertPretrainer
config = BertConfig(**json.loads(sys.argv[2]))
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    for recompute in (False, True):
        keras.utils.set_random_seed(4)
        step = test_training.TrainStep(
            BertPretrainer(config),
            test_training.create_optimizer(0.01, 9, 0),
            test_training.pretraining_loss,
            seed=3,
            recompute=recompute,
        )
        update = tf.function(lambda batch: strategy.run(step, args=(batch,)), autograph=False)
        batches = test_training.global_batches(config, 0, 1)
        for batch in strategy.experimental_distribute_dataset(batches):
            values = update(batch)
        loss, norm = (strategy.experimental_local_results(values[n]) for n in ("loss", "grad_norm"))
        weights = [float(tf.reduce_sum(tf.abs(v))) for v in step.model.trainable_variables]
        print(json.dumps([*map(float, loss), *map(float, norm), *weights]))
"""


def test_two_devices_give_the_same_with_and_without(config):
    config = dataclasses.replace(config, num_hidden_layers=1)
    run = run_forked(TWO_DEVICES, pathlib.Path(__file__).parent, config.to_json_string())
    assert run.returncode == 0, run.stderr
    expected, found = (json.loads(line) for line in run.stdout.splitlines()[-2:])
    assert len(found) == 4 + len(BertPretrainer(config).trainable_variables)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)  # a key's bias is rounding alone


def test_names_stay_and_inference_recomputes_nothing(config, make_inputs, monkeypatch):
    calls = []

    def counted(layer, *arguments):
        calls.append(layer.name)
        return recomputed(layer, *arguments)

    recomputed = modeling.recomputed
    monkeypatch.setattr(modeling, "recomputed", counted)
    model = BertPretrainer(config)
    paths = [variable.path for variable in model.variables]
    model.bert.recompute = True
    inputs = make_inputs(config)
    model(inputs, training=False)
    assert calls == []
    model(inputs, training=True)
    assert calls == ["layer_0", "layer_1"]
    assert [variable.path for variable in model.variables] == paths


MEMORY = """
import pathlib, re, sys
import tensorflow as tf
sys.path.insert(0, sys.argv[1])
import test_training
from bert_tf.config import BertConfig
from bert_tf.heads import BertClassifier

def peak():  # not getrusage's, which begins with that of the process that started this one
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 1024

config = BertConfig(
    vocab_size=37, hidden_size=32, num_hidden_layers=13, num_attention_heads=8,
    intermediate_size=64, max_position_embeddings=256,
)
def batch(size, length):
    ids = tf.ones([size, length], tf.int32)
    return {"input_ids": ids, "input_mask": ids, "label_ids": tf.zeros([size], tf.int32)}

rows = tf.TensorSpec([None, None], tf.int32)
specs = {"input_ids": rows, "input_mask": rows, "label_ids": tf.TensorSpec([None], tf.int32)}
updates = []
for recompute in (True, False):
    step = test_training.TrainStep(
        BertClassifier(config, 3), test_training.create_optimizer(0.01, 9, 0),
        test_training.classifier_loss, seed=3, recompute=recompute,
    )
    updates.append(tf.function(step, input_signature=[specs], autograph=False))
    updates[-1](batch(2, 5))  # what is needed once is not to be measured
for update in updates:
    before = peak()
    update(batch(9, 256))
    print(before, peak() - before)
"""


def test_a_step_in_a_graph_needs_far_less_memory():
    command = [sys.executable, "-c", MEMORY, str(pathlib.Path(__file__).parent)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (_, less), (_, more) = (map(float, line.split()) for line in run.stdout.splitlines()[-2:])
    # Thirteen layers' activations, and one's. The second step begins with what the first had.
    assert less < 0.5 * (less + more), run.stdout


@pytest.mark.parametrize("recompute", [True, False])
def test_eager_mode_keeps_no_activations_either(config, recompute):
    layer = modeling.TransformerLayer(config, 0)
    layer.build()
    seen = []

    class Spy:
        """A layer whose activations the test can see."""

        weights = layer.weights

        def __call__(self, x, mask_adder, seed):
            hidden = tf.exp(x)
            seen.append(weakref.ref(hidden))
            return layer(hidden, mask_adder, seed)

    x = tf.Variable(tf.random.stateless_normal([21, config.hidden_size], [1, 2]))
    arguments = (tf.zeros([3, 1, 1, 7]), tf.constant([1, 2]))
    with tf.GradientTape() as tape:
        spy = Spy()
        y = modeling.recomputed(spy, x * 1.0, *arguments) if recompute else spy(x, *arguments)
    gc.collect()
    assert [hidden() is None for hidden in seen] == [recompute]
    assert tape.gradient(y, x) is not None
    assert len(seen) == 1 + recompute

"""Tests of bert_tf.optimization against the formulas of its sources in float64 NumPy."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from bert_tf.errors import InputError
from bert_tf.heads import BertClassifier, BertPretrainer
from bert_tf.optimization import (
    AdamWeightDecay,
    Lamb,
    LinearWarmupAndDecay,
    clip_by_global_norm,
    create_optimizer,
)


class Reference:
    """The original's AdamWeightDecayOptimizer, formula by formula."""

    def __init__(self, weights, decayed, bias_correction=False):
        self.w = [w.astype(np.float64) for w in weights]
        self.m = [np.zeros_like(w) for w in self.w]
        self.v = [np.zeros_like(w) for w in self.w]
        self.decayed = decayed
        self.bias_correction = bias_correction
        self.t = 0

    def step(self, gradients, rate):
        self.t += 1
        for i, g in enumerate(gradients):
            self.m[i] = 0.9 * self.m[i] + 0.1 * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * g**2
            m, v = self.m[i], self.v[i]
            if self.bias_correction:
                m, v = m / (1 - 0.9**self.t), v / (1 - 0.999**self.t)
            update = m / (np.sqrt(v) + 1e-6)
            if self.decayed[i]:
                update = update + 0.01 * self.w[i]
            self.w[i] = self.w[i] - rate * update


class LambReference(Reference):
    """Algorithm 2 of arXiv 1904.00962, line by line; phi is the identity."""

    def step(self, gradients, rate):
        self.t += 1
        for i, g in enumerate(gradients):
            self.m[i] = 0.9 * self.m[i] + (1 - 0.9) * g
            self.v[i] = 0.999 * self.v[i] + (1 - 0.999) * g**2
            m_hat = self.m[i] / (1 - 0.9**self.t)
            v_hat = self.v[i] / (1 - 0.999**self.t)
            r = m_hat / (np.sqrt(v_hat) + 1e-6)
            if self.decayed[i]:
                update = r + 0.01 * self.w[i]
                w_norm, update_norm = np.linalg.norm(self.w[i]), np.linalg.norm(update)
                ratio = w_norm / update_norm if w_norm > 0 and update_norm > 0 else 1.0
                self.w[i] = self.w[i] - rate * ratio * update
            else:
                self.w[i] = self.w[i] - rate * r


def rate_at(step, init_lr, num_train_steps, num_warmup_steps):
    if step < num_warmup_steps:
        return init_lr * step / num_warmup_steps
    return init_lr * max(0.0, 1 - step / num_train_steps)


def is_decayed(path):
    """By the names themselves, not by the patterns."""
    return path.rpartition("/")[2] in (
        "kernel",
        "word_embeddings",
        "token_type_embeddings",
        "position_embeddings",
        "output_weights",
    )


# From gradients that epsilon, 1e-6, hides to those it does not matter for.
SCALES = (1e-7, 1e-6, 1e-4, 0.1, 30.0)


OPTIMIZERS = {
    "adamw": ({}, Reference),
    "corrected": ({"bias_correction": True}, functools.partial(Reference, bias_correction=True)),
    "lamb": ({"optimizer": "lamb"}, LambReference),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("in_graph", [False, True])
def test_updates_equal_the_formulas(tiny_config, kind, in_graph):
    arguments, make_reference = OPTIMIZERS[kind]
    model = BertPretrainer(tiny_config)
    variables = model.trainable_variables
    rng = np.random.default_rng(9)
    for variable in variables:
        variable.assign(rng.normal(size=variable.shape))
    optimizer = create_optimizer(0.02, 13, 3, **arguments)
    reference = make_reference(
        [variable.numpy() for variable in variables],
        [is_decayed(variable.path) for variable in variables],
    )

    def apply(gradients):
        return optimizer.apply_gradients(zip(gradients, variables, strict=True))

    if in_graph:
        optimizer.build(variables)
        apply = tf.function(apply)
    for step in range(9):
        gradients = [
            (rng.normal(size=variable.shape) * SCALES[i % len(SCALES)]).astype(np.float32)
            for i, variable in enumerate(variables)
        ]
        reference.step(gradients, rate_at(step, 0.02, 13, 3))
        apply([tf.constant(gradient) for gradient in gradients])
        assert int(optimizer.iterations) == step + 1
        for variable, expected in zip(variables, reference.w, strict=True):
            np.testing.assert_allclose(
                variable, expected, rtol=3e-6, atol=3e-6, err_msg=f"{step}: {variable.path}"
            )
    for slots, expected in ((optimizer.adam_m, reference.m), (optimizer.adam_v, reference.v)):
        for slot, value in zip(slots, expected, strict=True):
            np.testing.assert_allclose(slot, value, rtol=2e-5, atol=1e-6 * np.abs(value).max())


def test_exactly_these_variables_are_not_decayed(tiny_config):
    model = BertPretrainer(tiny_config)
    optimizer = AdamWeightDecay(0.1)
    layer = [
        *(f"attention/self/{name}/bias" for name in ("query", "key", "value")),
        *(
            f"{part}/{weight}"
            for part in ("attention/output", "output")
            for weight in ("dense/bias", "LayerNorm/gamma", "LayerNorm/beta")
        ),
        "intermediate/dense/bias",
    ]
    excluded = {
        "bert/embeddings/LayerNorm/gamma",
        "bert/embeddings/LayerNorm/beta",
        *(f"bert/encoder/layer_{i}/{name}" for i in range(2) for name in layer),
        "bert/pooler/dense/bias",
        "cls/predictions/output_bias",
        "cls/predictions/transform/dense/bias",
        "cls/predictions/transform/LayerNorm/gamma",
        "cls/predictions/transform/LayerNorm/beta",
        "cls/seq_relationship/output_bias",
    }
    assert {v.path for v in model.trainable_variables if not optimizer.is_decayed(v)} == excluded
    # And what is decayed moves without a gradient, by its rate exactly; the others stay.
    for variable in model.trainable_variables:
        variable.assign(tf.ones(variable.shape))
    optimizer.apply_gradients([(tf.zeros(v.shape), v) for v in model.trainable_variables])
    for variable in model.trainable_variables:
        expected = 1.0 if variable.path in excluded else 1.0 - 0.1 * 0.01
        np.testing.assert_allclose(variable, np.full(variable.shape, expected), rtol=1e-7)


def test_exactly_these_variables_are_neither_decayed_nor_scaled_by_lamb(tiny_config):
    model = BertPretrainer(tiny_config)
    variables = model.trainable_variables
    excluded = {v.path for v in variables if not AdamWeightDecay(0.1).is_decayed(v)}
    assert len(excluded) == 2 + 2 * 10 + 1 + 5  # which ones: see above
    for variable in variables:
        variable.assign(tf.fill(variable.shape, 7.0))
    # r is 1 in the first step: a scaled update has the size of the weight, 7, another that of r.
    Lamb(0.1).apply_gradients([(tf.ones(v.shape), v) for v in variables])
    for variable in variables:
        expected = 7.0 - 0.1 * (1.0 if variable.path in excluded else 7.0)
        np.testing.assert_allclose(
            variable, np.full(variable.shape, expected), rtol=1e-5, err_msg=variable.path
        )


@pytest.mark.parametrize(
    ("weight", "gradient", "expected"),
    [(0.0, 1.0, -0.1), (0.0, 0.0, 0.0), (3.0, 0.0, 3.0 - 0.1 * 3.0)],
)
def test_the_trust_ratio_is_1_where_a_norm_is_0(weight, gradient, expected):
    variable = keras.Variable(tf.fill([5], weight), name="kernel")
    Lamb(0.1).apply_gradients([(tf.fill([5], gradient), variable)])
    np.testing.assert_allclose(variable, np.full(5, expected), rtol=1e-5)
    if not weight:
        variable.assign(tf.fill([5], weight))
        Lamb(0.1, weight_decay_rate=0.0).apply_gradients([(tf.fill([5], gradient), variable)])
        np.testing.assert_allclose(variable, np.full(5, expected), rtol=1e-5)


def test_a_classifiers_head_is_decayed_but_for_its_bias(tiny_config):
    model = BertClassifier(tiny_config, 3)
    optimizer = create_optimizer(0.1, 10, 0)
    assert optimizer.is_decayed(model.output_weights)
    assert not optimizer.is_decayed(model.output_bias)


@pytest.mark.parametrize("kind", [AdamWeightDecay, Lamb])
def test_sparse_gradients_equal_dense_ones(kind):
    start = np.random.default_rng(10).normal(size=(7, 3)).astype(np.float32)
    sparse, dense = (keras.Variable(start, name="kernel") for _ in range(2))
    rows = tf.constant([[1.0, 2, 3], [4, 5, 6], [0.5, 0.5, 0.5]])
    slices = tf.IndexedSlices(rows, tf.constant([5, 2, 5]), tf.constant([7, 3]))
    summed = np.zeros((7, 3), np.float32)
    np.add.at(summed, [5, 2, 5], rows.numpy())
    one, other = kind(0.1), kind(0.1)
    for _ in range(3):
        one.apply_gradients([(slices, sparse)])
        other.apply_gradients([(tf.constant(summed), dense)])
    np.testing.assert_array_equal(sparse, dense)
    np.testing.assert_array_equal(one.adam_v[0], other.adam_v[0])


def test_an_embedding_table_trains_through_the_tape(tiny_config, make_inputs):
    model = BertPretrainer(tiny_config)
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        outputs = model(make_inputs(tiny_config))
        loss = sum(
            tf.reduce_sum(tf.square(outputs[n])) for n in ("masked_lm_logits", "pooled_output")
        )
    gradients = tape.gradient(loss, variables)
    reference = Reference([v.numpy() for v in variables], [is_decayed(v.path) for v in variables])
    reference.step(
        [tf.convert_to_tensor(g).numpy() if g is not None else 0.0 for g in gradients], 0.1
    )
    AdamWeightDecay(0.1).apply_gradients(zip(gradients, variables, strict=True))
    for variable, gradient, expected in zip(variables, gradients, reference.w, strict=True):
        if gradient is not None:
            np.testing.assert_allclose(variable, expected, rtol=1e-4, atol=1e-4)


def test_a_variable_without_a_gradient_is_left_alone():
    with_gradient, without = keras.Variable(tf.ones([3])), keras.Variable(tf.ones([4]))
    optimizer = AdamWeightDecay(0.1)
    optimizer.apply_gradients([(None, without), (tf.ones([3]), with_gradient)])
    assert (without.numpy() == 1).all()
    assert (with_gradient.numpy() < 1).all()
    # The pairs' order is not that of the slots.
    optimizer.apply_gradients([(tf.ones([3]), with_gradient)])
    np.testing.assert_allclose(optimizer.adam_m[1], np.full(3, 0.19), rtol=1e-6)
    with pytest.raises(InputError, match="every gradient is None"):
        optimizer.apply_gradients([(None, without)])


def test_the_first_step_under_warm_up_moves_nothing_but_the_slots():
    variable = keras.Variable(tf.ones([3]), name="kernel")
    optimizer = create_optimizer(0.1, 10, 4)
    optimizer.apply_gradients([(tf.ones([3]), variable)])
    assert (variable.numpy() == 1).all()
    assert (optimizer.adam_m[0].numpy() > 0).all()
    optimizer.apply_gradients([(tf.ones([3]), variable)])
    assert (variable.numpy() < 1).all()


@pytest.mark.parametrize(
    ("init_lr", "num_train_steps", "num_warmup_steps"),
    [(5e-4, 50, 10), (2e-5, 37, 0), (1e-4, 11, 11), (0.3, 5, 9), (1.0, 1, 0), (2e-5, 343, 34)],
)
def test_the_schedule_at_every_step(init_lr, num_train_steps, num_warmup_steps):
    schedule = LinearWarmupAndDecay(init_lr, num_train_steps, num_warmup_steps)
    steps = range(num_train_steps + 5)
    actual = [float(schedule(tf.constant(step, tf.int64))) for step in steps]
    expected = [rate_at(step, init_lr, num_train_steps, num_warmup_steps) for step in steps]
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7 * init_lr)
    assert actual[num_train_steps:] == [
        pytest.approx(e, rel=1e-6) for e in expected[num_train_steps:]
    ]


def test_the_schedule_is_that_of_a_million_steps():
    schedule = LinearWarmupAndDecay(1e-4, 1_000_000, 10_000)
    for step in (0, 1, 9_999, 10_000, 500_000, 999_999, 1_000_000, 2_000_000):
        expected = rate_at(step, 1e-4, 1_000_000, 10_000)
        np.testing.assert_allclose(float(schedule(step)), expected, rtol=1e-6, atol=1e-11)


def test_the_schedule_refuses_lengths_that_are_none():
    with pytest.raises(InputError, match="num_train_steps must be at least 1, but is 0"):
        create_optimizer(0.1, 0, 0)
    with pytest.raises(InputError, match="num_warmup_steps must not be negative, but is -1"):
        create_optimizer(0.1, 10, -1)


@pytest.mark.parametrize(("name", "kind"), [("adamw", AdamWeightDecay), ("lamb", Lamb)])
def test_an_optimizer_comes_back_from_its_configuration(name, kind):
    optimizer = create_optimizer(
        3e-5, 70, 7, weight_decay_rate=0.02, bias_correction=True, optimizer=name
    )
    restored = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(restored) is type(optimizer) is kind
    assert restored.weight_decay_rate == 0.02
    assert restored.bias_correction
    assert restored.get_config() == optimizer.get_config()
    for step in (0, 3, 7, 50):
        assert float(restored.schedule(step)) == float(optimizer.schedule(step))
    assert float(AdamWeightDecay(0.25).schedule(3)) == 0.25


def test_another_optimizer_is_refused():
    with pytest.raises(InputError, match="--optimizer must be one of adamw, lamb, but is 'sgd'"):
        create_optimizer(0.1, 10, 0, optimizer="sgd")


# --- clipping -----------------------------------------------------------------------------------


def test_a_large_gradient_is_scaled_to_norm_one():
    rng = np.random.default_rng(11)
    gradients = [rng.normal(size=shape) for shape in ((3, 5), (7,), ())]
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    assert norm > 1
    clipped, reported = clip_by_global_norm([tf.constant(g, tf.float32) for g in gradients])
    np.testing.assert_allclose(reported, norm, rtol=1e-6)
    for actual, gradient in zip(clipped, gradients, strict=True):
        np.testing.assert_allclose(actual, gradient / norm, rtol=1e-6)


def test_a_small_gradient_stays_as_it_is():
    gradient = tf.constant([0.3, -0.4, 0.1])
    clipped, norm = clip_by_global_norm([gradient, None])
    np.testing.assert_allclose(clipped[0], gradient, rtol=1e-7)
    assert clipped[1] is None
    np.testing.assert_allclose(norm, np.sqrt(0.26), rtol=1e-6)


def test_repeated_rows_are_summed_before_the_norm_is_taken():
    slices = tf.IndexedSlices(
        tf.constant([[3.0, 0.0], [-3.0, 4.0]]), tf.constant([1, 1]), tf.constant([5, 2])
    )
    (clipped,), norm = clip_by_global_norm([slices])
    assert float(norm) == 4.0
    expected = np.zeros((5, 2))
    expected[1, 1] = 1.0
    np.testing.assert_allclose(clipped, expected, rtol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("num_rows", "dtype"), [(0, "int64"), (1, "int64"), (40, "int32")])
def test_rows_of_a_table_are_clipped_as_the_whole_table(num_rows, dtype, compiled):
    rng = np.random.default_rng(num_rows)
    ids = rng.integers(0, 9, num_rows)  # of 40 most come several times
    rows = rng.normal(size=(num_rows, 3))
    other = rng.normal(size=4)
    table = np.zeros((9, 3))
    np.add.at(table, ids, rows)
    norm = np.sqrt((table**2).sum() + (other**2).sum())

    @tf.function(jit_compile=compiled)
    def clip(rows, ids, other):
        return clip_by_global_norm([tf.IndexedSlices(rows, ids, tf.constant([9, 3])), other])

    arguments = (
        tf.constant(rows, tf.float32),
        tf.constant(ids, dtype),
        tf.constant(other, tf.float32),
    )
    (clipped, rest), reported = clip(*arguments)
    np.testing.assert_allclose(reported, norm, rtol=1e-6)
    scale = min(1.0, 1.0 / norm)
    np.testing.assert_allclose(clipped, table * scale, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(rest, other * scale, rtol=1e-5)

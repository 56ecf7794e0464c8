"""Tests of bert_tf.functional: values and gradients against float64 NumPy, dropout by counting."""

import numpy as np
import pytest
import tensorflow as tf

from bert_tf.functional import dropout, gelu, layer_norm


def numpy_gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_gelu_is_the_tanh_form():
    x = np.linspace(-9, 9, 1001)
    np.testing.assert_allclose(gelu(tf.constant(x)), numpy_gelu(x), rtol=1e-12, atol=1e-13)
    single = gelu(tf.constant(x, tf.float32))
    assert single.dtype == tf.float32
    np.testing.assert_allclose(single, numpy_gelu(x), rtol=1e-5, atol=1e-6)
    assert np.abs(numpy_gelu(x) - tf.nn.gelu(x, approximate=False)).max() > 1e-4  # not the erf form


def test_the_gradient_of_gelu():
    x = tf.constant(np.linspace(-6, 6, 301))
    dy = tf.constant(np.linspace(1, 2, 301))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = gelu(x)
    step = 1e-5
    slope = (numpy_gelu(x.numpy() + step) - numpy_gelu(x.numpy() - step)) / (2 * step)
    gradient = tape.gradient(y, x, output_gradients=dy)
    np.testing.assert_allclose(gradient, dy * slope, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16, tf.float16])
def test_gelu_is_zero_or_the_identity_far_out(dtype):
    far = float(dtype.max) ** 0.9
    x = tf.constant([-far, -300.0, -70.0, 0.0, 70.0, 300.0, far], dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = gelu(x)
    np.testing.assert_array_equal(y, tf.nn.relu(x))
    assert tf.cast(tape.gradient(y, x), tf.float32).numpy().tolist() == [0, 0, 0, 0.5, 1, 1, 1]


@pytest.mark.parametrize(("dtype", "epsilon"), [(tf.bfloat16, 2**-7), (tf.float16, 2**-10)])
def test_the_gradient_of_gelu_in_half_precision(dtype, epsilon):
    x = tf.constant(np.linspace(-12, 12, 301), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = gelu(x)
    exact, step = tf.cast(x, tf.float64).numpy(), 1e-5
    slope = (numpy_gelu(exact + step) - numpy_gelu(exact - step)) / (2 * step)
    gradient = tf.cast(tape.gradient(y, x), tf.float64)
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=8 * epsilon)


def numpy_layer_norm(x, gamma, beta):
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return gamma * (x - mean) / np.sqrt(variance + 1e-12) + beta


def numeric_gradient(f, x, step=1e-6):
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (f(up) - f(down)) / (2 * step)
    return gradient


def test_layer_norm_and_its_three_gradients():
    rng = np.random.default_rng(5)
    arguments = [rng.normal(size=s) * 2 + 1 for s in ((4, 7), 7, 7)]
    dy = rng.normal(size=(4, 7))
    tensors = [tf.constant(a) for a in arguments]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        y = layer_norm(*tensors)
    np.testing.assert_allclose(y, numpy_layer_norm(*arguments), rtol=1e-9, atol=1e-12)
    gradients = tape.gradient(y, tensors, output_gradients=tf.constant(dy))
    for i, gradient in enumerate(gradients):

        def loss(value, i=i):
            return (numpy_layer_norm(*arguments[:i], value, *arguments[i + 1 :]) * dy).sum()

        np.testing.assert_allclose(
            gradient, numeric_gradient(loss, arguments[i]), rtol=1e-6, atol=1e-7
        )


def test_the_epsilon_of_layer_norm_is_the_originals():
    x = np.array([[1.0, 1.0 + 2e-6]])  # variance 1e-12, where an epsilon of 1e-5 would give 0
    ones, zeros = tf.ones(2, tf.float64), tf.zeros(2, tf.float64)
    np.testing.assert_allclose(
        layer_norm(tf.constant(x), ones, zeros), [[-(0.5**0.5), 0.5**0.5]], rtol=1e-4
    )


SEED = (17, 4)


def mask_of(seed=SEED, site=0, rate=0.3, shape=(200, 301)):
    return dropout(tf.ones(shape), rate, tf.constant(seed, tf.int32), site).numpy()


def test_dropout_is_a_function_of_seed_and_site():
    mask = mask_of()
    np.testing.assert_array_equal(mask_of(), mask)
    for other in (mask_of(site=1), mask_of(seed=(18, 4)), mask_of(seed=(17, 5))):
        # Independent masks agree on 0.7 * 0.7 + 0.3 * 0.3 of the elements.
        agreement = np.mean((other == 0) == (mask == 0))
        assert abs(agreement - 0.58) < 5 * np.sqrt(0.58 * 0.42 / mask.size)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.83])
def test_dropout_has_its_rate_and_keeps_the_expectation(rate):
    mask = mask_of(rate=rate)
    error = 5 * np.sqrt(rate * (1 - rate) / mask.size)
    assert abs(np.mean(mask == 0) - rate) < error
    assert abs(mask.mean() - 1) < error / (1 - rate)
    dropped = round(rate * 2**16)  # elements are decided by 16 bits
    np.testing.assert_allclose(np.unique(mask), [0, 2**16 / (2**16 - dropped)], rtol=1e-6)


def test_no_seed_or_no_rate_is_no_dropout():
    x = tf.ones([3, 5])
    assert dropout(x, 0.5, None, 0) is x
    assert dropout(x, 0.0, tf.constant(SEED), 0) is x


def test_elements_are_independent_of_each_other():
    # Two elements share a word of random bits, so look at every distance between two elements.
    kept = mask_of(shape=(400, 251)).ravel() > 0
    spectrum = np.abs(np.fft.rfft((kept - 0.7) / np.sqrt(0.21))) ** 2
    correlation = np.fft.irfft(spectrum, kept.size) / kept.size
    assert correlation[0] == pytest.approx(1, abs=0.02)
    assert np.abs(correlation[1:]).max() < 7 / np.sqrt(kept.size)


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 3, 7, 7)])
def test_dropout_of_any_shape_in_and_out_of_a_graph(shape):
    x = tf.random.stateless_normal(shape, [1, 2])
    seed = tf.constant(SEED)
    outside = dropout(x, 0.4, seed, 3)
    assert outside.shape == shape
    spec = tf.TensorSpec([None] * len(shape), tf.float32)
    inside = tf.function(lambda x: dropout(x, 0.4, seed, 3), input_signature=[spec])(x)
    np.testing.assert_array_equal(inside, outside)


def test_the_gradient_of_dropout_has_its_mask():
    x = tf.random.stateless_normal([31, 7], [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = dropout(x, 0.4, tf.constant(SEED), 3)
    np.testing.assert_allclose(tape.gradient(y, x) * x, y, rtol=1e-6)


def test_dropout_keeps_the_dtype():
    assert dropout(tf.ones([9], tf.bfloat16), 0.4, tf.constant(SEED), 3).dtype == tf.bfloat16

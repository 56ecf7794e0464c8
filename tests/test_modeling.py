"""Tests of bert_tf.modeling: each piece against float64 NumPy, the whole against the original."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from bert_tf import modeling
from bert_tf.checkpoint import load_checkpoint
from bert_tf.config import BertConfig
from bert_tf.errors import InputError
from bert_tf.modeling import BertModel, LayerNorm, SelfAttention
from bert_tf.packing import RaggedIds, pack_texts
from bert_tf.tokenization import FullTokenizer


def shape_of(inputs):
    return inputs["input_ids"].shape


# --- against the original code ------------------------------------------------------------------


@pytest.fixture(scope="module")
def forward(testdata):
    return dict(np.load(testdata / "original_tiny" / "forward.npz"))


@pytest.mark.parametrize("in_graph", [False, True])
def test_every_activation_equals_the_originals(original_tiny, forward, in_graph):
    config, path = original_tiny
    model = BertModel(config, seed=1)
    load_checkpoint(model, path)
    inputs = {name: forward[f"input/{name}"] for name in ("input_ids", "input_mask", "segment_ids")}
    call = tf.function(model) if in_graph else model
    outputs = call(inputs, training=False)
    assert set(outputs) == {
        "embedding_output",
        "encoder_outputs",
        "sequence_output",
        "pooled_output",
    }
    assert len(outputs["encoder_outputs"]) == 3
    flat = outputs | {f"encoder_layer_{i}": x for i, x in enumerate(outputs["encoder_outputs"])}
    for name in ("embedding_output", "sequence_output", "pooled_output"):
        np.testing.assert_allclose(flat[name], forward[name], rtol=0, atol=2e-5, err_msg=name)
    for name in ("encoder_layer_0", "encoder_layer_1", "encoder_layer_2"):
        np.testing.assert_allclose(flat[name], forward[name], rtol=0, atol=2e-5, err_msg=name)


def test_real_weights_give_the_features_of_the_original(shared):
    """extract_features.py on 64 texts and pairs, from text to the last two layers."""
    folder = shared / "checkpoints" / "uncased_L-6_H-384_A-12"
    golden = shared / "goldens" / "minilm"
    tokens = json.loads((golden / "features_tokens.json").read_text())
    expected = np.load(golden / "features_first8.npz")["values"]

    tokenizer = FullTokenizer(folder / "vocab.txt", do_lower_case=True)
    config = BertConfig.from_json_file(folder / "bert_config.json")
    model = BertModel(config)
    load_checkpoint(model, folder / "bert_model.ckpt")
    call = tf.function(model, reduce_retracing=True)
    lines = (golden / "features_input.txt").read_text().splitlines()
    assert len(lines) == len(tokens) == len(expected) == 64
    for index, line in enumerate(lines):
        pieces = [tokenizer.tokenize(text) for text in line.split(" ||| ")]
        ids = [np.array(tokenizer.convert_tokens_to_ids(piece), np.int32) for piece in pieces]
        ragged = [RaggedIds(values, np.array([0, len(values)])) for values in ids]
        cls, sep = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
        packed = pack_texts(ragged[0], ragged[1] if len(ragged) > 1 else None, 128, cls, sep)
        input_ids = packed.input_ids.values
        assert tokenizer.convert_ids_to_tokens(input_ids.tolist()) == tokens[index]
        segment_ids = (np.arange(len(input_ids)) >= packed.segment_starts[0]).astype(np.int32)
        inputs = {"input_ids": input_ids[None], "segment_ids": segment_ids[None]}
        outputs = call({name: tf.constant(value) for name, value in inputs.items()})
        layers = np.stack([layer[0, :8] for layer in outputs["encoder_outputs"][:-3:-1]], axis=1)
        np.testing.assert_allclose(
            layers, expected[index, : len(layers)], rtol=0, atol=1e-4, err_msg=line
        )


def test_parameter_counts_are_the_published_ones():
    tiny = BertConfig(30522, 128, 2, 2, 512, type_vocab_size=2)
    assert BertModel(tiny).count_params() == 4_385_920
    base = BertConfig(30522, type_vocab_size=2)
    assert BertModel(base).count_params() == 109_482_240


# --- the pieces ---------------------------------------------------------------------------------


def test_layer_norm_computes_in_float32_under_bfloat16():
    layer = LayerNorm(64, dtype="mixed_bfloat16")
    layer.build()
    rng = np.random.default_rng(6)
    x = tf.cast(100 + rng.normal(size=(5, 64)), tf.bfloat16)
    y = layer(x)
    assert y.dtype == tf.bfloat16
    exact = tf.cast(x, tf.float64).numpy()
    expected = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    # Half a unit in the last place of bfloat16: rounded once, at the end.
    np.testing.assert_allclose(tf.cast(y, tf.float64), expected, rtol=2**-8, atol=1e-5)


def test_attention_equals_loops_over_heads_queries_and_keys(tiny_config):
    batch, seq, heads, size = 3, 5, 3, 4
    config = dataclasses.replace(tiny_config, initializer_range=0.7)
    layer = SelfAttention(config, site=1)
    layer.build()
    rng = np.random.default_rng(7)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    x = rng.normal(size=(batch * seq, heads * size))
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0], [0, 0, 0, 0, 0]])
    adder = tf.constant((1.0 - mask) * modeling.MASKED_SCORE, tf.float32)[:, None, None, :]
    actual = layer(tf.constant(x, tf.float32), adder, None)

    weights = {w.path.removeprefix("self/"): w.numpy().astype(np.float64) for w in layer.weights}
    assert set(weights) == {
        f"{p}/{w}" for p in ("query", "key", "value") for w in ("kernel", "bias")
    }
    query, key, value = (
        x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]
        for name in ("query", "key", "value")
    )
    expected = np.zeros_like(x)
    for b in range(batch):
        for n in range(heads):
            columns = slice(n * size, (n + 1) * size)
            for i in range(seq):
                scores = np.array(
                    [
                        query[b * seq + i, columns] @ key[b * seq + j, columns] / np.sqrt(size)
                        + (0.0 if mask[b, j] else -10000.0)
                        for j in range(seq)
                    ]
                )
                exp = np.exp(scores - scores.max())
                for j in range(seq):
                    expected[b * seq + i, columns] += (
                        exp[j] / exp.sum() * value[b * seq + j, columns]
                    )
    # A row that is all padding keeps its scores' differences: -10000 in float32 costs 1e-3 there.
    np.testing.assert_allclose(actual[: 2 * seq], expected[: 2 * seq], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(actual[2 * seq :], expected[2 * seq :], atol=2e-2)


def test_padding_changes_nothing(tiny_config, make_inputs):
    model = BertModel(tiny_config, seed=1)
    inputs = make_inputs(tiny_config, batch_size=1, seq_length=6)
    inputs["input_mask"] = np.array([[1, 1, 1, 1, 0, 0]], np.int32)
    cut = {name: value[:, :4] for name, value in inputs.items()}
    other = inputs | {"input_ids": inputs["input_ids"] + np.array([[0, 0, 0, 0, 3, 9]], np.int32)}
    expected = model(cut)
    for padded in (inputs, other):
        outputs = model(padded)
        np.testing.assert_allclose(
            outputs["sequence_output"][:, :4], expected["sequence_output"], rtol=0, atol=2e-6
        )
        np.testing.assert_allclose(
            outputs["pooled_output"], expected["pooled_output"], rtol=0, atol=2e-6
        )


def test_mask_and_segments_default_to_all_tokens_of_one_segment(tiny_config):
    model = BertModel(tiny_config)
    ids = np.array([[3, 1, 4, 1, 5]], np.int32)
    short = model({"input_ids": ids})
    full = model({"input_ids": ids, "input_mask": ids * 0 + 1, "segment_ids": ids * 0})
    np.testing.assert_array_equal(short["sequence_output"], full["sequence_output"])
    other = model({"input_ids": ids, "segment_ids": ids * 0 + 4})
    assert np.abs(other["sequence_output"] - short["sequence_output"]).max() > 1e-3


@pytest.mark.parametrize("act", ["gelu", "gelu_erf", "relu", "tanh", "linear"])
def test_the_configured_activation_is_used(tiny_config, act):
    layer = modeling.Intermediate(dataclasses.replace(tiny_config, hidden_act=act))
    layer.build()
    rng = np.random.default_rng(8)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    kernel, bias = (weight.numpy() for weight in layer.weights)
    x = rng.normal(size=(3, 12)).astype(np.float32)
    functions = {
        "gelu": lambda z: tf.nn.gelu(z, approximate=True).numpy(),
        "gelu_erf": lambda z: tf.nn.gelu(z, approximate=False).numpy(),
        "relu": lambda z: np.maximum(z, 0),
        "tanh": np.tanh,
        "linear": lambda z: z,
    }
    np.testing.assert_allclose(layer(x), functions[act](x @ kernel + bias), rtol=1e-4, atol=1e-5)


def test_initial_weights_are_the_originals(tiny_config):
    config = dataclasses.replace(tiny_config, vocab_size=3001, initializer_range=0.05)
    model = BertModel(config)
    for variable in model.weights:
        value = variable.numpy()
        last = variable.path.rpartition("/")[2]
        if last in ("bias", "beta"):
            assert not value.any()
        elif last == "gamma":
            assert (value == 1).all()
        else:
            assert np.abs(value).max() <= 0.1  # cut at two standard deviations
            assert value.std() > 0.03
    table = model.embeddings.word_embeddings.numpy()
    # Cutting at two standard deviations leaves a spread of 0.88 of one; the original does not
    # make up for it.
    assert abs(table.std() / 0.05 - 0.8796) < 0.01
    assert len(
        {variable.numpy().tobytes() for variable in model.weights if "kernel" in variable.path}
    ) == (2 * 6 + 1)


# --- dropout ------------------------------------------------------------------------------------


def test_every_call_of_dropout_has_a_site_of_its_own(tiny_config, make_inputs, monkeypatch):
    config = dataclasses.replace(
        tiny_config, hidden_dropout_prob=0.25, attention_probs_dropout_prob=0.5
    )
    calls = []

    def record(x, rate, seed, site):
        calls.append((site, rate, tuple(x.shape), seed.numpy().tolist()))
        return x

    monkeypatch.setattr(modeling, "dropout", record)
    BertModel(config)(make_inputs(config), training=True, dropout_seed=tf.constant([3, 9]))
    sites, rates, shapes, seeds = zip(*calls, strict=True)
    assert len(set(sites)) == len(sites)
    assert set(map(tuple, seeds)) == {(3, 9)}
    hidden, probabilities = (21, 12), (3, 3, 7, 7)
    assert shapes == (hidden, *(probabilities, hidden, hidden) * 2)
    assert rates == tuple(0.5 if shape == probabilities else 0.25 for shape in shapes)


def test_training_repeats_under_one_seed_and_differs_under_another(tiny_config, make_inputs):
    model = BertModel(tiny_config)
    inputs = make_inputs(tiny_config)

    def run(*seed, **arguments):
        outputs = model(inputs, dropout_seed=tf.constant(seed) if seed else None, **arguments)
        return outputs["sequence_output"].numpy()

    first = run(1, 2, training=True)
    np.testing.assert_array_equal(run(1, 2, training=True), first)
    assert (run(1, 3, training=True) != first).any()
    inference = run(training=False)
    assert (inference != first).any()
    np.testing.assert_array_equal(run(), inference)
    np.testing.assert_array_equal(run(1, 2, training=False), inference)


def test_without_a_seed_each_training_call_draws_the_next(tiny_config, make_inputs):
    inputs = make_inputs(tiny_config)
    models = []
    for seed in (5, 5, 6):
        model = BertModel(tiny_config, seed=seed)
        if models:
            model.set_weights(models[0].get_weights())
        models.append(model)
    outputs = [
        [model(inputs, training=True)["pooled_output"].numpy() for _ in range(2)]
        for model in models
    ]
    assert (outputs[0][0] != outputs[0][1]).any()
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert (outputs[0][0] != outputs[2][0]).any()


# --- the pooled output alone ----------------------------------------------------------------------


def shared_inputs():
    """Two rows with three examples and one; what a row lacks begins anywhere."""
    numbers = tf.constant([[1, 1, 2, 2, 2, 3, 0], [1, 1, 1, 1, 0, 0, 0]])
    return {
        "input_ids": tf.constant([[5, 6, 5, 9, 11, 5, 0], [5, 7, 8, 9, 0, 0, 0]]),
        "input_mask": tf.sign(numbers),
        "segment_ids": tf.constant([[0, 1, 0, 0, 1, 0, 0], [0, 0, 1, 1, 0, 0, 0]]),
        "example_numbers": numbers,
        "positions": tf.constant([[0, 1, 0, 1, 2, 0, 0], [0, 1, 2, 3, 0, 0, 0]]),
        "cls_positions": tf.constant([[0, 2, 5], [0, 0, 3]]),
    }


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("rows_are_shared", [False, True])
def test_the_pooled_output_alone_is_that_of_the_call(
    tiny_config, make_inputs, rows_are_shared, recompute, in_graph
):
    config = dataclasses.replace(
        tiny_config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    model = BertModel(config)
    model.recompute = recompute
    inputs = shared_inputs() if rows_are_shared else make_inputs(config)
    weights = [variable.value for variable in model.trainable_variables]

    def differentiate(forward):
        def function():
            with tf.GradientTape() as tape:
                pooled = forward(inputs, training=True, dropout_seed=tf.constant([1, 2]))
                loss = tf.reduce_sum(tf.sin(pooled) * tf.range(1.0, 13.0))
            return pooled, [tf.convert_to_tensor(g) for g in tape.gradient(loss, weights)]

        return tf.function(function)() if in_graph else function()

    expected, goals = differentiate(lambda *args, **more: model(*args, **more)["pooled_output"])
    pooled, gradients = differentiate(model.pooled_output)
    assert pooled.shape == ((6, 12) if rows_are_shared else (3, 12))
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=2e-6)
    for variable, gradient, goal in zip(model.trainable_variables, gradients, goals, strict=True):
        # The gradient of a key's bias is 0 but for rounding.
        tolerance = 1e-5 * max(1.0, np.abs(goal).max())
        np.testing.assert_allclose(gradient, goal, rtol=0, atol=tolerance, err_msg=variable.path)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_the_pooled_output_alone_of_any_shape(tiny_config, make_inputs, policy, merged):
    model = BertModel(tiny_config, dtype=policy)
    if merged:
        model.merge_projections()

    def both(inputs):
        return model.pooled_output(inputs), model(inputs)["pooled_output"]

    plain, shared = make_inputs(tiny_config), shared_inputs()
    del plain["masked_lm_positions"]
    one_token = {name: value[:, :1] for name, value in shared.items()}
    one_token["cls_positions"] = tf.zeros([2, 3], tf.int32)
    cases = {
        "no rows": ({name: value[:0] for name, value in plain.items()}, 0),
        "rows": (plain, 3),
        "examples that share rows": (shared, 6),
        "rows of one token": (one_token, 6),
    }
    tolerance = 2e-6 if policy == "float32" else 0.05
    for what, (inputs, num_vectors) in cases.items():
        specs = {name: tf.TensorSpec([None, None], tf.int32) for name in inputs}
        for function in (both, tf.function(both, input_signature=[specs])):
            pooled, expected = function({n: tf.constant(value) for n, value in inputs.items()})
            assert pooled.dtype == model.compute_dtype, what
            assert pooled.shape == (num_vectors, 12), what
            pooled, expected = (tf.cast(vectors, tf.float32) for vectors in (pooled, expected))
            np.testing.assert_allclose(pooled, expected, rtol=0, atol=tolerance, err_msg=what)


def test_the_pooled_output_takes_one_vector_of_a_row_through_the_last_layer(
    tiny_config, make_inputs, monkeypatch
):
    shapes = []

    def record(x, rate, seed, site):
        shapes.append(tuple(x.shape))
        return x

    monkeypatch.setattr(modeling, "dropout", record)
    BertModel(tiny_config).pooled_output(make_inputs(tiny_config), training=True)
    whole, one = [(3, 3, 7, 7), (21, 12), (21, 12)], [(3, 3, 1, 7), (3, 12), (3, 12)]
    assert shapes == [(21, 12), *whole, *one]


# --- precision ----------------------------------------------------------------------------------


def test_mixed_bfloat16_keeps_weights_and_gradients_in_float32(tiny_config, make_inputs):
    model = BertModel(tiny_config, dtype="mixed_bfloat16")
    inputs = make_inputs(tiny_config)
    reference = BertModel(tiny_config)
    reference.set_weights(model.get_weights())
    assert {variable.dtype for variable in model.weights} == {"float32"}
    with tf.GradientTape() as tape:
        outputs = model(inputs, training=True, dropout_seed=tf.constant([1, 2]))
        loss = tf.reduce_sum(tf.cast(outputs["sequence_output"], tf.float32) ** 2)
    for gradient in tape.gradient(loss, model.trainable_variables[:-2]):
        assert gradient.dtype == tf.float32
    outputs, exact = model(inputs), reference(inputs)
    for name in ("embedding_output", "sequence_output", "pooled_output"):
        assert outputs[name].dtype == tf.bfloat16
        difference = tf.cast(outputs[name], tf.float32) - exact[name]
        assert 0 < np.abs(difference).max() < 0.15, name
    # The embeddings' sum and its LayerNorm are float32, rounded once at the end.
    np.testing.assert_array_equal(
        outputs["embedding_output"], tf.cast(exact["embedding_output"], tf.bfloat16)
    )


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("input_ids", 37, r"input_ids\[1, 2\] is 37, but vocab_size is 37: it must lie in 0 to 36"),
        ("input_ids", -1, r"input_ids\[1, 2\] is -1"),
        ("segment_ids", 5, r"segment_ids\[1, 2\] is 5, but type_vocab_size is 5"),
    ],
)
def test_an_id_outside_its_table_is_named(tiny_config, make_inputs, name, value, message):
    inputs = make_inputs(tiny_config)
    inputs[name][1, 2] = value
    with pytest.raises(InputError, match=message):
        BertModel(tiny_config)(inputs)


@pytest.mark.parametrize("in_graph", [False, True])
def test_a_sequence_beyond_the_positions_is_refused(tiny_config, in_graph):
    model = BertModel(tiny_config)
    call = tf.function(model, autograph=False) if in_graph else model
    assert call({"input_ids": tf.zeros([2, 17], tf.int32)})["pooled_output"].shape == (2, 12)
    with pytest.raises(InputError, match=r"18 tokens.*1 to 17 .max_position_embeddings"):
        call({"input_ids": tf.zeros([2, 18], tf.int32)})


# --- Keras --------------------------------------------------------------------------------------


def test_names_are_the_checkpoints_scopes(tiny_config):
    paths = [variable.path for variable in BertModel(tiny_config).weights]
    assert len(paths) == len(set(paths)) == 5 + 2 * 16 + 2
    assert "bert/embeddings/word_embeddings" in paths
    assert "bert/encoder/layer_1/attention/output/LayerNorm/gamma" in paths


def test_save_and_load_through_keras(tiny_config, make_inputs, tmp_path):
    model = BertModel(tiny_config, seed=1)
    model.save(tmp_path / "model.keras")
    keras.utils.set_random_seed(99)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is BertModel
    assert loaded.config == tiny_config
    inputs = make_inputs(tiny_config)
    expected, actual = model(inputs), loaded(inputs)
    for name in ("embedding_output", "sequence_output", "pooled_output"):
        np.testing.assert_array_equal(actual[name], expected[name])


def test_use_as_a_layer_of_a_functional_model(tiny_config, make_inputs):
    bert = BertModel(tiny_config)
    inputs = {
        name: keras.Input([None], dtype="int32", name=name)
        for name in ("input_ids", "input_mask", "segment_ids")
    }
    outputs = bert(inputs)
    assert outputs["sequence_output"].shape == (None, None, 12)
    assert outputs["pooled_output"].shape == (None, 12)
    model = keras.Model(inputs, keras.layers.Dense(2)(outputs["pooled_output"]))
    values = {name: make_inputs(tiny_config)[name] for name in inputs}
    expected = model.layers[-1](bert(values)["pooled_output"])
    np.testing.assert_allclose(model.predict(values, verbose=0), expected, rtol=0, atol=1e-6)


def test_export_shapes_stay_static_where_known(tiny_config):
    model = BertModel(tiny_config)
    spec = {"input_ids": tf.TensorSpec([3, None], tf.int32)}
    outputs = tf.function(model).get_concrete_function(spec).structured_outputs
    assert outputs["sequence_output"].shape.as_list() == [3, None, 12]
    assert outputs["pooled_output"].shape.as_list() == [3, 12]


def test_rows_of_a_batch_do_not_mix(tiny_config, make_inputs):
    model = BertModel(tiny_config)
    inputs = make_inputs(tiny_config, batch_size=5)
    whole = model(inputs)["sequence_output"]
    assert whole.shape == (*shape_of(inputs), 12)
    for row in range(5):
        alone = model({name: value[row : row + 1] for name, value in inputs.items()})
        np.testing.assert_allclose(alone["sequence_output"][0], whole[row], rtol=0, atol=2e-6)

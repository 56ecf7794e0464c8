"""Tests of bert_tf.heads: against the original's outputs, and float64 NumPy where it has none."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from bert_tf import crf, heads
from bert_tf.checkpoint import load_checkpoint, variables_by_name
from bert_tf.errors import InputError
from bert_tf.heads import (
    BertClassifier,
    BertMultipleChoice,
    BertPretrainer,
    BertSpanLabeler,
    BertTagger,
)
from bert_tf.losses import masked_lm_loss, single_label_loss
from bert_tf.modeling import BertModel
from bert_tf.optimization import create_optimizer


@pytest.fixture(scope="module")
def pretrainer(original_tiny):
    config, path = original_tiny
    model = BertPretrainer(config)
    load_checkpoint(model, path)
    return model


def value(term):
    return float(term.total) / (float(term.weight) + term.epsilon)


def test_pretraining_heads_equal_the_originals(pretrainer, testdata):
    golden = np.load(testdata / "original_tiny" / "forward.npz")
    inputs = {
        name: golden[f"input/{name}"]
        for name in ("input_ids", "input_mask", "segment_ids", "masked_lm_positions")
    }
    outputs = pretrainer(inputs, training=False)
    assert outputs["masked_lm_logits"].shape == (4, 10, 2048)
    log_probs = tf.nn.log_softmax(outputs["masked_lm_logits"])
    np.testing.assert_allclose(
        tf.reshape(log_probs, [40, 2048]), golden["mlm_log_probs"], rtol=0, atol=1e-4
    )
    np.testing.assert_allclose(
        tf.nn.log_softmax(outputs["next_sentence_logits"]),
        golden["nsp_log_probs"],
        rtol=0,
        atol=1e-4,
    )
    for name in ("embedding_output", "sequence_output", "pooled_output"):
        np.testing.assert_allclose(outputs[name], golden[name], rtol=0, atol=2e-5)
    masked_lm = masked_lm_loss(
        outputs["masked_lm_logits"],
        golden["input/masked_lm_ids"],
        golden["input/masked_lm_weights"],
    )
    next_sentence = single_label_loss(
        outputs["next_sentence_logits"], golden["input/next_sentence_labels"][:, 0]
    )
    np.testing.assert_allclose(value(masked_lm), golden["mlm_loss"], rtol=1e-5)
    np.testing.assert_allclose(value(next_sentence), golden["nsp_loss"], rtol=1e-5)


def test_the_output_table_is_the_input_table(tiny_config, make_inputs):
    model = BertPretrainer(tiny_config)
    names = [variable.path for variable in model.weights]
    assert not any(name.startswith("cls/") and "embeddings" in name for name in names)
    inputs = make_inputs(tiny_config)
    before = model(inputs)["masked_lm_logits"]
    table = model.bert.embeddings.word_embeddings
    unused = 36
    assert not (inputs["input_ids"] == unused).any()
    table.assign(table.numpy() * (1 + np.eye(37)[unused][:, None]))
    after = model(inputs)["masked_lm_logits"]
    changed = np.abs(after - before).max(axis=(0, 1)) > 1e-6
    assert np.flatnonzero(changed).tolist() == [unused]


def test_the_masked_lm_head_reads_each_rows_own_positions(tiny_config, make_inputs):
    model = BertPretrainer(tiny_config)
    inputs = make_inputs(tiny_config, batch_size=3, seq_length=7, predictions=4)
    positions = np.tile(np.arange(7, dtype=np.int32), (3, 1))
    full = model(inputs | {"masked_lm_positions": positions})["masked_lm_logits"].numpy()
    part = model(inputs)["masked_lm_logits"]
    expected = np.take_along_axis(full, inputs["masked_lm_positions"][..., None], axis=1)
    np.testing.assert_allclose(part, expected, rtol=0, atol=1e-5)


def test_the_classifier_is_weights_transposed_plus_bias(tiny_config, make_inputs):
    model = BertClassifier(tiny_config, num_labels=5)
    model.output_bias.assign(np.arange(5.0))
    inputs = make_inputs(tiny_config)
    pooled = model.bert(inputs)["pooled_output"].numpy().astype(np.float64)
    expected = pooled @ model.output_weights.numpy().T + np.arange(5.0)
    logits = model(inputs)
    assert logits.shape == (3, 5)
    assert model.output_weights.shape == (5, 12)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_classifiers_and_choices_need_no_other_vector_than_that_of_cls(
    tiny_config, make_inputs, monkeypatch
):
    def whole(*args, **kwargs):
        raise AssertionError("the whole last layer is computed")

    monkeypatch.setattr(BertModel, "call", whole)
    inputs = make_inputs(tiny_config)
    del inputs["masked_lm_positions"]
    assert BertClassifier(tiny_config, 3)(inputs).shape == (3, 3)
    rows = {name: value[np.newaxis] for name, value in inputs.items()}
    assert BertMultipleChoice(tiny_config)(rows).shape == (1, 3)
    assert BertClassifier(tiny_config, 2, window_pooling="mean")(rows).shape == (1, 2)


def test_names_are_the_originals(tiny_config):
    paths = {variable.path for variable in BertPretrainer(tiny_config).weights}
    assert {path for path in paths if not path.startswith("bert/")} == {
        "cls/predictions/output_bias",
        "cls/predictions/transform/dense/kernel",
        "cls/predictions/transform/dense/bias",
        "cls/predictions/transform/LayerNorm/gamma",
        "cls/predictions/transform/LayerNorm/beta",
        "cls/seq_relationship/output_weights",
        "cls/seq_relationship/output_bias",
    }


def test_dropout_of_the_pooled_output(tiny_config, make_inputs, monkeypatch):
    calls = []

    def record(x, rate, seed, site):
        calls.append((tuple(x.shape), rate, seed is not None, site))
        return x

    monkeypatch.setattr(heads, "dropout", record)
    inputs = make_inputs(tiny_config)
    config = dataclasses.replace(tiny_config, hidden_dropout_prob=0.25)
    BertClassifier(config, 2)(inputs, training=True)
    BertClassifier(config, 2, dropout_prob=0.4)(inputs, training=True)
    BertClassifier(config, 2)(inputs)
    shape, site = (3, 12), heads.HEAD_SITE
    assert calls == [
        (shape, 0.25, True, site),
        (shape, 0.4, True, site),
        (shape, 0.25, False, site),
    ]


@pytest.mark.parametrize("build", [BertPretrainer, lambda c, **kw: BertClassifier(c, 3, **kw)])
def test_training_calls_draw_their_seeds_from_the_models(tiny_config, make_inputs, build):
    inputs = make_inputs(tiny_config)

    def run(model, **arguments):
        return tf.nest.flatten(model(inputs, **arguments))[-1].numpy()

    first, second = build(tiny_config, seed=3), build(tiny_config, seed=3)
    second.set_weights(first.get_weights())
    a, b = run(first, training=True), run(first, training=True)
    assert (a != b).any()
    np.testing.assert_array_equal(run(second, training=True), a)
    seed = tf.constant([1, 2])
    np.testing.assert_array_equal(
        run(first, training=True, dropout_seed=seed), run(second, training=True, dropout_seed=seed)
    )
    np.testing.assert_array_equal(run(first), run(second))


def test_logits_are_float32_under_mixed_bfloat16(tiny_config, make_inputs):
    inputs = make_inputs(tiny_config)
    pretrainer = BertPretrainer(tiny_config, dtype="mixed_bfloat16")
    outputs = pretrainer(inputs)
    assert outputs["masked_lm_logits"].dtype == tf.float32
    assert outputs["next_sentence_logits"].dtype == tf.float32
    assert outputs["sequence_output"].dtype == tf.bfloat16
    classifier = BertClassifier(tiny_config, 3, dtype="mixed_bfloat16")
    assert classifier(inputs).dtype == tf.float32
    for model in (pretrainer, classifier):
        assert {variable.dtype for variable in model.weights} == {"float32"}
    reference = BertPretrainer(tiny_config)
    reference.set_weights(pretrainer.get_weights())
    exact = reference(inputs)
    for name in ("masked_lm_logits", "next_sentence_logits"):
        np.testing.assert_allclose(outputs[name], exact[name], rtol=0, atol=0.3, err_msg=name)
    # The small heads multiply in float32: the same pooled output gives the same logits.
    expected = heads.linear(
        outputs["pooled_output"],
        pretrainer.cls.seq_relationship.output_weights.value,
        pretrainer.cls.seq_relationship.output_bias.value,
    )
    np.testing.assert_allclose(outputs["next_sentence_logits"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", [BertPretrainer, BertClassifier])
def test_save_and_load_through_keras(tiny_config, make_inputs, tmp_path, kind, dtype):
    extra = {"num_labels": 3, "dropout_prob": 0.35} if kind is BertClassifier else {}
    model = kind(tiny_config, seed=1, dtype=dtype, name="mine", **extra)
    model.save(tmp_path / "model.keras")
    keras.utils.set_random_seed(99)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is kind and loaded.name == "mine"
    assert loaded.config == tiny_config
    assert all(getattr(loaded, name) == value for name, value in extra.items())
    inputs = make_inputs(tiny_config)
    tf.nest.map_structure(np.testing.assert_array_equal, loaded(inputs), model(inputs))


def test_fit_takes_the_step_that_apply_gradients_takes(tiny_config, make_inputs):
    config = dataclasses.replace(
        tiny_config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    inputs = make_inputs(config, batch_size=4)
    del inputs["masked_lm_positions"]
    labels = np.array([2, 0, 1, 1], np.int32)
    fitted = BertClassifier(config, 3)
    manual = BertClassifier(config, 3)
    manual.set_weights(fitted.get_weights())
    before = fitted.get_weights()

    fitted.compile(
        optimizer=create_optimizer(0.01, 10, 0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    history = fitted.fit(inputs, labels, batch_size=4, epochs=1, verbose=0)
    with tf.GradientTape() as tape:
        loss = single_label_loss(manual(inputs, training=True), labels)
        mean = loss.total / loss.weight
    gradients = tape.gradient(mean, manual.trainable_variables)
    optimizer = create_optimizer(0.01, 10, 0)
    optimizer.apply_gradients(zip(gradients, manual.trainable_variables, strict=True))

    np.testing.assert_allclose(history.history["loss"][0], float(mean), rtol=1e-5)
    assert int(fitted.optimizer.iterations) == int(optimizer.iterations) == 1
    moved = [np.abs(a - b).max() for a, b in zip(before, fitted.get_weights(), strict=True)]
    assert sum(amount > 1e-4 for amount in moved) > len(moved) // 2
    for variable, a, b in zip(
        fitted.weights, fitted.get_weights(), manual.get_weights(), strict=True
    ):
        if not variable.path.endswith("key/bias"):  # its gradient is rounding noise around 0
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5, err_msg=variable.path)


def test_use_in_a_functional_model(tiny_config, make_inputs):
    classifier = BertClassifier(tiny_config, 3)
    inputs = {
        name: keras.Input([7], dtype="int32", name=name)
        for name in ("input_ids", "input_mask", "segment_ids")
    }
    logits = classifier(inputs)
    assert logits.shape == (None, 3)
    assert logits.dtype == "float32"
    model = keras.Model(inputs, keras.layers.Softmax()(logits))
    values = {name: make_inputs(tiny_config)[name] for name in inputs}
    np.testing.assert_allclose(
        model.predict(values, verbose=0), tf.nn.softmax(classifier(values)), rtol=0, atol=1e-6
    )


def test_a_classifier_needs_a_label(tiny_config):
    with pytest.raises(InputError, match="num_labels must be at least 1, but is 0"):
        BertClassifier(tiny_config, 0)


WORD_STARTS = np.array([[1, 3, 0], [1, 0, 0], [2, 4, 5]], np.int32)
# Of the labels 0 (O), 1 (B) and 2 (I): I neither begins nor follows O.
ALLOWED = crf.Allowed(
    np.array([True, True, False]),
    np.array([[True, True, False], [True, True, True], [True, True, True]]),
    np.array([True, True, True]),
)


@pytest.mark.parametrize("use_crf", [False, True])
def test_the_tagger_reads_each_words_first_piece(tiny_config, make_inputs, use_crf):
    model = BertTagger(tiny_config, num_labels=3, use_crf=use_crf)
    model.output_bias.assign(np.arange(3.0))
    inputs = make_inputs(tiny_config)
    encoded = model.bert(inputs)["sequence_output"].numpy().astype(np.float64)
    words = np.take_along_axis(encoded, WORD_STARTS[..., None], axis=1)
    expected = words @ model.output_weights.numpy().T + np.arange(3.0)
    logits = model(inputs | {"word_starts": WORD_STARTS})
    assert logits.shape == (3, 3, 3)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    own = {"output_weights", "output_bias"}
    own |= {"crf/start", "crf/transitions", "crf/end"} if use_crf else set()
    assert {name for name in variables_by_name(model) if not name.startswith("bert/")} == own
    with pytest.raises(InputError, match="word_starts is missing"):
        model(inputs)
    with pytest.raises(InputError, match=r"word_starts\[0, 1\] is 7"):
        model(inputs | {"word_starts": WORD_STARTS[:1] * 7 // 3})


def test_the_taggers_chain_is_the_tag_scheme_and_what_was_learned(tiny_config):
    softmax = BertTagger(tiny_config, 3, allowed=ALLOWED).chain()
    np.testing.assert_array_equal(softmax.start == 0, ALLOWED.start)
    np.testing.assert_array_equal(softmax.transitions == 0, ALLOWED.transitions)
    model = BertTagger(tiny_config, 3, use_crf=True, allowed=ALLOWED)
    learned = np.arange(9.0, dtype=np.float32).reshape(3, 3)
    model.crf.parts["transitions"].assign(learned)
    np.testing.assert_array_equal(
        model.chain().transitions, np.where(ALLOWED.transitions, learned, np.float32(crf.FORBIDDEN))
    )
    free = BertTagger(tiny_config, 3).chain()
    assert not any(part.numpy().any() for part in free)


def test_a_tagger_under_mixed_bfloat16_and_through_keras(tiny_config, make_inputs, tmp_path):
    model = BertTagger(
        tiny_config, 3, use_crf=True, allowed=ALLOWED, dropout_prob=0.35, dtype="mixed_bfloat16"
    )
    assert {variable.dtype for variable in model.weights} == {"float32"}
    inputs = make_inputs(tiny_config) | {"word_starts": WORD_STARTS}
    assert model(inputs).dtype == tf.float32
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is BertTagger
    assert loaded.dropout_prob == 0.35
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    for one, other in zip(loaded.chain(), model.chain(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_dropout_reaches_the_taggers_words(tiny_config, make_inputs):
    config = dataclasses.replace(
        tiny_config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    model = BertTagger(config, 3, dropout_prob=0.5)
    inputs = make_inputs(config) | {"word_starts": WORD_STARTS}
    seed = tf.constant([1, 2])
    dropped = model(inputs, training=True, dropout_seed=seed)
    assert np.abs(dropped - model(inputs)).max() > 1e-3
    np.testing.assert_array_equal(dropped, model(inputs, training=True, dropout_seed=seed))


def test_the_span_labelers_head_is_that_of_run_squad(tiny_config, make_inputs, tmp_path):
    model = BertSpanLabeler(tiny_config)
    own = {name for name in variables_by_name(model) if not name.startswith("bert/")}
    assert own == {"cls/squad/output_weights", "cls/squad/output_bias"}
    model.cls.squad.output_bias.assign([0.25, -2.0])
    inputs = make_inputs(tiny_config)
    encoded = model.bert(inputs)["sequence_output"].numpy().astype(np.float64)
    expected = encoded @ model.cls.squad.output_weights.numpy().T + [0.25, -2.0]
    np.testing.assert_allclose(model(inputs), expected, rtol=1e-5, atol=1e-5)

    mixed = BertSpanLabeler(tiny_config, dtype="mixed_bfloat16")
    assert mixed(inputs).dtype == tf.float32
    mixed.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is BertSpanLabeler
    np.testing.assert_array_equal(loaded(inputs), mixed(inputs))


def choices_of(inputs, batch_size):
    """Rows as examples of several choices each."""
    return {
        name: inputs[name].reshape(batch_size, -1, inputs[name].shape[1])
        for name in ("input_ids", "input_mask", "segment_ids")
    }


@pytest.mark.parametrize("training", [False, True])
def test_choices_score_as_rows_of_a_classifier_with_one_label(tiny_config, make_inputs, training):
    model = BertMultipleChoice(tiny_config, dropout_prob=0.35)
    classifier = BertClassifier(tiny_config, 1, dropout_prob=0.35)
    assert variables_by_name(model).keys() == variables_by_name(classifier).keys()
    model.output_bias.assign([0.5])
    classifier.set_weights(model.get_weights())
    rows = make_inputs(tiny_config, batch_size=10)
    choices = choices_of(rows, 2)
    arguments = {"training": training, "dropout_seed": tf.constant([3, 4])}
    logits = model(choices, **arguments)
    assert logits.shape == (2, 5)
    np.testing.assert_allclose(
        logits, tf.reshape(classifier(rows, **arguments), [2, 5]), rtol=0, atol=1e-6
    )
    assert (np.abs(logits - model(choices)).max() > 1e-3) == training


def test_a_choice_that_an_example_lacks_has_no_part(tiny_config, make_inputs):
    model = BertMultipleChoice(tiny_config)
    choices = choices_of(make_inputs(tiny_config, batch_size=10), 2)
    choices = {name: value.copy() for name, value in choices.items()}
    for value in choices.values():
        value[1, 3:] = 0
    labels = tf.constant([4, 2])

    def gradients(batches):
        with tf.GradientTape() as tape:
            loss = sum(single_label_loss(model(x), y).total for x, y in batches)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    probabilities = tf.nn.softmax(model(choices)).numpy()
    assert probabilities[1, 3:].tolist() == [0, 0]
    alone = [
        {name: value[i : i + 1, :n] for name, value in choices.items()} for i, n in ((0, 5), (1, 3))
    ]
    np.testing.assert_allclose(
        probabilities[1, :3], tf.nn.softmax(model(alone[1]))[0], rtol=0, atol=1e-6
    )
    together = gradients([(choices, labels)])
    apart = gradients([(alone[0], labels[:1]), (alone[1], labels[1:])])
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_allclose(
            tf.convert_to_tensor(one), tf.convert_to_tensor(other), rtol=0, atol=1e-4
        )


def test_multiple_choice_under_mixed_bfloat16_and_through_keras(tiny_config, make_inputs, tmp_path):
    model = BertMultipleChoice(tiny_config, dropout_prob=0.35, dtype="mixed_bfloat16")
    choices = choices_of(make_inputs(tiny_config, batch_size=10), 2)
    assert model(choices).dtype == tf.float32
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is BertMultipleChoice
    assert loaded.dropout_prob == 0.35
    np.testing.assert_array_equal(loaded(choices), model(choices))
    with pytest.raises(InputError, match=r"\[batch_size, choices, length\], but has \(2, 7\)"):
        model({"input_ids": choices["input_ids"][:, 0]})


@pytest.mark.parametrize("how", ["mean", "max", "attention"])
def test_windows_are_pooled_to_one_vector(tiny_config, make_inputs, tmp_path, how):
    model = BertClassifier(tiny_config, 3, window_pooling=how)
    rows = make_inputs(tiny_config, batch_size=10)
    texts = {name: value.copy() for name, value in choices_of(rows, 2).items()}
    for value in texts.values():
        value[1, 3:] = 0  # a text of three windows
    vectors = model.bert(rows)["pooled_output"].numpy().astype(np.float64).reshape(2, 5, -1)
    if how == "attention":
        attention = model.window_pooling.attention
        attention.output_weights.assign(attention.output_weights * 50)
        names = {name for name in variables_by_name(model) if name.startswith("window_pooling")}
        assert names == {
            "window_pooling/attention/output_weights",
            "window_pooling/attention/output_bias",
        }
    expected = []
    for windows in (vectors[0], vectors[1, :3]):
        if how == "max":
            pooled = windows.max(axis=0)
        else:
            scores = np.zeros(len(windows))
            if how == "attention":
                scores = windows @ attention.output_weights.numpy()[0]
                assert np.ptp(scores) > 0.1
            weights = np.exp(scores) / np.exp(scores).sum()
            pooled = weights @ windows
        expected.append(pooled @ model.output_weights.numpy().T)
    np.testing.assert_allclose(model(texts), expected, rtol=0, atol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(texts), model(texts))


def test_ways_to_pool_are_known(tiny_config):
    with pytest.raises(InputError, match="must be one of mean, max, attention, but is 'sum'"):
        BertClassifier(tiny_config, 3, window_pooling="sum")
    with pytest.raises(InputError, match=r"\[batch_size, windows, length\]"):
        BertClassifier(tiny_config, 3, window_pooling="max")({"input_ids": np.ones((2, 3), int)})

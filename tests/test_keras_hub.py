"""Tests of bert_tf.interop.keras_hub: presets that keras-hub reads, and presets that it wrote."""

import json

import numpy as np
import pytest
import scipy.special
from original_folders import (
    CONFIG,
    ENCODER,
    INPUTS,
    NUM_LABELS,
    PIECES,
    POSITIONS,
    PRETRAINING,
    assert_close,
    assert_same_bits,
    classify,
    encode,
    make_folder,
    read,
)
from small_models import TEXTS, make_run

from bert_tf import Predictor
from bert_tf.config import BertConfig
from bert_tf.errors import InputError
from bert_tf.heads import BertClassifier
from bert_tf.interop.conversion import convert
from bert_tf.interop.keras_hub import NAMES
from bert_tf.interop.weights import PARTS, expand

SIZES = {
    "vocabulary_size": CONFIG.vocab_size,
    "num_layers": CONFIG.num_hidden_layers,
    "num_heads": CONFIG.num_attention_heads,
    "hidden_dim": CONFIG.hidden_size,
    "intermediate_dim": CONFIG.intermediate_size,
    "max_sequence_length": CONFIG.max_position_embeddings,
    "num_segments": CONFIG.type_vocab_size,
    "dropout": 0.2,
}
THEIR_INPUTS = {
    "token_ids": INPUTS["input_ids"],
    "padding_mask": INPUTS["input_mask"],
    "segment_ids": INPUTS["segment_ids"],
}


@pytest.fixture(scope="module")
def models():
    import keras_hub

    return keras_hub.models


def make_preset(models, folder, kind="BertBackbone", dtype=None, tokenizer=None, **task):
    """A preset as keras-hub writes it, with random weights."""
    backbone = models.BertBackbone(**SIZES, dtype=dtype)
    pieces = models.BertTokenizer(PIECES, **(tokenizer or {"lowercase": True}))
    model = backbone
    if kind != "BertBackbone":
        preprocessor = getattr(models, f"{kind}Preprocessor")(pieces, sequence_length=17)
        model = getattr(models, kind)(backbone, preprocessor=preprocessor, **task)
    random = np.random.default_rng(3)
    for variable in model.weights:
        variable.assign(random.normal(0, 0.4, variable.shape))
    model.save_to_preset(str(folder))
    if model is backbone:
        pieces.save_to_preset(str(folder))
    return model


def change(path, *keys, value):
    """Sets a value in a JSON file."""
    values = json.loads(path.read_text())
    at = values
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    path.write_text(json.dumps(values))


# --- out ----------------------------------------------------------------------------------------


def test_an_encoder_goes_out_and_comes_back(tmp_path, models):
    source = make_folder(tmp_path / "uncased_L-3")
    result = convert(source, tmp_path / "preset", "keras_hub")
    assert result.remarks == ()
    backbone = models.BertBackbone.from_preset(str(tmp_path / "preset"))
    outputs = backbone(THEIR_INPUTS)
    ours = encode(source)
    assert_close(outputs["sequence_output"], ours["sequence_output"])
    assert_close(outputs["pooled_output"], ours["pooled_output"])
    assert backbone.dropout == 0.2
    tokenizer = models.BertTokenizer.from_preset(str(tmp_path / "preset"))
    assert tokenizer.get_vocabulary() == PIECES
    assert list(tokenizer("B É")) == [6, 9]  # in lower case, without the accent

    back = convert(tmp_path / "preset", tmp_path / "uncased_L-3_back")
    assert_same_bits(source, back.target)
    assert back.config == CONFIG
    assert (back.target / "vocab.txt").read_bytes() == (source / "vocab.txt").read_bytes()
    assert "found a preset of keras-hub (BertBackbone)" in str(back)
    assert back.remarks == ()


def test_a_classifier_goes_out_and_comes_back(tmp_path, models):
    labels = [f"label {i}" for i in range(NUM_LABELS)]
    source = make_folder(
        tmp_path / "run",
        (*ENCODER, "classifier"),
        labels=labels,
        command="run_classifier",
        do_lower_case=False,
    )
    result = convert(source, tmp_path / "preset", "keras_hub")
    assert result.remarks == (
        "the labels' names have no place there: label 0, label 1, label 2, label 3, label 4, "
        "label 5 and 1 more",
    )
    classifier = models.BertTextClassifier.from_preset(str(tmp_path / "preset"), preprocessor=None)
    assert classifier.num_classes == NUM_LABELS
    assert_close(classifier(THEIR_INPUTS), classify(source))
    back = convert(tmp_path / "preset", tmp_path / "back")
    assert_same_bits(source, back.target)
    assert back.model.tokenizer.do_lower_case is False
    assert "no names for the 7 labels; put a labels.txt there" in str(back)


def test_a_masked_lm_goes_out_and_comes_back(tmp_path, models):
    """The logits are those of the same weights, with what keras-hub's head does otherwise."""
    source = make_folder(tmp_path / "uncased_L-3", PRETRAINING)
    result = convert(source, tmp_path / "preset", "keras_hub")
    assert "2 weights that keras-hub has no place for: cls/seq_relationship/output_weights" in str(
        result
    )
    assert "the masked-LM logits differ a little" in str(result)
    model = models.BertMaskedLM.from_preset(str(tmp_path / "preset"), preprocessor=None)
    found = model({**THEIR_INPUTS, "mask_positions": POSITIONS})

    weights = {name: value.astype(np.float64) for name, value in read(source).items()}
    x = np.take_along_axis(
        np.asarray(encode(source)["sequence_output"]).reshape(2, 5, -1),
        POSITIONS[..., np.newaxis],
        axis=1,
    )
    scope = "cls/predictions/transform"
    x = x @ weights[f"{scope}/dense/kernel"] + weights[f"{scope}/dense/bias"]
    x = 0.5 * x * (1 + scipy.special.erf(x / np.sqrt(2)))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = x * weights[f"{scope}/LayerNorm/gamma"] + weights[f"{scope}/LayerNorm/beta"]
    wanted = x @ weights["bert/embeddings/word_embeddings"].T
    assert_close(found, wanted + weights["cls/predictions/output_bias"])

    back = convert(tmp_path / "preset", tmp_path / "uncased_L-3_back")
    next_sentence = {weight.name for weight in PARTS["next_sentence"]}
    assert_same_bits(source, back.target, set(read(source)) - next_sentence)
    assert back.model.heads == ("masked_lm",)
    assert "the masked-LM logits differ a little" in str(back)


def test_other_heads_are_named(tmp_path, models):
    source = make_folder(
        tmp_path / "run", (*ENCODER, "classifier"), command="run_tagger", do_lower_case=True
    )
    result = convert(source, tmp_path / "preset", "keras_hub")
    assert result.remarks == (
        "2 weights that keras-hub has no place for: output_weights, output_bias",
    )
    assert not (tmp_path / "preset" / "task.json").exists()


def test_settings_of_training_that_it_cannot_hold_are_named(tmp_path, models):
    config = BertConfig.from_dict(
        CONFIG.to_dict() | {"attention_probs_dropout_prob": 0.3, "initializer_range": 0.05}
    )
    source = make_folder(tmp_path / "uncased_L-3", config=config)
    result = convert(source, tmp_path / "preset", "keras_hub")
    assert result.remarks == (
        "attention_probs_dropout_prob is 0.2 there, not 0.3; it is for training",
        "initializer_range is 0.02 there, not 0.05; it is for training",
    )


@pytest.mark.parametrize("activation", ["gelu_erf", "relu"])
def test_another_activation_is_refused(tmp_path, activation):
    config = BertConfig.from_dict(CONFIG.to_dict() | {"hidden_act": activation})
    source = make_folder(tmp_path / "uncased_L-3", config=config)
    with pytest.raises(InputError, match=rf"the activation is {activation}, but keras-hub's BERT"):
        convert(source, tmp_path / "preset", "keras_hub")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["uncased_L-3"]


def test_an_activation_may_be_asked_for(tmp_path, models):
    config = BertConfig.from_dict(CONFIG.to_dict() | {"hidden_act": "gelu_erf"})
    source = make_folder(tmp_path / "uncased_L-3", config=config)
    result = convert(source, tmp_path / "preset", "keras_hub", hidden_act="gelu")
    assert "hidden_act is gelu, as asked for; the source has gelu_erf" in str(result)


def test_what_its_classes_cannot_do_without(tmp_path):
    source = make_folder(tmp_path / "uncased_L-3", ("embeddings", "layer"))
    with pytest.raises(InputError, match=r"has no pooler .*, but keras-hub's BertBackbone always"):
        convert(source, tmp_path / "preset", "keras_hub")
    source = make_folder(tmp_path / "model")
    with pytest.raises(InputError, match="nothing there says whether the model lower-cases"):
        convert(source, tmp_path / "preset", "keras_hub")
    (source / "vocab.txt").write_text("".join(f"{p}\n" for p in [*PIECES[:4], "y", *PIECES[5:]]))
    with pytest.raises(InputError, match=r"vocab\.txt: has no piece \[MASK\]"):
        convert(source, tmp_path / "preset", "keras_hub", do_lower_case=True)


# --- in -----------------------------------------------------------------------------------------


def test_a_preset_of_keras_hub_computes_the_same_here(tmp_path, models):
    backbone = make_preset(models, tmp_path / "preset")
    result = convert(tmp_path / "preset", tmp_path / "model")
    outputs, ours = backbone(THEIR_INPUTS), encode(result.target)
    assert_close(ours["sequence_output"], outputs["sequence_output"])
    assert_close(ours["pooled_output"], outputs["pooled_output"])
    assert result.config == CONFIG
    assert result.remarks == (
        "keras-hub's tokenizer has lowercase=True and strip_accents=False; the original's strips "
        "accents where it lower-cases and not otherwise, so words with accents become other pieces",
    )
    assert "--do_lower_case=true" in str(result)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_a_classifier_of_keras_hub(tmp_path, models, activation):
    task = {"num_classes": 7, "activation": activation}
    classifier = make_preset(models, tmp_path / "preset", "BertTextClassifier", **task)
    result = convert(tmp_path / "preset", tmp_path / "model")
    logits = np.asarray(classify(result.target))
    wanted = scipy.special.softmax(logits, -1) if activation else logits
    assert_close(wanted, classifier(THEIR_INPUTS))
    assert ("the classifier's softmax is not part of the model" in str(result)) == bool(activation)


def test_half_precision_becomes_float32(tmp_path, models):
    backbone = make_preset(models, tmp_path / "preset", dtype="bfloat16")
    result = convert(tmp_path / "preset", tmp_path / "model")
    found = read(result.target)["bert/embeddings/word_embeddings"]
    wanted = np.asarray(backbone.token_embedding.embeddings.value).astype(np.float32)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)


def test_each_weight_has_a_name_there():
    rows = expand([*ENCODER, "masked_lm", "classifier"], 3)
    assert len({NAMES[row.name] for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("file", "keys", "value", "message"),
    [
        ("config.json", ("class_name",), "RobertaBackbone", "is of the class .*RobertaBackbone"),
        ("config.json", ("module",), "os", r"is of the class os\.BertBackbone"),
        ("config.json", ("registered_name",), "other>X", "is of the class"),
        ("config.json", ("config", "num_heads"), 5, "not a multiple of num_attention_heads 5"),
        ("config.json", ("config", "dtype"), "int8", "dtype is 'int8'; only float32"),
        (
            "config.json",
            ("config", "dtype"),
            {"class_name": "QuantizedDTypePolicy", "config": {"name": "float32"}},
            "no quantized weights",
        ),
        ("config.json", ("config", "num_layers"), 4, "its backbone is of other sizes than that of"),
        ("task.json", ("config", "backbone"), None, "its backbone is of other sizes than that of"),
        ("tokenizer.json", ("config", "suffix_indicator"), "@@", "suffix_indicator is '@@'"),
        ("tokenizer.json", ("config", "split"), False, "split is False"),
        ("tokenizer.json", ("class_name",), "BytePairTokenizer", "is of the class"),
        ("task.json", ("config", "activation"), "sigmoid", "activation is 'sigmoid'"),
    ],
)
def test_other_presets_are_refused(tmp_path, preset, file, keys, value, message):
    change(preset / file, *keys, value=value)
    with pytest.raises(InputError, match=message):
        convert(preset, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.fixture(scope="module")
def classifier_files(tmp_path_factory, models):
    folder = tmp_path_factory.mktemp("presets") / "preset"
    make_preset(models, folder, "BertTextClassifier", num_classes=7)
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.fixture
def preset(tmp_path, classifier_files):
    """A classifier's preset, to be changed."""
    for path, content in classifier_files.items():
        (tmp_path / "preset" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "preset" / path).write_bytes(content)
    return tmp_path / "preset"


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_layers", 4), ("num_layers", 2), ("intermediate_dim", 21), ("num_heads", 3)],
)
def test_weights_of_other_sizes_are_refused(tmp_path, preset, key, value):
    (preset / "task.json").unlink()
    change(preset / "config.json", "config", key, value=value)
    message = "have 55, but .* has 39" if value == 2 else "keras-hub cannot read the preset"
    with pytest.raises(InputError, match=f"preset: .*{message}"):
        convert(preset, tmp_path / "model")


def test_a_key_that_is_missing(tmp_path, preset):
    values = json.loads((preset / "config.json").read_text())
    del values["config"]["num_segments"]
    (preset / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"config\.json: the key 'num_segments' of config"):
        convert(preset, tmp_path / "model")


def test_damaged_files(tmp_path, preset):
    weights = preset / "model.weights.h5"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="preset: keras-hub cannot read the preset"):
        convert(preset, tmp_path / "model")
    weights.unlink()
    with pytest.raises(InputError, match="preset: keras-hub cannot read the preset"):
        convert(preset, tmp_path / "model")
    weights.write_bytes(content)
    (preset / "assets" / "tokenizer" / "vocabulary.txt").unlink()
    with pytest.raises(InputError, match=r"vocabulary\.txt: cannot read"):
        convert(preset, tmp_path / "model")


def test_a_head_without_its_weights(tmp_path, preset):
    """keras-hub would give it new ones."""
    (preset / "task.weights.h5").unlink()
    with pytest.raises(InputError, match=r"there is no task\.weights\.h5"):
        convert(preset, tmp_path / "model")
    (preset / "task.json").unlink()
    assert convert(preset, tmp_path / "model").model.heads == ()


@pytest.mark.parametrize(("task_type", "num_labels"), [("multi_label", 3), ("regression", 1)])
def test_a_task_type_is_given_on_the_way_back(tmp_path, models, task_type, num_labels):
    labels = ("schön", "so so", "bad") if num_labels > 1 else ()
    settings = {"max_seq_length": 41, "do_lower_case": True, "task_type": task_type}
    run = make_run(
        tmp_path / "run",
        lambda config: BertClassifier(config, num_labels),
        "run_classifier",
        settings,
        labels,
    )
    there = convert(run, tmp_path / "there", "keras_hub")
    assert f"--task_type={task_type} has no place there; give it on the way" in str(there)
    back = convert(there.target, tmp_path / "back", task_type=task_type)
    assert "task type" not in str(back)
    assert ("no names for the 3 labels" in str(back)) == (num_labels == 3)
    if labels:
        (back.target / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    wanted, found = (Predictor.load(folder).predict(TEXTS) for folder in (run, back.target))
    assert found == wanted

    assumed = "single_label" if num_labels > 1 else "regression"
    back = convert(there.target, tmp_path / "assumed")
    assert f"nothing says the task type of the classifier; taken for {assumed}, with" in str(back)
    if num_labels > 1:
        with pytest.raises(InputError, match=r"a regression has one output here, but .* has 3"):
            convert(there.target, tmp_path / "other", task_type="regression")
    else:
        assert Predictor.load(back.target).predict(TEXTS) == wanted

"""Tests of bert_tf.interop.model_garden: against Model Garden's own classes and converter."""

import types

import numpy as np
import pytest
import tensorflow as tf
import yaml
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
    encode,
    make_folder,
    pretrain,
    read,
)

from bert_tf.config import BertConfig
from bert_tf.errors import InputError
from bert_tf.interop.conversion import convert
from bert_tf.interop.model_garden import ACTIVATIONS, NAMES
from bert_tf.interop.weights import expand

# Its functional BertEncoder says so of the positions that its own pretraining model gives it.
pytestmark = pytest.mark.filterwarnings("ignore:Input dict contained keys:UserWarning")

THEIR_INPUTS = {
    "input_word_ids": INPUTS["input_ids"],
    "input_mask": INPUTS["input_mask"],
    "input_type_ids": INPUTS["segment_ids"],
    "masked_lm_positions": POSITIONS,
}


@pytest.fixture(scope="module")
def garden():
    """Model Garden's modules; importing them takes seconds."""
    from official.legacy.bert import configs
    from official.modeling import tf_utils
    from official.nlp.configs import encoders
    from official.nlp.modeling import layers, models, networks
    from official.nlp.tools import tf2_bert_encoder_checkpoint_converter as converter

    return types.SimpleNamespace(
        configs=configs,
        converter=converter,
        encoders=encoders,
        layers=layers,
        models=models,
        networks=networks,
        get_activation=tf_utils.get_activation,
    )


def make_encoder(garden, kind, activation="gelu"):
    encoder = getattr(garden.networks, kind)(
        vocab_size=CONFIG.vocab_size,
        hidden_size=CONFIG.hidden_size,
        num_layers=CONFIG.num_hidden_layers,
        num_attention_heads=CONFIG.num_attention_heads,
        max_sequence_length=CONFIG.max_position_embeddings,
        type_vocab_size=CONFIG.type_vocab_size,
        intermediate_size=CONFIG.intermediate_size,
        activation=garden.get_activation(activation),
        dict_outputs=True,
    )
    encoder(encoder.inputs)  # makes its variables
    return encoder


def make_pretrainer(garden, kind="BertEncoderV2"):
    head = garden.layers.ClassificationHead(CONFIG.hidden_size, 2, name="next_sentence")
    model = garden.models.BertPretrainerV2(
        make_encoder(garden, kind),
        mlm_activation=garden.get_activation("gelu"),
        classification_heads=[head],
    )
    model(THEIR_INPUTS)
    return model


def randomize(model):
    random = np.random.default_rng(3)
    for variable in model.variables:
        variable.assign(random.normal(0, 0.4, variable.shape))


def make_their_folder(folder, name="bert_model.ckpt", **items):
    """A folder with a checkpoint of Model Garden's objects."""
    folder.mkdir(exist_ok=True)
    tf.train.Checkpoint(**items).write(str(folder / name))
    (folder / "bert_config.json").write_text(CONFIG.to_json_string())
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    return folder


# --- out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["BertEncoder", "BertEncoderV2"])
def test_its_encoders_read_what_is_written(tmp_path, garden, kind):
    source = make_folder(tmp_path / "uncased_L-3")
    result = convert(source, tmp_path / "theirs", "model_garden")
    assert sorted(path.name for path in result.target.iterdir()) == [
        "bert_config.json",
        "bert_model.ckpt.data-00000-of-00001",
        "bert_model.ckpt.index",
        "vocab.txt",
    ]
    assert result.remarks == ()
    encoder = make_encoder(garden, kind)
    status = tf.train.Checkpoint(encoder=encoder).read(str(result.target / "bert_model.ckpt"))
    status.assert_existing_objects_matched().assert_consumed()
    outputs, wanted = encoder(THEIR_INPUTS), encode(source)
    sequence = np.asarray(outputs["sequence_output"])
    padding = INPUTS["input_mask"][..., np.newaxis]
    assert_close(sequence * padding, np.reshape(wanted["sequence_output"], (2, 5, -1)) * padding)
    assert_close(outputs["pooled_output"], wanted["pooled_output"])


def test_its_pretraining_model_reads_what_is_written(tmp_path, garden):
    source = make_folder(tmp_path / "uncased_L-3", PRETRAINING)
    result = convert(source, tmp_path / "theirs", "model_garden")
    wanted = pretrain(source)
    prefix = str(result.target / "bert_model.ckpt")
    for both in (True, False):  # as its trainer does, and as its tasks start from a checkpoint
        model = make_pretrainer(garden)
        items = {"model": model, **model.checkpoint_items} if both else model.checkpoint_items
        status = tf.train.Checkpoint(**items).read(prefix)
        status.expect_partial().assert_existing_objects_matched()
        outputs = model(THEIR_INPUTS)
        assert_close(outputs["mlm_logits"], wanted["masked_lm_logits"], atol=1e-4)
        if both:
            assert_close(outputs["next_sentence"], wanted["next_sentence_logits"])


def test_its_classifier_starts_from_the_pooler(tmp_path, garden):
    source = make_folder(tmp_path / "uncased_L-3", PRETRAINING)
    folder = convert(source, tmp_path / "theirs", "model_garden").target
    dense = tf.train.Checkpoint(kernel=tf.Variable(tf.zeros([12, 12])))
    tf.train.Checkpoint(**{"next_sentence.pooler_dense": dense}).read(
        str(folder / "bert_model.ckpt")
    ).expect_partial().assert_existing_objects_matched()
    np.testing.assert_array_equal(dense.kernel, read(source)["bert/pooler/dense/kernel"])


@pytest.mark.parametrize(
    "parts", [ENCODER, PRETRAINING, (*ENCODER, "masked_lm")], ids=["encoder", "both", "masked_lm"]
)
def test_there_and_back(tmp_path, parts):
    source = make_folder(tmp_path / "uncased_L-3", parts)
    result = convert(source, tmp_path / "uncased_L-3_theirs", "model_garden")
    assert result.remarks == ()
    back = convert(result.target, tmp_path / "uncased_L-3_back")
    assert back.remarks == ()
    assert_same_bits(source, back.target)
    assert back.config == CONFIG
    assert (back.target / "vocab.txt").read_bytes() == (source / "vocab.txt").read_bytes()
    assert back.model.tokenizer.do_lower_case is True  # the folder's name says it
    assert "found a checkpoint of TensorFlow Model Garden (bert_model.ckpt)" in str(back)


def test_other_heads_are_named(tmp_path):
    labels = [f"label {i}" for i in range(NUM_LABELS)]
    source = make_folder(
        tmp_path / "uncased_L-3", (*ENCODER, "next_sentence", "classifier"), labels=labels
    )
    result = convert(source, tmp_path / "theirs", "model_garden")
    assert result.remarks == (
        "4 weights that Model Garden has no place for: cls/seq_relationship/output_weights, "
        "cls/seq_relationship/output_bias, output_weights, output_bias",
        "the labels' names have no place there: label 0, label 1, label 2, label 3, label 4, "
        "label 5 and 1 more",
    )
    assert "use it with --do_lower_case=true" in str(result)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_the_same(tmp_path, garden, activation):
    config = BertConfig.from_dict(CONFIG.to_dict() | {"hidden_act": activation})
    source = make_folder(tmp_path / "uncased_L-3", config=config)
    folder = convert(source, tmp_path / "theirs", "model_garden").target
    encoder = make_encoder(garden, "BertEncoderV2", activation)
    tf.train.Checkpoint(encoder=encoder).read(str(folder / "bert_model.ckpt")).assert_consumed()
    wanted = encode(source)["pooled_output"]
    assert_close(encoder(THEIR_INPUTS)["pooled_output"], wanted, atol=1e-4)
    assert convert(folder, tmp_path / "uncased_L-3_back").config == config


def test_what_it_cannot_hold_is_refused(tmp_path):
    config = BertConfig.from_dict(CONFIG.to_dict() | {"hidden_act": "gelu_erf"})
    source = make_folder(tmp_path / "uncased_L-3", config=config)
    with pytest.raises(InputError, match="the activation is gelu_erf, but Model Garden has gelu,"):
        convert(source, tmp_path / "theirs", "model_garden")
    source = make_folder(tmp_path / "uncased_L-3_b", ("embeddings", "layer", "masked_lm"))
    with pytest.raises(InputError, match=r"has no pooler .* but Model Garden's BertEncoder always"):
        convert(source, tmp_path / "theirs", "model_garden")
    assert not (tmp_path / "theirs").exists()


# --- in -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name"), [("encoder", "encoder"), ("pretrainer", "encoder"), ("pretrainer", "model")]
)
def test_what_its_own_converter_writes(tmp_path, garden, kind, name):
    """A checkpoint of the original, by its converter there and by ours back, bit for bit."""
    parts = ENCODER if kind == "encoder" else (*ENCODER, "masked_lm")
    source = make_folder(tmp_path / "uncased_L-3", parts)
    folder = tmp_path / "uncased_L-3_theirs"
    folder.mkdir()
    garden.converter.convert_checkpoint(
        garden.configs.BertConfig.from_json_file(str(source / "bert_config.json")),
        str(folder / "bert_model.ckpt"),
        str(source / "bert_model.ckpt"),
        checkpoint_model_name=name,
        converted_model=kind,
    )
    assert (folder / "bert_model.ckpt-1.index").exists()
    for file in ("bert_config.json", "vocab.txt"):
        (folder / file).write_bytes((source / file).read_bytes())
    result = convert(folder, tmp_path / "uncased_L-3_back")
    assert_same_bits(source, result.target)
    assert result.model.heads == (() if kind == "encoder" else ("masked_lm",))
    assert result.remarks == (
        "1 of the training's tensors not used: save_counter/.ATTRIBUTES/VARIABLE_VALUE",
    )


def test_what_its_trainer_writes(tmp_path, garden):
    """The head's own dense layer, and not the encoder's pooler, is what it trained."""
    model = make_pretrainer(garden, "BertEncoder")
    randomize(model)
    folder = make_their_folder(
        tmp_path / "theirs",
        "ckpt-7",
        model=model,
        global_step=tf.Variable(7),
        other=tf.train.Checkpoint(thing=tf.Variable(1.0)),
        **model.checkpoint_items,
    )
    result = convert(folder, tmp_path / "ours")
    assert result.model.heads == ("masked_lm", "next_sentence")
    remarks = "\n".join(result.remarks)
    assert "the pooler is next_sentence.pooler_dense, with which its next-sentence" in remarks
    assert "1 of the training's tensors not used: global_step" in remarks
    assert "1 tensors not used: other/thing" in remarks
    outputs, ours = model(THEIR_INPUTS), pretrain(result.target)
    assert_close(ours["masked_lm_logits"], outputs["mlm_logits"], atol=1e-4)
    assert_close(ours["next_sentence_logits"], outputs["next_sentence"])


@pytest.mark.parametrize(
    ("kind", "item"),
    [("BertEncoder", "model"), ("BertEncoderV2", "encoder"), ("BertEncoderV2", "")],
)
def test_an_encoder_under_any_item(tmp_path, garden, kind, item):
    encoder = make_encoder(garden, kind)
    randomize(encoder)
    folder = make_their_folder(tmp_path / "theirs", **{item or "encoder": encoder})
    if not item:
        tf.train.Checkpoint(encoder).write(str(folder / "bert_model.ckpt"))
    result = convert(folder, tmp_path / "ours")
    assert_close(
        encode(result.target)["pooled_output"], encoder(THEIR_INPUTS)["pooled_output"], atol=5e-5
    )
    assert result.remarks == ()
    assert "does not say whether to lower-case" in str(result)


def test_the_settings_of_its_trainer(tmp_path, garden):
    """params.yaml, where there is no bert_config.json."""
    bert = garden.encoders.BertEncoderConfig(
        vocab_size=29,
        hidden_size=12,
        num_layers=3,
        num_attention_heads=2,
        intermediate_size=20,
        max_position_embeddings=17,
        type_vocab_size=5,
        dropout_rate=0.2,
        attention_dropout_rate=0.2,
    )
    settings = garden.encoders.EncoderConfig(type="bert", bert=bert).as_dict()
    source = make_folder(tmp_path / "uncased_L-3")
    folder = convert(source, tmp_path / "theirs", "model_garden").target
    (folder / "bert_config.json").unlink()
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump({"task": {"model": {"encoder": settings}}}))
    assert convert(folder, tmp_path / "ours").config == CONFIG

    for keys, value, message in (
        (("encoder", "type"), "albert", r"expected task\.model\.encoder with a type"),
        (("encoder", "bert", "norm_first"), True, "norm_first is True; .* has False or None"),
        (("encoder", "bert", "output_range"), 1, "output_range is 1"),
        (("encoder", "bert", "embedding_size"), 6, "embedding_size is 6, but hidden_size is 12"),
        (("encoder", "bert", "hidden_activation"), "swish", "activation is 'swish'"),
        (("mlm_activation",), "relu", "mlm_activation is 'relu'"),
    ):
        values = yaml.safe_load(yaml.safe_dump({"task": {"model": {"encoder": settings}}}))
        at = values["task"]["model"]
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value
        path.write_text(yaml.safe_dump(values))
        with pytest.raises(InputError, match=rf"params\.yaml: .*{message}"):
            convert(folder, tmp_path / "other")
    path.unlink()
    with pytest.raises(InputError, match=r"has neither bert_config\.json nor params\.yaml"):
        convert(folder, tmp_path / "other")


def test_keys_that_its_own_configuration_has(tmp_path, garden):
    source = make_folder(tmp_path / "uncased_L-3")
    folder = convert(source, tmp_path / "theirs", "model_garden").target
    path = folder / "bert_config.json"
    path.write_text(garden.configs.BertConfig.from_json_file(str(path)).to_json_string())
    assert "backward_compatible" in path.read_text()
    assert convert(folder, tmp_path / "ours").config == CONFIG
    path.write_text(path.read_text().replace('"embedding_size": null', '"embedding_size": 6'))
    with pytest.raises(InputError, match=r"json: embedding_size is 6, but hidden_size is 12"):
        convert(folder, tmp_path / "other")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_hidden_layers": 2}, "there are 3 layers, but num_hidden_layers is 2"),
        ({"num_hidden_layers": 4}, "16 tensors are missing: encoder/_transformer_layers/3/_att"),
        ({"num_attention_heads": 3}, r"_query_dense/kernel is \[12, 2, 6\], .* \[12, 3, 4\]"),
        ({"intermediate_size": 21}, r"_intermediate_dense/kernel is \[12, 20\], but"),
        ({"vocab_size": 30}, r"_embedding_layer/embeddings is \[29, 12\], but"),
    ],
)
def test_weights_of_another_configuration(tmp_path, config, message):
    source = make_folder(tmp_path / "uncased_L-3")
    folder = convert(source, tmp_path / "theirs", "model_garden").target
    changed = BertConfig.from_dict(CONFIG.to_dict() | config)
    (folder / "bert_config.json").write_text(changed.to_json_string())
    with pytest.raises(InputError, match=message):
        convert(folder, tmp_path / "ours")


def test_other_objects_are_refused(tmp_path):
    folder = make_their_folder(tmp_path / "theirs", thing=tf.Variable(1.0))
    with pytest.raises(InputError, match="not one of Model Garden's BertEncoder"):
        convert(folder, tmp_path / "ours")


def test_damaged_files(tmp_path):
    source = make_folder(tmp_path / "uncased_L-3")
    folder = convert(source, tmp_path / "theirs", "model_garden").target
    data = folder / "bert_model.ckpt.data-00000-of-00001"
    content = data.read_bytes()
    data.write_bytes(content[:-1000])
    with pytest.raises(InputError, match=r"bert_model\.ckpt\.data.*cannot read it; .* damaged"):
        convert(folder, tmp_path / "ours")
    data.unlink()
    with pytest.raises(InputError, match=r"bert_model\.ckpt"):
        convert(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_each_weight_has_a_name_there():
    rows = expand(PRETRAINING, 3)
    assert len({NAMES[row.name] for row in rows}) == len(rows)

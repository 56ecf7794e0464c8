"""Tests of BertConfig: the original's JSON, strictly."""

import dataclasses
import json

import pytest

from bert_tf.config import BertConfig
from bert_tf.errors import InputError


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_reads_the_original_file_and_writes_it_again(testdata):
    path = testdata / "original_tiny" / "bert_config.json"
    config = BertConfig.from_json_file(path)
    assert dataclasses.asdict(config) == json.loads(path.read_text())
    assert config.to_json_string().strip() == path.read_text().strip()
    assert BertConfig.from_dict(config.to_dict()) == config


def test_defaults_are_the_original_constructor():
    assert BertConfig(vocab_size=11).to_dict() == {
        "vocab_size": 11,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512,
        "type_vocab_size": 16,
        "initializer_range": 0.02,
    }


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BertConfig(vocab_size=11).hidden_size = 5


def test_keys_that_no_code_reads_are_accepted_by_name():
    extra = {"directionality": "bidi", "pooler_fc_size": 768, "pooler_type": "first_token"}
    assert BertConfig.from_dict({"vocab_size": 11, **extra}) == BertConfig(vocab_size=11)


def test_a_whole_number_is_a_float():
    config = BertConfig.from_dict({"vocab_size": 11, "hidden_dropout_prob": 0})
    assert type(config.hidden_dropout_prob) is float
    assert config == BertConfig(vocab_size=11, hidden_dropout_prob=0.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab_size", 11.0),
        ("vocab_size", "11"),
        ("hidden_size", None),
        ("num_hidden_layers", True),
        ("hidden_dropout_prob", "0.1"),
        ("initializer_range", False),
        ("hidden_act", 3),
    ],
)
def test_a_wrong_type_names_key_value_and_source(key, value):
    with pytest.raises(InputError) as error:
        BertConfig.from_dict({"vocab_size": 11, key: value}, source="some/bert_config.json")
    assert "some/bert_config.json" in str(error.value)
    assert key in str(error.value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab_size", 0),
        ("num_hidden_layers", -3),
        ("type_vocab_size", 0),
        ("hidden_dropout_prob", 1.0),
        ("attention_probs_dropout_prob", -0.1),
        ("initializer_range", 0.0),
        ("num_attention_heads", 7),
        ("hidden_act", "gelu_new"),
    ],
)
def test_a_value_out_of_range_names_key_and_value(key, value):
    with pytest.raises(InputError, match=rf"^f: .*{key}.*{value}"):
        BertConfig.from_dict({"vocab_size": 11, key: value}, source="f")


def test_a_dropout_of_zero_and_one_head_are_in_range():
    assert BertConfig(11, num_attention_heads=1, hidden_dropout_prob=0.0).hidden_size == 768


def test_an_unknown_key_is_named():
    with pytest.raises(InputError, match="f: unknown key 'hiden_size'; the keys are vocab_size"):
        BertConfig.from_dict({"vocab_size": 11, "hiden_size": 12}, source="f")


def test_a_missing_vocabulary_size_is_named():
    with pytest.raises(InputError, match="'vocab_size' is missing"):
        BertConfig.from_dict({"hidden_size": 12})


@pytest.mark.parametrize("extra", [{"model_type": "bert"}, {"architectures": ["BertModel"]}])
def test_a_hugging_face_configuration_is_recognised(extra):
    with pytest.raises(InputError, match="convert_checkpoint"):
        BertConfig.from_dict({"vocab_size": 11, **extra})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON file"),
        ("", "not a JSON file"),
        (b"\xff\xfe", "not a JSON file"),
        ("[11]", "expected a JSON object, but found list"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path, text, message):
    path = write(tmp_path / "bert_config.json", text)
    with pytest.raises(InputError, match=message) as error:
        BertConfig.from_json_file(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there_or_a_folder_is_named(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match="cannot read") as error:
            BertConfig.from_json_file(path)
        assert str(path) in str(error.value)

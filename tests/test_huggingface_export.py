"""Tests of bert_tf.interop.huggingface_export: the way back, and equal outputs in transformers."""

import json
import stat

import numpy as np
import pytest
from huggingface_folders import outputs_of
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

from bert_tf.config import HIDDEN_ACTS, BertConfig
from bert_tf.errors import InputError
from bert_tf.interop.conversion import convert
from bert_tf.tokenization import FullTokenizer

# What a folder has, and the command that trained it -> the class, and what that does not use.
CLASSES = {
    "BertModel": (ENCODER, None, 0),
    "BertForPreTraining": (PRETRAINING, None, 0),
    "BertForMaskedLM": (("embeddings", "layer", "masked_lm"), None, 0),
    "BertForNextSentencePrediction": ((*ENCODER, "next_sentence"), None, 0),
    "BertForSequenceClassification": ((*ENCODER, "classifier"), "run_classifier", 0),
    "BertForTokenClassification": ((*ENCODER, "classifier"), "run_tagger", 2),
    "BertForMultipleChoice": ((*ENCODER, "classifier"), "run_multiple_choice", 0),
    "BertForQuestionAnswering": ((*ENCODER, "span"), "run_squad", 2),
}
LABELS = [f"label {i}" for i in range(NUM_LABELS)]


def make(folder, architecture, **arguments):
    parts, command, _ = CLASSES[architecture]
    run = {"command": command, "do_lower_case": True} if command else {}
    if architecture == "BertForMultipleChoice":
        arguments["num_labels"] = 1
    elif "classifier" in parts:
        arguments["labels"] = LABELS
    return make_folder(folder, parts, **arguments, **run)


@pytest.mark.parametrize("architecture", CLASSES)
def test_there_and_back(tmp_path, architecture):
    source = make(tmp_path / "uncased_L-3", architecture)
    result = convert(source, tmp_path / "theirs", "huggingface")
    assert sorted(path.name for path in result.target.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    config = json.loads((result.target / "config.json").read_text())
    assert config["architectures"] == [architecture]
    assert config["hidden_act"] == "gelu_new"
    assert config["pad_token_id"] == 0
    assert json.loads((result.target / "tokenizer_config.json").read_text())["do_lower_case"]
    unused = CLASSES[architecture][2]
    assert len(result.remarks) == bool(unused)
    if unused:
        assert result.remarks[0].startswith(
            f"2 weights in the file that {architecture} does not use: bert/pooler/dense/kernel"
        )

    back = convert(result.target, tmp_path / "uncased_L-3_back")
    assert_same_bits(source, back.target)
    assert back.config == CONFIG
    assert back.model.use == result.model.use
    for name in ("vocab.txt", "labels.txt"):
        assert (source / name).exists() == (back.target / name).exists()
        if (source / name).exists():
            assert (source / name).read_bytes() == (back.target / name).read_bytes()


def ours(folder, architecture):
    """Name of their output -> ours: the encoder's, and the head's by its formula."""
    weights, encoded = read(folder), encode(folder)
    if architecture == "BertModel":
        return {
            "last_hidden_state": encoded["sequence_output"],
            "pooler_output": encoded["pooled_output"],
        }
    if architecture == "BertForQuestionAnswering":
        logits = encoded["sequence_output"] @ weights["cls/squad/output_weights"].T
        logits = np.asarray(logits).reshape(2, 5, 2) + weights["cls/squad/output_bias"]
        return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}
    rows = "sequence_output" if architecture == "BertForTokenClassification" else "pooled_output"
    scope = "cls/seq_relationship/" if architecture == "BertForNextSentencePrediction" else ""
    logits = encoded[rows] @ weights[f"{scope}output_weights"].T
    return {"logits": logits + weights[f"{scope}output_bias"]}


@pytest.mark.parametrize(
    "architecture",
    [name for name in CLASSES if name not in ("BertForPreTraining", "BertForMaskedLM")],
)
def test_transformers_computes_the_same(tmp_path, transformers, architecture):
    source = make(tmp_path / "uncased_L-3", architecture)
    folder = convert(source, tmp_path / "theirs", "huggingface").target
    inputs = INPUTS
    if architecture == "BertForMultipleChoice":  # two choices of one example
        inputs = {name: value[np.newaxis] for name, value in INPUTS.items()}
    outputs, missing, unexpected = outputs_of(transformers, folder, architecture, inputs)
    assert missing == []
    assert len(unexpected) == CLASSES[architecture][2]
    for name, wanted in ours(source, architecture).items():
        found = outputs[name].numpy()
        assert_close(found.reshape(np.shape(wanted)), wanted)


def test_transformers_computes_the_same_at_masked_positions(tmp_path, transformers):
    source = make(tmp_path / "uncased_L-3", "BertForPreTraining")
    folder = convert(source, tmp_path / "theirs", "huggingface").target
    outputs, missing, unexpected = outputs_of(transformers, folder, "BertForPreTraining")
    assert (missing, unexpected) == ([], [])
    wanted = pretrain(source)
    found = np.take_along_axis(
        outputs["prediction_logits"].numpy(), POSITIONS[..., np.newaxis], axis=1
    )
    assert_close(found, wanted["masked_lm_logits"], atol=1e-4)
    assert_close(outputs["seq_relationship_logits"].numpy(), wanted["next_sentence_logits"])


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_transformers_splits_text_alike(tmp_path, transformers, do_lower_case):
    source = make_folder(tmp_path / ("uncased_L-3" if do_lower_case else "cased_L-3"))
    pieces = [*PIECES[:5], "É", "e", "##t", "##É", "a", "##b", "B", "b", "中", "国", "."]
    pieces += [f"x{i}" for i in range(len(PIECES) - len(pieces))]
    (source / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    folder = convert(source, tmp_path / "theirs", "huggingface").target
    theirs = transformers.BertTokenizer.from_pretrained(str(folder))
    tokenizer = FullTokenizer(source / "vocab.txt", do_lower_case=do_lower_case)
    text = "Ét aÉ et É. 中国 B ab b"
    assert theirs.tokenize(text) == tokenizer.tokenize(text)
    assert theirs.model_max_length == CONFIG.max_position_embeddings


@pytest.mark.parametrize("hidden_act", HIDDEN_ACTS)
def test_activations_come_back(tmp_path, hidden_act):
    config = BertConfig.from_dict(CONFIG.to_dict() | {"hidden_act": hidden_act})
    source = make_folder(tmp_path / "uncased_L-3", config=config)
    folder = convert(source, tmp_path / "theirs", "huggingface").target
    assert convert(folder, tmp_path / "uncased_L-3_back").config == config


@pytest.mark.parametrize("hidden_act", HIDDEN_ACTS)
def test_transformers_has_the_same_activation(tmp_path, transformers, hidden_act):
    config = BertConfig.from_dict(CONFIG.to_dict() | {"hidden_act": hidden_act})
    source = make_folder(tmp_path / "uncased_L-3", config=config)
    folder = convert(source, tmp_path / "theirs", "huggingface").target
    outputs, _, _ = outputs_of(transformers, folder, "BertModel")
    assert_close(outputs["pooler_output"].numpy(), encode(source)["pooled_output"])


def test_a_classifier_whose_use_is_not_known(tmp_path):
    source = make_folder(tmp_path / "uncased_L-3", (*ENCODER, "classifier"))
    result = convert(source, tmp_path / "theirs", "huggingface")
    assert result.remarks == ("nothing says what the classifier labels; taken for one of texts",)
    config = json.loads((result.target / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {str(i): f"LABEL_{i}" for i in range(NUM_LABELS)}
    assert config["label2id"] == {f"LABEL_{i}": i for i in range(NUM_LABELS)}


def test_all_heads_go_into_the_file(tmp_path):
    source = make_folder(tmp_path / "uncased_L-3", (*PRETRAINING, "span"))
    result = convert(source, tmp_path / "theirs", "huggingface")
    (remark,) = result.remarks
    assert remark.startswith("9 weights in the file that BertForQuestionAnswering does not use")
    assert_same_bits(source, convert(result.target, tmp_path / "uncased_L-3_back").target)


def test_the_casing_must_be_known(tmp_path):
    source = make_folder(tmp_path / "model")
    with pytest.raises(InputError, match=r"model: nothing there says .* --do_lower_case=true for"):
        convert(source, tmp_path / "theirs", "huggingface")
    assert not (tmp_path / "theirs").exists()
    result = convert(source, tmp_path / "theirs", "huggingface", do_lower_case=False)
    tokenizer = json.loads((result.target / "tokenizer_config.json").read_text())
    assert tokenizer["do_lower_case"] is False


def test_a_pooler_where_the_class_needs_one(tmp_path):
    source = make_folder(tmp_path / "uncased_L-3", ("embeddings", "layer"))
    with pytest.raises(InputError, match=r"no pooler \(bert/pooler/dense\), but BertModel always"):
        convert(source, tmp_path / "theirs", "huggingface")


def test_the_weights_are_readable_by_those_who_read_the_rest(tmp_path):
    source = make_folder(tmp_path / "uncased_L-3")
    folder = convert(source, tmp_path / "theirs", "huggingface").target
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*.*")}
    assert len(modes) == 1

"""Folders that transformers saved, against what transformers computes with them; see their README.

Only the last tests need transformers: they show that what is committed is still its own.
"""

import json

import numpy as np
import pytest
import safetensors.numpy
from huggingface_folders import CLASSES, FIRST, FOLDER, SECOND, make_folder, make_golden
from original_folders import (
    INPUTS,
    all_positions,
    assert_close,
    classify,
    label_spans,
    pretrain,
    tag,
)

from bert_tf.interop.conversion import convert
from bert_tf.packing import RaggedIds, pack_texts
from bert_tf.tokenization import FullTokenizer

# Keys of transformers' config.json that ours leaves out, as they are the defaults; then the key
# that transformers leaves out for the same reason.
THEIR_DEFAULTS = {
    "add_cross_attention": False,
    "bos_token_id": None,
    "classifier_dropout": None,
    "dtype": "float32",
    "eos_token_id": None,
    "is_decoder": False,
    "tie_word_embeddings": True,
    "use_cache": True,
}
OUR_DEFAULTS = {"position_embedding_type": "absolute"}


def golden_of(architecture):
    """The inputs, under our names, and transformers' outputs."""
    with np.load(FOLDER / f"{architecture}.npz") as file:
        arrays = dict(file)
    return {name: arrays.pop(name) for name in INPUTS}, arrays


def ours(architecture, folder, inputs):
    """Our model's outputs, under transformers' names."""
    if architecture == "BertForSequenceClassification":
        return {"logits": classify(folder, inputs)}
    if architecture == "BertForTokenClassification":
        return {"logits": tag(folder, inputs)}
    if architecture == "BertForQuestionAnswering":
        logits = label_spans(folder, inputs)
        return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}
    outputs = pretrain(folder, inputs, all_positions(inputs))
    return {
        "prediction_logits": outputs["masked_lm_logits"],
        "seq_relationship_logits": outputs["next_sentence_logits"],
    }


def there_and_back(theirs, folder):
    """The folder of Hugging Face's format that we write, by way of the original's."""
    original = convert(theirs, folder / "original")
    casing = original.model.tokenizer.do_lower_case  # not every original folder has a place for it
    back = convert(original.target, folder / "back", "huggingface", do_lower_case=casing)
    return back.target


def assert_same_weights(folder, other):
    """That two folders have the same tensors of the same names, bit for bit."""
    first, second = (
        safetensors.numpy.load_file(path / "model.safetensors") for path in (folder, other)
    )
    assert sorted(first) == sorted(second)
    for name, value in first.items():
        assert (value.dtype, value.shape) == (second[name].dtype, second[name].shape), name
        assert value.tobytes() == second[name].tobytes(), name


def read_json(path, without=()):
    values = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in values.items() if key not in without}


@pytest.mark.parametrize("architecture", CLASSES)
def test_the_result_computes_what_transformers_does(tmp_path, architecture):
    inputs, wanted = golden_of(architecture)
    # Else the goldens would say nothing about padding and segments.
    lengths = inputs["input_mask"].sum(1)
    assert len({*lengths}) == len(lengths) > 2
    assert set(inputs["segment_ids"][inputs["input_mask"] == 1]) == {0, 1}
    result = convert(FOLDER / architecture, tmp_path / "target")
    found = ours(architecture, result.target, inputs)
    assert sorted(found) == sorted(wanted)
    for name, value in wanted.items():
        assert value.dtype == np.float32
        assert found[name].shape == value.shape
        assert_close(found[name], value, atol=1e-5)


@pytest.mark.parametrize("architecture", CLASSES)
def test_texts_become_the_rows_that_transformers_makes(tmp_path, architecture):
    result = convert(FOLDER / architecture, tmp_path / "target")
    do_lower_case = result.model.tokenizer.do_lower_case
    assert do_lower_case is CLASSES[architecture][0]
    tokenizer = FullTokenizer(result.target / "vocab.txt", do_lower_case=do_lower_case)
    pieces = tokenizer.vocabulary
    first, second = (RaggedIds(*tokenizer.encode_batch(texts)) for texts in (FIRST, SECOND))
    packed = pack_texts(
        first, second, result.config.max_position_embeddings, pieces.cls_id, pieces.sep_id
    )
    inputs, _ = golden_of(architecture)
    is_piece = inputs["input_mask"] == 1
    np.testing.assert_array_equal(packed.lengths, is_piece.sum(1))
    np.testing.assert_array_equal(packed.input_ids.values, inputs["input_ids"][is_piece])
    starts = np.where(is_piece, inputs["segment_ids"] == 0, False).sum(1)
    np.testing.assert_array_equal(packed.segment_starts, starts)


@pytest.mark.parametrize("architecture", CLASSES)
def test_there_and_back(tmp_path, architecture):
    """Our folder is transformers' own: the same tensors, and the same keys of the configuration."""
    theirs = FOLDER / architecture
    back = there_and_back(theirs, tmp_path)
    assert_same_weights(theirs, back)
    config = read_json(theirs / "config.json", ["transformers_version"])
    assert read_json(back / "config.json") | THEIR_DEFAULTS == config | OUR_DEFAULTS
    settings = read_json(theirs / "tokenizer_config.json")
    ours = read_json(back / "tokenizer_config.json")
    assert ours == {key: settings[key] for key in ours}


# --- what is committed is transformers' own -----------------------------------------------------


@pytest.mark.parametrize("architecture", CLASSES)
def test_transformers_saves_the_same(tmp_path, transformers, architecture):
    folder = make_folder(transformers, tmp_path / "made", architecture)
    committed = FOLDER / architecture
    names = sorted(path.name for path in committed.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == names
    assert_same_weights(committed, folder)
    for name in names:
        if name.endswith(".json"):
            version = ["transformers_version"]
            assert read_json(committed / name, version) == read_json(folder / name, version), name


@pytest.mark.parametrize("architecture", CLASSES)
def test_transformers_computes_the_same(transformers, architecture):
    inputs, outputs = golden_of(architecture)
    made = make_golden(transformers, FOLDER / architecture, architecture)
    assert sorted(made) == sorted([*inputs, *outputs])
    for name, value in inputs.items():
        np.testing.assert_array_equal(made[name], value, err_msg=name)
    for name, value in outputs.items():
        assert_close(made[name], value, atol=1e-6)  # processors round in different ways


@pytest.mark.parametrize("architecture", CLASSES)
def test_transformers_reads_ours_as_its_own(tmp_path, transformers, architecture):
    """What our config.json leaves out are defaults indeed."""
    theirs = FOLDER / architecture
    back = there_and_back(theirs, tmp_path)
    configs = [
        transformers.BertConfig.from_pretrained(str(folder)).to_dict() for folder in (theirs, back)
    ]
    # Without a dtype, that of the file's tensors is taken.
    assert configs[0] | OUR_DEFAULTS | {"dtype": None} == configs[1] | {"dtype": None}

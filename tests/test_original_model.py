"""Tests of bert_tf.interop.original_model and of the table of weights that it reads by."""

import numpy as np
import pytest
from original_folders import CONFIG, ENCODER, NUM_LABELS, PRETRAINING, make_folder, read

from bert_tf.checkpoint import variables_by_name, write_tensors
from bert_tf.config import BertConfig
from bert_tf.errors import InputError
from bert_tf.heads import BertClassifier, BertPretrainer, BertSpanLabeler
from bert_tf.interop.conversion import convert
from bert_tf.interop.keras_shapes import from_keras, keras_shape, to_keras
from bert_tf.interop.original_model import find_prefix, read_original, shapes_of
from bert_tf.interop.weights import PARTS, expand

LABELS = [f"label {i}" for i in range(NUM_LABELS)]


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (lambda: BertPretrainer(CONFIG, seed=1), PRETRAINING),
        (lambda: BertClassifier(CONFIG, NUM_LABELS, seed=1), (*ENCODER, "classifier")),
        (lambda: BertSpanLabeler(CONFIG, seed=1), (*ENCODER, "span")),
    ],
)
def test_the_table_is_what_the_models_have(model, parts):
    found = {name: tuple(value.shape) for name, value in variables_by_name(model()).items()}
    assert shapes_of(expand(parts, CONFIG.num_hidden_layers), CONFIG, NUM_LABELS) == found


def test_a_run_says_what_its_classifier_labels(tmp_path):
    parts = (*ENCODER, "classifier")
    run = {"command": "run_tagger", "do_lower_case": False, "doc_context": True}
    model = read_original(make_folder(tmp_path / "run", parts, labels=LABELS, **run))
    assert (model.use, model.labels, model.num_labels) == ("tokens", tuple(LABELS), NUM_LABELS)
    assert model.do_lower_case is False
    assert model.heads == ("classifier",)
    assert model.remarks == (
        "--doc_context is not carried over: sentences are shown without any around",
    )
    model = read_original(make_folder(tmp_path / "cased_L-3", parts))
    assert (model.use, model.do_lower_case) == (None, False)


def test_training_state_and_other_tensors_are_named(tmp_path):
    folder = make_folder(tmp_path / "uncased_L-3")
    tensors = read(folder)
    name = "bert/pooler/dense/bias"
    more = {f"{name}/adam_m": np.zeros(3, "f"), "global_step": np.int64(9), "x": np.zeros(2, "f")}
    write_tensors(tensors | more, folder / "bert_model.ckpt")
    assert read_original(folder).remarks == (
        "2 of the optimizer's tensors not used: bert/pooler/dense/bias/adam_m, global_step",
        "1 tensors not used: x",
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [("crf/transitions", r"a CRF over the tags \(--crf\)"), ("window_pooling/a", "a learned")],
)
def test_what_no_other_format_has_is_refused(tmp_path, name, message):
    folder = make_folder(tmp_path / "uncased_L-3")
    write_tensors(read(folder) | {name: np.zeros(3, "f")}, folder / "bert_model.ckpt")
    with pytest.raises(InputError, match=rf"uncased_L-3: has {message}"):
        convert(folder, tmp_path / "there", "huggingface")


def test_scopes_of_other_names(tmp_path):
    folder = make_folder(tmp_path / "uncased_L-3")
    tensors = read(folder)
    renamed = {name.replace("bert/", "module/bert_1/"): value for name, value in tensors.items()}
    write_tensors(renamed, folder / "bert_model.ckpt")
    model = read_original(folder)
    assert model.tensors.keys() == tensors.keys()
    assert model.remarks == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cls/predictions/transform/dense/bias": None}, "1 tensors are missing: cls/predictions/"),
        ({"bert/pooler/dense/bias": np.zeros(5, "f")}, r"dense/bias is \[5\], but .* \[12\]"),
        ({"bert/encoder/layer_1/output/dense/bias": None}, "missing: bert/encoder/layer_1/output"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, change, message):
    folder = make_folder(tmp_path / "uncased_L-3", PRETRAINING)
    tensors = {**read(folder), **change}
    write_tensors({n: v for n, v in tensors.items() if v is not None}, folder / "bert_model.ckpt")
    with pytest.raises(InputError, match=message):
        read_original(folder)


def test_files_that_do_not_fit(tmp_path):
    folder = make_folder(tmp_path / "uncased_L-3", (*ENCODER, "classifier"), labels=LABELS[:-1])
    with pytest.raises(InputError, match=r"labels\.txt: has 6 labels, but .* has 7 outputs"):
        read_original(folder)
    (folder / "labels.txt").unlink()
    changed = BertConfig.from_dict(CONFIG.to_dict() | {"num_hidden_layers": 2})
    (folder / "bert_config.json").write_text(changed.to_json_string())
    with pytest.raises(InputError, match="num_hidden_layers is 2 there, but 3 in the checkpoint"):
        read_original(folder)
    (folder / "bert_config.json").unlink()
    with pytest.raises(InputError, match=r"bert_config\.json: cannot read"):
        read_original(folder)


def test_which_checkpoint_is_taken(tmp_path):
    folder = make_folder(tmp_path / "uncased_L-3")
    tensors = read(folder)
    write_tensors(tensors, folder / "model.ckpt-7")
    assert find_prefix(folder) == str(folder / "bert_model.ckpt")
    for path in list(folder.glob("bert_model.ckpt*")):
        path.unlink()
    assert find_prefix(folder) == str(folder / "model.ckpt-7")
    write_tensors(tensors, folder / "model.ckpt-12")
    with pytest.raises(InputError, match=r"several checkpoints \(.*model\.ckpt-12, .*-7\)"):
        read_original(folder)
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-12"\n')
    assert find_prefix(folder) == str(folder / "model.ckpt-12")
    assert read_original(folder).found == "a folder of the original's layout (model.ckpt-12)"


def test_shapes_in_keras_are_those_of_heads():
    """[H, H] as [H, N, D] and [N, D, H]: element by element, against the definition."""
    heads, size = CONFIG.num_attention_heads, CONFIG.hidden_size // CONFIG.num_attention_heads
    shapes = shapes_of(expand(PARTS, 1), CONFIG, NUM_LABELS)
    random = np.random.default_rng(1)
    for name, shape in shapes.items():
        value = random.normal(size=shape).astype("f")
        theirs = to_keras(name, value, CONFIG)
        assert theirs.shape == keras_shape(name, shape, CONFIG), name
        assert from_keras(name, theirs, shape).tobytes() == value.tobytes()
        for index in np.ndindex(shape):
            there = index
            if "/attention/self/" in name:
                there = (*index[:-1], index[-1] // size, index[-1] % size)
            elif name.endswith("attention/output/dense/kernel"):
                there = (index[0] // size, index[0] % size, index[1])
            elif name.endswith("output_weights"):
                there = index[::-1]
            assert theirs[there] == value[index], name
    assert (heads, size) == (2, 6)

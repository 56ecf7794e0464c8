"""Tests of bert_tf.run_folder: who may write where, and that nothing is left half-written."""

import contextlib
import errno
import json
import os
import pathlib
import subprocess
import sys

import pytest

from bert_tf.errors import InputError
from bert_tf.run_folder import (
    CHECKPOINT,
    claim,
    lower_case_of_checkpoint,
    read_run_config,
    remember_inputs,
    reopen,
    require_model,
    write_json,
    write_text,
)

CONFIG = {"task_name": "MRPC", "learning_rate": 2e-5, "num_train_epochs": 3.0, "seed": 12345}
RESULTS = ("eval_results.json", f"{CHECKPOINT}.index")


def start(folder, configuration=CONFIG, **arguments):
    """Claims a folder and lets go of it, as a run that is cut off does."""
    with claim(folder, configuration, RESULTS, **arguments) as run:
        return run


def finish(folder):
    for name in (*RESULTS, f"{CHECKPOINT}.data-00000-of-00001", "bert_config.json", "vocab.txt"):
        (folder / name).write_text("{}")


def refused(folder, *words, **arguments):
    with pytest.raises(InputError) as error:
        start(folder, **arguments)
    for word in (f"--output_dir {folder}", *words):
        assert word in str(error.value)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


# --- claim --------------------------------------------------------------------------------------


def test_a_new_folder_is_made_and_gets_the_configuration(tmp_path):
    folder = start(tmp_path / "a" / "b")
    assert folder == tmp_path / "a" / "b"
    assert names(folder) == ["run_config.yaml"]
    assert read_run_config(folder / "run_config.yaml") == CONFIG
    assert list(read_run_config(folder / "run_config.yaml")) == list(CONFIG)  # in their order


def test_an_empty_folder_will_do(tmp_path):
    assert start(tmp_path) == tmp_path
    assert names(tmp_path) == ["run_config.yaml"]


def test_an_unfinished_run_of_the_same_configuration_is_resumed(tmp_path):
    start(tmp_path)
    (tmp_path / "resume").mkdir()
    (tmp_path / "eval_results.json").write_text("{}")  # but no checkpoint: not finished
    start(tmp_path)
    assert names(tmp_path) == ["eval_results.json", "resume", "run_config.yaml"]


def test_another_configuration_is_refused_with_what_differs(tmp_path):
    start(tmp_path)
    other = {**CONFIG, "learning_rate": 3e-5, "extra": True}
    refused(
        tmp_path,
        "learning_rate is 2e-05 there and 3e-05 here",
        "extra is None there and True here",
        "--overwrite",
        configuration=other,
    )
    assert read_run_config(tmp_path / "run_config.yaml") == CONFIG
    with pytest.raises(InputError) as error:
        start(tmp_path, other)
    assert "seed" not in str(error.value) and "task_name" not in str(error.value)


def test_settings_that_do_not_matter_may_differ(tmp_path):
    start(tmp_path)
    other = {**CONFIG, "log_steps": 5}
    start(tmp_path, other, unimportant=frozenset({"log_steps"}))
    refused(tmp_path, "log_steps")


@pytest.mark.parametrize(
    "value", [5e-5, 1e-300, 0.1, None, True, "yes", "1e-5", "", "ä: b", [1, 2]]
)
def test_every_kind_of_setting_survives_the_file(tmp_path, value):
    start(tmp_path, {"key": value})
    assert read_run_config(tmp_path / "run_config.yaml") == {"key": value}
    start(tmp_path, {"key": value})


def test_a_finished_run_is_refused(tmp_path):
    start(tmp_path)
    finish(tmp_path)
    refused(tmp_path, "finished", "--overwrite")


def test_overwrite_removes_a_run_and_nothing_else(tmp_path):
    start(tmp_path)
    finish(tmp_path)
    (tmp_path / "resume" / "deep").mkdir(parents=True)
    for name in ("train_log.jsonl", "events.out.tfevents.1", "labels.txt", "test_results.tsv"):
        (tmp_path / name).write_text("old")
    for name in ("notes.txt", "bert_model.txt", "my_vocab.txt"):
        (tmp_path / name).write_text("mine")
    start(tmp_path, {"task_name": "CoLA"}, overwrite=True)
    assert names(tmp_path) == ["bert_model.txt", "my_vocab.txt", "notes.txt", "run_config.yaml"]
    assert read_run_config(tmp_path / "run_config.yaml") == {"task_name": "CoLA"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_that_are_no_runs_are_left_alone(tmp_path, overwrite):
    # A released checkpoint's folder: its names are among those that a run writes.
    for name in ("vocab.txt", "bert_config.json", f"{CHECKPOINT}.index", f"{CHECKPOINT}.meta"):
        (tmp_path / name).write_text("precious")
    before = names(tmp_path)
    refused(tmp_path, "no run of bert-tf", f"{CHECKPOINT}.index", overwrite=overwrite)
    assert names(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_refused_folder_does_not_even_get_a_lock(tmp_path, overwrite):
    (tmp_path / "mine.txt").write_text("mine")
    refused(tmp_path, "no run of bert-tf", overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("error", [InputError("a bad label"), KeyboardInterrupt()])
def test_a_run_that_stops_before_it_computed_anything_leaves_nothing(tmp_path, error):
    for folder in (tmp_path / "new", tmp_path):
        with pytest.raises(type(error)), claim(folder, CONFIG, RESULTS):
            write_text(folder / "vocab.txt", "[PAD]")
            raise error
        assert names(tmp_path) == []


def test_an_empty_log_is_not_worth_keeping(tmp_path):
    with pytest.raises(KeyboardInterrupt), claim(tmp_path / "new", CONFIG, RESULTS) as folder:
        (folder / "train_log.jsonl").touch()
        raise KeyboardInterrupt
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "progress",
    [
        "resume/checkpoint",
        f"{CHECKPOINT}.index",
        "seed_1/x",
        "train_log.jsonl",
        "eval_results.json",
    ],
)
@pytest.mark.parametrize("new", [True, False])
def test_a_run_that_stops_later_keeps_what_it_has(tmp_path, progress, new):
    folder = tmp_path / "run" if new else tmp_path
    for _ in range(2):  # and so does the run that resumes it
        with pytest.raises(KeyboardInterrupt), claim(folder, CONFIG, RESULTS):
            (folder / progress).parent.mkdir(exist_ok=True)
            (folder / progress).write_text("hours of work")
            raise KeyboardInterrupt
        assert (folder / progress).read_text() == "hours of work"
        assert (folder / "run_config.yaml").exists()


def test_a_run_that_stops_leaves_other_files_alone(tmp_path):
    folder = tmp_path / "new"
    with pytest.raises(KeyboardInterrupt), claim(folder, CONFIG, RESULTS):
        (folder / "notes.txt").write_text("mine")
        raise KeyboardInterrupt
    assert names(folder) == ["notes.txt"]


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("a file")
    refused(tmp_path / "file", "cannot write there")
    refused(tmp_path / "file" / "below", "cannot write there")


def test_a_damaged_configuration_is_named(tmp_path):
    for text in ("key: [1", "- a\n- list\n", "", "just words"):
        (tmp_path / "run_config.yaml").write_text(text)
        with pytest.raises(InputError, match=r"run_config.yaml"):
            start(tmp_path)
        assert (tmp_path / "run_config.yaml").read_text() == text
    with pytest.raises(InputError, match="cannot read it"):
        read_run_config(tmp_path / "none.yaml")


# --- the lock -----------------------------------------------------------------------------------


HOLD = """
import sys
from bert_tf.run_folder import claim
with claim(sys.argv[1], {"key": 1}, ("eval_results.json",)):
    print("claimed", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another_process(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"claimed\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_folder_in_use_is_refused_until_its_process_ends(tmp_path):
    with another_process(tmp_path) as process:
        message = f"in use by another process (number {process.pid})"
        refused(tmp_path, message, configuration={"key": 1})
        refused(tmp_path, message, overwrite=True)
        finish(tmp_path)
        with pytest.raises(InputError, match="in use"), reopen(tmp_path):
            pass
        (tmp_path / "eval_results.json").unlink()
        process.kill()  # without a chance to clean up
        process.wait()
        start(tmp_path, {"key": 1})


def test_the_lock_is_let_go_after_a_refusal_and_after_an_error(tmp_path):
    start(tmp_path)
    refused(tmp_path, configuration={})
    with pytest.raises(KeyError), claim(tmp_path, CONFIG, RESULTS):
        raise KeyError
    start(tmp_path)


# --- finished runs ------------------------------------------------------------------------------


def test_a_finished_run_is_reopened_without_a_change(tmp_path):
    start(tmp_path)
    finish(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    with reopen(tmp_path) as folder:
        assert folder == tmp_path
        with pytest.raises(InputError, match="in use"), reopen(tmp_path):
            pass
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


@pytest.mark.parametrize(
    "name", ["run_config.yaml", "bert_config.json", "vocab.txt", f"{CHECKPOINT}.index"]
)
def test_a_folder_without_a_model_names_the_file(tmp_path, name):
    start(tmp_path)
    finish(tmp_path)
    require_model(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"has no {name}") as error, reopen(tmp_path):
        pass
    assert str(tmp_path) in str(error.value)


def test_reopening_makes_no_folder(tmp_path):
    with pytest.raises(InputError, match="not the folder of"), reopen(tmp_path / "none"):
        pass
    assert names(tmp_path) == []


# --- writing ------------------------------------------------------------------------------------


def test_files_are_written_and_replaced(tmp_path):
    write_text(tmp_path / "labels.txt", "nö\nyes\n")
    write_text(tmp_path / "labels.txt", "ä\n")
    assert (tmp_path / "labels.txt").read_bytes() == "ä\n".encode()
    write_json(tmp_path / "eval_results.json", {"eval_accuracy": 0.5, "global_step": 7})
    text = (tmp_path / "eval_results.json").read_text()
    assert json.loads(text) == {"eval_accuracy": 0.5, "global_step": 7}
    assert text.endswith("}\n")
    assert names(tmp_path) == ["eval_results.json", "labels.txt"]


@pytest.mark.parametrize("when", ["write", "rename"])
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, when):
    path = tmp_path / "labels.txt"
    path.write_text("old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if when == "write":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(pathlib.Path, "replace", full)
    with pytest.raises(InputError, match="cannot write it: No space left on device") as error:
        write_text(path, "new")
    assert str(path) in str(error.value)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["labels.txt"]


def test_a_write_that_is_interrupted_leaves_what_was_there(tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    path = tmp_path / "labels.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["labels.txt"]


# --- what a run depends on ----------------------------------------------------------------------


def test_a_run_goes_on_only_with_what_it_began_with(tmp_path):
    inputs = {"records": {"a": 3, "b": 5}, "vocab_file": None}
    remember_inputs(tmp_path, inputs)
    remember_inputs(tmp_path, {**inputs, "vocab_file": "changed"})  # nothing is trained yet
    remember_inputs(tmp_path, inputs)
    (tmp_path / "resume" / "checkpoint").write_text("hours of work")
    remember_inputs(tmp_path, inputs)
    message = r"since the run there was cut off, records, vocab_file changed.* --overwrite"
    with pytest.raises(InputError, match=message):
        remember_inputs(tmp_path, {"records": {"a": 3, "b": 6}, "vocab_file": "changed"})
    remember_inputs(tmp_path, inputs)


@pytest.mark.parametrize(
    ("name", "stored", "expected"),
    [
        ("cased_L-2_H-128_A-2", None, False),
        ("uncased_L-2_H-128_A-2", None, True),
        ("run", None, None),
        ("run", "do_lower_case: false", False),
        ("run", "do_lower_case: true", True),
        ("run", "do_lower_case: null", None),
        ("cased_L-2_H-128_A-2", "do_lower_case: true", True),
        ("cased_L-2_H-128_A-2", "seed: 3", False),
    ],
)
def test_casing_is_told_by_the_run_or_else_by_the_name(tmp_path, name, stored, expected):
    (tmp_path / name).mkdir()
    if stored:
        (tmp_path / name / "run_config.yaml").write_text(stored)
    assert lower_case_of_checkpoint(tmp_path / name / CHECKPOINT) is expected

"""A run that is interrupted, at any moment and by whatever, has the bits of an undisturbed one.

One process after the other goes on with what the last one left, until something happens to it too.
After each, weights, slots and step of all points in ``resume/`` must be those of the undisturbed
run after the same step, and so must the weights and the log that a run ends with.
"""

import collections
import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import time

import numpy as np
import pytest
import tensorflow as tf
from forked import COMMAND, Forked

import bert_tf

NUM_ROUNDS = 20
NUM_STEPS = 40
CUT_OFF = "SIGKILL, and a file that is cut off"
FAULTS = ("SIGKILL", "SIGTERM", CUT_OFF, "full disk")


@pytest.fixture(scope="module")
def start(testdata, tmp_path_factory):
    """Starts the command that trains, or goes on training, in a folder."""
    data = tmp_path_factory.mktemp("data")
    words = {"pos": "good great fine", "neg": "bad war death"}
    lines = [f"{words[label]} film {i}\t{label}" for i in range(19) for label in words]
    (data / "train.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    original = testdata / "original_tiny"
    values = json.loads((original / "bert_config.json").read_text())
    values |= {"num_hidden_layers": 1, "hidden_size": 6, "num_attention_heads": 2}
    values |= {"intermediate_size": 10, "initializer_range": 0.2}
    assert values["hidden_dropout_prob"] > 0
    (data / "bert_config.json").write_text(json.dumps(values))
    config = bert_tf.BertConfig.from_json_file(data / "bert_config.json")
    bert_tf.save_checkpoint(bert_tf.BertModel(config, seed=3), data / "bert_model.ckpt")

    def start(folder, *more):
        return Forked(
            COMMAND,
            *("run_classifier", "--do_train", f"--data_dir={data}", f"--output_dir={folder}"),
            f"--vocab_file={original / 'vocab.txt'}",
            f"--bert_config_file={data / 'bert_config.json'}",
            f"--init_checkpoint={data / 'bert_model.ckpt'}",
            *("--max_seq_length=11", "--train_batch_size=5", "--num_train_epochs=5.3"),
            *("--learning_rate=0.01", "--log_steps=1", "--save_checkpoints_steps=1", *more),
        )

    return start


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    """A finished run that has kept what it could be resumed from after each step, and its time."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    began = time.monotonic()
    process = start(folder, f"--keep_checkpoint_max={NUM_STEPS}")
    said = process.communicate()
    assert process.returncode == 0, said
    assert steps_in(folder) == set(range(1, NUM_STEPS + 1))
    return folder, time.monotonic() - began


def steps_in(folder):
    """The steps after which a run can be resumed."""
    return {int(path.stem.partition("-")[2]) for path in (folder / "resume").glob("ckpt-*.index")}


def tensors(prefix):
    reader = tf.train.load_checkpoint(str(prefix))
    # How often a run has saved depends on how often it was interrupted.
    others = ("save_counter/", "_CHECKPOINTABLE")
    names = [n for n in reader.get_variable_to_shape_map() if not n.startswith(others)]
    return {name: reader.get_tensor(name) for name in names}


def assert_same_bits(one, other):
    actual, expected = tensors(one), tensors(other)
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert actual[name].tobytes() == value.tobytes(), (one, name)


def assert_finished_like(whole, folder):
    assert_same_bits(folder / "bert_model.ckpt", whole / "bert_model.ckpt")
    logs = [
        [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
        for run in (folder, whole)
    ]
    keys = ("step", "loss", "grad_norm", "learning_rate")
    found, expected = ([[line[key] for key in keys] for line in log] for log in logs)
    assert found == expected
    assert [step for step, *_ in found] == list(range(1, NUM_STEPS + 1))


def wait_for_a_moment(fault, process, folder, random, seconds):
    """Waits for some steps and a little longer, or now and then for a while, begun or not."""
    log = folder / "train_log.jsonl"

    def num_steps():
        return len(log.read_text().splitlines()) if log.exists() else 0

    if fault != CUT_OFF and random.random() < 0.2:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(random.uniform(0, seconds))
        return
    goal = num_steps() + random.integers(3, 7)  # two points at least are there then
    limit = time.monotonic() + 10 * seconds + 60
    while process.poll() is None and num_steps() < goal:
        assert time.monotonic() < limit
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.05))


def fill_disk(process, size, random):
    """Lets no file of a process grow beyond a part of the size; what it logs and says fits."""
    room, hard = int(random.integers(20_000, size)), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (room, hard))


def cut_off(folder, random):
    """Cuts off one of the newest files in ``resume/``; returns the steps that it takes away."""
    newest = max(steps_in(folder))
    file = random.choice([folder / "resume/checkpoint", *folder.glob(f"resume/ckpt-{newest}.*")])
    os.truncate(file, int(random.integers(0, file.stat().st_size)))
    return set() if file.name == "checkpoint" else {newest}


def test_twenty_interruptions_change_no_bit(start, undisturbed, tmp_path):
    whole, seconds = undisturbed
    (size,) = {path.stat().st_size for path in whole.glob("resume/ckpt-*.data-*")}
    random = np.random.default_rng(8)
    left = list(random.permutation(FAULTS * (NUM_ROUNDS // len(FAULTS))))
    occurred, ended = collections.Counter(), 0
    resumable = {0}
    began = time.monotonic()
    while left:
        fault, folder = left[-1], tmp_path / str(ended)
        process = start(folder)
        wait_for_a_moment(fault, process, folder, random, seconds)
        if fault == "full disk":
            fill_disk(process, size, random)
        else:
            process.send_signal(signal.SIGTERM if fault == "SIGTERM" else signal.SIGKILL)
        _, said = process.communicate()
        assert "Traceback" not in said, said
        if begins := re.search(r"(?:starting|resuming) at step (\d+) of 40\n", said):
            assert int(begins[1]) in resumable, (fault, said)
        if (folder / "bert_model.ckpt.index").exists():  # too late
            assert_finished_like(whole, folder)
            ended += 1
            assert ended < NUM_ROUNDS
            resumable = {0}
            continue

        occurred[str(left.pop())] += 1
        statuses = {"full disk": {2}, "SIGTERM": {-15, 143}}.get(fault, {-9})
        assert process.returncode in statuses, (fault, said)
        intact = steps_in(folder)
        if fault == "full disk":
            assert "cannot write" in said
        elif fault == CUT_OFF:
            intact -= cut_off(folder, random)
        for step in intact:
            assert_same_bits(*(run / "resume" / f"ckpt-{step}" for run in (folder, whole)))
        resumable = intact or {0}
        if process.returncode == 143:
            stopped = re.fullmatch(
                r"bert-tf: stopped by SIGTERM after step (\d+) of 40; the same .*/resume",
                said.splitlines()[-1],
            )
            resumable = {int(stopped[1])}
            assert resumable <= intact
    print(f"{dict(occurred)}, {(time.monotonic() - began) / NUM_ROUNDS:.1f} s a round")
    assert set(occurred) == set(FAULTS)
    process = start(folder)
    said = process.communicate()
    assert process.returncode == 0, said
    assert_finished_like(whole, folder)

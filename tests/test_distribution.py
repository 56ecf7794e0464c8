"""Tests of bert_tf.distribution and replicas: several devices and processes do what one does."""

import contextlib
import dataclasses
import json
import pathlib
import re
import signal
import socket
import time

import numpy as np
import pytest
import tensorflow as tf
from forked import Forked, run_forked

from bert_tf import replicas
from bert_tf.config import Classification
from bert_tf.distribution import _place_in_cluster, devices_of
from bert_tf.errors import InputError, LostWorkerError
from bert_tf.tasks import run_claim

NUM_STEPS = 20
BATCH_SIZE = 12

# A process of a run, as a command: what it does on its devices is the function in the middle.
BEGIN = """
import json, os, pathlib, sys, time, types
import numpy as np
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
from tensorflow.python.data.experimental.ops.testing import sleep
from bert_tf.cli.main import main
from bert_tf.config import BertConfig, Classification
from bert_tf.distribution import devices_of
from bert_tf.heads import BertPretrainer
from bert_tf.optimization import create_optimizer
from bert_tf.replicas import agreed, is_chief
from bert_tf.tasks.pretraining_objective import Objective
from bert_tf.training import TrainStep, train

folder, flags = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
delay = flags.pop("delay", 0)
settings = Classification(do_train=True, output_dir="unused", **flags)
"""
END = """
def run_on_devices(arguments):
    with devices_of(settings):
        run()

sys.modules["bert_tf.cli.predict"] = types.SimpleNamespace(run=run_on_devices)
sys.exit(main(["predict"]))
"""
# 20 steps of a pretrainer.
TRAIN = """
def run():
    config = BertConfig.from_json_file(folder / "bert_config.json")
    data = dict(np.load(folder / "data.npz"))
    model = BertPretrainer(config)
    model.set_weights([array for _, array in sorted(np.load(folder / "initial.npz").items())])
    objective = Objective(next_sentence=True)
    step = TrainStep(model, create_optimizer(0.01, 25, 2), objective.loss, 3)
    def batches(first):
        batches = tf.data.Dataset.from_tensor_slices(data).skip(first)
        return batches.apply(sleep(int(1e6 * delay))) if delay else batches
    train(step, objective.logged[:1], batches, folder, num_train_steps=20, examples_per_step=12,
          log_steps=7, save_checkpoints_steps=9)
    if is_chief():
        np.savez(folder / "final.npz", *model.get_weights())
    agreed(0)
"""
# What is the next best thing to it: it takes all of them.
AGREE = """
def run():
    while True:
        agreed(0)
        (folder / str(settings.worker_index)).write_text("agreed")
        time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def run(tiny_config, make_inputs, tmp_path_factory):
    """Functions that make a run's folder and train there, initial weights, and their names."""
    from bert_tf.heads import BertPretrainer

    config = dataclasses.replace(
        tiny_config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    initial = [
        np.random.default_rng(number).normal(0, 0.3, variable.shape).astype(np.float32)
        for number, variable in enumerate(BertPretrainer(config).weights)
    ]
    rng = np.random.default_rng(9)
    steps = []
    for number in range(NUM_STEPS):
        batch = make_inputs(config, batch_size=BATCH_SIZE, seed=number)
        shape = batch["masked_lm_positions"].shape
        batch["masked_lm_ids"] = rng.integers(0, config.vocab_size, shape).astype(np.int32)
        # Replicas whose masks weigh differently: each must divide by the weight of all.
        batch["masked_lm_weights"] = (rng.random(shape) < rng.random((BATCH_SIZE, 1))).astype(
            np.float32
        )
        batch["next_sentence_labels"] = rng.integers(0, 2, (BATCH_SIZE, 1)).astype(np.int32)
        steps.append(batch)
    data = {name: np.stack([step[name] for step in steps]) for name in steps[0]}

    def new_folder(name):
        folder = tmp_path_factory.mktemp(name)
        (folder / "bert_config.json").write_text(config.to_json_string())
        np.savez(folder / "data.npz", **data)
        np.savez(folder / "initial.npz", **{f"{i:03}": a for i, a in enumerate(initial)})
        return folder

    def train_together(folder, *flags):
        with running(folder, *flags) as processes:
            for process in processes:
                said = process.communicate(timeout=300)
                assert process.returncode == 0, said
        final = np.load(folder / "final.npz")
        return [final[f"arr_{i}"] for i in range(len(final))]

    paths = [variable.path for variable in BertPretrainer(config).weights]
    return new_folder, train_together, initial, paths


@contextlib.contextmanager
def running(folder, *flags, until=None):
    """A run's processes, once something is in a file of it; none of them is left at the end."""
    processes = [Forked(BEGIN + TRAIN + END, folder, json.dumps(of)) for of in flags]
    with ended(processes):
        if until:
            wait_for(folder / until)
        yield processes


@contextlib.contextmanager
def ended(processes):
    """None of them is left at the end."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def wait_for(file):
    """Waits until something is in a file."""
    limit = time.monotonic() + 200
    while not (file.exists() and file.stat().st_size > 0) and time.monotonic() < limit:
        time.sleep(0.1)


def free_hosts(number):
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    hosts = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return ",".join(hosts)


@pytest.fixture(scope="module")
def alone(run):
    """The weights of one device that takes whole batches."""
    new_folder, train_together, initial, _ = run
    final = train_together(new_folder("alone"), {})
    assert sum(np.abs(a - b).max() > 1e-2 for a, b in zip(final, initial, strict=True)) > 20
    return final


def workers(number, **more):
    """The flags of each worker."""
    hosts = free_hosts(number)
    return [{"worker_hosts": hosts, "worker_index": i, **more} for i in range(number)]


def assert_equal_weights(actual, expected, paths, tolerance):
    # The gradient of a key's bias is 0 (softmax does not see it): Adam makes something of what
    # rounding leaves, which differs with the order of a sum.
    seen = [i for i, path in enumerate(paths) if not path.endswith("key/bias")]
    assert len(seen) < len(paths)
    value, goal = (np.concatenate([w[i].ravel() for i in seen]) for w in (actual, expected))
    assert np.linalg.norm(value - goal) <= tolerance * np.linalg.norm(goal)
    assert np.abs(value - goal).max() < 1e-4


def assert_names_the_loss(process):
    _, said = process.communicate(timeout=150)
    assert process.returncode == 2, said
    found = re.search(r"bert-tf: another worker is (?:probably )?gone \((.*)\)\. See what it", said)
    assert found and re.search(r"\w", found[1]), said
    assert "Graph execution error" not in found[1]


STACK = "Graph execution error:\n\nDetected at node reduce defined at (most recent call last):\n"


@pytest.mark.parametrize(
    "message, cause",
    [
        (
            STACK + '  File "connection.py", line 3, in main\n\n'
            "Collective ops is aborted by: Socket closed\n"
            "Additional GRPC error information:\n:UNKNOWN:Error\n\t [[{{node reduce}}]]",
            "Collective ops is aborted by: Socket closed",
        ),
        (
            STACK + '  File "main.py", line 3\n\nThe step was cancelled.\n\t [[{{node reduce}}]]',
            "The step was cancelled",
        ),
        (
            STACK + "<stack traces unavailable>\nRecvAsync is cancelled.\n\t [[{{node reduce}}]]",
            "RecvAsync is cancelled",
        ),
        (
            "Collective ops is aborted by: no heartbeats of:\n/job:worker/task:1\nmore",
            "Collective ops is aborted by: no heartbeats of: /job:worker/task:1",
        ),
        ("", "UnavailableError"),
    ],
)
def test_the_cause_of_a_loss_is_named_without_the_stack(monkeypatch, message, cause):
    monkeypatch.setattr(replicas, "has_several_workers", lambda: True)
    with pytest.raises(LostWorkerError) as caught, replicas.lost_workers_named():
        raise tf.errors.UnavailableError(None, None, message)
    assert str(caught.value).startswith(f"another worker is gone ({cause}). See what it said")


def test_a_lost_chief_ends_the_others_and_fewer_go_on(run, alone):
    new_folder, train_together, _, paths = run
    folder = new_folder("lost")
    with running(folder, *workers(3, delay=0.5), until="resume/checkpoint") as processes:
        processes[0].kill()
        for process in processes[1:]:
            assert_names_the_loss(process)
    assert not (folder / "final.npz").exists()
    final = train_together(folder, *workers(2))
    log = (folder / "train_log.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in log]
    assert steps == [7, 14, 20]
    assert_equal_weights(final, alone, paths, 1e-5)


def test_a_worker_that_is_gone_or_hangs_ends_the_others(tmp_path):
    losses = [(1, signal.SIGKILL), (1, signal.SIGSTOP), (0, signal.SIGSTOP)]
    folders = [tmp_path / str(number) for number in range(len(losses))]
    pairs = []
    for folder in folders:
        folder.mkdir()
        pairs.append(
            [Forked(BEGIN + AGREE + END, folder, json.dumps(flags)) for flags in workers(2)]
        )
    with ended([process for pair in pairs for process in pair]):
        for folder, pair, (lost, how) in zip(folders, pairs, losses, strict=True):
            wait_for(folder / str(lost))
            pair[lost].send_signal(how)
        for pair, (lost, _) in zip(pairs, losses, strict=True):
            assert_names_the_loss(pair[1 - lost])  # no later than 10 seconds without heartbeats


def test_a_sigterm_to_one_worker_stops_all_after_the_same_step(run, alone):
    new_folder, train_together, _, paths = run
    folder = new_folder("stopped")
    with running(folder, *workers(2, delay=0.5), until="train_log.jsonl") as processes:
        processes[1].terminate()
        outputs = ["".join(process.communicate(timeout=90)) for process in processes]
    assert [process.returncode for process in processes] == [128 + signal.SIGTERM] * 2, outputs
    stops = [re.findall(r"stopped by SIGTERM after step (\d+) of 20", said) for said in outputs]
    assert stops[0] and stops[0] == stops[1], outputs
    assert 0 < int(stops[0][0]) < NUM_STEPS
    assert not (folder / "final.npz").exists()
    final = train_together(folder, *workers(2))
    assert_equal_weights(final, alone, paths, 1e-6)


SKIPPING = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras
import numpy as np
import tensorflow as tf
from bert_tf.distribution import split_cpu
from bert_tf.losses import Loss, LossTerm
from bert_tf.optimization import LossScale, create_optimizer
from bert_tf.training import TrainStep

class Probe(keras.Model):
    def __init__(self):
        super().__init__()
        self.kernel = self.add_weight(name="kernel", shape=[2], initializer="ones")
    def call(self, inputs, training=False, dropout_seed=None):
        return self.kernel.value * inputs["input_ids"]

loss = Loss(
    lambda outputs, batch: {"loss": LossTerm(tf.reduce_sum(outputs), tf.constant(1.0))},
    lambda batch: {"loss": tf.constant(1.0)},
)
strategy = tf.distribute.MirroredStrategy(split_cpu(2))
with strategy.scope():
    model = Probe()
    scale = LossScale(initial=8.0, growth_interval=2)
    step = TrainStep(model, create_optimizer(0.1, 9, 0), loss, seed=7, loss_scale=scale)
    update = tf.function(lambda ids: strategy.run(step, args=({"input_ids": ids},)))
    for planted in ((1, 1), (1, np.inf), (np.nan, 1), (1, 1), (1, 1)):
        ids = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant([[1.0, planted[context.replica_id_in_sync_group]]])
        )
        values = {n: strategy.experimental_local_results(v) for n, v in update(ids).items()}
        norms = [float(v) for v in values["grad_norm"]]
        print(model.kernel.numpy().tolist(), step.optimizer.adam_v[0].numpy().tolist(), norms,
              *(int(v.numpy()) for v in (step.optimizer.iterations, scale.scale, scale.skipped,
                                         scale.skipped_in_a_row)), sep=";")
"""


def test_what_is_not_finite_on_one_replica_is_skipped_on_all():
    finished = run_forked(SKIPPING)
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()[-5:]
    rows = [[json.loads(part) for part in line.split(";")] for line in lines]
    kernels, slots, norms, steps, scales, skipped, in_a_row = zip(*rows, strict=True)
    assert steps == (1, 2, 3, 4, 5)  # a step that is left out counts
    assert scales == (8, 4, 2, 2, 4)  # halved by each that is left out, doubled after two others
    assert skipped == (0, 1, 2, 2, 2)
    assert in_a_row == (0, 1, 2, 0, 0)
    assert kernels[0] == kernels[1] == kernels[2] != kernels[3] != kernels[4]
    assert slots[0] == slots[1] == slots[2] != slots[3]
    root = pytest.approx(2**0.5)  # the gradient is that of the loss, not of the scaled one
    assert norms == ([root, root], [0, 0], [0, 0], [root, root], [root, root])


# --- what can go wrong --------------------------------------------------------------------------


def settings(**flags):
    return Classification(do_train=True, output_dir="unused", **flags)


# A worker that registers with the others and goes no further.
STALL = """
import bert_tf.distribution
bert_tf.distribution.agreed = lambda index: time.sleep(60)
"""


def test_other_workers_are_waited_for_no_longer_than_asked():
    """One is not there; another program has its port, or the first one's; it is there but stuck."""
    hosts = [free_hosts(2) for _ in range(4)]
    indices = (1, 0, 1, 0)
    with contextlib.ExitStack() as stack:
        for pair, index in zip(hosts[1:3], indices[1:3], strict=True):
            port = int(pair.split(",")[1 - index].rpartition(":")[2])
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        processes = []
        stack.enter_context(ended(processes))
        for pair, index, more in (
            *zip(hosts, indices, [""] * 4, strict=True),
            (hosts[3], 1, STALL),
        ):
            flags = {"worker_hosts": pair, "worker_index": index, "worker_timeout": 4}
            processes.append(Forked(BEGIN + more + AGREE + END, ".", json.dumps(flags)))
        said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [2] * 5, said
    assert f"{hosts[0].partition(',')[0]} did not come up within --worker_timeout=4 sec" in said[0]
    for of_worker in said[1:4]:
        assert "they could not begin together within --worker_timeout=4 seconds" in of_worker


def test_a_loss_while_a_run_begins_leaves_no_folder(tmp_path, monkeypatch):
    def lose(value):
        raise tf.errors.UnavailableError(None, None, "Socket closed")

    monkeypatch.setattr(run_claim, "agreed", lose)
    monkeypatch.setattr(replicas, "has_several_workers", lambda: True)
    settings = Classification(do_train=True, output_dir=str(tmp_path / "out"))
    with (
        pytest.raises(LostWorkerError, match=r"another worker is gone \(Socket closed\)"),
        run_claim.claimed(settings, "run_classifier", ("bert_model.ckpt.index",)),
    ):
        raise AssertionError("nothing begins")
    assert not (tmp_path / "out").exists()


def test_the_cluster_of_flags_and_of_the_environment(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    found = _place_in_cluster(settings(worker_hosts="a:1,b:2", worker_index=1))
    assert found == ({"worker": ["a:1", "b:2"]}, "worker", 1)
    cluster = {"chief": ["c:1"], "worker": ["a:1", "b:2"]}
    monkeypatch.setenv(
        "TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "chief", "index": 0}})
    )
    assert _place_in_cluster(settings()) == (cluster, "chief", 0)


@pytest.mark.parametrize(
    ("precision", "instructions", "warned"),
    [
        ("bfloat16", "sse2 avx2 avx512f", True),
        ("bfloat16", "avx512f avx512_bf16", False),
        ("bfloat16", "asimdhp bf16", False),
        ("float16", "avx512f avx512_bf16", True),
        ("float16", "avx512f avx512_fp16", False),
        ("float32", "sse2", False),
    ],
)
def test_a_precision_that_the_processor_lacks_is_slow(
    precision, instructions, warned, monkeypatch, caplog
):
    said = f"model name : a processor\nflags : {instructions}\n"
    read_text = pathlib.Path.read_text
    monkeypatch.setattr(
        pathlib.Path,
        "read_text",
        lambda path: said if str(path) == "/proc/cpuinfo" else read_text(path),
    )
    with devices_of(settings(precision=precision)):
        pass
    assert ("no instructions for it" in caplog.text) == warned


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        ({"strategy": "multi_worker"}, None, "nothing says who the workers are"),
        ({"worker_hosts": "a:1,b:2"}, None, "--worker_index is missing"),
        ({"worker_hosts": "a:1,b", "worker_index": 1}, None, "'b': a worker's address must be"),
        ({"worker_hosts": "a:1,b:2", "worker_index": 2}, None, "worker 2, but the cluster has 2"),
        ({"strategy": "multi_worker"}, "{", "TF_CONFIG is not JSON"),
        (
            {"strategy": "multi_worker"},
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
            "ps 0, but the cluster has 1 of kind worker",
        ),
        *(
            ({"strategy": "multi_worker"}, json.dumps(said), "TF_CONFIG: expected {")
            for said in (
                [],
                {"cluster": ["a:1"]},
                {"cluster": {"worker": "a:1"}},
                {"cluster": {"worker": [1]}},
                {"cluster": {"worker": ["a:1"]}, "task": 3},
                {"cluster": {"worker": ["a:1"]}, "task": {"index": "x"}},
            )
        ),
        (
            {"strategy": "multi_worker"},
            '{"cluster": {"worker": ["a:1", "b:99999"]}, "task": {"index": 1}}',
            "'b:99999': a worker's address must be HOST:PORT, with a port of 1 to 65535",
        ),
        ({"strategy": "tpu"}, None, "no TPU is found on this machine"),
    ],
)
def test_devices_that_there_are_not(monkeypatch, flags, environment, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if environment is not None:
        monkeypatch.setenv("TF_CONFIG", environment)
    with pytest.raises(InputError, match=message), devices_of(settings(**flags)):
        pass


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_devices": 0}, "--num_devices must be at least 1"),
        ({"num_devices": 2, "strategy": "one_device"}, "--num_devices=2: give one of them"),
        ({"tpu": "node-1"}, "--tpu=node-1: a TPU is used from its own machine"),
        ({"strategy": "mirrored", "use_tpu": True}, "--strategy=mirrored and a TPU"),
        ({"use_tpu": True, "precision": "float16"}, "a TPU has bfloat16"),
        ({"strategy": "mirrored", "worker_hosts": "a:1"}, "it is for --strategy=multi_worker"),
    ],
)
def test_settings_that_contradict_each_other(flags, message):
    with pytest.raises(InputError, match=message):
        settings(**flags)

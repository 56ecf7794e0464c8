"""A command on several devices and workers, as a user starts it: it does what one device does."""

import json

import numpy as np
import pytest
import tensorflow as tf
from forked import COMMAND, Forked
from test_distribution import assert_names_the_loss, ended, free_hosts

WORDS = {"pos": ["good", "great", "love"], "neg": ["bad", "war", "death"]}
FILLER = ["the", "a", "of", "film", "story", "house", "man", "year"]


@pytest.fixture(scope="module")
def flags(testdata, tmp_path_factory):
    """Data and a model without dropout, of which each replica would drop something else."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(6)
    for split, size in (("train", 60), ("dev", 23)):
        lines = ["text\tlabel"]
        for i in range(size):
            label = ("pos", "neg")[i % 2]
            words = [*random.choice(WORDS[label], 2), *random.choice(FILLER, random.integers(1, 9))]
            lines.append(f"{' '.join(words)}\t{label}")
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    original = testdata / "original_tiny"
    config = json.loads((original / "bert_config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "bert_config.json").write_text(json.dumps(config))
    return [
        f"--data_dir={folder}",
        f"--vocab_file={original / 'vocab.txt'}",
        f"--bert_config_file={folder / 'bert_config.json'}",
        f"--init_checkpoint={original / 'model.ckpt-300'}",
        *("--max_seq_length=24", "--learning_rate=1e-4", "--train_batch_size=12"),
        *("--num_train_epochs=2", "--do_train", "--do_eval"),
    ]


@pytest.fixture(scope="module")
def train(flags, tmp_path_factory):
    """Runs the command in as many processes as there are lists of further flags."""

    def train(*more):
        folder = tmp_path_factory.mktemp("run") / "out"
        workers = [
            Forked(COMMAND, "run_classifier", *flags, f"--output_dir={folder}", *of_worker)
            for of_worker in more
        ]
        with ended(workers):
            said = [worker.communicate(timeout=280) for worker in workers]
        assert [worker.returncode for worker in workers] == [0] * len(more), said
        # The first evaluates and prints what the file holds.
        results = json.loads((folder / "eval_results.json").read_text())
        assert json.loads(said[0][0]) == results
        reader = tf.train.load_checkpoint(str(folder / "bert_model.ckpt"))
        names = sorted(reader.get_variable_to_shape_map())
        return {name: reader.get_tensor(name) for name in names}, results, folder

    return train


@pytest.fixture(scope="module")
def alone(train):
    """One device's weights, results and folder, without and with rows that examples share."""
    return [train(["--strategy=one_device", *more]) for more in ([], ["--pack_examples"])]


def two_workers():
    hosts = free_hosts(2)
    return [[f"--worker_hosts={hosts}", f"--worker_index={i}"] for i in range(2)]


@pytest.mark.parametrize(
    ("workers", "more"),
    [
        (lambda: [["--num_devices=2"]], []),
        (lambda: [["--num_devices=3"]], ["--pack_examples", "--micro_batch_size=2"]),
        (two_workers, []),
        (two_workers, ["--pack_examples"]),
    ],
    ids=["2 devices", "3 devices, packed micro-batches", "2 workers", "2 workers, packed"],
)
def test_weights_and_results_are_those_of_one_device(workers, more, train, alone):
    expected, expected_results, _ = alone["--pack_examples" in more]
    found, results, _ = train(*([*flags, *more] for flags in workers()))
    assert set(found) == set(expected)
    # The gradient of a key's bias is 0 but for rounding, of which Adam makes something.
    seen = [name for name in expected if not name.endswith("key/bias")]
    value, goal = (np.concatenate([of[n].ravel() for n in seen]) for of in (found, expected))
    assert np.linalg.norm(value - goal) <= 1e-6 * np.linalg.norm(goal)
    assert results == pytest.approx(expected_results, rel=1e-4)


def test_what_one_worker_refuses_ends_the_other(flags, alone, tmp_path):
    """The other then waits for it: for its model's initial weights, or for its word to begin."""
    finished = f"--output_dir={alone[0][2]}"
    missing = f"--data_dir={tmp_path / 'missing'}"
    cases = [
        (0, finished, "this run is finished"),
        (0, missing, "is not a folder"),
        (1, missing, "is not a folder"),
    ]
    pairs = []
    for number, (refusing, refused, _) in enumerate(cases):
        of_workers = [[f"--output_dir={tmp_path / str(number)}", *more] for more in two_workers()]
        of_workers[refusing].append(refused)
        pairs.append([Forked(COMMAND, "run_classifier", *flags, *more) for more in of_workers])
    with ended([process for pair in pairs for process in pair]):
        for pair, (refusing, _, reason) in zip(pairs, cases, strict=True):
            _, said = pair[refusing].communicate(timeout=120)
            assert pair[refusing].returncode == 2, said
            assert reason in said.splitlines()[-1]
            assert_names_the_loss(pair[1 - refusing])
    assert list(tmp_path.iterdir()) == []

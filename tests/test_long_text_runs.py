"""``run_classifier --long_text`` on texts whose label is told by words that may be anywhere."""

import contextlib
import io
import json

import numpy as np
import pytest

from bert_tf import Predictor
from bert_tf.cli.main import main

WORDS = {"yes": ["good", "great", "best", "love"], "no": ["bad", "war", "death", "lost"]}
OTHER = ["the", "a", "of", "film", "story", "and", "in"]


def write_texts(path, size, seed, place):
    """Texts of 14 to 40 words, of which 12 tell the label; ``place`` gives that of the first."""
    random = np.random.default_rng(seed)
    lines = ["text\tlabel"]
    for _ in range(size):
        label = str(random.choice(["yes", "no"]))
        words = [str(random.choice(OTHER)) for _ in range(random.integers(14, 41))]
        first = place(random, len(words) - 12)
        words[first : first + 12] = random.choice(WORDS[label], 12).tolist()
        lines.append(f"{' '.join(words)}\t{label}")
    path.write_text("\n".join(lines) + "\n")


def run(*arguments):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main([str(argument) for argument in arguments])
    return status, printed.getvalue()


@pytest.fixture
def train(tmp_path, testdata):
    def train(place, *flags):
        folder = testdata / "original_tiny"
        for split, size, seed in (("train", 150, 1), ("dev", 40, 2)):
            write_texts(tmp_path / f"{split}.tsv", size, seed, place)
        output = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        status, printed = run(
            "run_classifier", "--do_train", "--do_eval", f"--data_dir={tmp_path}",
            f"--vocab_file={folder / 'vocab.txt'}",
            f"--bert_config_file={folder / 'bert_config.json'}",
            f"--init_checkpoint={folder / 'model.ckpt-300'}",
            "--max_seq_length=14", "--learning_rate=1e-3", "--bias_correction",
            "--train_batch_size=10", "--num_train_epochs=6", f"--output_dir={output}", *flags,
        )  # fmt: skip
        return status, output, json.loads(printed) if printed else None

    return train


def anywhere(random, last):
    return int(random.integers(last + 1))


def at_the_end(random, last):
    return last


def test_windows_show_words_that_may_be_anywhere(train, tmp_path, caplog):
    _, folder, results = train(
        anywhere, "--long_text=windows", "--window_pooling=attention", "--window_stride=9",
        "--max_windows=9", "--micro_batch_size=5", "--num_train_epochs=10",
    )  # fmt: skip
    assert results["eval_accuracy"] > 0.9
    assert "none cut" in caplog.text
    rows = [line.split("\t") for line in (tmp_path / "dev.tsv").read_text().splitlines()[1:]]
    answers = Predictor.load(folder, batch_size=7).predict([text for text, _ in rows])
    right = [answer["label"] == label for answer, (_, label) in zip(answers, rows, strict=True)]
    assert np.mean(right) == pytest.approx(results["eval_accuracy"])


def test_what_is_shown_decides_what_can_be_learned(train, tmp_path, caplog):
    _, _, tail = train(at_the_end, "--long_text=tail")
    _, _, head = train(at_the_end, "--long_text=head")
    assert tail["eval_accuracy"] > 0.9 > 0.85 > head["eval_accuracy"]
    lines = (tmp_path / "train.tsv").read_text().splitlines()[1:]
    lengths = np.array([len(line.split()) - 1 for line in lines])  # words are pieces here
    lost = np.maximum(lengths - 12, 0).sum() / lengths.sum()
    assert f"{(lengths > 12).sum()} ({(lengths > 12).mean():.1%}) cut, which" in caplog.text
    assert f"leaves out {lost:.1%} of all pieces" in caplog.text
    # Two windows of twelve pieces that share seven show seventeen.
    caplog.clear()
    flags = ("--window_stride=5", "--max_windows=2", "--num_train_epochs=0.1")
    train(at_the_end, "--long_text=windows", *flags)
    lost = np.maximum(lengths - 17, 0).sum() / lengths.sum()
    assert f"leaves out {lost:.1%} of all pieces" in caplog.text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_windows=2"], "--max_windows=2: it is for windows; give --long_text=windows too"),
        (["--long_text=windows", "--window_stride=13"], "would leave pieces out between windows"),
        (["--long_text=tail", "--max_seq_length=2"], "--max_seq_length=2 leaves no room"),
        (["--long_text=middle"], "--long_text=middle"),
        (["--task_name=mrpc", "--long_text=tail"], "it is for single texts, but this task"),
    ],
)
def test_flags_that_do_not_go_together(train, capsys, flags, message):
    status, folder, _ = train(anywhere, *flags)
    assert status == 2
    assert message in capsys.readouterr().err
    assert not folder.exists()

"""The commands as a user runs them, on small data, with the original's small checkpoint."""

import contextlib
import io
import json
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from forked import COMMAND, run_forked

import bert_tf
from bert_tf.checkpoint import save_checkpoint
from bert_tf.checksum import sha256_of
from bert_tf.cli.main import main
from bert_tf.tasks import fine_tuning

POSITIVE = [
    "good",
    "great",
    "best",
    "love",
    "happy",
    "beautiful",
    "fine",
    "strong",
    "free",
    "better",
]
NEGATIVE = ["bad", "war", "death", "lost", "fire", "never", "hard", "against", "dead", "fight"]
FILLER = ["the", "a", "of", "film", "story", "house", "man", "year", "city", "music", "and", "in"]


def sentence(random, words):
    chosen = [*random.choice(words, 3), *random.choice(FILLER, random.integers(2, 9))]
    random.shuffle(chosen)
    return " ".join(chosen)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A task that a small model can learn: which of two word lists a text draws from."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(5)
    for split, size in (("train", 150), ("dev", 46), ("test", 11)):
        rows = []
        for i in range(size):
            words, label = ((POSITIVE, "pos"), (NEGATIVE, "neg"))[i % 2]
            other, other_label = ((POSITIVE, "pos"), (NEGATIVE, "neg"))[i // 2 % 2]
            rows.append(
                {
                    "text": sentence(random, words),
                    "other": sentence(random, other),
                    "label": label,
                    "labels": ",".join(sorted({label, other_label, "text"})),
                    "value": 1.5 if label == "pos" else -0.5,
                }
            )
        columns = [name for name in rows[0] if split != "test" or name in ("text", "other")]
        lines = ["\t".join(columns), *("\t".join(str(row[c]) for c in columns) for row in rows)]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def model_flags(testdata):
    folder = testdata / "original_tiny"
    return [
        f"--vocab_file={folder / 'vocab.txt'}",
        f"--bert_config_file={folder / 'bert_config.json'}",
        f"--init_checkpoint={folder / 'model.ckpt-300'}",
        "--max_seq_length=40",
        "--learning_rate=1e-3",
        "--bias_correction",  # without it, a model as little trained as this one falls apart
        "--train_batch_size=10",
    ]


def run(*arguments):
    """Runs ``bert-tf``; returns what it printed on stdout. stderr goes to pytest's capture."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main([str(argument) for argument in arguments])
    assert status == 0
    return printed.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir, model_flags):
    """A finished single-label run with evaluation and predictions."""
    folder = tmp_path_factory.mktemp("runs") / "single"
    printed = run(
        "run_classifier", "--do_train", "--do_eval=true", "--do_predict", *model_flags,
        f"--data_dir={data_dir}", "--num_train_epochs", "10", "--log_steps=30",
        f"--output_dir={folder}",
    )  # fmt: skip
    return folder, json.loads(printed)


def weights(folder):
    reader = tf.train.load_checkpoint(str(folder / "bert_model.ckpt"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def test_the_run_learns_and_its_folder_is_whole(trained, testdata):
    folder, printed = trained
    results = json.loads((folder / "eval_results.json").read_text())
    assert results == printed
    assert results["eval_accuracy"] > 0.9
    assert results["global_step"] == 150
    assert (folder / "labels.txt").read_text() == "neg\npos\n"
    original = testdata / "original_tiny"
    assert (folder / "vocab.txt").read_text() == (original / "vocab.txt").read_text()
    stored = bert_tf.BertConfig.from_json_file(folder / "bert_config.json")
    assert stored == bert_tf.BertConfig.from_json_file(original / "bert_config.json")
    log = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [30, 60, 90, 120, 150]
    rates = {"examples_per_second", "tokens_per_second"}
    assert set(log[0]) == {"step", "loss", "learning_rate", "grad_norm", *rates}
    assert log[0]["learning_rate"] == pytest.approx(1e-3 * (1 - 29 / 150), rel=1e-6)
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]
    assert list(folder.glob("events.out.tfevents.*"))
    rows = (folder / "test_results.tsv").read_text().splitlines()
    assert len(rows) == 11
    assert all(sum(map(float, row.split("\t"))) == pytest.approx(1, abs=1e-5) for row in rows)
    assert "output_weights" in weights(folder)
    assert not list(folder.glob("*.tmp"))


def test_predict_agrees_with_test_results_and_with_predictor(trained, data_dir, monkeypatch):
    folder, _ = trained
    lines = (data_dir / "test.tsv").read_text().splitlines()[1:]
    texts = [line.split("\t")[0] for line in lines]
    expected = np.loadtxt(folder / "test_results.tsv", delimiter="\t")

    lines = "".join(f"{text}\n" for text in texts)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    from_stdin = run("predict", f"--model_dir={folder}", "--batch_size=4")
    printed = [json.loads(line) for line in from_stdin.splitlines()]
    assert [entry["text"] for entry in printed] == texts
    for entry, row in zip(printed, expected, strict=True):
        assert list(entry) == ["text", "label", "score", "probabilities"]
        assert list(entry["probabilities"].values()) == pytest.approx(list(row), abs=1e-6)
        assert entry["probabilities"][entry["label"]] == entry["score"]
        assert entry["score"] == pytest.approx(row.max(), abs=1e-6)

    as_arguments = run("predict", f"--model_dir={folder}", *texts)
    one_by_one = [json.loads(line) for line in as_arguments.splitlines()]
    in_python = bert_tf.Predictor.load(folder).predict(texts)
    for a, b, c in zip(printed, one_by_one, in_python, strict=True):
        assert a["label"] == b["label"] == c["label"]
        assert a["score"] == pytest.approx(b["score"], abs=1e-6)
        assert b == c


def test_evaluating_again_gives_the_same_results(trained, data_dir, tmp_path, capsys):
    folder, printed = trained
    again = tmp_path / "copy"
    shutil.copytree(folder, again)
    command = ["run_classifier", "--do_eval", f"--output_dir={again}"]
    assert main(command) == 2  # what is there is not replaced unasked
    assert "eval_results.json is there already" in capsys.readouterr().err
    # All else, max_seq_length among it, is the trained run's.
    results = json.loads(run(*command, "--overwrite"))
    assert results["eval_accuracy"] == printed["eval_accuracy"]
    assert results["eval_loss"] == pytest.approx(printed["eval_loss"], rel=1e-5)
    assert results["global_step"] == printed["global_step"]
    before, after = weights(folder), weights(again)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert (again / "test_results.tsv").exists()  # --overwrite replaced the evaluation only
    assert main([*command, "--overwrite", "--vocab_file=other.txt"]) == 2
    assert "a model of its own" in capsys.readouterr().err


def test_results_of_the_weights_that_training_begins_with(
    trained, data_dir, model_flags, tmp_path, capsys
):
    folder, _ = trained
    shutil.copytree(data_dir, tmp_path / "data")
    shutil.copy(folder / "labels.txt", tmp_path / "data")
    flags = [f"--data_dir={tmp_path / 'data'}", f"--output_dir={tmp_path / 'out'}"]
    model_flags = [*model_flags, f"--init_checkpoint={folder / 'bert_model.ckpt'}"]
    run("run_classifier", "--do_eval", *model_flags, *flags)
    results = (tmp_path / "out" / "eval_results.json").read_text()
    assert main(["run_classifier", "--do_train", *model_flags, *flags]) == 2
    assert "eval_results.json is there already" in capsys.readouterr().err
    assert (tmp_path / "out" / "eval_results.json").read_text() == results


def test_a_trained_model_predicts_a_file_of_another_form(trained, tmp_path):
    folder, _ = trained
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("test_results.tsv"))
    (tmp_path / "lines.tsv").write_text("good great film\n\nbad war film\n")
    run(
        "run_classifier", "--do_predict", "--text_column=0", "--nohas_header",
        f"--test_file={tmp_path / 'lines.tsv'}", f"--output_dir={copy}",
    )  # fmt: skip
    rows = np.loadtxt(copy / "test_results.tsv", delimiter="\t")
    assert rows.shape == (3, 2)  # one row per line, the empty one too
    assert rows[0, 1] > 0.5 > rows[2, 1]


def test_a_trained_checkpoint_predicts_into_another_folder(
    trained, data_dir, model_flags, tmp_path
):
    folder, _ = trained
    flags = [flag for flag in model_flags if not flag.startswith("--init_checkpoint")]
    run(
        "run_classifier", "--do_predict", *flags, f"--init_checkpoint={folder / 'bert_model.ckpt'}",
        f"--data_dir={data_dir}", "--labels=neg,pos", f"--output_dir={tmp_path / 'p'}",
    )  # fmt: skip
    assert np.loadtxt(tmp_path / "p/test_results.tsv", delimiter="\t") == pytest.approx(
        np.loadtxt(folder / "test_results.tsv", delimiter="\t"), abs=1e-5
    )


@pytest.mark.parametrize("task_type", ["multi_label", "regression", "pairs"])
def test_other_kinds_of_task(task_type, data_dir, model_flags, tmp_path):
    folder = tmp_path / "run"
    kind = {
        "multi_label": ["--task_type=multi_label", "--label_column=labels"],
        "regression": ["--task_type=regression", "--label_column=value"],
        "pairs": ["--text_b_column=other"],
    }[task_type]
    results = json.loads(
        run("run_classifier", "--do_train", "--do_eval", "--do_predict", *model_flags, *kind,
            f"--data_dir={data_dir}", "--num_train_epochs=10", f"--output_dir={folder}")
    )  # fmt: skip
    predictor = bert_tf.Predictor.load(folder)
    if task_type == "multi_label":
        assert results["eval_f1_micro"] > 0.8
        answer = predictor.predict(["good great love film"])[0]
        assert {"pos", "text"} <= set(answer["labels"])
        assert answer["probabilities"]["text"] > 0.5
    elif task_type == "regression":
        assert results["eval_pearson"] > 0.5
        good, bad = predictor.predict(["good great love film", "bad war death film"])
        assert set(good) == {"text", "score"}
        assert good["score"] > bad["score"]
    else:
        assert results["eval_accuracy"] > 0.8
        (answer,) = predictor.predict([("good great love film", "bad war film")])
        assert answer["label"] == "pos"
        assert answer["text_b"] == "bad war film"
        printed = run("predict", f"--model_dir={folder}", "good great love film\tbad war film")
        assert json.loads(printed) == answer
        with pytest.raises(ValueError, match=r"texts\[1\] must be a pair"):
            predictor.predict([("a", "b"), "c"])
        assert len(predictor.predict(pair for pair in [("a", "b"), ("c", "d")])) == 2


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precisions(precision, data_dir, model_flags, tmp_path, trained):
    folder = tmp_path / "run"
    results = json.loads(
        run("run_classifier", "--do_train", "--do_eval", *model_flags,
            f"--precision={precision}", f"--data_dir={data_dir}", "--num_train_epochs=10",
            f"--output_dir={folder}")
    )  # fmt: skip
    assert results["eval_accuracy"] > 0.8
    log = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    if precision == "float16":
        assert {line["loss_scale"] for line in log} == {2.0**15}
        assert log[-1]["skipped_steps"] == 0
    # Variables are float32, and another precision leaves other ones.
    assert all(w.dtype == np.float32 for w in weights(folder).values())
    assert any((weights(folder)[n] != w).any() for n, w in weights(trained[0]).items())
    # By itself, the model is used in float32.
    predicted = bert_tf.Predictor.load(folder).predict(["good great love film"])
    assert predicted[0]["label"] == "pos"


def test_the_best_seed_has_the_highest_value():
    assert fine_tuning._best({5: 0.25, 6: 0.75, 7: 0.5}) == 6
    assert fine_tuning._best({5: float("nan"), 6: 0.25, 7: 0.5}) == 7


def test_several_seeds(data_dir, model_flags, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    read = []
    checksum = lambda path: read.append(path) or sha256_of(path)  # noqa: E731
    monkeypatch.setattr(fine_tuning, "sha256_of", checksum)
    command = [
        "run_classifier", "--do_train", "--do_eval", *model_flags, f"--data_dir={data_dir}",
        "--num_train_epochs=1", "--num_seeds=3", "--seed=7", f"--output_dir={folder}",
    ]  # fmt: skip
    results = json.loads(run(*command))
    assert read == [data_dir / "train.tsv"]  # once for all seeds
    single = {
        seed: json.loads((folder / f"seed_{seed}" / "eval_results.json").read_text())
        for seed in (7, 8, 9)
    }
    values = [result["eval_accuracy"] for result in single.values()]
    assert results["eval_accuracy"] == pytest.approx(sum(values) / 3)
    mean = sum(values) / 3
    assert results["eval_accuracy_std"] == pytest.approx(
        (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
    )
    assert results["eval_accuracy_best"] == max(values)
    losses = [result["eval_loss"] for result in single.values()]
    assert len(set(losses)) == 3  # another seed is another run
    best = weights(folder / f"seed_{int(results['best_seed'])}")
    assert all(np.array_equal(best[name], value) for name, value in weights(folder).items())
    assert bert_tf.Predictor.load(folder).predict(["good film"])[0]["label"] in ("neg", "pos")
    assert main(command) == 2  # finished
    (folder / "eval_results.json").unlink()
    train_file = (data_dir / "train.tsv").read_text()
    (data_dir / "train.tsv").write_text(train_file + train_file.splitlines()[-1] + "\n")
    assert main(command) == 2
    assert "train_file changed" in capsys.readouterr().err
    (data_dir / "train.tsv").write_text(train_file)
    command.append("--do_predict")  # not finished: the predictions are missing
    assert json.loads(run(*command)) == results
    for place in (folder, *(folder / f"seed_{seed}" for seed in single)):
        assert len((place / "test_results.tsv").read_text().splitlines()) == 11


def command_line(data_dir, model_flags, folder, *more):
    """Of a run that learns its task between steps 50 and 75; with most other seeds it does not."""
    return [
        "run_classifier", "--do_train", "--do_eval", *model_flags, f"--data_dir={data_dir}",
        "--num_train_epochs=6", "--log_steps=1", "--save_checkpoints_steps=4", "--seed=15",
        f"--output_dir={folder}", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_dir, model_flags):
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    run(*command_line(data_dir, model_flags, folder))
    return folder


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, data_dir, model_flags):
    """The folder of the same run, evaluated every 25 steps and after the last.

    Its dev set is so easy that all of it is right some time before the end.
    """
    rows = [(" ".join(POSITIVE[i : i + 4]), "pos") for i in range(7)]
    rows += [(" ".join(NEGATIVE[i : i + 4]), "neg") for i in range(5)]
    table = "".join(f"{text}\t{label}\n" for text, label in [("text", "label"), *rows])
    (data_dir / "easy.tsv").write_text(table)
    folder = tmp_path_factory.mktemp("runs") / "evaluated"
    run(*evaluated_command(data_dir, model_flags, folder))
    return folder


def evaluated_command(data_dir, model_flags, folder):
    more = ("--eval_steps=25", f"--dev_file={data_dir / 'easy.tsv'}")
    return command_line(data_dir, model_flags, folder, *more)


def without_rates(folder):
    lines = map(json.loads, (folder / "train_log.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if not k.endswith("_per_second")} for line in lines]


def assert_same_weights(one, other):
    one, other = weights(one), weights(other)
    assert set(one) == set(other)
    for name in one:
        assert np.array_equal(one[name], other[name]), name


def test_the_best_model_so_far_is_kept_and_the_last_one_is_the_runs(
    evaluated, undisturbed, data_dir, model_flags, tmp_path
):
    assert_same_weights(evaluated, undisturbed)
    lines = [line for line in without_rates(evaluated) if "eval_accuracy" in line]
    assert [line["step"] for line in lines] == [25, 50, 75, 90]
    best = max(lines, key=lambda line: line["eval_accuracy"])  # of several, the first
    assert 25 < best["step"] < 90
    assert (weights(evaluated / "best")["output_bias"] != weights(evaluated)["output_bias"]).any()
    kept = json.loads((evaluated / "best" / "eval_results.json").read_text())
    found = {name: value for name, value in best.items() if name.startswith("eval_")}
    assert kept == {**found, "global_step": best["step"]}
    again = run(
        "run_classifier", "--do_eval", *model_flags, f"--dev_file={data_dir / 'easy.tsv'}",
        "--labels=neg,pos", f"--init_checkpoint={evaluated / 'best' / 'bert_model.ckpt'}",
        f"--output_dir={tmp_path / 'again'}",
    )  # fmt: skip
    assert json.loads(again) == pytest.approx(found)
    predicted = run("predict", f"--model_dir={evaluated / 'best'}", "good great love film")
    assert json.loads(predicted)["label"] == "pos"
    names = {path.name for path in (evaluated / "best").iterdir()}
    names = {name for name in names if not name.startswith("events.")}
    assert names == {
        "bert_config.json", "bert_model.ckpt.data-00000-of-00001", "bert_model.ckpt.index",
        "calibration.png", "confusion_matrix.png", "eval_errors.jsonl", "eval_results.json",
        "labels.txt", "run_config.yaml", "vocab.txt",
    }  # fmt: skip


def test_a_run_that_is_stopped_in_an_evaluation_is_that_of_an_undisturbed_one(
    evaluated, data_dir, model_flags, tmp_path, monkeypatch, capsys
):
    data, stopped = tmp_path / "data", tmp_path / "stopped"
    shutil.copytree(data_dir, data)
    command = evaluated_command(data, model_flags, stopped)
    best_so_far = {}  # accuracy -> the step that was best with it
    for line in without_rates(evaluated):
        if line.get("eval_accuracy", -1) > max(best_so_far, default=-1):
            best_so_far[line["eval_accuracy"]] = line["step"]
    *_, last_but_one, stop = best_so_far.values()
    saved = []

    def save(model, path):
        """When nearly all of the run's best model is written, it is asked to stop."""
        save_checkpoint(model, path)
        saved.append(path)
        if len(saved) == len(best_so_far):
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(fine_tuning, "save_checkpoint", save)
        assert main(command) == 143
    assert without_rates(stopped)[:-1] == without_rates(evaluated)[: stop - 1]
    last = without_rates(stopped)[-1]
    assert last["step"] == stop and not any(name.startswith("eval_") for name in last)
    kept = json.loads((stopped / "best" / "eval_results.json").read_text())
    assert kept["global_step"] == last_but_one
    assert not list(stopped.glob(".best*"))

    # It does not go on with something else.
    train_file = (data / "train.tsv").read_text()
    (data / "train.tsv").write_text(train_file.replace("good", "bad", 1))
    assert main(command) == 2
    assert "since the run there was cut off, train_file changed" in capsys.readouterr().err
    (data / "train.tsv").write_text(train_file)
    (data / "labels.txt").write_text("pos\nneg\n")
    assert main(command) == 2
    assert "since the run there was cut off, labels changed" in capsys.readouterr().err
    (data / "labels.txt").unlink()

    run(*command)
    assert without_rates(stopped) == without_rates(evaluated)
    assert_same_weights(stopped, evaluated)
    one, other = stopped / "best", evaluated / "best"
    assert_same_weights(one, other)
    for name in ("eval_results.json", "eval_errors.jsonl", "labels.txt"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_the_stored_configuration_repeats_a_run(trained, tmp_path):
    folder, _ = trained
    run(
        "run_classifier", "--config", folder / "run_config.yaml", f"--output_dir={tmp_path / 'r'}",
        "--nodo_predict",
    )  # fmt: skip
    one, other = weights(folder), weights(tmp_path / "r")
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "mistake",
    ["--max_seq_length=2", "--num_train_epochs=0.01", "--init_checkpoint={damaged}"],
)
def test_overwrite_keeps_the_old_run_until_the_new_one_can_start(
    mistake, trained, data_dir, model_flags, testdata, tmp_path
):
    folder, _ = trained
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    original = testdata / "original_tiny" / "model.ckpt-300"
    shutil.copy(f"{original}.index", tmp_path / "d.ckpt.index")
    data = pathlib.Path(f"{original}.data-00000-of-00001").read_bytes()
    (tmp_path / "d.ckpt.data-00000-of-00001").write_bytes(data[:1000])
    status = main(
        ["run_classifier", "--do_train", *model_flags, f"--data_dir={data_dir}", "--overwrite",
         f"--output_dir={copy}", mistake.format(damaged=tmp_path / "d.ckpt")]
    )  # fmt: skip
    assert status == 2
    assert bert_tf.Predictor.load(copy).predict(["good film"])
    assert (copy / "eval_results.json").read_text() == (folder / "eval_results.json").read_text()


def test_overwrite_keeps_the_old_run_if_replicas_cannot_share_a_batch(
    trained, data_dir, model_flags, tmp_path
):
    folder, _ = trained
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    refused = run_forked(
        COMMAND, "run_classifier", "--do_train", *model_flags, f"--data_dir={data_dir}",
        f"--output_dir={copy}", "--overwrite", "--num_devices=2", "--train_batch_size=5",
    )  # fmt: skip
    assert refused.returncode == 2, refused.stderr
    assert "--train_batch_size=5 cannot be shared evenly by 2 replicas" in refused.stderr
    assert "goes on with 1, 5 replicas" in refused.stderr
    assert (copy / "eval_results.json").read_text() == (folder / "eval_results.json").read_text()


class TestBadInput:
    """Each mistake: exit status 2, one clear message, and no output folder left behind."""

    @pytest.fixture
    def fails(self, data_dir, model_flags, tmp_path, capsys):
        def check(*arguments, says, flags=model_flags, folder=tmp_path / "out"):
            existed = sorted(folder.iterdir()) if folder.is_dir() else None
            status = main(
                ["run_classifier", "--do_train", *flags, f"--data_dir={data_dir}",
                 f"--output_dir={folder}", *arguments]
            )  # fmt: skip
            message = capsys.readouterr().err
            assert status == 2
            for part in says if isinstance(says, tuple) else (says,):
                assert part in message
            assert "Traceback" not in message
            if existed is None:
                assert not folder.exists()
            else:
                assert sorted(folder.iterdir()) == existed

        return check

    def test_missing_column(self, fails):
        fails("--text_column=txt", says=("train.tsv", "txt", "'text', 'other', 'label'"))

    def test_unknown_label(self, fails, tmp_path):
        dev = tmp_path / "dev.tsv"
        dev.write_text("text\tlabel\ngood\tpos\nso so\tmeh\n")
        fails("--do_eval", f"--dev_file={dev}", says=("dev.tsv:3", "meh", "'neg', 'pos'"))

    def test_empty_file(self, fails, tmp_path):
        (tmp_path / "empty.tsv").write_text("")
        fails(f"--train_file={tmp_path / 'empty.tsv'}", says=("empty.tsv", "empty"))

    def test_header_without_rows(self, fails, tmp_path):
        (tmp_path / "bare.tsv").write_text("text\tlabel\n")
        fails(f"--train_file={tmp_path / 'bare.tsv'}", says="bare.tsv")

    def test_vocabulary_that_does_not_fit(self, fails, tmp_path, testdata):
        pieces = (testdata / "original_tiny/vocab.txt").read_text().splitlines()[:-3]
        (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
        fails(f"--vocab_file={tmp_path / 'vocab.txt'}", says=("2045 pieces", "vocab_size 2048"))

    def test_id_out_of_range(self, fails, tmp_path):
        (tmp_path / "labels.txt").write_text("joy\nfear\n")
        (tmp_path / "train.tsv").write_text("fine\t0\tx1\nbad\t0,2\tx2\n")
        fails(
            "--task_name=goemotions", f"--data_dir={tmp_path}", says=("train.tsv:2", "2", "labels")
        )

    def test_configuration_of_another_checkpoint(self, fails, tmp_path, testdata):
        values = json.loads((testdata / "original_tiny/bert_config.json").read_text())
        (tmp_path / "bert_config.json").write_text(json.dumps({**values, "num_hidden_layers": 5}))
        fails(
            f"--bert_config_file={tmp_path / 'bert_config.json'}",
            says=("num_hidden_layers is 5", "3 in the checkpoint"),
        )

    def test_missing_files(self, fails, tmp_path):
        fails(f"--init_checkpoint={tmp_path / 'no.ckpt'}", says="no checkpoint")
        fails(f"--vocab_file={tmp_path / 'no.txt'}", says="no.txt")
        fails(f"--bert_config_file={tmp_path / 'no.json'}", says="no.json")
        fails(f"--data_dir={tmp_path / 'nowhere'}", says="nowhere")

    def test_sequence_longer_than_the_positions(self, fails):
        fails("--max_seq_length=129", says=("--max_seq_length=129", "128"))
        fails("--max_seq_length=2", says="max_seq_length 2 is too small")

    def test_too_few_examples_for_a_step(self, fails, tmp_path):
        (tmp_path / "few.tsv").write_text("text\tlabel\ngood\tpos\nbad\tneg\n")
        fails(f"--train_file={tmp_path / 'few.tsv'}", says=("few.tsv", "2 examples"))

    def test_folder_with_other_files(self, fails, tmp_path):
        folder = tmp_path / "thesis"
        folder.mkdir()
        (folder / "chapter1.txt").write_text("…")
        fails(folder=folder, says=("thesis", "not empty", "chapter1.txt"))

    def test_finished_folder_and_other_configuration(self, fails, trained, model_flags):
        folder, _ = trained
        fails("--num_train_epochs=10", folder=folder, says=("finished", "--overwrite"))
        fails(
            "--num_train_epochs=10",
            "--seed=99",
            folder=folder,
            says=("another configuration", "seed is 12345 there and 99 here"),
        )

    def test_folder_in_use(self, fails, tmp_path):
        folder = tmp_path / "busy"
        folder.mkdir()
        holder = subprocess.Popen(
            [sys.executable, "-c",
             "import fcntl, sys, time; f = open(sys.argv[1], 'w');"
             "fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)",
             str(folder / ".lock")],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            fails(folder=folder, says=("busy", "in use"))
        finally:
            holder.kill()
            holder.communicate()

    def test_checkpoint_without_the_head(self, fails, data_dir, model_flags, tmp_path, capsys):
        folder = tmp_path / "new"
        status = main(
            ["run_classifier", "--do_eval", *model_flags, f"--data_dir={data_dir}",
             "--labels=neg,pos", f"--output_dir={folder}"]
        )  # fmt: skip
        assert status == 2
        assert "output_weights" in capsys.readouterr().err
        assert not folder.exists()


@pytest.mark.parametrize(("flags", "given"), [([], "False"), (["--recompute"], "True")])
def test_recompute_reaches_the_training_step(
    flags, given, data_dir, model_flags, tmp_path, monkeypatch
):
    def step(*arguments, recompute, **more):
        raise RuntimeError(f"recompute is {recompute}")

    monkeypatch.setattr("bert_tf.tasks.fine_tuning.TrainStep", step)
    with pytest.raises(RuntimeError, match=f"recompute is {given}"):
        run(
            "run_classifier", "--do_train", *model_flags, f"--data_dir={data_dir}",
            f"--output_dir={tmp_path / 'out'}", *flags,
        )  # fmt: skip


def test_a_full_disk_leaves_nothing_half_written(data_dir, model_flags, tmp_path):
    folder = tmp_path / "out"
    # Files of this process may grow to 300 kB: enough for the configuration, not for the weights.
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); {COMMAND}"
    )
    arguments = [
        "run_classifier", "--do_train", *model_flags, f"--data_dir={data_dir}",
        "--num_train_epochs=0.2", f"--output_dir={folder}",
    ]  # fmt: skip
    failed = run_forked(code, *arguments)
    assert failed.returncode == 2, failed.stderr
    assert "cannot write" in failed.stderr
    assert not list(folder.glob("bert_model.ckpt*"))
    assert not list(folder.glob("*.tmp*"))
    run(*arguments)  # with space again, the same command goes on
    assert (folder / "bert_model.ckpt.index").exists()

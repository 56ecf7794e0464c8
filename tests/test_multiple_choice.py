"""``bert-tf run_multiple_choice`` as a user runs it, and Predictor, on a small model."""

import contextlib
import csv
import dataclasses
import io
import json

import keras
import numpy as np
import pytest
import scipy.special

from bert_tf import Predictor
from bert_tf.cli.main import main
from bert_tf.config import MultipleChoice
from bert_tf.errors import InputError
from bert_tf.tasks.choice_data import Question
from bert_tf.tasks.choice_scorer import ChoiceScorer
from bert_tf.tokenization import FullTokenizer

WORDS = {
    "good": ["great", "best", "love"],
    "bad": ["war", "death", "lost"],
    "other": ["the city", "a year", "house"],
}
COLUMNS = ["", "sent1", "sent2", "ending0", "ending1", "ending2", "label"]


def make_rows(random, size, share_good):
    """SWAG's columns: the right ending is a word of the kind that the context names."""
    for number in range(size):
        kind, wrong = ("good", "bad") if random.random() < share_good else ("bad", "good")
        kinds = random.permutation([kind, wrong, "other"]).tolist()
        endings = [str(random.choice(WORDS[name])) for name in kinds]
        yield [number, kind, "a", *endings, kinds.index(kind)]


def write_table(path, rows, columns):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(5)
    # A kind that is the right one more often is learned first, and its exceptions soon after.
    write_table(folder / "train.csv", make_rows(random, 150, 0.7), COLUMNS)
    write_table(folder / "val.csv", make_rows(random, 31, 0.5), COLUMNS)
    unlabelled = [row[:-1] for row in make_rows(random, 7, 0.5)]
    write_table(folder / "test.csv", unlabelled, COLUMNS[:-1])
    return folder


@pytest.fixture(scope="module")
def model_flags(testdata, original_tiny, tmp_path_factory):
    folder = testdata / "original_tiny"
    # Few steps will do without dropout.
    config = dataclasses.replace(
        original_tiny[0], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    config_file = tmp_path_factory.mktemp("config") / "bert_config.json"
    config_file.write_text(config.to_json_string())
    return [
        f"--vocab_file={folder / 'vocab.txt'}",
        f"--bert_config_file={config_file}",
        f"--init_checkpoint={folder / 'model.ckpt-300'}",
        "--max_seq_length=13",
        "--learning_rate=1e-3",
        "--bias_correction",
        "--train_batch_size=10",
        "--micro_batch_size=5",
    ]


def run(*arguments):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main(["run_multiple_choice", *map(str, arguments)])
    assert status == 0
    return json.loads(printed.getvalue())


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir, model_flags):
    folder = tmp_path_factory.mktemp("runs") / "run"
    results = run(
        "--do_train", "--do_eval", "--do_predict", *model_flags, f"--data_dir={data_dir}",
        "--num_train_epochs=12", f"--output_dir={folder}", "--num_seeds=2", "--eval_steps=100",
    )  # fmt: skip
    return folder, results


def read_table(path):
    return [[float(value) for value in line.split("\t")] for line in path.read_text().splitlines()]


def test_the_run_learns(trained):
    folder, results = trained
    assert json.loads((folder / "eval_results.json").read_text()) == results
    assert results["eval_accuracy_best"] > 0.9
    assert results["eval_loss_best"] < 0.5
    assert results["global_step"] == 180
    rows = np.array(read_table(folder / "test_results.tsv"))
    assert rows.shape == (7, 3)
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=0, atol=1e-6)


def test_the_best_model_so_far_of_each_seed_is_kept(trained, data_dir):
    folder, _ = trained
    texts, labels = read_swag(data_dir / "val.csv")
    for path in folder.glob("seed_*"):
        kept = json.loads((path / "best" / "eval_results.json").read_text())
        lines = map(json.loads, (path / "train_log.jsonl").read_text().splitlines())
        of_step = {line["step"]: line["eval_accuracy"] for line in lines if "eval_loss" in line}
        assert list(of_step) == [100, 180]
        assert of_step[kept["global_step"]] == kept["eval_accuracy"] == max(of_step.values())
        found = Predictor.load(path / "best").predict(texts)
        right = [item["label"] == label for item, label in zip(found, labels, strict=True)]
        assert kept["eval_accuracy"] == pytest.approx(np.mean(right))


def test_the_worst_errors_are_the_questions_with_a_wrong_choice(trained):
    folder, results = trained
    errors = [json.loads(line) for line in (folder / "eval_errors.jsonl").read_text().splitlines()]
    assert len(errors) == round((1 - results["eval_accuracy_best"]) * 31)
    losses = [error["loss"] for error in errors]
    assert losses == sorted(losses, reverse=True)
    for error in errors:
        assert error["label"] != error["predicted"]
        # What is written is more likely than the right one.
        assert error["score"] > np.exp(-error["loss"])
    assert (folder / "calibration.png").stat().st_size > 1000


def read_swag(path):
    """What Predictor takes, and the labels if there are any."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    texts = [[row["sent1"], [f"a {row[f'ending{i}']}" for i in range(3)]] for row in rows]
    return texts, [int(row.get("label", -1)) for row in rows]


def test_the_figures_are_those_of_the_predictions(trained, data_dir):
    folder, results = trained
    texts, labels = read_swag(data_dir / "val.csv")
    found = Predictor.load(folder).predict(texts)
    right = [item["label"] == label for item, label in zip(found, labels, strict=True)]
    chances = [item["probabilities"][label] for item, label in zip(found, labels, strict=True)]
    assert results["eval_accuracy_best"] == pytest.approx(np.mean(right))
    assert results["eval_loss_best"] == pytest.approx(-np.mean(np.log(chances)), abs=1e-5)


def test_evaluating_again_gives_the_same(trained, data_dir):
    folder, results = trained
    best = folder / f"seed_{results['best_seed']:.0f}"
    again = run("--do_eval", f"--data_dir={data_dir}", f"--output_dir={best}", "--overwrite")
    for name in ("eval_accuracy", "eval_loss"):
        assert again[name] == pytest.approx(results[f"{name}_best"])


def test_predictor_says_what_the_run_predicted(trained, data_dir, capsys):
    folder, _ = trained
    texts, _ = read_swag(data_dir / "test.csv")
    texts.append(("bad", ["a love", "a war", "a the city", "a long and good year"]))
    predictor = Predictor.load(folder, batch_size=3)
    *found, longer = predictor.predict(texts)
    np.testing.assert_allclose(
        [item["probabilities"] for item in found],
        read_table(folder / "test_results.tsv"),
        rtol=0,
        atol=1e-6,
    )
    for (context, choices), item in zip(texts, [*found, longer], strict=True):
        assert (item["text"], item["choices"]) == (context, choices)
        assert item["choice"] == choices[item["label"]]
        assert item["score"] == max(item["probabilities"])
        assert item["score"] == item["probabilities"][item["label"]]
    assert longer["choice"] == "a war"
    assert sum(longer["probabilities"]) == pytest.approx(1)
    context, choices = texts[-1]
    assert main(["predict", f"--model_dir={folder}", "\t".join([context, *choices])]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer.keys() == longer.keys()
    for name, value in longer.items():
        is_number = name in ("score", "probabilities")
        assert answer[name] == (pytest.approx(value, abs=1e-6) if is_number else value)
    assert main(["predict", f"--model_dir={folder}", "a\tb"]) == 2
    assert "input 1: this model takes a context and at least 2 choices" in capsys.readouterr().err
    for text, message in (
        ("a", r"texts\[0\] must be a pair \(str, \[str, …\]\)"),
        (("a", "bc"), "must be a pair"),
        (("a", ["b", 3]), "must be a pair"),
        (("a", ["b"]), r"texts\[0\]: a question needs at least 2 choices, but this one has 1"),
        (("a", ["b", " "]), r"texts\[0\]: choice 1 \(from 0\) is empty"),
    ):
        with pytest.raises(InputError, match=message):
            predictor.predict([text])


@pytest.mark.parametrize("fixed_length", [False, True])
def test_a_question_gets_what_its_rows_get_one_by_one(original_tiny, testdata, fixed_length):
    # Of the small model itself, the pooled outputs of all texts are nearly equal.
    config = dataclasses.replace(original_tiny[0], initializer_range=0.3)
    tokenizer = FullTokenizer(testdata / "original_tiny" / "vocab.txt", do_lower_case=True)
    settings = MultipleChoice(
        do_train=True, output_dir="-", max_seq_length=13, fixed_length=fixed_length
    )
    keras.utils.set_random_seed(3)
    scorer = ChoiceScorer(settings, config, tokenizer)
    questions = [
        Question("the film", ["good " * 20, "war", "it is"]),
        Question("the story of a man and " * 3, ["love and death in the city", "a"]),
        Question("year", ["one", "two", "three", "four", "five"]),
    ]
    labels = np.array([1, 0, 4], np.int32)
    features = scorer.features(questions, labels)
    assert features.texts.num_truncated == 3
    found, losses = scorer.logits(features, batch_size=2)
    expected = []
    for context, choices in questions:
        scores = []
        for choice in choices:
            a, b = tokenizer.tokenize(context), tokenizer.tokenize(choice)
            while len(a) + len(b) > 13 - 3:
                (a if len(a) > len(b) else b).pop()
            ids = tokenizer.convert_tokens_to_ids(["[CLS]", *a, "[SEP]", *b, "[SEP]"])
            segments = [0] * (len(a) + 2) + [1] * (len(b) + 1)
            row = {"input_ids": np.array([ids]), "segment_ids": np.array([segments])}
            pooled = scorer.model.bert(row)["pooled_output"].numpy()
            scores.append((pooled @ scorer.model.output_weights.numpy().T).item())
        assert np.ptp(scores) > 0.1
        expected.append(scores)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
    likelihoods = [
        scipy.special.log_softmax(scores)[label]
        for scores, label in zip(expected, labels, strict=True)
    ]
    assert losses["loss"] == pytest.approx(-np.mean(likelihoods), abs=1e-4)


def test_what_is_wrong_with_a_file_is_said_before_anything_is_written(
    tmp_path, model_flags, data_dir, capsys
):
    bad = tmp_path / "dev.jsonl"
    bad.write_text('{"context": "a", "choices": ["b", "c"], "label": 2}\n')
    flags = [*model_flags, f"--data_dir={data_dir}", f"--dev_file={bad}"]
    arguments = ["--do_train", "--do_eval", *flags, f"--output_dir={tmp_path / 'run'}"]
    assert main(["run_multiple_choice", *arguments]) == 2
    assert f"{bad}:1: the label has to be the number" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

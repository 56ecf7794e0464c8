"""``bert-tf run_squad`` as a user runs it, and Predictor, on what a small model can learn."""

import contextlib
import io
import json

import numpy as np
import pytest

from bert_tf import Predictor
from bert_tf.answer_metrics import answer_metrics, answer_scores
from bert_tf.answer_spans import Answer, Span
from bert_tf.checkpoint import load_checkpoint
from bert_tf.cli.main import main
from bert_tf.config import ModelFiles, QuestionAnswering
from bert_tf.errors import InputError
from bert_tf.tasks.answer_finder import AnswerFinder, question_losses
from bert_tf.tokenization import FullTokenizer

GOOD = ["Good", "GREAT", "best", "love", "happy", "beautiful", "fine"]
BAD = ["bad", "War", "death", "lost", "fire", "never", "hard"]
FILES = {"vocab_file": "vocab.txt", "bert_config_file": "bert_config.json"}
OTHER = ["the", "a", "of", "film", "story", "and", "in"]


def make_paragraph(random, number, impossible):
    """A context with one good word, or if it may be impossible with none, and two questions."""
    size = int(random.integers(4, 30))
    words = [str(random.choice(OTHER + BAD)) for _ in range(size)]
    place = int(random.integers(size))
    answers = []
    if not impossible or random.random() < 0.6:
        words[place] = str(random.choice(GOOD))
        start = len(", ".join([*words[:place], ""]))
        answers.append({"text": words[place], "answer_start": start})
    qas = []
    for name in ("a", "b"):
        qas.append({"id": f"{number}{name}", "question": "good ?", "answers": answers})
        if impossible:
            qas[-1]["is_impossible"] = not answers
    return {"context": ", ".join(words) + ".", "qas": qas}


def write_squad(path, size, seed, impossible):
    random = np.random.default_rng(seed)
    paragraphs = [make_paragraph(random, number, impossible) for number in range(size)]
    path.write_text(json.dumps({"version": "x", "data": [{"paragraphs": paragraphs}]}))
    return {qa["id"]: (p["context"], qa) for p in paragraphs for qa in p["qas"]}


@pytest.fixture(scope="module")
def model_flags(testdata):
    folder = testdata / "original_tiny"
    return [
        f"--vocab_file={folder / 'vocab.txt'}",
        f"--bert_config_file={folder / 'bert_config.json'}",
        f"--init_checkpoint={folder / 'model.ckpt-300'}",
        "--max_seq_length=28",
        "--max_query_length=8",
        "--doc_stride=9",
        "--learning_rate=1e-3",
        "--bias_correction",
        "--train_batch_size=16",
    ]


def run(*arguments):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main([str(argument) for argument in arguments])
    assert status == 0
    return printed.getvalue()


@pytest.fixture(scope="module", params=[False, True], ids=["v1.1", "v2.0"])
def trained(request, tmp_path_factory, model_flags):
    """(folder of the run, its results, questions by id, whether some have no answer)."""
    folder = tmp_path_factory.mktemp("squad")
    write_squad(folder / "train.json", 70, 3, request.param)
    questions = write_squad(folder / "dev.json", 25, 4, request.param)
    printed = run(
        "run_squad", "--do_train", "--do_eval", "--do_predict", *model_flags,
        f"--train_file={folder / 'train.json'}", f"--predict_file={folder / 'dev.json'}",
        "--num_train_epochs=20", "--eval_steps=100", f"--output_dir={folder / 'run'}",
        *(["--version_2_with_negative"] if request.param else []),
    )  # fmt: skip
    return folder / "run", json.loads(printed), questions, request.param


def test_the_run_learns_and_its_figures_are_those_of_its_predictions(trained):
    folder, printed, questions, with_null = trained
    results = json.loads((folder / "eval_results.json").read_text())
    assert results == printed
    assert results["f1"] > 85
    assert results["eval_loss"] < 1
    predictions = json.loads((folder / "predictions.json").read_text())
    assert list(predictions) == list(questions)
    right = [[a["text"] for a in qa["answers"]] for _, qa in questions.values()]
    expected = answer_metrics(list(predictions.values()), right, with_null=with_null)
    assert {name: results[name] for name in expected} == pytest.approx(expected)
    if with_null:
        odds = json.loads((folder / "null_odds.json").read_text())
        threshold = json.loads((folder / "null_threshold.json").read_text())
        threshold = threshold["null_score_diff_threshold"]
        assert results["best_f1_thresh"] == threshold
        assert results["best_f1"] == pytest.approx(results["f1"])
        for key, answer in predictions.items():
            assert (answer == "") == (odds[key] > threshold)


def test_the_best_model_so_far_is_kept(trained):
    folder, _, questions, with_null = trained
    lines = map(json.loads, (folder / "train_log.jsonl").read_text().splitlines())
    best = max((line for line in lines if "f1" in line), key=lambda line: line["f1"])
    kept = json.loads((folder / "best" / "eval_results.json").read_text())
    assert kept.pop("global_step") == best["step"]
    assert kept.items() <= best.items()
    if with_null:  # the model's own, not that of the last one
        threshold = json.loads((folder / "best" / "null_threshold.json").read_text())
        assert threshold == {"null_score_diff_threshold": kept["best_f1_thresh"]}
    predictions = json.loads((folder / "best" / "predictions.json").read_text())
    asked = [(qa["question"], context) for context, qa in questions.values()]
    found = Predictor.load(folder / "best").predict(asked)
    assert [answer["answer"] for answer in found] == list(predictions.values())


def test_the_worst_errors_are_the_questions_that_are_not_answered_exactly(trained):
    folder, _, questions, with_null = trained
    predictions = json.loads((folder / "predictions.json").read_text())
    lines = (folder / "eval_errors.jsonl").read_text().splitlines()
    written = [json.loads(line) for line in lines]
    wrong = {
        key
        for key, (_, qa) in questions.items()
        if not answer_scores(
            predictions[key], [a["text"] for a in qa["answers"]], with_null=with_null
        ).exact
    }
    assert {error["id"] for error in written} == wrong
    for error in written:
        assert error["predicted"] == predictions[error["id"]]
    losses = [error["loss"] for error in written]
    assert losses == sorted(losses, reverse=True)


def test_losses_of_questions_are_means_over_their_rows(finder):
    context = "the good film of the war and the story in the house of the good man"
    asked = finder.ask(["a good film of war ?", "the"], [context], [0, 0])
    features = finder.features(asked, [Span(8, 9), None])
    logits, losses = finder.logits(features, batch_size=3)
    found = question_losses(features, logits)
    num_rows = np.diff(asked.rows.windows.row_splits)
    assert num_rows[0] != num_rows[1]
    assert (found * num_rows).sum() / num_rows.sum() == pytest.approx(losses["loss"], rel=1e-5)


def test_the_n_best_have_places_and_probabilities(trained):
    folder, _, questions, with_null = trained
    predictions = json.loads((folder / "predictions.json").read_text())
    found = json.loads((folder / "nbest_predictions.json").read_text())
    for key, answers in found.items():
        context, _ = questions[key]
        assert sum(answer["probability"] for answer in answers) == pytest.approx(1)
        scores = [answer["start_logit"] + answer["end_logit"] for answer in answers]
        assert sorted(scores[:-1], reverse=True) == scores[:-1]
        assert len({answer["text"] for answer in answers}) == len(answers) <= 20 + with_null
        assert ("" in {answer["text"] for answer in answers}) == with_null
        for answer in answers:
            if answer["text"]:
                assert context[answer["start"] : answer["end"]] == answer["text"]
        assert predictions[key] in ("", next(a["text"] for a in answers if a["text"]))


def test_predictor_gives_what_the_run_predicted(trained):
    folder, _, questions, with_null = trained
    predictor = Predictor.load(folder, batch_size=5, top_k=2)
    inputs = [(qa["question"], context) for context, qa in questions.values()]
    predictions = json.loads((folder / "predictions.json").read_text())
    for (question, context), answer, predicted in zip(
        inputs, predictor.predict(inputs), predictions.values(), strict=True
    ):
        assert (answer["question"], answer["context"]) == (question, context)
        assert answer["answer"] == predicted
        assert len(answer["answers"]) == 2
        assert ("null_odds" in answer) == with_null
        if predicted:
            assert context[answer["start"] : answer["end"]] == predicted
        else:
            assert answer["start"] is answer["end"] is None
        assert 0 < answer["score"] <= 1
    assert predictor.parse("a?\tb\tc", "line 1") == ("a?", "b\tc")
    with pytest.raises(InputError, match="line 1: this model takes a question and, after a tab"):
        predictor.parse("a?", "line 1")
    with pytest.raises(InputError, match=r"texts\[0\] must be a question and its context"):
        predictor.predict(["a?"])
    for empty in predictor.predict([("good ?", " "), ("", "")]):
        assert empty["answer"] == ""
        assert empty["start"] is None
    assert predictor.predict([("", "")])[0]["answer"] == ""


def test_evaluating_again_with_other_settings(trained, model_flags):
    folder, printed, _, with_null = trained
    dev = folder.parent / "dev.json"
    again = ["run_squad", f"--predict_file={dev}", f"--output_dir={folder}"]
    assert json.loads(run(*again, "--do_eval", "--overwrite")) == pytest.approx(printed, abs=1e-4)
    # The original's way to the text gives the same answers here, where words are simple.
    flags = ["--do_eval", "--overwrite", "--answer_text=realigned"]
    assert json.loads(run(*again, *flags))["f1"] == pytest.approx(printed["f1"], abs=3)
    if with_null:
        # Another file does not move the threshold, though another one would be better there.
        stored = (folder / "null_threshold.json").read_text()
        write_squad(folder.parent / "other.json", 9, 8, impossible=True)
        other = [again[0], f"--predict_file={folder.parent / 'other.json'}", again[2]]
        found = json.loads(run(*other, "--do_eval", "--overwrite"))
        assert found["best_f1_thresh"] != printed["best_f1_thresh"]
        assert (folder / "null_threshold.json").read_text() == stored
        # Neither does a folder of its own, to which the model's threshold goes along.
        apart = [f"--init_checkpoint={folder / 'bert_model.ckpt'}", "--version_2_with_negative"]
        apart += [f"--{name}={folder / file}" for name, file in FILES.items()]
        apart += ["--max_seq_length=28", "--max_query_length=8", "--doc_stride=9", "--do_eval"]
        there = json.loads(run(*other[:2], f"--output_dir={folder.parent / 'apart'}", *apart))
        assert there["f1"] == pytest.approx(found["f1"])
        flags = ["--do_predict", "--overwrite", "--null_score_diff_threshold=1e9"]
        run(*again, *flags)
        assert all(json.loads((folder / "predictions.json").read_text()).values())
        flags[-1] = "--null_score_diff_threshold=-1e9"
        run(*again, *flags)
        assert not any(json.loads((folder / "predictions.json").read_text()).values())
        run(*again, "--do_eval", "--overwrite")


def test_the_questions_are_part_of_a_run(trained, model_flags, capsys):
    folder, _, _, with_null = trained
    before = (folder / "predictions.json").read_text()
    arguments = [
        "run_squad", "--do_train", "--do_predict", *model_flags,
        f"--train_file={folder.parent / 'train.json'}",
        f"--predict_file={folder.parent / 'train.json'}",
        "--num_train_epochs=25", f"--output_dir={folder}",
        *(["--version_2_with_negative"] if with_null else []),
    ]  # fmt: skip
    assert main(arguments) == 2
    assert "holds a run of another configuration" in capsys.readouterr().err
    assert (folder / "predictions.json").read_text() == before


def test_questions_without_answers_are_predicted_and_not_evaluated(trained, tmp_path, capsys):
    folder, _, _, _ = trained
    paragraph = {"context": "the good film", "qas": [{"id": "x", "question": "good ?"}]}
    (tmp_path / "ask.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    arguments = ["run_squad", f"--predict_file={tmp_path / 'ask.json'}", f"--output_dir={folder}"]
    before = (folder / "eval_results.json").read_text()
    threshold = folder / "null_threshold.json"
    stored = threshold.read_text() if threshold.exists() else None
    assert run(*arguments, "--do_predict", "--overwrite") == ""
    assert list(json.loads((folder / "predictions.json").read_text())) == ["x"]
    assert (folder / "eval_results.json").read_text() == before
    assert (threshold.read_text() if threshold.exists() else None) == stored
    assert main([*arguments, "--do_eval", "--overwrite"]) == 2
    assert "nothing to evaluate by: 1 questions have no answers: x" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("qa", "flags", "message"),
    [
        ({"answers": []}, [], "a question must have one answer"),
        ({"is_impossible": True}, [], "give --version_2_with_negative"),
        ({"answers": [{"text": "good"}]}, [], "must have 'answer_start', a number"),
        (None, ["--max_query_length=20", "--max_seq_length=23"], "leaves no room for a context"),
        (None, ["--doc_stride=0"], "--doc_stride must be at least 1"),
        (None, ["--train_file="], "--train_file is missing"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    tmp_path, model_flags, capsys, qa, flags, message
):
    answer = {"answers": [{"text": "good", "answer_start": 4}]} if qa is None else qa
    qas = [{"id": "x", "question": "good film ?", **answer}]
    content = {"data": [{"paragraphs": [{"context": "the good film", "qas": qas}]}]}
    (tmp_path / "train.json").write_text(json.dumps(content))
    arguments = ["run_squad", "--do_train", *model_flags, f"--output_dir={tmp_path / 'run'}"]
    assert main([*arguments, f"--train_file={tmp_path / 'train.json'}", *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def finder(original_tiny, testdata):
    config, path = original_tiny
    settings = QuestionAnswering(
        do_train=True,
        train_file="-",
        output_dir="-",
        max_seq_length=14,
        max_query_length=8,
        doc_stride=4,
    )
    tokenizer = FullTokenizer(testdata / "original_tiny" / "vocab.txt", do_lower_case=True)
    finder = AnswerFinder(settings, config, tokenizer)
    load_checkpoint(finder.model, path, allow_missing=["cls/*"])
    return finder


def test_places_of_answers_in_rows(finder):
    context = "the good film of the war and the story in the house of the good man"
    asked = finder.ask(["good ?", "the"], ["bad", context], [1, 1])
    start = context.index("story in")
    span = asked.context_of(0).span(start, start + len("story in"))
    assert span == Span(8, 9)  # the first row ends between them
    features = finder.features(asked, [span, None])
    batch = next(finder.batches(features, np.arange(len(features))[np.newaxis]).as_numpy_iterator())
    ids = finder.tokenizer.convert_tokens_to_ids(["story", "in"])
    shown = 0
    for row, (starts, ends) in enumerate(
        zip(batch["start_positions"], batch["end_positions"], strict=True)
    ):
        pieces = batch["input_ids"][row].tolist()
        of_first = asked.rows.windows.questions[row] == 0
        whole = any(pieces[i : i + 2] == ids for i in range(len(pieces)))
        if of_first and whole:
            assert pieces[starts : ends + 1] == ids
            shown += 1
        else:
            assert starts == ends == 0  # [CLS], if it is not whole or is not asked for
    assert 1 < shown < len(features)


def test_the_pieces_of_characters(finder):
    asked = finder.ask(["a"], ["Good\u200b, the  war."], [0])
    context = asked.contexts[0]
    assert context.span(0, 4) == Span(0, 0)
    assert context.span(2, 3) == Span(0, 0)  # a part of a piece is the piece
    assert context.span(5, 10) == Span(1, 2)
    assert context.span(10, 11) is None  # white space
    assert context.place(Span(0, 1)) == (0, 6)
    assert context.place(Span(2, 3)) == (7, 15)
    assert context.place_of(Answer("war", Span(3, 3), 0.0, 0.0)) == (12, 15)
    assert context.place_of(Answer("the  war.", Span(3, 3), 0.0, 0.0)) is None  # realigned
    assert context.place_of(Answer("", None, 0.0, 0.0)) is None


def test_a_checkpoint_alone_has_no_answers():
    with pytest.raises(InputError, match="finished run_squad run"):
        Predictor.load(ModelFiles(), task="question_answering")

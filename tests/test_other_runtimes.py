"""What is converted for LiteRT and ONNX Runtime says what the model says, or is refused."""

import functools
import json
import pathlib
import re

import numpy as np
import pytest
import serving_tasks
import tensorflow as tf
from serving_tasks import KINDS, LABELS, TAGS
from small_models import PAIRS, TEXTS, make_run

import bert_tf
from bert_tf.answer_metrics import answer_scores
from bert_tf.cli.main import main
from bert_tf.errors import InputError
from bert_tf.export import litert, onnx_file, other_runtimes
from bert_tf.export.exporter import EXPORTERS
from bert_tf.export.served_model import TOKENS, Signature, trace
from bert_tf.heads import BertClassifier
from bert_tf.tasks import question_answering, tagging
from bert_tf.use_config import Export

FILE = pathlib.Path(__file__)  # in place of a model's, where there is none
MODULES = {"litert": litert, "onnx": onnx_file}
# Kinds of classifiers beside those that are served: settings, and changes of the configuration.
CLASSIFIERS = {
    "windows by attention": (
        {"long_text": "windows", "window_pooling": "attention", "max_windows": 5},
        {},
    ),
    "windows by max": ({"long_text": "windows", "window_pooling": "max"}, {}),
    "gelu_erf": ({}, {"hidden_act": "gelu_erf"}),
}
# What a run of each kind is exported with, beside that it is in lower case.
SETTINGS = {
    "classification": {
        "max_seq_length": 19, "task_type": "single_label", "long_text": "head_tail",
    },
    "several labels": {
        "max_seq_length": 19, "task_type": "multi_label", "label_threshold": 0.5,
        "long_text": "head",
    },
    "windows": {
        "max_seq_length": 19, "task_type": "single_label", "long_text": "windows",
        "window_stride": 13, "max_windows": 8, "window_pooling": "mean",
    },
    "windows by attention": {
        "max_seq_length": 19, "task_type": "single_label", "long_text": "windows",
        "window_stride": 17, "max_windows": 5, "window_pooling": "attention",
    },
    "windows by max": {
        "max_seq_length": 19, "task_type": "single_label", "long_text": "windows",
        "window_stride": 17, "max_windows": 8, "window_pooling": "max",
    },
    "gelu_erf": {"max_seq_length": 19, "task_type": "single_label", "long_text": "head"},
    "regression of pairs": {"max_seq_length": 19, "task_type": "regression"},
    "multiple_choice": {"max_seq_length": 31},
    "tagging": {"max_seq_length": 17, "crf": True, "tag_scheme": "iob2"},
    "tags without a CRF": {"max_seq_length": 17, "crf": False, "tag_scheme": "iob2"},
    "question_answering": {
        "max_seq_length": 37, "max_query_length": 9, "doc_stride": 11, "n_best_size": 20,
        "max_answer_length": 7, "top_k": 5, "version_2_with_negative": True,
        "null_score_diff_threshold": 0.0,
    },
    "answers there always are": {
        "max_seq_length": 37, "max_query_length": 9, "doc_stride": 11, "n_best_size": 20,
        "max_answer_length": 7, "top_k": 5, "version_2_with_negative": False,
    },
    "fill_mask": {"max_seq_length": 491, "top_k": 5},
    "features": {"max_seq_length": 41, "pooling": "mean", "layer": -1, "normalize": False},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def once():
    """Calls are timed once; how long they take is not looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(other_runtimes, "_CALLS", 1)
        yield


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Takes a kind of run, returns the folder of one, each made once."""

    @functools.cache
    def run(kind):
        folder = tmp_path_factory.mktemp("run") / "run"
        if kind in KINDS:
            return serving_tasks.write_run(folder, kind)
        settings, changes = CLASSIFIERS[kind]
        pooling = {"window_pooling": settings.get("window_pooling")}
        model = lambda config: BertClassifier(config, len(LABELS), **pooling)  # noqa: E731
        settings = {"max_seq_length": 19, **settings}
        return make_run(folder, model, "run_classifier", settings, LABELS, **changes)

    return run


@pytest.fixture(params=["litert", "onnx"])
def runtime(request):
    """Each other runtime that is installed."""
    if request.param == "onnx":
        pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")
    return request.param


@pytest.mark.parametrize(
    ("runtime", "precision"),
    [
        ("litert", "float32"), ("litert", "float16"), ("litert", "int8"), ("onnx", "float32"),
        ("onnx", "int8"),
    ],
    indirect=["runtime"],
)  # fmt: skip
def test_what_a_file_says(runtime, precision, run_of, tmp_path):
    run_folder = run_of("classification")
    flags = [f"--runtime={runtime}", f"--precision={precision}", f"--export_dir={tmp_path}"]
    assert main(["export", f"--model_dir={run_folder}", *flags]) == 0
    folder = tmp_path / "1"
    file = folder / MODULES[runtime].FILE
    run = MODULES[runtime].runner(file)
    predictor = bert_tf.Predictor.load(run_folder)
    tokenizer = bert_tf.FullTokenizer(folder / "vocab.txt")
    tolerance = {"float32": 1e-5, "float16": 1e-2, "int8": 0.1}[precision]
    for text in TEXTS[:4]:
        pieces = ["[CLS]", *tokenizer.tokenize(text)[:17], "[SEP]"]
        ids = np.array([tokenizer.convert_tokens_to_ids(pieces)], np.int32)
        found = run({"input_ids": ids, "input_mask": ids**0, "segment_ids": ids * 0})
        (expected,) = predictor.predict([text])
        wanted = [expected["probabilities"][label] for label in LABELS]
        assert np.abs(found["probabilities"][0] - wanted).mean() < tolerance
    report = json.loads((folder / "conversion.json").read_text())
    assert report["bytes"] == file.stat().st_size
    assert 0 <= report["differences"]["probabilities"] < 3 * tolerance
    card = json.loads((folder / "model_card.json").read_text())
    assert card["exported"] == {"do_lower_case": True, **SETTINGS["classification"]}
    assert (folder / "labels.txt").is_file()


def converted(run, kind, runtime, folder, *flags):
    """Exports a run of a kind, returns what is reported; it says what the model says."""
    given = [f"--model_dir={run}", f"--runtime={runtime}", f"--export_dir={folder}"]
    assert main(["export", *given, f"--task={KINDS.get(kind, 'classification')}", *flags]) == 0
    report = json.loads((folder / "1" / "conversion.json").read_text())
    assert report["differences"]
    assert max(report["differences"].values()) < 1e-4
    for name in ("label", "label_ids"):
        assert report["differences"].get(name, 0.0) == 0.0
    card = json.loads((folder / "1" / "model_card.json").read_text())
    assert card["exported"] == {"do_lower_case": True, **SETTINGS[kind]}
    return report


# Kinds that the test above and those of measures convert.
CONVERTED = {
    "litert": {*KINDS} - {"fill_mask", "features"},
    "onnx": {"classification", "windows by max"},
}


@pytest.mark.parametrize(
    ("runtime", "kind"),
    [
        (runtime, kind)
        for runtime, others in CONVERTED.items()
        for kind in sorted({*KINDS, *CLASSIFIERS} - others)
    ],
    indirect=["runtime"],
)
def test_every_kind_is_taken(runtime, kind, run_of, tmp_path):
    report = converted(run_of(kind), kind, runtime, tmp_path)
    assert report["metrics"] == {}


def test_a_conversion_is_tried_on_rows_that_the_model_takes(tmp_path, capsys):
    run = make_run(
        tmp_path / "run",
        lambda config: BertClassifier(config, len(LABELS)),
        "run_classifier",
        {"max_seq_length": 7},
        LABELS,
        max_position_embeddings=7,
    )
    command = ["export", f"--model_dir={run}", f"--export_dir={tmp_path}", "--runtime=litert"]
    assert main(command) == 0
    report = json.loads((tmp_path / "1" / "conversion.json").read_text())
    assert set(report["milliseconds"]) == {"1x7", "3x7", "8x7"}
    for folder in (tmp_path, tmp_path / "1"):
        assert main(["predict", f"--model_dir={folder}", "the"]) == 2
        said = capsys.readouterr().err
        assert f"{tmp_path / '1'}: exported for another runtime, LiteRT or ONNX" in said
        assert "--runtime=tensorflow" in said


def measured(run, kind, rows, name, tmp_path):
    """The metrics of a conversion on a file: the converted model's, which are TensorFlow's."""
    (tmp_path / name).write_text(rows, encoding="utf-8")
    flag = f"--dev_file={tmp_path / name}"
    report = converted(run, kind, "litert", tmp_path / "versions", flag)
    assert report["metrics"] == pytest.approx(report["tensorflow_metrics"], abs=1e-5)
    return report["metrics"]


@pytest.mark.parametrize(
    "kind", ["classification", "several labels", "regression of pairs", "windows"]
)
def test_classifiers_are_measured(kind, run_of, tmp_path):
    pairs = kind == "regression of pairs"
    texts = PAIRS if pairs else [text for text in TEXTS if text.strip()]
    predicted = bert_tf.Predictor.load(run_of(kind)).predict(texts)
    rows = [["text", "text_b", "label"] if pairs else ["text", "label"]]
    for number, text in enumerate(texts):
        label = f"{number / 7}" if pairs else LABELS[number % len(LABELS)]
        parts = text if pairs else [text]
        rows.append([*(part.translate({9: 32, 10: 32, 0x2028: 32}) for part in parts), label])
    table = "".join("\t".join(row) + "\n" for row in rows)
    metrics = measured(run_of(kind), kind, table, "dev.tsv", tmp_path)
    labels = [row[-1] for row in rows[1:]]
    if kind == "several labels":
        there = [len(answer["labels"]) for answer in predicted]
        right = [label in answer["labels"] for answer, label in zip(predicted, labels, strict=True)]
        assert metrics["f1_micro"] == pytest.approx(2 * sum(right) / (sum(there) + len(labels)))
        assert 0 < metrics["f1_micro"] < 1
    elif pairs:
        scores = [answer["score"] for answer in predicted]
        pearson = np.corrcoef(scores, np.float64(labels))[0, 1]
        assert metrics["pearson"] == pytest.approx(pearson, abs=5e-7)  # of float32 scores
    else:
        right = [answer["label"] == label for answer, label in zip(predicted, labels, strict=True)]
        assert metrics["accuracy"] == pytest.approx(np.mean(right))
        assert 0 < np.mean(right) < 1


@pytest.mark.parametrize("kind", ["tagging", "tags without a CRF"])
def test_taggers_are_measured(kind, run_of, tmp_path):
    texts = ["the river of the able", "a b c", "of the able river", "river", "d e f g h i j k"]
    predicted = bert_tf.Predictor.load(run_of(kind)).predict(texts)
    lines, right, entities = [], [], {"found": 0, "there": 0, "both": 0}
    for number, answer in enumerate(predicted):
        tags = [word["tag"] for word in answer["words"]]
        spans = {(e["type"], e["start"], e["end"]) for e in answer["entities"]}
        entities["found"] += len(spans)
        if number % 2:  # is right
            entities["there"] += len(spans)
            entities["both"] += len(spans)
        else:
            right += [tag == "O" for tag in tags]
            tags = ["O"] * len(tags)
        right += [True] * len(tags) * (number % 2)
        words = [word["word"] for word in answer["words"]]
        lines += [f"{word} {tag}\n" for word, tag in zip(words, tags, strict=True)] + ["\n"]
    metrics = measured(run_of(kind), kind, "".join(lines), "dev.txt", tmp_path)
    assert metrics["accuracy"] == pytest.approx(np.mean(right))
    assert metrics["precision"] == pytest.approx(entities["both"] / entities["found"])
    assert metrics["recall"] == pytest.approx(entities["both"] / entities["there"])
    assert 0 < metrics["f1"] < 1


def test_the_words_of_a_sentence_of_several_rows_keep_their_order(run_of, tmp_path):
    tagger = tagging.load(run_of("tagging"))
    predicted, lines, right = ("B-LOC", "O"), [], []
    for number_of_words in (3, 40, 1, 17):
        for word in serving_tasks.long_text(number_of_words).split():
            ids = tagger.tokenizer.convert_tokens_to_ids(tagger.tokenizer.tokenize(word))
            right.append(len(right) % 3 > 0)
            lines.append(f"{word} {predicted[ids[0] % 2 if right[-1] else 1 - ids[0] % 2]}\n")
        lines.append("\n")
    (tmp_path / "dev.txt").write_text("".join(lines))

    def label_ids_of(inputs):
        firsts = np.take_along_axis(inputs["input_ids"], inputs["word_starts"], axis=1)
        return np.where(firsts % 2, TAGS.index("O"), TAGS.index("B-LOC"))

    metrics = tagging.measure_on(tagger, str(tmp_path / "dev.txt"))(label_ids_of)
    assert metrics["accuracy"] == pytest.approx(np.mean(right))


def test_choices_are_measured(run_of, tmp_path):
    texts = [text for text in TEXTS if text.strip()]
    questions = [(text, [texts[i - 1], texts[i - 2], texts[i - 3]]) for i, text in enumerate(texts)]
    predicted = bert_tf.Predictor.load(run_of("multiple_choice")).predict(questions)
    lines = []
    for number, ((context, choices), answer) in enumerate(zip(questions, predicted, strict=True)):
        label = answer["label"] if number % 3 else (answer["label"] + 1) % 3
        row = {"context": context, "choices": choices, "label": label}
        lines.append(json.dumps(row) + "\n")
    metrics = measured(
        run_of("multiple_choice"), "multiple_choice", "".join(lines), "dev.jsonl", tmp_path
    )
    right = [number % 3 > 0 for number in range(len(texts))]
    assert metrics == {"accuracy": pytest.approx(np.mean(right))}


@pytest.mark.parametrize("kind", ["question_answering", "answers there always are"])
def test_answers_are_measured(kind, run_of, tmp_path):
    with_null = kind == "question_answering"
    contexts = ["the river of the able", serving_tasks.long_text(30), "able a b c d e f g river"]
    texts = [(question, context) for context in contexts for question in ("a river", "b of c")]
    predicted = bert_tf.Predictor.load(run_of(kind)).predict(texts)
    questions, scores = [], []
    for number, ((question, context), answer) in enumerate(zip(texts, predicted, strict=True)):
        given = answer["answer"] if number % 2 else context.split()[-1]
        impossible = {"is_impossible": given == ""} if with_null else {}
        answers = [{"text": given, "answer_start": context.index(given)}] if given else []
        questions.append(
            {"id": f"{number}", "question": question, "answers": answers, **impossible}
        )
        scores.append(
            answer_scores(answer["answer"], [given] if given else [], with_null=with_null)
        )
    paragraphs = [
        {"context": context, "qas": questions[2 * i : 2 * i + 2]}
        for i, context in enumerate(contexts)
    ]
    file = json.dumps({"version": "2.0", "data": [{"title": "", "paragraphs": paragraphs}]})
    metrics = measured(run_of(kind), kind, file, "dev.json", tmp_path)
    exact, f1 = 100 * np.mean(scores, axis=0)
    assert (metrics["exact_match"], metrics["f1"]) == (pytest.approx(exact), pytest.approx(f1))
    assert 0 < exact < 100


def test_questions_without_answers_are_not_measured(run_of, tmp_path):
    question = {"id": "7", "question": "of what", "answers": []}
    data = [{"title": "", "paragraphs": [{"context": "the river", "qas": [question]}]}]
    (tmp_path / "dev.json").write_text(json.dumps({"version": "1.1", "data": data}))
    finder = question_answering.load(run_of("answers there always are"))
    with pytest.raises(InputError, match="1 questions have no answers: 7; leave them out"):
        question_answering.measure_on(finder, str(tmp_path / "dev.json"))


def test_what_has_no_metrics_is_not_measured(run_of, tmp_path, capsys):
    flags = ["--runtime=litert", "--dev_file=dev.tsv", f"--export_dir={tmp_path}"]
    assert main(["export", f"--model_dir={run_of('fill_mask')}", *flags]) == 2
    assert "--dev_file: there are no metrics of fill_mask, only of" in capsys.readouterr().err


# For each task, what a file holds that nothing can be measured on (None: there is none), and what
# the message says.
WRONG_FILES = {
    "classification": [
        (None, "dev.tsv"),
        (b"text\tstars\na\tbad\n", "label"),
        (b"text\tlabel\na\tworse\n", "worse"),
        (b"text\tlabel\n\xff\tbad\n", "UTF-8"),
    ],
    "tagging": [(b"a B-RIVER\n", "B-RIVER")],
    "multiple_choice": [(b"text,choice_0\n", "dev.tsv")],
    "question_answering": [(b"[]", "dev.tsv")],
}


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_a_wrong_file_is_found_before_the_conversion(kind, run_of, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(litert, "write", lambda *arguments: written.append(arguments))
    file = tmp_path / "dev.tsv"
    settings = Export(model_dir="-", export_dir="-", runtime="litert", dev_file=str(file))
    served = EXPORTERS[kind](run_of(kind), settings)
    for content, says in WRONG_FILES[kind]:
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(InputError, match=re.escape(says)) as caught:
            other_runtimes.convert(served, settings, tmp_path)
        assert str(file) in str(caught.value)
    assert not written


@pytest.fixture(scope="module")
def tagger(run_of):
    """A model that is exported, and what conversions of it are compared with."""
    run = run_of("tagging")
    served = EXPORTERS["tagging"](run, Export(model_dir=str(run), export_dir="-"))
    function = trace(other_runtimes.numbers(served), None)

    def right(inputs):
        assert (inputs["input_ids"][:, 0] == served.vocabulary.cls_id).all()  # rows of texts
        found = function(**{key: tf.constant(value) for key, value in inputs.items()})
        return {key: value.numpy() for key, value in found.items()}

    report = other_runtimes.compare(
        served, function, right, FILE, Export(model_dir="-", export_dir="-", runtime="litert")
    )
    assert report.differences == {"scores": 0.0, "label_ids": 0.0}
    return served, function, right


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("name", ["scores", "label_ids"])
@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros_like,
        lambda values: values[:, :-1],
        lambda values: values + 0.5,
        np.negative,
        lambda values: values * np.nan,
    ],
    ids=["zeros", "fewer", "more", "others", "no numbers"],
)
def test_a_conversion_that_says_something_else_is_refused(wrong, name, precision, tagger):
    served, function, right = tagger
    settings = Export(model_dir="-", export_dir="-", runtime="litert", precision=precision)

    def broken(inputs):
        outputs = right(inputs)
        return outputs | {name: wrong(outputs[name])}

    with pytest.raises(InputError, match=f"litert: the converted model.* {name} "):
        other_runtimes.compare(served, function, broken, FILE, settings)


def test_an_operation_that_a_runtime_does_not_have(runtime, run_of, tmp_path, capsys, monkeypatch):
    def with_digamma(served):
        inputs = served.signatures[TOKENS].inputs
        return Signature(
            inputs, lambda rows: {"x": tf.math.digamma(tf.cast(rows["input_ids"], tf.float32))}
        )

    monkeypatch.setattr(other_runtimes, "numbers", with_digamma)
    command = ["export", f"--model_dir={run_of('classification')}", f"--export_dir={tmp_path}"]
    assert main([*command, f"--runtime={runtime}"]) == 2
    said = capsys.readouterr().err
    assert f"--runtime={runtime}: the model for classification cannot be" in said
    assert {"litert": "in float32: ConverterError: ", "onnx": "InvalidGraph: "}[runtime] in said
    assert "Digamma" in said.splitlines()[-1]
    assert said.endswith(
        f"give another --runtime (tensorflow, {'onnx' if runtime == 'litert' else 'litert'}) or "
        "another --precision\n"
    )
    assert [item.name for item in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("doing", ["converted", "loaded", "run"])
def test_what_another_runtime_raises_is_explained(doing, tagger, tmp_path, monkeypatch):
    served, *_ = tagger
    settings = Export(model_dir="-", export_dir="-", runtime="litert", precision="int8")
    little = Signature(served.signatures[TOKENS].inputs, lambda rows: {"x": rows["input_ids"]})

    def fails(*given):
        raise error

    monkeypatch.setattr(other_runtimes, "numbers", lambda served: little)
    monkeypatch.setattr(litert, "write", fails if doing == "converted" else lambda *given: None)
    monkeypatch.setattr(litert, "runner", fails if doing == "loaded" else lambda path: fails)
    error = KeyError("x")
    said = f"the model for tagging cannot be {doing} in int8: KeyError: 'x'; give another --runtime"
    with pytest.raises(InputError, match=re.escape(said)):
        other_runtimes.convert(served, settings, tmp_path)
    for error in (OSError(28, "No space left on device"), InputError("said already")):
        with pytest.raises(type(error)) as raised:
            other_runtimes.convert(served, settings, tmp_path)
        assert raised.value is error

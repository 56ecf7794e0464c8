"""Runs of every task that can be exported, what their exports are asked, and what that stands for.

What a signature takes is read from the signature; the rest of a task is said here once.
"""

import json
import random
import re
import string

import numpy as np
import tensorflow as tf
from small_models import make_run

from bert_tf.export.exporter import EXPORTERS, export
from bert_tf.heads import (
    BertClassifier,
    BertMultipleChoice,
    BertPretrainer,
    BertSpanLabeler,
    BertTagger,
)
from bert_tf.tasks.tagging_data import allowed_by
from bert_tf.use_config import Export

LABELS = ("schön", "so so", "bad", "中")
TAGS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
BATCH = 19  # texts of a request
GOLDENS = 2000  # of the strings that are goldens of the tokenizer
LONGEST = 488  # characters of a text that is to fill a mask: as many pieces, or fewer

# As a Predictor takes them; a signature takes some of these.
ORDER = ("question", "text", "text_b", "context", "choices")


# Kinds of run -> the task of each.
KINDS = {
    **{task: task for task in EXPORTERS},
    "several labels": "classification",
    "windows": "classification",
    "regression of pairs": "classification",
    "tags without a CRF": "tagging",
    "answers there always are": "question_answering",
}


def write_run(folder, kind):
    """Writes what a finished run of a kind leaves, with random weights."""
    if kind in ("fill_mask", "features"):
        # Of a text that fills masks nothing may be cut away; the longest are those that warm up.
        changes = {"max_position_embeddings": LONGEST + 3} if kind == "fill_mask" else {}
        return make_run(folder, BertPretrainer, "run_pretraining", {}, **changes)
    if KINDS[kind] == "classification":
        settings, labels = {
            "classification": ({"long_text": "head_tail"}, LABELS),
            "several labels": ({"task_type": "multi_label"}, LABELS),
            "windows": (
                {"long_text": "windows", "window_stride": 13, "window_pooling": "mean"},
                LABELS,
            ),
            "regression of pairs": ({"task_type": "regression", "text_b_column": "text_b"}, ()),
        }[kind]
        pooling = {"window_pooling": settings.get("window_pooling")}
        model = lambda config: BertClassifier(config, len(labels) or 1, **pooling)  # noqa: E731
        settings = {"max_seq_length": 19, **settings}
        # No softmax keeps the rounding of a regression small.
        changes = {} if labels else {"initializer_range": 0.3}
        return make_run(folder, model, "run_classifier", settings, labels, **changes)
    if kind == "multiple_choice":
        return make_run(folder, BertMultipleChoice, "run_multiple_choice", {"max_seq_length": 31})
    if KINDS[kind] == "tagging":
        crf = {"use_crf": True, "allowed": allowed_by(TAGS)} if kind == "tagging" else {}
        settings = {"max_seq_length": 17, "crf": bool(crf)}
        model = lambda config: BertTagger(config, len(TAGS), **crf)  # noqa: E731
        return make_run(folder, model, "run_tagger", settings, TAGS)
    assert KINDS[kind] == "question_answering", f"how does a run of {kind} look?"
    settings = {
        "max_seq_length": 37, "max_query_length": 9, "doc_stride": 11, "max_answer_length": 7,
        "train_file": "train",
    }  # fmt: skip
    if kind == "question_answering":
        settings |= {"version_2_with_negative": True, "null_score_diff_threshold": 0.0}
    return make_run(folder, BertSpanLabeler, "run_squad", settings)


def export_elsewhere(run, task, folder):
    """Exports a run as version 7 of a model, and moves it from where it was made."""
    made = export(Export(model_dir=str(run), task=task, export_dir=str(folder / "made"), version=7))
    (folder / "moved").mkdir()
    moved = made.rename(folder / "moved" / "7")
    (folder / "made").rename(folder / "gone")
    return moved


def long_text(num_words):
    """Words of one to four pieces each, so that no window shows what another does."""
    words = random.Random(num_words)
    return " ".join(
        "".join(words.choices(string.ascii_lowercase, k=words.randint(1, 4)))
        for _ in range(num_words)
    )


def hard_texts(task, testdata, goldens=None):
    """Texts that tokenizers stumble over, which a task can take, and one of many windows.

    Args:
        task: which.
        testdata: the folder of the tests' data.
        goldens: that of the goldens, for 2,000 more of them.
    """
    texts = ["a", "[MASK] [CLS]", "\0", " \n\t ", "ﬃ" * 19, "e\u0301\u0323" * 9, "ΑΣ ΣΑΣ. " * 3]
    texts.append(long_text(400))
    texts += _texts_of(testdata / "tokenizer" / "sample.jsonl")[::4]
    texts = [text for text in texts if _is_taken(task, text)]
    if goldens is not None:
        file = goldens / "tokenizer" / "cases.jsonl"
        there = [text for text in _texts_of(file) if _is_taken(task, text)]
        chosen = random.Random(5).sample(range(len(there)), GOLDENS)
        texts += [there[number] for number in sorted(chosen)]
    return texts


def _texts_of(file):
    return [json.loads(line)["text"] for line in file.read_text("utf-8").splitlines()]


def _is_taken(task, text):
    if task == "question_answering":
        # Windows of nothing but one character are all alike, and rounding says which is the best.
        return bool(text) and not re.search(r"(.)\1{30}", text)
    return bool(text.strip() if task == "multiple_choice" else text)  # of choices none is empty


def ranks(signature):
    """The inputs of a signature of tf.saved_model.load: name -> rank."""
    return {name: spec.shape.rank for name, spec in signature.structured_input_signature[1].items()}


def examples(task, inputs, texts):
    """What a Predictor is asked: texts, or as many of what is made of several of them.

    Args:
        task: which.
        inputs: of the default signature, name -> rank.
        texts: hard ones, which the task can take.
    """
    if task == "fill_mask":
        # One that is too long is refused.
        halves = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in texts]
        texts = [f"{a[: LONGEST // 2]}[MASK]{b[: LONGEST // 2]}" for a, b in halves]
    names = sorted(inputs, key=ORDER.index)

    def value(name, number):
        if inputs[name] == 1:
            return texts[number % len(texts)]
        # Begun by letters: of equal ones, as those of pieces that are not known, rounding would
        # say which is the best.
        return [f"{'abcd'[k]} {texts[(number + k) % len(texts)]}" for k in range(2 + number % 3)]

    columns = [
        [value(name, 5 * number + row) for row in range(len(texts))]
        for number, name in enumerate(names)
    ]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def columns(inputs, asked):
    """The same as a signature's inputs, name -> array: "" stands for what one has less of."""
    names = sorted(inputs, key=ORDER.index)
    found = {}
    parts = [asked] if len(names) == 1 else list(zip(*asked, strict=True))
    for name, values in zip(names, parts, strict=True):
        if inputs[name] == 2:
            most = max(map(len, values))
            values = [[*row, *[""] * (most - len(row))] for row in values]
        found[name] = np.array(values, object)
    return found


def asked(inputs):
    """What a Predictor would be asked, of a signature's inputs, name -> array: that of columns."""
    names = sorted(inputs, key=ORDER.index)
    found = [_plain(inputs[name]) for name in names]
    if "choices" in names:
        found = [found[0], [[choice for choice in row if choice] for row in found[1]]]
    return found[0] if len(names) == 1 else list(zip(*found, strict=True))


def some_inputs(signature, texts):
    """Inputs that any signature takes: texts, or rows of ones and zeros."""
    random = np.random.default_rng(3)
    found = {}
    for name, spec in signature.structured_input_signature[1].items():
        if spec.dtype == tf.string:
            shape = [5, 3][: spec.shape.rank]
            found[name] = random.choice(np.array(texts, object), shape)
        else:
            values = random.integers(0, 2, [5, 3, 7] if spec.shape.rank == 3 else [5, 7])
            values[..., 0] = 1  # no row may be without a piece
            found[name] = values.astype(spec.dtype.as_numpy_dtype)
    return found


def answers(task, outputs, asked):
    """What a Predictor says, but for what it was asked, of a signature's outputs, name -> array."""
    rows = [
        {name: _plain(values[i]) for name, values in outputs.items()} for i in range(len(asked))
    ]
    return [_ANSWERS[task](row, question) for row, question in zip(rows, asked, strict=True)]


def assert_same(found, expected, where="answer"):
    """Strings and whole numbers are equal, and scores as near as 1e-5 (of large ones, a share)."""
    if isinstance(expected, dict):
        assert set(found) == set(expected), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        if where.endswith("/answers"):
            expected = _ties_as_in(found, expected)
        for number, value in enumerate(expected):
            assert_same(found[number], value, f"{where}/{number}")
    elif isinstance(expected, float):
        near = 1e-5 * max(1, abs(expected))
        assert abs(found - expected) <= near, f"{where}: {found}, not {expected}"
    else:
        assert found == expected, where


def _ties_as_in(found, expected):
    """The best answers, those that rounding decides between as it did in found.

    Answers of equal score may stand in any order; and where a context says something twice, an
    answer may be either of the two.
    """
    expected = list(expected)
    for number, answer in enumerate(found):
        for other in range(number, len(expected)):
            if expected[number]["score"] - expected[other]["score"] > 1e-5:
                break
            if expected[other]["answer"] == answer["answer"]:
                expected[number], expected[other] = expected[other], expected[number]
                place = {key: answer[key] for key in ("start", "end")}
                expected[number] = expected[number] | place
                break
    return expected


def _plain(value):
    """Lists, strings and numbers."""
    if isinstance(value, (list, np.ndarray)):
        return [_plain(part) for part in value]
    return value.decode() if isinstance(value, bytes) else value.item()


def _items(row, names):
    """One dict for each item of lists in a row: names of the lists -> keys."""
    return [
        dict(zip(names.values(), values, strict=True))
        for values in zip(*(row[name] for name in names), strict=True)
    ]


def _label(row, asked):
    if set(row) == {"score"}:
        return row
    assert set(row) - {"labels"} == {"label", "score", "probabilities", "classes"}
    probabilities = dict(zip(row["classes"], row["probabilities"], strict=True))
    found = {"label": row["label"], "score": row["score"], "probabilities": probabilities}
    if "labels" in row:
        found["labels"] = [label for label in row["labels"] if label]
    return found


def _choice(row, asked):
    there = len(asked[1])
    assert not any(row["probabilities"][there:])
    return {**row, "probabilities": row["probabilities"][:there]}


def _tags(row, asked):
    words = {"words": "word", "word_starts": "start", "word_ends": "end", "tags": "tag"}
    entities = {
        f"entity_{name}": key
        for name, key in {
            "types": "type",
            "texts": "text",
            "starts": "start",
            "ends": "end",
        }.items()
    }
    found = {
        "words": _items(row, {**words, "scores": "score"}),
        "entities": _items(row, {**entities, "entity_scores": "score"}),
    }
    return {key: [item for item in items if item["start"] >= 0] for key, items in found.items()}


def _answer(row, asked):
    names = {"answers": "answer", "answer_scores": "score"}
    named = _items(row, {**names, "answer_starts": "start", "answer_ends": "end"})
    found = {key: row[key] for key in ("answer", "score", "start", "end")}
    for item in (found, *named):
        if item["start"] < 0:
            item.update(start=None, end=None)
    # Of no answer the text is empty too, but its score is not 0.
    named = [item for item in named if item["score"] > 0]
    odds = {key: row[key] for key in ("null_odds",) if key in row}
    return {**found, **odds, "answers": named}


def _masks(row, asked):
    masks = []
    for number, position in enumerate(row["position"]):
        found = (row[name][number] for name in ("pieces", "scores"))
        predictions = _items(dict(enumerate(found)), {0: "piece", 1: "score"})
        if position >= 0:
            where = {"in": row["in"][number]} if "in" in row else {}
            masks.append({**where, "position": position, "predictions": predictions})
    of_pair = {key: row[key] for key in ("next_sentence_probability",) if key in row}
    return {**of_pair, "masks": masks}


_ANSWERS = {
    "classification": _label,
    "multiple_choice": _choice,
    "tagging": _tags,
    "question_answering": _answer,
    "fill_mask": _masks,
    "features": lambda row, asked: row,
}

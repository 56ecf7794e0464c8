"""Exported question answering: rows and answers in the graph, and a SavedModel beside Predictor."""

import itertools
import json
import pathlib
import random
import string
from typing import NamedTuple

import numpy as np
import odd_texts
import pytest
import tensorflow as tf
import yaml
from served import Served, examples
from small_models import make_run

from bert_tf import Predictor, answer_spans, run_folder
from bert_tf.answer_spans import chosen_answer
from bert_tf.config import ModelFiles
from bert_tf.context_windows import best_rows, plan_windows
from bert_tf.errors import InputError
from bert_tf.export import answers, graph_answers
from bert_tf.export.exporter import export
from bert_tf.export.text_rows import ContextParts, RowBuilder
from bert_tf.heads import BertSpanLabeler
from bert_tf.tasks import answer_finder, question_answering
from bert_tf.tokenization import Vocabulary
from bert_tf.use_config import Export

LETTERS = [mark + letter for letter in string.ascii_lowercase for mark in ("", "##")]
PIECES = [*odd_texts.PIECES, *LETTERS, *"[]!?中", "the", "river", "##able", "σ", "##ς", "##ο", "e"]
PIECES = list(dict.fromkeys(PIECES))
SETTINGS = {
    "do_train": True,
    "train_file": "-",
    "max_seq_length": 23,
    "max_query_length": 9,
    "doc_stride": 5,
    "n_best_size": 7,
    "max_answer_length": 6,
}
TEXTS = [
    "the river of the able",
    "",
    " \t\n ",
    "unable!",
    "the",
    " ".join(string.ascii_lowercase) * 9,
    "naïve Cafe\u0301 ΟΔΟΣ 中文 🙂 \u200b 한각 ﬁ\ufeff\u0301",
    "\u200b",
    "[CLS] [SEP] [MASK] [PAD]",
    "x" * 250 + " ba é",
    "no\x00thing\ufffd\ufffe\uffff\u2028here",
]
PAIRS = [(question, context) for question in TEXTS for context in TEXTS]
# Where several rows show the same, a model's rounding decides between equal answers, so these are
# for logits without rounding.
EQUAL_ROWS = [("unable!", "ba " * 61), ("", "é" * 120), ("the", "a " * 70 + "." * 70)]


def random_pairs(seed, count):
    """Questions about contexts of many windows, in which words come again."""
    rng = random.Random(seed)
    return [
        (odd_texts.sentence(rng, rng.randint(1, 5)), odd_texts.sentence(rng, rng.randint(1, 70)))
        for _ in range(count)
    ]


def make_answers_run(folder, **settings):
    """Writes what a finished run leaves, with strong random weights."""
    settings = {**SETTINGS, **settings}
    changes = {"pieces": PIECES, "max_position_embeddings": 29}
    return make_run(folder, BertSpanLabeler, "run_squad", settings, **changes)


def exported(folder, **settings):
    path = export(
        Export(model_dir=str(folder), export_dir=str(folder.parent / "versions"), **settings)
    )
    return Served(path)


def ask(model, pairs):
    """The outputs for (question, context) each."""
    questions, contexts = ([text.encode() for text in texts] for texts in zip(*pairs, strict=True))
    return model(question=questions, context=contexts)


def assert_equal_to_predictor(found, expected, top_k):
    """Compares a batch's outputs with the predictor's dicts."""
    keys = ("answer", "score", "start", "end")
    fill = ("", 0.0, -1, -1)
    for number, of_question in enumerate(expected):
        of_best = [[best[key] for key in keys] for best in of_question["answers"]]
        of_best += [fill] * (top_k - len(of_best))
        for name, key, *column in zip(
            ("answers", "answer_scores", "answer_starts", "answer_ends"),
            keys,
            *of_best,
            strict=True,
        ):
            for values, right in (
                (found[name][number], column),
                ([found[key][number]], [of_question[key]]),
            ):
                assert len(values) == len(right)
                if key == "score":
                    np.testing.assert_allclose(values, right, rtol=0, atol=1e-5)
                elif key == "answer":
                    assert [value.decode() for value in values] == right, of_question
                else:
                    assert list(values) == [-1 if r is None else r for r in right], of_question
        assert ("null_odds" in found) == ("null_odds" in of_question)
        if "null_odds" in found:
            np.testing.assert_allclose(
                found["null_odds"][number], of_question["null_odds"], rtol=1e-6, atol=3e-5
            )


class TiedSpanLabeler(BertSpanLabeler):
    """Has few different logits, without rounding."""

    def call(self, inputs, training=False, dropout_seed=None):
        ids = inputs["input_ids"]
        place = tf.range(tf.shape(ids)[1])
        both = tf.stack([(ids * 5 + place) % 7, (ids * 3 + place * 2) % 5], axis=2)
        return tf.cast(both, tf.float32)


STORED = 0.8  # the threshold that the run of v2.0 has found
TIED_BATCH = 61


class Case(NamedTuple):
    """A run's folder, its export in a session, and what the predictor says."""

    folder: pathlib.Path
    model: Served
    predictor: Predictor


@pytest.fixture(scope="module", params=[False, True], ids=["v1.1", "v2.0"])
def served(request, tmp_path_factory):
    """Exports with rows of other lengths than those that the model was trained on."""
    folder = tmp_path_factory.mktemp("answers") / "run"
    make_answers_run(folder, version_2_with_negative=request.param)
    if request.param:
        text = json.dumps({"null_score_diff_threshold": STORED})
        (folder / run_folder.NULL_THRESHOLD).write_text(text)
    model = exported(folder, top_k=3, max_seq_length=29)
    path = folder / run_folder.RUN_CONFIG
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"max_seq_length": 29}))
    return Case(folder, model, Predictor.load(folder, top_k=3))


@pytest.fixture(scope="module", params=[(False, 7), (True, 1)], ids=["v1.1", "v2.0"])
def tied(request, tmp_path_factory):
    """With few different logits; of requests of one size, and with more answers than there are."""
    with_null, n_best_size = request.param
    folder = tmp_path_factory.mktemp("tied") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer_finder, "BertSpanLabeler", TiedSpanLabeler)
        make_answers_run(folder, version_2_with_negative=with_null, n_best_size=n_best_size)
        model = exported(folder, top_k=9, batch_size=TIED_BATCH, fixed_length=True)
        predictor = Predictor.load(folder, top_k=9)
    return Case(folder, model, predictor)


def test_answers_are_those_of_predictor(served):
    pairs = PAIRS + random_pairs(5, 30)
    expected = served.predictor.predict(pairs)
    assert_equal_to_predictor(ask(served.model, pairs), expected, 3)
    for number in range(0, len(pairs), 7):  # one alone is what it is among others
        assert_equal_to_predictor(ask(served.model, pairs[number:][:1]), expected[number:][:1], 3)
    assert len({answer["answer"] for answer in expected}) > 30
    extra = served.folder.parent / "versions" / "1" / "assets.extra"
    stored, written = (folder / run_folder.NULL_THRESHOLD for folder in (served.folder, extra))
    assert stored.exists() == written.exists()
    if stored.exists():
        assert json.loads(stored.read_text()) == json.loads(written.read_text())
        odds = [answer["null_odds"] for answer in expected]
        assert any(0 < value < STORED for value in odds)
        assert 0.1 < np.mean(np.greater(odds, STORED)) < 0.9


def test_of_equals_the_same_is_given(tied):
    pairs = (EQUAL_ROWS + PAIRS + random_pairs(6, 200))[: TIED_BATCH * 5]
    assert_equal_in_batches(tied, pairs)


def test_answers_about_the_strings_of_the_original(tied, shared):
    lines = (shared / "goldens" / "tokenizer" / "cases.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines][::3]
    pairs = list(zip(texts, texts[1:] + texts[:1], strict=True))
    assert_equal_in_batches(tied, pairs[: len(pairs) // TIED_BATCH * TIED_BATCH])


def assert_equal_in_batches(tied, pairs):
    expected = tied.predictor.predict(pairs)
    for first in range(0, len(pairs), TIED_BATCH):
        batch = slice(first, first + TIED_BATCH)
        assert_equal_to_predictor(ask(tied.model, pairs[batch]), expected[batch], 9)


def test_examples_and_rows(served):
    pairs = random_pairs(7, 11)
    found = ask(served.model, pairs)
    assert found["answers"].shape == (11, 3)
    asked = examples(dict(zip(("question", "context"), zip(*pairs, strict=True), strict=True)))
    for name, values in served.model("examples", examples=asked).items():
        np.testing.assert_array_equal(values, found[name])

    ids = np.random.default_rng(3).integers(0, len(PIECES), (3, 13)).astype(np.int32)
    inputs = {
        "input_ids": ids,
        "input_mask": (np.arange(13) < [[13], [4], [9]]).astype(np.int32),
        "segment_ids": (np.arange(13) > [[5], [2], [12]]).astype(np.int32),
    }
    logits = question_answering.load(served.folder).model(inputs, training=False).numpy()
    found = served.model("tokens", **inputs)
    np.testing.assert_allclose(found["start_logits"], logits[:, :, 0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["end_logits"], logits[:, :, 1], rtol=0, atol=1e-4)


def test_bytes_that_are_no_utf_8_are_ignored(served):
    context = "the\ufffd river ba é of the able"
    spoilt = context.encode().replace(b" ", b"\xff \xc3").replace(b"ba", b"b\xe2\x82a")
    found = served.model(question=[b"the\xff"] * 2, context=[context.encode(), spoilt])
    for values in found.values():
        if values.dtype == np.float32:
            np.testing.assert_allclose(values[0], values[1], rtol=1e-5)
        else:
            np.testing.assert_array_equal(values[0], values[1])
    nothing = served.model(question=np.array([], object), context=np.array([], object))
    assert {name: len(values) for name, values in nothing.items()} == dict.fromkeys(found, 0)


@pytest.mark.parametrize(("given", "threshold"), [(None, 0.0), (-1.7, -1.7)])
def test_the_threshold_that_is_applied_goes_along(tmp_path, given, threshold):
    folder = make_answers_run(
        tmp_path / "run", version_2_with_negative=True, null_score_diff_threshold=given
    )
    settings = Export(model_dir=str(folder), export_dir="-")
    written = answers.served(folder, settings).files[run_folder.NULL_THRESHOLD]
    assert json.loads(written) == {"null_score_diff_threshold": threshold}


def test_what_cannot_be_exported_is_said(tmp_path):
    folder = make_answers_run(tmp_path / "run", answer_text="realigned")
    settings = Export(model_dir=str(folder), export_dir=str(tmp_path / "versions"))
    with pytest.raises(InputError, match=r"answer_text=realigned .* set answer_text: offsets in"):
        export(settings)
    assert not (tmp_path / "versions" / "1").exists()
    with pytest.raises(InputError, match="finished run_squad run"):
        answers.served(ModelFiles(), settings)
    with pytest.raises(InputError, match="--max_seq_length=12 leaves no room for a context"):
        question_answering.load(folder, max_seq_length=12)


def test_a_finder_in_another_precision(tmp_path):
    finder = question_answering.load(make_answers_run(tmp_path / "run"), dtype="bfloat16")
    assert finder.model.compute_dtype == "bfloat16"


def random_ids(rng, lengths):
    return tf.ragged.constant([rng.integers(5, 30, n).tolist() for n in lengths], tf.int32)


@pytest.mark.parametrize("fixed_length", [False, True])
def test_rows_show_questions_and_parts_of_contexts(tmp_path, fixed_length):
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    vocabulary = Vocabulary(tmp_path / "vocab.txt")
    cls, sep = vocabulary.cls_id, vocabulary.sep_id
    for seed, stride in enumerate((1, 4, 30)):
        rng = np.random.default_rng(seed)
        questions, contexts = (random_ids(rng, rng.integers(0, most, 8)) for most in (9, 60))
        builder = RowBuilder(vocabulary, 19, fixed_length=fixed_length)
        found, parts = builder.of_questions(
            questions, contexts, max_query_length=6, doc_stride=stride
        )
        kept = [row[:6] for row in questions.to_list()]
        plan = plan_windows(
            np.array([len(row) for row in kept]), contexts.row_lengths().numpy(), 19, stride
        )
        np.testing.assert_array_equal(parts.questions, plan.questions)
        np.testing.assert_array_equal(parts.starts, plan.starts)
        np.testing.assert_array_equal(parts.lengths, plan.lengths)
        rows = []
        for question, start, length in zip(plan.questions, plan.starts, plan.lengths, strict=True):
            part = contexts.to_list()[question][start : start + length]
            rows.append(([cls, *kept[question], sep], [*part, sep]))
        longest = 19 if fixed_length else max(len(first) + len(second) for first, second in rows)
        for number, (first, second) in enumerate(rows):
            padding = [0] * (longest - len(first) - len(second))
            assert found.input_ids[number].numpy().tolist() == [*first, *second, *padding]
            mask = [1] * (len(first) + len(second)) + padding
            assert found.input_mask[number].numpy().tolist() == mask
            segments = [0] * len(first) + [1] * len(second) + padding
            assert found.segment_ids[number].numpy().tolist() == segments
            assert parts.segment_starts[number] == len(first)


def context_parts(plan, segment_starts):
    parts = (plan.questions, plan.starts, plan.lengths, segment_starts)
    return ContextParts(*(tf.constant(part, tf.int32) for part in parts))


def test_pieces_are_read_off_the_row_with_the_most_around_them():
    """Also where rows are so long that their lengths outweigh a piece."""
    question_lengths, context_lengths = np.array([2, 0, 5]), np.array([431, 17, 389])
    plan = plan_windows(question_lengths, context_lengths, 290, 143)
    segment_starts = (question_lengths + 2)[plan.questions]
    place = np.arange(290) - segment_starts[:, np.newaxis]
    is_shown = (place >= 0) & (place < plan.lengths[:, np.newaxis])
    before = np.array([0, 431, 448])[plan.questions] + plan.starts
    found = graph_answers.is_read_here(
        tf.constant(before[:, np.newaxis] + place, tf.int32),
        tf.constant(is_shown),
        context_parts(plan, segment_starts),
        tf.constant(context_lengths.sum(), tf.int32),
    ).numpy()
    assert not (found & ~is_shown).any()
    for question, (first, last) in enumerate(itertools.pairwise(plan.row_splits)):
        starts, lengths = plan.starts[first:last], plan.lengths[first:last]
        owner = best_rows(starts, lengths)
        assert len(owner) == context_lengths[question]
        for row, start, length in zip(range(last - first), starts, lengths, strict=True):
            here = found[first + row][is_shown[first + row]]
            np.testing.assert_array_equal(here, owner[start : start + length] == row)


def texts_and_places(text, starts, ends):
    """Two functions of a context's spans: what stands there, and where."""

    def place(span):
        return int(starts[span.first]), int(ends[span.last])

    return lambda span: text[slice(*place(span))], place


@pytest.mark.parametrize("with_null", [False, True])
@pytest.mark.parametrize("n_best_size", [1, 2, 5, 40])
def test_answers_are_those_of_answer_spans(with_null, n_best_size):
    """With ties among logits, scores and ``around``, and with texts that come again."""
    for seed in range(6):
        rng = np.random.default_rng([seed, n_best_size])
        room, stride = int(rng.integers(3, 15)), int(rng.integers(1, 9))
        question_lengths = rng.integers(0, 4, 5)
        context_lengths = np.array([0, 1, *rng.integers(2, 40, 3)])
        plan = plan_windows(question_lengths, context_lengths, room + 6, stride)
        segment_starts = (question_lengths + 2)[plan.questions]
        size = int((segment_starts + plan.lengths).max()) + 3
        logits = rng.integers(-3, 4, (len(plan.questions), size, 2)).astype(np.float32) / 2
        logits[:, 0] += 2 * rng.integers(0, 2)
        # Pieces of one character, or of two with a gap behind them.
        widths = [rng.integers(1, 3, length) for length in context_lengths]
        ends = [np.cumsum(width) for width in widths]
        starts = [end - 1 for end in ends]
        texts = ["".join(rng.choice(list("ab中"), int(w.sum()))) for w in widths]

        found = graph_answers.best_answers(
            tf.constant(logits),
            context_parts(plan, segment_starts),
            graph_answers.Contexts(
                tf.strings.unicode_decode(texts, "UTF-8"),
                *(tf.ragged.constant([p.tolist() for p in of], tf.int32) for of in (starts, ends)),
            ),
            n_best_size=n_best_size,
            max_answer_length=3,
            with_null=with_null,
            width=n_best_size + 2,
        )
        odds = graph_answers.null_odds(found).numpy()
        for question, (first, last) in enumerate(itertools.pairwise(plan.row_splits)):
            rows = answer_spans.Rows(
                plan.starts[first:last],
                plan.lengths[first:last],
                int(segment_starts[first]),
                logits[first:last, :, 0],
                logits[first:last, :, 1],
            )

            text_of, place = texts_and_places(texts[question], starts[question], ends[question])
            expected = answer_spans.best_answers(
                rows,
                text_of,
                n_best_size=n_best_size,
                max_answer_length=3,
                with_null=with_null,
            )
            columns = [
                ("", -1, -1) if a.span is None else (a.text, *place(a.span)) for a in expected
            ]
            count = len(columns)
            of_question = [of[question].numpy() for of in (found.texts, found.starts, found.ends)]
            got = [(text.decode(), *place) for text, *place in zip(*of_question, strict=True)]
            assert got == columns + [("", -1, -1)] * (n_best_size + 2 - count)
            scores = found.scores[question].numpy()
            if with_null or any(answer.span for answer in expected):
                assert scores[:count].tolist() == [answer.score for answer in expected]
            if not with_null:
                continue
            assert odds[question] == answer_spans.null_odds(expected)
            for threshold in (-1.5, 0.0, 1.0, float(odds[question])):
                column = graph_answers.chosen_column(found, threshold)[question]
                assert expected[int(column)] == chosen_answer(expected, threshold)
            as_default = graph_answers.chosen_column(found, 0.0)[question]
            assert expected[int(as_default)] == chosen_answer(expected, None)

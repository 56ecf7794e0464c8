"""Exported taggers say what Predictor says, of every text."""

import functools
import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from served import examples, exporting
from small_models import LETTERS, TEXTS, make_run

from bert_tf import Predictor
from bert_tf.cli.main import main
from bert_tf.errors import InputError
from bert_tf.export.graph_words import GraphWords
from bert_tf.export.word_rows import WordRowBuilder
from bert_tf.heads import BertTagger
from bert_tf.packing import RaggedIds
from bert_tf.tag_schemes import spans
from bert_tf.tasks.tag_predictor import word_spans
from bert_tf.tasks.tagging_data import allowed_by
from bert_tf.tokenization import Vocabulary
from bert_tf.word_windows import pack_words

ENTITIES = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
PARTS_OF_SPEECH = ("ADJ", "I", "B-", "VERB")
MAX_SEQ_LENGTH = 17

ODD = [
    "(U.S.) isn't  “so”…\u00a0$5!",
    "...",
    "the ?! river\u3000of\u2028able\u2029!",
    "a\x1cb\x85c\x0bd \x00 \x01e\x7f",
    "\u200b \u200d \ufeff the \u00ad river",  # words of which no piece is left
    "\ufeffthe\ufeff",
    "e\u0301te\u0301 \u0301 a\u0308\u0323! \u0345\u0345",
    "👩\u200d👩\u200d👧 🏳\ufe0f\u200d🌈river🙂 ☎able☎",
    "\U0001f1e9\U0001f1ea\U0010ffff\ufffe\ufdd0 \ue000a",
    "العربية हिन्दी 中文中 ΟΔΟΣ, Σ. İstanbul ﬁ ½ ²",
    "the " * 50,
    "a" * 90 + " b " + "c" * 90 + " " + "d" * 16,
    "unable!" * 12,
    "-" * 40,
    " ".join("abcdefghij"[: 1 + i % 10] for i in range(61)),
]


def random_texts(count, seed):
    """Texts of 0 to 90 characters or words, of all kinds."""
    rng = random.Random(seed)
    alphabet = [*"abz the river . , ! $ ( ) ", *"中é\u0301\u200b\u00a0\u2028🙂☎½\x1c\u00ad", "able"]
    alphabet += ["  ", " ", "x" * 21, "😀", "\U000e0001", chr(0x10FFFF)]
    return ["".join(rng.choices(alphabet, k=rng.randrange(90))) for _ in range(count)]


ALL = [*TEXTS, *ODD, *random_texts(20, 1)]
KINDS = {
    "softmax": (ENTITIES, False),
    "crf": (ENTITIES, True),
    "parts_of_speech": (PARTS_OF_SPEECH, True),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Makes folders of runs, by name."""
    made = {}

    def run(name):
        labels, use_crf = KINDS[name]

        def model(config):
            tagger = BertTagger(config, len(labels), use_crf=use_crf, allowed=allowed_by(labels))
            if use_crf:
                for part in tagger.crf.parts.values():
                    part.assign(keras.random.normal(part.shape, stddev=1.0, seed=7))
            return tagger

        if name not in made:
            # The words around a sentence: there are none around a text.
            settings = {"max_seq_length": MAX_SEQ_LENGTH, "crf": use_crf, "doc_context": use_crf}
            folder = tmp_path_factory.mktemp("runs") / name
            made[name] = make_run(folder, model, "run_tagger", settings, labels)
        return made[name]

    return run


@pytest.fixture(scope="module")
def export(runs, tmp_path_factory):
    return exporting(runs, tmp_path_factory)


def rows_of(found, prefix=""):
    """What was found in each text, as a list without what it was filled up with."""
    names = ["texts", "starts", "ends", "types", "scores"]
    if not prefix:
        names = ["words", "word_starts", "word_ends", "tags", "scores"]
    columns = [found[prefix + name] for name in names]
    rows = []
    for parts in zip(*columns, strict=True):
        size = int((parts[1] >= 0).sum())
        text, start, end, label, score = parts
        assert (text[size:] == b"").all() and (label[size:] == b"").all()
        assert (start[size:] == -1).all() and (end[size:] == -1).all()
        assert not score[size:].any()
        rows.append(
            [
                (one.decode(), int(first), int(last), name.decode(), value)
                for one, first, last, name, value in zip(*(p[:size] for p in parts), strict=True)
            ]
        )
    return rows


def assert_same(found, answers, has_entities, atol=1e-5):
    """Outputs for a batch are the answers of Predictor; returns the largest difference."""
    kinds = [("", "words", ("word", "tag"))]
    if has_entities:
        kinds.append(("entity_", "entities", ("text", "type")))
    assert any(name.startswith("entity_") for name in found) == has_entities
    differences = [0.0]
    for prefix, key, (text, label) in kinds:
        rows = rows_of(found, prefix)
        assert max(map(len, rows), default=0) == found[f"{prefix}scores"].shape[1]
        for row, answer in zip(rows, answers, strict=True):
            assert [one[:4] for one in row] == [
                (one[text], one["start"], one["end"], one[label]) for one in answer[key]
            ]
            differences += [
                abs(one[4] - other["score"]) for one, other in zip(row, answer[key], strict=True)
            ]
    assert max(differences) < atol
    return max(differences)


@pytest.fixture(scope="module")
def answers(runs):
    """What Predictor says of ALL, by the name of a run."""
    return functools.cache(lambda name: Predictor.load(runs(name)).predict(ALL))


@pytest.mark.parametrize("size", [1, 7, len(ALL)])
def test_every_text(kind, answers, export, size):
    labels = KINDS[kind][0]
    words = [word for answer in answers(kind) for word in answer["words"]]
    assert {word["tag"] for word in words} == set(labels)  # or else little would be compared
    assert np.ptp([word["score"] for word in words]) > 0.5
    first = len(ALL) - 12 if size == 1 else 0
    for start in range(first, len(ALL), size):
        batch = slice(start, start + size)
        found = export(kind)(text=[text.encode() for text in ALL[batch]])
        assert_same(found, answers(kind)[batch], labels == ENTITIES)


def test_texts_without_words(kind, export):
    for texts in ([b""], [b" ", b"", b"\t\n\xe2\x80\xa8"], []):
        found = export(kind)(text=np.array(texts, object))
        assert {values.shape for values in found.values()} == {(len(texts), 0)}


def test_examples(answers, export):
    found = export("crf")("examples", examples=examples({"text": ALL[:9]}))
    assert_same(found, answers("crf")[:9], True)


def test_tokens_take_rows_with_their_words(kind, runs, export):
    text = "the river of able"
    [answer] = Predictor.load(runs(kind)).predict([text])
    vocabulary = Vocabulary(runs(kind) / "vocab.txt")
    names = ["the", "river", "of", "a", "##b", "##l", "##e"]
    ids = [vocabulary.cls_id, *map(vocabulary.id_of, names), vocabulary.sep_id]
    row = np.array([ids, ids], np.int32)
    starts = np.array([[1, 2, 3, 4, 0], [0, 0, 0, 0, 0]], np.int32)
    mask = np.ones_like(row)
    served = export(kind)
    found = served(
        "tokens", input_ids=row, input_mask=mask, segment_ids=0 * row, word_starts=starts
    )
    assert [tag.decode() for tag in found["tags"][0]] == [w["tag"] for w in answer["words"]] + [""]
    np.testing.assert_allclose(
        found["scores"], [[*(w["score"] for w in answer["words"]), 0], [0] * 5], atol=1e-5
    )
    assert (found["tags"][1] == b"").all()
    tags = np.array([*KINDS[kind][0], ""])  # the last of which -1 stands for
    assert tags[found["label_ids"]].tolist() == [[t.decode() for t in row] for row in found["tags"]]
    none = served(
        "tokens", input_ids=row, input_mask=mask, segment_ids=0 * row, word_starts=starts[:, :0]
    )
    assert none["tags"].shape == none["scores"].shape == (2, 0)


def test_other_lengths(runs, export):
    """Longer rows than the run's, padded; with a batch of its own size."""
    texts = [text for text in ALL if len(text) < 9][:4]
    served = export("crf", "--max_seq_length=31", "--fixed_length", "--batch_size=4")
    expected = Predictor.load(runs("crf")).predict(texts)
    assert_same(served(text=[text.encode() for text in texts]), expected, True)
    with pytest.raises(ValueError, match="Cannot feed"):
        served(text=[b"the"])


def test_half_precision(export):
    exact, half = export("crf"), export("crf", "--precision=bfloat16")
    texts = [text.encode() for text in ALL]
    found, other = exact(text=texts), half(text=texts)
    assert other["scores"].dtype == np.float32
    np.testing.assert_array_equal(other["word_starts"], found["word_starts"])
    same = other["tags"] == found["tags"]
    assert 0.8 < same.mean() < 1.0 or np.abs(other["scores"] - found["scores"]).max() > 1e-4
    for row in rows_of(other):
        assert all(0.0 <= one[4] <= 1.00001 for one in row)
        tags = [one[3] for one in row]
        assert not any(
            tag[0] == "I" and previous[2:] != tag[2:]
            for previous, tag in zip(["O", *tags], tags, strict=False)
        )
    assert [len(row) for row in rows_of(other, "entity_")] == [
        len(spans([one[3] for one in row])) for row in rows_of(other)
    ]


def test_too_little_room(runs, tmp_path, capsys):
    flags = [f"--model_dir={runs('crf')}", f"--export_dir={tmp_path}", "--max_seq_length=3"]
    assert main(["export", *flags]) == 2
    assert "max_seq_length 3 is too small for words" in capsys.readouterr().err


def test_labels_go_with_it(export):
    extra = export("softmax").folder / "assets.extra"
    assert (extra / "labels.txt").read_text().split() == list(ENTITIES)
    card = json.loads((extra / "model_card.json").read_text())
    assert card["task"] == "tagging"
    assert set(card["signatures"]) == {"serving_default", "tokens", "examples"}


@pytest.fixture(scope="module")
def graph_words():
    return GraphWords()


def assert_same_words(graph_words, texts):
    found = graph_words.find(tf.constant([text.encode() for text in texts]))
    splits = found.row_splits.numpy()
    starts = (found.starts - found.origins).numpy().tolist()
    ends = (found.ends - found.origins).numpy().tolist()
    words = [word.decode() for word in found.strings(found.starts, found.ends).numpy()]
    for number, text in enumerate(texts):
        of_text = slice(splits[number], splits[number + 1])
        expected = word_spans(text)
        assert list(zip(starts[of_text], ends[of_text], strict=True)) == expected, repr(text)
        assert words[of_text] == [text[start:end] for start, end in expected]


class TestGraphWords:
    def test_every_code_point(self, graph_words):
        characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
        # All kinds of neighbours: each is the first, the last and in the middle of a chunk once.
        texts = [f"{c}a{c}b {c} .{c}." for c in characters if ord(c) < 0x3100]
        texts += ["".join(characters[i : i + 997]) for i in range(0, len(characters), 997)]
        assert_same_words(graph_words, texts)

    def test_random_texts(self, graph_words):
        assert_same_words(graph_words, ["", *ALL, *random_texts(300, 2), ""])

    def test_goldens(self, graph_words, shared):
        lines = (shared / "goldens" / "tokenizer" / "cases.jsonl").read_text("utf-8").split("\n")
        assert_same_words(graph_words, [json.loads(line)["text"] for line in lines if line])

    def test_bytes_that_are_no_text_are_left_out(self, graph_words):
        found = graph_words.find(tf.constant([b"\xffa\xc3b c\xed\xa0\x80"]))
        assert found.strings(found.starts, found.ends).numpy().tolist() == [b"ab", b"c"]
        assert found.starts.numpy().tolist() == [0, 3]


class TestWordRowBuilder:
    @pytest.mark.parametrize("max_seq_length", [4, 5, 8, 19])
    def test_rows_are_those_of_pack_words(self, max_seq_length, tmp_path):
        (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n" + "\n".join(LETTERS) + "\n")
        vocabulary = Vocabulary(tmp_path / "vocab.txt")
        builder = WordRowBuilder(vocabulary, max_seq_length)
        of_words = tf.function(
            builder.of_words,
            input_signature=[
                tf.RaggedTensorSpec([None, None], tf.int32),
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None], tf.int32),
            ],
            autograph=False,
        )
        rng = np.random.default_rng(max_seq_length)
        num_continued = num_empty = 0
        for _ in range(30):
            num_words = rng.choice([0, 1, 2, 9, 40], size=6)
            num_words[rng.integers(6)] += 1  # or else there would be nothing to pack
            longest = rng.choice([2, 3, 30])
            lengths = rng.integers(0, longest, num_words.sum())
            values = rng.integers(3, len(vocabulary), lengths.sum()).astype(np.int32)
            splits = np.concatenate([[0], np.cumsum(num_words)])
            piece_splits = np.concatenate([[0], np.cumsum(lengths)])
            sentences = splits[:-1][num_words > 0]
            expected = pack_words(
                RaggedIds(values, piece_splits),
                np.append(sentences, splits[-1]),
                np.arange(len(sentences)),
                max_seq_length,
                doc_context=bool(rng.integers(2)),
                cls_id=vocabulary.cls_id,
                sep_id=vocabulary.sep_id,
                unk_id=vocabulary.unk_id,
            )
            found = of_words(
                tf.RaggedTensor.from_row_splits(values, piece_splits),
                tf.repeat(tf.range(6), num_words),
                tf.constant(splits, tf.int32),
            )
            mask = found.rows.input_mask.numpy()
            ids = expected.texts.input_ids
            assert mask.sum(1).tolist() == ids.lengths.tolist()
            assert found.rows.input_ids.numpy()[mask > 0].tolist() == ids.values.tolist()
            assert not found.rows.input_ids.numpy()[mask == 0].any()
            assert not found.rows.segment_ids.numpy().any()
            starts = found.word_starts.numpy()
            assert (starts > 0).sum(1).tolist() == expected.word_starts.lengths.tolist()
            assert starts[starts > 0].tolist() == expected.word_starts.values.tolist()
            num_continued += expected.is_continued.sum()
            num_empty += (lengths == 0).sum()
        assert num_continued > 50 and num_empty > 50

    def test_too_little_room(self, runs):
        with pytest.raises(InputError, match="give 4 or more"):
            WordRowBuilder(Vocabulary(runs("crf") / "vocab.txt"), 3)

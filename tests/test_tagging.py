"""``bert-tf run_tagger`` as a user runs it, and Predictor, on what a small model can learn."""

import contextlib
import io
import itertools
import json

import numpy as np
import pytest

from bert_tf import Predictor
from bert_tf.checkpoint import load_checkpoint
from bert_tf.cli.main import main
from bert_tf.config import Tagging
from bert_tf.errors import InputError
from bert_tf.tag_schemes import from_iob2, spans
from bert_tf.tasks import tag_predictor, word_tagger
from bert_tf.tasks.word_tagger import WordTagger
from bert_tf.tokenization import FullTokenizer

GOOD = ["good", "great", "best", "love", "happy", "beautiful", "fine"]
BAD = ["bad", "war", "death", "lost", "fire", "never", "hard"]
INSIDE = ["house", "man", "year", "city"]
OTHER = ["the", "a", "of", "film", "story", "and", "in"]


def make_sentence(random, length):
    """Words, and tags in IOB2: an entity begins with a word of two lists, which tell its type."""
    words, tags = [], []
    kind = "O"
    for _ in range(length):
        kinds = ["GOOD", "BAD", "O", "O"] if kind == "O" else ["GOOD", "BAD", "O", "I", "I"]
        chosen = random.choice(kinds)
        if chosen == "I":
            words.append(str(random.choice(INSIDE)))
            tags.append(f"I-{kind}")
            continue
        kind = str(chosen)
        words.append(str(random.choice({"GOOD": GOOD, "BAD": BAD, "O": OTHER}[kind])))
        tags.append("O" if kind == "O" else f"B-{kind}")
    return words, tags


def columns(sentences, scheme="iob1"):
    lines = ["-DOCSTART- -X- O", ""]
    for words, tags in sentences:
        lines += [f"{w} X {t}" for w, t in zip(words, from_iob2(tags, scheme), strict=True)] + [""]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(5)
    for split, size in (("train", 120), ("dev", 30)):
        sentences = [make_sentence(random, random.integers(1, 12)) for _ in range(size)]
        # One that is much longer than a row, with an entity across every cut.
        sentences.append((["good"] + ["city"] * 49, ["B-GOOD"] + ["I-GOOD"] * 49))
        (folder / f"{split}.txt").write_text(columns(sentences))
    (folder / "test.txt").write_text("the\ngood\n\n\u200b\nbad\n")
    return folder


@pytest.fixture(scope="module")
def model_flags(testdata):
    folder = testdata / "original_tiny"
    return [
        f"--vocab_file={folder / 'vocab.txt'}",
        f"--bert_config_file={folder / 'bert_config.json'}",
        f"--init_checkpoint={folder / 'model.ckpt-300'}",
        "--max_seq_length=16",
        "--learning_rate=1e-3",
        "--bias_correction",
        "--train_batch_size=10",
    ]


def run(*arguments):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main([str(argument) for argument in arguments])
    assert status == 0
    return printed.getvalue()


@pytest.fixture(scope="module", params=["softmax", "crf"])
def trained(request, tmp_path_factory, data_dir, model_flags):
    folder = tmp_path_factory.mktemp("runs") / request.param
    printed = run(
        "run_tagger", "--do_train", "--do_eval", "--do_predict", *model_flags,
        f"--data_dir={data_dir}", "--num_train_epochs=25", f"--output_dir={folder}",
        "--eval_steps=200",
        *(["--crf"] if request.param == "crf" else []),
    )  # fmt: skip
    return folder, json.loads(printed)


def read_columns(path):
    """Sentences as lists of lines' columns."""
    blocks = path.read_text().strip().split("\n\n")
    return [[line.split(" ") for line in block.splitlines()] for block in blocks]


def read_lines(path):
    return path.read_text().splitlines()


def count_entities(tags):
    """The entities of a sentence in IOB1, as conlleval.txt defines them."""
    found, start, kind = set(), None, None
    for i, tag in enumerate([*tags, "O"]):
        prefix, _, new = tag.partition("-")
        if start is not None and (prefix != "I" or new != kind):
            found.add((kind, start, i))
            start = None
        if start is None and prefix != "O":
            start, kind = i, new
    return found


def test_the_run_learns_and_its_figures_are_those_of_its_predictions(trained, data_dir):
    folder, printed = trained
    results = json.loads((folder / "eval_results.json").read_text())
    assert results == printed
    assert results["eval_f1"] > 0.9
    assert (folder / "labels.txt").read_text().split() == [
        "B-BAD",
        "B-GOOD",
        "I-BAD",
        "I-GOOD",
        "O",
    ]
    predicted = read_columns(folder / "dev_predictions.txt")
    assert predicted[0] == [["-DOCSTART-", "-X-", "O"]]
    given = read_columns(data_dir / "dev.txt")
    assert [[row[:3] for row in block] for block in predicted] == given
    gold = [count_entities([row[2] for row in block]) for block in predicted[1:]]
    found = [count_entities([row[3] for row in block]) for block in predicted[1:]]
    right = sum(len(one & other) for one, other in zip(gold, found, strict=True))
    precision, recall = right / sum(map(len, found)), right / sum(map(len, gold))
    assert results["eval_precision"] == pytest.approx(precision)
    assert results["eval_recall"] == pytest.approx(recall)
    assert results["eval_f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    of_type = [{e for e in entities if e[0] == "BAD"} for entities in gold]
    right = sum(len(one & other) for one, other in zip(of_type, found, strict=True))
    assert results["eval_recall_BAD"] == pytest.approx(right / sum(map(len, of_type)))
    rows = [row for block in predicted[1:] for row in block]
    assert results["eval_accuracy"] == pytest.approx(
        np.mean([row[2] == row[3] for row in rows]), abs=0.02
    )


def test_the_best_model_so_far_is_kept(trained):
    folder, _ = trained
    lines = [json.loads(line) for line in read_lines(folder / "train_log.jsonl")]
    best = max((line for line in lines if "eval_f1" in line), key=lambda line: line["eval_f1"])
    kept = json.loads((folder / "best" / "eval_results.json").read_text())
    assert kept.pop("global_step") == best["step"]
    assert kept.items() <= best.items()
    assert len(Predictor.load(folder / "best").predict(["good film"])) == 1


def test_the_worst_errors_are_the_sentences_with_wrong_tags(trained):
    folder, _ = trained
    rows = [
        [row for row in block if row[0] != "-DOCSTART-"]
        for block in read_columns(folder / "dev_predictions.txt")
    ]
    wrong = [
        [[row[column] for row in block] for column in (0, 2, 3)]
        for block in rows
        if any(row[2] != row[3] for row in block)
    ]
    written = [json.loads(line) for line in read_lines(folder / "eval_errors.jsonl")]
    keys = ("words", "tags", "predicted")
    assert sorted([error[key] for key in keys] for error in written) == sorted(wrong)
    losses = [error["loss"] for error in written]
    assert losses == sorted(losses, reverse=True)
    assert min(losses, default=1.0) > 0
    assert (folder / "confusion_matrix.png").stat().st_size > 1000


def test_no_word_is_lost(trained):
    folder, _ = trained
    long = read_columns(folder / "dev_predictions.txt")[-1]
    assert len(long) == 50
    right = [row[2] == row[3] for row in long]
    assert np.mean(right) > 0.7  # over all the rows that it was cut into
    lines = (folder / "test_predictions.txt").read_text().split("\n")
    assert [line.split(" ")[0] for line in lines] == ["the", "good", "", "\u200b", "bad", ""]
    tags = [line.split(" ")[1] for line in lines if line]
    assert tags[:2] == ["O", "I-GOOD"]  # in the scheme of training, as they have no tags here


def test_evaluating_again_gives_the_same(trained, data_dir):
    folder, printed = trained
    again = run(
        "run_tagger", "--do_eval", f"--data_dir={data_dir}", f"--output_dir={folder}", "--overwrite"
    )
    assert json.loads(again) == pytest.approx(printed)


def test_predictor_gives_entities_with_their_places(trained, data_dir):
    folder, _ = trained
    predictor = Predictor.load(folder)
    text = "The (great city) film, bad!"
    found, empty, listed = predictor.predict([text, " ", ["great", "city", "film"]])
    assert [word["word"] for word in found["words"]] == [
        *("The", "(", "great", "city", ")", "film", ",", "bad", "!"),
    ]
    for item in (*found["words"], *found["entities"]):
        assert text[item["start"] : item["end"]] == item.get("word", item.get("text"))
        assert 0.0 < item["score"] <= 1.0
    entities = {(entity["type"], entity["text"]) for entity in found["entities"]}
    assert {("GOOD", "great city"), ("BAD", "bad")} <= entities
    tags = [word["tag"] for word in found["words"]]
    assert len(spans(tags)) == len(found["entities"])
    scores = [word["score"] for word in found["words"][2:4]]
    assert found["entities"][0]["score"] == pytest.approx(np.mean(scores))
    assert empty == {"text": " ", "words": [], "entities": []}
    assert listed["text"] == "great city film"
    assert predictor.predict([]) == []
    with pytest.raises(InputError, match=r"texts\[0\] must be a str, or a list of its words"):
        predictor.predict([("a", "b")])


def test_parts_of_speech_have_an_accuracy_and_no_entities(tmp_path, model_flags):
    random = np.random.default_rng(6)
    for split, size in (("train", 60), ("dev", 20)):
        rows = []
        for _ in range(size):
            words, tags = make_sentence(random, 6)
            tags = [{"O": "DET"}.get(tag, tag[0]) for tag in tags]
            rows.append(json.dumps({"tokens": words, "tags": tags}))
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    folder = tmp_path / "run"
    results = json.loads(
        run(
            "run_tagger", "--do_train", "--do_eval", *model_flags, f"--data_dir={tmp_path}",
            "--num_train_epochs=20", f"--output_dir={folder}", "--doc_context", "--num_seeds=2",
        )
    )  # fmt: skip
    assert results["eval_accuracy_best"] > 0.9
    assert "eval_f1" not in results
    rows = [json.loads(line) for line in read_lines(folder / "dev_predictions.jsonl")]
    right = [np.array(row["tags"]) == np.array(row["predicted_tags"]) for row in rows]
    accuracy = np.concatenate(right).mean()
    assert results["eval_accuracy_best"] == pytest.approx(accuracy)
    answer = Predictor.load(folder).predict(["bad"])[0]
    assert set(answer) == {"text", "words"}
    assert answer["words"][0]["tag"] == "B"


@pytest.mark.parametrize(
    ("train", "dev", "flags", "message"),
    [
        ("a B-X\nb\n", "", [], "train.txt:2: 1 columns, but line 1 has 2"),
        ("a B-X\nb X-X\n", "", [], "train.txt:2: 'X-X' is no tag of the scheme iob2"),
        ("a B-X\n", "a B-Y\n", [], "dev.txt:1: the tag 'B-Y' (in IOB2) is not among those"),
        ("a I-X\n", "a O\n", ["--tag_scheme=iob2"], "train.txt:1: 'I-X' after 'O'"),
        ("a O\n", "a O\n", ["--tag_column=7"], "train.txt:1: expected a column 7"),
        ("a O\nb O\n", "a O\n", [], "train.txt: all of its words have the tag 'O'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_before_anything_is_written(
    tmp_path, model_flags, capsys, train, dev, flags, message
):
    (tmp_path / "train.txt").write_text(train)
    (tmp_path / "dev.txt").write_text(dev)
    arguments = ["run_tagger", "--do_train", "--do_eval", *model_flags, *flags]
    arguments += [f"--data_dir={tmp_path}", f"--output_dir={tmp_path / 'run'}"]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def make_tagger(original_tiny, testdata):
    """A tagger with the original's weights, and no dropout."""

    def make(labels=("B-X", "I-X", "O"), **settings):
        config, path = original_tiny
        settings = Tagging(do_train=True, output_dir="-", max_seq_length=16, **settings)
        tokenizer = FullTokenizer(testdata / "original_tiny" / "vocab.txt", do_lower_case=True)
        tagger = WordTagger(settings, config, tokenizer, labels)
        load_checkpoint(tagger.model, path, allow_missing=["output_*", "crf/*"])
        return tagger

    return make


@pytest.mark.parametrize("crf", [False, True])
def test_a_row_in_the_middle_of_an_entity_has_a_finite_loss(make_tagger, crf):
    tagger = make_tagger(crf=crf)
    words = [["good"] * 40]
    windows = tagger.windows(words, np.zeros(1, np.int64))
    assert windows.is_continued.any()
    ids = np.array([0] + [1] * 39, np.int32)
    features = tagger.features(windows, ids)
    _, losses = tagger.logits(features, batch_size=4)
    assert np.isfinite(losses["loss"])
    assert losses["loss"] < 10
    assert ids.tolist() == [0] + [1] * 39  # the caller's labels stay


def test_a_crf_is_used_with_the_model_that_was_trained_with_it(trained, data_dir, capsys):
    folder, _ = trained
    has_crf = "crf" in folder.name
    flag = "--nocrf" if has_crf else "--crf"
    arguments = ["run_tagger", "--do_eval", f"--data_dir={data_dir}", f"--output_dir={folder}"]
    before = (folder / "eval_results.json").read_bytes()
    assert main([*arguments, "--overwrite", flag]) == 2
    said = f"--crf={not has_crf}: the model in --output_dir {folder} was trained with {has_crf}"
    assert said in capsys.readouterr().err
    assert (folder / "eval_results.json").read_bytes() == before


def test_several_seeds_have_the_same_figures_whatever_types_they_find(tmp_path, model_flags):
    (tmp_path / "train.txt").write_text("good B-GOOD\nbad B-BAD\nwar B-WAR\n\n" * 20)
    (tmp_path / "dev.txt").write_text("good B-GOOD\nthe O\n\n")
    printed = run(
        "run_tagger", "--do_train", "--do_eval", *model_flags, f"--data_dir={tmp_path}",
        "--num_train_epochs=1", f"--output_dir={tmp_path / 'run'}", "--num_seeds=2",
    )  # fmt: skip
    assert {"eval_f1_WAR", "eval_f1_BAD", "eval_f1_GOOD"} <= set(json.loads(printed))


def test_without_a_scheme_labels_follow_each_other_freely(make_tagger):
    tagger = make_tagger(labels=("I-X", "O"), tag_scheme="none", crf=True)
    assert not tagger.has_entities
    words, label_ids = [["good", "bad"]], np.array([1, 0], np.int32)
    logits = np.array([[0.0, 9.0], [9.0, 0.0]], np.float32)
    assert tagger.label(logits, words)[0] == [["O", "I-X"]]
    assert tagger.sentence_losses(logits, words, label_ids) < 1e-3


def test_what_is_not_finite_is_refused(make_tagger):
    tagger = make_tagger()
    tagger.model.output_bias.assign([np.nan, 0.0, 0.0])
    features = tagger.features(tagger.windows([["good"]], np.zeros(1, np.int64)))
    with pytest.raises(InputError, match="of the model's 3 outputs are not finite"):
        tagger.logits(features, batch_size=4)


def test_a_long_sentence_does_not_lengthen_many_others():
    splits = np.concatenate([[0], np.cumsum([9000, *[3] * 600, 0, 8000])])
    groups = list(word_tagger._groups(splits))
    assert sorted(np.concatenate([rows for rows, _ in groups]).tolist()) == list(range(603))
    for rows, lengths in groups:
        assert lengths.tolist() == np.diff(splits)[rows].tolist()
        assert len(rows) <= 256
        assert len(rows) == 1 or len(rows) * lengths.max() <= 1 << 14
    assert len(groups) == 5


def test_labels_never_break_the_tag_scheme(make_tagger):
    tagger = make_tagger()
    rng = np.random.default_rng(3)
    words = [["good"] * length for length in (1, 7, 3)]
    for _ in range(10):
        logits = rng.normal(scale=50, size=(11, 3)).astype(np.float32)
        tags, scores = tagger.label(logits, words)
        assert list(map(len, tags)) == list(map(len, scores)) == [1, 7, 3]
        for sentence in tags:
            for previous, tag in zip(["O", *sentence], sentence, strict=False):
                assert not (tag == "I-X" and previous == "O")


@pytest.mark.parametrize("crf", [False, True])
def test_losses_of_sentences_equal_enumeration(make_tagger, crf):
    tagger = make_tagger(crf=crf)
    if crf:
        for part in tagger.model.crf.parts.values():
            part.assign(np.random.default_rng(1).normal(size=part.shape))
    logits = np.random.default_rng(2).normal(size=(6, 3)).astype(np.float32)
    words, label_ids = [["good"] * 2, ["bad"] * 4], np.array([0, 1, 0, 1, 2, 0], np.int32)
    start, transitions, end = (part.numpy() for part in tagger.model.chain())

    def score(of_words, labels):
        inner = sum(transitions[a, b] for a, b in itertools.pairwise(labels))
        emitted = sum(row[label] for row, label in zip(of_words, labels, strict=True))
        return start[labels[0]] + emitted + inner + end[labels[-1]]

    expected = []
    for first, last in ((0, 2), (2, 6)):
        of_words = logits[first:last].astype(np.float64)
        scores = [score(of_words, s) for s in itertools.product(range(3), repeat=last - first)]
        right = score(of_words, label_ids[first:last])
        expected.append(np.log(np.sum(np.exp(scores))) - right)
    np.testing.assert_allclose(
        tagger.sentence_losses(logits, words, label_ids), expected, rtol=1e-5
    )


def test_words_around_a_sentence_change_what_it_says_only_with_doc_context(make_tagger):
    words = [["the", "good"], ["film"]]
    for doc_context in (False, True):
        tagger = make_tagger(doc_context=doc_context)
        together = tagger.windows(words, np.array([0, 0]))
        apart = tagger.windows(words, np.array([0, 1]))
        one, _ = tagger.logits(tagger.features(together), 8)
        other, _ = tagger.logits(tagger.features(apart), 8)
        assert (np.abs(one - other).max() > 1e-5) == doc_context


def test_words_of_a_text():
    def words(text):
        return [text[start:end] for start, end in tag_predictor.word_spans(text)]

    assert words("(U.S.) isn't  “so”…\u00a0$5!") == [
        *("(", "U.S", ".", ")", "isn't", "“", "so", "”", "…", "$", "5", "!"),
    ]
    assert words("...") == [".", ".", "."]
    assert words(" \n") == []


def test_a_checkpoint_alone_has_no_tags():
    from bert_tf.config import ModelFiles

    with pytest.raises(InputError, match="finished run_tagger run"):
        Predictor.load(ModelFiles(), task="tagging")

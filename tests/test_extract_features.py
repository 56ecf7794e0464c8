"""``bert-tf extract_features``, vectors and similarities: against the model on each text alone."""

import dataclasses
import errno
import io
import itertools
import json
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from file_server import full_disk

from bert_tf import Predictor
from bert_tf.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, write_tensors
from bert_tf.cli.main import main
from bert_tf.config import POOLINGS, BertConfig, ModelFiles
from bert_tf.errors import InputError
from bert_tf.heads import BertPretrainer
from bert_tf.modeling import BertModel
from bert_tf.tasks import feature_extraction
from bert_tf.tasks.feature_extraction import LinesInOrder, read_text, record
from bert_tf.tasks.text_encoder import TextEncoder, pool
from bert_tf.tokenization import FullTokenizer

LONGEST = 13  # --max_seq_length; no multiple of what rows are padded to
LINES = [
    "The river is long",
    "he went to the house ||| it was good ||| never",
    "",
    "the man and the woman and the man and the woman and the man",
    "a ||| b",
    "one two three four five six seven eight nine ten ||| one two three",
    "a text ||| one two three four five six seven eight nine ten",
    "no second piece ||| \u200b.\u200b".replace(".", ""),
    "  naïve café ||| \t",
]
IS_PAIR = [False, True, False, False, True, True, True, False, False]


@pytest.fixture(scope="module")
def released(tmp_path_factory, testdata):
    """A model with strong random weights, so that each piece has another vector."""
    folder = tmp_path_factory.mktemp("released") / "uncased_L-3_H-20_A-4"
    folder.mkdir()
    shutil.copy(testdata / "original_tiny" / "vocab.txt", folder / "vocab.txt")
    config = BertConfig(
        vocab_size=2048,
        hidden_size=20,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=28,
        max_position_embeddings=37,
        type_vocab_size=2,
        initializer_range=0.7,
    )
    (folder / "bert_config.json").write_text(config.to_json_string())
    keras.utils.set_random_seed(3)
    save_checkpoint(BertPretrainer(config), folder / "bert_model.ckpt")
    return folder


@pytest.fixture(scope="module")
def by_hand(released):
    """A text or a pair -> its pieces, and float32 [S, layers, H], without padding or batches."""
    tokenizer = FullTokenizer(released / "vocab.txt")
    model = BertModel(BertConfig.from_json_file(released / "bert_config.json"))
    load_checkpoint(model, released / "bert_model.ckpt")

    def run(text, longest=LONGEST):
        texts = [tokenizer.tokenize(part) for part in ([text] if isinstance(text, str) else text)]
        if not texts[-1]:
            del texts[1:]
        while sum(map(len, texts)) > longest - 1 - len(texts):
            max(reversed(texts), key=len).pop()  # of equal ones the second
        rows = [["[CLS]", *texts[0], "[SEP]"], *([*second, "[SEP]"] for second in texts[1:])]
        pieces = list(itertools.chain(*rows))
        segments = np.repeat([0, 1][: len(rows)], [len(row) for row in rows])
        ids = np.array([tokenizer.convert_tokens_to_ids(pieces)])
        outputs = model({"input_ids": ids, "segment_ids": segments[None]})["encoder_outputs"]
        return pieces, np.stack([output[0] for output in outputs], axis=1)

    return run


@pytest.fixture(scope="module")
def lines_by_hand(by_hand):
    def split(line):
        first, separator, second = line.strip().rpartition(" ||| ")
        return (first, second) if separator else second

    return [by_hand(split(line)) for line in LINES]


@pytest.fixture
def extract(tmp_path, released):
    """Runs the command on LINES; returns its status and the file's path."""
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")

    def run(*flags, name="out.jsonl", text=None):
        if text is not None:
            (tmp_path / "in.txt").write_bytes(text)
        path = tmp_path / name
        files = [f"--input_file={tmp_path / 'in.txt'}", f"--output_file={path}"]
        command = ["extract_features", f"--checkpoint={released}", f"--max_seq_length={LONGEST}"]
        return main([*command, *files, *flags]), path

    return run


def naive_vector(pooling, outputs):
    """A row's vector, from its own pieces' outputs [S, H], number by number."""
    columns = [[float(value) for value in column] for column in outputs.T]
    function = {"cls": lambda c: c[0], "mean": lambda c: sum(c) / len(c), "max": max}[pooling]
    return [function(column) for column in columns]


def unit(vector):
    return np.array(vector) / np.sqrt(np.sum(np.square(vector)))


# --- lines of JSON ------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--batch_size=2", "--use_one_hot_embeddings"]])
def test_each_line_has_the_models_outputs_on_it_alone(extract, lines_by_hand, monkeypatch, flags):
    monkeypatch.setattr(feature_extraction, "WINDOW", 2)
    status, path = extract("--layers=-1,0,-2", *flags)
    assert status == 0
    rows = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
    assert len(rows) == len(LINES)
    for number, (row, (pieces, outputs)) in enumerate(zip(rows, lines_by_hand, strict=True)):
        assert list(row) == ["linex_index", "features"]
        assert row["linex_index"] == number
        assert [feature["token"] for feature in row["features"]] == pieces
        assert pieces.count("[SEP]") == 1 + IS_PAIR[number]
        for feature, expected in zip(row["features"], outputs, strict=True):
            assert list(feature) == ["token", "layers"]
            assert [list(layer) for layer in feature["layers"]] == [["index", "values"]] * 3
            assert [layer["index"] for layer in feature["layers"]] == [-1, 0, -2]
            values = [layer["values"] for layer in feature["layers"]]
            np.testing.assert_allclose(values, expected[[2, 0, 1]], rtol=0, atol=2e-5)
    assert max(len(row["features"]) for row in rows) == LONGEST


def test_numbers_are_rounded_as_the_original_rounds_them():
    rng = np.random.default_rng(4)
    outputs = rng.normal(scale=3, size=(3, 2, 501)).astype(np.float32)
    outputs[0, 0, :5] = [7 / 128, -9 / 128, -1e-9, 4097.0000123, 0.5]  # halves of 10**-6, -0.0
    features = [
        {
            "token": piece,
            "layers": [
                {"index": layer, "values": [round(float(value), 6) for value in values]}
                for layer, values in zip([-1, -4], of_piece, strict=True)
            ],
        }
        for piece, of_piece in zip(["[CLS]", "é", "[SEP]"], outputs, strict=True)
    ]
    expected = json.dumps({"linex_index": 7, "features": features}) + "\n"
    assert record(7, ["[CLS]", "é", "[SEP]"], [-1, -4], outputs) == expected.encode()


def test_lines_come_back_to_their_order_and_wait_no_longer_than_they_must():
    rng = np.random.default_rng(8)
    lines = [bytes(rng.integers(0, 255, rng.integers(0, 9)).tolist()) for _ in range(26)]
    file, waiting = io.BytesIO(), io.BytesIO()
    in_order = LinesInOrder(file, waiting)
    for start in range(0, len(lines), 7):
        numbers = rng.permutation(np.arange(start, min(start + 7, len(lines))))
        for batch in (numbers[:3], numbers[3:]):
            for number in batch.tolist():
                in_order.add(number, lines[number])
            in_order.write()
        assert file.getvalue() == b"".join(lines[: start + 7])
        assert waiting.getvalue() == b""


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("a ||| b", ("a", "b")),
        (" a ||| b ||| c ", ("a ||| b", "c")),
        ("a |||  b", ("a", " b")),
        ("a||| b", "a||| b"),
        (" ||| b", " ||| b"),
        ("a ||| ", "a ||| "),
    ],
)
def test_pairs_are_told_as_in_the_original(line, text):
    assert read_text(line) == text


# --- vectors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("normalize", [False, True])
def test_vectors_are_pooled_over_the_pieces_of_the_first_layer(
    extract, lines_by_hand, pooling, normalize
):
    flags = [f"--pooling={pooling}", "--layers=1,-9", "--batch_size=4"]
    status, path = extract(*flags, *["--normalize"] * normalize, name="out.npy")
    assert status == 0
    vectors = np.load(path)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(LINES), 20)
    expected = [naive_vector(pooling, outputs[:, 1]) for _, outputs in lines_by_hand]
    if normalize:
        expected = [unit(vector) for vector in expected]
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=2e-5)
    assert sorted(p.name for p in path.parent.iterdir()) == ["in.txt", "out.npy"]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_is_in_no_vector(pooling):
    outputs = np.random.default_rng(3).normal(size=(3, 5, 7)).astype(np.float32) - 4.0
    lengths = [5, 1, 3]
    for row, length in enumerate(lengths):
        outputs[row, length:] = 1e9
    mask = (np.arange(5) < np.array(lengths)[:, None]).astype(np.int32)
    expected = [naive_vector(pooling, row[:n]) for row, n in zip(outputs, lengths, strict=True)]
    np.testing.assert_allclose(pool(pooling, tf.constant(outputs), mask), expected, rtol=1e-6)


# --- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "name", "message"),
    [
        (["--layers=-4"], "o", "--layers=-4: there is no layer -4 in a model of 3 layers; give -3"),
        (["--layers=0,3"], "o", "there is no layer 3 in a model of 3"),
        (["--layers=-1,x"], "o", "--layers=-1,x: expected numbers"),
        (["--pooling=mean"], "o", "/o: --pooling=mean writes an array; give a name that ends in"),
        ([], "o.npy", "/o.npy: an array has one vector per line; give --pooling too"),
        (["--normalize"], "o", "--normalize: it is for the vectors of --pooling"),
        (["--batch_size=0"], "o", "--batch_size must be at least 1"),
        (["--max_seq_length=38"], "o", "--max_seq_length=38 is more than"),
        (["--layers=0", "--max_seq_length=4"], "o", "max_seq_length 4 is too small"),
        (["--use_tpu"], "o", "--use_tpu: this version"),
        (["--input_file="], "o", "--input_file is missing"),
        (["--output_file="], "o", "--output_file is missing"),
        (["--layers=0", "--input_file=none.txt"], "o", "none.txt: cannot be read"),
        (["--vocab_file=none.txt"], "o", "none.txt: cannot read the vocabulary"),
        (["--init_checkpoint=none.ckpt"], "o", "none.ckpt: no checkpoint"),
        (["--layers=0"], "in.txt", "in.txt: is there already; give another name, or --overwrite"),
        (["--layers=0", "--overwrite"], "in.txt", "in.txt: one of the --input_file"),
        (["--layers=0"], "", ": a folder; give a file, as in"),
    ],
)
def test_a_mistake_is_said_and_nothing_is_written(extract, tmp_path, capsys, flags, name, message):
    before = (tmp_path / "in.txt").read_bytes()
    status, _ = extract(*flags, name=name)
    printed = capsys.readouterr()
    assert status == 2
    assert message in printed.err
    assert printed.out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["in.txt"]
    assert (tmp_path / "in.txt").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "in.txt: expected a text on each line, but the file is empty"),
        (b"a\nb\xff\n", "in.txt:2: byte 1 of the line (from 0) is 0xff, which is not UTF-8"),
    ],
)
def test_a_wrong_text_is_said_and_nothing_is_written(extract, tmp_path, capsys, text, message):
    assert extract("--layers=0", text=text)[0] == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["in.txt"]


def test_a_file_that_is_there_is_replaced_on_request_only(extract, capsys):
    status, path = extract("--layers=0", text=b"the man\n")
    written = path.read_bytes()
    assert status == 0
    assert extract("--layers=1")[0] == 2
    assert "is there already" in capsys.readouterr().err
    assert path.read_bytes() == written
    assert extract("--layers=0", "--overwrite", text=b"the man\nthe man\n")[0] == 0
    assert path.read_bytes().startswith(written)
    assert len(path.read_bytes()) == 2 * len(written)


@pytest.mark.parametrize(
    ("error", "status"),
    [(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 2), (KeyboardInterrupt(), 130)],
)
def test_what_is_cut_off_leaves_nothing(extract, tmp_path, monkeypatch, capsys, error, status):
    def fail_later(number, *arguments):
        if number == 4:
            raise error
        return record(number, *arguments)

    monkeypatch.setattr(feature_extraction, "record", fail_later)
    assert extract("--layers=0", "--batch_size=1")[0] == status
    message = {2: "out.jsonl: cannot write it: No space left", 130: "was interrupted"}[status]
    assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["in.txt"]


@pytest.mark.parametrize("reserves", [True, False])  # not every system can
def test_a_full_disk_is_said_and_leaves_nothing(extract, tmp_path, monkeypatch, capsys, reserves):
    if not reserves:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    elif not hasattr(os, "posix_fallocate"):
        pytest.skip("this system reserves no room")
    size = 128 + len(LINES) * 20 * 4  # the header's, and float32 vectors
    batches = []
    by_batch = TextEncoder.by_batch
    monkeypatch.setattr(
        TextEncoder,
        "by_batch",
        lambda *arguments: map(lambda batch: batches.append(batch) or batch, by_batch(*arguments)),
    )
    with full_disk(size - 1):
        status, _ = extract("--pooling=mean", "--batch_size=2", name="out.npy")
    assert status == 2
    assert "/out.npy: cannot write it: File too large" in capsys.readouterr().err
    assert bool(batches) is not reserves
    assert [p.name for p in tmp_path.iterdir()] == ["in.txt"]
    with full_disk(size):
        status, path = extract("--pooling=mean", "--batch_size=2", name="out.npy")
    assert status == 0
    assert path.stat().st_size == size


# --- Predictor ----------------------------------------------------------------------------------

TEXTS = [
    "the man went to the house",
    "it was good",
    ("he", "she"),
    "the river",
    "and one of the two",
]


@pytest.fixture(scope="module")
def predictor(released):
    return Predictor.load(released, 2, task="features")


@pytest.fixture(scope="module")
def directions(by_hand):
    """What the texts' cosines are made of: the mean of the last layer, of length 1."""
    return [unit(naive_vector("mean", by_hand(text)[1][:, -1])) for text in TEXTS]


@pytest.mark.parametrize(
    ("options", "pooling", "layer"),
    [({}, "mean", -1), ({"pooling": "max", "layer": 0, "normalize": True}, "max", 0)],
)
def test_predictor_gives_vectors(released, by_hand, options, pooling, layer):
    results = Predictor.load(released, 2, task="features", **options).predict(TEXTS)
    for text, result in zip(TEXTS, results, strict=True):
        keys = ["text"] if isinstance(text, str) else ["text", "text_b"]
        assert list(result) == [*keys, "vector"]
        assert [result[key] for key in keys] == ([text] if isinstance(text, str) else list(text))
        expected = naive_vector(pooling, by_hand(text)[1][:, layer])
        expected = unit(expected) if options.get("normalize") else expected
        assert result["vector"] == pytest.approx(expected, abs=1e-5)


def test_a_text_that_is_longer_than_the_model_takes_is_cut(predictor, by_hand):
    (result,) = predictor.predict(["the man " * 100])
    expected = naive_vector("mean", by_hand("the man " * 100, 37)[1][:, -1])
    assert result["vector"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("top_k", [1, 3, 7])
def test_search_finds_the_nearest_first(predictor, directions, top_k):
    queries = [TEXTS[1], TEXTS[3]]
    results = predictor.search(queries, TEXTS, top_k=top_k)
    assert len(results) == 2
    for number, found in zip((1, 3), results, strict=True):
        scores = [float(direction @ directions[number]) for direction in directions]
        best = sorted(range(len(TEXTS)), key=scores.__getitem__, reverse=True)[:top_k]
        assert [item["index"] for item in found] == best
        for item in found:
            text = TEXTS[item["index"]]
            assert (item["text"], item.get("text_b")) == (
                (text, None) if isinstance(text, str) else text
            )
            assert item["score"] == pytest.approx(scores[item["index"]], abs=2e-5)
    assert results[0][0]["score"] == pytest.approx(1.0)


def test_similarity_is_the_cosine(predictor, directions):
    pairs = [(TEXTS[0], TEXTS[1]), [TEXTS[3], TEXTS[0]], (TEXTS[1], TEXTS[1])]
    expected = [directions[i] @ directions[j] for i, j in ((0, 1), (3, 0), (1, 1))]
    assert predictor.similarity(pairs) == pytest.approx(expected, abs=1e-5)


def test_nothing_gives_nothing(predictor):
    assert predictor.predict([]) == predictor.similarity([]) == predictor.search([], TEXTS) == []
    assert predictor.search(["a", "b"], []) == [[], []]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.predict(["a", 3]), r"texts\[1\] must be a str or a pair"),
        (lambda p: p.search(["a"], ["a", 3]), r"texts\[1\] must be a str or a pair"),
        (lambda p: p.search([("a", "b", "c")], ["a"]), r"queries\[0\] must be a str or a pair"),
        (lambda p: p.search("a", ["a"]), "queries must be a list of texts, not one text"),
        (lambda p: p.search(["a"], "a"), "texts must be a list of texts, not one text"),
        (lambda p: p.search(["a"], ["a"], top_k=0), "top_k must be at least 1"),
        (lambda p: p.similarity([("a", "b"), "ab"]), r"pairs\[1\] must be a pair \(str, str\)"),
    ],
)
def test_other_inputs_are_refused(predictor, call, message):
    with pytest.raises(InputError, match=message):
        call(predictor)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("features", {"pooling": "meen"}, "'meen' is not known.*did you mean 'mean'"),
        ("features", {"layer": 3}, "layer: there is no layer 3 in a model of 3 layers"),
        ("features", {"top_k": 3}, "top_k is no option of features"),
        ("similarity", {"normalize": True}, "normalize is no option of similarity"),
    ],
)
def test_other_options_are_refused(released, task, options, message):
    with pytest.raises(InputError, match=message):
        Predictor.load(released, task=task, **options)


def test_only_vectors_are_compared(released):
    predictor = Predictor.load(released, task="fill_mask")
    with pytest.raises(InputError, match=r'search compares .* with task="features"'):
        predictor.search(["a"], ["a"])
    with pytest.raises(InputError, match=r'similarity compares .* with task="features"'):
        predictor.similarity([("a", "b")])


def test_any_runs_folder_will_do_and_one_without_a_pooler(tmp_path, released, predictor):
    for name in ("vocab.txt", "bert_config.json"):
        shutil.copy(released / name, tmp_path / name)
    (tmp_path / "run_config.yaml").write_text("command: run_classifier\ndo_lower_case: false\n")
    checkpoint = Checkpoint(released / "bert_model.ckpt")
    names = [name for name in checkpoint.shapes if "/pooler/" not in name]
    tensors = dict(zip(names, checkpoint.read(names), strict=True))
    write_tensors(tensors, tmp_path / "bert_model.ckpt")
    texts = ["the man", "The Man"]
    cased, other = (r["vector"] for r in Predictor.load(tmp_path, task="features").predict(texts))
    lower, same = (result["vector"] for result in predictor.predict(texts))
    assert same == pytest.approx(lower, abs=1e-5)
    assert cased == pytest.approx(lower, abs=1e-5)
    assert other != pytest.approx(lower, abs=0.1)


def test_the_command_prints_what_python_gives(released, predictor, capsys):
    def run(task, *arguments):
        command = ["predict", f"--task={task}", f"--checkpoint={released}", "--batch_size=2"]
        status = main([*command, *arguments])
        printed = capsys.readouterr()
        return printed.err if status else [json.loads(line) for line in printed.out.splitlines()]

    found = run("features", "--pooling=cls", "--layer=-2", "--normalize", "a text", "he\tshe")
    options = {"pooling": "cls", "layer": -2, "normalize": True}
    python = Predictor.load(released, task="features", **options)
    for one, other in zip(found, python.predict(["a text", ("he", "she")]), strict=True):
        assert one.pop("vector") == pytest.approx(other.pop("vector"), abs=1e-5)
        assert one == other
    (result,) = run("similarity", "the man\tthe river")
    (expected,) = predictor.similarity([("the man", "the river")])
    assert result.pop("score") == pytest.approx(expected, abs=1e-5)
    assert result == {"text": "the man", "text_b": "the river"}
    assert "input 1: expected a pair, two texts with one tab" in run("similarity", "the man")


# --- against the original code ------------------------------------------------------------------


def test_real_weights_give_the_files_of_the_original(shared, tmp_path):
    golden = shared / "goldens" / "minilm"
    flags = [
        f"--input_file={golden / 'features_input.txt'}",
        f"--output_file={tmp_path / 'features.jsonl'}",
        f"--checkpoint={shared / 'checkpoints' / 'uncased_L-6_H-384_A-12'}",
        "--layers=-1,-2",
    ]
    assert main(["extract_features", *flags]) == 0
    rows = [json.loads(line) for line in (tmp_path / "features.jsonl").read_text().splitlines()]
    assert [row["linex_index"] for row in rows] == list(range(64))
    tokens = [[feature["token"] for feature in row["features"]] for row in rows]
    assert tokens == json.loads((golden / "features_tokens.json").read_text())
    values = [
        [[layer["values"] for layer in feature["layers"]] for feature in row["features"][:8]]
        for row in rows  # none is shorter than 8
    ]
    expected = np.load(golden / "features_first8.npz")["values"]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4)


def test_similarities_are_those_published_for_the_same_weights(shared, tmp_path):
    """The first example in the documentation of Sentence Transformers (all-MiniLM-L6-v2)."""
    folder = shared / "checkpoints" / "uncased_L-6_H-384_A-12"
    config = BertConfig.from_json_file(folder / "bert_config.json")
    config = dataclasses.replace(config, hidden_act="gelu_erf")  # the form that is used there
    (tmp_path / "bert_config.json").write_text(config.to_json_string())
    files = ModelFiles(
        vocab_file=str(folder / "vocab.txt"),
        bert_config_file=str(tmp_path / "bert_config.json"),
        init_checkpoint=str(folder / "bert_model.ckpt"),
    )
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    predictor = Predictor.load(files, task="features")
    scores = predictor.similarity(list(itertools.combinations(texts, 2)))
    assert scores == pytest.approx([0.6660, 0.1046, 0.1411], abs=5e-5)

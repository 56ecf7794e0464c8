"""The tokenizer in the graph: equal to the Python one, and loadable wherever a SavedModel is."""

import json
import pathlib
import random

import numpy as np
import pytest
import tensorflow as tf
from code_point_sweep import code_point_sweep
from reference_tokenizer import strip_accents

from bert_tf import graph_tokenization
from bert_tf.graph_tokenization import GraphTokenizer
from bert_tf.tokenization import FullTokenizer

CASINGS = pytest.mark.parametrize("casing", ["uncased", "cased"])

NASTY = (
    "aaBbZz019 \t\n .,'#[]_$"
    "ΣΣΣΣσςΑβ\u02b0\u0345\u00b7\u2019\u037e"
    "éÉÅßİǅﬁ½ªｚ\u0301\u0301\u0323\u0334\u0f71\u0f73\u0f76\u0344"
    "\u302e\u302f\U0001d165\U0001d16d\U0001d16e\U0001d15f\U0001d160\U00016ff0\u1b44\u0941\u0cca"
    "한각\u1112\u1161\u11ab中豈\U0002f800が。"
    "\0\x0b\x1c\x1f\x85\xa0\xad\u200b\u200d\u2028\u2029\u3000\ufeff\ufffd\ue000\U0010ffff😀👍🏽≠\u1fef"
)


def write_vocabulary(path: pathlib.Path, pieces: list[str]) -> pathlib.Path:
    path.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def nasty_vocab(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    rng = random.Random(17)
    chars = sorted({c for char in NASTY for c in char + strip_accents(char.lower())} - set("z"))
    chars = [char for char in chars if char.strip()]
    texts = chars + ["".join(rng.choices(chars, k=rng.randint(2, 4))) for _ in range(311)]
    pieces = [piece for text in texts for piece in (text, "##" + text)]
    path = tmp_path_factory.mktemp("nasty") / "vocab.txt"
    return write_vocabulary(path, list(dict.fromkeys(["[PAD]", "[UNK]", *pieces])))


@pytest.fixture(scope="module")
def nasty(nasty_vocab: pathlib.Path) -> GraphTokenizer:
    return GraphTokenizer(nasty_vocab)


def random_texts(seed: int, count: int, alphabet: str) -> list[str]:
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        chars = rng.choices(alphabet, k=rng.randint(1, 9))
        texts.append("".join(rng.choices(chars, k=rng.randint(0, 31))))
    return texts


def assert_equal_to_python(
    graph_tokenizer: GraphTokenizer, tokenizer: FullTokenizer, texts: list[str]
) -> None:
    """Compares pieces and offsets with FullTokenizer's, for all texts in one batch."""
    ids, starts, ends = graph_tokenizer.tokenize_with_offsets(texts)
    assert ids.dtype == starts.dtype == ends.dtype == tf.int32
    columns = (tensor.to_list() for tensor in (ids, starts, ends))
    for text, *row in zip(texts, *columns, strict=True):
        pieces = [(tokenizer.inv_vocab[i], start, end) for i, start, end in zip(*row, strict=True)]
        assert pieces == tokenizer.tokenize_with_offsets(text), repr(text)
    without = graph_tokenizer.tokenize(texts)
    np.testing.assert_array_equal(without.values, ids.values)
    np.testing.assert_array_equal(without.row_splits, ids.row_splits)


@CASINGS
def test_sample_of_the_original(
    casing: str, testdata: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    lines = (testdata / "tokenizer" / "sample.jsonl").read_text("utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    pieces = sorted({piece for case in cases for piece in case["uncased"] + case["cased"]})
    vocab_file = write_vocabulary(tmp_path / "vocab.txt", pieces)
    ids = GraphTokenizer(vocab_file, casing == "uncased").tokenize([case["text"] for case in cases])
    assert [[pieces[i] for i in row] for row in ids.to_list()] == [case[casing] for case in cases]


@CASINGS
def test_goldens_of_the_original(casing: str, shared: pathlib.Path) -> None:
    vocab_file = shared / "checkpoints" / "uncased_L-6_H-384_A-12" / "vocab.txt"
    tokenizer = FullTokenizer(vocab_file, casing == "uncased")
    graph_tokenizer = GraphTokenizer(tokenizer.vocabulary, casing == "uncased")
    goldens = shared / "goldens" / "tokenizer"
    cases = [json.loads(line) for line in (goldens / "cases.jsonl").read_text("utf-8").splitlines()]
    texts = [case["text"] for case in cases]
    ids = graph_tokenizer.tokenize(texts)
    expected = [tokenizer.convert_tokens_to_ids(case[casing]) for case in cases]
    assert ids.to_list() == expected
    assert_equal_to_python(graph_tokenizer, tokenizer, texts)


@CASINGS
def test_every_code_point_as_the_original(casing: str, shared: pathlib.Path) -> None:
    vocab_file = shared / "checkpoints" / "uncased_L-6_H-384_A-12" / "vocab.txt"
    tokenizer = FullTokenizer(vocab_file, casing == "uncased")
    graph_tokenizer = GraphTokenizer(tokenizer.vocabulary, casing == "uncased")
    texts, expected_ids, lengths = code_point_sweep(shared, casing, tokenizer)
    batches = [texts[first : first + 50_000] for first in range(0, len(texts), 50_000)]
    ids = [graph_tokenizer.tokenize(batch) for batch in batches]
    np.testing.assert_array_equal(np.concatenate([rows.row_lengths() for rows in ids]), lengths)
    np.testing.assert_array_equal(np.concatenate([rows.values for rows in ids]), expected_ids)


@CASINGS
def test_random_texts(casing: str, nasty_vocab: pathlib.Path) -> None:
    tokenizer = FullTokenizer(nasty_vocab, casing == "uncased")
    graph_tokenizer = GraphTokenizer(tokenizer.vocabulary, casing == "uncased")
    for seed, size in enumerate((1, 2, 3, 5, 7, 2999, 5003)):
        assert_equal_to_python(graph_tokenizer, tokenizer, random_texts(seed, size, NASTY))


def test_texts_of_a_batch_do_not_see_each_other(
    nasty: GraphTokenizer, nasty_vocab: pathlib.Path
) -> None:
    texts = [
        "ΑΣ",
        "Α",
        "Σ",
        "Σa",
        "\u0301",
        "a",
        "\u0301b",
        "\U0001d16d",
        "\U0001d165",
        "",
        "a",
        "b",
    ]
    assert_equal_to_python(nasty, FullTokenizer(nasty_vocab), texts)
    assert_equal_to_python(nasty, FullTokenizer(nasty_vocab), texts[::-1])


def test_random_vocabularies(tmp_path: pathlib.Path) -> None:
    # Few letters and long pieces, so that failure links chain and partial matches fail. Each
    # three letters are a vocabulary of their own; one graph holds them all.
    rng = random.Random(23)
    letters = [chr(c) for c in range(0x10D0, 0x10D0 + 39)]
    pieces, texts = set(), []
    for alphabet in zip(*[iter(letters)] * 3, strict=True):
        for _ in range(rng.randint(1, 37)):
            word = "".join(rng.choices(alphabet, k=rng.randint(1, 7)))
            pieces.add(rng.choice(("", "##")) + word)
        texts += random_texts(ord(alphabet[0]), 409, "".join(alphabet) * 3 + " .")
    path = write_vocabulary(tmp_path / "vocab.txt", ["[UNK]", *sorted(pieces)])
    tokenizer = FullTokenizer(path)
    assert_equal_to_python(GraphTokenizer(tokenizer.vocabulary), tokenizer, texts)


def test_length_limit(nasty: GraphTokenizer, nasty_vocab: pathlib.Path) -> None:
    words = ["a" * 200, "a" * 201, "\u0301a" * 200, "각" * 66 + "aa", "각" * 67, "a" * 301 + ".b"]
    texts = [*words, " ".join(words), "b".join(words)]
    assert_equal_to_python(nasty, FullTokenizer(nasty_vocab), texts)
    assert nasty.tokenize(words[:2]).row_lengths()[1] == 1


def test_bytes_that_are_not_utf8_are_ignored_as_in_python(
    nasty: GraphTokenizer, nasty_vocab: pathlib.Path
) -> None:
    rng = random.Random(29)
    wholes = [char.encode() for char in "éΣ€😀a\ufeff\0한 "]
    odd = bytes.fromhex("eda080bff49080c0afe09ff08ff5f8feffefbfbebb")

    def random_bytes() -> bytes:
        parts = []
        for _ in range(rng.randint(0, 7)):
            whole = rng.choice(wholes)
            part = whole[: rng.randint(1, len(whole))]  # cut short, or whole
            parts += [part, bytes(rng.choices(odd, k=rng.randint(0, 3)))]
        return b"".join(parts)

    data = [random_bytes() for _ in range(5009)]
    ids, starts, ends = nasty.tokenize_with_offsets(data)
    tokenizer = FullTokenizer(nasty_vocab)
    columns = (tensor.to_list() for tensor in (ids, starts, ends))
    for text, *row in zip(data, *columns, strict=True):
        pieces = [(tokenizer.inv_vocab[i], start, end) for i, start, end in zip(*row, strict=True)]
        assert pieces == tokenizer.tokenize_with_offsets(text), text


@pytest.mark.parametrize("texts", [[], [""], ["", "", " "], ["\0", "\u0301"]])
def test_nothing_to_find(texts: list[str], nasty: GraphTokenizer) -> None:
    for tensor in nasty.tokenize_with_offsets(tf.constant(texts, tf.string)):
        assert tensor.to_list() == [[]] * len(texts) and tensor.dtype == tf.int32


def test_in_a_dataset(nasty: GraphTokenizer) -> None:
    texts = ["aB.", "b", "한 a", "a\0a", "ΑΣ"]
    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(3).map(nasty.tokenize)
    rows = [row for batch in dataset for row in batch.to_list()]
    assert rows == nasty.tokenize(texts).to_list()


def test_saved_model(nasty: GraphTokenizer, tmp_path: pathlib.Path) -> None:
    """Reloads without this package, in Python and in the session loader that servers use."""
    texts = ["aB. ΑΣ", "한 a"]
    ids = nasty.tokenize(texts)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def signature(strings: tf.Tensor) -> dict[str, tf.Tensor]:
        pieces = nasty.tokenize(strings)
        return {"ids": pieces.flat_values, "row_splits": pieces.row_splits}

    tf.saved_model.save(nasty, str(tmp_path), signatures=signature)
    reloaded = tf.saved_model.load(str(tmp_path))
    assert reloaded.tokenize(tf.constant(texts)).to_list() == ids.to_list()
    offsets = reloaded.tokenize_with_offsets(tf.constant(texts))
    for actual, expected in zip(offsets, nasty.tokenize_with_offsets(texts), strict=True):
        assert actual.to_list() == expected.to_list()

    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path))
        definition = loaded.signature_def["serving_default"]
        (feed,) = (tensor.name for tensor in definition.inputs.values())
        fetches = {name: tensor.name for name, tensor in definition.outputs.items()}
        result = session.run(fetches, {feed: texts})
        graph_def = session.graph.as_graph_def()
    np.testing.assert_array_equal(result["ids"], ids.flat_values)
    np.testing.assert_array_equal(result["row_splits"], ids.row_splits)

    nodes = [*graph_def.node, *(n for f in graph_def.library.function for n in f.node_def)]
    assert not [node.op for node in nodes if "Table" in node.op or "WordPiece" in node.op.title()]
    # Three functions use the constants; they must be there once.
    constants = sum(
        value.numpy().nbytes for value in vars(nasty).values() if isinstance(value, tf.Tensor)
    )
    assert constants < (tmp_path / "saved_model.pb").stat().st_size < constants + 400_000


def test_trie_is_sound(nasty_vocab: pathlib.Path) -> None:
    vocabulary = FullTokenizer(nasty_vocab).vocabulary
    trie = graph_tokenization._Trie(vocabulary)
    assert trie.base.min() >= 0
    # Every slot that a node can look at exists.
    assert trie.base.max() + trie.codes.max() < len(trie.parent)
    # Failure links lead to shallower nodes, so a walk ends.
    linked = np.flatnonzero(trie.failure)
    assert (trie.depth[trie.failure[linked]] < trie.depth[linked]).all()
    assert (np.diff(trie.pop_splits)[linked] > 0).all()

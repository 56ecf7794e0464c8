"""The Python tokenizer: goldens of the original, an independent reference, offsets, vocabulary."""

import itertools
import json
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest
from code_point_sweep import code_point_sweep
from reference_tokenizer import IS_REFERENCE, ReferenceTokenizer, strip_accents

from bert_tf import tokenization
from bert_tf.errors import InputError
from bert_tf.tokenization import FullTokenizer, Vocabulary

CASINGS = pytest.mark.parametrize("casing", ["uncased", "cased"])

# What the rules treat differently, a few of each; no lone surrogates.
NASTY = (
    "aaBbZz019 \t\n  .,'#[]-_$^`|~"
    "ΣΣΣσςΑΔβ\u02b0\u0345\u00b7\u2019\u0387\u037e"
    "éÉÅßİıǅﬁﬃ½²ªºµ①™Ａｚ"
    "\u0301\u0301\u0308\u0327\u0323\u0334\u0f71\u0f73\u0f76\u0344"
    "\u302e\u302f\u302a\U0001d165\U0001d166\U0001d16d\U0001d16e\U0001d15f\U0001d160\U00016ff0"
    "\u1715\u1734\u1b44\u0941\u093c\u094d\u0915\u09cb\u0cca\u0dde"
    "한국각\u1112\u1161\u11ab\u314e中豈\ufa0e\U00020000\U0002f800かガ。、"
    "\0\x01\x0b\x0c\x1c\x1d\x1e\x1f\x7f\x85\xa0\xad\u061c\u180e\u200b\u200d\u2028\u2029\u202f"
    "\u2003\u205f\u3000\ufeff\ufffd\ufffe\ue000\U000e0001\U0010ffff\ufe0f😀👩👍🏽"
    "≠≮\u1fef\u2126\u212a\u2000\u0378\u0e33"
)


def random_texts(seed: int, count: int, alphabet: str = NASTY) -> list[str]:
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        # A few characters at a time, so that they meet often.
        chars = rng.choices(alphabet, k=rng.randint(1, 9))
        texts.append("".join(rng.choices(chars, k=rng.randint(0, 31))))
    return texts


def write_vocabulary(path: pathlib.Path, pieces: list[str]) -> pathlib.Path:
    path.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def nasty_vocab(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Most of what the nasty characters become, alone and in pairs, so that little is [UNK]."""
    rng = random.Random(11)
    chars = sorted({c for char in NASTY for c in char + strip_accents(char.lower())} - set("\n "))
    chars = [char for char in chars if char.strip() and char not in "zΔ"]
    pairs = ["".join(rng.choices(chars, k=2)) for _ in range(211)]
    pieces = [piece for text in chars + pairs for piece in (text, "##" + text)]
    special = ["[PAD]", "[CLS]", "[UNK]"]
    path = tmp_path_factory.mktemp("nasty") / "vocab.txt"
    return write_vocabulary(path, list(dict.fromkeys(special + pieces)))


@pytest.fixture(scope="session")
def sample(testdata: pathlib.Path) -> list[dict]:
    lines = (testdata / "tokenizer" / "sample.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def sample_vocab(sample: list[dict], tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The pieces of the sample; testdata/tokenizer/README.md says why they are enough."""
    pieces = {piece for case in sample for piece in case["uncased"] + case["cased"]}
    path = tmp_path_factory.mktemp("sample") / "vocab.txt"
    return write_vocabulary(path, ["[UNK]", *sorted(pieces - {"[UNK]"})])


def pieces_of_batch(tokenizer: FullTokenizer, texts: list[str]) -> list[list[str]]:
    ids, row_splits = tokenizer.encode_batch(texts)
    assert ids.dtype == np.int32 and row_splits.dtype == np.int64
    assert row_splits[0] == 0 and row_splits[-1] == len(ids) and len(row_splits) == len(texts) + 1
    rows = itertools.pairwise(row_splits)
    return [[tokenizer.inv_vocab[i] for i in ids[start:end].tolist()] for start, end in rows]


def assert_all_paths_give(
    tokenizer: FullTokenizer, texts: list[str], expected: list[list[str]]
) -> None:
    batch = pieces_of_batch(tokenizer, texts)
    for text, pieces, from_batch in zip(texts, expected, batch, strict=True):
        assert tokenizer.tokenize(text) == pieces, repr(text)
        assert from_batch == pieces, repr(text)
        with_offsets = tokenizer.tokenize_with_offsets(text)
        assert [piece for piece, _, _ in with_offsets] == pieces, repr(text)


@CASINGS
def test_sample_of_the_original(
    casing: str, sample: list[dict], sample_vocab: pathlib.Path
) -> None:
    tokenizer = FullTokenizer(sample_vocab, do_lower_case=casing == "uncased")
    texts = [case["text"] for case in sample]
    assert_all_paths_give(tokenizer, texts, [case[casing] for case in sample])


@CASINGS
def test_all_hard_cases_of_the_original(casing: str, shared: pathlib.Path) -> None:
    vocab_file = shared / "checkpoints" / "uncased_L-6_H-384_A-12" / "vocab.txt"
    tokenizer = FullTokenizer(vocab_file, do_lower_case=casing == "uncased")
    lines = (shared / "goldens" / "tokenizer" / "cases.jsonl").read_text("utf-8").split("\n")
    cases = [json.loads(line) for line in lines if line]
    assert len(cases) == 4000
    assert_all_paths_give(tokenizer, [c["text"] for c in cases], [c[casing] for c in cases])


@CASINGS
def test_every_code_point_as_the_original(casing: str, shared: pathlib.Path) -> None:
    vocab_file = shared / "checkpoints" / "uncased_L-6_H-384_A-12" / "vocab.txt"
    tokenizer = FullTokenizer(vocab_file, do_lower_case=casing == "uncased")
    texts, expected_ids, lengths = code_point_sweep(shared, casing, tokenizer)
    ids, row_splits = tokenizer.encode_batch(texts)
    np.testing.assert_array_equal(np.diff(row_splits), lengths)
    np.testing.assert_array_equal(ids, expected_ids)


@pytest.mark.skipif(not IS_REFERENCE, reason="this Python's Unicode data is not version 14")
@CASINGS
def test_equals_the_reference_on_random_texts(casing: str, nasty_vocab: pathlib.Path) -> None:
    do_lower_case = casing == "uncased"
    tokenizer = FullTokenizer(nasty_vocab, do_lower_case)
    reference = ReferenceTokenizer(nasty_vocab, do_lower_case)
    texts = random_texts(3, 12000)
    expected = list(map(reference.tokenize, texts))
    # The comparison is worth something only if few words are unknown.
    pieces = [piece for row in expected for piece in row]
    assert pieces.count("[UNK]") < 0.3 * len(pieces)
    assert_all_paths_give(tokenizer, texts, expected)


@pytest.mark.skipif(not IS_REFERENCE, reason="this Python's Unicode data is not version 14")
def test_lone_surrogates_are_characters_like_others(nasty_vocab: pathlib.Path) -> None:
    tokenizer, reference = FullTokenizer(nasty_vocab), ReferenceTokenizer(nasty_vocab)
    texts = random_texts(5, 700, "aB \ud800\udc00\udfff\u0301Σ.")
    assert_all_paths_give(tokenizer, texts, list(map(reference.tokenize, texts)))


def test_bytes_are_decoded_and_what_is_not_utf8_is_ignored(nasty_vocab: pathlib.Path) -> None:
    tokenizer = FullTokenizer(nasty_vocab)
    data = b"a\xffb \xc3\xa9\xe2\x82 \xed\xa0\x80b"
    assert tokenizer.tokenize(data) == tokenizer.tokenize("ab é b")
    assert tokenizer.tokenize_with_offsets(data) == tokenizer.tokenize_with_offsets("ab é b")
    assert pieces_of_batch(tokenizer, [data]) == [tokenizer.tokenize("ab é b")]
    with pytest.raises(InputError, match="expected a text as str or bytes of UTF-8, not int: 5"):
        tokenizer.tokenize(5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a" * 200, ["a", *["##a"] * 199]),
        ("a" * 201, ["[UNK]"]),
        ("\u0301a" * 200, ["a", *["##a"] * 199]),  # counted after accents are stripped
        (
            "각" * 66 + "aa",
            [
                "\u1100",
                *["##\u1161", "##\u11a8", "##\u1100"] * 65,
                "##\u1161",
                "##\u11a8",
                "##a",
                "##a",
            ],
        ),
        ("각" * 67, ["[UNK]"]),  # and after decomposition: 201
        (("a" * 201) + ".a", ["[UNK]", ".", "a"]),
    ],
)
def test_length_limit_counts_the_words_own_characters(
    text: str, expected: list[str], tmp_path: pathlib.Path
) -> None:
    pieces = ["[UNK]", "a", "##a", ".", "\u1100", "##\u1100", "##\u1161", "##\u11a8"]
    tokenizer = FullTokenizer(write_vocabulary(tmp_path / "vocab.txt", pieces))
    assert_all_paths_give(tokenizer, [text], [expected])


def test_special_pieces_in_the_text_are_plain_text(tmp_path: pathlib.Path) -> None:
    pieces = ["[UNK]", "[MASK]", "[", "mask", "]", "un", "##k"]
    tokenizer = FullTokenizer(write_vocabulary(tmp_path / "vocab.txt", pieces))
    assert tokenizer.tokenize("[MASK] [UNK]") == ["[", "mask", "]", "[", "un", "##k", "]"]


def test_batch_does_not_depend_on_the_caches(
    nasty_vocab: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*random_texts(7, 500), "a" * 777, "", "b."]
    expected = FullTokenizer(nasty_vocab).encode_batch(texts)
    monkeypatch.setattr(tokenization, "_CACHE_SIZE", 5)
    tokenizer = FullTokenizer(nasty_vocab)
    for actual, wanted in zip(tokenizer.encode_batch(texts), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    assert len(tokenizer._chunks) <= 5 and len(tokenizer._word_pieces) <= 5
    assert max(map(len, tokenizer._chunks)) <= tokenization.MAX_WORD_LENGTH


def test_empty_batch(nasty_vocab: pathlib.Path) -> None:
    ids, row_splits = FullTokenizer(nasty_vocab).encode_batch([])
    assert ids.shape == (0,) and ids.dtype == np.int32 and row_splits.tolist() == [0]


OFFSET_PIECES = [
    *["[UNK]", "cafe", "cafes", "ab", "##cd", "i", "##stanbul", "=", "σο", "##σ", "##ς", ",", "中"],
    *["\u1112", "##\u1161", "##\u11ab", "hell", "##o", "x", "##\U0001d16d", "##\U0001d165"],
    "\U0001d165\U0001d16d",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Café, ab", [("cafe", 0, 4), (",", 4, 5), ("ab", 6, 8)]),
        ("cafe\u0301 ab", [("cafe", 0, 5), ("ab", 6, 8)]),  # the mark is its letter's
        ("cafe\u0301s", [("cafes", 0, 6)]),
        ("a\u0323\u0301bcd\u0308", [("ab", 0, 4), ("##cd", 4, 7)]),
        ("\u0301ab", [("ab", 1, 3)]),  # ... and here it is no letter's
        ("ab \u0301", [("ab", 0, 2)]),
        ("ab\xadcd\u200b", [("ab", 0, 2), ("##cd", 3, 5)]),
        ("a\xadb", [("ab", 0, 3)]),
        ("ab\u200d\u0301\u200d cd", [("ab", 0, 4), ("[UNK]", 6, 8)]),
        ("\u0130stanbul", [("i", 0, 1), ("##stanbul", 1, 8)]),
        ("≠ab", [("=", 0, 1), ("ab", 1, 3)]),
        ("=\u0338ab", [("=", 0, 2), ("ab", 2, 4)]),
        ("ΣΟΣ", [("σο", 0, 2), ("##ς", 2, 3)]),
        ("ΣΟΣ\u0301.", [("σο", 0, 2), ("##ς", 2, 4), ("[UNK]", 4, 5)]),
        ("ΣΟΣ'Σ", [("σο", 0, 2), ("##σ", 2, 3), ("[UNK]", 3, 4), ("[UNK]", 4, 5)]),
        ("한", [("\u1112", 0, 1), ("##\u1161", 0, 1), ("##\u11ab", 0, 1)]),
        ("ab中cd", [("ab", 0, 2), ("中", 2, 3), ("[UNK]", 3, 5)]),
        (
            "Hello\u2028qué\u0301 ab",
            [("hell", 0, 4), ("##o", 4, 5), ("[UNK]", 6, 10), ("ab", 11, 13)],
        ),
        # Class 226 before class 216: decomposition puts them the other way round.
        ("x\U0001d16d\U0001d165", [("x", 0, 1), ("##\U0001d165", 2, 3), ("##\U0001d16d", 1, 2)]),
        ("\U0001d16d\U0001d165", [("\U0001d165\U0001d16d", 0, 2)]),
        ("", []),
        (" \0\t", []),
    ],
)
def test_offsets(text: str, expected: list[tuple], tmp_path: pathlib.Path) -> None:
    tokenizer = FullTokenizer(write_vocabulary(tmp_path / "vocab.txt", OFFSET_PIECES))
    assert tokenizer.tokenize_with_offsets(text) == expected


def test_each_piece_is_what_its_slice_becomes(nasty_vocab: pathlib.Path) -> None:
    # Without sigmas (which see their neighbours), expansions and marks that are not stripped.
    alphabet = "aaBZ09 \t.,'#éÉÅßİﬁ½Ａ\u0301\u0323\u0f71中豈か。\0\x0b\xad\u200d\u2028\xa0😀≠"
    tokenizer = FullTokenizer(nasty_vocab)
    texts = random_texts(13, 3000, alphabet)
    for text in texts:
        last_end = 0
        for piece, start, end in tokenizer.tokenize_with_offsets(text):
            assert last_end <= start < end <= len(text), repr(text)
            last_end = end
            (word,) = tokenizer._words.split(text[start:end])
            if piece != "[UNK]":
                assert word == (piece.removeprefix("##") if len(piece) > 2 else piece), repr(text)


def test_ids_and_pieces(nasty_vocab: pathlib.Path) -> None:
    tokenizer = FullTokenizer(nasty_vocab)
    pieces = ["[CLS]", *tokenizer.tokenize("b. a"), "[UNK]"]
    ids = tokenizer.convert_tokens_to_ids(pieces)
    assert ids == [tokenizer.vocab[piece] for piece in pieces] and ids[0] == 1 and ids[-1] == 2
    assert tokenizer.convert_ids_to_tokens(np.array(ids)) == pieces
    with pytest.raises(InputError, match="no piece 'nowhere'"):
        tokenizer.convert_tokens_to_ids(["a", "nowhere"])
    size = len(tokenizer.vocabulary)
    for bad in (-1, size):
        with pytest.raises(InputError, match=f"no piece has the id {bad}; .* 0 to {size - 1}"):
            tokenizer.convert_ids_to_tokens([0, bad])


def test_vocabulary(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes("\ufeff[PAD]\r\n[UNK]\r\nab \r\n\u2028\r\n[CLS]".encode())
    vocabulary = Vocabulary(path)
    assert vocabulary.pieces == ["[PAD]", "[UNK]", "ab", "\u2028", "[CLS]"] and len(vocabulary) == 5
    assert vocabulary.ids["ab"] == 2
    assert (vocabulary.pad_id, vocabulary.unk_id, vocabulary.cls_id) == (0, 1, 4)
    for name in ("sep", "mask"):
        with pytest.raises(InputError, match=rf"no piece '\[{name.upper()}\]'"):
            getattr(vocabulary, f"{name}_id")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"vocab\.txt: cannot read the vocabulary \(No such file or directory\)"),
        (b"", r"vocab\.txt: the vocabulary is empty"),
        (b"[UNK]\na\n\nb\n", r"vocab\.txt, line 3: expected a word piece, the line is empty"),
        (b"[UNK]\na\n\r\nb\n", r"vocab\.txt, line 3: expected a word piece, the line is empty"),
        (b"[UNK]\na\n\n", r"vocab\.txt, line 3: expected a word piece, the line is empty"),
        (b"[UNK]\na\nb\na\n", r"vocab\.txt, line 4: the piece 'a' is already on line 2"),
        (b"[UNK]\na\nb\xe9\n", r"vocab\.txt, line 3: byte 0xe9 is not UTF-8"),
        (b"[PAD]\na\n", r"vocab\.txt: the vocabulary has no piece '\[UNK\]'"),
    ],
)
def test_bad_vocabularies(content: bytes | None, message: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        Vocabulary(path)


def test_does_not_import_tensorflow() -> None:
    code = "import sys, bert_tf.tokenization; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

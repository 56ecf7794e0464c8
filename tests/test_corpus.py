"""Tests of bert_tf.corpus: the arrays on disk against the documents of the whole text."""

import errno
import itertools
import json
import random

import numpy as np
import pytest
from reference_pretraining import (
    CONTINUATIONS,
    PIECES,
    WORDS,
    corpus_on_disk,
    documents_of,
    write_vocabulary,
)

from bert_tf import corpus, text_files
from bert_tf.corpus import Section, join_sections, piece_type, sections_of, tokenize_section
from bert_tf.tokenization import FullTokenizer

ARRAYS = ("tokens", "sentence_starts", "document_starts", "hashes", "lines")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return FullTokenizer(write_vocabulary(tmp_path_factory.mktemp("vocabulary")))


@pytest.fixture(params=[7, 50, 1 << 19])
def section_bytes(request, monkeypatch):
    for module in (text_files, corpus):
        monkeypatch.setattr(module, "SECTION_BYTES", request.param)
    return request.param


def random_text(seed, num_lines=50):
    """Lines of words, blank lines, lines without a piece, and bytes that are not UTF-8."""
    generator = random.Random(seed)
    lines = []
    for _ in range(num_lines):
        kind = generator.random()
        words = generator.choices([*WORDS, *(c[2:] for c in CONTINUATIONS), "other"], k=5)
        line = " ".join(words[: generator.randint(1, 5)]).encode()
        if kind < 0.3:
            line = generator.choice([b"", b"", b" \t", b"\xc3"])
        elif kind < 0.4:
            line = b"\x01\x02"  # no blank line, as str.strip() leaves it, but without a piece
        elif kind < 0.5:
            line += b"\xff"
        lines.append(line)
    return b"\n".join(lines) + generator.choice([b"", b"\n", b"\n\n\n"])


def documents_on_disk(folder, texts, tokenizer):
    found = corpus_on_disk(folder, texts, tokenizer)
    sentences = [
        found.tokens[start:end].tolist() for start, end in itertools.pairwise(found.sentence_starts)
    ]
    return found, [sentences[start:end] for start, end in itertools.pairwise(found.document_starts)]


@pytest.mark.parametrize("seed", range(4))
def test_a_corpus_holds_the_documents_of_the_text(tmp_path, tokenizer, section_bytes, seed):
    texts = [random_text(3 * seed + number, 12 * number + 1) for number in range(3)]
    found, documents = documents_on_disk(tmp_path, texts, tokenizer)
    expected = documents_of(texts, tokenizer)
    assert documents == expected
    assert found.num_documents == len(expected)
    sentences = list(itertools.chain.from_iterable(expected))
    assert found.num_sentences == len(sentences)
    assert found.num_tokens == sum(map(len, sentences))
    assert found.tokens.dtype == np.uint16
    assert not list(tmp_path.glob("*sections*")) and not list(tmp_path.glob("*.tmp"))


def test_sections_do_not_show(tmp_path, tokenizer, monkeypatch):
    texts = [random_text(seed, 70) for seed in range(2)]
    corpora = []
    for size in (15, 64, 1 << 19):
        for module in (text_files, corpus):
            monkeypatch.setattr(module, "SECTION_BYTES", size)
        (tmp_path / str(size)).mkdir()
        corpora.append(corpus_on_disk(tmp_path / str(size), texts, tokenizer))
    *cut, whole = corpora
    assert len(cut[0].sections) > 90 and len(cut[1].sections) > 20 and len(whole.sections) == 2
    for found in cut:
        for name in ("tokens", "sentence_starts", "document_starts", "hashes"):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
        for finding in whole.sections[0]["findings"]:
            counts = [
                sum(section["findings"][finding]["count"] for section in each.sections)
                for each in (found, whole)
            ]
            assert counts[0] == counts[1] > 0


def test_batches_do_not_show(tmp_path, tokenizer, monkeypatch):
    texts = [random_text(seed, 70) for seed in range(2)]
    (tmp_path / "whole").mkdir()
    whole = corpus_on_disk(tmp_path / "whole", texts, tokenizer)
    for name, value in (("_BATCH_LINES", 3), ("_BATCH_CHARACTERS", 20), ("_COPIED_ITEMS", 2)):
        monkeypatch.setattr(corpus, name, value)
        (tmp_path / name).mkdir()
        found = corpus_on_disk(tmp_path / name, texts, tokenizer)
        assert found.sections == whole.sections
        for array in ARRAYS:
            np.testing.assert_array_equal(getattr(found, array), getattr(whole, array))


def test_lines_lead_back_to_the_text(tmp_path, tokenizer, section_bytes):
    text = random_text(0, 60)
    found = corpus_on_disk(tmp_path, [b"\n\nword1\n", text], tokenizer)
    lines = text.split(b"\n")
    before = 0
    ends = [*(section["first_sentence"] for section in found.sections), found.num_sentences]
    for section, end in zip(found.sections, ends[1:], strict=True):
        if section["name"] == "1.txt":
            for sentence in range(section["first_sentence"], end):
                line = lines[before + found.lines[sentence] - 1].decode("utf-8", "ignore")
                start, stop = found.sentence_starts[sentence : sentence + 2]
                pieces = tokenizer.convert_ids_to_tokens(found.tokens[start:stop])
                assert tokenizer.tokenize(line) == pieces
            before += section["lines"]
    assert before == len(text.splitlines())


def test_hashes_tell_sentences_apart(tmp_path, tokenizer):
    lines = ["word1 word2", "word2 word1", "word1", "word1 word1", "word1  word2", "WORD1"]
    found = corpus_on_disk(tmp_path, ["\n".join(lines).encode()], tokenizer)
    hashes = found.hashes.tolist()
    assert hashes[0] == hashes[4] and hashes[2] == hashes[5]
    assert len(set(hashes)) == 4


def test_many_pieces_need_larger_numbers(tmp_path):
    assert [piece_type(size) for size in (1, 65536, 65537)] == [np.uint16, np.uint16, np.int32]
    pieces = [*PIECES, *(f"w{number}" for number in range(65537 - len(PIECES)))]
    tokenizer = FullTokenizer(write_vocabulary(tmp_path, pieces))
    text = f"word1\nw0 {pieces[65535]} {pieces[65536]}\n".encode()
    found, documents = documents_on_disk(tmp_path, [text], tokenizer)
    assert found.tokens.dtype == np.int32
    assert documents == [[[PIECES.index("word1")], [len(PIECES), 65535, 65536]]]


@pytest.mark.parametrize("texts", [[], [b""], [b"", b""], [b"\n\n"], [b"\x01\n \n"]])
def test_a_text_without_a_piece(tmp_path, tokenizer, texts):
    found, documents = documents_on_disk(tmp_path, texts, tokenizer)
    assert documents == []
    assert (found.num_tokens, found.num_sentences, found.num_documents) == (0, 0, 0)
    assert found.sentence_starts.tolist() == found.document_starts.tolist() == [0]
    assert found.tokens.dtype == np.uint16 and not len(found.tokens)
    found.release()


def test_documents_are_found_by_their_sentences(tmp_path, tokenizer):
    found = corpus_on_disk(tmp_path, [b"word1\nword2\n\nword3\n\nword4\nword5\n"], tokenizer)
    sentences = np.array([[0, 1, 2], [3, 4, 0]])
    np.testing.assert_array_equal(found.document_of(sentences), [[0, 0, 1], [2, 2, 0]])


def test_released_memory_is_read_anew(tmp_path, tokenizer):
    found = corpus_on_disk(tmp_path, [random_text(0)], tokenizer)
    before = {name: getattr(found, name).tolist() for name in ARRAYS}
    found.release()
    assert {name: getattr(found, name).tolist() for name in ARRAYS} == before


def test_a_section_that_is_there_is_left_as_it_is(tmp_path, tokenizer):
    path = tmp_path / "text"
    path.write_bytes(b"word1\n" * 50)
    (section,) = sections_of([path], ["text"])
    assert section == Section(path, "text", 0, 0)
    folder = tmp_path / "sections"
    # A part of an earlier try is no section.
    (folder / "00000000.tmp" / "deep").mkdir(parents=True)
    tokenize_section(section, tokenizer, folder)
    assert [item.name for item in folder.iterdir()] == ["00000000"]
    made = {item.name: item.read_bytes() for item in (folder / "00000000").iterdir()}
    path.write_bytes(b"word1\n")
    tokenize_section(section, tokenizer, folder)
    assert {item.name: item.read_bytes() for item in (folder / "00000000").iterdir()} == made
    assert json.loads(made["summary.json"])["lines"] == 50


@pytest.mark.parametrize("name", ["tokens", "lines", "document_starts"])
def test_a_section_that_cannot_be_written_does_not_appear(tmp_path, tokenizer, monkeypatch, name):
    """The full disk shows at a write or only when a file is closed; all files are closed then."""
    path = tmp_path / "text"
    path.write_bytes(random_text(0))
    (section,) = sections_of([path], ["text"])
    real = corpus.write_section

    class FullFile:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    def write_section(text, number, tokenizer, arrays):
        return real(text, number, tokenizer, {**arrays, name: FullFile()})

    monkeypatch.setattr(corpus, "write_section", write_section)
    with pytest.raises(OSError, match="No space left"):
        tokenize_section(section, tokenizer, tmp_path / "sections")
    assert [item.name for item in (tmp_path / "sections").iterdir()] == ["00000000.tmp"]
    monkeypatch.undo()
    tokenize_section(section, tokenizer, tmp_path / "sections")
    join_sections([section], len(PIECES), tmp_path / "sections", tmp_path / "corpus")
    assert (tmp_path / "corpus").is_dir()


def test_a_corpus_that_is_half_there_is_replaced(tmp_path, tokenizer):
    for name in ("corpus.tmp", "corpus"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokens").write_bytes(b"half")
    _, documents = documents_on_disk(tmp_path, [b"word1\n"], tokenizer)
    assert documents == [[[PIECES.index("word1")]]]

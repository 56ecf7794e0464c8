"""Tests of bert_tf.corpus_health: what is found in a text against a line-by-line count."""

import collections
import math
import random

import pytest
from reference_pretraining import WORDS, corpus_on_disk, write_vocabulary

from bert_tf import corpus, corpus_health, text_files
from bert_tf.corpus_health import MEANINGS, examine, findings_of, warnings
from bert_tf.tokenization import FullTokenizer

LONGEST = 6


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return FullTokenizer(write_vocabulary(tmp_path_factory.mktemp("vocabulary")))


@pytest.fixture(params=[11, 40, 1 << 19])
def section_bytes(request, monkeypatch):
    for module in (text_files, corpus):
        monkeypatch.setattr(module, "SECTION_BYTES", request.param)
    return request.param


def expected_health(texts, tokenizer):
    """The same, line by line, with all places."""
    findings = {name: [] for name in MEANINGS}
    counts = collections.Counter()
    pieces_seen, longest = collections.Counter(), 0
    known = set()
    for number, text in enumerate(texts):
        document = []  # the places of its sentences
        after_blank = True
        lines = text.split(b"\n")
        if not lines[-1]:
            del lines[-1]
        for line_number, content in enumerate([*lines, b""], 1):
            place = f"{number}.txt:{line_number}"
            line = content.decode("utf-8", "ignore").strip()
            is_line = line_number <= len(lines)  # or the end of the file
            if content.decode("utf-8", "ignore").encode() != content:
                findings["not_utf8"].append(place)
            if line:
                pieces = tuple(tokenizer.tokenize(line))
                if not pieces:
                    findings["no_pieces"].append(place)
                else:
                    document.append(place)
                    counts["sentences"] += 1
                    counts["pieces"] += len(pieces)
                    pieces_seen.update(pieces)
                    longest = max(longest, len(pieces))
                    if len(pieces) > LONGEST:
                        findings["long_sentence"].append(place)
                    if pieces in known:
                        findings["duplicate_line"].append(place)
                    known.add(pieces)
            else:
                if after_blank and is_line:
                    findings["empty_document"].append(place)
                counts["documents"] += bool(document)
                if len(document) == 1:
                    findings["one_line_document"].append(document[0])
                document = []
            after_blank = not line
            counts["lines"] += is_line
    entropy = -sum(
        n / counts["pieces"] * math.log(n / counts["pieces"]) for n in pieces_seen.values()
    )
    return findings, counts, longest, entropy


def random_text(seed, num_lines):
    generator = random.Random(seed)
    lines = []
    for _ in range(num_lines):
        kind = generator.random()
        line = " ".join(generator.choices(WORDS[:4], k=generator.randint(1, 9))).encode()
        if kind < 0.35:
            line = b""
        elif kind < 0.4:
            line = b"\x01"
        elif kind < 0.5:
            line += b"\xff"
        elif kind < 0.55:
            line = b"\xff"
        lines.append(line)
    return b"\n".join(lines) + generator.choice([b"", b"\n", b"\n\n"])


@pytest.mark.parametrize("seed", range(4))
def test_every_finding_has_its_count_and_places(tmp_path, tokenizer, section_bytes, seed):
    texts = [random_text(3 * seed + number, 12 * number + 1) for number in range(3)]
    health = examine(corpus_on_disk(tmp_path, texts, tokenizer), LONGEST)
    findings, counts, longest, entropy = expected_health(texts, tokenizer)
    for name, places in findings.items():
        # Of one section after the other, the first few; a line that is read on from an earlier
        # section is named with that one.
        assert health["findings"][name] == {"count": len(places), "places": places[:3]}, name
    assert list(health["findings"]) == list(MEANINGS)
    for name in ("lines", "documents", "sentences", "pieces"):
        assert health[name] == counts[name]
    assert health["longest_sentence"] == longest
    assert health["unigram_entropy"] == pytest.approx(entropy, rel=1e-12)


def test_the_texts_hold_every_finding(tokenizer):
    texts = [random_text(number, 12 * (number % 3) + 1) for number in range(12)]
    findings, *_ = expected_health(texts, tokenizer)
    for name, places in findings.items():
        assert len(places) > 3, name


def test_blocks_and_groups_do_not_show(tmp_path, tokenizer, monkeypatch):
    texts = [random_text(number, 40) for number in range(3)]
    found = corpus_on_disk(tmp_path, texts, tokenizer)
    whole = examine(found, LONGEST)
    for block in (1, 2, 7):
        monkeypatch.setattr(corpus_health, "_BLOCK", block)
        assert examine(found, LONGEST) == whole
    monkeypatch.setattr(corpus_health, "_COMPARED", 5)
    in_groups = examine(found, LONGEST)
    duplicates, _, _, _ = expected_health(texts, tokenizer)
    places = in_groups["findings"]["duplicate_line"].pop("places")
    assert len(places) == 3 and set(places) <= set(duplicates["duplicate_line"])
    del whole["findings"]["duplicate_line"]["places"]
    assert in_groups == whole


def test_findings_of_sections_alone(tmp_path, tokenizer, section_bytes):
    texts = [random_text(number, 30) for number in range(2)]
    found = corpus_on_disk(tmp_path, texts, tokenizer)
    whole = examine(found, LONGEST)["findings"]
    of_sections = findings_of(found.sections)
    for name in ("not_utf8", "empty_document", "no_pieces"):
        assert of_sections[name] == whole[name] and whole[name]["count"]
    for name in ("one_line_document", "long_sentence", "duplicate_line"):
        assert of_sections[name] == {"count": 0, "places": []}


def test_warnings_are_words_in_the_order_of_the_findings(tmp_path, tokenizer):
    text = b"\n".join(
        [
            *(b"word1 word2", b"word3"),  # 1, 2
            b"",
            *(b"word1 word2", b"word4", b"word1 word2", b"word1 word2", b"word1 word2", b"\xff "),
            *(b"", b"word5 word5 word5 word5 word5 word5 word5", b""),  # 10 to 12
        ]
    )
    health = examine(corpus_on_disk(tmp_path, [text], tokenizer), LONGEST)
    assert list(warnings(health)) == [
        f"1 {MEANINGS['not_utf8']}: 0.txt:9",
        f"1 {MEANINGS['empty_document']}: 0.txt:10",
        f"1 {MEANINGS['one_line_document']}: 0.txt:11",
        f"1 {MEANINGS['long_sentence']}: 0.txt:11",
        f"4 {MEANINGS['duplicate_line']}: 0.txt:4, 0.txt:6, 0.txt:7, …",
    ]


def test_a_single_document_is_told(tmp_path, tokenizer):
    health = examine(corpus_on_disk(tmp_path, [b"word1\nword2\n"], tokenizer), LONGEST)
    (warning,) = warnings(health)
    assert "only one document" in warning


@pytest.mark.parametrize("texts", [[], [b""], [b"\n\n\x01\n"]])
def test_an_empty_text(tmp_path, tokenizer, texts):
    health = examine(corpus_on_disk(tmp_path, texts, tokenizer), LONGEST)
    assert (health["documents"], health["pieces"], health["longest_sentence"]) == (0, 0, 0)
    assert health["unigram_entropy"] == 0.0
    assert health["lines"] == sum(text.count(b"\n") for text in texts)

"""Takes a corpus, returns what is odd about its text, with file and line; next: masking."""

import bisect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bert_tf.corpus import PLACES, Corpus

_BLOCK = 1 << 20
# Sentences are compared in groups, by the remainders of their hashes, so that one fits in memory.
_COMPARED = 1 << 22

# finding -> what it means, for the user
MEANINGS = {
    "not_utf8": "lines with bytes that are not UTF-8 (these bytes were left out)",
    "empty_document": "empty documents (one blank line between documents is enough)",
    "no_pieces": "lines that hold no word piece (they were left out)",
    "one_line_document": "documents of one line (each gives instances whose next sentence is "
    "random; is there a blank line between all lines?)",
    "long_sentence": "sentences longer than an instance (they are cut; is it one sentence a line?)",
    "duplicate_line": "lines that are there more than once (the model learns them by heart)",
}


def examine(corpus: Corpus, longest: int) -> dict[str, Any]:
    """Counts what is odd about a text.

    Args:
        corpus: the text.
        longest: pieces of the longest sentence that is not cut.

    Returns:
        ``lines``, ``documents``, ``sentences``, ``pieces`` and ``longest_sentence`` (pieces of the
        longest); ``unigram_entropy`` of the pieces, in nats, which is the least masked-LM loss
        without context; as ``findings``, of each of MEANINGS its ``count`` and as ``places`` the
        first few, ``FILE:LINE``.
    """
    findings = findings_of(corpus.sections)
    places = _Places(corpus.sections, corpus.lines)
    longest_found = 0
    for first, lengths in _blocks_of_differences(corpus, corpus.sentence_starts):
        longest_found = max(longest_found, int(lengths.max(initial=0)))
        _add(findings["long_sentence"], places, first + np.flatnonzero(lengths > longest))
    for first, lengths in _blocks_of_differences(corpus, corpus.document_starts):
        alone = corpus.document_starts[first + np.flatnonzero(lengths == 1)]
        _add(findings["one_line_document"], places, alone)
    for repeated in _repetitions(corpus):
        _add(findings["duplicate_line"], places, repeated)
    return {
        "lines": sum(section["lines"] for section in corpus.sections),
        "documents": corpus.num_documents,
        "sentences": corpus.num_sentences,
        "pieces": corpus.num_tokens,
        "longest_sentence": longest_found,
        "unigram_entropy": _unigram_entropy(corpus),
        "findings": findings,
    }


def findings_of(sections: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each section of a text found, put together as ``findings`` of ``examine``."""
    findings: dict[str, dict[str, Any]] = {name: {"count": 0, "places": []} for name in MEANINGS}
    places = _Places(sections, np.zeros(0, np.uint32))
    for index, section in enumerate(sections):
        for name, found in section["findings"].items():
            for line in found["lines"]:
                _add_place(findings[name], places.of_line(index, line))
            findings[name]["count"] += found["count"]
    return findings


def warnings(health: dict[str, Any]) -> Iterator[str]:
    """What ``examine`` found, in words."""
    for name, found in health["findings"].items():
        if found["count"]:
            more = ", …" if found["count"] > len(found["places"]) else ""
            yield f"{found['count']:,} {MEANINGS[name]}: {', '.join(found['places'])}{more}"
    if health["documents"] == 1:
        yield (
            "there is only one document, so that random next sentences come from it too; put blank "
            "lines between documents"
        )


class _Places:
    """Where sentences stand in the files."""

    def __init__(self, sections: Sequence[Mapping[str, Any]], lines: np.ndarray) -> None:
        self._sections = sections
        self._lines = lines
        self._first_sentences = [section["first_sentence"] for section in sections]
        self._lines_before = []  # each section in its file
        before = 0
        name = None
        for section in sections:
            before = before if section["name"] == name else 0
            name = section["name"]
            self._lines_before.append(before)
            before += section["lines"]

    def of_line(self, section: int, line: int) -> str:
        return f"{self._sections[section]['name']}:{self._lines_before[section] + line}"

    def of_sentence(self, sentence: int) -> str:
        section = bisect.bisect_right(self._first_sentences, sentence) - 1
        return self.of_line(section, int(self._lines[sentence]))


def _add(finding: dict[str, Any], places: _Places, sentences: np.ndarray) -> None:
    finding["count"] += len(sentences)
    for sentence in sentences[:PLACES]:
        _add_place(finding, places.of_sentence(int(sentence)))


def _add_place(finding: dict[str, Any], place: str) -> None:
    if len(finding["places"]) < PLACES:
        finding["places"].append(place)


def _blocks_of_differences(corpus: Corpus, starts: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """``np.diff(starts)`` a block at a time, with the number of each block's first."""
    for first in range(0, len(starts) - 1, _BLOCK):
        yield first, np.diff(starts[first : first + _BLOCK + 1])
        corpus.release()


def _unigram_entropy(corpus: Corpus) -> float:
    """``-sum p log p`` over the pieces, p being their shares of the text."""
    counts = np.zeros(corpus.vocab_size, np.int64)
    for first in range(0, corpus.num_tokens, _BLOCK):
        counts += np.bincount(corpus.tokens[first : first + _BLOCK], minlength=corpus.vocab_size)
        corpus.release()
    shares = counts[counts > 0] / max(corpus.num_tokens, 1)
    return float(-np.sum(shares * np.log(shares)))


def _repetitions(corpus: Corpus) -> Iterator[np.ndarray]:
    """The sentences whose hash an earlier one has, int64, a group of hashes at a time."""
    hashes = corpus.hashes
    num_groups = 1 + len(hashes) // _COMPARED
    for group in range(num_groups):
        members = [np.zeros(0, np.int64)]
        for first in range(0, len(hashes), _BLOCK):
            block = hashes[first : first + _BLOCK]
            members.append(first + np.flatnonzero(block % np.uint64(num_groups) == group))
            corpus.release()
        sentences = np.concatenate(members)
        _, firsts = np.unique(hashes[sentences], return_index=True)
        corpus.release()
        yield np.delete(sentences, firsts)

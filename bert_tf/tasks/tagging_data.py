"""Takes the files of a tagging task, returns words and labels; next: tasks.word_tagger."""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Iterable, Sequence

import numpy as np

from bert_tf import crf
from bert_tf.errors import InputError, did_you_mean, listed
from bert_tf.tag_schemes import OUTSIDE, Scheme, find_scheme, may_follow, to_iob2
from bert_tf.tagged_text import TaggedText, read_tagged_text

ENDINGS = (".txt", ".conll", ".tsv", ".conllu", ".jsonl")


@dataclasses.dataclass(frozen=True)
class Sentences:
    """The sentences of one file.

    Attributes:
        path: the file.
        words: of each sentence.
        documents: int64 [number of sentences], ascending: the document of each.
        lines: the line of each word, for messages.
        scheme: how the file writes entities; ``none`` where it has none, or no tags.
        tags: of each word, in IOB2; None if they were not read.
    """

    path: pathlib.Path
    words: list[list[str]]
    documents: np.ndarray
    lines: list[list[int]]
    scheme: Scheme
    tags: list[list[str]] | None


def read_sentences(
    path: pathlib.Path, tag_column: str | None, tag_scheme: str, *, with_tags: bool = True
) -> Sentences:
    """Reads a file.

    Args:
        path: see tagged_text.
        tag_column: see tagged_text.
        tag_scheme: one of tag_schemes.SCHEMES, or ``auto``.
        with_tags: whether to read tags. Without, the file need not have any; if it has those of
            entities, its scheme is found all the same.

    Raises:
        InputError: naming file and line of what is wrong.
    """
    text = read_tagged_text(path, tag_column, with_tags=with_tags)
    raw = [[word.tag for word in sentence] for sentence in text.sentences]
    lines = [[word.line for word in sentence] for sentence in text.sentences]
    if tag_scheme != "auto":
        scheme: Scheme = tag_scheme  # type: ignore[assignment]
    else:
        scheme = find_scheme(raw) if with_tags else _scheme_of(path, tag_column)
    tags = None
    if with_tags:
        _check_tags(text)
        tags = [
            to_iob2(sentence, scheme, [f"{path}:{line}" for line in of].__getitem__)
            for sentence, of in zip(raw, lines, strict=True)
        ]
    words = [[word.text for word in sentence] for sentence in text.sentences]
    return Sentences(path, words, text.documents, lines, scheme, tags)


def _check_tags(text: TaggedText) -> None:
    """Checks that each tag can be a line of labels.txt."""
    for word in itertools.chain.from_iterable(text.sentences):
        if word.tag != word.tag.strip() or len(word.tag.splitlines()) != 1:
            raise InputError(
                f"{text.path}:{word.line}: the tag is {word.tag!r}: a tag is one line without "
                "white space at its ends; mend it, or say with --tag_column where the tag is"
            )


def _scheme_of(path: pathlib.Path, tag_column: str | None) -> Scheme:
    """The scheme of a file that need not have tags; ``none`` unless all of them are entities'."""
    try:
        text = read_tagged_text(path, tag_column)
    except InputError:
        return "none"
    raw = [[word.tag for word in sentence] for sentence in text.sentences]
    others = set(itertools.chain.from_iterable(raw)) - {OUTSIDE}
    is_tagged = bool(others) and all(re.fullmatch("[BIES]-.+", tag) for tag in others)
    return find_scheme(raw) if is_tagged else "none"


def find_labels(tags: Iterable[Sequence[str]], tag_scheme: str = "auto") -> tuple[str, ...]:
    """The labels of tags in IOB2, sorted: those that occur, and each entity's B- and I-.

    Args:
        tags: of each sentence.
        tag_scheme: as for ``are_entities``.
    """
    found = set(itertools.chain.from_iterable(tags))
    if are_entities(found, tag_scheme):
        types = {tag[2:] for tag in found if tag != OUTSIDE}
        found = {OUTSIDE, *(f"{prefix}-{kind}" for prefix in "BI" for kind in types)}
    return tuple(sorted(found))


def are_entities(labels: Iterable[str], tag_scheme: str = "auto") -> bool:
    """Whether labels are those of IOB2.

    Args:
        labels: all of them.
        tag_scheme: the setting of the run; with ``none`` they are taken as they are.
    """
    others = set(labels) - {OUTSIDE}
    is_iob2 = bool(others) and all(label[:2] in ("B-", "I-") for label in others)
    return is_iob2 and tag_scheme != "none"


def allowed_by(labels: Sequence[str], tag_scheme: str = "auto") -> crf.Allowed:
    """What may begin a sentence and what may follow what: all, if the labels are no entities.

    Args:
        labels: in the order of their ids.
        tag_scheme: as for ``are_entities``.
    """
    allowed = crf.everything(len(labels))
    if are_entities(labels, tag_scheme):
        for column, label in enumerate(labels):
            allowed.start[column] = may_follow(label, None)
            for row, previous in enumerate(labels):
                allowed.transitions[row, column] = may_follow(label, previous)
    return allowed


def label_ids(sentences: Sentences, labels: Sequence[str]) -> np.ndarray:
    """The number of each word's label, int32 [number of words].

    Raises:
        InputError: naming file and line of a tag that is no label.
    """
    assert sentences.tags is not None
    numbers = {label: number for number, label in enumerate(labels)}
    found = []
    for tags, lines in zip(sentences.tags, sentences.lines, strict=True):
        for tag, line in zip(tags, lines, strict=True):
            if tag not in numbers:
                in_iob2 = " (in IOB2)" if are_entities(labels) else ""
                raise InputError(
                    f"{sentences.path}:{line}: the tag {tag!r}{in_iob2} is not among those of the "
                    f"training data{did_you_mean(tag, labels)} They are {listed(labels, most=20)}. "
                    "Mend the line or leave its sentence out, or train on data that has the tag"
                )
            found.append(numbers[tag])
    return np.array(found, np.int32)

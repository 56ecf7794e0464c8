"""Takes the sections of a text one by one, returns the records of each; next: pretraining_beam.

For where no process can look into the whole text: what needs to be known of it are counts. A pair
with a random next sentence is made where this is, from a request that brings the first text along.
The records are those that pretraining_files makes.

Axes: n = number of instances; of a section, T = number of word pieces, N = number of sentences,
D = number of documents; K = number of sections.
"""

import bisect
import dataclasses
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple

import numpy as np

from bert_tf import corpus_health
from bert_tf.corpus import ARRAYS, PLACES, piece_type, write_section
from bert_tf.pretraining_data import (
    INSTANCE,
    InstanceRule,
    Instances,
    Pairs,
    fill_pairs,
    find_own_texts,
    find_random_texts,
    instance_keys,
    mask_keys,
    other_documents,
    plan_instances,
)
from bert_tf.pretraining_records import RecordMaker, Statistics
from bert_tf.random_bits import below

_MADE_AT_ONCE = 4096  # instances
_BUCKET = 1 << 14  # records that are sorted at once, about
# What a report on the text cannot say without all of the text.
NOT_EXAMINED = ("duplicate_line", "unigram_entropy")


class Place(NamedTuple):
    """Which section.

    Attributes:
        file: its file's number among the input files.
        number: its own, in the file.
    """

    file: int
    number: int


@dataclasses.dataclass(frozen=True)
class SectionText:
    """A tokenized section.

    Attributes:
        place: which.
        tokens: uint16 or int32 [T].
        sentence_starts: int64 [N + 1], among these tokens.
        document_starts: int64 [D + 1], among these sentences.
    """

    place: Place
    tokens: np.ndarray
    sentence_starts: np.ndarray
    document_starts: np.ndarray


@dataclasses.dataclass(frozen=True)
class SectionSummary:
    """What is to be known of a section in every other.

    Attributes:
        place: which.
        num_pieces: T.
        num_sentences: N.
        num_documents: D.
        longest_sentence: in pieces.
        report: what corpus_health.findings_of wants to know.
    """

    place: Place
    num_pieces: int
    num_sentences: int
    num_documents: int
    longest_sentence: int
    report: dict[str, Any]


def read_section(
    file: IO[bytes], place: Place, name: str, maker: RecordMaker
) -> tuple[SectionText, SectionSummary]:
    """Tokenizes a section.

    Args:
        file: the text, seekable.
        place: which section.
        name: what to call the file in a report.
        maker: of the records.
    """
    files = {array: io.BytesIO() for array in ARRAYS}
    summary = write_section(file, place.number, maker.tokenizer, files)
    tokens = _array(files["tokens"], piece_type(len(maker.tokenizer.vocabulary)))
    lengths = _array(files["sentence_lengths"], np.int32)
    document_starts = np.append(_array(files["document_starts"], np.int64), len(lengths))
    lines = _array(files["lines"], np.uint32)
    findings = {
        **summary["findings"],
        "long_sentence": _found(lines[lengths > maker.rule.max_num_tokens]),
        "one_line_document": _found(lines[document_starts[:-1][np.diff(document_starts) == 1]]),
    }
    return (
        SectionText(
            place,
            tokens,
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            document_starts,
        ),
        SectionSummary(
            place=place,
            num_pieces=len(tokens),
            num_sentences=len(lengths),
            num_documents=len(document_starts) - 1,
            longest_sentence=int(lengths.max(initial=0)),
            report={"name": name, "lines": summary["lines"], "findings": findings},
        ),
    )


def _array(file: io.BytesIO, dtype: type) -> np.ndarray:
    return np.frombuffer(file.getvalue(), dtype)


def _found(lines: np.ndarray) -> dict[str, Any]:
    return {"count": len(lines), "lines": lines[:PLACES].tolist()}


@dataclasses.dataclass(frozen=True)
class Overview:
    """What all sections are together.

    Attributes:
        places: of the sections, sorted.
        first_sentences: int64 [K + 1], how many there are before each section, and in all.
        first_documents: int64 [K + 1], the same.
        num_buckets: how many the records are gathered in, see ``Records``.
        report: on the text, as of corpus_health.examine but for NOT_EXAMINED.
    """

    places: list[Place]
    first_sentences: np.ndarray
    first_documents: np.ndarray
    num_buckets: int
    report: dict[str, Any]

    @classmethod
    def of(cls, summaries: Iterable[SectionSummary], maker: RecordMaker) -> "Overview":
        """Puts together what is known of the sections, in any order."""
        sections = sorted(summaries, key=lambda summary: summary.place)
        first_sentences = _firsts(section.num_sentences for section in sections)
        first_documents = _firsts(section.num_documents for section in sections)
        num_sentences, num_documents = int(first_sentences[-1]), int(first_documents[-1])
        num_pieces = sum(section.num_pieces for section in sections)
        reports = [
            {**section.report, "first_sentence": int(first)}
            for section, first in zip(sections, first_sentences[:-1], strict=True)
        ]
        findings = corpus_health.findings_of(reports)
        rule = maker.rule
        num_records = rule.dupe_factor * (num_documents + 2 * num_pieces // rule.max_num_tokens)
        return cls(
            places=[section.place for section in sections],
            first_sentences=first_sentences,
            first_documents=first_documents,
            num_buckets=1 + num_records // _BUCKET,
            report={
                "lines": sum(report["lines"] for report in reports),
                "documents": num_documents,
                "sentences": num_sentences,
                "pieces": num_pieces,
                "longest_sentence": max((s.longest_sentence for s in sections), default=0),
                "findings": {n: found for n, found in findings.items() if n not in NOT_EXAMINED},
                "not_examined": list(NOT_EXAMINED),
            },
        )

    def index(self, text: SectionText) -> int:
        """Which section of the whole text it is."""
        return bisect.bisect_left(self.places, text.place)

    def sections_of(self, documents: np.ndarray) -> np.ndarray:
        """The sections that hold documents, int64, same shape."""
        return np.searchsorted(self.first_documents, documents, side="right") - 1


def _firsts(counts: Iterable[int]) -> np.ndarray:
    """How many there are before each, and in all: int64 [K + 1]."""
    return np.array([0, *itertools.accumulate(counts)], np.int64)


class _View:
    """A section as it is numbered in the whole text: see pretraining_data.Sentences."""

    def __init__(self, text: SectionText, overview: Overview) -> None:
        index = overview.index(text)
        first_sentence = int(overview.first_sentences[index])
        self.first_document = int(overview.first_documents[index])
        self.end_document = int(overview.first_documents[index + 1])
        self.num_documents = int(overview.first_documents[-1])
        self.tokens = text.tokens
        self.sentence_starts = _Numbered(text.sentence_starts, first_sentence)
        self._document_starts = text.document_starts + first_sentence
        self.document_starts = _Numbered(self._document_starts, self.first_document)

    def document_of(self, sentences: np.ndarray) -> np.ndarray:
        within = np.searchsorted(self._document_starts, sentences, side="right") - 1
        return self.first_document + within


class _Numbered:
    """A part of an array, under the numbers that its items have in the whole.

    Args:
        items: the part.
        first: the number of its first item.
    """

    def __init__(self, items: np.ndarray, first: int) -> None:
        self._items = items
        self._first = first

    def __getitem__(self, numbers: Any) -> Any:
        if isinstance(numbers, slice):
            return self._items[numbers.start - self._first : numbers.stop - self._first]
        return self._items[numbers - self._first]


@dataclasses.dataclass(frozen=True)
class Records:
    """Records of one bucket: buckets part the random order that records come in.

    Attributes:
        bucket: which.
        order: uint64 [n], the records' places in that order.
        row_splits: int64 [n + 1], where in ``data`` each begins and ends.
        data: the records, end to end.
    """

    bucket: int
    order: np.ndarray
    row_splits: np.ndarray
    data: bytes

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Each record after its place in the order."""
        borders = itertools.pairwise(self.row_splits.tolist())
        for place, (start, end) in zip(self.order.tolist(), borders, strict=True):
            yield place, self.data[start:end]


@dataclasses.dataclass(frozen=True)
class Requests:
    """Pairs that take their second texts from one other section.

    Attributes:
        section: which, among all.
        instances: INSTANCE [n].
        documents: int64 [n], to take them from.
        targets: int64 [n], how many pieces they should have.
        a_lengths: int64 [n], pieces of the first texts.
        a_tokens: these, end to end.
    """

    section: int
    instances: np.ndarray
    documents: np.ndarray
    targets: np.ndarray
    a_lengths: np.ndarray
    a_tokens: np.ndarray


@dataclasses.dataclass(frozen=True)
class SectionPlan:
    """The instances of a section.

    Attributes:
        counts: int64 [num_buckets], how many belong in each bucket.
        own: INSTANCE [n], those that need no other section, in the random order.
        requests: for the others.
    """

    counts: np.ndarray
    own: np.ndarray
    requests: list[Requests]


def plan_section(text: SectionText, overview: Overview, rule: InstanceRule) -> SectionPlan:
    """Which instances a section gives."""
    view = _View(text, overview)
    planned = plan_instances(view, view.first_document, view.end_document, rule)
    plan = np.concatenate([np.zeros(0, INSTANCE), *planned])
    plan = plan[np.argsort(plan["order"], kind="stable")]
    buckets = below(plan["order"], overview.num_buckets)
    counts = np.bincount(buckets, minlength=overview.num_buckets)
    if rule.next_sentence == "none":
        return SectionPlan(counts, plan, [])
    pairs, targets = find_own_texts(view, plan, rule)
    random = np.flatnonzero(pairs.is_random)
    documents = other_documents(pairs.keys[random], plan["document"][random], view.num_documents)
    sections = overview.sections_of(documents)
    by_section = np.argsort(sections, kind="stable")
    borders = np.flatnonzero(np.diff(sections[by_section])) + 1
    requests = []
    for places in np.split(by_section, borders) if len(random) else []:
        rows = random[places]
        starts, lengths = pairs.a_starts[rows], pairs.a_lengths[rows]
        texts = [
            text.tokens[start:end] for start, end in zip(starts, starts + lengths, strict=True)
        ]
        requests.append(
            Requests(
                section=int(sections[places[0]]),
                instances=plan[rows],
                documents=documents[places],
                targets=targets[rows],
                a_lengths=lengths,
                a_tokens=np.concatenate(texts),
            )
        )
    return SectionPlan(counts, plan[~pairs.is_random], requests)


def make_own(
    text: SectionText, overview: Overview, instances: np.ndarray, maker: RecordMaker
) -> Iterator[tuple[list[Records], Statistics]]:
    """Makes instances that need no other section.

    Args:
        text: their section.
        overview: of all sections.
        instances: INSTANCE [n], ``SectionPlan.own``.
        maker: of the records.

    Yields:
        Some records by bucket, and what there is to say of them.
    """
    view = _View(text, overview)
    for first in range(0, len(instances), _MADE_AT_ONCE):
        plan = instances[first : first + _MADE_AT_ONCE]
        yield _encode(maker.make(view, plan), plan, overview, maker)


def make_requested(
    text: SectionText, overview: Overview, requests: Iterable[Requests], maker: RecordMaker
) -> Iterator[tuple[list[Records], Statistics]]:
    """Makes pairs whose second texts are from a section.

    Args:
        text: the section.
        overview: of all sections.
        requests: all that name the section.
        maker: of the records.

    Yields:
        As ``make_own``.
    """
    view = _View(text, overview)
    vocabulary = maker.tokenizer.vocabulary
    for joined in _joined(requests):
        order = np.argsort(joined.instances["order"], kind="stable")
        plan, a_lengths = joined.instances[order], joined.a_lengths[order]
        keys = instance_keys(plan, maker.rule)
        b_starts, b_lengths = find_random_texts(
            view, keys, joined.documents[order], joined.targets[order]
        )
        a_ends = len(text.tokens) + np.cumsum(joined.a_lengths)
        pairs = Pairs(
            keys=keys,
            a_starts=a_ends[order] - a_lengths,
            a_lengths=a_lengths,
            b_starts=b_starts,
            b_lengths=b_lengths,
            is_random=np.ones(len(keys), bool),
        )
        tokens = np.concatenate([text.tokens, joined.a_tokens])
        instances = fill_pairs(tokens, pairs, maker.rule, vocabulary.cls_id, vocabulary.sep_id)
        yield _encode(instances, plan, overview, maker)


def _joined(requests: Iterable[Requests]) -> Iterator[Requests]:
    """The same requests, not many fewer than _MADE_AT_ONCE at a time."""
    waiting: list[Requests] = []
    num_waiting = 0
    for request in requests:
        waiting.append(request)
        num_waiting += len(request.instances)
        if num_waiting >= _MADE_AT_ONCE:
            yield _join(waiting)
            waiting, num_waiting = [], 0
    if waiting:
        yield _join(waiting)


def _join(requests: Sequence[Requests]) -> Requests:
    arrays = ("instances", "documents", "targets", "a_lengths", "a_tokens")
    joined = {name: np.concatenate([getattr(r, name) for r in requests]) for name in arrays}
    return Requests(requests[0].section, **joined)


def _encode(
    instances: Instances, plan: np.ndarray, overview: Overview, maker: RecordMaker
) -> tuple[list[Records], Statistics]:
    """Masks and encodes instances, INSTANCE [n] in the random order, at least one."""
    (data, row_splits), statistics = maker.encode(instances, mask_keys(plan, maker.rule))
    buckets = below(plan["order"], overview.num_buckets)
    borders = [0, *(np.flatnonzero(np.diff(buckets)) + 1).tolist(), len(plan)]
    records = [
        Records(
            bucket=int(buckets[start]),
            order=plan["order"][start:end],
            row_splits=row_splits[start : end + 1] - row_splits[start],
            data=data[row_splits[start] : row_splits[end]].tobytes(),
        )
        for start, end in itertools.pairwise(borders)
    ]
    return records, statistics


def sort_records(records: Iterable[Records]) -> list[bytes]:
    """All records of a bucket, in the random order."""
    return [record for _, record in sorted(itertools.chain.from_iterable(records))]

"""Takes a corpus, returns instances for pretraining; next: pretraining_files.

The original's algorithm (create_instances_from_document in create_pretraining_data.py of
google-research/bert), with each random choice a function of the seed and of the place that it is
made for. What the chunk that begins with a given sentence looks like then depends on nothing
before it, so chunks are looked up for all sentences at once, and a document's instances are those
met on the way from its first sentence to its end, chunk by chunk.

Axes: n = number of instances or of sentences, S = max_seq_length.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from bert_tf.errors import InputError
from bert_tf.packing import truncated_lengths
from bert_tf.random_bits import below, happens, key_of_seed, random_bits

# The chunks of this many sentences are looked up at once.
_WINDOW = 1 << 15
_TRIES = 10  # to find another document than the instance's own

# What random bits are for: of the seed,
_TARGET_LENGTH, _INSTANCE = 1, 2
# and of an instance.
_A_END, _IS_RANDOM, _B_START, _ORDER, _MASKS, _FRONT_OF_A, _FRONT_OF_B, _B_DOCUMENT = range(8)

INSTANCE = np.dtype(
    [
        ("order", np.uint64),  # random; instances are sorted by it
        ("sentence", np.int64),  # the first one of its chunk
        ("dupe", np.int64),  # the copy of the text that it belongs to
        ("document", np.int64),  # of that sentence
        ("num_sentences", np.int64),  # in its chunk
    ]
)


@dataclasses.dataclass(frozen=True)
class InstanceRule:
    """How instances are cut out of documents.

    Attributes:
        max_seq_length: S.
        dupe_factor: how often the text is gone through, each time cut and masked anew.
        short_seq_prob: share of the documents that are cut into chunks of a random shorter length.
        next_sentence: ``nsp`` for pairs of which half are random, ``none`` for full sentences up
            to S, across documents, with [SEP] after each document (RoBERTa, Liu et al. 2019, arXiv
            1907.11692, "FULL-SENTENCES").
        seed: of all choices.
    """

    max_seq_length: int
    dupe_factor: int
    short_seq_prob: float
    next_sentence: str
    seed: int

    def __post_init__(self) -> None:
        if self.max_seq_length < self.num_special + 2:
            raise InputError(
                f"--max_seq_length={self.max_seq_length} leaves no room for text beside "
                f"{self.num_special} of [CLS] and [SEP]; the least is {self.num_special + 2}"
            )
        if self.dupe_factor < 1:
            raise InputError(f"--dupe_factor must be at least 1, but is {self.dupe_factor}")
        if not 0.0 <= self.short_seq_prob <= 1.0:
            raise InputError(f"--short_seq_prob must lie in [0, 1], but is {self.short_seq_prob}")

    @property
    def num_special(self) -> int:
        """How many places [CLS] and [SEP] take."""
        return 3 if self.next_sentence == "nsp" else 2

    @property
    def max_num_tokens(self) -> int:
        """The places that are left for text."""
        return self.max_seq_length - self.num_special


class Sentences(Protocol):
    """What instances are made from: see corpus.Corpus, which is one."""

    tokens: Any
    sentence_starts: Any
    document_starts: Any
    num_documents: int

    def document_of(self, sentences: np.ndarray) -> np.ndarray:
        """The documents of sentences."""


def plan_instances(
    corpus: Sentences, first_document: int, end_document: int, rule: InstanceRule
) -> Iterator[np.ndarray]:
    """Which instances the documents of a section give.

    Args:
        corpus: the text.
        first_document: of the section.
        end_document: behind its last.
        rule: how to cut.

    Yields:
        INSTANCE [n], in the order of the text for each copy, a part at a time.
    """
    first = int(corpus.document_starts[first_document])
    end = int(corpus.document_starts[end_document])
    # Every sentence has a piece, so no chunk that begins in a window goes on for longer than this.
    beyond = rule.max_num_tokens + 1
    nexts = [first] * rule.dupe_factor
    for window in range(first, end, _WINDOW):
        window_end = min(window + _WINDOW, end)
        sentences = np.arange(window, window_end)
        starts = np.asarray(corpus.sentence_starts[window : min(window_end + beyond, end) + 1])
        documents = corpus.document_of(sentences)
        for dupe in range(rule.dupe_factor):
            if rule.next_sentence == "nsp":
                ends, following = _chunks(corpus, sentences, starts, documents, dupe, rule)
            else:
                ends = following = _full(corpus, sentences, starts, documents, end, rule)
            met, nexts[dupe] = _follow(following, window, nexts[dupe])
            instances = np.empty(len(met), INSTANCE)
            instances["sentence"] = sentences[met]
            instances["dupe"] = dupe
            instances["document"] = documents[met]
            instances["num_sentences"] = ends[met] - sentences[met]
            instances["order"] = random_bits(instance_keys(instances, rule), _ORDER)
            yield instances


def instance_keys(instances: np.ndarray, rule: InstanceRule) -> np.ndarray:
    """The key of each instance's choices, uint64 [n]."""
    return _keys(instances["sentence"], instances["dupe"], rule)


def mask_keys(instances: np.ndarray, rule: InstanceRule) -> np.ndarray:
    """The key of each instance's masks, uint64 [n]."""
    return random_bits(instance_keys(instances, rule), _MASKS)


def _keys(sentences: np.ndarray, dupe: np.ndarray | int, rule: InstanceRule) -> np.ndarray:
    site = np.uint64(random_bits(key_of_seed(rule.seed), _INSTANCE))
    return random_bits(random_bits(site, dupe), sentences)


def target_lengths(documents: np.ndarray, dupe: np.ndarray | int, rule: InstanceRule) -> np.ndarray:
    """How many pieces the chunks of each document should have, int64 [n]."""
    site = np.uint64(random_bits(key_of_seed(rule.seed), _TARGET_LENGTH))
    bits = random_bits(random_bits(site, dupe), documents)
    is_short = happens(bits, rule.short_seq_prob)
    short = 2 + below(random_bits(bits, 1), rule.max_num_tokens - 1)
    return np.where(is_short, short, rule.max_num_tokens)


def _chunks(
    corpus: Sentences,
    sentences: np.ndarray,
    starts: np.ndarray,
    documents: np.ndarray,
    dupe: int,
    rule: InstanceRule,
) -> tuple[np.ndarray, np.ndarray]:
    """The chunk that would begin with each sentence: where it ends, and where the next begins."""
    targets = target_lengths(documents, dupe, rule)
    reached = np.searchsorted(starts, starts[: len(sentences)] + targets, side="left")
    ends = np.minimum(sentences[0] + reached, corpus.document_starts[documents + 1])
    keys = _keys(sentences, dupe, rule)
    a_sentences, is_random = _cut(keys, ends - sentences)
    # What a random next sentence took the place of is used by the next chunk.
    return ends, np.where(is_random, sentences + a_sentences, ends)


def _cut(keys: np.ndarray, num_sentences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many sentences of each chunk are A, int64 [n], and whether B is random, bool [n]."""
    alone = num_sentences == 1
    a_sentences = 1 + below(random_bits(keys, _A_END), np.maximum(num_sentences - 1, 1))
    return a_sentences, alone | happens(random_bits(keys, _IS_RANDOM), 0.5)


def _full(
    corpus: Sentences,
    sentences: np.ndarray,
    starts: np.ndarray,
    documents: np.ndarray,
    end: int,
    rule: InstanceRule,
) -> np.ndarray:
    """Where the longest run of full sentences that begins with each sentence ends, int64 [n]."""
    # Each document before a place takes a [SEP]. A run that ends with document d does not need
    # that of d itself: there is one at the end of every instance.
    last = corpus.document_of(np.arange(sentences[0], sentences[0] + len(starts) - 1))
    places_behind = starts[1:] + last
    budget = starts[: len(sentences)] + documents + rule.max_num_tokens
    ends = sentences[0] + np.searchsorted(places_behind, budget, side="right")
    return np.minimum(np.maximum(ends, sentences + 1), end)


def _follow(following: np.ndarray, first: int, start: int) -> tuple[list[int], int]:
    """The way through a window: the places met from ``start`` on, and where the window is left."""
    steps = (following - first).tolist()
    place, met = start - first, []
    while place < len(steps):
        met.append(place)
        place = steps[place]
    return met, place + first


@dataclasses.dataclass(frozen=True)
class Instances:
    """Model inputs, before masking.

    Attributes:
        input_ids: int32 [n, S].
        lengths: int64 [n], the rest is padding.
        segment_ids: uint8 [n, S].
        next_sentence_labels: int32 [n], 1 where B is random.
        num_dropped: int64 [n], pieces that did not fit.
    """

    input_ids: np.ndarray
    lengths: np.ndarray
    segment_ids: np.ndarray
    next_sentence_labels: np.ndarray
    num_dropped: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence["Instances"]) -> "Instances":
        """All instances of several parts."""
        return cls(
            **{
                field.name: np.concatenate([getattr(part, field.name) for part in parts])
                for field in dataclasses.fields(cls)
            }
        )


def make_instances(
    corpus: Sentences, instances: np.ndarray, rule: InstanceRule, cls_id: int, sep_id: int
) -> Instances:
    """Fills planned instances with their word pieces.

    Args:
        corpus: the whole text.
        instances: INSTANCE [n].
        rule: what they were planned by.
        cls_id: id of [CLS].
        sep_id: id of [SEP].
    """
    if rule.next_sentence == "none":
        return _fill_full(corpus, instances, rule, cls_id, sep_id)
    return fill_pairs(corpus.tokens, find_pairs(corpus, instances, rule), rule, cls_id, sep_id)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Where the texts of pairs lie among the tokens.

    Attributes:
        keys: uint64 [n], of the instances' choices.
        a_starts, a_lengths, b_starts, b_lengths: int64 [n].
        is_random: bool [n].
    """

    keys: np.ndarray
    a_starts: np.ndarray
    a_lengths: np.ndarray
    b_starts: np.ndarray
    b_lengths: np.ndarray
    is_random: np.ndarray


def find_pairs(corpus: Sentences, instances: np.ndarray, rule: InstanceRule) -> Pairs:
    """Where the pairs of planned instances lie, before they are truncated."""
    pairs, targets = find_own_texts(corpus, instances, rule)
    random = np.flatnonzero(pairs.is_random)
    keys = pairs.keys[random]
    documents = other_documents(keys, instances["document"][random], corpus.num_documents)
    pairs.b_starts[random], pairs.b_lengths[random] = find_random_texts(
        corpus, keys, documents, targets[random]
    )
    return pairs


def find_own_texts(
    corpus: Sentences, instances: np.ndarray, rule: InstanceRule
) -> tuple[Pairs, np.ndarray]:
    """Where the texts of pairs lie in their own documents.

    Returns:
        The pairs, all of them with what follows A as their B; and the number of pieces that a B
        should have, int64 [n].
    """
    keys = instance_keys(instances, rule)
    a_sentences, is_random = _cut(keys, instances["num_sentences"])
    first = instances["sentence"]
    a_starts = corpus.sentence_starts[first]
    b_starts = corpus.sentence_starts[first + a_sentences]
    b_lengths = corpus.sentence_starts[first + instances["num_sentences"]] - b_starts
    a_lengths = b_starts - a_starts
    targets = target_lengths(instances["document"], instances["dupe"], rule) - a_lengths
    return Pairs(keys, a_starts, a_lengths, b_starts, b_lengths, is_random), targets


def find_random_texts(
    corpus: Sentences, keys: np.ndarray, documents: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Texts from documents that were drawn, with at least so many pieces if these have as many.

    Returns:
        Starts and lengths, int64 [n].
    """
    begin, end = corpus.document_starts[documents], corpus.document_starts[documents + 1]
    first = begin + random_starts(keys, end - begin)
    starts = corpus.sentence_starts[first]
    ends = text_ends(corpus.sentence_starts, first, end, targets)
    return starts, corpus.sentence_starts[ends] - starts


def other_documents(keys: np.ndarray, own: np.ndarray, num_documents: int) -> np.ndarray:
    """A random document for each instance, another than its own if tries find one, int64 [n]."""
    documents = below(random_bits(keys, _B_DOCUMENT), num_documents)
    for attempt in range(1, _TRIES):
        same = documents == own
        if not same.any():
            break
        bits = random_bits(keys[same], _B_DOCUMENT + attempt)
        documents[same] = below(bits, num_documents)
    return documents


def random_starts(keys: np.ndarray, num_sentences: np.ndarray) -> np.ndarray:
    """Where B starts in a random document of so many sentences, int64 [n]."""
    return below(random_bits(keys, _B_START), num_sentences)


def text_ends(
    sentence_starts: np.ndarray, first: np.ndarray, end: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """Behind the sentence with which a text reaches its target or its document's end, int64 [n]."""
    ends = first + 1
    wanted = sentence_starts[first] + targets
    open_ = np.flatnonzero(ends < end)
    while len(open_):
        open_ = open_[sentence_starts[ends[open_]] < wanted[open_]]
        ends[open_] += 1
        open_ = open_[ends[open_] < end[open_]]
    return ends


def fill_pairs(
    tokens: np.ndarray, pairs: Pairs, rule: InstanceRule, cls_id: int, sep_id: int
) -> Instances:
    """``[CLS] A [SEP] B [SEP]``, truncated as in the original.

    There, pieces are dropped one by one from the longer text, from its front or its back with
    equal chance (truncate_seq_pair); so the number dropped from the front is the number of ones
    among as many random bits.
    """
    a_kept, b_kept = truncated_lengths(pairs.a_lengths, pairs.b_lengths, rule.max_num_tokens)
    a_dropped, b_dropped = pairs.a_lengths - a_kept, pairs.b_lengths - b_kept
    a_starts = pairs.a_starts + _ones(random_bits(pairs.keys, _FRONT_OF_A), a_dropped)
    b_starts = pairs.b_starts + _ones(random_bits(pairs.keys, _FRONT_OF_B), b_dropped)

    rows, columns = np.arange(len(pairs.keys)), np.arange(rule.max_seq_length)
    first_sep, last_sep = (a_kept + 1)[:, None], (a_kept + b_kept + 2)[:, None]
    is_b, is_padding = columns > first_sep, columns > last_sep
    places = np.where(is_b, (b_starts - a_kept - 2)[:, None], (a_starts - 1)[:, None])
    places += columns
    # Places of special pieces and of padding may lie anywhere, and are filled below.
    input_ids = tokens.take(places, mode="clip").astype(np.int32)
    input_ids[is_padding] = 0
    input_ids[:, 0] = cls_id
    input_ids[rows, first_sep[:, 0]] = sep_id
    input_ids[rows, last_sep[:, 0]] = sep_id
    return Instances(
        input_ids=input_ids,
        lengths=a_kept + b_kept + 3,
        segment_ids=(is_b & ~is_padding).view(np.uint8),
        next_sentence_labels=pairs.is_random.astype(np.int32),
        num_dropped=a_dropped + b_dropped,
    )


def _ones(keys: np.ndarray, num_bits: np.ndarray) -> np.ndarray:
    """The number of ones among so many random bits of each key, int64 [n]."""
    words = -(-num_bits // 64)
    rows = np.repeat(np.arange(len(keys)), words)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(words) - words, words)
    left = np.minimum(num_bits[rows] - 64 * within, 64)  # 1 … 64 bits of each word count
    bits = random_bits(keys[rows], within + 1) >> (64 - left).astype(np.uint64)
    ones = np.bitwise_count(bits)
    return np.bincount(rows, weights=ones, minlength=len(keys)).astype(np.int64)


def _fill_full(
    corpus: Sentences, instances: np.ndarray, rule: InstanceRule, cls_id: int, sep_id: int
) -> Instances:
    """``[CLS] sentences [SEP]``, with a [SEP] more where one document ends and another begins."""
    first, n = instances["sentence"], len(instances)
    end = first + instances["num_sentences"]
    starts = corpus.sentence_starts[first]
    documents = instances["document"]
    num_borders = corpus.document_of(end - 1) - documents
    wanted = corpus.sentence_starts[end] - starts + num_borders
    kept = np.minimum(wanted, rule.max_num_tokens)

    rows, columns = np.arange(n), np.arange(rule.max_seq_length)
    is_sep = np.zeros((n, rule.max_seq_length), bool)
    for border in range(int(num_borders.max(initial=0))):
        crossing = np.flatnonzero(num_borders > border)
        border_sentence = corpus.document_starts[documents[crossing] + 1 + border]
        before = corpus.sentence_starts[border_sentence] - starts[crossing]
        is_sep[crossing, 1 + before + border] = True
    places = starts[:, None] + columns - 1 - np.cumsum(is_sep, axis=1)
    is_text = (columns > 0) & (columns <= kept[:, None]) & ~is_sep
    input_ids = np.zeros((n, rule.max_seq_length), np.int32)
    input_ids[is_text] = corpus.tokens[places[is_text]]
    input_ids[is_sep] = sep_id
    input_ids[:, 0] = cls_id
    input_ids[rows, kept + 1] = sep_id
    return Instances(
        input_ids=input_ids,
        lengths=kept + 2,
        segment_ids=np.zeros((n, rule.max_seq_length), np.uint8),
        next_sentence_labels=np.zeros(n, np.int32),
        num_dropped=wanted - kept,
    )

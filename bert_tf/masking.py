"""Takes rows of word pieces and a key for each, returns them masked; next: tfrecord.

The choice is that of ``create_masked_lm_predictions`` in the original's create_pretraining_data.py,
made for many rows at once. What becomes of a row depends on its pieces and its key alone, so it is
the same in whatever batch and at whatever padding the row comes.

Axes: n rows, S = max_seq_length, P = max_predictions_per_seq.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from bert_tf.errors import InputError, did_you_mean
from bert_tf.random_bits import below, happens, random_bits
from bert_tf.tokenization import CONTINUATION, Vocabulary

UNITS = ("token", "whole_word", "span")

# A chosen piece becomes [MASK] in 80 % of the cases and stays in 10 %; else it becomes any piece.
_REPLACEMENT_BOUNDS = 0.8, 0.9
# What a row's key is nested into: the order in which groups of tokens are visited, the lengths of
# spans, what becomes of a token or span, and the random pieces.
_ORDER, _SPAN_LENGTH, _REPLACEMENT, _PIECE = range(1, 5)


@dataclasses.dataclass(frozen=True)
class MaskingRule:
    """What is chosen for masked-LM prediction.

    Attributes:
        masked_lm_prob: the share of a row's pieces, ``[CLS]`` and ``[SEP]`` counted.
        max_predictions_per_seq: the most pieces of a row.
        unit: what is chosen as one: a ``token`` (a word piece), a ``whole_word`` or a ``span`` of
            words (SpanBERT, Joshi et al. 2020, arXiv:1907.10529, section 3.1).
        span_geometric_p: p of the geometric distribution of a span's length in words.
        max_span_length: the most words of a span.
    """

    masked_lm_prob: float = 0.15
    max_predictions_per_seq: int = 20
    unit: str = "token"
    span_geometric_p: float = 0.2
    max_span_length: int = 10

    def __post_init__(self) -> None:
        if not 0.0 < self.masked_lm_prob < 1.0:  # NaN is neither
            raise InputError(
                f"--masked_lm_prob must lie between 0 and 1, but is {self.masked_lm_prob}"
            )
        if self.unit not in UNITS:
            raise InputError(
                f"unit must be one of {', '.join(UNITS)}, but is {self.unit!r}"
                + did_you_mean(self.unit, UNITS)
            )
        if not 0.0 < self.span_geometric_p <= 1.0:
            raise InputError(
                f"--span_geometric_p must be above 0 and at most 1, but is {self.span_geometric_p}"
            )
        for name in ("max_predictions_per_seq", "max_span_length"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} must be at least 1, but is {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Masked:
    """Masked rows.

    Attributes:
        input_ids: int32 [n, S], the given ones with replacements.
        masked_lm_positions: int32 [n, P], ascending, then zeros.
        masked_lm_ids: int32 [n, P], what was there, then zeros.
        masked_lm_weights: float32 [n, P], 1 for a prediction, 0 for padding.
        counts: int64 [n, 3], how many pieces became ``[MASK]``, stayed, became a random piece.
    """

    input_ids: np.ndarray
    masked_lm_positions: np.ndarray
    masked_lm_ids: np.ndarray
    masked_lm_weights: np.ndarray
    counts: np.ndarray


class Masker:
    """Chooses and replaces pieces of rows.

    Args:
        vocabulary: that of the rows' ids; random pieces are drawn from all of it.
        rule: what is chosen.

    Raises:
        InputError: if the vocabulary lacks ``[CLS]``, ``[SEP]`` or ``[MASK]``.
    """

    def __init__(self, vocabulary: Vocabulary, rule: MaskingRule) -> None:
        self._vocabulary = vocabulary
        self._rule = rule
        self._cls_id, self._sep_id = vocabulary.cls_id, vocabulary.sep_id
        self._mask_id = vocabulary.mask_id
        self._continues = np.array([piece.startswith(CONTINUATION) for piece in vocabulary.pieces])
        # P(length <= l) for l = 1 … max_span_length, of p (1 - p)^(l - 1) over the sum of these.
        shares = (1.0 - rule.span_geometric_p) ** np.arange(rule.max_span_length)
        self._span_length_bounds = np.cumsum(shares) / np.sum(shares)

    def __call__(self, input_ids: np.ndarray, lengths: np.ndarray, keys: np.ndarray) -> Masked:
        """Masks rows.

        Args:
            input_ids: int32 [n, S], zero-padded.
            lengths: int64 [n], pieces of each row, ``[CLS]`` and ``[SEP]`` counted.
            keys: uint64 [n], a random key for each row.

        Raises:
            InputError: if an id is not one of the vocabulary's.
        """
        self._check_ids(input_ids)
        candidates = _Candidates.of(
            (input_ids != self._cls_id)
            & (input_ids != self._sep_id)
            & (np.arange(input_ids.shape[1]) < lengths[:, np.newaxis])
        )
        wanted = self.num_predictions(lengths)
        if self._rule.unit == "token":
            chosen = deciding = _choose_tokens(candidates, wanted, keys)
        elif self._rule.unit == "whole_word":
            chosen = deciding = self._choose_words(input_ids, candidates, wanted, keys)
        else:
            chosen, deciding = self._choose_spans(input_ids, candidates, wanted, keys)
        places = candidates.places
        return self._replace(input_ids, places[chosen], places[deciding], keys)

    def _check_ids(self, input_ids: np.ndarray) -> None:
        lowest, highest = np.min(input_ids, initial=0), np.max(input_ids, initial=0)
        if lowest < 0 or highest >= len(self._vocabulary):
            raise InputError(
                f"input_ids: the id {lowest if lowest < 0 else highest} is not in "
                f"{self._vocabulary.path}, whose ids are 0 to {len(self._vocabulary) - 1}; "
                "use the vocabulary that the ids were made with"
            )

    def num_predictions(self, lengths: np.ndarray) -> np.ndarray:
        """Int64 [n]: how many pieces to choose in rows that have as many."""
        # Like Python's round, rint takes halves to the even number.
        share = np.rint(lengths * self._rule.masked_lm_prob).astype(np.int64)
        return np.clip(share, 1, self._rule.max_predictions_per_seq)

    def _choose_words(
        self, input_ids: np.ndarray, candidates: "_Candidates", wanted: np.ndarray, keys: np.ndarray
    ) -> np.ndarray:
        """Chooses words in random order, without those that have more pieces than are left.

        Returns:
            int64 [number chosen], numbers of candidates, ascending.
        """
        # As in the original, a continuation joins the word before it even across a [SEP].
        splits = self._word_splits(input_ids, candidates, candidates.row_splits)
        is_chosen = np.zeros(len(splits) - 1, np.bool_)
        left = wanted.copy()
        for rows, words in _visits(keys, np.searchsorted(splits, candidates.row_splits), left):
            sizes = splits[words + 1] - splits[words]
            fits = sizes <= left[rows]
            is_chosen[words] = fits
            left[rows] -= sizes * fits
        words = np.flatnonzero(is_chosen)
        return _ranges(splits[words], splits[words + 1])

    def _choose_spans(
        self, input_ids: np.ndarray, candidates: "_Candidates", wanted: np.ndarray, keys: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Chooses spans, which start at words in random order; the last is cut to what is left.

        A word inside an earlier span starts none. A span may run into an earlier one, whose pieces
        stay that one's. It ends at a ``[SEP]``, and so do words here.

        Returns:
            int64 [number chosen], numbers of candidates, ascending, and for each of them the
            number of its span's first, int64 [number chosen].
        """
        text_splits = candidates.text_splits()
        splits = self._word_splits(input_ids, candidates, text_splits)
        text_ends = np.searchsorted(splits, text_splits[1:])  # in words
        length_keys = random_bits(keys, _SPAN_LENGTH)
        span_of = np.full(len(candidates.places), -1)
        left = wanted.copy()
        for rows, words in _visits(keys, np.searchsorted(splits, candidates.row_splits), left):
            is_free = span_of[splits[words]] < 0
            rows, words = rows[is_free], words[is_free]
            firsts = splits[words]
            columns = candidates.places[firsts] % input_ids.shape[1]
            bits = random_bits(length_keys[rows], columns)
            text_end = text_ends[np.searchsorted(text_ends, words, side="right")]
            ends = splits[np.minimum(words + self._span_lengths(bits), text_end)]

            pieces, spans = _ranges(firsts, ends), np.repeat(np.arange(len(rows)), ends - firsts)
            is_free = span_of[pieces] < 0
            pieces, spans = pieces[is_free], spans[is_free]
            is_left = _places_in_runs(np.bincount(spans, minlength=len(rows))) < left[rows][spans]
            pieces, spans = pieces[is_left], spans[is_left]
            span_of[pieces] = firsts[spans]
            left[rows] -= np.bincount(spans, minlength=len(rows))
        chosen = np.flatnonzero(span_of >= 0)
        return chosen, span_of[chosen]

    def _word_splits(
        self, input_ids: np.ndarray, candidates: "_Candidates", known: np.ndarray
    ) -> np.ndarray:
        """Numbers of the candidates that start words, and the end.

        Args:
            input_ids: int32 [n, S].
            candidates: of these rows.
            known: int64 [any], splits where a word starts even if its piece is a continuation.
        """
        is_split = np.ones(len(candidates.places) + 1, np.bool_)
        is_split[:-1] = ~self._continues[input_ids.ravel()[candidates.places]]
        is_split[known] = True
        return np.flatnonzero(is_split)

    def _span_lengths(self, bits: np.ndarray) -> np.ndarray:
        """Uint64 [spans] -> int64 [spans], lengths in words."""
        lengths = np.ones(len(bits), np.int64)
        for bound in self._span_length_bounds[:-1]:
            lengths += ~happens(bits, bound)
        return lengths

    def _replace(
        self, input_ids: np.ndarray, places: np.ndarray, deciding: np.ndarray, keys: np.ndarray
    ) -> Masked:
        """Replaces chosen pieces.

        Args:
            input_ids: int32 [n, S].
            places: int64 [number chosen], where they are in the flat rows, ascending.
            deciding: int64 [number chosen], the place whose bits decide what each becomes.
            keys: uint64 [n].
        """
        num_rows, seq_length = input_ids.shape
        rows = places // seq_length
        row_starts = rows * seq_length
        columns = places - row_starts
        bits = random_bits(random_bits(keys, _REPLACEMENT)[rows], deciding - row_starts)
        kinds = np.zeros(len(places), np.int64)  # which of `counts` each piece is one of
        for bound in _REPLACEMENT_BOUNDS:
            kinds += ~happens(bits, bound)
        counts = np.bincount(rows * 3 + kinds, minlength=num_rows * 3).reshape(num_rows, 3)

        flat_ids = input_ids.flatten()
        ids = flat_ids[places]
        flat_ids[places[kinds == 0]] = self._mask_id
        is_random = kinds == 2
        bits = random_bits(random_bits(keys, _PIECE)[rows[is_random]], columns[is_random])
        flat_ids[places[is_random]] = below(bits, len(self._vocabulary))

        num_chosen = np.sum(counts, axis=1, keepdims=True)
        is_used = np.arange(self._rule.max_predictions_per_seq) < num_chosen  # bool [n, P]
        positions, true_ids = np.zeros(is_used.shape, np.int32), np.zeros(is_used.shape, np.int32)
        positions[is_used], true_ids[is_used] = columns, ids
        return Masked(
            input_ids=flat_ids.reshape(num_rows, seq_length),
            masked_lm_positions=positions,
            masked_lm_ids=true_ids,
            masked_lm_weights=is_used.astype(np.float32),
            counts=counts,
        )


@dataclasses.dataclass(frozen=True)
class _Candidates:
    """The pieces that may be chosen, numbered through all rows.

    Attributes:
        places: int64 [number of candidates], where they are in the flat rows, ascending.
        row_splits: int64 [n + 1]; row i has numbers ``row_splits[i]`` to ``row_splits[i + 1] - 1``.
    """

    places: np.ndarray
    row_splits: np.ndarray

    @classmethod
    def of(cls, is_candidate: np.ndarray) -> "_Candidates":
        """Numbers them, bool [n, S]."""
        num_rows, seq_length = is_candidate.shape
        places = np.flatnonzero(is_candidate)
        row_splits = np.searchsorted(places, np.arange(num_rows + 1) * seq_length)
        return cls(places, row_splits)

    def text_splits(self) -> np.ndarray:
        """Numbers of those that have no candidate right before them in their row, and the end."""
        is_split = np.ones(len(self.places) + 1, np.bool_)
        is_split[1:-1] = np.diff(self.places) != 1
        is_split[self.row_splits] = True
        return np.flatnonzero(is_split)


def _choose_tokens(candidates: _Candidates, wanted: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Numbers of the candidates that are chosen, int64 [number chosen], ascending."""
    is_chosen = np.zeros(len(candidates.places), np.bool_)
    left = wanted.copy()
    for rows, tokens in _visits(keys, candidates.row_splits, left):
        is_chosen[tokens] = True
        left[rows] -= 1
    return np.flatnonzero(is_chosen)


def _visits(
    keys: np.ndarray, row_splits: np.ndarray, left: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Visits the groups of each row in random order, one of each row at a time.

    The order is a shuffle (Fisher and Yates) that goes only as far as it is asked to.

    Args:
        keys: uint64 [n].
        row_splits: int64 [n + 1], of the groups.
        left: int64 [n]; the caller counts it down, and a row at 0 is visited no more.

    Yields:
        Rows, int64 [visited], ascending, and for each of them its next group, int64 [visited].
    """
    keys = random_bits(keys, _ORDER)
    order = np.arange(row_splits[-1])
    rows = np.arange(len(keys))
    for step in itertools.count():
        rows = rows[(left[rows] > 0) & (row_splits[rows] + step < row_splits[rows + 1])]
        if not len(rows):
            return
        first = row_splits[rows] + step
        drawn = first + below(random_bits(keys[rows], step), row_splits[rows + 1] - first)
        groups = order[drawn]
        order[drawn] = order[first]  # what is at `first` has been passed and is not read again
        yield rows, groups


def _places_in_runs(lengths: np.ndarray) -> np.ndarray:
    """0, 1, … in each run: int64 [runs] -> int64 [sum of lengths]."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def _ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """``starts[i]`` to ``ends[i] - 1`` for each i, end to end, int64."""
    lengths = ends - starts
    return np.repeat(starts, lengths) + _places_in_runs(lengths)

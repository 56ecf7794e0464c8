"""Takes word-piece ids of one or two texts, returns model inputs; next: input_pipeline.

The layout is the original's: ``[CLS] a [SEP]`` with segment 0, then ``b [SEP]`` with segment 1.
"""

import dataclasses

import numpy as np

from bert_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class RaggedIds:
    """Sequences of different lengths, end to end.

    Attributes:
        values: int32 [number of pieces].
        row_splits: int64 [num_rows + 1]; row i is ``values[row_splits[i]:row_splits[i + 1]]``.
    """

    values: np.ndarray
    row_splits: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """int64 [num_rows]."""
        return np.diff(self.row_splits)


@dataclasses.dataclass(frozen=True)
class PackedTexts:
    """Model inputs without padding.

    Attributes:
        input_ids: a row for each example, ``[CLS] a [SEP] b [SEP]``.
        segment_starts: int64 [num_examples], where segment 1 starts (the row's length if it has
            only one segment).
        num_truncated: how many examples lost pieces.
        share_lost: of all pieces, those that they lost.
    """

    input_ids: RaggedIds
    segment_starts: np.ndarray
    num_truncated: int
    share_lost: float = 0.0

    @property
    def lengths(self) -> np.ndarray:
        """int64 [num_examples], pieces of each row."""
        return self.input_ids.lengths


def truncated_lengths(
    lengths_a: np.ndarray, lengths_b: np.ndarray, budget: int | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What the original's ``_truncate_seq_pair`` leaves of each pair, in closed form.

    There, pieces are dropped one by one from the end of the longer text, of b where both are
    equally long, until the pair fits. So a text of at most half the budget stays whole.

    Args:
        lengths_a: int64 [num_pairs].
        lengths_b: int64 [num_pairs].
        budget: pieces that both may have together; int64 [num_pairs] where pairs differ.

    Returns:
        The two lengths after truncation, int64 [num_pairs] each.
    """
    kept_a = np.minimum(lengths_a, np.maximum(budget - lengths_b, (budget + 1) // 2))
    kept_b = np.minimum(lengths_b, np.maximum(budget - lengths_a, budget // 2))
    return kept_a, kept_b


def pack_texts(
    text_a: RaggedIds,
    text_b: RaggedIds | None,
    max_seq_length: int,
    cls_id: int,
    sep_id: int,
    is_pair: np.ndarray | None = None,
) -> PackedTexts:
    """Packs whole data sets at once.

    Args:
        text_a: word-piece ids of the first texts.
        text_b: those of the second texts, or None.
        max_seq_length: longest row, special pieces included.
        cls_id: id of ``[CLS]``.
        sep_id: id of ``[SEP]``.
        is_pair: bool [num_examples], which examples are pairs, where not all with ``text_b`` are;
            the second text of the others must be empty.

    Raises:
        InputError: if ``max_seq_length`` leaves no room for text.
    """
    lengths_a = text_a.lengths
    lengths_b = np.zeros_like(lengths_a) if text_b is None else text_b.lengths
    if is_pair is None:
        is_pair = np.full(len(lengths_a), text_b is not None)
    special = np.where(is_pair, 3, 2)
    check_room(max_seq_length, int(special.max(initial=2)))
    kept_a, kept_b = truncated_lengths(lengths_a, lengths_b, max_seq_length - special)
    row_lengths = kept_a + kept_b + special
    row_splits = np.concatenate([[0], np.cumsum(row_lengths)]).astype(np.int64)
    starts = row_splits[:-1]

    values = np.empty(row_splits[-1], np.int32)
    values[starts] = cls_id
    _copy_rows(values, starts + 1, text_a, kept_a)
    values[starts + 1 + kept_a] = sep_id
    if text_b is not None:
        _copy_rows(values, starts + 2 + kept_a, text_b, kept_b)
    values[row_splits[1:] - 1] = sep_id  # of a single text, the one that it has already
    lost = lengths_a + lengths_b - kept_a - kept_b
    return PackedTexts(
        RaggedIds(values, row_splits),
        kept_a + 2,
        int(np.count_nonzero(lost)),
        float(lost.sum() / max(1, lengths_a.sum() + lengths_b.sum())),
    )


def check_room(max_seq_length: int, special: int) -> None:
    """Checks that a row has room for a piece of each text.

    Args:
        max_seq_length: longest row, special pieces included.
        special: how many those are: 2 of a single text, 3 of a pair.

    Raises:
        InputError: if it has not.
    """
    least = 2 * special - 1
    if max_seq_length < least:
        raise InputError(
            f"max_seq_length {max_seq_length} is too small: {special} positions are taken by [CLS] "
            f"and [SEP], so it must be at least {least}"
        )


def runs(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> RaggedIds:
    """Runs of an array's values, end to end.

    Args:
        values: int32 [number of values].
        starts: int64 [num_rows], where each run begins.
        lengths: int64 [num_rows], how many values each has.
    """
    row_splits = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return RaggedIds(values[np.repeat(starts, lengths) + _within(lengths)], row_splits)


def _within(lengths: np.ndarray) -> np.ndarray:
    """The position of each value inside its row: 0, 1, ... starting anew for each row."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def _copy_rows(
    target: np.ndarray, target_starts: np.ndarray, source: RaggedIds, lengths: np.ndarray
) -> None:
    """Copies the first ``lengths[i]`` values of each source row to ``target_starts[i]`` on."""
    within = _within(lengths)
    target[np.repeat(target_starts, lengths) + within] = source.values[
        np.repeat(source.row_splits[:-1], lengths) + within
    ]

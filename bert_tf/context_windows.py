"""Takes pieces of questions and contexts, returns the rows that show them; next: input_pipeline.

A row is ``[CLS] question [SEP] context [SEP]``. A context that does not fit is shown in several
windows, each starting ``doc_stride`` pieces after the one before it, as in run_squad.py of
google-research/bert. A piece that is in several of them is read off the one in which it has the
most around it.

Rows are numbers only; what they hold is put together batch by batch.

Axes: Q = questions, C = contexts, R = rows.
"""

import dataclasses

import numpy as np

from bert_tf.errors import InputError
from bert_tf.packing import RaggedIds, runs


@dataclasses.dataclass(frozen=True)
class ContextWindows:
    """The rows of questions, in their order.

    Attributes:
        questions: int64 [R], the question of each row.
        starts: int64 [R], the first piece of the context that it shows.
        lengths: int64 [R], how many pieces of the context it shows.
        row_splits: int64 [Q + 1]; question i has the rows ``row_splits[i]`` to
            ``row_splits[i + 1] - 1``.
    """

    questions: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    row_splits: np.ndarray


@dataclasses.dataclass(frozen=True)
class PackedWindows:
    """Model inputs of questions about contexts: each question and each context is held once.

    Attributes:
        questions: Q rows of pieces.
        contexts: C rows of pieces.
        context_of: int64 [Q], the context of each question.
        windows: R rows.
        cls_id: id of ``[CLS]``.
        sep_id: id of ``[SEP]``.
        num_truncated: how many questions lost pieces.
    """

    questions: RaggedIds
    contexts: RaggedIds
    context_of: np.ndarray
    windows: ContextWindows
    cls_id: int
    sep_id: int
    num_truncated: int

    @property
    def segment_starts(self) -> np.ndarray:
        """int64 [R], the position of the first piece of the context in each row."""
        return self.questions.lengths[self.windows.questions] + 2

    @property
    def lengths(self) -> np.ndarray:
        """int64 [R], pieces of each row."""
        return self.segment_starts + self.windows.lengths + 1


def pack_windows(
    questions: RaggedIds,
    contexts: RaggedIds,
    context_of: np.ndarray,
    *,
    max_seq_length: int,
    max_query_length: int,
    doc_stride: int,
    cls_id: int,
    sep_id: int,
) -> PackedWindows:
    """Packs questions and contexts.

    Args:
        questions: pieces of each question.
        contexts: pieces of each context.
        context_of: int64 [Q], the context of each question.
        max_seq_length: longest row, special pieces included.
        max_query_length: pieces that are kept of a question.
        doc_stride: pieces between the starts of two windows.
        cls_id: id of ``[CLS]``.
        sep_id: id of ``[SEP]``.

    Raises:
        InputError: if a row has no room for a context.
    """
    num_truncated = int(np.count_nonzero(questions.lengths > max_query_length))
    questions = truncated(questions, max_query_length)
    windows = plan_windows(
        questions.lengths, contexts.lengths[context_of], max_seq_length, doc_stride
    )
    return PackedWindows(questions, contexts, context_of, windows, cls_id, sep_id, num_truncated)


def plan_windows(
    question_lengths: np.ndarray,
    context_lengths: np.ndarray,
    max_seq_length: int,
    doc_stride: int,
) -> ContextWindows:
    """Which part of its context each row of a question shows.

    Args:
        question_lengths: int64 [Q], pieces of each question.
        context_lengths: int64 [Q], pieces of each question's context.
        max_seq_length: longest row, special pieces included.
        doc_stride: pieces between the starts of two windows.

    Raises:
        InputError: if a row has no room for a context.
    """
    room = max_seq_length - 3 - question_lengths
    if len(room) and room.min() < 1:
        raise InputError(
            f"--max_seq_length={max_seq_length} leaves no room for a context beside a question of "
            f"{question_lengths.max()} pieces; give a larger one, or a smaller --max_query_length"
        )
    stride = np.minimum(doc_stride, room)
    beyond = np.maximum(context_lengths - room, 0)
    num_rows = 1 + -(-beyond // stride)
    row_splits = np.concatenate([[0], np.cumsum(num_rows)]).astype(np.int64)
    questions = np.repeat(np.arange(len(num_rows)), num_rows)
    within = np.arange(row_splits[-1]) - row_splits[questions]
    starts = within * stride[questions]
    lengths = np.minimum(context_lengths[questions] - starts, room[questions])
    return ContextWindows(questions, starts, lengths, row_splits)


def best_rows(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Off which row of a question each piece of the context is read.

    The one with the largest ``min(pieces before, pieces after) + 0.01 * pieces``, of equal ones the
    first: ``_check_is_max_context`` of run_squad.py.

    Args:
        starts: int64 [rows of the question].
        lengths: the same.

    Returns:
        int64 [pieces of the context], a number of one of the rows.
    """
    size = int((starts + lengths).max(initial=0))
    rows = np.zeros(size, np.int64)
    best = np.full(size, -1.0)
    for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        place = np.arange(length)
        score = np.minimum(place, length - 1 - place) + 0.01 * length
        shown = slice(start, start + length)
        better = score > best[shown]
        rows[shown][better] = row
        best[shown][better] = score[better]
    return rows


def truncated(pieces: RaggedIds, most: int) -> RaggedIds:
    """The first pieces of each row, at most so many."""
    return runs(pieces.values, pieces.row_splits[:-1], np.minimum(pieces.lengths, most))

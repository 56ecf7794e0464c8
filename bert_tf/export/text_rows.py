"""Takes the pieces of texts, returns the rows that show them, in the graph; next: the tasks.

What `packing`, `long_text` and `context_windows` do with arrays, with tensors: the same rows, piece
by piece. A row is gathered in one go from all pieces, as each of its positions knows which one it
shows.

Axes: B texts, S = seq_length, C = windows of a text, R = rows of all questions.
"""

from typing import NamedTuple

import tensorflow as tf

from bert_tf.long_text import HEAD_SHARE
from bert_tf.packing import check_room
from bert_tf.tokenization import Vocabulary

PADDING = 0  # as input_pipeline pads


class Rows(NamedTuple):
    """A model's inputs: int32 [B, S] each, or [B, C, S] for texts of several windows."""

    input_ids: tf.Tensor
    input_mask: tf.Tensor
    segment_ids: tf.Tensor


class ContextParts(NamedTuple):
    """Which part of its context each row of a question shows: ContextWindows as tensors.

    Attributes:
        questions: int32 [R], the question of each row, in their order.
        starts: int32 [R], the first piece of the context that it shows.
        lengths: int32 [R], how many pieces of the context it shows.
        segment_starts: int32 [R], the position of the first of them.
    """

    questions: tf.Tensor
    starts: tf.Tensor
    lengths: tf.Tensor
    segment_starts: tf.Tensor


class _Shown(NamedTuple):
    """What rows show of texts.

    Attributes:
        pieces: int32 [number of pieces], of all texts.
        starts: int32 [B], where among them each row's begin.
        lengths: int32 [B], how many pieces each row shows.
    """

    pieces: tf.Tensor
    starts: tf.Tensor
    lengths: tf.Tensor


class RowBuilder:
    """Puts rows together.

    Args:
        vocabulary: whose ``[CLS]`` and ``[SEP]`` they have.
        max_seq_length: longest row, special pieces included.
        pairs: whether some are of two texts.
        fixed_length: whether rows are as long as that, whatever the texts; otherwise a batch's are
            as long as its longest.

    Raises:
        InputError: if ``max_seq_length`` leaves no room for text.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        max_seq_length: int,
        *,
        pairs: bool = False,
        fixed_length: bool = False,
    ) -> None:
        check_room(max_seq_length, 3 if pairs else 2)
        self._special = (vocabulary.cls_id, vocabulary.sep_id, PADDING)
        self.max_seq_length = max_seq_length
        self.fixed_length = fixed_length

    def of_texts(self, texts: tf.RaggedTensor, how: str = "head") -> Rows:
        """``[CLS] text [SEP]``.

        Args:
            texts: int32 [B, (pieces)].
            how: what is shown of a text that is too long: ``head``, ``tail`` or ``head_tail``.
        """
        starts, lengths = _places(texts)
        room = self.max_seq_length - 2
        shown = tf.minimum(lengths, room)
        heads = {"head": room, "tail": 0, "head_tail": round(room * HEAD_SHARE)}[how]
        position = self._positions(shown + 2)
        piece = position - 1
        if how != "head":
            # From the head's end on, counted from the text's end.
            lost = (lengths - shown)[:, tf.newaxis]
            piece += tf.where(piece < heads, 0, lost)
        return self._gathered(texts.values, position, starts, piece, shown)

    def of_runs(self, pieces: tf.Tensor, starts: tf.Tensor, lengths: tf.Tensor) -> Rows:
        """``[CLS] run [SEP]`` for runs of pieces, which may overlap.

        Args:
            pieces: int32 [number of pieces].
            starts: int32 [B], where each run begins among them.
            lengths: int32 [B], how many it has, at most what a row has room for.
        """
        position = self._positions(lengths + 2)
        return self._gathered(pieces, position, starts, position - 1, lengths)

    def of_pairs(
        self, text_a: tf.RaggedTensor, text_b: tf.RaggedTensor, is_pair: tf.Tensor | None = None
    ) -> Rows:
        """``[CLS] a [SEP] b [SEP]``, cut as ``packing.truncated_lengths`` says.

        Args:
            text_a: int32 [B, (pieces)].
            text_b: int32 [B, (pieces)].
            is_pair: bool [B], which examples are pairs (default: all); the others are
                ``[CLS] a [SEP]``, and their second text must be empty.
        """
        starts_a, lengths_a = _places(text_a)
        starts_b, lengths_b = _places(text_b)
        if is_pair is None:
            is_pair = tf.ones_like(lengths_a, tf.bool)
        special = tf.where(is_pair, 3, 2)
        budget = self.max_seq_length - special
        kept_a = tf.minimum(lengths_a, tf.maximum(budget - lengths_b, (budget + 1) // 2))
        kept_b = tf.minimum(lengths_b, tf.maximum(budget - lengths_a, budget // 2))
        return self._joined(
            _Shown(text_a.values, starts_a, kept_a),
            _Shown(text_b.values, starts_b, kept_b),
            is_pair,
        )

    def of_windows(self, texts: tf.RaggedTensor, stride: int, max_windows: int) -> Rows:
        """``[CLS] window [SEP]`` for each window of a text; where there is none, all is 0.

        Args:
            texts: int32 [B, (pieces)].
            stride: pieces between the starts of two windows.
            max_windows: windows of a text; what is beyond them is not shown.
        """
        starts, lengths = _places(texts)
        room = self.max_seq_length - 2
        beyond = tf.maximum(lengths - room, 0)
        counts = tf.minimum(1 + (beyond + stride - 1) // stride, max_windows)  # [B]
        most = max_windows if self.fixed_length else tf.reduce_max(tf.concat([counts, [1]], axis=0))
        window = tf.range(most)  # [C]
        offsets = window * stride
        shown = tf.clip_by_value(lengths[:, tf.newaxis] - offsets, 0, room)  # [B, C]
        exists = window < counts[:, tf.newaxis]
        flat = [-1]
        rows = self._gathered(
            texts.values,
            position := self._positions(tf.reshape(shown + 2, flat)),
            tf.reshape(starts[:, tf.newaxis] + offsets, flat),
            position - 1,
            tf.reshape(shown, flat),
        )
        shape = tf.concat([tf.shape(exists), tf.shape(position)[1:]], axis=0)  # B, C, S
        there = tf.cast(exists, tf.int32)[:, :, tf.newaxis]
        return Rows(*(tf.reshape(part, shape) * there for part in rows))

    def of_questions(
        self,
        questions: tf.RaggedTensor,
        contexts: tf.RaggedTensor,
        *,
        max_query_length: int,
        doc_stride: int,
    ) -> tuple[Rows, ContextParts]:
        """``[CLS] question [SEP] part [SEP]`` for each part of a context, as ``plan_windows`` says.

        Args:
            questions: int32 [B, (pieces)].
            contexts: int32 [B, (pieces)].
            max_query_length: pieces that are kept of a question; they leave room for a context.
            doc_stride: pieces between the starts of two parts.

        Returns:
            The rows, int32 [R, S], and which part of its context each shows.
        """
        question_starts, question_lengths = _places(questions)
        context_starts, context_lengths = _places(contexts)
        question_lengths = tf.minimum(question_lengths, max_query_length)
        room = self.max_seq_length - 3 - question_lengths
        stride = tf.minimum(doc_stride, room)
        beyond = tf.maximum(context_lengths - room, 0)
        counts = 1 + (beyond + stride - 1) // stride  # [B]

        question = tf.repeat(tf.range(tf.size(counts)), counts)  # [R]
        before = tf.gather(tf.cumsum(counts, exclusive=True), question)
        starts = (tf.range(tf.size(question)) - before) * tf.gather(stride, question)
        left = tf.gather(context_lengths, question) - starts
        lengths = tf.minimum(left, tf.gather(room, question))
        question_lengths = tf.gather(question_lengths, question)
        found = self._joined(
            _Shown(questions.values, tf.gather(question_starts, question), question_lengths),
            _Shown(contexts.values, tf.gather(context_starts, question) + starts, lengths),
            tf.ones_like(question, tf.bool),
        )
        return found, ContextParts(question, starts, lengths, question_lengths + 2)

    def _joined(self, text_a: _Shown, text_b: _Shown, is_pair: tf.Tensor) -> Rows:
        """Rows of two segments, or of one where there is no pair, bool [B]."""
        end_a = text_a.lengths + 1  # [B], where the first [SEP] is
        end_b = tf.where(is_pair, end_a + text_b.lengths + 1, -1)  # and the second
        position = self._positions(tf.maximum(end_a, end_b) + 1)
        starts_a, starts_b, end_a, end_b = (
            of_row[:, tf.newaxis] for of_row in (text_a.starts, text_b.starts, end_a, end_b)
        )
        values = tf.concat([text_a.pieces, text_b.pieces, self._special], axis=0)
        cls, sep, padding = (tf.size(values) - 3 + k for k in range(3))
        of_b = tf.size(text_a.pieces) + starts_b + position - end_a - 1
        index = tf.where(position < end_b, of_b, padding)
        index = tf.where(position < end_a, starts_a + position - 1, index)
        index = tf.where((position == end_a) | (position == end_b), sep, index)
        index = tf.where(position == 0, cls, index)
        in_b = (position > end_a) & (position <= end_b)
        return Rows(
            tf.gather(values, index),
            tf.cast((position <= end_a) | in_b, tf.int32),
            tf.cast(in_b, tf.int32),
        )

    def _positions(self, row_lengths: tf.Tensor) -> tf.Tensor:
        """int32 [1, S], long enough for rows of so many pieces, int32 [B]."""
        longest: tf.Tensor | int = self.max_seq_length
        if not self.fixed_length:
            longest = tf.reduce_max(tf.concat([row_lengths, [2]], axis=0))
        return tf.range(longest)[tf.newaxis]

    def _gathered(
        self,
        pieces: tf.Tensor,
        position: tf.Tensor,
        starts: tf.Tensor,
        piece: tf.Tensor,
        shown: tf.Tensor,
    ) -> Rows:
        """Rows of one segment.

        Args:
            pieces: int32 [number of pieces], of all texts.
            position: int32 [1, S].
            starts: int32 [B], where each row's text begins among the pieces.
            piece: int32 [1, S] or [B, S], which piece of its text each position shows.
            shown: int32 [B], how many pieces a row shows.
        """
        values = tf.concat([pieces, self._special], axis=0)
        cls, sep, padding = (tf.size(values) - 3 + k for k in range(3))
        end = shown[:, tf.newaxis] + 1
        index = tf.where(position < end, starts[:, tf.newaxis] + piece, padding)
        index = tf.where(position == end, sep, index)
        index = tf.where(position == 0, cls, index)
        mask = tf.cast(position <= end, tf.int32)
        return Rows(tf.gather(values, index), mask, tf.zeros_like(mask))


def _places(texts: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where each text's pieces begin among all, and how many it has, int32 [B] each."""
    splits = tf.cast(texts.row_splits, tf.int32)
    return splits[:-1], splits[1:] - splits[:-1]

"""Takes the pieces of words, returns the rows that show them, in the graph; next: tags.

What ``word_windows.pack_words`` does with arrays, with tensors: the same rows, of texts that have
no document around them. All texts' windows are found at once, each text's next one in a step.

Axes: B texts, W words of all texts, R = rows, S = seq_length, O = most words that a row owns.
"""

from typing import NamedTuple

import tensorflow as tf

from bert_tf.export.text_rows import RowBuilder, Rows
from bert_tf.graph_tokenization import shift_left, shift_right
from bert_tf.tokenization import Vocabulary
from bert_tf.word_windows import room_for_words


class WordRows(NamedTuple):
    """Model inputs for words.

    Attributes:
        rows: int32 [R, S] each.
        word_starts: int32 [R, O], where in its row each word begins that the row owns; 0 where it
            owns no more. In the order of the rows, they are the words in their order.
    """

    rows: Rows
    word_starts: tf.Tensor


class WordRowBuilder:
    """Puts rows of words together.

    Args:
        vocabulary: whose ``[CLS]``, ``[SEP]`` and ``[UNK]`` they have.
        max_seq_length: longest row, special pieces included.
        fixed_length: see RowBuilder.

    Raises:
        InputError: if ``max_seq_length`` leaves no room for words.
    """

    def __init__(
        self, vocabulary: Vocabulary, max_seq_length: int, *, fixed_length: bool = False
    ) -> None:
        self._room = room_for_words(max_seq_length)
        self._unk_id = vocabulary.unk_id
        self._rows = RowBuilder(vocabulary, max_seq_length, fixed_length=fixed_length)

    def of_words(
        self, pieces: tf.RaggedTensor, texts: tf.Tensor, row_splits: tf.Tensor
    ) -> WordRows:
        """The rows that show the words of texts.

        Args:
            pieces: int32 [W, (pieces)], of each word.
            texts: int32 [W], the text that it is in, ascending.
            row_splits: int32 [B + 1]; text i has the words ``row_splits[i]`` to
                ``row_splits[i + 1] - 1``.
        """
        with tf.device("CPU:0"):
            values, splits = self._with_1_to_room(pieces)
            firsts, ends = self._windows(splits, row_splits)  # [R]
            owned = _first_owned(splits, firsts, ends, texts)
            num_owned = shift_left(owned, tf.size(texts)) - owned
            # Between two very long words there may be a row that owns none.
            kept = num_owned > 0
            firsts, ends, num_owned = (
                tf.boolean_mask(part, kept) for part in (firsts, ends, num_owned)
            )
            first_pieces = tf.gather(splits, firsts)
            starts = 1 + splits[:-1] - tf.repeat(first_pieces, num_owned)  # [W]
            word_starts = tf.RaggedTensor.from_row_lengths(starts, num_owned, validate=False)
            return WordRows(
                self._rows.of_runs(values, first_pieces, tf.gather(splits, ends) - first_pieces),
                word_starts.to_tensor(),
            )

    def _with_1_to_room(self, pieces: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The pieces with at least one for each word, ``[UNK]``, and at most what a row shows.

        Returns:
            All of them, int32 [number of pieces], and int32 [W + 1], where each word's begin.
        """
        values = tf.concat([pieces.values, [self._unk_id]], axis=0)
        lengths = tf.cast(pieces.row_lengths(), tf.int32)
        starts = tf.cast(pieces.row_starts(), tf.int32)
        starts = tf.where(lengths > 0, starts, tf.size(pieces.values))
        lengths = tf.clip_by_value(lengths, 1, self._room)
        kept = tf.ragged.range(starts, starts + lengths).values
        return tf.gather(values, kept), tf.concat([[0], tf.cumsum(lengths)], axis=0)

    def _windows(self, splits: tf.Tensor, row_splits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The runs of words that show the texts, as ``word_windows`` has them.

        Args:
            splits: int32 [W + 1], of the pieces of words; each has some.
            row_splits: int32 [B + 1], of the words of texts.

        Returns:
            The first word of each run and the word after its last, int32 [R], in order.
        """
        room = self._room

        def step(
            start: tf.Tensor, end: tf.Tensor, firsts: tf.Tensor, ends: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            # Of each text that is not yet shown to its end: the words that are left of it.
            first_piece, last_piece = tf.gather(splits, start), tf.gather(splits, end)
            fits = last_piece - first_piece <= room
            stop = tf.searchsorted(splits, first_piece + room, side="right") - 1
            stop = tf.where(fits, end, stop)
            later = tf.searchsorted(splits, first_piece + room // 2, side="left")
            # The last window is as full as the others.
            earliest = tf.searchsorted(splits, last_piece - room, side="left")
            following = tf.maximum(start + 1, tf.minimum(tf.minimum(later, earliest), stop))
            firsts, ends = tf.concat([firsts, start], 0), tf.concat([ends, stop], 0)
            return tf.boolean_mask(following, ~fits), tf.boolean_mask(end, ~fits), firsts, ends

        is_there = row_splits[1:] > row_splits[:-1]
        start, end = (tf.boolean_mask(of, is_there) for of in (row_splits[:-1], row_splits[1:]))
        none = tf.zeros([0], tf.int32)
        *_, firsts, ends = tf.while_loop(
            lambda start, *_: tf.size(start) > 0,
            step,
            (start, end, none, none),
            shape_invariants=(tf.TensorShape([None]),) * 4,
        )
        order = tf.argsort(firsts)  # no two windows begin with the same word
        return tf.gather(firsts, order), tf.gather(ends, order)


def _first_owned(
    splits: tf.Tensor, firsts: tf.Tensor, ends: tf.Tensor, texts: tf.Tensor
) -> tf.Tensor:
    """The first word that each window owns: beyond the middle of what it shares with the last.

    Args:
        splits: int32 [W + 1], of the pieces of words.
        firsts: int32 [R], each window's first word.
        ends: int32 [R], the word after its last.
        texts: int32 [W], the text of each word.

    Returns:
        int32 [R].
    """
    text = tf.gather(texts, firsts)
    goes_on = text == shift_right(text, -1)
    middle = (tf.gather(splits, firsts) + tf.gather(splits, shift_right(ends, 0))) // 2
    shared = tf.searchsorted(splits, middle, side="right") - 1
    return tf.where(goes_on, tf.maximum(firsts, shared), firsts)

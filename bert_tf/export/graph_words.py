"""Takes texts, returns the words that a tagger sees in them, in the graph; next: word_rows.

What ``tag_predictor.word_spans`` finds, from a table of code points that is made of what it asks of
each character.

Axes: B texts, N code points of all texts, W words of all texts.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from bert_tf import code_points
from bert_tf.graph_tokenization import places_in_pages
from bert_tf.tasks.tag_predictor import is_mark

_OTHER, _SPACE, _MARK = range(3)  # kinds of code points


class FoundWords(NamedTuple):
    """The words of texts.

    Attributes:
        characters: int32 [N], the code points of all texts.
        origins: int32 [W], where the text of each word begins among them.
        starts: int32 [W], where each word does.
        ends: int32 [W], the place after its last.
        texts: int32 [W], the text that it is in, ascending.
        row_splits: int32 [B + 1]; text i has the words ``row_splits[i]`` to
            ``row_splits[i + 1] - 1``.
    """

    characters: tf.Tensor
    origins: tf.Tensor
    starts: tf.Tensor
    ends: tf.Tensor
    texts: tf.Tensor
    row_splits: tf.Tensor

    def strings(self, starts: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
        """The runs of characters from ``starts`` to before ``ends``, int32 [n] each: string [n]."""
        with tf.device("CPU:0"):
            places = tf.ragged.range(starts, ends)
            runs = places.with_values(tf.gather(self.characters, places.values))
            return tf.strings.unicode_encode(runs, "UTF-8")


class GraphWords:
    """Finds the words of texts."""

    def __init__(self) -> None:
        page_starts, kinds = code_points.in_pages(_kinds())
        with tf.device("CPU:0"), tf.init_scope():
            self._page_starts = tf.constant(page_starts)
            self._kinds = tf.constant(kinds)

    def find(self, strings: tf.Tensor) -> FoundWords:
        """The words of texts, of which bytes that are not UTF-8 are left out: string [B]."""
        with tf.device("CPU:0"):
            decoded = tf.strings.unicode_decode(strings, "UTF-8", errors="ignore")
            characters = decoded.values  # [N]
            texts = tf.cast(decoded.value_rowids(), tf.int32)  # [N], the text of each
            kinds = tf.gather(self._kinds, places_in_pages(self._page_starts, characters))
            is_space = kinds == _SPACE
            # A number that changes at each space and text, for a space and what comes after it.
            chunks = tf.cumsum(tf.cast(is_space, tf.int32)) + texts  # [N]
            size, num_texts = tf.size(characters), tf.size(strings)
            place = tf.range(size)
            is_other = kinds == _OTHER
            # The word of a chunk goes from the first to the last character that is no mark.
            first = tf.math.unsorted_segment_min(
                tf.where(is_other, place, size), chunks, size + num_texts
            )
            last = tf.math.unsorted_segment_max(
                tf.where(is_other, place, -1), chunks, size + num_texts
            )
            first, last = tf.gather(first, chunks), tf.gather(last, chunks)  # [N]
            is_alone = ~is_space & ((place < first) | (place > last))
            starts = _where(is_alone | (place == first))  # [W]
            texts = tf.gather(texts, starts)
            return FoundWords(
                characters=characters,
                origins=tf.gather(tf.cast(decoded.row_starts(), tf.int32), texts),
                starts=starts,
                ends=_where(is_alone | (place == last)) + 1,
                texts=texts,
                row_splits=tf.searchsorted(texts, tf.range(num_texts + 1)),
            )


def _kinds() -> np.ndarray:
    """The kind of each code point, int32 [code_points.COUNT]."""
    kinds = np.full([code_points.COUNT], _OTHER, np.int32)
    for number in range(code_points.COUNT):
        character = chr(number)
        if character.isspace():  # as \s has it
            kinds[number] = _SPACE
        elif is_mark(character):
            kinds[number] = _MARK
    return kinds


def _where(condition: tf.Tensor) -> tf.Tensor:
    """The places where a condition, bool [n], holds: int32 [number of them]."""
    return tf.cast(tf.where(condition)[:, 0], tf.int32)

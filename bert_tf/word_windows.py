"""Takes the word pieces of words, returns model inputs that lose no word; next: input_pipeline.

A sentence is one row, ``[CLS] pieces [SEP]``. One that is too long becomes several rows, cut at
word boundaries, each overlapping its neighbours by about half; each word is read off the row in
which it has more room on both sides. On request, a row is filled up with the words around its
sentence in the document, half of them before it and half after, as far as there are any (the
"maximal document context" of Devlin et al. 2019, arXiv 1810.04805, section 5.3).

So each row shows a run of words and *owns* a shorter one; each word is owned by one row, and in the
order of the rows the owned words are the words in their order.

Axes: N = words, R = rows.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from bert_tf.errors import InputError
from bert_tf.packing import PackedTexts, RaggedIds, pack_texts, runs


@dataclasses.dataclass(frozen=True)
class WordWindows:
    """Model inputs for words.

    Attributes:
        texts: R rows.
        word_starts: of each row, the position of the first piece of each word that it owns.
        is_continued: bool [R], whether the sentence of a row began in an earlier one.
        num_split: sentences that take more than one row.
    """

    texts: PackedTexts
    word_starts: RaggedIds
    is_continued: np.ndarray
    num_split: int


def pack_words(
    pieces: RaggedIds,
    sentence_splits: np.ndarray,
    documents: np.ndarray,
    max_seq_length: int,
    *,
    doc_context: bool,
    cls_id: int,
    sep_id: int,
    unk_id: int,
) -> WordWindows:
    """Packs sentences of words.

    Args:
        pieces: a row for each of the N words. A word of no pieces counts as ``[UNK]``; one that
            does not fit in a row loses its last ones.
        sentence_splits: int64 [number of sentences + 1]; sentence i has the words
            ``sentence_splits[i]`` to ``sentence_splits[i + 1] - 1``.
        documents: int64 [number of sentences], ascending: the document of each.
        max_seq_length: longest row, ``[CLS]`` and ``[SEP]`` included.
        doc_context: whether to fill rows up with the words around the sentence.
        cls_id: id of ``[CLS]``.
        sep_id: id of ``[SEP]``.
        unk_id: id of ``[UNK]``.

    Raises:
        InputError: if ``max_seq_length`` leaves no room for words.
    """
    room = room_for_words(max_seq_length)
    pieces = _with_1_to(room, pieces, unk_id)
    splits = pieces.row_splits
    shown, owned, continued = [], [], []
    num_split = 0
    firsts, lasts = _document_words(sentence_splits, documents)
    for sentence, (start, end) in enumerate(
        zip(sentence_splits[:-1].tolist(), sentence_splits[1:].tolist(), strict=True)
    ):
        windows = list(_windows(splits, start, end, room))
        num_split += len(windows) > 1
        for number, window in enumerate(windows):
            if doc_context and len(windows) == 1:
                window = _widened(splits, window, firsts[sentence], lasts[sentence], room)
            shown.append(window)
            continued.append(number > 0)
        owned += _shares(splits, windows)
    num_owned = np.diff([*owned, len(splits) - 1])
    kept = num_owned > 0  # between two very long words there may be a row that owns none
    windows_kept = np.array(shown, np.int64)[kept]
    row_splits = np.concatenate([[0], np.cumsum(num_owned[kept])])
    first_shown = np.repeat(windows_kept[:, 0], num_owned[kept])  # [N]
    starts = 1 + splits[:-1] - splits[first_shown]
    first_pieces, last_pieces = splits[windows_kept].T
    texts = runs(pieces.values, first_pieces, last_pieces - first_pieces)
    return WordWindows(
        pack_texts(texts, None, max_seq_length, cls_id, sep_id),
        RaggedIds(starts.astype(np.int32), row_splits),
        np.array(continued)[kept],
        num_split,
    )


def room_for_words(max_seq_length: int) -> int:
    """The pieces of words that a row has room for.

    Raises:
        InputError: if that is too few.
    """
    room = max_seq_length - 2
    if room < 2:
        raise InputError(f"max_seq_length {max_seq_length} is too small for words: give 4 or more")
    return room


def _with_1_to(most: int, pieces: RaggedIds, unk_id: int) -> RaggedIds:
    """The pieces with at least one and at most so many in a row."""
    padded = np.append(pieces.values, np.int32(unk_id))
    starts = np.where(pieces.lengths > 0, pieces.row_splits[:-1], len(pieces.values))
    return runs(padded, starts, np.clip(pieces.lengths, 1, most))


def _document_words(
    sentence_splits: np.ndarray, documents: np.ndarray
) -> tuple[list[int], list[int]]:
    """For each sentence, its document's first word and the word after its last."""
    first = np.searchsorted(documents, documents, side="left")
    last = np.searchsorted(documents, documents, side="right")
    return sentence_splits[first].tolist(), sentence_splits[last].tolist()


def _windows(splits: np.ndarray, start: int, end: int, room: int) -> Iterator[tuple[int, int]]:
    """The runs of words that show a sentence: one, or several that overlap by about half."""
    while splits[end] - splits[start] > room:
        stop = int(np.searchsorted(splits, splits[start] + room, side="right")) - 1
        yield start, stop
        later = int(np.searchsorted(splits, splits[start] + room // 2, side="left"))
        # The last window is as full as the others.
        earliest = int(np.searchsorted(splits, splits[end] - room, side="left"))
        start = max(start + 1, min(later, earliest, stop))
    yield start, end


def _widened(
    splits: np.ndarray, window: tuple[int, int], first: int, last: int, room: int
) -> tuple[int, int]:
    """A window with as many of the words around it as there is room for.

    Args:
        splits: of the pieces of words.
        window: words.
        first: the first word that may be shown.
        last: the word after the last that may be shown.
        room: pieces of a row.
    """
    start, end = window
    spare = room - (splits[end] - splits[start])
    before, after = splits[start] - splits[first], splits[last] - splits[end]
    take = min(before, max(spare // 2, spare - after))
    start = int(np.searchsorted(splits, splits[start] - take, side="left"))
    end = int(np.searchsorted(splits, splits[start] + room, side="right")) - 1
    return start, min(end, last)


def _shares(splits: np.ndarray, windows: list[tuple[int, int]]) -> list[int]:
    """The first word that each window owns: beyond the middle of what it shares with the last."""
    firsts = [windows[0][0]]
    for (_, end), (start, _) in itertools.pairwise(windows):
        middle = (splits[start] + splits[end]) // 2
        firsts.append(max(start, int(np.searchsorted(splits, middle, side="right")) - 1))
    return firsts

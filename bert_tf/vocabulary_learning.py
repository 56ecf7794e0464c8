"""Takes text files, returns a vocabulary of word pieces learned from them; next: corpus.

The words are those of this project's tokenizer. The pieces are found from the top down: of all
beginnings of words (``play``) and of their remainders (``##ing``), those that occur often enough
are kept, the longest first; a kept piece uses up its occurrences, so that what begins like it is
kept only for other words. Remainders start anywhere at first, and in later rounds only where the
pieces of the round before end. This is the method that TensorFlow Text's guide to its
WordPiece learner describes; the learner itself (2.20) uses up occurrences of pieces that it does
not keep too, so that it finds no beginning that is not a whole word.

Memory: the distinct chunks of text between white space, with their counts, and then about 125
bytes per character of the distinct words.

Axes: W = distinct words, P = their characters end to end, G = pieces of one length.
"""

import collections
import dataclasses
import logging
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tqdm

from bert_tf import run_folder, text_files
from bert_tf.errors import InputError
from bert_tf.output_file import check_output
from bert_tf.tokenization import (
    CONTINUATION,
    MAX_WORD_LENGTH,
    UNKNOWN,
    FullTokenizer,
    Vocabulary,
    Words,
)

logger = logging.getLogger(__name__)

_ROUNDS = 4  # after which the pieces hardly change
_MIN_PIECE_COUNT = 2  # what occurs once teaches nothing
_CODE_POINTS = 0x110000
# The threshold is searched until this many pieces too many at most are to be left out.
_SLACK = 0.01


class VocabularyReport(NamedTuple):
    """What a vocabulary is like on the text it was learned from.

    Attributes:
        num_pieces: lines of the file.
        num_characters: of them, single characters, with and without ##.
        num_words: words of the text.
        num_distinct_words: different ones.
        pieces_per_word: on average; [UNK] is one.
        unknown_share: share of the words that become [UNK].
    """

    num_pieces: int
    num_characters: int
    num_words: int
    num_distinct_words: int
    pieces_per_word: float
    unknown_share: float

    def __str__(self) -> str:
        return (
            f"{self.num_pieces:,} pieces, of them {self.num_characters:,} single characters; on "
            f"the text's {self.num_words:,} words ({self.num_distinct_words:,} different): "
            f"{self.pieces_per_word:.4f} pieces per word, {self.unknown_share:.4%} of the words "
            "are [UNK]"
        )


def build_vocabulary(
    input_file: str,
    output_file: str,
    *,
    vocab_size: int = 30522,
    do_lower_case: bool = True,
    num_unused_tokens: int = 99,
    min_word_count: int = 2,
    min_character_count: int = 10,
    overwrite: bool = False,
) -> VocabularyReport:
    """Learns a vocabulary and writes it.

    Args:
        input_file: text files, plain or gzip: names or globs, separated by commas.
        output_file: the vocab.txt to write.
        vocab_size: pieces in it; fewer if the text does not have so many.
        do_lower_case: whether to lower-case and strip accents, as the model's tokenizer will.
        num_unused_tokens: entries that a model may give a meaning later.
        min_word_count: words that occur less often are not learned from.
        min_character_count: characters that occur less often get no piece, and words with them
            become [UNK].
        overwrite: whether to replace a file that is there.

    Returns:
        What the vocabulary is like on the text.

    Raises:
        InputError: if there is no text, too small a vocabulary for its characters, or the output
            cannot be written; nothing is written then.
    """
    paths = text_files.find_files(input_file, "--input_file")
    path = pathlib.Path(output_file)
    check_output(path, paths, overwrite=overwrite, example="vocab.txt")
    special = special_pieces(num_unused_tokens)
    word_counts = count_words(paths, do_lower_case)
    if not word_counts:
        raise InputError(f"--input_file {input_file}: there are no words in it; give other text")
    logger.info(
        "learning from %s words, %s different",
        f"{sum(word_counts.values()):,}",
        f"{len(word_counts):,}",
    )
    characters = frequent_characters(word_counts, min_character_count)
    learnable = {word: n for word, n in word_counts.items() if n >= min_word_count}
    pieces = learn_pieces(learnable, characters, vocab_size - len(special), do_lower_case)
    if len(special) + len(pieces) < vocab_size:
        logger.warning(
            "the text gives %s pieces only, not --vocab_size=%s: it needs no other one twice",
            f"{len(special) + len(pieces):,}",
            f"{vocab_size:,}",
        )
    run_folder.write_text(path, "".join(f"{piece}\n" for piece in [*special, *pieces]))
    return measure(Vocabulary(path), word_counts)


def special_pieces(num_unused_tokens: int) -> list[str]:
    """The entries that come first, in the order of the released vocabularies."""
    unused = [f"[unused{i}]" for i in range(num_unused_tokens)]
    return ["[PAD]", *unused, UNKNOWN, "[CLS]", "[SEP]", "[MASK]"]


def count_words(paths: Sequence[pathlib.Path], do_lower_case: bool) -> dict[str, int]:
    """The distinct words of text files and how often each occurs.

    The words are those that the tokenizer makes pieces of, sorted from the most frequent; words of
    the same count are in the order of their characters.
    """
    chunk_counts: collections.Counter[str] = collections.Counter()
    # What a compressed file will hold is not known before it is read.
    compressed = any(text_files.is_gzip(path) for path in paths)
    total = None if compressed else sum(path.stat().st_size for path in paths)
    with tqdm.tqdm(
        desc="counting words", total=total, unit="B", unit_scale=True, disable=None
    ) as progress:
        for path in paths:
            with text_files.open_bytes(path) as file:
                while line := file.readline(text_files.MAX_LINE_BYTES):
                    chunk_counts.update(Words.chunks(line.decode("utf-8", "ignore")))
                    progress.update(len(line))
    words = Words(do_lower_case)
    counts: collections.Counter[str] = collections.Counter()
    for chunk, count in chunk_counts.items():
        for word in words.split(chunk):
            counts[word] += count
    return dict(sorted(counts.items(), key=_most_frequent_first))


def frequent_characters(word_counts: Mapping[str, int], min_count: int) -> list[str]:
    """The characters of the words that occur often enough, sorted."""
    counts: collections.Counter[str] = collections.Counter()
    for word, count in word_counts.items():
        for character in word:
            counts[character] += count
    return sorted(character for character, count in counts.items() if count >= min_count)


def learn_pieces(
    word_counts: Mapping[str, int],
    characters: Sequence[str],
    num_pieces: int,
    do_lower_case: bool = True,
) -> list[str]:
    """Learns the word pieces of a vocabulary.

    Args:
        word_counts: how often each word occurs.
        characters: those that get a piece each, and one with ## unless they are always words of
            their own; words with others are not learned from.
        num_pieces: how many pieces are wanted.
        do_lower_case: of the tokenizer that made the words.

    Returns:
        The characters, sorted, and then the other pieces from the most frequent; ``num_pieces``
        in all, or fewer if no more are needed twice.

    Raises:
        InputError: if the characters alone are too many.
    """
    known = set(characters)
    continued = [CONTINUATION + c for c in sorted(known) if _continues_words(c, do_lower_case)]
    wanted = num_pieces - len(known) - len(continued)
    if wanted < 0:
        raise InputError(
            f"--vocab_size is too small by {-wanted}: the text's {len(known)} characters take "
            f"{len(known) + len(continued)} pieces, and {max(num_pieces, 0)} are left for them; "
            "give a greater --vocab_size, or a greater --min_character_count to leave out the "
            "rarest characters"
        )
    words = {
        word: count
        for word, count in sorted(word_counts.items(), key=_most_frequent_first)
        if len(word) <= MAX_WORD_LENGTH and known.issuperset(word)
    }
    learned: dict[str, int] = {}
    if words:
        learner = PieceLearner(words)
        learned = learner.pieces(learner.threshold(wanted))
    counts = dict.fromkeys(continued, 0) | learned
    longer = {p: n for p, n in counts.items() if len(p.removeprefix(CONTINUATION)) > 1}
    chosen = {p for p, _ in sorted(longer.items(), key=_most_frequent_first)[:wanted]}
    chosen.update(continued)
    rest = sorted(((p, counts[p]) for p in chosen), key=_most_frequent_first)
    return [*sorted(known), *(piece for piece, _ in rest)]


def measure(vocabulary: Vocabulary, word_counts: Mapping[str, int]) -> VocabularyReport:
    """Splits every word into pieces of a vocabulary, and counts them."""
    # The words are what the tokenizer made of text already; it leaves them as they are.
    ids, row_splits = FullTokenizer(vocabulary, do_lower_case=False).encode_batch(list(word_counts))
    counts = np.fromiter(word_counts.values(), np.int64, len(word_counts))
    unknown = ids[row_splits[:-1]] == vocabulary.unk_id
    num_words = int(counts.sum())
    return VocabularyReport(
        num_pieces=len(vocabulary),
        num_characters=sum(len(p.removeprefix(CONTINUATION)) == 1 for p in vocabulary.pieces),
        num_words=num_words,
        num_distinct_words=len(word_counts),
        pieces_per_word=float(counts @ np.diff(row_splits)) / num_words,
        unknown_share=float(counts @ unknown) / num_words,
    )


@dataclasses.dataclass(frozen=True)
class _Level:
    """The frequent pieces of one length, each a frequent shorter one and a character more.

    Attributes:
        parents: int64 [G], the shorter piece, by its number in the level before; for the first
            level 1 at the start of a word and 0 within.
        characters: int64 [G], code points.
        rest: int64 [G], occurrences that no longer kept piece uses up.
        kept: bool [G].
    """

    parents: np.ndarray
    characters: np.ndarray
    rest: np.ndarray
    kept: np.ndarray


class PieceLearner:
    """Finds the pieces of words, all words at once.

    Args:
        word_counts: how often each word occurs; at least one.
    """

    def __init__(self, word_counts: Mapping[str, int]) -> None:
        lengths = np.fromiter(map(len, word_counts), np.int64, len(word_counts))
        counts = np.fromiter(word_counts.values(), np.int64, len(word_counts))
        text = "".join(word_counts)
        ends = np.cumsum(lengths)
        self._characters = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.int64)
        self._word_starts = ends - lengths  # int64 [W]
        self._ends = np.repeat(ends, lengths)  # int64 [P], where a character's word ends
        self._counts = np.repeat(counts, lengths)  # int64 [P], how often its word occurs
        self._at_start = np.zeros(len(text), np.int64)  # [P], 1 where a word starts
        self._at_start[self._word_starts] = 1
        self._order = self._sorted_positions()  # int64 [P]
        self._ranked = np.sort(counts)[::-1]  # int64 [W]
        self._sizes: dict[int, int] = {}  # of the thresholds that were tried

    def pieces(self, threshold: int) -> dict[str, int]:
        """The pieces that are kept, and of each the occurrences that no longer one uses up.

        Args:
            threshold: how often a piece must occur.
        """
        return _names(self._levels(threshold))

    def threshold(self, wanted: int) -> int:
        """How often a piece must occur for there to be so many, or a few more.

        Args:
            wanted: how many pieces of more than one character.

        Returns:
            A threshold that gives so many, or the lowest if none does.
        """
        # As often as the word of that rank, because that gives about so many whole words.
        low = max(int(self._ranked[min(wanted, len(self._ranked) - 1)]), _MIN_PIECE_COUNT)
        high = low
        while self._size(low) < wanted and low > _MIN_PIECE_COUNT:
            low, high = max(low // 2, _MIN_PIECE_COUNT), low
        while self._size(high) >= wanted and high <= self._ranked[0]:
            low, high = high, 2 * high
        while high - low > 1 and self._size(low) > wanted * (1 + _SLACK):
            middle = (low + high) // 2
            if self._size(middle) >= wanted:
                low = middle
            else:
                high = middle
        return low

    def _size(self, threshold: int) -> int:
        """How many pieces of more than one character a threshold gives."""
        if threshold not in self._sizes:
            levels = self._levels(threshold)
            self._sizes[threshold] = sum(int(level.kept.sum()) for level in levels[1:])
            logger.info("pieces that occur %d times: %d", threshold, self._sizes[threshold])
        return self._sizes[threshold]

    def _sorted_positions(self) -> np.ndarray:
        """All positions, so that those of equal characters up to any length are neighbors.

        Those at the start of a word are apart from the others.

        Returns:
            int64 [P].
        """
        order = np.arange(len(self._characters))
        slots = order.copy()  # the part of the order that longer pieces tell apart
        groups = self._at_start  # which piece the characters so far are, [as slots]
        length = 0
        while len(slots):
            positions = order[slots]
            keys = groups * _CODE_POINTS + self._characters[positions + length]
            by_key = np.argsort(keys, kind="stable")
            positions, keys = positions[by_key], keys[by_key]
            order[slots] = positions
            groups = np.cumsum(_runs(keys))
            length += 1
            alive = (np.bincount(groups)[groups] > 1) & (positions + length < self._ends[positions])
            slots, groups = slots[alive], groups[alive]
        return order

    def _levels(self, threshold: int) -> list[_Level]:
        """The pieces of a threshold, by length."""
        starts = np.ones(len(self._characters), bool)
        for _ in range(_ROUNDS - 1):
            levels, deepest = self._count(threshold, starts)
            starts = self._match(levels, deepest)
        return self._count(threshold, starts)[0]

    def _count(self, threshold: int, starts: np.ndarray) -> tuple[list[_Level], np.ndarray]:
        """Counts the pieces that start at some positions, and chooses among them.

        A piece is no more frequent than what it begins with, so that only the frequent pieces of
        each length need be looked at for the next.

        Args:
            threshold: how often a piece must occur.
            starts: bool [P], whether pieces start there.

        Returns:
            levels: the frequent pieces.
            deepest: int64 [P], the longest frequent piece at each position, numbered through the
                levels, or -1.
        """
        weights = self._counts * starts
        deepest = np.full(len(self._characters), -1)
        positions = self._order  # where there may be a longer piece
        groups = self._at_start[positions]  # which piece the characters so far are, ascending
        found: list[tuple[np.ndarray, np.ndarray]] = []
        length = numbered = 0
        while len(positions):
            keys = groups * _CODE_POINTS + self._characters[positions + length]
            first = np.flatnonzero(_runs(keys))
            totals = np.add.reduceat(weights[positions], first)
            frequent = totals >= threshold
            sizes = np.diff(first, append=len(keys))
            positions = positions[np.repeat(frequent, sizes)]
            keys, totals = keys[first[frequent]], totals[frequent]
            groups = np.repeat(np.arange(len(keys)), sizes[frequent])
            deepest[positions] = numbered + groups
            found.append((keys, totals))
            numbered += len(keys)
            length += 1
            inside = positions + length < self._ends[positions]
            positions, groups = positions[inside], groups[inside]
        return _choose(found, threshold), deepest

    def _match(self, levels: Sequence[_Level], deepest: np.ndarray) -> np.ndarray:
        """Where pieces start when words are cut by the greedy longest match; bool [P].

        Args:
            levels: the pieces.
            deepest: int64 [P], as from ``_count``.
        """
        longest: list[np.ndarray] = []  # of what is kept at or before each piece, its length
        for length, level in enumerate(levels, 1):
            shorter = longest[-1][level.parents] if longest else np.ones(len(level.kept), np.int64)
            longest.append(np.where(level.kept, length, shorter))
        # A character is always a piece. The one at the end is for the number -1.
        lengths = np.concatenate([*longest, np.ones(1, np.int64)])[deepest]
        starts = np.zeros(len(self._characters), bool)
        places = self._word_starts
        while len(places):
            starts[places] = True
            following = places + lengths[places]
            places = following[following < self._ends[places]]
        return starts


def _runs(keys: np.ndarray) -> np.ndarray:
    """Where another value begins, bool [n]; ``keys`` is int64 [n], equal values side by side."""
    return np.diff(keys, prepend=-1) != 0


def _choose(found: Iterable[tuple[np.ndarray, np.ndarray]], threshold: int) -> list[_Level]:
    """Keeps pieces from the longest on, each using up its occurrences of what it begins with.

    Args:
        found: of each length, keys and totals, int64 [G].
        threshold: how often a piece must occur.
    """
    levels: list[_Level] = []
    used = np.zeros(0, np.int64)  # of each piece of this length, by longer ones
    counted = list(found)
    for index in reversed(range(len(counted))):
        keys, totals = counted[index]
        used = np.pad(used, (0, len(keys) - len(used)))
        kept = totals - used >= threshold
        parents, characters = np.divmod(keys, _CODE_POINTS)
        levels.append(_Level(parents, characters, totals - used, kept))
        # All occurrences of a kept piece are used up, by itself or by longer ones.
        used = np.bincount(parents, np.where(kept, totals, used)).astype(np.int64)
    return levels[::-1]


def _names(levels: Sequence[_Level]) -> dict[str, int]:
    """The kept pieces and their occurrences."""
    pieces: dict[str, int] = {}
    shorter = [CONTINUATION, ""]
    for level in levels:
        names = [
            shorter[parent] + chr(character)
            for parent, character in zip(level.parents, level.characters, strict=True)
        ]
        pieces |= {
            name: int(count)
            for name, count, kept in zip(names, level.rest, level.kept, strict=True)
            if kept
        }
        shorter = names
    return pieces


def _most_frequent_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _continues_words(character: str, do_lower_case: bool) -> bool:
    """Whether a character can follow another in a word, which punctuation, for one, cannot."""
    return len(Words(do_lower_case).split("a" + character)) == 1

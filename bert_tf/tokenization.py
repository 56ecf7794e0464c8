"""Takes text, returns word pieces, their ids and their places in it; next: graph_tokenization.

The rules are those of the original's tokenization.py, step by step in `FullTokenizer`'s helpers.
A text is first cut at white space, and what a piece of text between white space becomes depends
on nothing outside it; so the results are kept by such chunks, and running text, where few chunks
are new, costs little more than `str.split()`.
"""

import functools
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from bert_tf import code_points
from bert_tf.errors import InputError

MAX_WORD_LENGTH = 200  # characters; a longer word is [UNK] (max_input_chars_per_word)
CONTINUATION = "##"
UNKNOWN = "[UNK]"

# `str.split()` splits at these control characters, the original drops them before it splits.
_DROPPED_SEPARATORS = re.compile("[\x0b\x0c\x1c-\x1f\x85]+")
_CHUNKS = re.compile(r"(?:\S|[\x0b\x0c\x1c-\x1f\x85])+")
_CAPITAL_SIGMA, _FINAL_SIGMA = "Σ", "ς"

_CACHE_SIZE = 1 << 18  # entries; tens of MB at most, as long chunks and words are not kept
_ID_SIZE = np.dtype(np.int32).itemsize

# The ids of a text's pieces and the places that they begin and end at, as bytes of int32 arrays.
_Places = tuple[bytes, bytes, bytes]


class Vocabulary:
    """The word pieces of a vocab.txt: one a line, the id is the line's number, from 0.

    Attributes:
      path: the file it was read from.
      pieces: the pieces in the order of their ids.
      ids: piece -> id.
    """

    def __init__(self, vocab_file: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(vocab_file)
        self.pieces: list[str] = []
        self.ids: dict[str, int] = {}
        for line_number, line in enumerate(self._lines(), 1):
            # White space round a piece is stripped, as in the original; a piece that is nothing
            # else (multilingual vocabularies have such) keeps its id and never matches.
            piece = line.strip() or line
            if not piece:
                raise InputError(
                    f"{self.path}, line {line_number}: expected a word piece, the line is empty; "
                    "the line number is the piece's id, so remove no line of a released file"
                )
            if piece in self.ids:
                raise InputError(
                    f"{self.path}, line {line_number}: the piece {piece!r} is already on line "
                    f"{self.ids[piece] + 1}; each piece must be there once"
                )
            self.ids[piece] = len(self.pieces)
            self.pieces.append(piece)
        self.id_of(UNKNOWN)

    def _lines(self) -> list[str]:
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot read the vocabulary ({error.strerror}); "
                "expected a vocab.txt with one word piece a line"
            ) from error
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line_number = content.count(b"\n", 0, error.start) + 1
            raise InputError(
                f"{self.path}, line {line_number}: byte {content[error.start]:#04x} is not UTF-8; "
                "the vocabulary must be a text file in UTF-8"
            ) from error
        if not text:
            raise InputError(f"{self.path}: the vocabulary is empty; expected one piece a line")
        # Not `splitlines()`: a piece may be one of the rarer line separators of Unicode.
        return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]

    def __len__(self) -> int:
        return len(self.pieces)

    def id_of(self, piece: str) -> int:
        """The id of a piece that must be there."""
        try:
            return self.ids[piece]
        except KeyError:
            raise InputError(
                f"{self.path}: the vocabulary has no piece {piece!r} (it has {len(self)} others); "
                "use the vocab.txt that came with the checkpoint"
            ) from None

    def piece_of(self, piece_id: int) -> str:
        """The piece with an id that must be there."""
        if not 0 <= piece_id < len(self):
            raise InputError(
                f"{self.path}: no piece has the id {piece_id}; "
                f"the vocabulary's ids are 0 to {len(self) - 1}"
            )
        return self.pieces[piece_id]

    @property
    def sha256(self) -> str:
        """A checksum of the pieces, the same whatever the file's line ends."""
        return hashlib.sha256("\n".join(self.pieces).encode()).hexdigest()

    @property
    def unk_id(self) -> int:
        """The id of [UNK], which stands for a word that no pieces make up."""
        return self.ids[UNKNOWN]

    @property
    def pad_id(self) -> int:
        """The id of [PAD]."""
        return self.id_of("[PAD]")

    @property
    def cls_id(self) -> int:
        """The id of [CLS]."""
        return self.id_of("[CLS]")

    @property
    def sep_id(self) -> int:
        """The id of [SEP]."""
        return self.id_of("[SEP]")

    @property
    def mask_id(self) -> int:
        """The id of [MASK]."""
        return self.id_of("[MASK]")


# What the table says of printable ASCII, several times faster than looking up each character.
_ASCII_WORDS = re.compile(r"[0-9A-Za-z]+|[^0-9A-Za-z ]").findall


class _Replacements(dict[int, str]):
    """Code point -> what it becomes, filled from the table as code points turn up."""

    def __init__(self, do_lower_case: bool) -> None:
        super().__init__()
        self._do_lower_case = do_lower_case
        self._isolated = code_points.ISOLATED_LOWER if do_lower_case else code_points.ISOLATED

    def __missing__(self, code_point: int) -> str:
        table = code_points.code_points()
        replacement = table.replacement_of(code_point, self._do_lower_case)
        if table.properties_of(code_point) & self._isolated:
            replacement = f" {replacement} "
        self[code_point] = replacement
        return replacement


class Words:
    """Text -> words: steps 2 to 6 of the original (clean, set apart, split, lower-case, strip).

    What `chunks` gives may be split one by one, each distinct chunk once.
    """

    def __init__(self, do_lower_case: bool) -> None:
        table = code_points.code_points()
        self._do_lower_case = do_lower_case
        self._properties = functools.cache(table.properties_of)
        self._replacements = _Replacements(do_lower_case)
        self._mark_classes = {
            chr(mark): int(mark_class)
            for mark, mark_class in zip(table.marks, table.mark_classes, strict=True)
        }

    @staticmethod
    def chunks(text: str) -> list[str]:
        """A text cut at white space; the words of the chunks are the words of the text."""
        if not text.isprintable():  # else there is no control character in it
            text = _DROPPED_SEPARATORS.sub("", text)
        return text.split()

    def split(self, text: str) -> list[str]:
        """The words of a text."""
        if text.isascii() and text.isprintable():  # letters, digits, punctuation and spaces only
            return _ASCII_WORDS(text.lower() if self._do_lower_case else text)
        text = self._resolve_sigmas(text)
        normalized = text.translate(self._replacements)
        if not self._mark_classes.keys().isdisjoint(normalized):
            normalized = "".join(self._expand(text)[0])
        return normalized.split()

    def split_with_sources(self, text: str) -> Iterator[tuple[str, list[int]]]:
        """The words of a text, each with the indices in the text that its characters come from."""
        chars, sources = self._expand(self._resolve_sigmas(text))
        for is_space, group in itertools.groupby(zip(chars, sources, strict=True), _is_space):
            if not is_space:
                word_chars, word_sources = zip(*group, strict=True)
                yield "".join(word_chars), list(word_sources)

    def ends(self, text: str) -> list[int]:
        """For each character, where its source ends: after the marks that were stripped off it."""
        ends = list(range(1, len(text) + 1))
        base = None  # the last character of which something is left
        for index, char in enumerate(text):
            if self._replacements[ord(char)]:
                base = index
            elif base is not None and self._properties(ord(char)) & code_points.STRIPPED:
                ends[base] = index + 1
        return ends

    def _resolve_sigmas(self, text: str) -> str:
        """Lower-cases the capital sigmas that end a word, for which the table cannot tell.

        A sigma is final if, case-ignorable characters aside, the character before it is cased
        and the one after it is not (Unicode, table 3-17, as in `str.lower()`).
        """
        if not self._do_lower_case or _CAPITAL_SIGMA not in text:
            return text
        properties = [self._properties(ord(char)) for char in text]
        skipped = code_points.DROPPED | code_points.CASE_IGNORABLE
        visible = [index for index, bits in enumerate(properties) if not bits & skipped]
        cased = [False, *(bool(properties[i] & code_points.CASED) for i in visible), False]
        chars = list(text)
        for place, index in enumerate(visible, 1):
            if chars[index] == _CAPITAL_SIGMA and cased[place - 1] and not cased[place + 1]:
                chars[index] = _FINAL_SIGMA
        return "".join(chars)

    def _expand(self, text: str) -> tuple[list[str], list[int]]:
        """What `str.translate` gives, with the index each character comes from, marks in order.

        Decomposition sorts each run of marks by their canonical combining class. Nearly all
        marks are then stripped, so the order of the few that are not is all that shows.
        """
        chars: list[str] = []
        sources: list[int] = []
        keys: list[tuple[int, int]] = []  # (run, combining class)
        run = 0
        for index, char in enumerate(text):
            if self._properties(ord(char)) & code_points.STRIPPED_STARTER:
                run += 1
            for replacement in self._replacements[ord(char)]:
                mark_class = self._mark_classes.get(replacement, 0)
                run += mark_class == 0
                chars.append(replacement)
                sources.append(index)
                keys.append((run, mark_class))
        if self._do_lower_case:
            order = sorted(range(len(chars)), key=keys.__getitem__)
            chars, sources = [chars[i] for i in order], [sources[i] for i in order]
        return chars, sources


def _is_space(char_and_source: tuple[str, int]) -> bool:
    return char_and_source[0] == " "


class _WordPieces(dict[str, bytes]):
    """Word -> ids of its pieces: step 7 of the original, the greedy longest match.

    Ids are kept as the bytes of an int32 array, so that to put them together is to copy memory.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        ids = np.arange(len(vocabulary), dtype=np.int32)
        self._first = dict(zip(vocabulary.pieces, map(np.int32.tobytes, ids), strict=True))
        self._continued = {
            piece.removeprefix(CONTINUATION): piece_id
            for piece, piece_id in self._first.items()
            if piece.startswith(CONTINUATION)
        }
        self._unknown = self._first[UNKNOWN]
        self._longest = max(map(len, vocabulary.pieces))
        # A piece that is a whole word is its own longest match.
        whole = (
            (piece, ids) for piece, ids in self._first.items() if len(piece) <= MAX_WORD_LENGTH
        )
        self.update(whole)

    def __missing__(self, word: str) -> bytes:
        if len(word) > MAX_WORD_LENGTH:
            return self._unknown
        if len(self) >= _CACHE_SIZE:
            self.clear()
        self[word] = ids = self._match(word)
        return ids

    def _match(self, word: str) -> bytes:
        ids: list[bytes] = []
        start, pieces = 0, self._first
        while start < len(word):
            for end in range(min(len(word), start + self._longest), start, -1):
                piece_id = pieces.get(word[start:end])
                if piece_id is not None:
                    break
            else:
                return self._unknown
            ids.append(piece_id)
            start, pieces = end, self._continued
        return b"".join(ids)


class _Chunks(dict[str, bytes]):
    """Text between white space -> ids of its pieces, as bytes like those of `_WordPieces`."""

    def __init__(self, words: Words, word_pieces: _WordPieces) -> None:
        super().__init__()
        self._words_of = words.split
        self._ids_of = word_pieces.__getitem__

    def __missing__(self, chunk: str) -> bytes:
        ids = b"".join(map(self._ids_of, self._words_of(chunk)))
        if len(chunk) <= MAX_WORD_LENGTH:
            if len(self) >= _CACHE_SIZE:
                self.clear()
            self[chunk] = ids
        return ids


class _ChunkPlaces(dict[str, _Places]):
    """Text between white space -> ids of its pieces, and where in it they are."""

    def __init__(self, words: Words, word_pieces: _WordPieces, vocabulary: Vocabulary) -> None:
        super().__init__()
        self._words = words
        self._word_pieces = word_pieces
        self._unknown = vocabulary.unk_id
        self._lengths = [len(piece) for piece in vocabulary.pieces]

    def __missing__(self, chunk: str) -> _Places:
        pieces = np.array(list(self._pieces(chunk)), np.int32).reshape(-1, 3)
        ids, starts, ends = (column.tobytes() for column in pieces.T)
        if len(chunk) <= MAX_WORD_LENGTH:
            if len(self) >= _CACHE_SIZE:
                self.clear()
            self[chunk] = ids, starts, ends
        return ids, starts, ends

    def _pieces(self, text: str) -> Iterator[tuple[int, int, int]]:
        """(id, start, end) of each piece."""
        ends = self._words.ends(text)
        for word, sources in self._words.split_with_sources(text):
            start = 0
            for piece_id in _ids(self._word_pieces[word]).tolist():
                if piece_id == self._unknown:
                    length = len(word)
                else:
                    length = self._lengths[piece_id] - (len(CONTINUATION) if start else 0)
                of_piece = sources[start : start + length]
                yield piece_id, min(of_piece), max(ends[source] for source in of_piece)
                start += length


class FullTokenizer:
    """Text -> word pieces, equal to the original's FullTokenizer on every string.

    Text is `str`, or `bytes` of UTF-8 of which invalid parts are ignored; offsets are then those
    in the decoded text.

    Attributes:
      vocabulary: the `Vocabulary`.
      vocab, inv_vocab: piece -> id and id -> piece, under the original's names.
    """

    def __init__(
        self, vocab_file: str | os.PathLike[str] | Vocabulary, do_lower_case: bool = True
    ) -> None:
        """Reads the vocabulary, unless it is given as one that was already read."""
        self.vocabulary: Vocabulary = (
            vocab_file if isinstance(vocab_file, Vocabulary) else Vocabulary(vocab_file)
        )
        self.do_lower_case = do_lower_case
        self.vocab = self.vocabulary.ids
        self.inv_vocab = dict(enumerate(self.vocabulary.pieces))
        self._words = Words(do_lower_case)
        self._word_pieces = _WordPieces(self.vocabulary)
        self._chunks = _Chunks(self._words, self._word_pieces)
        self._places = _ChunkPlaces(self._words, self._word_pieces, self.vocabulary)

    def tokenize(self, text: str | bytes) -> list[str]:
        """The word pieces of a text."""
        pieces = self.vocabulary.pieces
        return [pieces[piece_id] for piece_id in _ids(self._encode(text))]

    def tokenize_with_offsets(self, text: str | bytes) -> list[tuple[str, int, int]]:
        """The word pieces of a text, each with the place in the text as given: (piece, start, end).

        `text[start:end]` goes from the first to the last character that the piece was made of.
        Marks that were stripped off the last one are in it (the acute of a decomposed é), so that
        the slice is what a reader sees; removed control characters are only where they lie
        within. [UNK] has its whole word. If one character gives several pieces (Hangul syllables
        are decomposed), each of them has the place of that character.
        """
        pieces = self.vocabulary.pieces
        ids, starts, ends = (array.tolist() for array in self.encode_with_offsets(text))
        return list(zip((pieces[piece_id] for piece_id in ids), starts, ends, strict=True))

    def encode_with_offsets(self, text: str | bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `tokenize_with_offsets`, for long texts.

        Returns:
          The pieces' ids, the characters that they start at, and those after their ends, int32
          [num_pieces] each.
        """
        places, before = [], []
        for chunk in _CHUNKS.finditer(_to_text(text)):
            places.append(self._places[chunk.group()])
            before.append(chunk.start())
        ids, starts, ends = (_ids(b"".join(of[i] for of in places)) for i in range(3))
        sizes = np.fromiter((len(of_chunk) for of_chunk, _, _ in places), np.int64, len(places))
        moved = np.repeat(np.array(before, np.int32), sizes // _ID_SIZE)
        return ids, starts + moved, ends + moved

    def encode_batch(self, texts: Sequence[str | bytes]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of many texts at once.

        Returns:
          ids: int32 [num_pieces], the texts' ids one after the other.
          row_splits: int64 [num_texts + 1]; text i has ids[row_splits[i]:row_splits[i + 1]].
        """
        rows = list(map(self._encode, texts))
        row_sizes = np.fromiter(map(len, rows), np.int64, len(rows)) // _ID_SIZE
        return _ids(bytearray().join(rows)), np.concatenate([[0], np.cumsum(row_sizes)])

    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """The ids of pieces that are in the vocabulary."""
        return [self.vocabulary.id_of(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """The pieces of ids."""
        return [self.vocabulary.piece_of(piece_id) for piece_id in ids]

    def _encode(self, text: str | bytes) -> bytes:
        return b"".join(map(self._chunks.__getitem__, self._words.chunks(_to_text(text))))


def _ids(encoded: bytes | bytearray) -> np.ndarray:
    """The ids that were kept as bytes: int32 [num_pieces]."""
    return np.frombuffer(encoded, np.int32)


def _to_text(text: str | bytes) -> str:
    if isinstance(text, str):
        return text
    if isinstance(text, bytes):
        return text.decode("utf-8", "ignore")
    raise InputError(
        f"expected a text as str or bytes of UTF-8, not {type(text).__name__}: {text!r}"
    )

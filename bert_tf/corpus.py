"""Takes text files, returns their word pieces on disk, sentence by sentence; next: corpus_health.

A corpus is a folder of flat arrays that are mapped into memory and never read as a whole, so only
the disk bounds its size. The files' sections are tokenized one by one, each into a folder of its
own, by any number of processes; then they are put together in the order of the text.

Axes: T = number of word pieces, N = number of sentences, D = number of documents.
"""

import contextlib
import dataclasses
import json
import mmap
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np

from bert_tf.random_bits import random_bits
from bert_tf.text_files import SECTION_BYTES, Line, count_lines, read_section
from bert_tf.tokenization import FullTokenizer

# Text is tokenized this many lines or characters at a time.
_BATCH_LINES, _BATCH_CHARACTERS = 4096, 1 << 20
_COPIED_ITEMS = 1 << 20  # at a time
_SUMMARY = "summary.json"
PLACES = 3  # of each finding, so many are named
# What there is of a section beside its summary.
ARRAYS = ("tokens", "sentence_lengths", "document_starts", "hashes", "lines")


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a text file that one process tokenizes.

    Attributes:
        path: the file, not compressed.
        name: what to call it in a report.
        number: in the file, from 0.
        index: in the corpus, from 0.
    """

    path: pathlib.Path
    name: str
    number: int
    index: int


def sections_of(paths: Sequence[pathlib.Path], names: Sequence[str]) -> list[Section]:
    """The sections of all files, in the order of the text."""
    sections: list[Section] = []
    for path, name in zip(paths, names, strict=True):
        for number in range(-(-path.stat().st_size // SECTION_BYTES)):
            sections.append(Section(path, name, number, len(sections)))
    return sections


def tokenize_section(section: Section, tokenizer: FullTokenizer, folder: pathlib.Path) -> None:
    """Writes a section's arrays to a folder of its own, which appears when it is whole.

    Args:
        section: which.
        tokenizer: makes the pieces.
        folder: of all sections; a section that is there already is left as it is.
    """
    final = _section_folder(folder, section.index)
    if final.is_dir():
        return
    temporary = final.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    with section.path.open("rb") as text, contextlib.ExitStack() as files:
        arrays = {name: files.enter_context((temporary / name).open("wb")) for name in ARRAYS}
        summary = write_section(text, section.number, tokenizer, arrays)
    (temporary / _SUMMARY).write_text(json.dumps(summary))
    temporary.rename(final)


def write_section(
    text: IO[bytes], number: int, tokenizer: FullTokenizer, arrays: Mapping[str, IO[bytes]]
) -> dict[str, Any]:
    """Writes a section's arrays.

    Args:
        text: the file, seekable.
        number: which section of it.
        tokenizer: makes the pieces.
        arrays: for each of ARRAYS, where it goes.

    Returns:
        The number of ``tokens``, ``sentences``, ``documents`` and ``lines``; and as ``findings``
        what is odd about the lines, of each the ``count`` and the first few ``lines``.
    """
    writer = _SectionWriter(tokenizer, arrays)
    for line in read_section(text, number):
        writer.add(line)
    return writer.finish(count_lines(text, number))


class _SectionWriter:
    """The arrays of one section while it is read.

    Args:
        tokenizer: makes the pieces.
        files: where the arrays go.
    """

    def __init__(self, tokenizer: FullTokenizer, files: Mapping[str, IO[bytes]]) -> None:
        self._tokenizer = tokenizer
        self._files = files
        self._counts = dict.fromkeys(("tokens", "sentences", "documents"), 0)
        self._findings = {
            name: {"count": 0, "lines": []} for name in ("not_utf8", "empty_document", "no_pieces")
        }
        self._after_blank = True  # so a blank line now would end no document
        self._blanks = 0  # blank lines so far
        self._last_document = -1  # the number of blank lines before the last sentence
        self._texts: list[str] = []
        self._numbers: list[int] = []
        self._characters = 0

    def add(self, line: Line) -> None:
        """Takes the next line."""
        text, number, is_utf8 = line
        if not is_utf8:
            self._found("not_utf8", number)
        if not text and self._after_blank:
            self._found("empty_document", number)
        self._after_blank = not text
        self._texts.append(text)
        self._numbers.append(number)
        self._characters += len(text)
        if len(self._texts) >= _BATCH_LINES or self._characters >= _BATCH_CHARACTERS:
            self._tokenize()

    def finish(self, num_lines: int) -> dict[str, Any]:
        """Writes what is left, and returns the summary."""
        self._tokenize()
        return {**self._counts, "lines": num_lines, "findings": self._findings}

    def _found(self, name: str, number: int) -> None:
        finding: Any = self._findings[name]
        finding["count"] += 1
        if len(finding["lines"]) < PLACES:
            finding["lines"].append(number)

    def _tokenize(self) -> None:
        if not self._texts:
            return
        tokens, row_splits = self._tokenizer.encode_batch(self._texts)
        blank = np.fromiter(map(len, self._texts), np.int64, len(self._texts)) == 0
        numbers = np.array(self._numbers, np.uint32)
        lengths = np.diff(row_splits)
        for number in numbers[~blank & (lengths == 0)]:
            self._found("no_pieces", int(number))

        sentences = np.flatnonzero(lengths)
        documents = self._blanks + np.cumsum(blank)[sentences]
        starts = np.flatnonzero(np.diff(documents, prepend=self._last_document))
        arrays: dict[str, np.ndarray] = {
            "tokens": tokens.astype(piece_type(len(self._tokenizer.vocabulary))),
            "sentence_lengths": lengths[sentences].astype(np.int32),
            "document_starts": starts + self._counts["sentences"],
            "hashes": _hashes(tokens, row_splits[sentences]),
            "lines": numbers[sentences],
        }
        for name, array in arrays.items():
            self._files[name].write(array.tobytes())
        self._counts["tokens"] += len(tokens)
        self._counts["sentences"] += len(sentences)
        self._counts["documents"] += len(starts)
        self._blanks += int(np.count_nonzero(blank))
        if len(documents):
            self._last_document = int(documents[-1])
        self._texts, self._numbers, self._characters = [], [], 0


def piece_type(vocab_size: int) -> type:
    """The smallest type that holds every id."""
    return np.uint16 if vocab_size <= 1 << 16 else np.int32


def _hashes(tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """A hash of each sentence's tokens and their places, uint64 [N]; ``starts`` is int64 [N]."""
    if not len(starts):
        return np.zeros(0, np.uint64)
    within = np.arange(len(tokens)) - np.repeat(starts, np.diff(starts, append=len(tokens)))
    return np.add.reduceat(random_bits(tokens.astype(np.uint64), within), starts)


def join_sections(
    sections: Sequence[Section], vocab_size: int, source: pathlib.Path, target: pathlib.Path
) -> None:
    """Puts tokenized sections together into a corpus, and removes them.

    Args:
        sections: all of the corpus.
        vocab_size: number of word pieces.
        source: the folder that they are in.
        target: the folder of the corpus, which appears when it is whole.
    """
    temporary = target.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tokens = sentences = documents = 0
    joined = []
    with (
        (temporary / "tokens").open("wb") as tokens_file,
        (temporary / "sentence_starts").open("wb") as sentence_starts,
        (temporary / "document_starts").open("wb") as document_starts,
        (temporary / "hashes").open("wb") as hashes,
        (temporary / "lines").open("wb") as lines,
    ):
        for section in sections:
            folder = _section_folder(source, section.index)
            summary = json.loads((folder / _SUMMARY).read_text())
            firsts = {"first_sentence": sentences, "first_document": documents}
            joined.append({"name": section.name, **firsts, **summary})
            for name, file in (("tokens", tokens_file), ("hashes", hashes), ("lines", lines)):
                with (folder / name).open("rb") as part:
                    shutil.copyfileobj(part, file)
            for lengths in _blocks(folder / "sentence_lengths", np.int32):
                starts = tokens + np.cumsum(lengths) - lengths
                sentence_starts.write(starts.astype(np.int64).tobytes())
                tokens += int(lengths.sum())
            for starts in _blocks(folder / "document_starts", np.int64):
                document_starts.write((starts + sentences).tobytes())
            sentences += summary["sentences"]
            documents += summary["documents"]
        sentence_starts.write(np.int64(tokens).tobytes())
        document_starts.write(np.int64(sentences).tobytes())
    (temporary / _SUMMARY).write_text(
        json.dumps(
            {
                "vocab_size": vocab_size,
                "tokens": tokens,
                "sentences": sentences,
                "documents": documents,
                "sections": joined,
            }
        )
    )
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    shutil.rmtree(source, ignore_errors=True)  # there is none if all files are empty


def _section_folder(folder: pathlib.Path, index: int) -> pathlib.Path:
    return folder / f"{index:08}"


def _blocks(path: pathlib.Path, dtype: type) -> Iterator[np.ndarray]:
    """A file's array, a part at a time."""
    with path.open("rb") as file:
        while True:
            block: np.ndarray = np.fromfile(file, dtype, _COPIED_ITEMS)
            if not len(block):
                return
            yield block


class Corpus:
    """A corpus on disk.

    Args:
        folder: what ``join_sections`` made.

    Attributes:
        tokens: uint16 or int32 [T], every sentence's word pieces end to end.
        sentence_starts: int64 [N + 1], where in ``tokens`` each sentence starts; the last is T.
        document_starts: int64 [D + 1], each document's first sentence; the last is N.
        hashes: uint64 [N], equal for sentences of the same pieces.
        lines: uint32 [N], the line in its section that each sentence was.
        sections: of each section ``name``, ``first_sentence``, ``lines`` and so on.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        summary = json.loads((folder / _SUMMARY).read_text())
        self.sections: list[dict[str, Any]] = summary["sections"]
        self.vocab_size: int = summary["vocab_size"]
        self._maps: list[mmap.mmap] = []
        self.tokens = self._map(folder / "tokens", piece_type(self.vocab_size))
        self.sentence_starts = self._map(folder / "sentence_starts", np.int64)
        self.document_starts = self._map(folder / "document_starts", np.int64)
        self.hashes = self._map(folder / "hashes", np.uint64)
        self.lines = self._map(folder / "lines", np.uint32)
        self.num_tokens: int = summary["tokens"]
        self.num_sentences: int = summary["sentences"]
        self.num_documents: int = summary["documents"]

    def _map(self, path: pathlib.Path, dtype: type) -> np.ndarray:
        if not path.stat().st_size:
            return np.zeros(0, dtype)
        with path.open("rb") as file:
            self._maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return np.frombuffer(self._maps[-1], dtype)

    def release(self) -> None:
        """Gives back the memory of what was read; it is read anew when it is needed again."""
        for mapped in self._maps:
            mapped.madvise(mmap.MADV_DONTNEED)

    def document_of(self, sentences: np.ndarray) -> np.ndarray:
        """The documents of sentences, int64, same shape."""
        return np.searchsorted(self.document_starts, sentences, side="right") - 1

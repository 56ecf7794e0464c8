"""Takes the names of text files, returns their lines and documents; next: corpus.

A document is a run of lines between blank ones. Files are read in sections of SECTION_BYTES, each
by whichever process is free, so what belongs to a section must be told from the section alone: the
lines behind the first blank line that starts in it (in a file's first section, from its beginning),
up to and with the first blank line that starts at its end or later. A section in which no blank
line starts has none.
"""

import contextlib
import glob
import gzip
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import IO, Literal, NamedTuple, Protocol

from bert_tf.errors import InputError

SECTION_BYTES = 1 << 19
# A longer line is read as several, so that a file without line ends does not fill the memory.
MAX_LINE_BYTES = 1 << 22
GZIP_MAGIC = b"\x1f\x8b\x08"  # with the one method of compression that there is


def find_files(patterns: str, flag: str) -> list[pathlib.Path]:
    """The files that a flag names.

    Args:
        patterns: names or globs, separated by commas; the files of a glob are sorted.
        flag: what to call the patterns in an error, with its dashes.

    Raises:
        InputError: for a pattern without a file.
    """
    found: dict[pathlib.Path, None] = {}
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        paths = [pathlib.Path(name) for name in sorted(glob.glob(pattern))]  # noqa: PTH207
        # A name may hold what globs take for themselves.
        paths = paths or [pathlib.Path(pattern)]
        for path in paths:
            if path.is_dir():
                raise InputError(f"{flag} {path}: a folder; give its files, as in {path}/*")
            if not path.is_file():
                raise InputError(f"{flag}: no file is called {pattern}")
            found[path] = None
    if not found:
        raise InputError(f"{flag} is missing: give a file's name, or several, separated by commas")
    return list(found)


class ByteFile(Protocol):
    """What a file is opened with; its ``str`` is its name. Paths are such, and names in buckets."""

    def open(self, mode: Literal["rb"], /) -> IO[bytes]:
        """Opens it for reading."""


def is_gzip(path: ByteFile) -> bool:
    """Whether a file's content begins as gzip's does."""
    with _open(path) as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


@contextlib.contextmanager
def open_bytes(path: ByteFile) -> Iterator[IO[bytes]]:
    """Opens a plain or a gzip file.

    Raises:
        InputError: if it cannot be read, or its compressed data is damaged.
    """
    with contextlib.ExitStack() as files:
        file: IO[bytes] = files.enter_context(_open(path))
        if is_gzip(path):
            file = files.enter_context(gzip.GzipFile(fileobj=file))  # type: ignore[arg-type]
        try:
            yield file
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{path}: damaged gzip file: {error}") from error


def _open(path: ByteFile) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}") from error


class Line(NamedTuple):
    """A line of a section's documents.

    Attributes:
        text: without white space round it; empty for a blank line.
        number: counted from 1, from the first line that starts in the section.
        is_utf8: whether all its bytes were; if not, ``text`` is without those that were not.
    """

    text: str
    number: int
    is_utf8: bool


def read_section(file: IO[bytes], section: int) -> Iterator[Line]:
    """The lines of a section's documents, with the blank ones between and behind them.

    Args:
        file: the text, seekable.
        section: its number in the file, from 0.
    """
    start, end = section * SECTION_BYTES, (section + 1) * SECTION_BYTES
    _seek_line(file, start, end)
    position = file.tell()
    number, in_line, inside = 0, False, section == 0
    while content := _read_line(file):
        number += not in_line
        ends_line = content.endswith(b"\n")
        is_part = in_line or (not ends_line and len(content) >= MAX_LINE_BYTES)
        in_line = not ends_line
        line = _line(content, number)
        is_blank = not line.text and not is_part
        if inside and (line.text or is_blank):
            yield line
        if position >= end and (is_blank or not inside):
            return
        inside = inside or is_blank
        position += len(content)


def count_lines(file: IO[bytes], section: int) -> int:
    """How many lines start in a section: one behind each line end, but not behind the last byte."""
    size = file.seek(0, os.SEEK_END)
    start, end = section * SECTION_BYTES, min((section + 1) * SECTION_BYTES, size)
    file.seek(max(start - 1, 0))
    return int(section == 0) + file.read(end - 1 - file.tell()).count(b"\n")


def _seek_line(file: IO[bytes], start: int, end: int) -> None:
    """Goes to the first line that starts at a position or later, or to ``end`` or behind it."""
    file.seek(max(start - 1, 0))
    while start and file.tell() < end:
        content = _read_line(file)
        if not content or content.endswith(b"\n"):
            return


def _read_line(file: IO[bytes]) -> bytes:
    """The next line with its end, or its first MAX_LINE_BYTES, and what completes a character."""
    content = file.readline(MAX_LINE_BYTES)
    while MAX_LINE_BYTES <= len(content) < MAX_LINE_BYTES + 3 and not content.endswith(b"\n"):
        following = file.read(1)
        if not following or following[0] & 0xC0 != 0x80:  # no continuation byte of UTF-8
            file.seek(-len(following), os.SEEK_CUR)
            break
        content += following
    return content


def _line(content: bytes, number: int) -> Line:
    try:
        return Line(content.decode("utf-8").strip(), number, True)
    except UnicodeDecodeError:
        return Line(content.decode("utf-8", "ignore").strip(), number, False)

r"""Takes a TSV, CSV or JSONL file, returns its rows with their line numbers; next: tasks/.

The three formats, by the ending of the file's name:

* `.tsv`: fields between tabs. There is no quoting, as in the files of GLUE: a `"` is text.
* `.csv`: fields between commas, quoted as spreadsheets do it; a quoted field may hold newlines.
* `.jsonl`: one JSON object per line; its keys are the columns.

All are UTF-8, with or without a byte order mark. A line ends with `\n` or `\r\n` and with nothing
else: U+2028, U+0085 and form feeds, which `str.splitlines` breaks at, occur inside sentences.
A line with nothing in it is no row.
"""

import csv
import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterator
from typing import IO

from bert_tf.errors import InputError, did_you_mean

Column = str | int

_DELIMITERS = {".tsv": "\t", ".csv": ","}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One record of a table.

    Attributes:
        path: The file the record is in.
        line: The number of the line, from 1, where the record starts.
        values: Its fields in the order of the file; strings, in JSONL any JSON value.
        positions: From the name of a column to its place in `values`; None without a header.
        numbered: Whether a column may be given by its number. The keys of JSON have no order.
    """

    path: pathlib.Path
    line: int
    values: list[object]
    positions: dict[str, int] | None
    numbered: bool

    @property
    def where(self) -> str:
        """The place of the record as error messages name it, `file:line`."""
        return f"{self.path}:{self.line}"

    def field(self, column: Column) -> object:
        """The field of one column.

        Args:
            column: A name in the header or a key of JSONL, else the number of a column from 0
                (as an int or in digits, as a flag gives it).
        """
        if self.positions is not None and column in self.positions:
            return self.values[self.positions[column]]
        if self.numbered and str(column).isdecimal() and int(column) < len(self.values):
            return self.values[int(column)]
        raise InputError(f"{self.where}: {self._no_such_column(column)}")

    def text(self, column: Column) -> str:
        """The field of one column, which has to be a string. It may be empty."""
        value = self.field(column)
        if not isinstance(value, str):
            raise InputError(
                f"{self.where}: column {column!r} has to be a string, but is "
                f"{json.dumps(value)[:40]}."
            )
        return value

    def _no_such_column(self, column: Column) -> str:
        """What is wrong with a column that the row does not have, and which ones it has."""
        if self.positions is None:
            last = len(self.values) - 1
            return (
                f"there is no column {column!r}. The file is read as one without a header line, "
                f"so its columns go by number: 0 to {last}."
            )
        # Without the header it was taken for, the first line holds texts of any length.
        known = ", ".join(repr(name[:40]) for name in self.positions)
        if not self.numbered:
            source = "The keys of this line"
        else:
            source = f"The columns, 0 to {len(self.values) - 1}, are named by the first line: they"
        return (
            f"there is no column {column!r}{did_you_mean(column, self.positions)} "
            f"{source} are {known}."
        )


def read_table(
    path: str | pathlib.Path,
    *,
    has_header: bool = True,
    quoting: bool | None = None,
    skip_short_rows: bool = False,
) -> Iterator[Row]:
    """Reads a table row by row; what it holds in memory is one row.

    Args:
        path: A file that ends in .tsv, .csv or .jsonl.
        has_header: Whether the first line of a .tsv or .csv names the columns.
        quoting: Whether a `"` at the start of a field opens a quoted field; None for what is
            usual: yes in .csv, no in .tsv.
        skip_short_rows: Whether rows with too few columns are left out, with one warning in the
            log that counts them, and are not an error.

    Yields:
        The rows in the order of the file. All rows of a .tsv or .csv have the same number of
        columns; there is at least one row.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        rows = _json_rows(path)
    elif suffix in _DELIMITERS:
        quoted = suffix == ".csv" if quoting is None else quoting
        records = (_quoted_records if quoted else _plain_records)(path, _DELIMITERS[suffix])
        rows = _delimited_rows(path, records, has_header, skip_short_rows)
    else:
        raise InputError(
            f"{path}: the name of a table has to end in .tsv, .csv or .jsonl, which says how it is "
            f"to be read, but ends in {path.suffix!r}."
        )
    row = None
    for row in rows:
        yield row
    if row is None:
        raise InputError(f"{path}:1: expected at least one row of data, but there is none.")


def read_lines(path: str | pathlib.Path) -> Iterator[tuple[int, str]]:
    """Reads a UTF-8 text file line by line.

    Yields:
        The number of each line, from 1, and its text without the line's end.
    """
    for line, text in _raw_lines(pathlib.Path(path)):
        yield line, text.removesuffix("\n").removesuffix("\r")


def lines_of(file: IO[bytes], name: str) -> Iterator[tuple[int, str]]:
    """As ``read_lines``, from an open file that messages call ``name``."""
    for line, text in _decoded(file, name):
        yield line, text.removesuffix("\n").removesuffix("\r")


def _raw_lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a file with their ends."""
    try:
        with path.open("rb") as file:
            yield from _decoded(file, str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.") from error


def _decoded(file: IO[bytes], name: str) -> Iterator[tuple[int, str]]:
    # A binary file is cut at b"\n" only.
    for line, data in enumerate(file, start=1):
        marked = line == 1 and data.startswith(_BYTE_ORDER_MARK)
        start = len(_BYTE_ORDER_MARK) if marked else 0
        try:
            yield line, data[start:].decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}:{line}: byte {start + error.start} of the line (from 0) is "
                f"0x{data[start + error.start]:02x}, which is not UTF-8 there. "
                "Save the file as UTF-8."
            ) from error


def _plain_records(path: pathlib.Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The records of a file without quoting: one per line, cut at every delimiter."""
    width = None
    for line, text in read_lines(path):
        # A blank line is no row, but where there is only one column, it is an empty text.
        if text or width == 1:
            record = text.split(delimiter)
            width = len(record) if width is None else width
            yield line, record


def _quoted_records(path: pathlib.Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The records of a file whose fields may be quoted, each with the line where it starts."""
    # The csv module refuses fields over 128 KiB, which a document can be. Its limit is one for
    # the process and is looked at while a record is read.
    csv.field_size_limit(2**31 - 1)
    lines = (text for _, text in _raw_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{path}:{line}: the record that starts here is not valid CSV ({error}). "
                'A field with a quote, a delimiter or a newline in it is written "like ""this""".'
            ) from error
        if record is None:
            return
        if record:
            yield line, record


def _delimited_rows(
    path: pathlib.Path,
    records: Iterator[tuple[int, list[str]]],
    has_header: bool,
    skip_short_rows: bool,
) -> Iterator[Row]:
    """Gives the records their columns, and checks that each record has all of them."""
    positions = None
    width = None
    skipped: list[int] = []
    for line, record in records:
        if width is None:
            width, first_line = len(record), line
            if has_header:
                positions = {name: position for position, name in enumerate(record)}
                if len(positions) < width:
                    repeated = next(name for name in record if record.count(name) > 1)
                    raise InputError(
                        f"{path}:{line}: the header names column {repeated!r} more than once. "
                        "Give each column a name of its own."
                    )
                continue
        if len(record) < width and skip_short_rows:
            skipped.append(line)
            continue
        if len(record) != width:
            raise InputError(
                f"{path}:{line}: the row has {len(record)} columns, but line {first_line} has "
                f"{width}. Look for a delimiter or a line break inside a text, and for a missing "
                "field."
            )
        yield Row(path, line, list(record), positions, numbered=True)
    if skipped:
        _logger.warning(
            "%s: left out %d rows with fewer than %d columns; the first is line %d.",
            path,
            len(skipped),
            width,
            skipped[0],
        )


def _json_rows(path: pathlib.Path) -> Iterator[Row]:
    """The rows of a JSONL file."""
    for line, text in read_lines(path):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}:{line}: not JSON ({error.msg} at character {error.pos}). "
                "Each line of a .jsonl file is one JSON object."
            ) from error
        except (ValueError, RecursionError) as error:  # thousands of digits; deep nesting
            raise InputError(f"{path}:{line}: cannot be read as JSON: {error}") from error
        if not isinstance(record, dict):
            raise InputError(
                f"{path}:{line}: expected a JSON object such as {{"
                f'"text": …, "label": …}}, but this is {text.strip()[:40]}.'
            )
        if "\\u" in text:
            # An escape can spell half a surrogate pair, which no encoder takes afterwards.
            try:
                json.dumps(record, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"{path}:{line}: a string holds the lone surrogate "
                    f"\\u{ord(error.object[error.start]):04x}. Write both halves of the pair, or "
                    "the character itself."
                ) from error
        positions = {key: position for position, key in enumerate(record)}
        yield Row(path, line, list(record.values()), positions, numbered=False)

r"""Takes files of sentences whose words have tags, returns them, and writes tags; next: tasks/.

Three formats, by the ending of the file's name, each UTF-8 and one sentence after the other:

* `.conllu`: CoNLL-U (universaldependencies.org/format.html). The word is FORM. Multi-word tokens
  and empty nodes are no words. `# newdoc` begins a document.
* `.jsonl`: one JSON object a line, with `tokens` and `tags`, lists of strings. Objects in a row
  with the same `document` belong together; without that key each stands alone.
* any other but `.json`: columns between tabs, or between spaces where the first line has no tab,
  the word first and the tag last unless said otherwise; an empty line after each sentence. A line
  that begins with `-DOCSTART-` begins a document. A line that begins with `#` and has not the
  columns of the others is a comment.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bert_tf.errors import InputError
from bert_tf.text_tables import Row, read_lines, read_table

CONLLU_COLUMNS = (
    *("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc"),
)
_DOCUMENT = "-DOCSTART-"
_DELIMITERS = {"\t": "tabs", " ": "spaces"}
_WORD_ID = re.compile(r"\d+")
_OTHER_ID = re.compile(r"\d+[-.]\d+")


class Word(NamedTuple):
    """A word of a sentence.

    Attributes:
        text: may be empty.
        tag: as the file has it; empty if tags are not read.
        line: of the file, from 1.
    """

    text: str
    tag: str
    line: int


class Sentence(NamedTuple):
    """Words, and whether they are the first ones of a document."""

    words: list[Word]
    begins_document: bool


@dataclasses.dataclass(frozen=True)
class TaggedText:
    """The sentences of a file.

    Attributes:
        path: the file.
        sentences: the words of each, at least one.
        documents: int64 [number of sentences], the number of the document that each belongs to.
    """

    path: pathlib.Path
    sentences: list[list[Word]]
    documents: np.ndarray


def read_tagged_text(
    path: str | pathlib.Path, tag_column: str | None = None, *, with_tags: bool = True
) -> TaggedText:
    """Reads a file.

    Args:
        path: the file.
        tag_column: where the tag is: in columns a number from 0 (by default the last one), in
            CoNLL-U `upos` (by default) or another column by its name, in JSONL a key (`tags`).
        with_tags: whether to read tags. Without, the file need not have any.

    Raises:
        InputError: naming file and line of what is wrong.
    """
    path = pathlib.Path(path)
    if path.suffix == ".json":
        raise InputError(
            f"{path}: tagged text is columns, CoNLL-U (.conllu) or one JSON object a line "
            "(.jsonl); give it the ending of its format"
        )
    if path.suffix == ".jsonl":
        found = _json_sentences(path, tag_column or "tags", with_tags)
    elif path.suffix == ".conllu":
        column = _conllu_column(path, tag_column or "upos")
        found = _sentences(_conllu_lines(path), word=1, tag=column if with_tags else None)
    else:
        tag = _column_of_tag(path, tag_column) if with_tags else None
        found = _sentences(_column_lines(path), word=0, tag=tag)
    sentences = list(found)
    if not sentences:
        raise InputError(f"{path}: there are no words in it")
    return TaggedText(
        path,
        [sentence.words for sentence in sentences],
        np.cumsum([sentence.begins_document for sentence in sentences], dtype=np.int64) - 1,
    )


def with_predictions(path: str | pathlib.Path, tags: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a file, without their ends, with another tag beside each that it has.

    In columns it is a new last column, in CoNLL-U `Predicted=TAG` in the column misc, in JSONL the
    key `predicted_tags`. Everything else stays as it is.

    Args:
        path: as for ``read_tagged_text``.
        tags: of each sentence, of each word, in the order of the file.
    """
    path = pathlib.Path(path)
    if path.suffix == ".jsonl":
        for row, sentence_tags in zip(read_table(path), tags, strict=True):
            values = dict(zip(row.positions or (), row.values, strict=True))
            yield json.dumps({**values, "predicted_tags": list(sentence_tags)}, ensure_ascii=False)
        return
    is_conllu = path.suffix == ".conllu"
    remaining = (tag for sentence_tags in tags for tag in sentence_tags)
    for line in (_conllu_lines if is_conllu else _column_lines)(path):
        if not line.columns:
            yield line.text
        elif is_conllu:
            *others, misc = line.columns
            kept = [] if misc == "_" else [misc]
            yield "\t".join([*others, "|".join([*kept, f"Predicted={next(remaining)}"])])
        else:
            yield line.text.rstrip(" ") + line.delimiter + next(remaining)


class _Line(NamedTuple):
    """A line of a file that has a line for each word.

    Attributes:
        where: file and number, for messages.
        number: from 1.
        text: without its end.
        columns: of a word; none of other lines.
        delimiter: what stands between columns.
        ends_sentence: whether the words before it are a sentence.
        begins_document: whether the words after it are a document's first.
    """

    where: str
    number: int
    text: str
    columns: Sequence[str] = ()
    delimiter: str = "\t"
    ends_sentence: bool = False
    begins_document: bool = False


def _sentences(lines: Iterator[_Line], word: int, tag: int | None) -> Iterator[Sentence]:
    """Puts words together.

    Args:
        lines: of the file.
        word: the column of the word.
        tag: the column of the tag, from the end if it is negative; None to read none.
    """
    words: list[Word] = []
    begins_document = True
    for line in lines:
        if line.columns:
            if tag is not None and len(line.columns) <= max(tag, 1):
                wanted = "a word and a tag" if tag < 0 else f"a column {tag} with the tag"
                raise InputError(
                    f"{line.where}: expected {wanted} (columns go by number, from 0), but there "
                    f"are {len(line.columns)} columns: {line.text[:60]!r}"
                )
            words.append(
                Word(line.columns[word], line.columns[tag] if tag is not None else "", line.number)
            )
        elif line.ends_sentence and words:
            yield Sentence(words, begins_document)
            words, begins_document = [], False
        begins_document |= line.begins_document
    if words:
        yield Sentence(words, begins_document)


def _column_of_tag(path: pathlib.Path, tag_column: str | None) -> int:
    if tag_column is None:
        return -1
    if not tag_column.isdecimal() or int(tag_column) == 0:
        raise InputError(
            f"--tag_column={tag_column}: the columns of {path} go by number, and the word is in "
            "column 0; give 1 or more"
        )
    return int(tag_column)


def _column_lines(path: pathlib.Path) -> Iterator[_Line]:
    """The lines of a file of columns, all of as many columns."""
    width, first, delimiter = _form(path)
    for number, text in read_lines(path):
        columns = _split(text, delimiter)
        line = _Line(f"{path}:{number}", number, text, columns, delimiter)
        if not columns:
            line = line._replace(ends_sentence=True)
        elif text.startswith(_DOCUMENT):
            line = line._replace(columns=(), ends_sentence=True, begins_document=True)
        elif len(columns) != width:
            if not text.startswith("#"):
                raise InputError(
                    f"{line.where}: {len(columns)} columns, but line {first} has {width}: "
                    f"{text[:60]!r}. Columns stand between {_DELIMITERS[delimiter]} in this file, "
                    "and an empty line ends a sentence"
                )
            line = line._replace(columns=())
        yield line


def _form(path: pathlib.Path) -> tuple[int, int, str]:
    """The number of columns, the line that says so, and what stands between them.

    The line is the first that is surely no comment.
    """
    found = (0, 0, " ")
    for number, text in read_lines(path):
        if text.strip(" \t") and not text.startswith(_DOCUMENT):
            is_comment = text.startswith("#")
            if not (found[0] and is_comment):
                delimiter = "\t" if "\t" in text else " "
                found = (len(_split(text, delimiter)), number, delimiter)
            if not is_comment:
                break
    return found


def _split(text: str, delimiter: str) -> list[str]:
    """The columns of a line."""
    if not text.strip(" \t"):
        return []
    if delimiter == "\t":
        return text.split(delimiter)
    # Not str.split(): words may have other spaces in them, such as U+00A0.
    return [part for part in text.split(delimiter) if part]


def _conllu_column(path: pathlib.Path, name: str) -> int:
    if name.lower() not in CONLLU_COLUMNS[2:]:
        raise InputError(
            f"--tag_column={name}: {path} is CoNLL-U, whose columns are "
            f"{', '.join(CONLLU_COLUMNS[2:])}"
        )
    return CONLLU_COLUMNS.index(name.lower())


def _conllu_lines(path: pathlib.Path) -> Iterator[_Line]:
    """The lines of a CoNLL-U file; multi-word tokens and empty nodes have no columns here."""
    in_sentence, num_words = False, 0
    for number, text in read_lines(path):
        where = f"{path}:{number}"
        if not text.strip():
            if in_sentence and not num_words:
                raise InputError(
                    f"{where}: the sentence that ends here has no words; remove its comments"
                )
            in_sentence, num_words = False, 0
            yield _Line(where, number, text, ends_sentence=True)
            continue
        in_sentence = True
        if text.startswith("#"):
            is_new = re.match(r"#\s*newdoc\b", text) is not None
            yield _Line(where, number, text, begins_document=is_new)
            continue
        columns = text.split("\t")
        is_word = _WORD_ID.fullmatch(columns[0]) is not None
        if len(columns) != len(CONLLU_COLUMNS) or not (is_word or _OTHER_ID.fullmatch(columns[0])):
            raise InputError(
                f"{where}: expected the {len(CONLLU_COLUMNS)} columns of CoNLL-U "
                f"({', '.join(CONLLU_COLUMNS)}) between tabs, the first of them a number, but "
                f"found {len(columns)} columns: {text[:60]!r}"
            )
        num_words += is_word
        if is_word and int(columns[0]) != num_words:
            raise InputError(
                f"{where}: expected word {num_words} of the sentence, but its number is "
                f"{columns[0]}; an empty line ends a sentence"
            )
        yield _Line(where, number, text, columns if is_word else ())


def _json_sentences(path: pathlib.Path, tag_column: str, with_tags: bool) -> Iterator[Sentence]:
    last: object = None
    for row in read_table(path):
        tokens = _strings(row, "tokens")
        tags = _strings(row, tag_column) if with_tags else [""] * len(tokens)
        if not tokens or len(tags) != len(tokens):
            raise InputError(
                f"{row.where}: expected at least one token, and a tag for each, but there are "
                f"{len(tokens)} tokens and {len(tags)} {tag_column}"
            )
        document = row.field("document") if "document" in (row.positions or ()) else None
        yield Sentence(
            [Word(token, tag, row.line) for token, tag in zip(tokens, tags, strict=True)],
            begins_document=document is None or document != last,
        )
        last = document


def _strings(row: Row, key: str) -> list[str]:
    values = row.field(key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(
            f"{row.where}: {key!r} must be a list of strings, but is {json.dumps(values)[:60]}"
        )
    return values

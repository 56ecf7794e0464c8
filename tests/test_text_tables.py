"""Tests of bert_tf.text_tables."""

import json
import logging
import pathlib
import subprocess
import sys

import pytest

from bert_tf.errors import InputError
from bert_tf.text_tables import read_lines, read_table


def write(folder: pathlib.Path, name: str, data: bytes | str) -> pathlib.Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def values(path: pathlib.Path, **settings) -> list[tuple[int, list[object]]]:
    return [(row.line, row.values) for row in read_table(path, **settings)]


def test_imports_without_tensorflow():
    command = (
        "import sys, bert_tf.text_tables, bert_tf.tasks.classification_data, bert_tf.metrics; "
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras', 'sklearn', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


def test_tsv_has_no_quoting(tmp_path):
    path = write(tmp_path, "a.tsv", 'text\tlabel\n"open quote\t0\na ""b"\t1\n\'c\'\t"\n')
    assert values(path) == [(2, ['"open quote', "0"]), (3, ['a ""b"', "1"]), (4, ["'c'", '"'])]


def test_tsv_quoting_on_request(tmp_path):
    path = write(tmp_path, "a.tsv", 'text\tlabel\n"tab\there\nnewline"\t0\nb\t1\n')
    assert values(path, quoting=True) == [(2, ["tab\there\nnewline", "0"]), (4, ["b", "1"])]


def test_csv_without_quoting_on_request(tmp_path):
    path = write(tmp_path, "a.csv", 'text,label\n"a,0\n')
    assert values(path, quoting=False) == [(2, ['"a', "0"])]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last_end", [True, False])
def test_lines_end_with_newlines_only(tmp_path, end, last_end):
    odd = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh"
    text = end.join(["text\tlabel", f"{odd}\t0", "i\t1"]) + (end if last_end else "")
    assert values(write(tmp_path, "a.tsv", text)) == [(2, [odd, "0"]), (3, ["i", "1"])]


def test_only_one_carriage_return_belongs_to_the_end(tmp_path):
    assert values(write(tmp_path, "a.tsv", "a\tb\r\r\n"), has_header=False) == [(1, ["a", "b\r"])]


def test_byte_order_mark_is_no_part_of_the_header(tmp_path):
    for name, data in {"a.tsv": "text\tn\nx\t1\n", "a.csv": '"text",n\nx,1\n'}.items():
        (row,) = read_table(write(tmp_path, name, b"\xef\xbb\xbf" + data.encode()))
        assert row.field("text") == "x"
    (row,) = read_table(write(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"text": "x"}'))
    assert row.field("text") == "x"
    # Anywhere else it is a character of the text.
    path = write(tmp_path, "b.tsv", "text\n\ufeffx\n")
    assert values(path) == [(2, ["\ufeffx"])]


def test_csv_record_starts_at_its_first_line(tmp_path):
    text = 'text,label\r\n"a, ""b""\r\nc\n\nd",0\r\n\r\ne\u2028f,1\n"",2\n'
    assert values(write(tmp_path, "a.csv", text)) == [
        (2, ['a, "b"\r\nc\n\nd', "0"]),
        (7, ["e\u2028f", "1"]),
        (8, ["", "2"]),
    ]


def test_long_csv_field(tmp_path):
    document = "word, " * 50_000
    path = write(tmp_path, "a.csv", f'text,label\n"{document}",1\n')
    assert values(path) == [(2, [document, "1"])]


def test_jsonl(tmp_path):
    first_line = '{"text": "a\\n\\"b\\"\u2028", "n": 1.5, "labels": ["x", "y"], "none": null}'
    path = write(tmp_path, "a.jsonl", first_line + '\n\n{"n": 2}\r\n')
    first, second = read_table(path)
    assert first.text("text") == 'a\n"b"\u2028'
    assert first.field("n") == 1.5
    assert first.field("labels") == ["x", "y"]
    assert first.field("none") is None
    assert (second.line, second.field("n")) == (3, 2)


def test_columns_by_name_and_by_number(tmp_path):
    path = write(tmp_path, "a.tsv", "text\t0\tlabel\nx\ty\tz\n")
    (row,) = read_table(path)
    assert [row.field(c) for c in ("text", "label", 2, "2", 0)] == ["x", "z", "z", "z", "x"]
    # A name comes before a number.
    assert row.field("0") == "y"
    first, second = read_table(path, has_header=False)
    assert (first.field(1), second.field("1")) == ("0", "y")


def test_empty_lines_are_no_rows_and_empty_fields_are(tmp_path):
    assert values(write(tmp_path, "a.tsv", "\ntext\tlabel\n\n\t\n\na\t\n\n")) == [
        (4, ["", ""]),
        (6, ["a", ""]),
    ]


def test_reading_is_lazy(tmp_path):
    rows = read_table(write(tmp_path, "a.tsv", b"text\nx\n\xff\n"))
    assert next(rows).values == ["x"]
    with pytest.raises(InputError):
        next(rows)


def test_skipped_short_rows_are_counted(tmp_path, caplog):
    path = write(tmp_path, "a.tsv", "a\tb\tc\n1\t2\n1\t2\t3\n4\n5\t6\t7\n")
    with caplog.at_level(logging.WARNING):
        assert values(path, skip_short_rows=True) == [(3, ["1", "2", "3"]), (5, ["5", "6", "7"])]
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == f"{path}: left out 2 rows with fewer than 3 columns; the first is line 2."


@pytest.mark.parametrize(
    ("name", "data", "settings", "message"),
    [
        ("a.txt", "x\n", {}, "a.txt: the name of a table has to end in .tsv, .csv or .jsonl"),
        ("a.tsv", "", {}, "a.tsv:1: expected at least one row of data"),
        ("a.csv", "\n\n", {}, "a.csv:1: expected at least one row of data"),
        ("a.jsonl", "\n", {}, "a.jsonl:1: expected at least one row of data"),
        ("a.tsv", "text\tlabel\n", {}, "a.tsv:1: expected at least one row of data"),
        ("a.tsv", "a\tb\nc\n", {"skip_short_rows": True}, "a.tsv:1: expected at least one row"),
        ("a.tsv", "a\tb\nc\td\ne\n", {}, "a.tsv:3: the row has 1 columns, but line 1 has 2"),
        ("a.tsv", "a\tb\n\nc\td\te\n", {}, "a.tsv:3: the row has 3 columns, but line 1 has 2"),
        (
            "a.tsv",
            "a\tb\nc\td\te\n",
            {"skip_short_rows": True},
            "a.tsv:2: the row has 3 columns, but line 1 has 2",
        ),
        (
            "a.csv",
            'a,b\n"x\ny",1\nz\n',
            {},
            "a.csv:4: the row has 1 columns, but line 1 has 2",
        ),
        (
            "a.tsv",
            "\na\tb\nc\n",
            {"has_header": False},
            "a.tsv:3: the row has 1 columns, but line 2 has 2",
        ),
        ("a.tsv", "a\tb\ta\n", {}, "a.tsv:1: the header names column 'a' more than once"),
        ("a.csv", 'a,b\n1,2\n"x,3\ny,4\n', {}, "a.csv:3: the record that starts here is not valid"),
        ("a.csv", 'a,b\n"x"y,4\n', {}, "a.csv:2: the record that starts here is not valid CSV"),
        ("a.tsv", b"a\tb\nc\td\xe9e\n", {}, "a.tsv:2: byte 3 of the line (from 0) is 0xe9"),
        ("a.csv", b'a,b\n"c\nd\xff",e\n', {}, "a.csv:3: byte 1 of the line (from 0) is 0xff"),
        ("a.tsv", b"\xef\xbb\xbfa\xfe\n", {}, "a.tsv:1: byte 4 of the line (from 0) is 0xfe"),
        ("a.tsv", "a\tb\n".encode("utf-16"), {}, "a.tsv:1: byte 0 of the line"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', {}, "a.jsonl:2: not JSON (Expecting value"),
        ("a.jsonl", '{"a": 1}\n\n["b"]\n', {}, "a.jsonl:3: expected a JSON object"),
        ("a.jsonl", "1" * 5000, {}, "a.jsonl:1: cannot be read as JSON: Exceeds the limit"),
        (
            "a.jsonl",
            '{"a": "\\ud83d\\ude42"}\n{"a": "\\ud83d"}',
            {},
            "a.jsonl:2: a string holds the",
        ),
    ],
)
def test_bad_tables(tmp_path, name, data, settings, message):
    path = write(tmp_path, name, data)
    with pytest.raises(InputError) as error:
        list(read_table(path, **settings))
    assert str(error.value).startswith(str(tmp_path / message))


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "folder.tsv").mkdir()
    for name in ("missing.tsv", "folder.tsv"):
        with pytest.raises(InputError, match=f"{name}: cannot be read: "):
            list(read_table(tmp_path / name))


def test_missing_columns(tmp_path):
    long = "a long text " * 9
    path = write(tmp_path, "a.tsv", f"sentence\t{long}\nx\ty\n")
    (row,) = read_table(path)
    with pytest.raises(InputError) as error:
        row.field("sentense")
    assert str(error.value) == (
        f"{path}:2: there is no column 'sentense'; did you mean 'sentence'? The columns, 0 to 1, "
        f"are named by the first line: they are 'sentence', {long[:40]!r}."
    )
    for column in (2, "2", -1):
        with pytest.raises(InputError, match=f":2: there is no column {column!r}\\. The columns"):
            row.field(column)
    row, _ = read_table(path, has_header=False)
    with pytest.raises(InputError, match=r":1: there is no column 'sentence'.*number: 0 to 1"):
        row.field("sentence")


def test_missing_keys_of_jsonl(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "x"}\n{"Text": "y", "z": 1}\n')
    first, second = read_table(path)
    with pytest.raises(InputError, match=":2: there is no column 'text'; did you mean 'Text'"):
        second.field("text")
    # The keys of an object have no numbers.
    for column in (0, "0"):
        with pytest.raises(InputError, match=f":1: there is no column {column!r}"):
            first.field(column)


@pytest.mark.parametrize("value", [None, 1, ["x"], True])
def test_text_has_to_be_a_string(tmp_path, value):
    path = write(tmp_path, "a.jsonl", json.dumps({"text": value}))
    (row,) = read_table(path)
    message = f":1: column 'text' has to be a string, but is {json.dumps(value)}."
    with pytest.raises(InputError) as error:
        row.text("text")
    assert str(error.value) == f"{path}{message}"


def test_read_lines(tmp_path):
    path = write(tmp_path, "labels.txt", "\ufeffa b\r\n\nc\u2028d")
    assert list(read_lines(path)) == [(1, "a b"), (2, ""), (3, "c\u2028d")]

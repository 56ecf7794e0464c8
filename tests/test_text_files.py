"""Tests of bert_tf.text_files: sections against the whole text read at once."""

import gzip
import io
import random

import pytest

from bert_tf import text_files
from bert_tf.errors import InputError
from bert_tf.text_files import Line, count_lines, find_files, is_gzip, open_bytes, read_section

# --- names --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.txt", "c.text", "odd[1].txt", "with space"):
        (tmp_path / name).write_text(name)
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("b.txt", ["b.txt"]),
        ("?.txt", ["a.txt", "b.txt"]),
        ("b.txt,*.txt", ["b.txt", "a.txt", "odd[1].txt"]),  # each once, where it is named first
        (" b.txt , with space,,", ["b.txt", "with space"]),
        ("odd[1].txt", ["odd[1].txt"]),
        ("./a.txt,a.txt", ["a.txt"]),
    ],
)
def test_find_files(folder, patterns, names):
    assert [str(path) for path in find_files(patterns, "--input_file")] == names


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ("", "--input_file is missing"),
        (" , ", "--input_file is missing"),
        ("a.txt,d.txt", "--input_file: no file is called d.txt"),
        ("*.tsv", r"--input_file: no file is called \*.tsv"),
        ("folder", "--input_file folder: a folder; give its files, as in folder/*"),
        ("*", "--input_file folder: a folder"),
    ],
)
def test_names_without_a_file_are_an_input_error(folder, patterns, message):
    with pytest.raises(InputError, match=message):
        find_files(patterns, "--input_file")


# --- gzip ---------------------------------------------------------------------------------------


def content_of(path):
    with open_bytes(path) as file:
        return file.read()


def test_gzip_is_told_by_the_content(tmp_path):
    text = b"one\n\ntwo\n"
    for name, content in (("plain.gz", text), ("packed.txt", gzip.compress(text))):
        path = tmp_path / name
        path.write_bytes(content)
        assert is_gzip(path) is (name == "packed.txt")
        assert content_of(path) == text
    # Members one after another are one text; an empty file is a text too.
    path.write_bytes(gzip.compress(b"one\n") + gzip.compress(b"\ntwo\n"))
    assert content_of(path) == text
    path.write_bytes(b"")
    assert not is_gzip(path) and content_of(path) == b""


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-9],
        lambda content: content[:3],
        lambda content: content + b"rest",
        lambda content: content[:30] + bytes([content[30] ^ 0xFF]) + content[31:],
        lambda content: content[:-8] + bytes(8),
    ],
    ids=["cut_off", "header", "trailing", "flipped", "checksum"],
)
def test_damaged_gzip_files_are_an_input_error(tmp_path, damage):
    path = tmp_path / "text.gz"
    text = " ".join(map(str, range(1000))).encode()
    path.write_bytes(damage(gzip.compress(text, mtime=0)))
    with pytest.raises(InputError, match=f"{path}: damaged gzip file: "):
        content_of(path)


def test_a_file_that_cannot_be_opened_is_an_input_error(tmp_path):
    path = tmp_path / "gone.txt"
    for read in (is_gzip, content_of):
        with pytest.raises(InputError, match=f"{path}: cannot read it: No such file"):
            read(path)


# --- sections -----------------------------------------------------------------------------------


def lines_of(content):
    """What there is to know of each line: its text, its number in the file, whether it is UTF-8."""
    lines = content.split(b"\n")
    if not lines[-1]:
        del lines[-1]
    numbered = []
    for number, line in enumerate(lines, 1):
        text = line.decode("utf-8", "ignore").strip()
        numbered.append(Line(text, number, line.decode("utf-8", "ignore").encode() == line))
    return numbered


def sections_of(content):
    """The lines of each section, numbered through the file; and how many start in each."""
    file = io.BytesIO(content)
    sections, counts = [], []
    for section in range(-(-len(content) // text_files.SECTION_BYTES)):
        before = sum(counts)
        sections.append(
            [line._replace(number=line.number + before) for line in read_section(file, section)]
        )
        counts.append(count_lines(file, section))
    return sections, counts


def random_text(seed):
    generator = random.Random(seed)
    line_ends = generator.choice([[b"\n"], [b"\r\n"], [b"\n", b"\r\n", b" \n"]])
    lines = []
    for _ in range(generator.randrange(1, 60)):
        kind = generator.random()
        if kind < 0.35:
            line = generator.choice([b"", b"", b"", b" \t", b"\x1c", b"\xff"])
        elif kind < 0.45:
            line = generator.choice(
                ["a\x85b", "a\u2028b", "\ufeff", "ä" * 30, "\r a\rb"]
            ).encode() + generator.choice([b"", b"\xe2\x82", b"\xffa"])
        else:
            line = b"x" * generator.randrange(1, generator.choice([5, 40]))
        lines.append(line + generator.choice(line_ends))
    if generator.random() < 0.5:
        lines[-1] = lines[-1].rstrip(b"\r\n")
    return b"".join(lines)


@pytest.mark.parametrize("section_bytes", [1, 2, 7, 50, 1000])
def test_sections_hold_every_line_once(monkeypatch, section_bytes):
    monkeypatch.setattr(text_files, "SECTION_BYTES", section_bytes)
    for seed in range(120):
        content = random_text(seed)
        expected = lines_of(content)
        sections, counts = sections_of(content)
        assert [line for section in sections for line in section] == expected
        assert sum(counts) == len(expected)


def test_a_section_holds_whole_documents(monkeypatch):
    monkeypatch.setattr(text_files, "SECTION_BYTES", 10)
    for seed in range(200):
        sections, _ = sections_of(random_text(seed))
        for index, section in enumerate(sections[:-1]):
            # It ends with the blank line that ends its last document, or has no line at all; only
            # where the text ends there is none.
            if section and any(sections[index + 1 :]):
                assert not section[-1].text


def test_where_sections_begin_and_end(monkeypatch):
    monkeypatch.setattr(text_files, "SECTION_BYTES", 10)
    #           0123 4567 8 9012345 6 789 0 12
    content = b"aaa\nbbb\n\ncccccc\n\nddd\n\nee"
    sections, counts = sections_of(content)
    texts = [[line.text for line in section] for section in sections]
    # The second document begins before byte 10, the third before byte 20, the last behind it.
    assert texts == [["aaa", "bbb", "", "cccccc", ""], ["ddd", ""], ["ee"]]
    assert counts == [4, 2, 2]
    # A section that lies within a document or a line has no lines.
    assert [bool(lines) for lines in sections_of(b"a\n" * 20 + b"\nb\n")[0]] == [1, 0, 0, 0, 1]
    assert sections_of(b"a" * 35)[1] == [1, 0, 0, 0]


def test_windows_line_ends_and_separators_inside_lines():
    content = "\ufeffone\r\n \r\ntwo\x85three\u2028four\u2029\r\n\r\n\r\n".encode()
    lines = list(read_section(io.BytesIO(content), 0))
    assert [line.text for line in lines] == ["\ufeffone", "", "two\x85three\u2028four", "", ""]
    assert [line.number for line in lines] == [1, 2, 3, 4, 5]
    assert count_lines(io.BytesIO(content), 0) == 5


@pytest.mark.parametrize(("content", "count"), [(b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"\n", 1)])
def test_a_line_end_at_the_end_begins_no_line(content, count):
    assert count_lines(io.BytesIO(content), 0) == count


# --- long lines ---------------------------------------------------------------------------------


def test_a_long_line_is_read_as_several(monkeypatch):
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 8)
    content = b"0123456789abcdefghij\nshort\n\n" + b"12345678\n" + b"x" * 16
    lines = list(read_section(io.BytesIO(content), 0))
    assert [(line.text, line.number) for line in lines] == [
        *(("01234567", 1), ("89abcdef", 1), ("ghij", 1)),
        *(("short", 2), ("", 3), ("12345678", 4), ("x" * 8, 5), ("x" * 8, 5)),
    ]


def test_a_long_line_is_not_cut_within_a_character(monkeypatch):
    for longest in range(8, 20):
        monkeypatch.setattr(text_files, "MAX_LINE_BYTES", longest)
        text = "aä€😀" * 9
        lines = list(read_section(io.BytesIO(f"{text}\nb\n".encode()), 0))
        assert all(line.is_utf8 for line in lines)
        assert "".join(line.text for line in lines) == text + "b"
    # Bytes that are no character are not waited for.
    lines = list(read_section(io.BytesIO(b"\x80" * 70), 0))
    assert lines == []


def test_white_space_in_a_long_line_ends_no_document(monkeypatch):
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 8)
    content = b" " * 30 + b"a" + b" " * 30 + b"b\n" + b"c\n" + b" " * 5 + b"\nd\n"
    lines = list(read_section(io.BytesIO(content), 0))
    assert [(line.text, line.number) for line in lines] == [
        *(("a", 1), ("b", 1), ("c", 2), ("", 3), ("d", 4))
    ]


@pytest.mark.parametrize("section_bytes", [3, 20, 64])
def test_long_lines_and_sections(monkeypatch, section_bytes):
    monkeypatch.setattr(text_files, "SECTION_BYTES", section_bytes)
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 16)
    for seed in range(60):
        content = random_text(seed).replace(b"\xff", b"").replace(b"\xe2\x82", b"")
        whole = list(read_section(io.BytesIO(content), 0)) if len(content) < section_bytes else None
        sections, counts = sections_of(content)
        found = [line for section in sections for line in section]
        if whole is not None:
            assert found == whole
        expected = lines_of(content)
        assert sum(counts) == len(expected)
        for line in expected:
            parts = [part.text for part in found if part.number == line.number]
            if len(line.text.encode()) < 14:
                assert parts == [line.text]
            assert "".join("".join(parts).split()) == "".join(line.text.split())


class CountingFile(io.BytesIO):
    """Counts what is read."""

    num_read = longest = 0

    def readline(self, size=-1):
        line = super().readline(size)
        self.num_read += len(line)
        self.longest = max(self.longest, len(line))
        return line


def test_a_file_without_line_ends_is_neither_held_in_memory_nor_read_again_and_again(monkeypatch):
    monkeypatch.setattr(text_files, "SECTION_BYTES", 100)
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 10)
    file = CountingFile(b"x" * 100_000)
    for section in range(1, 1000):
        assert list(read_section(file, section)) == []
    assert file.longest <= 10
    assert file.num_read < 1.5 * 100_000

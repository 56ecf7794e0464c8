"""Tests of bert_tf.output_file; those of write_text and build_vocab see more of it at work."""

import pytest

from bert_tf.errors import InputError
from bert_tf.output_file import check_output, whole_file


def test_a_file_has_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "out.bin"
    with whole_file(path) as temporary:
        temporary.write_bytes(b"first")
        assert not path.exists()
        assert temporary.parent == tmp_path
    assert path.read_bytes() == b"first"
    with pytest.raises(ZeroDivisionError), whole_file(path) as temporary:
        temporary.write_bytes(b"half of the sec")
        raise ZeroDivisionError
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_said_beforehand(tmp_path):
    there = tmp_path / "there"
    there.write_text("mine")
    for path, overwrite, message in (
        (tmp_path, True, "a folder; give a file, as in .*/x.txt"),
        (there, False, "there: is there already; give another name, or --overwrite"),
        (there, True, "there: one of the --input_file"),
        (there / "below", False, "below: cannot write it"),
    ):
        with pytest.raises(InputError, match=f"--output_file .*{message}"):
            check_output(path, [tmp_path / "other", there], overwrite=overwrite, example="x.txt")
    check_output(there, [], overwrite=True, example="x.txt")
    check_output(tmp_path / "new" / "file", [there], overwrite=False, example="x.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "there"]
    assert there.read_text() == "mine"

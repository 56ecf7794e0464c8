"""Tests of bert_tf.tasks.split_files: which file of a folder is that of a split."""

import pytest

from bert_tf.config import SplitFiles
from bert_tf.errors import InputError
from bert_tf.tasks.split_files import find_split_file


def test_the_file_of_a_split_is_found(tmp_path):
    def find(split, **settings):
        names = [f"{split}{ending}" for ending in (".txt", ".tsv", ".conllu")]
        return find_split_file(SplitFiles(**settings), split, names)

    data_dir = str(tmp_path)
    (tmp_path / "dev.conllu").touch()
    assert find("dev", data_dir=data_dir) == tmp_path / "dev.conllu"
    assert find("dev", dev_file="x/y.txt", data_dir=data_dir).name == "y.txt"
    with pytest.raises(InputError, match=r"expected one of train.txt, .* but there is none"):
        find("train", data_dir=data_dir)
    with pytest.raises(InputError, match="--data_dir or --dev_file is missing"):
        find("dev", train_file="x/y.txt")
    (tmp_path / "dev.txt").touch()
    with pytest.raises(
        InputError, match=r"it has dev.txt, dev.conllu; give the file by --dev_file"
    ):
        find("dev", data_dir=data_dir)

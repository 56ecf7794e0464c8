"""Tests of bert_tf.tensorboard_file: what is written, and that a full disk is told."""

import io
import resource

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf

from bert_tf.errors import InputError
from bert_tf.tensorboard_file import TensorBoardFile


def events(folder):
    """(step, name, value) of each."""
    found = []
    for path in sorted(folder.iterdir()):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                found.append((event.step, value.tag, tf.make_ndarray(value.tensor)))
    return found


def test_curves_and_pictures(tmp_path):
    png = io.BytesIO()
    matplotlib.image.imsave(png, np.zeros([2, 3, 3]), format="png")
    with TensorBoardFile(tmp_path) as file:
        file.add_scalars(3, {"a": 0.5, "b": 2.0})
        file.add_picture(4, "p", png.getvalue())
    assert len(list(tmp_path.glob("events.out.tfevents.*.v2"))) == 1
    curve, other, picture = events(tmp_path)
    assert curve == (3, "a", 0.5) and other == (3, "b", 2.0)
    assert picture[:2] == (4, "p") and picture[2][:2].tolist() == [b"3", b"2"]


def test_no_folder_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with TensorBoardFile(None) as file:
        file.add_scalars(3, {"a": 0.5})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = TensorBoardFile(tmp_path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(InputError, match=r"cannot write TensorBoard's file there: .*Make room"):
            for step in range(1000):
                file.add_scalars(step, {"a": 0.5})
            file.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_first_of_two_errors_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: cannot write TensorBoard's file there"):
        TensorBoardFile(tmp_path / "file").add_scalars(1, {"a": 1.0})
    with pytest.raises(KeyError, match="mine"), TensorBoardFile(tmp_path):
        raise KeyError("mine")

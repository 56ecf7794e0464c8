"""The best of a run's models is in a folder apart, whole at any time."""

import json

import pytest

from bert_tf.best_model import keep_if_best
from bert_tf.errors import InputError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run_config.yaml").write_text("command: run_pretraining\n")
    return tmp_path


def offer(folder, step, loss):
    """Offers a model; returns whether it was kept, and what is kept then."""
    kept = keep_if_best(
        folder, step, {"eval_loss": loss}, "eval_loss",
        lambda target: (target / "weights").write_text(str(step)),
    )  # fmt: skip
    best = folder / "best"
    assert sorted(item.name for item in folder.iterdir()) == ["best", "run_config.yaml"]
    assert (best / "run_config.yaml").read_text() == "command: run_pretraining\n"
    results = json.loads((best / "eval_results.json").read_text())
    assert (best / "weights").read_text() == str(results["global_step"])
    return kept, results["global_step"]


def test_the_lowest_loss_is_kept(folder):
    assert offer(folder, 3, 2.5) == (True, 3)
    assert offer(folder, 6, 2.7) == (False, 3)
    assert offer(folder, 9, 1.5) == (True, 9)
    assert offer(folder, 12, 1.5) == (False, 9)  # not better
    assert offer(folder, 9, 1.5) == (False, 9)  # a resumed run comes there again


def test_a_run_that_ended_while_one_took_the_place_of_another(folder):
    offer(folder, 3, 2.5)
    (folder / "best").rename(folder / ".best.old")
    (folder / ".best.new").mkdir()
    (folder / ".best.new" / "weights").write_text("half")
    assert not keep_if_best(folder, 6, {"eval_loss": 2.7}, "eval_loss", None)
    assert (folder / "best" / "weights").read_text() == "3"
    assert offer(folder, 9, 1.5) == (True, 9)


def test_what_cannot_be_written_leaves_the_one_before(folder):
    offer(folder, 3, 2.5)

    def fails(target):
        (target / "weights").write_text("6")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left on device"):
        keep_if_best(folder, 6, {"eval_loss": 1.0}, "eval_loss", fails)
    assert (folder / "best" / "weights").read_text() == "3"
    assert offer(folder, 6, 1.0) == (True, 6)

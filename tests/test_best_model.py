"""The best of a run's models is in a folder apart, whole at any time."""

import json
import math

import pytest

from bert_tf.best_model import keep_if_best
from bert_tf.errors import InputError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run_config.yaml").write_text("command: run_pretraining\n")
    return tmp_path


def offer(folder, step, value, name="eval_loss"):
    """Offers a model; returns whether it was kept, and what is kept then."""
    best = folder / "best"
    offered = []

    def evaluate(target):
        (target / "errors").write_text(f"of {step}")
        return {name: value, "other": 0.5}

    def write(target):
        (target / "weights").write_text(str(step))
        offered.append(step)

    found = keep_if_best(
        folder, step, evaluate, name, write, lower_is_better=name == "eval_loss"
    )  # fmt: skip
    assert found == {name: value, "other": 0.5} or value != value
    assert sorted(item.name for item in folder.iterdir() if item != best) == ["run_config.yaml"]
    if not best.exists():
        return False, None
    assert (best / "run_config.yaml").read_text() == "command: run_pretraining\n"
    results = json.loads((best / "eval_results.json").read_text())
    assert (best / "weights").read_text() == str(results["global_step"])
    assert (best / "errors").read_text() == f"of {results['global_step']}"
    return bool(offered), results["global_step"]


def test_the_lowest_loss_is_kept(folder):
    assert offer(folder, 3, 2.5) == (True, 3)
    assert offer(folder, 6, 2.7) == (False, 3)
    assert offer(folder, 9, 1.5) == (True, 9)
    assert offer(folder, 12, 1.5) == (False, 9)  # not better
    assert offer(folder, 9, 1.5) == (False, 9)  # a resumed run comes there again


def test_the_highest_metric_is_kept(folder):
    assert offer(folder, 3, 0.0, "f1") == (True, 3)
    assert offer(folder, 6, 81.5, "f1") == (True, 6)
    assert offer(folder, 9, 80.0, "f1") == (False, 6)
    assert offer(folder, 6, 81.5, "f1") == (False, 6)


@pytest.mark.parametrize("name", ["eval_loss", "f1"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_better(folder, name, value):
    assert offer(folder, 3, value, name) == (False, None)
    assert offer(folder, 6, 0.7, name) == (True, 6)
    assert offer(folder, 9, value, name) == (False, 6)
    # As an earlier version may have left it.
    (folder / "best" / "eval_results.json").write_text(f'{{"{name}": NaN, "global_step": 6}}')
    assert offer(folder, 12, 0.7, name) == (True, 12)


def test_a_run_that_ended_while_one_took_the_place_of_another(folder):
    offer(folder, 3, 2.5)
    (folder / "best").rename(folder / ".best.old")
    (folder / ".best.new").mkdir()
    (folder / ".best.new" / "weights").write_text("half")
    assert offer(folder, 6, 2.7) == (False, 3)
    assert offer(folder, 9, 1.5) == (True, 9)


def test_what_cannot_be_written_leaves_the_one_before(folder):
    offer(folder, 3, 80.0, "f1")

    def fails(target):
        (target / "weights").write_text("6")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"/best: cannot write it: No space left on device"):
        keep_if_best(folder, 6, lambda _: {"f1": 81.5}, "f1", fails, lower_is_better=False)
    assert (folder / "best" / "weights").read_text() == "3"
    assert offer(folder, 6, 81.5, "f1") == (True, 6)

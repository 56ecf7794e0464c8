"""Tests of bert_tf.instance_plan: against all instances sorted at once."""

import itertools

import numpy as np
import pytest

from bert_tf import instance_plan
from bert_tf.instance_plan import InstancePlan, join_runs, write_runs
from bert_tf.pretraining_data import INSTANCE

EVERYTHING = 0, 1 << 64


def random_instances(seed, count):
    rng = np.random.default_rng(seed)
    instances = np.zeros(count, INSTANCE)
    for name in INSTANCE.names:
        instances[name] = rng.integers(0, 1 << 62, count)
    instances["order"] = rng.integers(0, (1 << 64) - 1, count, np.uint64, endpoint=True)
    return instances


def plan_of(folder, parts):
    """The plan of parts, each of which comes as several arrays."""
    written = []
    for number, arrays in enumerate(parts):
        path = folder / f"part-{number}"
        written.append((path, write_runs(iter(arrays), path)))
    join_runs(written, folder / "plan")
    return InstancePlan(folder / "plan")


def in_order(parts):
    instances = np.concatenate([array for arrays in parts for array in arrays])
    return instances[np.argsort(instances["order"])]


PARTS = {
    "one": [[random_instances(0, 1)]],
    "several": [[random_instances(seed, 3 * seed) for seed in range(5)], [random_instances(7, 20)]],
    "nothing_in_some": [
        [],
        [random_instances(0, 0)],
        [random_instances(1, 0), random_instances(2, 9)],
        [random_instances(3, 5)],
    ],
}


@pytest.fixture(params=[1, 6, 1 << 19])
def run_length(request, monkeypatch):
    monkeypatch.setattr(instance_plan, "_RUN", request.param)
    return request.param


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_a_plan_holds_all_instances_in_order(tmp_path, run_length, parts):
    plan = plan_of(tmp_path, parts)
    expected = in_order(parts)
    assert len(plan) == len(expected)
    np.testing.assert_array_equal(plan.select(*EVERYTHING), expected)
    np.testing.assert_array_equal(plan.select(*EVERYTHING), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["plan"]


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("num_parts", [1, 2, 3, 7, 100])
def test_bounds_cut_it_into_equal_parts(tmp_path, run_length, parts, num_parts):
    plan = plan_of(tmp_path, parts)
    bounds = plan.bounds(num_parts)
    assert len(bounds) == num_parts + 1
    assert (bounds[0], bounds[-1]) == EVERYTHING
    selected = [plan.select(*cut) for cut in itertools.pairwise(bounds)]
    np.testing.assert_array_equal(np.concatenate(selected), in_order(parts))
    sizes = list(map(len, selected))
    assert max(sizes) - min(sizes) <= 1


def test_select_takes_what_lies_between_two_places(tmp_path, run_length):
    parts = PARTS["several"]
    plan = plan_of(tmp_path, parts)
    expected = in_order(parts)
    for first, last in [(0, 0), (0, 17), (5, 5), (5, 31), (40, len(expected) - 1)]:
        start, end = (int(expected["order"][i]) for i in (first, last))
        np.testing.assert_array_equal(plan.select(start, end), expected[first:last])
        np.testing.assert_array_equal(
            plan.select(start + 1, end + 1), expected[first + 1 : last + 1]
        )


def test_the_lowest_and_highest_places_are_in_it(tmp_path):
    instances = random_instances(0, 4)
    instances["order"] = [(1 << 64) - 1, 0, (1 << 64) - 2, 1]
    plan = plan_of(tmp_path, [[instances]])
    assert plan.select(*EVERYTHING)["order"].tolist() == [0, 1, (1 << 64) - 2, (1 << 64) - 1]
    sizes = [len(plan.select(*cut)) for cut in itertools.pairwise(plan.bounds(4))]
    assert sizes == [1, 1, 1, 1]


def test_runs_are_sorted_and_as_long_as_is_said(tmp_path, run_length):
    arrays = [random_instances(seed, 3) for seed in range(4)]
    lengths = write_runs(iter(arrays), tmp_path / "runs")
    assert lengths == {1: [3, 3, 3, 3], 6: [6, 6], 1 << 19: [12]}[run_length]
    written = np.fromfile(tmp_path / "runs", INSTANCE)
    start = 0
    for length in lengths:
        run = written[start : start + length]
        assert (np.diff(run["order"].astype(object)) > 0).all()
        np.testing.assert_array_equal(run, in_order([[written[start : start + length]]]))
        start += length
    assert sorted(written["sentence"]) == sorted(np.concatenate(arrays)["sentence"])


def test_a_plan_that_is_half_there_is_no_plan(tmp_path):
    (tmp_path / "plan.tmp").mkdir()
    (tmp_path / "plan.tmp" / "instances").write_bytes(b"half")
    path = tmp_path / "part"
    parts = [(path, write_runs(iter([random_instances(0, 3)]), path))]
    with pytest.raises(FileNotFoundError):
        join_runs([*parts, (tmp_path / "gone", [1])], tmp_path / "plan")
    assert not (tmp_path / "plan").exists()
    plan = plan_of(tmp_path, PARTS["one"])
    assert len(plan) == 1 and not (tmp_path / "plan.tmp").exists()

"""Tests of bert_tf.worker_pool, with processes that are forked off and with ones that are not."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from bert_tf import worker_pool
from bert_tf.errors import InputError
from bert_tf.worker_pool import WorkerPool, num_cores

METHODS = ("fork", "spawn")


@pytest.fixture(params=METHODS)
def method(request, monkeypatch):
    monkeypatch.setattr(worker_pool, "_start_method", lambda: request.param)


def make_state(folder, factor, parent):
    (folder / str(os.getpid())).touch()
    return {"factor": factor, "process": os.getpid(), "folder": folder, "parent": parent}


def scaled(state, task):
    """The first task waits for one that another process does; so later tasks are done earlier."""
    if task:
        (state["folder"] / f"{os.getpid()}-done").touch()
    elif os.getpid() != state["parent"]:
        wait_for(lambda: any(state["folder"].glob("*-done")))
    return task * state["factor"], state["process"], os.getpid()


def test_one_worker_is_this_process(tmp_path):
    with WorkerPool(1, make_state, (tmp_path, 3, os.getpid())) as pool:
        assert list(pool.map(scaled, range(5), "counting")) == [
            (3 * task, os.getpid(), os.getpid()) for task in range(5)
        ]
        assert list(pool.map(scaled, [], "counting")) == []
    assert {path.name for path in tmp_path.iterdir()} == {str(os.getpid()), f"{os.getpid()}-done"}


def test_several_workers_give_the_results_in_order(tmp_path, method):
    with WorkerPool(3, make_state, (tmp_path, 3, os.getpid())) as pool:
        first = list(pool.map(scaled, range(12), "counting"))
        second = list(pool.map(scaled, [7], "counting"))
        assert list(pool.map(scaled, [], "counting")) == []
    assert [result for result, _, _ in first] == [3 * task for task in range(12)]
    assert [result for result, _, _ in second] == [21]
    assert all(made_in == run_in for _, made_in, run_in in first + second)
    processes = {process for _, _, process in first + second}
    assert len(processes) > 1 and os.getpid() not in processes
    started = {int(path.name) for path in tmp_path.glob("*[0-9]")}
    assert processes <= started and len(started) <= 3
    assert not any(is_running(process) for process in started)


def fail(state, task):
    if task == 2:
        raise state
    return task


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize(
    "error", [InputError("a.txt, line 3: wrong"), OSError(errno.ENOSPC, "No space left", "file")]
)
def test_errors_of_a_task_arrive_as_they_are(num_workers, error):
    with WorkerPool(num_workers, same, (error,)) as pool:
        results = pool.map(fail, range(5), "failing")
        assert next(results) == 0
        with pytest.raises(type(error)) as raised:
            list(results)
    assert str(raised.value) == str(error)
    assert getattr(raised.value, "errno", None) == getattr(error, "errno", None)


def same(value):
    return value


def end(state, task):
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_a_worker_that_is_killed_is_an_input_error(method):
    with WorkerPool(2, same, (0,)) as pool:
        # The second time, it shows when tasks are given to the workers, which it also may at first.
        for _ in range(2):
            with pytest.raises(
                InputError, match=r"a worker process was killed.*fewer --num_workers"
            ):
                list(pool.map(end, range(3), "ending"))


def test_progress_is_told_on_stderr(capsys):
    with WorkerPool(1, same, (1,)) as pool:
        list(pool.map(lambda state, task: task, range(4), "counting"))
    output = capsys.readouterr()
    assert output.out == ""
    assert "counting" in output.err and "4/4" in output.err


def test_processes_are_forked_off_only_where_no_other_threads_work(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr(worker_pool.threading, "active_count", lambda: 2)
    assert worker_pool._start_method() == "spawn"
    monkeypatch.setattr(worker_pool.threading, "active_count", lambda: 1)
    assert worker_pool._start_method() == "fork"
    monkeypatch.setitem(sys.modules, "tensorflow", object())
    assert worker_pool._start_method() == "spawn"
    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert worker_pool._start_method() == "spawn"


def test_num_cores(monkeypatch):
    assert 1 <= num_cores() <= os.cpu_count()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert num_cores() == os.cpu_count()


# --- the parent is killed -----------------------------------------------------------------------

PARENT = """
import os, pathlib, sys, time
from bert_tf import worker_pool

def make_state(folder):
    (folder / str(os.getpid())).touch()

def work(state, task):
    if task == 2:
        while True:  # a task that never lets go
            pass
    time.sleep(1000)

if __name__ == "__main__":
    worker_pool._start_method = lambda: sys.argv[1]
    with worker_pool.WorkerPool(3, make_state, (pathlib.Path(sys.argv[2]),)) as pool:
        list(pool.map(work, range(9), "waiting"))
"""


def is_running(process):
    try:
        state = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize(
    ("start_method", "by"),
    [("fork", signal.SIGKILL), ("fork", signal.SIGTERM), ("spawn", signal.SIGKILL)],
)
def test_workers_end_with_the_process_that_started_them(tmp_path, start_method, by):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    (tmp_path / "workers").mkdir()
    with subprocess.Popen(
        [sys.executable, script, start_method, tmp_path / "workers"], stderr=subprocess.DEVNULL
    ) as parent:
        wait_for(lambda: len(list((tmp_path / "workers").iterdir())) == 3)
        parent.send_signal(by)
        assert parent.wait() == -by
    workers = [int(path.name) for path in (tmp_path / "workers").iterdir()]
    wait_for(lambda: not any(is_running(worker) for worker in workers))

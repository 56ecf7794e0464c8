"""Takes a function and its tasks, returns the results, made by several processes; next: corpus.

Workers end with the process that started them, however it ends.
"""

import collections
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import tqdm

from bert_tf.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerPool:
    """Processes that have all made the same state.

    Args:
        num_workers: how many; with one, the work is done in this process.
        make_state: makes what every task needs, called once in each process.
        arguments: for ``make_state``.
    """

    def __init__(
        self, num_workers: int, make_state: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._num_in_flight = 8 * num_workers
        if num_workers > 1:
            self._pool = ProcessPoolExecutor(
                num_workers,
                mp_context=multiprocessing.get_context(_start_method()),
                initializer=_start_worker,
                initargs=(make_state, arguments),
            )
            # Now, while no other thread is at work: the line of progress has one.
            self._pool.submit(_do_nothing)
        else:
            self._state = make_state(*arguments)

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(
        self, function: Callable[[Any, Task], Result], tasks: Sequence[Task], description: str
    ) -> Iterator[Result]:
        """``function(state, task)`` of each task, in their order, with a line of progress.

        Raises:
            InputError: if a worker is killed, mostly for want of memory.
        """
        results: Iterable[Result]
        try:
            if self._pool is None:
                results = (function(self._state, task) for task in tasks)
            else:
                results = self._results(self._pool, function, tasks)
            yield from tqdm.tqdm(
                results,
                total=len(tasks),
                desc=description,
                unit="part",
                mininterval=0.5 if sys.stderr.isatty() else 15.0,
            )
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process was killed, perhaps for want of memory; give fewer "
                "--num_workers. The same command goes on where this one stopped"
            ) from error

    def _results(
        self,
        pool: ProcessPoolExecutor,
        function: Callable[[Any, Task], Result],
        tasks: Sequence[Task],
    ) -> Iterator[Result]:
        """With a few tasks in flight, however many there are."""
        flying: collections.deque[Future[Result]] = collections.deque()
        for task in tasks:
            if len(flying) == self._num_in_flight:
                yield flying.popleft().result()
            flying.append(pool.submit(_run, function, task))
        while flying:
            yield flying.popleft().result()


def num_cores() -> int:
    """How many processes can run at once."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_method() -> str:
    """Forking starts at once and shares what is loaded, but not where other threads are at work."""
    is_alone = threading.active_count() == 1 and "tensorflow" not in sys.modules
    return "fork" if sys.platform == "linux" and is_alone else "spawn"


_state: Any = None


def _start_worker(make_state: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    global _state
    # Ctrl-C reaches all processes of a terminal. The main one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    _state = make_state(*arguments)


def _do_nothing() -> None:
    pass


def _run(function: Callable[[Any, Any], Any], task: Any) -> Any:
    return function(_state, task)

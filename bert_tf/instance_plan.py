"""Takes planned instances, returns them in their random order, from disk; next: masking.

Sections of the text plan their instances one by one, in any process. What they plan is sorted in
runs that fit in memory, and the runs lie end to end in one file that is mapped into memory. The
instances of any part of the order are then found by bisection.
"""

import bisect
import json
import mmap
import pathlib
import shutil
from collections.abc import Iterable, Sequence

import numpy as np

from bert_tf.pretraining_data import INSTANCE

_RUN = 1 << 19  # instances that are sorted at once
_END = 1 << 64  # behind every place in the order


def write_runs(planned: Iterable[np.ndarray], path: pathlib.Path) -> list[int]:
    """Sorts instances in runs.

    Args:
        planned: INSTANCE [n], several.
        path: of the file that gets the runs.

    Returns:
        The lengths of the runs.
    """
    lengths: list[int] = []
    with path.open("wb") as file:
        gathered: list[np.ndarray] = []

        def write_run() -> None:
            instances = np.concatenate(gathered)
            order = np.argsort(instances["order"], kind="stable")
            file.write(instances[order].tobytes())
            lengths.append(len(instances))
            gathered.clear()

        for instances in planned:
            gathered.append(instances)
            if sum(map(len, gathered)) >= _RUN:
                write_run()
        if gathered:
            write_run()
    return lengths


def join_runs(parts: Sequence[tuple[pathlib.Path, list[int]]], folder: pathlib.Path) -> None:
    """Puts the runs of all parts into one file, in a folder that appears when it is whole."""
    temporary = folder.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    with (temporary / "instances").open("wb") as file:
        for path, _ in parts:
            with path.open("rb") as part:
                shutil.copyfileobj(part, file)
            path.unlink()
    lengths = [length for _, lengths in parts for length in lengths]
    (temporary / "runs.json").write_text(json.dumps(lengths))
    temporary.rename(folder)


class InstancePlan:
    """All instances that are to be made.

    Args:
        folder: what ``join_runs`` made.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        lengths = json.loads((folder / "runs.json").read_text())
        with (folder / "instances").open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        instances = np.frombuffer(self._map, INSTANCE)
        self._runs = np.split(instances, np.cumsum(lengths)[:-1])

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def bounds(self, num_parts: int) -> list[int]:
        """Where to cut the order into parts whose sizes differ by at most one.

        Returns:
            ``num_parts`` + 1 places; part i has the instances from place i to place i + 1.
        """
        inner = (len(self) * i // num_parts for i in range(1, num_parts))
        return [0, *map(self._place_of, inner), _END]

    def select(self, start: int, end: int) -> np.ndarray:
        """The instances between two places, INSTANCE [n], in their order."""
        parts = []
        for number, run in enumerate(self._runs):
            first, last = (bisect.bisect_left(run["order"], place) for place in (start, end))
            parts.append(run[first:last].copy())
            self._release_now_and_then(number)
        instances = np.concatenate(parts)
        return instances[np.argsort(instances["order"], kind="stable")]

    def _release_now_and_then(self, number: int) -> None:
        """Gives back the memory of what was read, after every few runs."""
        if number % 16 == 15 or number == len(self._runs) - 1:
            self._map.madvise(mmap.MADV_DONTNEED)

    def _place_of(self, rank: int) -> int:
        """The first place that has so many instances before it."""

        def num_before(place: int) -> int:
            found = 0
            for number, run in enumerate(self._runs):
                found += bisect.bisect_left(run["order"], place)
                self._release_now_and_then(number)
            return found

        low, high = 0, _END
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if num_before(middle) < rank else (low, middle)
        return low

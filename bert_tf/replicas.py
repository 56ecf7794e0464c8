"""Takes batches and functions of them, returns what the replicas make of them; next: distribution.

Each device is a replica: it holds all of the weights and takes its rows of every global batch.
Which devices there are, tf.distribute's current strategy knows.

Axes: B = size of the global batch.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from bert_tf.errors import LostWorkerError

# The line of a TensorFlow error that says why a connection is no more.
_CAUSE = re.compile("aborted|connection|heartbeat|socket|timed out|recvmsg", re.IGNORECASE)
# How the lines begin that say where a node of a graph was made.
_FRAMES = ('File "', "<stack traces unavailable>")


def is_chief() -> bool:
    """Whether this process is the one that evaluates and writes files."""
    return bool(tf.distribute.get_strategy().extended.should_checkpoint)


def has_several_workers() -> bool:
    """Whether other processes train together with this one."""
    strategy = tf.distribute.get_strategy()
    return strategy.num_replicas_in_sync > _num_local_replicas(strategy)


def distributed(dataset_from: Callable[[], tf.data.Dataset]) -> Any:
    """Global batches -> what a step takes: each replica has its rows, in the batch's order.

    Every process goes through all of the batches, so that a replica's rows depend on its number
    alone.

    Args:
        dataset_from: gives the global batches: the first axis of each tensor is the batch's.
    """
    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync == 1:
        return dataset_from()

    def share(context: tf.distribute.InputContext) -> tf.data.Dataset:
        num_replicas = context.num_replicas_in_sync
        num_local = num_replicas // context.num_input_pipelines
        first = context.input_pipeline_id * num_local

        def split(batch: Any) -> tf.data.Dataset:
            parts = tf.nest.map_structure(lambda value: _parts(value, num_replicas), batch)
            mine = tf.nest.map_structure(lambda value: value[first : first + num_local], parts)
            return tf.data.Dataset.from_tensor_slices(mine)

        return dataset_from().flat_map(split).prefetch(2 * num_local)

    return strategy.distribute_datasets_from_function(share)


class OnReplicas:
    """A function of a batch, run on all of this process's devices, each with its rows.

    Args:
        function: of a dict of tensors whose first axis is the batch's.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._strategy = strategy = tf.distribute.get_strategy()
        self._num_replicas = _num_local_replicas(strategy)

        def run(batch: Any) -> Any:
            return strategy.experimental_local_results(strategy.run(function, args=(batch,)))

        self._run = tf.function(run, autograph=False, reduce_retracing=True)

    def __call__(self, batch: Any, spec: Any = None) -> list[Any]:
        """What the function gives for each part of the batch, in the order of its rows.

        Args:
            batch: as above. One that cannot be divided evenly stays whole.
            spec: of all batches, so that there is one graph for all of them.
        """
        if self._num_replicas == 1:
            run = self._run if spec is None else self._run.get_concrete_function(spec)
            return list(run(batch))
        num_rows = len(tf.nest.flatten(batch)[0])
        is_whole = num_rows % self._num_replicas > 0
        parts = (
            [batch] * self._num_replicas
            if is_whole
            else [
                tf.nest.map_structure(
                    lambda value, i=i: _parts(value, self._num_replicas)[i], batch
                )
                for i in range(self._num_replicas)
            ]
        )
        numbers = iter(range(self._num_replicas))
        values = self._strategy.experimental_distribute_values_from_function(
            lambda context: parts[next(numbers)]
        )
        results = list(self._run(values))
        return results[:1] if is_whole else results


def agreed(value: int) -> int:
    """The largest of all processes' values, once each of them has come here."""
    strategy = tf.distribute.get_strategy()
    if not has_several_workers():
        return value
    return int(tf.reduce_max(_all_values(strategy)(tf.constant(value))))


@functools.cache  # one graph
def _all_values(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    """This process's value, int32 [], -> those of all replicas, float32 [number of replicas]."""

    def places(value: tf.Tensor) -> tf.Tensor:
        # There is no collection among the reductions: each replica has its place in a sum.
        context = tf.distribute.get_replica_context()
        mine = tf.one_hot(context.replica_id_in_sync_group, strategy.num_replicas_in_sync)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, mine * tf.cast(value, tf.float32))

    def run(value: tf.Tensor) -> tf.Tensor:
        found = strategy.run(places, args=(value,))
        return strategy.experimental_local_results(found)[0]

    return tf.function(run, autograph=False)


@contextlib.contextmanager
def lost_workers_named() -> Iterator[None]:
    """Says in a user's terms that another process of the run is gone.

    Raises:
        LostWorkerError: instead of TensorFlow's errors about its connections.
    """
    try:
        yield
    except (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.InternalError,
    ) as error:
        if not has_several_workers():
            raise
        certainly = "probably " if isinstance(error, tf.errors.InternalError) else ""
        raise LostWorkerError(
            f"another worker is {certainly}gone ({_cause(error)}). See what it said at its "
            "end: if that is an error, mend it. Then give the same commands again: a run that has "
            "begun goes on from its last checkpoint, also with another number of workers"
        ) from error


def _cause(error: tf.errors.OpError) -> str:
    """Of an error's lines the one that says why: what was being run, and where, is before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    frames = [i for i, line in enumerate(lines) if line.startswith(_FRAMES)]
    first = frames[-1] + 1 if frames else 0
    number = next((i for i in range(first, len(lines)) if _CAUSE.search(lines[i])), first)
    cause = lines[number : number + 1]
    if cause and cause[0].endswith(":"):  # the next one names the worker
        cause = lines[number : number + 2]
    return " ".join(cause).rstrip(" .:") or type(error).__name__


def _num_local_replicas(strategy: tf.distribute.Strategy) -> int:
    if strategy.num_replicas_in_sync == 1:
        return 1  # TensorFlow's default strategy does not say
    return len(strategy.extended.worker_devices)


def _parts(value: tf.Tensor, number: int) -> tf.Tensor:
    """[B, …] -> [number, B / number, …]."""
    size = value.shape[0]
    shape = tf.concat(
        [[number, -1 if size is None else size // number], tf.shape(value)[1:]], axis=0
    )
    parts = tf.reshape(value, shape)
    return tf.ensure_shape(
        parts, [number, None if size is None else size // number, *value.shape[1:]]
    )

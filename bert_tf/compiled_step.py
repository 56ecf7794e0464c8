"""Takes a function of a batch, compiles it with XLA for every shape to come; next: training."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
import tqdm

logger = logging.getLogger(__name__)


class CompiledStep:
    """A function of a batch, which XLA compiles once for each shape.

    Args:
        function: of a batch, a dict of tensors; it may change variables.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = tf.function(
            function, autograph=False, jit_compile=True, reduce_retracing=True
        )

    def __call__(self, batch: Any) -> Any:
        """What the function gives."""
        return self._function(batch)

    def compile_ahead(
        self, dataset: tf.data.Dataset, variables: Sequence[tf.Variable], progress: float | None
    ) -> Iterator[None]:
        """Compiles for each shape of a batch, so that no step waits for it and rates are true.

        XLA compiles what is run, so that the first batch of each shape is run, and what it changed
        is put back.

        Args:
            dataset: all batches to come.
            variables: what the function changes.
            progress: seconds between updates of a line of progress; None for no such line.

        Yields:
            After each shape, for what is to be done meanwhile.
        """
        # With the shapes of all batches, as in the loop of steps: the same graph, so compiled once.
        run = tf.function(
            lambda batch: tf.distribute.get_strategy().run(self._function, args=(batch,)),
            autograph=False,
            input_signature=[dataset.element_spec],
        )
        firsts = _first_of_each_shape(dataset)
        values = [variable.numpy() for variable in variables]
        start = time.perf_counter()
        for batch in tqdm.tqdm(
            firsts,
            desc="compiling",
            unit="shape",
            mininterval=progress or 0.0,
            disable=progress is None,
        ):
            try:
                run(batch)
            finally:
                for variable, value in zip(variables, values, strict=True):
                    variable.assign(value)
            yield
        logger.info(
            "XLA compiled the step for %d shapes of a batch in %.1f s: %s",
            len(firsts),
            time.perf_counter() - start,
            ", ".join(_shape_of(batch) for batch in firsts),
        )


def _first_of_each_shape(dataset: tf.data.Dataset) -> list[Any]:
    """The largest first: what does not fit in memory fails at once."""
    specs = tf.nest.flatten(dataset.element_spec)
    if all(spec.shape.is_fully_defined() for spec in specs):
        dataset = dataset.take(1)
    firsts: dict[tuple[tuple[int, ...], ...], Any] = {}
    for batch in dataset:
        firsts.setdefault(tuple(tuple(v.shape) for v in tf.nest.flatten(batch)), batch)
    return sorted(firsts.values(), key=lambda batch: -int(tf.size(batch["input_ids"])))


def _shape_of(batch: Any) -> str:
    return " x ".join(map(str, batch["input_ids"].shape))

"""Takes a served model, returns it for another runtime, tried and compared; next: exporter.

Other runtimes take ids of word pieces: what the signature TOKENS takes, and return what of its
results are numbers. What was converted is run, and is the result only if it says the same.
"""

import contextlib
import dataclasses
import functools
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bert_tf import run_folder
from bert_tf.errors import InputError, reason
from bert_tf.export import litert, onnx_file
from bert_tf.export.served_model import (
    DEFAULT,
    TOKENS,
    Arrays,
    Run,
    ServedModel,
    Signature,
    Tensors,
    longer,
    saveable,
)
from bert_tf.use_config import PRECISIONS, Export

REPORT = "conversion.json"
_RUNTIMES: dict[str, Any] = {"litert": litert, "onnx": onnx_file}
# The batches that both are tried on: how many times each example has the sample's texts.
_BATCHES = ((2,), (3, 1, 2), (7, 1, 2, 3, 4, 5, 6, 7))
_CALLS = 5  # that are timed
# The most that outputs may differ by before a conversion counts as failed: of numbers, the norm of
# the difference as a share of theirs; of ids, which change where two scores are near each other,
# the share of those that are others. With 8 bits 0.13 was seen of a released checkpoint's vectors,
# and with random weights 0.15 and half of the ids; --dev_file tells what they change of many texts.
_TOLERANCES = {"float32": 1e-4, "float16": 3e-2, "int8": 0.3}
_OTHER_IDS = {"float32": 0.01, "float16": 0.1, "int8": 0.5}
_ROUNDING = 1e-5  # of float32, of a number of about 1


@dataclasses.dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
        bytes: size of the file.
        share: of the size of the weights in float32.
        differences: of each output, the largest from that of TensorFlow in float32; of ids, the
            share of those that are others.
        milliseconds: of one call, the median, by the shape of its rows, examples x pieces.
        tensorflow_milliseconds: the same of TensorFlow.
        metrics: of the examples that were given, if any.
        tensorflow_metrics: the same of TensorFlow.
    """

    bytes: int
    share: float
    differences: dict[str, float]
    milliseconds: dict[str, float]
    tensorflow_milliseconds: dict[str, float]
    metrics: dict[str, float]
    tensorflow_metrics: dict[str, float]

    def __str__(self) -> str:
        lines = [f"{self.bytes / 1e6:.1f} MB, {self.share:.2f} of the weights in float32"]
        lines += [
            f"  {name}: differs from TensorFlow's by {difference:.2g}"
            for name, difference in self.differences.items()
        ]
        lines += [
            f"  {shape}: {self.milliseconds[shape]:.2f} ms, TensorFlow {other:.2f} ms"
            for shape, other in self.tensorflow_milliseconds.items()
        ]
        lines += [
            f"  {name}: {self.metrics[name]:.4f}, TensorFlow {other:.4f}"
            for name, other in self.tensorflow_metrics.items()
        ]
        return "\n".join(lines)


def numbers(served: ServedModel) -> Signature:
    """The signature TOKENS without the results that are strings."""
    signature = served.signatures[TOKENS]

    def function(inputs: Tensors) -> Tensors:
        outputs = signature.function(inputs)
        return {name: value for name, value in outputs.items() if value.dtype != tf.string}

    return Signature(signature.inputs, function)


def convert(
    served: ServedModel, settings: Export, folder: pathlib.Path
) -> tuple[dict[str, Any], Report]:
    """Writes a model as the file of another runtime, and runs it.

    Args:
        served: the model, in float32.
        settings: of the export.
        folder: where the file goes.

    Returns:
        The traced function by its name, and what came of it.

    Raises:
        InputError: if the runtime cannot hold the model, or what was converted does not say what
            the model says.
    """
    measure = _measure(served, settings)  # a wrong file is found before the conversion's minutes
    runtime = _RUNTIMES[settings.runtime]
    module, traced = saveable({TOKENS: numbers(served)}, None)  # the module keeps the weights alive
    path = folder / runtime.FILE
    with _explained("converted", served, settings):
        runtime.write(module, traced[TOKENS], settings, path)
    with _explained("loaded", served, settings):
        converted = runtime.runner(path)

    def run(inputs: Arrays) -> Arrays:
        with _explained("run", served, settings):
            outputs: Arrays = converted(inputs)
        return outputs

    return traced, compare(served, traced[TOKENS], run, path, settings, measure)


@contextlib.contextmanager
def _explained(doing: str, served: ServedModel, settings: Export) -> Iterator[None]:
    """Turns what the code of another runtime raises inside into a message.

    That may be any exception: LiteRT's ConverterError and those of ONNX Runtime have no class in
    common but Exception, and tf2onnx raises what it stumbles over.

    Args:
        doing: what the model could not be.
        served: the model.
        settings: of the export.

    Raises:
        InputError: of them.
    """
    try:
        yield
    except (InputError, OSError, MemoryError):  # these say it themselves
        raise
    except Exception as error:
        others = ", ".join(name for name in PRECISIONS if name != settings.runtime)
        raise InputError(
            f"--runtime={settings.runtime}: the model for {served.task} cannot be {doing} in "
            f"{settings.precision}: {type(error).__name__}: {reason(error)}; give another "
            f"--runtime ({others}) or another --precision"
        ) from error


def _measure(served: ServedModel, settings: Export) -> Callable[[Run], dict[str, float]] | None:
    """What measures on the examples that are given, if any.

    Raises:
        InputError: if they cannot be read, or the task has no metrics.
    """
    if settings.dev_file is None:
        return None
    if served.measure_on is None:
        raise InputError(
            f"--dev_file: there are no metrics of {served.task}, only of classification, tagging, "
            "multiple_choice and question_answering; leave it out"
        )
    return served.measure_on(settings.dev_file)


def compare(
    served: ServedModel,
    function: Any,
    run: Run,
    path: pathlib.Path,
    settings: Export,
    measure: Callable[[Run], dict[str, float]] | None = None,
) -> Report:
    """Runs a converted model beside the one that it was made of.

    Args:
        served: the model.
        function: that it was made of, traced.
        run: the converted one.
        path: its file.
        settings: of the export.
        measure: for the metrics of both.

    Raises:
        InputError: if they do not say the same, as nearly as the precision allows.
    """
    what, precision = settings.runtime, settings.precision

    def exact(inputs: Arrays) -> Arrays:
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in function(**tensors).items()}

    outputs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    milliseconds, expected_milliseconds = {}, {}
    for repetitions in _BATCHES:
        inputs = _inputs(served, repetitions)
        found = run(inputs)
        for name, value in exact(inputs).items():
            if found[name].shape != value.shape or not np.isfinite(found[name]).all():
                raise InputError(
                    f"{what}: the converted model does not work: its {name} is "
                    f"{found[name].dtype} {found[name].shape}, expected finite {value.shape}"
                )
            outputs.setdefault(name, []).append((found[name].ravel(), value.ravel()))
        key = "x".join(map(str, inputs["input_ids"].shape))
        milliseconds[key] = _milliseconds(functools.partial(run, inputs))
        expected_milliseconds[key] = _milliseconds(functools.partial(exact, inputs))
    differences = {}
    for name, parts in outputs.items():
        converted, original = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        differences[name] = _difference(what, name, converted, original, precision)
    size = path.stat().st_size
    weights = sum(4 * int(np.prod(variable.shape)) for variable in function.variables)
    metrics, expected_metrics = (measure(one) if measure else {} for one in (run, exact))
    return Report(
        size,
        size / weights,
        differences,
        milliseconds,
        expected_milliseconds,
        metrics,
        expected_metrics,
    )


def _difference(
    what: str, name: str, found: np.ndarray, expected: np.ndarray, precision: str
) -> float:
    """How much an output differs; see Report.

    Raises:
        InputError: if that is more than the precision explains.
    """
    if np.issubdtype(expected.dtype, np.floating):
        largest = float(np.abs(found - expected).max())
        size = np.linalg.norm(expected) + _ROUNDING
        share = np.linalg.norm(found - expected) / size
        most = _TOLERANCES[precision] + _ROUNDING * np.sqrt(expected.size) / size
    else:
        share = np.mean(found != expected)
        largest = float(share)
        most = _OTHER_IDS[precision]
    if share > most:
        raise InputError(
            f"{what}: the converted model's {name} differs from TensorFlow's by {share:.2g} of "
            f"its size, more than {most:.2g} for {precision}; nothing is written"
        )
    return largest


def write_report(report: Report, folder: pathlib.Path) -> None:
    """Writes a report as JSON."""
    run_folder.write_json(folder / REPORT, dataclasses.asdict(report))


def _inputs(served: ServedModel, repetitions: Sequence[int]) -> Arrays:
    """The rows of a batch of the model's own texts, one example for each number of repetitions."""
    sample = served.sample[DEFAULT]
    texts = {
        name: tf.constant([longer(value, times) for times in repetitions])
        for name, value in sample.items()
    }
    return {name: rows.numpy() for name, rows in served.rows_of(texts).items()}


def _milliseconds(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_CALLS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)

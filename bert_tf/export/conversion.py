"""Takes a served model, returns it for another runtime, tried and compared; next: exporter.

Other runtimes take ids of word pieces: what the signature TOKENS takes, and return what of its
results are numbers. What was converted is run, and is the result only if it says the same.
"""

import dataclasses
import functools
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from bert_tf import run_folder
from bert_tf.errors import InputError
from bert_tf.export import litert, onnx_file
from bert_tf.export.served_model import (
    TOKENS,
    Arrays,
    Run,
    ServedModel,
    Signature,
    Tensors,
    saveable,
)
from bert_tf.use_config import Export

REPORT = "conversion.json"
_RUNTIMES: dict[str, Any] = {"litert": litert, "onnx": onnx_file}
# (examples, pieces) of the inputs that both are tried on: odd, of different lengths.
_SHAPES = ((1, 12), (3, 17), (8, 40))
_REPETITIONS = 5
# The most that outputs may differ by in the mean before a conversion counts as failed.
_TOLERANCES = {"float32": 1e-5, "float16": 5e-3, "int8": 0.2}


@dataclasses.dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
        bytes: size of the file.
        share: of the size of the weights in float32.
        differences: of each output, the largest from that of TensorFlow in float32; of integers,
            1 if any differ.
        milliseconds: of one call, the median, by examples x pieces.
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
            f"  {name}: differs by at most {difference:.2g} from TensorFlow's"
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
    if settings.runtime == "onnx" and served.config.hidden_act == "gelu_erf":
        raise InputError(
            "hidden_act gelu_erf: the converter to ONNX makes a wrong operation of it; convert the "
            "checkpoint with --hidden_act=gelu"
        )
    runtime = _RUNTIMES[settings.runtime]
    module, traced = saveable({TOKENS: numbers(served)}, None)  # the module keeps the weights alive
    path = folder / runtime.FILE
    runtime.write(module, traced[TOKENS], settings, path)
    return traced, compare(served, traced[TOKENS], runtime.runner(path), path, settings)


def compare(
    served: ServedModel, function: Any, run: Run, path: pathlib.Path, settings: Export
) -> Report:
    """Runs a converted model beside the one that it was made of.

    Args:
        served: the model.
        function: that it was made of, traced.
        run: the converted one.
        path: its file.
        settings: of the export.

    Raises:
        InputError: if they do not say the same, as nearly as the precision allows.
    """
    what, precision = settings.runtime, settings.precision

    def exact(inputs: Arrays) -> Arrays:
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in function(**tensors).items()}

    differences: dict[str, float] = {}
    means: dict[str, float] = {}
    milliseconds, expected_milliseconds = {}, {}
    for shape in _SHAPES:
        inputs = _inputs(function, *shape)
        expected, found = exact(inputs), run(inputs)
        for name, value in expected.items():
            if found[name].shape != value.shape or not np.isfinite(found[name]).all():
                raise InputError(
                    f"{what}: the converted model does not work: its {name} is "
                    f"{found[name].dtype} {found[name].shape}, expected finite {value.shape}"
                )
            is_exact = not np.issubdtype(value.dtype, np.floating)
            difference = found[name] != value if is_exact else np.abs(found[name] - value)
            differences[name] = max(float(difference.max()), differences.get(name, 0.0))
            means[name] = max(float(difference.mean()), means.get(name, 0.0))
        key = "x".join(map(str, shape))
        milliseconds[key] = _milliseconds(functools.partial(run, inputs))
        expected_milliseconds[key] = _milliseconds(functools.partial(exact, inputs))
    worst = max(means, key=lambda name: means[name])
    if means[worst] > _TOLERANCES[precision]:
        raise InputError(
            f"{what}: the converted model's {worst} differs by {means[worst]:.2g} from "
            f"TensorFlow's in the mean, more than {_TOLERANCES[precision]} for {precision}; "
            "nothing is written"
        )
    size = path.stat().st_size
    weights = sum(4 * int(np.prod(variable.shape)) for variable in function.variables)
    metrics, expected_metrics = (_measured(served, one, settings) for one in (run, exact))
    return Report(
        size,
        size / weights,
        differences,
        milliseconds,
        expected_milliseconds,
        metrics,
        expected_metrics,
    )


def _measured(served: ServedModel, run: Run, settings: Export) -> dict[str, float]:
    """The metrics of the examples that are given, if any."""
    if settings.dev_file is None:
        return {}
    if served.measure is None:
        raise InputError(
            f"--dev_file: it is for classifiers; there is no such measure of {served.task}"
        )
    return served.measure(settings.dev_file, run)


def write_report(report: Report, folder: pathlib.Path) -> None:
    """Writes a report as JSON."""
    run_folder.write_json(folder / REPORT, dataclasses.asdict(report))


def _inputs(function: Any, examples: int, pieces: int) -> Arrays:
    """Rows of random pieces, the later ones shorter; of what has three axes, two rows each."""
    random = np.random.default_rng(pieces)
    specs = function.structured_input_signature[1]
    axes = {len(spec.shape) for spec in specs.values()}
    shape = (examples, *[2] * (max(axes) - 2), pieces)
    lengths = np.maximum(2, pieces - 3 * np.arange(examples)).reshape(-1, *[1] * (len(shape) - 1))
    mask = np.broadcast_to(np.arange(pieces) < lengths, shape)
    made = {
        "input_ids": random.integers(5, 30, shape) * mask,
        "input_mask": mask,
        "segment_ids": 0 * mask,
    }
    places = np.broadcast_to(np.arange(1, 4), (examples, 3))  # of words or masks
    return {name: np.ascontiguousarray(made.get(name, places).astype(np.int32)) for name in specs}


def _milliseconds(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_REPETITIONS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)

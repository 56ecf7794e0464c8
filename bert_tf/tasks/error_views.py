"""Takes what an evaluation found, returns files to look at: worst errors, pictures; next: tasks."""

import io
import json
import pathlib
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bert_tf import run_folder
from bert_tf.calibration import Calibration
from bert_tf.tensorboard_file import TensorBoardFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ERRORS = 1000  # the worst that are written


def write_errors(
    folder: pathlib.Path, errors: Iterable[tuple[float, Mapping[str, Any]]], part: str = ""
) -> None:
    """Writes the worst errors, one JSON object per line, the highest loss first.

    Args:
        folder: the run's.
        errors: the loss of each example that the model got wrong (of numbers, of each), and what to
            say of it.
        part: which of several dev sets.
    """
    worst = sorted(errors, key=lambda error: -error[0])[:MOST_ERRORS]
    lines = (json.dumps({"loss": loss, **said}, ensure_ascii=False) + "\n" for loss, said in worst)
    name = run_folder.of_part(run_folder.EVAL_ERRORS, part)
    # Half of a surrogate pair, which JSON may hold, is written as JSON writes it.
    run_folder.write_bytes(folder / name, "".join(lines).encode(errors="backslashreplace"))


def write_confusion(
    folder: pathlib.Path,
    right: np.ndarray,
    predicted: np.ndarray,
    labels: tuple[str, ...],
    step: int,
    part: str = "",
) -> None:
    """Draws how often each label was taken for which, also for TensorBoard.

    Args:
        folder: the run's.
        right: int [n], numbers of labels.
        predicted: the same.
        labels: their names.
        step: of the training.
        part: which of several dev sets.
    """
    counts = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(counts, (right, predicted), 1)
    name = run_folder.of_part(run_folder.CONFUSION_MATRIX, part)
    from bert_tf.evaluation_plots import plot_confusion  # here: it takes a second to load

    _write_picture(folder / name, plot_confusion(counts, labels), step)


def write_calibration(
    folder: pathlib.Path, calibration: Calibration, step: int, part: str = ""
) -> None:
    """Draws a reliability diagram, also for TensorBoard."""
    name = run_folder.of_part(run_folder.CALIBRATION, part)
    from bert_tf.evaluation_plots import plot_calibration

    _write_picture(folder / name, plot_calibration(calibration), step)


def _write_picture(path: pathlib.Path, figure: "Figure", step: int) -> None:
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # characters that the font lacks are boxes
        figure.savefig(drawn, format="png", dpi=100)
    run_folder.write_bytes(path, drawn.getvalue())
    with TensorBoardFile(path.parent, ".pictures") as tensorboard:
        tensorboard.add_picture(step, path.stem, drawn.getvalue())

"""Takes train_log.jsonl of one or several runs, returns a picture of their curves; next: tasks.

A panel for each quantity, a color for each run. What is written at a step of training is drawn
thin and, smoothed, thick; what an evaluation found (``eval_…``) as points in the panel of the same
quantity.

Axes: n = logged values of one quantity.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter, StrMethodFormatter

from bert_tf.errors import InputError
from bert_tf.run_folder import TRAIN_LOG

EVAL = "eval_"
# Okabe and Ito's palette, which color-blind readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DARK, GREY, LIGHT = "#222222", "#666666", "#e6e6e6"
LOGGED: dict[str, Any] = {"linewidth": 0.6, "alpha": 0.3}
MEAN: dict[str, Any] = {"linewidth": 1.6}
EVALUATION: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 5,
    "markeredgecolor": "white",
    "markeredgewidth": 0.8,
}
NUM_COLUMNS = 3
PANEL_INCHES = (4.0, 2.7)  # width, height
SMOOTHING = 0.04  # share of a curve's points that a point of its thick line is the mean of
# In the order of the panels: the end of a quantity's name, and the unit of its axis. What ends in
# none of these, which an evaluation may give, comes last but has no unit.
UNITS = {
    "loss": "nats",
    "accuracy": "%",
    "learning_rate": "per step",
    "grad_norm": "L2 norm before clipping",
    "tokens_per_second": "tokens / s, without padding",
}


@dataclasses.dataclass(frozen=True)
class Curve:
    """One quantity of one run.

    Attributes:
        steps: float64 [n], whole numbers, rising.
        values: float64 [n].
    """

    steps: np.ndarray
    values: np.ndarray


def read_log(path: str | os.PathLike[str]) -> dict[str, Curve]:
    """The curves of a run by the names of its log.

    Args:
        path: of ``train_log.jsonl``, or of the run's folder. A last line without its end is left
            out: the run is writing it. So is a value that is null, which was not finite.

    Raises:
        InputError: naming the file, and the line that is not one of a log.
    """
    file = pathlib.Path(path)
    if file.is_dir():
        file = file / TRAIN_LOG
    try:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as error:
        raise InputError(
            f"{file}: cannot read it: {error.strerror}. Give the output_dir of a training run, or "
            f"its {TRAIN_LOG}"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a training log: {error}") from error
    points: dict[str, list[tuple[float, float]]] = {}
    last = -1.0
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            break
        values = _read_line(line, f"{file}:{number}")
        step = values.pop("step")
        if step <= last:
            raise InputError(f"{file}:{number}: step {step:g} comes after step {last:g}")
        last = step
        for name, value in values.items():
            if value is not None:
                points.setdefault(name, []).append((step, value))
    if not points:
        what = "step yet" if last < 0 else "finite value"
        raise InputError(f"{file}: holds no {what}")
    return {
        name: Curve(*(np.array(column, np.float64) for column in zip(*pairs, strict=True)))
        for name, pairs in points.items()
    }


def _read_line(line: str, place: str) -> dict[str, Any]:
    """The step, a number, and a number or None for each quantity."""
    try:
        values = json.loads(line)
    except ValueError as error:
        raise InputError(f"{place}: not JSON: {error}") from error
    if not isinstance(values, dict) or "step" not in values:
        raise InputError(f'{place}: expected an object like {{"step": 10, "loss": 0.7}}')
    for name, value in values.items():
        if type(value) not in (int, float) and not (value is None and name != "step"):
            raise InputError(f"{place}: {name} must be a number, but is {value!r}")
    return values


def plot_runs(runs: dict[str, dict[str, Curve]]) -> Figure:
    """Draws runs into one picture.

    Args:
        runs: what to call each, and its curves.

    Raises:
        InputError: for more runs than there are colors.
    """
    if len(runs) > len(COLORS):
        raise InputError(f"at most {len(COLORS)} runs fit into one picture, but got {len(runs)}")
    names = _panels({name for curves in runs.values() for name in curves})
    num_rows = math.ceil(len(names) / NUM_COLUMNS)
    num_columns = min(NUM_COLUMNS, len(names))
    figure = Figure(
        figsize=(PANEL_INCHES[0] * num_columns, PANEL_INCHES[1] * num_rows + 0.5),
        layout="constrained",
    )
    grid = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    last_step = max(curve.steps[-1] for curves in runs.values() for curve in curves.values())
    for axes, name in zip(grid, names, strict=False):
        for color, curves in zip(COLORS, runs.values(), strict=False):
            _draw(axes, name, curves, color)
        _label(axes, name, last_step)
    for axes in grid[len(names) :]:
        axes.remove()
    _add_legend(figure, runs)
    return figure


def _panels(names: set[str]) -> list[str]:
    """The quantities that get a panel, in order: losses, accuracies, …, speed."""
    quantities = {name.removeprefix(EVAL) for name in names} - {"examples_per_second"}
    return sorted(quantities, key=lambda name: (_kind(name), len(name), name))


def _kind(name: str) -> int:
    """The number of a quantity's unit; behind all of them if it has none."""
    return next((i for i, end in enumerate(UNITS) if name.endswith(end)), len(UNITS))


def _draw(axes: Axes, name: str, curves: dict[str, Curve], color: str) -> None:
    if name in curves:
        steps, values = curves[name].steps, curves[name].values
        window = 1 if name == "learning_rate" else max(1, round(len(values) * SMOOTHING))
        if window > 1:
            axes.plot(steps, values, color=color, gid="logged", **LOGGED)
        marker = "." if len(values) == 1 else None  # one point makes no line
        axes.plot(steps, smooth(values, window), color=color, marker=marker, gid="mean", **MEAN)
    if EVAL + name in curves:
        curve = curves[EVAL + name]
        axes.plot(
            curve.steps, curve.values, color=color, zorder=3, clip_on=False, gid="evaluation",
            **EVALUATION,
        )  # fmt: skip


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Means over windows around each value, shorter ones at the ends: float64 [n] -> [n]."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _label(axes: Axes, name: str, last_step: int) -> None:
    unit = [*UNITS.values(), ""][_kind(name)]
    title = name.replace("_", " ").replace("masked lm", "masked LM")
    axes.set_title(title, loc="left", fontsize=10, color=DARK, fontweight="bold")
    axes.set_ylabel(unit, fontsize=8, color=GREY)
    axes.set_xlabel("step", fontsize=8, color=GREY)
    axes.set_xlim(0, 1.02 * max(last_step, 1))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if unit == "%":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    if name == "learning_rate":
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda rate, _: f"{rate:.1e}" if rate else "0")
        )
    if name.endswith("per_second"):
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_ylim(bottom=0.0)
    axes.grid(color=LIGHT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=8, colors=GREY)


def _add_legend(figure: Figure, labels: Iterable[str]) -> None:
    """The runs by color, and what is drawn of them by style."""
    drawn = {line.get_gid() for axes in figure.axes for line in axes.get_lines()}
    styles = [
        Line2D([], [], color=GREY, label=text, **style)
        for gid, text, style in (
            ("logged", "as logged", LOGGED),
            ("logged", "mean of neighbors", MEAN),
            ("evaluation", "evaluation", EVALUATION),
        )
        if gid in drawn
    ]
    handles = [
        Line2D([], [], color=color, label=label, **MEAN)
        for color, label in zip(COLORS, labels, strict=False)
    ]
    figure.legend(
        handles=[*handles, *styles], loc="outside upper left", ncols=4, frameon=False,
        fontsize=9, labelcolor=DARK,
    )  # fmt: skip


def plot_training(logs: Sequence[str], output: str | os.PathLike[str]) -> None:
    """Writes a picture of runs as a PNG file, whole or not at all.

    Args:
        logs: paths as for ``read_log``.
        output: the file; one that is there already is replaced.

    Raises:
        InputError: if a log or the output is not as it should be.
    """
    path = pathlib.Path(output)
    if path.suffix.lower() != ".png":
        raise InputError(f"--output={output}: the name must end in .png")
    figure = plot_runs({log.removesuffix(f"/{TRAIN_LOG}"): read_log(log) for log in logs})
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        figure.savefig(temporary, format="png", dpi=150)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"--output={output}: cannot write it: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()

"""Takes what an evaluation found, returns pictures of it; next: tasks.

Axes: L = num_labels.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from bert_tf.calibration import NUM_BINS, Calibration

BLUE, GREY, LIGHT = "#0072B2", "#666666", "#e6e6e6"
LONGEST = 30  # characters of a label that are shown
WRITTEN = 30  # in a matrix of at most so many labels, the numbers are written


def plot_confusion(counts: np.ndarray, labels: Sequence[str]) -> Figure:
    """A confusion matrix: rows are the right labels, columns the predicted ones.

    Args:
        counts: int64 [L, L]; a cell's color is its share of its row.
        labels: the names of rows and columns.
    """
    size = len(labels)
    inches = min(3.0 + 0.45 * size, 16.0)
    figure = Figure(figsize=(inches + 1.0, inches), layout="constrained")
    axes = figure.add_subplot()
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    figure.colorbar(image, ax=axes, format=PercentFormatter(1.0), label="share of the row")
    if size <= WRITTEN:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                text = f"{count:,}"
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    # A dollar sign in a label is no formula.
    names = [label if len(label) <= LONGEST else f"{label[:LONGEST]}…" for label in labels]
    axes.set_xticks(range(size), names, rotation=90, parse_math=False)
    axes.set_yticks(range(size), names, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("right")
    return figure


def plot_calibration(calibration: Calibration) -> Figure:
    """A reliability diagram: the share that is right by confidence, and the number of answers."""
    figure = Figure(figsize=(5.0, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = calibration.counts > 0
    edges = np.arange(NUM_BINS) / NUM_BINS
    bars = {"width": 1 / NUM_BINS, "align": "edge", "edgecolor": "white"}
    upper.bar(edges[filled], calibration.accuracies[filled], color=BLUE, **bars)
    upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    upper.plot(
        calibration.confidences[filled],
        calibration.accuracies[filled],
        color="black", marker="o", markersize=4, linewidth=1,
    )  # fmt: skip
    upper.set_ylim(0, 1)
    upper.set_ylabel("share that is right")
    upper.set_title(f"expected calibration error {calibration.error:.3f}", fontsize=10)
    lower.bar(edges, calibration.counts, color=LIGHT, **bars)
    lower.set_ylabel("answers")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lower.set_xlabel("confidence")
    for axes in (upper, lower):
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.spines[["top", "right"]].set_visible(False)
    upper.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure

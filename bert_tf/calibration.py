"""Takes a model's confidence in its answers, returns how far it can be relied on; next: tasks.

Axes: n = number of answers, K = number of bins.
"""

from typing import NamedTuple

import numpy as np

NUM_BINS = 15


class Calibration(NamedTuple):
    """Answers of similar confidence, bin by bin; in an empty bin all is 0.

    Attributes:
        counts: int64 [K], answers in each bin; bin k is of confidences in (k / K, (k + 1) / K].
        confidences: float64 [K], their mean confidence.
        accuracies: float64 [K], the share of them that is right.
    """

    counts: np.ndarray
    confidences: np.ndarray
    accuracies: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error, 0 to 1.

        The mean over all answers of the distance between their bin's confidence and its accuracy
        (Guo et al. 2017, arXiv 1706.04599, equation 3, with its 15 bins).
        """
        distances = np.abs(self.confidences - self.accuracies)
        return float(np.sum(self.counts * distances) / np.sum(self.counts))


def calibrate(confidences: np.ndarray, is_right: np.ndarray) -> Calibration:
    """Compares confidence with accuracy.

    Args:
        confidences: float [n], probabilities.
        is_right: bool [n].
    """
    confidences = confidences.astype(np.float64)
    bins = np.clip(np.ceil(confidences * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    sums = (np.bincount(bins, values, NUM_BINS) for values in (confidences, is_right))
    means = [np.divide(total, counts, out=np.zeros(NUM_BINS), where=counts > 0) for total in sums]
    return Calibration(counts, *means)

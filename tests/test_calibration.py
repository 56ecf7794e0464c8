"""Tests of bert_tf.calibration, against a count in a loop."""

import numpy as np
import pytest

from bert_tf.calibration import NUM_BINS, calibrate


def test_bins_and_the_error_are_those_of_a_count():
    rng = np.random.default_rng(2)
    confidences = rng.uniform(size=211).astype(np.float32)
    confidences[:4] = 0.0, 1.0, 1 / NUM_BINS, 2 / NUM_BINS
    is_right = rng.uniform(size=211) < confidences**2
    found = calibrate(confidences, is_right)
    error, seen = 0.0, 0
    for k in range(NUM_BINS):
        low, high = k / NUM_BINS, (k + 1) / NUM_BINS
        inside = [
            i
            for i, value in enumerate(confidences.astype(np.float64))
            if low < value <= high or (k == 0 and value == 0)
        ]
        assert found.counts[k] == len(inside)
        seen += len(inside)
        if inside:
            assert found.confidences[k] == pytest.approx(confidences[inside].mean(), rel=1e-6)
            assert found.accuracies[k] == pytest.approx(is_right[inside].mean())
            error += len(inside) * abs(confidences[inside].mean() - is_right[inside].mean()) / 211
    assert seen == 211
    assert found.error == pytest.approx(error, rel=1e-5)
    assert found.error > 0.1


def test_a_model_that_knows_what_it_knows_has_no_error():
    confidences = np.array([1.0, 1.0, 0.0, 0.5, 0.5])
    found = calibrate(confidences, np.array([True, True, False, True, False]))
    assert found.error == 0.0
    assert found.counts.sum() == 5
    assert not found.confidences[3]  # an empty bin

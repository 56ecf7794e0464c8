"""Tests of bert_tf.answer_metrics: cases that the data sets' own scripts were read for."""

import itertools

import numpy as np
import pytest

from bert_tf.answer_metrics import answer_metrics, answer_scores, best_thresholds, normalized


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat, sat!", "cat sat"),
        ("a theatre of an Athens", "theatre of athens"),  # whole words only
        ("U.S.", "us"),
        ("the-a", "thea"),  # marks go first, so these are no articles any more
        ("“quoted” – dash", "“quoted” – dash"),  # only ASCII marks go
        ("An", ""),
    ],
)
def test_normalizing(text, expected):
    assert normalized(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "version_1", "version_2"),
    [
        ("the cat", ["Cat."], (1, 1), (1, 1)),
        ("black cat", ["the cat", "black black cat"], (0, 0.8), (0, 0.8)),
        ("cat cat", ["cat"], (0, 2 / 3), (0, 2 / 3)),
        ("dog", ["cat", "dog"], (1, 1), (1, 1)),
        ("dog", ["cat"], (0, 0), (0, 0)),
        ("", ["cat"], (0, 0), (0, 0)),
        ("a", ["the"], (1, 0), (1, 1)),  # nothing is left of both
        ("cat", ["the", "cat"], (1, 1), (1, 1)),
        ("", ["the", "cat"], (1, 0), (0, 0)),  # 2.0 leaves out an answer that is empty
    ],
)
def test_scores_of_one_answer(prediction, answers, version_1, version_2):
    assert answer_scores(prediction, answers, with_null=False) == pytest.approx(version_1)
    assert answer_scores(prediction, answers, with_null=True) == pytest.approx(version_2)


def test_no_answer_is_right_where_there_is_none():
    assert answer_scores("", [], with_null=True) == (1, 1)
    assert answer_scores("cat", [], with_null=True) == (0, 0)


def test_means_are_percentages():
    predictions, answers = ["cat", "black cat", "", "dog"], [["cat"], ["cat"], [], []]
    found = answer_metrics(predictions, answers, with_null=True)
    assert found == pytest.approx(
        {
            "exact_match": 50.0,
            "f1": 100 * (1 + 2 / 3 + 1 + 0) / 4,
            "HasAns_exact": 50.0,
            "HasAns_f1": 100 * (1 + 2 / 3) / 2,
            "NoAns_exact": 50.0,
            "NoAns_f1": 50.0,
        }
    )
    found = answer_metrics(predictions[:2], answers[:2], with_null=False)
    assert found == pytest.approx({"exact_match": 50.0, "f1": 100 * (1 + 2 / 3) / 2})
    assert "NoAns_f1" not in answer_metrics(predictions[:2], answers[:2], with_null=True)


def test_the_best_threshold_is_the_best_of_all():
    rng = np.random.default_rng(3)
    for size in (1, 2, 7, 12):
        for _ in range(30):
            answers = [[["cat"], ["black cat"], []][k] for k in rng.integers(0, 3, size)]
            predictions = [["cat", "dog"][k] for k in rng.integers(0, 2, size)]
            odds = (rng.integers(-4, 5, size) / 2).tolist()
            found = best_thresholds(predictions, odds, answers)
            for name, key in (("exact", "exact_match"), ("f1", "f1")):

                def score(threshold, key=key, given=(predictions, odds, answers)):
                    chosen = ["" if o > threshold else p for p, o in zip(*given[:2], strict=True)]
                    return answer_metrics(chosen, given[2], with_null=True)[key]

                everywhere = itertools.chain(odds, [min(odds) - 1])
                best = max(map(score, everywhere))
                assert found[name].score == pytest.approx(best)
                assert score(found[name].value) == pytest.approx(best)
                assert min(abs(value - found[name].value) for value in odds) > 0.2

"""Takes answers and the right ones, returns SQuAD's numbers; next: training.

The definitions are those of the data set's own scripts, evaluate-v1.1.py and evaluate-v2.0.py
(Rajpurkar et al. 2016, arXiv 1606.05250; 2018, arXiv 1806.03822). Scores are percentages, as there.
"""

import collections
import re
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Scores(NamedTuple):
    """How right an answer is, 0 to 1."""

    exact: float
    f1: float


def normalized(text: str) -> str:
    """A text in lower case, without punctuation and articles, and with single spaces."""
    without_marks = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", without_marks).split())


def answer_scores(prediction: str, answers: Sequence[str], *, with_null: bool) -> Scores:
    """How right an answer is, by the right answer that it is nearest to.

    Args:
        prediction: empty for no answer.
        answers: all that are right; none if the question has none.
        with_null: whether as in version 2.0, where no answer may be right: there a right answer of
            which normalizing leaves nothing does not count, and F1 is 1 if nothing is left of
            both. In version 1.1 that F1 is 0.
    """
    if with_null:
        answers = [answer for answer in answers if normalized(answer)] or [""]
    found = [_scores(prediction, answer, with_null) for answer in answers]
    return Scores(max(exact for exact, _ in found), max(f1 for _, f1 in found))


def _scores(prediction: str, answer: str, with_null: bool) -> Scores:
    one, other = normalized(prediction), normalized(answer)
    exact = float(one == other)
    words, right = one.split(), other.split()
    if with_null and not (words and right):
        return Scores(exact, exact)
    common = (collections.Counter(words) & collections.Counter(right)).total()
    if common == 0:
        return Scores(exact, 0.0)
    precision, recall = common / len(words), common / len(right)
    return Scores(exact, 2 * precision * recall / (precision + recall))


def answer_metrics(
    predictions: Sequence[str], answers: Sequence[Sequence[str]], *, with_null: bool
) -> dict[str, float]:
    """Exact match and F1 over all questions.

    Args:
        predictions: one for each question, at least one.
        answers: of each question, those that are right.
        with_null: see ``answer_scores``.

    Returns:
        ``exact_match`` and ``f1``, and, with_null, ``HasAns_exact``, ``HasAns_f1``,
        ``NoAns_exact`` and ``NoAns_f1`` of the questions with and without an answer, if there are
        any.
    """
    scores = np.array(
        [
            answer_scores(prediction, right, with_null=with_null)
            for prediction, right in zip(predictions, answers, strict=True)
        ]
    )
    parts: dict[str, np.ndarray] = {"": np.ones(len(scores), bool)}
    if with_null:
        has_answer = np.array([bool(right) for right in answers])
        parts |= {"HasAns_": has_answer, "NoAns_": ~has_answer}
    found: dict[str, float] = {}
    for prefix, part in parts.items():
        if part.any():
            exact, f1 = (100.0 * scores[part].mean(axis=0)).tolist()
            found |= {f"{prefix}exact" if prefix else "exact_match": exact, f"{prefix}f1": f1}
    return found


class Threshold(NamedTuple):
    """What a question's null odds must be above for no answer to be given.

    Attributes:
        value: the threshold.
        score: the mean score that it gives, a percentage.
    """

    value: float
    score: float


def best_thresholds(
    predictions: Sequence[str], null_odds: Sequence[float], answers: Sequence[Sequence[str]]
) -> Mapping[str, Threshold]:
    """The thresholds with the best exact match and the best F1 (find_best_thresh of version 2.0).

    Args:
        predictions: of each question the best that is an answer.
        null_odds: of each question, how much better no answer is than that.
        answers: of each question, those that are right; none if it has no answer.

    Returns:
        For ``exact`` and ``f1``, the lowest of equal ones. The script's is one of the odds, which
        rounding may take to either side; this is halfway to the next higher ones (1 beyond the
        lowest or highest), which gives the same answers.
    """
    scores = np.array(
        [
            answer_scores(prediction, right, with_null=True)
            for prediction, right in zip(predictions, answers, strict=True)
        ]
    )
    without = np.array([not right for right in answers], np.float64)  # the scores of no answer
    odds = np.array(null_odds, np.float64)
    order = np.argsort(odds, kind="stable")
    edges = np.array([odds.min() - 2.0, *odds[order], odds.max() + 2.0])
    found = {}
    for name, column in (("exact", scores[:, 0]), ("f1", scores[:, 1])):
        # The total if the first k questions are answered, k = 0, 1, …
        totals = np.cumsum(np.append(without.sum(), (column - without)[order]))
        # Questions of equal odds are answered together.
        last_of_equals = np.append(np.diff(odds[order]) > 0, True)
        totals[1:][~last_of_equals] = -np.inf
        best = int(np.argmax(totals))
        value = float(edges[best : best + 2].mean())
        found[name] = Threshold(value, 100.0 * float(totals[best]) / len(scores))
    return found

"""Takes start and end logits of a question's rows, returns its best answers; next: tasks.

The rules are those of write_predictions in run_squad.py of google-research/bert: of each row, the
``n_best_size`` best starts and ends; of their pairs, those that lie in the context, in this order
and not too long, and start where the row has the most around the start; of these, the best with
different texts.

Axes: R = rows of the question, S = seq_length.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.special

from bert_tf.context_windows import best_rows

NO_SPAN = "empty"  # what the original calls an answer where no pair is permitted
NO_OTHER = 1e9  # the odds of no answer where no pair is permitted; JSON has no infinity


class Span(NamedTuple):
    """Pieces of a context, ``first`` to ``last``."""

    first: int
    last: int


class Answer(NamedTuple):
    """One of a question's answers.

    Attributes:
        text: of the answer; empty for no answer.
        span: its pieces; None for no answer, and for NO_SPAN.
        start_logit: of its first piece.
        end_logit: of its last piece.
    """

    text: str
    span: Span | None
    start_logit: float
    end_logit: float

    @property
    def score(self) -> float:
        """What answers are ranked by."""
        return self.start_logit + self.end_logit


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of one question.

    Attributes:
        starts: int64 [R], the first piece of the context that each shows.
        lengths: int64 [R], how many pieces of the context each shows.
        segment_start: the position of the first of them.
        start_logits: float32 [R, S]; what they are beyond a row's end does not matter.
        end_logits: the same.
    """

    starts: np.ndarray
    lengths: np.ndarray
    segment_start: int
    start_logits: np.ndarray
    end_logits: np.ndarray


def best_answers(
    rows: Rows,
    text_of: Callable[[Span], str],
    *,
    n_best_size: int,
    max_answer_length: int,
    with_null: bool,
) -> list[Answer]:
    """The best answers with different texts, best first.

    Args:
        rows: of the question.
        text_of: the text of a span.
        n_best_size: how many starts, ends and answers.
        max_answer_length: longest answer in pieces.
        with_null: whether no answer is one. It is among them then, whatever its rank, and so is
            the best span, if one is permitted.

    Returns:
        At least one; if no span is permitted, no answer, or without it NO_SPAN with logits of 0.
    """
    null = null_answer(rows) if with_null else None
    answers: list[Answer] = []
    seen: set[str] = set()
    for span, start_logit, end_logit in _ranked_spans(rows, n_best_size, max_answer_length):
        if null is not None and null not in answers and start_logit + end_logit < null.score:
            answers.append(null)
        if len(answers) >= n_best_size and seen:
            break
        text = text_of(span)
        if text not in seen:
            seen.add(text)
            answers.append(Answer(text, span, start_logit, end_logit))
    if null is None:
        return answers or [Answer(NO_SPAN, None, 0.0, 0.0)]
    return answers if null in answers else [*answers, null]


def best_answer(answers: Sequence[Answer]) -> Answer:
    """Of a question's answers the best that is one; no answer, if there is no other."""
    return next((answer for answer in answers if answer.text), answers[0])


def null_odds(answers: Sequence[Answer]) -> float:
    """How much better no answer is than the best that is one; NO_OTHER if there is none."""
    null = next(answer for answer in answers if not answer.text)
    best = best_answer(answers)
    return null.score - best.score if best.text else NO_OTHER


def chosen_answer(answers: Sequence[Answer], threshold: float | None) -> Answer:
    """The answer that is given.

    Args:
        answers: of ``best_answers``.
        threshold: no answer is given if the null odds are above it; None if there is always one.
    """
    if threshold is None:
        return answers[0]
    if null_odds(answers) > threshold:
        return next(answer for answer in answers if not answer.text)
    return best_answer(answers)


def probabilities(answers: Sequence[Answer]) -> list[float]:
    """Of each of a question's answers, as if there were no others."""
    found: list[float] = scipy.special.softmax([answer.score for answer in answers]).tolist()
    return found


def null_answer(rows: Rows) -> Answer:
    """No answer: the logits of ``[CLS]`` in the row in which they are the lowest."""
    scores = rows.start_logits[:, 0].astype(np.float64) + rows.end_logits[:, 0]
    row = int(np.argmin(scores))
    return Answer("", None, float(rows.start_logits[row, 0]), float(rows.end_logits[row, 0]))


def _ranked_spans(
    rows: Rows, n_best_size: int, max_answer_length: int
) -> Iterator[tuple[Span, float, float]]:
    """The permitted pairs with their logits, best first; of equals, the first row's best start."""
    position = np.arange(rows.start_logits.shape[1])
    last = rows.segment_start + rows.lengths[:, np.newaxis]  # [R, 1], where the second [SEP] is
    piece = rows.starts[:, np.newaxis] + position - rows.segment_start  # [R, S]
    is_end = (position >= rows.segment_start) & (position < last)
    owner = best_rows(rows.starts, rows.lengths)
    is_start = is_end.copy()
    is_start[is_end] = owner[piece[is_end]] == np.nonzero(is_end)[0]

    best = [
        np.argsort(np.where(position <= last, -logits, np.inf), axis=1, kind="stable")
        for logits in (rows.start_logits, rows.end_logits)
    ]
    starts, ends = (order[:, :n_best_size] for order in best)  # [R, n] each
    row = np.arange(len(starts))[:, np.newaxis]
    start, end = starts[:, :, np.newaxis], ends[:, np.newaxis, :]
    permitted = is_start[row, starts][:, :, np.newaxis] & is_end[row, ends][:, np.newaxis, :]
    permitted &= (end >= start) & (end - start < max_answer_length)  # [R, n, n]
    row, i, j = np.nonzero(permitted)
    start, end = starts[row, i], ends[row, j]
    start_logits = rows.start_logits[row, start].astype(np.float64)
    end_logits = rows.end_logits[row, end].astype(np.float64)
    for k in np.argsort(-(start_logits + end_logits), kind="stable"):
        first, final = piece[row[k], start[k]], piece[row[k], end[k]]
        yield Span(int(first), int(final)), float(start_logits[k]), float(end_logits[k])

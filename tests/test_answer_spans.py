"""Tests of bert_tf.answer_spans, against the original's rules in loops."""

import numpy as np
import pytest

from bert_tf.answer_spans import (
    NO_OTHER,
    NO_SPAN,
    Rows,
    Span,
    best_answer,
    best_answers,
    chosen_answer,
    null_answer,
    null_odds,
    probabilities,
)


def slow_max_context(starts, lengths, row, piece):
    """_check_is_max_context of run_squad.py."""
    best = None
    for number, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        if start <= piece < start + length:
            score = min(piece - start, start + length - 1 - piece) + 0.01 * length
            if best is None or score > best[0]:
                best = score, number
    return best[1] == row


def slow_best_answers(rows, text_of, n_best_size, max_answer_length, with_null):
    """write_predictions of run_squad.py, as (text, start logit, end logit)."""
    found = []
    null = (np.inf, None)
    for row, (start, length) in enumerate(zip(rows.starts, rows.lengths, strict=True)):
        size = rows.segment_start + length + 1
        starts, ends = rows.start_logits[row][:size], rows.end_logits[row][:size]
        if float(starts[0]) + float(ends[0]) < null[0]:
            null = float(starts[0]) + float(ends[0]), (float(starts[0]), float(ends[0]))

        tops = [
            sorted(range(size), key=lambda place, of=logits: -of[place])[:n_best_size]
            for logits in (starts, ends)
        ]
        for i in tops[0]:
            for j in tops[1]:
                pieces = [start + place - rows.segment_start for place in (i, j)]
                if not all(start <= piece < start + length for piece in pieces):
                    continue
                if not slow_max_context(rows.starts, rows.lengths, row, pieces[0]):
                    continue
                if j < i or j - i + 1 > max_answer_length:
                    continue
                found.append((text_of(Span(*pieces)), float(starts[i]), float(ends[j])))
    if with_null:
        found.append(("", *null[1]))
    found.sort(key=lambda item: -(item[1] + item[2]))
    answers, seen = [], set()
    for item in found:
        # The original stops here, with n_best_size 1 even before it has an answer.
        if len(answers) >= n_best_size and seen - {""}:
            break
        if item[0] not in seen:
            seen.add(item[0])
            answers.append(item)
    if with_null and "" not in seen:
        answers.append(("", *null[1]))
    return answers or [(NO_SPAN, 0.0, 0.0)]


def make_rows(rng, *, starts, lengths, segment_start, spread):
    size = segment_start + max(lengths) + 4  # some padding
    # Few different values, so that there are equals.
    logits = rng.integers(-spread, spread, (2, len(starts), size)).astype(np.float32) / 4
    return Rows(np.array(starts), np.array(lengths), segment_start, *logits)


@pytest.mark.parametrize("with_null", [False, True])
@pytest.mark.parametrize("n_best_size", [1, 4, 50])
def test_answers_are_those_of_the_originals_rules(with_null, n_best_size):
    rng = np.random.default_rng(7)
    for trial in range(60):
        several = trial % 3
        rows = make_rows(
            rng,
            starts=[0, 5, 10][: several + 1],
            lengths=[11, 11, 6][: several + 1],
            segment_start=4,
            spread=int(rng.integers(2, 40)),
        )
        words = [f"w{piece % 6}" for piece in range(21)]  # so that texts recur

        def text_of(span, words=words):
            return " ".join(words[span.first : span.last + 1])

        arguments = {"n_best_size": n_best_size, "max_answer_length": 3, "with_null": with_null}
        found = best_answers(rows, text_of, **arguments)
        expected = slow_best_answers(rows, text_of, *arguments.values())
        assert [(a.text, a.start_logit, a.end_logit) for a in found] == expected
        for answer in found:
            assert (answer.span is None) == (answer.text in ("", NO_SPAN))
            if answer.span is not None:
                assert text_of(answer.span) == answer.text


def test_where_nothing_is_permitted():
    rows = Rows(np.array([0]), np.array([2]), 3, np.full((1, 7), -1.0), np.full((1, 7), -1.0))
    rows.start_logits[0, 4] = rows.end_logits[0, 3] = 5.0  # the end before the start
    found = best_answers(rows, str, n_best_size=1, max_answer_length=9, with_null=False)
    assert [(a.text, a.span, a.score) for a in found] == [(NO_SPAN, None, 0.0)]
    found = best_answers(rows, str, n_best_size=1, max_answer_length=9, with_null=True)
    assert [(answer.text, answer.score) for answer in found] == [("", -2.0)]
    assert null_odds(found) == NO_OTHER
    assert best_answer(found) == chosen_answer(found, 0.0) == found[0]


def test_no_answer_has_the_logits_of_the_row_that_believes_in_it_least():
    start_logits = np.array([[5.0, 0, 0, 1, 0], [1.0, 0, 0, 2, 0]], np.float32)
    rows = Rows(np.array([0, 1]), np.array([1, 1]), 3, start_logits, start_logits)
    assert null_answer(rows).score == 2.0
    found = best_answers(
        rows, lambda span: f"{span.first}", n_best_size=3, max_answer_length=9, with_null=True
    )
    # Of equals, no answer is the last.
    assert [(answer.text, answer.score) for answer in found] == [("1", 4.0), ("0", 2.0), ("", 2.0)]
    assert best_answer(found).text == "1"
    assert null_odds(found) == -2.0
    assert chosen_answer(found, -1.9).text == "1"
    assert chosen_answer(found, -2.0).text == "1"  # it is to be above
    assert chosen_answer(found, -2.1).text == ""
    scores = np.exp([4.0, 2.0, 2.0])
    assert probabilities(found) == pytest.approx((scores / scores.sum()).tolist())

"""Takes the logits of questions' rows, returns the best answers, in the graph; next: answers.

What `answer_spans` does with the arrays of one question, with tensors, for all questions of a batch
at once: the same answers in the same order. Candidates of all questions stand in one list, those of
a question together, and ranks are counted from where a question's begin.

Axes: B questions, R rows, S = seq_length, N = n_best_size, P candidates, D of them with different
texts, W answers of a question.
"""

from typing import NamedTuple

import tensorflow as tf

from bert_tf.answer_spans import NO_OTHER
from bert_tf.export.text_rows import ContextParts

_NOWHERE = -1  # the place of no answer


class Contexts(NamedTuple):
    """The context of each question, and where its pieces are in it.

    Attributes:
        points: int32 [B, (characters)], its code points.
        starts: int32 [B, (pieces)], the first character of each piece.
        ends: int32 [B, (pieces)], the character after its last.
    """

    points: tf.RaggedTensor
    starts: tf.RaggedTensor
    ends: tf.RaggedTensor


class Answers(NamedTuple):
    """Answers of questions, best first; no answer is one of them.

    Attributes:
        texts: string [B, W], ``""`` for no answer, and where there are no more.
        scores: float64 [B, W], the sum of the logits; -infinity where there are no more.
        starts: int32 [B, W], the first character of each; -1 for no answer, and for no more.
        ends: int32 [B, W], the character after the last, or -1.
    """

    texts: tf.Tensor
    scores: tf.Tensor
    starts: tf.Tensor
    ends: tf.Tensor


class _Candidates(NamedTuple):
    """What may be an answer.

    Attributes:
        questions: int32 [P].
        pieces: int32 [P, 2], the first and the last, of those of all contexts; _NOWHERE for no
            answer.
        scores: float64 [P].
    """

    questions: tf.Tensor
    pieces: tf.Tensor
    scores: tf.Tensor


def best_answers(
    logits: tf.Tensor,
    parts: ContextParts,
    contexts: Contexts,
    *,
    n_best_size: int,
    max_answer_length: int,
    with_null: bool,
    width: int,
) -> Answers:
    """The best answers of each question with different texts.

    Args:
        logits: float32 [R, S, 2]; what they are beyond a row's end does not matter.
        parts: which part of its context each row shows.
        contexts: of the questions.
        n_best_size: how many starts, ends and answers.
        max_answer_length: longest answer in pieces.
        with_null: whether no answer is one of the questions' answers. It is among them then,
            whatever its rank, and so is the best span. Otherwise it is the last, so low that its
            probability is 0 unless it is alone.
        width: W, at least one more than ``n_best_size``.
    """
    num_questions = contexts.points.nrows(out_type=tf.int32)
    spans = _permitted(logits, parts, contexts, n_best_size, max_answer_length)
    null = _no_answers(logits, parts, num_questions, with_null)
    found = _Candidates(*(tf.concat(both, axis=0) for both in zip(spans, null, strict=True)))
    # By question, then by score; of equals the one that is first, so that no answer is last.
    by_score = tf.argsort(-found.scores, stable=True)
    by_question = tf.argsort(tf.gather(found.questions, by_score), stable=True)
    found = _taken(found, tf.gather(by_score, by_question))

    starts, ends = _places(found, contexts)
    texts = _texts(found, starts, ends, contexts)
    of_question = tf.strings.join([tf.strings.as_string(found.questions), texts], ":")
    different, which = tf.unique(of_question)
    # Of equal texts the best; tf.unique has them in the order in which they are first met.
    order = tf.range(tf.size(texts))
    first = tf.math.unsorted_segment_min(order, which, tf.size(different))  # [D]
    found = _taken(found, first)

    is_null = found.pieces[:, 0] == _NOWHERE
    before = tf.searchsorted(found.questions, tf.range(num_questions))
    rank = tf.range(tf.size(first)) - tf.gather(before, found.questions)  # among the question's
    # The best span needs no such care: no answer is not above it where only one is kept, as a row's
    # best start and end are a pair only if they are above those of its own [CLS].
    kept = tf.reshape(tf.where(is_null | (rank < n_best_size)), [-1])
    questions = tf.gather(found.questions, kept)

    def table(values: tf.Tensor, nothing: object) -> tf.Tensor:
        """[B, W] from [D]."""
        kept_values = tf.gather(values, kept)
        ragged = tf.RaggedTensor.from_value_rowids(kept_values, questions, num_questions)
        return ragged.to_tensor(nothing, shape=[None, width])

    return Answers(
        table(tf.gather(texts, first), ""),
        table(found.scores, -float("inf")),
        table(tf.gather(starts, first), _NOWHERE),
        table(tf.gather(ends, first), _NOWHERE),
    )


def null_odds(answers: Answers) -> tf.Tensor:
    """How much better no answer is than the best that is one, float64 [B]; or NO_OTHER."""
    is_answer = answers.texts != ""
    lowest = tf.constant(-float("inf"), tf.float64)
    # The places where there are no more answers have no text either, but the lowest score.
    null, best = (
        tf.reduce_max(tf.where(of_kind, answers.scores, lowest), axis=1)
        for of_kind in (~is_answer, is_answer)
    )
    return tf.where(tf.reduce_any(is_answer, axis=1), null - best, NO_OTHER)


def chosen_column(answers: Answers, threshold: float) -> tf.Tensor:
    """Which of its answers each question is given, int32 [B].

    Args:
        answers: of which no answer is one.
        threshold: no answer is given if the null odds are above it.
    """
    is_answer = answers.texts != ""
    is_null = ~is_answer & (answers.scores > -float("inf"))
    given = tf.where((null_odds(answers) > threshold)[:, tf.newaxis], is_null, is_answer)
    return tf.argmax(tf.cast(given, tf.int32), axis=1, output_type=tf.int32)


def is_read_here(
    piece: tf.Tensor, is_shown: tf.Tensor, parts: ContextParts, num_pieces: tf.Tensor
) -> tf.Tensor:
    """Whether it is this row, of those that show a piece, off which it is read: bool [R, S].

    The rule is that of ``context_windows.best_rows``.

    Args:
        piece: int32 [R, S], of those of all contexts.
        is_shown: bool [R, S], whether the row has it.
        parts: which part of its context each row shows.
        num_pieces: of all contexts.
    """
    lengths = parts.lengths[:, tf.newaxis]
    place = tf.range(tf.shape(piece)[1]) - parts.segment_starts[:, tf.newaxis]
    around = tf.minimum(place, lengths - 1 - place)
    score = tf.cast(around, tf.float64) + 0.01 * tf.cast(lengths, tf.float64)

    shown = tf.where(is_shown)  # [number of pieces in rows, 2], the rows in their order
    row = shown[:, 0]
    piece, score = tf.gather_nd(piece, shown), tf.gather_nd(score, shown)
    best = tf.math.unsorted_segment_max(score, piece, num_pieces)
    most = tf.where(score == tf.gather(best, piece), row, row.dtype.max)
    first = tf.math.unsorted_segment_min(most, piece, num_pieces)
    is_here = row == tf.gather(first, piece)
    return tf.scatter_nd(shown, is_here, tf.shape(is_shown, out_type=tf.int64))


def _permitted(
    logits: tf.Tensor,
    parts: ContextParts,
    contexts: Contexts,
    n_best_size: int,
    max_answer_length: int,
) -> _Candidates:
    """The pairs of one of a row's best starts and one of its best ends that may be an answer.

    They come row by row, those of the best start first, and with the best end first.
    """
    position = tf.range(tf.shape(logits)[1])
    segment_start = parts.segment_starts[:, tf.newaxis]
    last = segment_start + parts.lengths[:, tf.newaxis]  # [R, 1], where the second [SEP] is
    is_end = (position >= segment_start) & (position < last)  # [R, S]
    before = tf.cast(tf.gather(contexts.starts.row_starts(), parts.questions), tf.int32)
    row_start = before + parts.starts - parts.segment_starts
    piece = row_start[:, tf.newaxis] + position  # [R, S], of those of all contexts
    is_start = is_read_here(piece, is_end, parts, tf.size(contexts.starts.values))

    within = (position <= last)[:, :, tf.newaxis]
    known = tf.transpose(tf.where(within, logits, logits.dtype.min), [2, 0, 1])  # [2, R, S]
    most = tf.minimum(n_best_size, tf.size(position))
    (start_logits, end_logits), (starts, ends) = (
        tf.unstack(of_both) for of_both in tf.math.top_k(known, most)
    )  # [R, N] each; of equals the first

    def pairs(of_starts: tf.Tensor, of_ends: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return of_starts[:, :, tf.newaxis], of_ends[:, tf.newaxis, :]

    start, end = pairs(starts, ends)
    may_start, may_end = pairs(
        tf.gather(is_start, starts, batch_dims=1), tf.gather(is_end, ends, batch_dims=1)
    )
    permitted = may_start & may_end & (end >= start) & (end - start < max_answer_length)
    row, i, j = tf.unstack(tf.where(permitted), axis=1)  # [P] each

    def of_pairs(values: tf.Tensor, rank: tf.Tensor) -> tf.Tensor:
        return tf.gather_nd(values, tf.stack([row, rank], axis=1))

    places = tf.stack([of_pairs(starts, i), of_pairs(ends, j)], axis=1)  # [P, 2]
    scores = [
        tf.cast(of_pairs(values, rank), tf.float64)
        for values, rank in ((start_logits, i), (end_logits, j))
    ]
    pieces = tf.gather(row_start, row)[:, tf.newaxis] + places
    return _Candidates(tf.gather(parts.questions, row), pieces, scores[0] + scores[1])


def _no_answers(
    logits: tf.Tensor, parts: ContextParts, num_questions: tf.Tensor, with_null: bool
) -> _Candidates:
    """No answer to each question: the logits of ``[CLS]`` in the row in which they are lowest."""
    of_rows = tf.reduce_sum(tf.cast(logits[:, 0], tf.float64), axis=1)
    scores = tf.math.unsorted_segment_min(of_rows, parts.questions, num_questions)
    if not with_null:
        scores = tf.fill(tf.shape(scores), scores.dtype.min)
    questions = tf.range(num_questions)
    return _Candidates(questions, tf.fill([num_questions, 2], _NOWHERE), scores)


def _taken(candidates: _Candidates, which: tf.Tensor) -> _Candidates:
    return _Candidates(*(tf.gather(values, which) for values in candidates))


def _places(candidates: _Candidates, contexts: Contexts) -> tuple[tf.Tensor, tf.Tensor]:
    """The characters from the first to after the last, int32 [P] each; _NOWHERE for no answer."""
    places = (contexts.starts.values, contexts.ends.values)
    is_null = candidates.pieces == _NOWHERE
    index = tf.where(is_null, tf.size(places[0]), candidates.pieces)
    start, end = (
        tf.gather(tf.concat([of_pieces, [_NOWHERE]], axis=0), index[:, which])
        for which, of_pieces in enumerate(places)
    )
    return start, end


def _texts(
    candidates: _Candidates, starts: tf.Tensor, ends: tf.Tensor, contexts: Contexts
) -> tf.Tensor:
    """What stands there in the contexts, string [P]."""
    row_starts = tf.cast(contexts.points.row_starts(), tf.int32)
    before = tf.gather(row_starts, candidates.questions)
    characters = tf.ragged.range(before + starts, before + ends)  # [P, (characters)]
    points = tf.gather(contexts.points.values, characters.values)
    return tf.strings.unicode_encode(characters.with_values(points), "UTF-8")

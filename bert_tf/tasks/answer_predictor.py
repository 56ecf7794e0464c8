"""Takes a trained answer finder, questions and contexts, returns answers; next: predictor."""

import pathlib
from collections.abc import Sequence
from typing import Any

from bert_tf.answer_spans import Answer, chosen_answer, null_odds, probabilities
from bert_tf.config import ModelFiles
from bert_tf.errors import InputError
from bert_tf.tasks import question_answering
from bert_tf.tasks.answer_finder import AnswerFinder, Context
from bert_tf.tasks.task_predictor import NameOf, Text, is_pair, parse_question


def load(model: pathlib.Path | ModelFiles, top_k: int = 5) -> "AnswerPredictor":
    """The predictor of a finished run's folder.

    Args:
        model: the folder.
        top_k: how many answers are named, at most the run's n_best_size.

    Raises:
        InputError: if the folder holds no trained answer finder.
    """
    if top_k < 1:
        raise InputError(f"top_k must be at least 1, but is {top_k}")
    return AnswerPredictor(question_answering.load(model), top_k)


class AnswerPredictor:
    """Answers questions about contexts.

    Of each: ``answer`` with its ``score`` (its probability among the best), ``start`` and ``end``
    (characters of the context), and the ``top_k`` best ``answers``, the same of each. If there may
    be none, the text of no answer is empty, without a place, and ``null_odds`` is how much better
    it is than the best that is one.

    Args:
        finder: a trained one.
        top_k: how many answers are named.
    """

    def __init__(self, finder: AnswerFinder, top_k: int) -> None:
        self._finder = finder
        self._top_k = top_k

    def parse(self, line: str, name: str) -> Text:
        """See TaskPredictor."""
        return parse_question(line, name)

    def predict(
        self, texts: Sequence[Any], batch_size: int, name_of: NameOf
    ) -> list[dict[str, Any]]:
        """See TaskPredictor; each text is a question and its context."""
        for number, text in enumerate(texts):
            if not is_pair(text):
                raise InputError(
                    f"{name_of(number)} must be a question and its context, (str, str), for this "
                    f"model, but is {text!r:.80}"
                )
        numbers: dict[str, int] = {}
        context_of = [numbers.setdefault(context, len(numbers)) for _, context in texts]
        asked = self._finder.ask([question for question, _ in texts], list(numbers), context_of)
        logits, _ = self._finder.logits(self._finder.features(asked), batch_size)
        return [
            {"question": text[0], "context": text[1], **self._named(asked.context_of(i), answers)}
            for i, (text, answers) in enumerate(
                zip(texts, self._finder.answers(asked, logits), strict=True)
            )
        ]

    def _named(self, context: Context, answers: list[Answer]) -> dict[str, Any]:
        """What a question's answers say."""
        named = []
        for answer, probability in zip(answers, probabilities(answers), strict=True):
            start, end = context.place_of(answer) or (None, None)
            text = "" if answer.span is None else answer.text
            named.append({"answer": text, "score": probability, "start": start, "end": end})
        settings = self._finder.settings
        if not settings.version_2_with_negative:
            return {**named[0], "answers": named[: self._top_k]}
        chosen = chosen_answer(answers, settings.null_score_diff_threshold)
        return {
            **named[answers.index(chosen)],
            "null_odds": null_odds(answers),
            "answers": named[: self._top_k],
        }

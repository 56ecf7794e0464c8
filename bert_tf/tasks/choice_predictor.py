"""Takes a trained model and questions, returns the choices that it makes; next: predictor."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.special

from bert_tf.config import ModelFiles
from bert_tf.errors import InputError
from bert_tf.tasks import multiple_choice
from bert_tf.tasks.choice_data import Question, question_of
from bert_tf.tasks.choice_scorer import ChoiceScorer
from bert_tf.tasks.task_predictor import NameOf, Text, parse_choices


def load(model: pathlib.Path | ModelFiles) -> "ChoicePredictor":
    """The predictor of a finished run's folder.

    Raises:
        InputError: if the folder holds no trained model of multiple choice.
    """
    return ChoicePredictor(multiple_choice.load(model))


class ChoicePredictor:
    """Chooses what goes with a context.

    Of each question: ``text``, the context, and ``choices`` as they were given; ``label``, the
    number of the likeliest from 0, which is the ``choice``, its ``score``, and all
    ``probabilities``.

    Args:
        scorer: a trained one.
    """

    def __init__(self, scorer: ChoiceScorer) -> None:
        self._scorer = scorer

    def parse(self, line: str, name: str) -> Text:
        """See TaskPredictor; a tab stands before each choice."""
        return parse_choices(line, name)

    def predict(
        self, texts: Sequence[Any], batch_size: int, name_of: NameOf
    ) -> list[dict[str, Any]]:
        """See TaskPredictor; a text is a pair of a context and a list of at least two choices."""
        questions = [read_question(text, name_of(number)) for number, text in enumerate(texts)]
        logits, _ = self._scorer.logits(self._scorer.features(questions), batch_size)
        return [
            _named(question, scipy.special.softmax(row))
            for question, row in zip(questions, logits, strict=True)
        ]


def read_question(text: Any, name: str) -> Question:
    """What a user gives as a question: a pair of a context and a list of at least two choices.

    Raises:
        InputError: if it is something else, or a text is empty.
    """
    match text:
        case [str(context), [*choices]] if all(isinstance(choice, str) for choice in choices):
            return question_of(name, context, choices)
    raise InputError(
        f"{name} must be a pair (str, [str, …]), a context and its choices, for this model, but is "
        f"{text!r}"
    )


def _named(question: Question, probabilities: np.ndarray) -> dict[str, Any]:
    """What the probabilities, float32 [C], say."""
    best = int(np.argmax(probabilities))
    return {
        "text": question.context,
        "choices": question.choices,
        "label": best,
        "choice": question.choices[best],
        "score": float(probabilities[best]),
        "probabilities": [float(value) for value in probabilities],
    }

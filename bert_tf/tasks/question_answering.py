"""Takes a run_squad run's settings, returns a trained and evaluated model; next: predictor.

Axes: B = batch_size, S = seq_length.
"""

import dataclasses
import functools
import json
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bert_tf import run_folder
from bert_tf.answer_metrics import (
    Threshold,
    answer_metrics,
    answer_scores,
    best_thresholds,
)
from bert_tf.answer_spans import Answer, Span, best_answer, chosen_answer, null_odds, probabilities
from bert_tf.checkpoint import load_checkpoint
from bert_tf.config import ModelFiles, QuestionAnswering
from bert_tf.errors import InputError, listed
from bert_tf.tasks import error_views, fine_tuning
from bert_tf.tasks.answer_finder import AnswerFinder, Asked, question_losses
from bert_tf.tasks.feature_runner import Measure, OutputsOf, outputs_by
from bert_tf.tasks.model_files import folder_of_run, read_model, read_trained
from bert_tf.tasks.squad_data import Question, Questions, read_questions

COMMAND = "run_squad"
THRESHOLD = "null_score_diff_threshold"  # what NULL_THRESHOLD holds

log = logging.getLogger(__name__)


def run(settings: QuestionAnswering) -> dict[str, float]:
    """Trains, evaluates and predicts; see ``fine_tuning.run``."""
    return fine_tuning.run(settings, COMMAND, _prepare)


def load(
    model: pathlib.Path | ModelFiles,
    *,
    dtype: str | None = None,
    max_seq_length: int | None = None,
) -> AnswerFinder:
    """The answer finder of a trained run's folder, with the threshold that was found for it.

    Args:
        model: the folder.
        dtype: a Keras dtype policy; float32 by default.
        max_seq_length: the longest row; by default the run's.

    Raises:
        InputError: if it is no such folder.
    """
    folder = folder_of_run(model, COMMAND, "answers are those of")
    settings, config, tokenizer = read_trained(folder, COMMAND, QuestionAnswering, max_seq_length)
    threshold = settings.null_score_diff_threshold
    if threshold is None:
        threshold = _stored_threshold(folder)
    settings = dataclasses.replace(settings, null_score_diff_threshold=threshold)
    finder = AnswerFinder(settings, config, tokenizer, dtype=dtype)
    load_checkpoint(finder.model, folder / run_folder.CHECKPOINT)
    return finder


def measure_on(finder: AnswerFinder, dev_file: str) -> Measure:
    """Reads questions, for the task's metrics by logits that something else computes.

    Args:
        finder: whose inputs and way to answers they are.
        dev_file: questions with answers, in the form of SQuAD.

    Returns:
        A function of ``logits_of``, which takes the model's inputs, int32 [B, S] each, and returns
        float32 [B, S, 2]: the metrics by name. It raises an InputError if what is computed are no
        numbers.

    Raises:
        InputError: if the file cannot be read as that.
    """
    settings = finder.settings
    questions = _read(settings, dev_file, for_training=False)
    _check_answered(questions, "leave them out")
    asked = _ask(finder, questions)
    features, with_null = finder.features(asked), settings.version_2_with_negative
    threshold = settings.null_score_diff_threshold if with_null else None

    def measure(logits_of: OutputsOf) -> dict[str, float]:
        logits = outputs_by(logits_of, finder.batches, features, settings.eval_batch_size)
        chosen = [chosen_answer(found, threshold).text for found in finder.answers(asked, logits)]
        return answer_metrics(chosen, _right(questions), with_null=with_null)

    return measure


@dataclasses.dataclass(frozen=True)
class _Prepared(fine_tuning.Task):
    """Everything a run reads, read and checked."""

    command = COMMAND
    new_variables = ("cls/*",)

    train: Questions | None
    predicted: Questions | None

    @property
    def train_file(self) -> pathlib.Path | None:
        return None if self.train is None else self.train.path

    @property
    def result_files(self) -> tuple[str, ...]:
        if self.predicted is None:
            return ()
        names = [run_folder.PREDICTIONS, run_folder.NBEST_PREDICTIONS]
        if self.settings.version_2_with_negative:
            names.append(run_folder.NULL_ODDS)
        if _is_answered(self.predicted):
            names += [run_folder.EVAL_ERRORS, run_folder.EVAL_RESULTS]
        return tuple(names)

    @property
    def deciding(self) -> str:
        return "f1"

    def learner(self) -> AnswerFinder:
        return AnswerFinder(self.settings, self.config, self.tokenizer)

    def lesson(self, learner: AnswerFinder) -> fine_tuning.Lesson:
        assert self.train is not None
        asked = _ask(learner, self.train)
        spans = _spans(asked, self.train)
        without = [
            question.id
            for question, span in zip(self.train.questions, spans, strict=True)
            if span is None and question.answers
        ]
        if without:
            log.warning(
                "warning: %s: %d answers have no word pieces, and are taken as none: %s",
                self.train.path, len(without),
                listed(without, most=len(without) if self.settings.verbose_logging else 6),
            )  # fmt: skip
        features = learner.features(asked, spans)
        without_answer = np.mean(features.labels["end_positions"] == 0)
        return fine_tuning.Lesson(
            features.lengths,
            len(spans),
            functools.partial(learner.batches, features),
            f"{len(features)} rows, median length {np.median(features.lengths):.0f}, "
            f"{without_answer:.1%} of them without the answer; {asked.rows.num_truncated} "
            f"questions cut to {self.settings.max_query_length} pieces",
        )

    def write_files(self, folder: pathlib.Path) -> None:
        """There is nothing beside the model."""

    def evaluate(self, learner: AnswerFinder, folder: pathlib.Path, step: int) -> dict[str, float]:
        """Answers the questions, and evaluates the answers if it is known what is right."""
        if self.predicted is None:
            return {}
        settings, questions = self.settings, self.predicted
        is_evaluated = _is_answered(questions)
        if not is_evaluated:
            log.info("%s: not all questions have answers, so nothing is evaluated", questions.path)
        asked = _ask(learner, questions)
        features = learner.features(asked, _spans(asked, questions) if is_evaluated else None)
        batch_size = (
            settings.predict_batch_size if settings.do_predict else settings.eval_batch_size
        )
        logits, losses = learner.logits(features, batch_size, "answering")
        answers = list(learner.answers(asked, logits))
        right = _right(questions)
        results = {f"eval_{name}": value for name, value in losses.items()}
        ids = [question.id for question in questions.questions]

        threshold = None
        if settings.version_2_with_negative:
            odds = [null_odds(of_question) for of_question in answers]
            _write(folder, run_folder.NULL_ODDS, dict(zip(ids, odds, strict=True)))
            thresholds: Mapping[str, Threshold] = {}
            if is_evaluated:
                best = [best_answer(of_question).text for of_question in answers]
                thresholds = best_thresholds(best, odds, right)
                for name, found in thresholds.items():
                    results[f"best_{name}"] = found.score
                    results[f"best_{name}_thresh"] = found.value
            threshold = self._threshold(folder, thresholds)
        chosen = [chosen_answer(of_question, threshold).text for of_question in answers]
        _write(folder, run_folder.PREDICTIONS, dict(zip(ids, chosen, strict=True)))
        _write(
            folder,
            run_folder.NBEST_PREDICTIONS,
            {
                number: _described(asked, question, of_question)
                for question, (number, of_question) in enumerate(zip(ids, answers, strict=True))
            },
        )
        if is_evaluated:
            with_null = settings.version_2_with_negative
            results |= answer_metrics(chosen, right, with_null=with_null)
            of_questions = question_losses(features, logits)
            error_views.write_errors(folder, self._errors(chosen, of_questions))
        return results

    def predict(self, learner: AnswerFinder, folder: pathlib.Path) -> None:
        """Nothing: ``evaluate`` answers the questions."""

    def _threshold(self, folder: pathlib.Path, found: Mapping[str, Threshold]) -> float:
        """The one that is asked for, or that is stored with the model, or is found and stored now.

        Args:
            folder: where it is stored.
            found: for what the questions are; none if it is not known what is right.
        """
        given = self.settings.null_score_diff_threshold
        if given is not None:
            return float(given)
        # The folder of the model, where that is another one.
        model = pathlib.Path(self.settings.init_checkpoint or "").parent
        for place in (folder,) if self.settings.do_train else (folder, model):
            stored = _stored_threshold(place)
            if stored is not None:
                log.info("no answer is given for null odds above %s, as found before", stored)
                return stored
        if not found:
            return 0.0
        threshold = found["f1"].value
        run_folder.write_json(folder / run_folder.NULL_THRESHOLD, {THRESHOLD: threshold})
        log.info("no answer is given for null odds above %s, which is stored now", threshold)
        return threshold

    def _errors(
        self, chosen: Sequence[str], losses: np.ndarray
    ) -> Iterator[tuple[float, dict[str, Any]]]:
        """The questions that are not answered exactly, with their losses."""
        assert self.predicted is not None
        for question, answer, loss in zip(
            self.predicted.questions, chosen, losses.tolist(), strict=True
        ):
            right = [given.text for given in question.answers]
            with_null = self.settings.version_2_with_negative
            scores = answer_scores(answer, right, with_null=with_null)
            if not scores.exact:
                yield (
                    loss,
                    {
                        "id": question.id,
                        "question": question.text,
                        "answers": right,
                        "predicted": answer,
                        "f1": scores.f1,
                    },
                )


def _described(asked: Asked, question: int, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """What nbest_predictions.json holds of a question, with the places in characters."""
    described = []
    for answer, probability in zip(answers, probabilities(answers), strict=True):
        values: dict[str, Any] = {
            "text": answer.text,
            "probability": probability,
            "start_logit": answer.start_logit,
            "end_logit": answer.end_logit,
        }
        place = asked.context_of(question).place_of(answer)
        if place is not None:
            values["start"], values["end"] = place
        described.append(values)
    return described


def _prepare(settings: QuestionAnswering, trained: pathlib.Path | None) -> _Prepared:
    config, tokenizer = read_model(settings)
    train = predicted = None
    if settings.do_train:
        train = _read(settings, settings.train_file, for_training=True)
    if settings.do_eval or settings.do_predict:
        predicted = _read(settings, settings.predict_file, for_training=False)
        if settings.do_eval:
            _check_answered(predicted, "give --do_predict instead of --do_eval")
    return _Prepared(
        settings=settings, config=config, tokenizer=tokenizer, train=train, predicted=predicted
    )


def _read(settings: QuestionAnswering, path: str | None, *, for_training: bool) -> Questions:
    questions = read_questions(
        path or "", for_training=for_training, verbose=settings.verbose_logging
    )
    impossible = [question.id for question in questions.questions if question.is_impossible]
    if impossible and not settings.version_2_with_negative:
        raise InputError(
            f"{questions.path}: {len(impossible)} questions have no answer (is_impossible): "
            f"{listed(impossible)}; give --version_2_with_negative"
        )
    return questions


def _is_known(question: Question) -> bool:
    """Whether it is known what is right."""
    return bool(question.answers) or question.is_impossible


def _check_answered(questions: Questions, advice: str) -> None:
    """Checks that of all questions it is known what is right.

    Raises:
        InputError: with that advice, if not.
    """
    unanswered = [question.id for question in questions.questions if not _is_known(question)]
    if unanswered:
        raise InputError(
            f"{questions.path}: nothing to evaluate by: {len(unanswered)} questions have no "
            f"answers: {listed(unanswered)}; {advice}"
        )


def _right(questions: Questions) -> list[list[str]]:
    """All answers of each question that are right."""
    return [[answer.text for answer in question.answers] for question in questions.questions]


def _is_answered(questions: Questions) -> bool:
    return all(map(_is_known, questions.questions))


def _ask(finder: AnswerFinder, questions: Questions) -> Asked:
    return finder.ask(
        [question.text for question in questions.questions],
        questions.contexts,
        [question.context for question in questions.questions],
    )


def _spans(asked: Asked, questions: Questions) -> list[Span | None]:
    """The pieces of each question's answer, of several the first that is where it is said to be."""
    spans: list[Span | None] = []
    for number, question in enumerate(questions.questions):
        context = asked.context_of(number)
        found = (a for a in question.answers if context.text.startswith(a.text, a.start))
        answer = next(found, None)
        spans.append(answer and context.span(answer.start, answer.start + len(answer.text)))
    return spans


def _stored_threshold(folder: pathlib.Path) -> float | None:
    """What was found for the folder's model."""
    path = folder / run_folder.NULL_THRESHOLD
    return float(json.loads(path.read_text())[THRESHOLD]) if path.exists() else None


def _write(folder: pathlib.Path, name: str, values: dict[str, Any]) -> None:
    run_folder.write_text(folder / name, json.dumps(values, indent=4) + "\n")

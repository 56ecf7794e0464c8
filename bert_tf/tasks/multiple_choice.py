"""Takes a multiple-choice run's settings, returns a trained and evaluated model; next: predictor.

The setting is that of SWAG in Devlin et al. 2019, arXiv 1810.04805, section 4.4.

Axes: B = batch_size, C = choices of a question, S = seq_length.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.special

from bert_tf import run_folder
from bert_tf.checkpoint import load_checkpoint
from bert_tf.config import ModelFiles, MultipleChoice
from bert_tf.metrics import classification_metrics
from bert_tf.tasks import error_views, fine_tuning
from bert_tf.tasks.choice_data import Questions, read_questions, split_names
from bert_tf.tasks.choice_scorer import ChoiceScorer
from bert_tf.tasks.feature_runner import Measure, OutputsOf, outputs_by
from bert_tf.tasks.label_errors import single_calibration, wrong_labels
from bert_tf.tasks.model_files import folder_of_run, read_model, read_trained
from bert_tf.tasks.split_files import find_split_file

COMMAND = "run_multiple_choice"


def run(settings: MultipleChoice) -> dict[str, float]:
    """Trains, evaluates and predicts; see ``fine_tuning.run``."""
    return fine_tuning.run(settings, COMMAND, _prepare)


def load(
    model: pathlib.Path | ModelFiles,
    *,
    dtype: str | None = None,
    max_seq_length: int | None = None,
) -> ChoiceScorer:
    """The scorer of a trained run's folder.

    Args:
        model: the folder.
        dtype: a Keras dtype policy; float32 by default.
        max_seq_length: the longest row; by default the run's.

    Raises:
        InputError: if it is not the folder of a trained model of multiple choice.
    """
    folder = folder_of_run(model, COMMAND, "choices are made by")
    trained = read_trained(folder, COMMAND, MultipleChoice, max_seq_length)
    scorer = ChoiceScorer(*trained, dtype=dtype)
    load_checkpoint(scorer.model, folder / run_folder.CHECKPOINT)
    return scorer


def measure_on(scorer: ChoiceScorer, dev_file: str) -> Measure:
    """Reads questions with labels, for the task's metrics by scores that something else computes.

    Args:
        scorer: whose inputs they are.
        dev_file: in the form of the task's dev files.

    Returns:
        A function of ``scores_of``, which takes the model's inputs, int32 [B, C, S] each, and
        returns float32 [B, C], logits or what ranks as they do: the metrics by name. It raises an
        InputError if what is computed are no numbers.

    Raises:
        InputError: if the file cannot be read as that.
    """
    questions = read_questions(dev_file)
    features = scorer.features(questions.items)
    batch_size = scorer.settings.eval_batch_size

    def measure(scores_of: OutputsOf) -> dict[str, float]:
        scores = np.stack(outputs_by(scores_of, scorer.batches, features, batch_size))
        assert questions.labels is not None
        return classification_metrics("single_label", ("accuracy",), scores, questions.labels)

    return measure


@dataclasses.dataclass(frozen=True)
class _Prepared(fine_tuning.Task):
    """Everything a run reads, read and checked."""

    command = COMMAND
    new_variables = ("output_*",)

    train: Questions | None
    dev: Questions | None
    test: Questions | None

    @property
    def train_file(self) -> pathlib.Path | None:
        return None if self.train is None else self.train.path

    @property
    def result_files(self) -> tuple[str, ...]:
        tested = () if self.test is None else (run_folder.TEST_RESULTS,)
        views = (run_folder.EVAL_ERRORS, run_folder.CALIBRATION)
        return tested if self.dev is None else (*tested, *views)

    @property
    def deciding(self) -> str:
        return "eval_accuracy"

    def learner(self) -> ChoiceScorer:
        return ChoiceScorer(self.settings, self.config, self.tokenizer)

    def lesson(self, learner: ChoiceScorer) -> fine_tuning.Lesson:
        assert self.train is not None
        features = learner.features(self.train.items, self.train.labels)
        rows = features.texts.lengths
        return fine_tuning.Lesson(
            features.lengths,
            len(features),
            functools.partial(learner.batches, features),
            f"{len(rows)} choices, median length {np.median(rows):.0f}, "
            f"{features.texts.num_truncated} cut to {self.settings.max_seq_length} pieces",
        )

    def write_files(self, folder: pathlib.Path) -> None:
        """Nothing: the model takes any number of choices."""

    def evaluate(self, learner: ChoiceScorer, folder: pathlib.Path, step: int) -> dict[str, float]:
        if self.dev is None:
            return {}
        features = learner.features(self.dev.items, self.dev.labels)
        logits, losses = learner.logits(features, self.settings.eval_batch_size, "evaluating")
        scores, labels = np.stack(logits), self.dev.labels
        assert labels is not None
        values = classification_metrics("single_label", ("accuracy",), scores, labels)
        calibration = single_calibration(scores, labels)
        values |= {**losses, "ece": calibration.error}
        error_views.write_errors(folder, _errors(self.dev, scores))
        error_views.write_calibration(folder, calibration, step)
        return {f"eval_{name}": value for name, value in values.items()}

    def predict(self, learner: ChoiceScorer, folder: pathlib.Path) -> None:
        if self.test is None:
            return
        features = learner.features(self.test.items)
        logits, _ = learner.logits(features, self.settings.predict_batch_size, "predicting")
        run_folder.write_table(folder / run_folder.TEST_RESULTS, map(scipy.special.softmax, logits))


def _errors(questions: Questions, logits: np.ndarray) -> Iterator[tuple[float, dict[str, Any]]]:
    """The questions with a wrong choice, with their losses."""
    assert questions.labels is not None
    for wrong in wrong_labels(logits, questions.labels):
        question = questions.items[wrong.row]
        yield (
            wrong.loss,
            {
                "text": question.context,
                "choices": list(question.choices),
                "label": int(questions.labels[wrong.row]),
                "predicted": wrong.predicted,
                "score": wrong.score,
            },
        )


def _prepare(settings: MultipleChoice, trained: pathlib.Path | None) -> _Prepared:
    config, tokenizer = read_model(settings)

    def read(split: str, with_labels: bool = True) -> Questions:
        path = find_split_file(settings, split, split_names(split))
        return read_questions(path, with_labels=with_labels)

    return _Prepared(
        settings=settings,
        config=config,
        tokenizer=tokenizer,
        train=read("train") if settings.do_train else None,
        dev=read("dev") if settings.do_eval else None,
        test=read("test", with_labels=False) if settings.do_predict else None,
    )

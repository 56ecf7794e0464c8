"""Takes a classification run's settings, returns a trained and evaluated model; next: predictor."""

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from bert_tf import run_folder
from bert_tf.checkpoint import load_checkpoint
from bert_tf.config import Classification, ModelFiles
from bert_tf.errors import InputError
from bert_tf.metrics import classification_metrics
from bert_tf.tasks import fine_tuning
from bert_tf.tasks.classification_data import (
    ClassificationTask,
    Examples,
    custom_task,
    find_labels,
    find_split_files,
    read_examples,
    read_label_file,
)
from bert_tf.tasks.feature_runner import Measure, OutputsOf, outputs_by
from bert_tf.tasks.glue import find_task
from bert_tf.tasks.label_errors import write_views
from bert_tf.tasks.model_files import folder_of_run, read_model, read_trained
from bert_tf.tasks.split_files import given_split_file
from bert_tf.tasks.text_classifier import TextClassifier

COMMAND = "run_classifier"


def run(settings: Classification) -> dict[str, float]:
    """Trains, evaluates and predicts; see ``fine_tuning.run``."""
    return fine_tuning.run(settings, COMMAND, _prepare)


def load(
    model: pathlib.Path | ModelFiles,
    *,
    dtype: str | None = None,
    max_seq_length: int | None = None,
) -> TextClassifier:
    """The classifier of a trained run's folder.

    Args:
        model: the folder.
        dtype: a Keras dtype policy; float32 by default.
        max_seq_length: the longest row; by default the run's.

    Raises:
        InputError: if it is not the folder of a trained classifier.
    """
    folder = folder_of_run(model, COMMAND, "labels are those of")
    settings, config, tokenizer = read_trained(folder, COMMAND, Classification, max_seq_length)
    task = _find_task(settings)
    labels = _labels_of(folder, task)
    classifier = TextClassifier(settings, config, tokenizer, labels, task.task_type, dtype=dtype)
    load_checkpoint(classifier.model, folder / run_folder.CHECKPOINT)
    return classifier


def takes_pairs(classifier: TextClassifier) -> bool:
    """Whether a classifier was trained on pairs of texts."""
    return _find_task(classifier.settings).has_pairs


def measure_on(classifier: TextClassifier, dev_file: str) -> Measure:
    """Reads labelled examples, for the task's metrics by logits that something else computes.

    Args:
        classifier: whose inputs and labels they are.
        dev_file: in the form of the task's dev files.

    Returns:
        A function of ``logits_of``, which takes the model's inputs, int32 [B, S] or [B, C, S] each,
        and returns float32 [B, L]: the metrics by name. It raises an InputError if what is computed
        are no numbers.

    Raises:
        InputError: if the file cannot be read as that.
    """
    task = _find_task(classifier.settings)
    examples = read_examples(task, dev_file, classifier.labels, split="dev")
    features = classifier.features(examples.text_a, examples.text_b)
    batch_size = classifier.settings.eval_batch_size

    def measure(logits_of: OutputsOf) -> dict[str, float]:
        logits = np.stack(outputs_by(logits_of, classifier.batches, features, batch_size))
        assert examples.labels is not None
        return classification_metrics(task.task_type, task.metrics, logits, examples.labels)

    return measure


@dataclasses.dataclass(frozen=True)
class _Prepared(fine_tuning.Task):
    """Everything a run reads, read and checked."""

    command = COMMAND
    new_variables = ("output_*", "window_pooling/*")

    task: ClassificationTask
    labels: tuple[str, ...]
    train: Examples | None
    dev: dict[str, Examples]
    test: dict[str, Examples]

    @property
    def train_file(self) -> pathlib.Path | None:
        return None if self.train is None else self.train.path

    @property
    def inputs(self) -> dict[str, Any]:
        return {**super().inputs, "labels": list(self.labels)}

    @property
    def result_files(self) -> tuple[str, ...]:
        views = [run_folder.EVAL_ERRORS]
        if self.task.task_type != "regression":
            views.append(run_folder.CALIBRATION)
        if self.task.task_type == "single_label":
            views.append(run_folder.CONFUSION_MATRIX)
        return (
            *(run_folder.of_part(run_folder.TEST_RESULTS, part) for part in self.test),
            *(run_folder.of_part(name, part) for part in self.dev for name in views),
        )

    @property
    def deciding(self) -> str:
        return f"eval_{self.task.metrics[0]}"

    def learner(self) -> TextClassifier:
        return TextClassifier(
            self.settings, self.config, self.tokenizer, self.labels, self.task.task_type
        )

    def lesson(self, learner: TextClassifier) -> fine_tuning.Lesson:
        examples = self.train
        assert examples is not None
        features = learner.features(examples.text_a, examples.text_b, examples.labels)
        return fine_tuning.Lesson(
            features.lengths,
            len(examples),
            functools.partial(learner.batches, features),
            learner.described(features),
        )

    def write_files(self, folder: pathlib.Path) -> None:
        if self.labels:
            run_folder.write_lines(folder / run_folder.LABELS, self.labels)

    def evaluate(
        self, learner: TextClassifier, folder: pathlib.Path, step: int
    ) -> dict[str, float]:
        results: dict[str, float] = {}
        for part, examples in self.dev.items():
            suffix = f"_{part}" if part else ""
            logits, values = learner.evaluate(examples)
            task_type = self.task.task_type
            assert examples.labels is not None
            values |= classification_metrics(task_type, self.task.metrics, logits, examples.labels)
            values |= write_views(
                folder, task_type, self.labels, examples, logits, step=step, part=part
            )
            results |= {f"eval_{name}{suffix}": value for name, value in values.items()}
        return results

    def predict(self, learner: TextClassifier, folder: pathlib.Path) -> None:
        for part, examples in self.test.items():
            rows = learner.probabilities(
                examples.text_a, examples.text_b, self.settings.predict_batch_size, "predicting"
            )
            run_folder.write_table(folder / run_folder.of_part(run_folder.TEST_RESULTS, part), rows)


def _prepare(settings: Classification, trained: pathlib.Path | None) -> _Prepared:
    config, tokenizer = read_model(settings)
    task = _find_task(settings)
    if settings.long_text != "head" and task.has_pairs:
        raise InputError(
            f"--long_text={settings.long_text}: it is for single texts, but this task has pairs; "
            "leave it out"
        )
    if trained is not None:
        labels = _labels_of(trained, task)
    else:
        train_file = _split_files(settings, task, "train")[""] if settings.do_train else None
        labels = find_labels(task, settings.data_dir, train_file)
    read = functools.partial(_read_split, settings, task, labels)
    return _Prepared(
        settings=settings,
        task=task,
        labels=labels,
        config=config,
        tokenizer=tokenizer,
        train=read("train")[""] if settings.do_train else None,
        dev=read("dev") if settings.do_eval else {},
        test=read("test", with_labels=False) if settings.do_predict else {},
    )


def _labels_of(folder: pathlib.Path, task: ClassificationTask) -> tuple[str, ...]:
    if task.task_type == "regression":
        return ()
    return read_label_file(folder / run_folder.LABELS)


def _find_task(settings: Classification) -> ClassificationTask:
    if settings.task_name is not None:
        return find_task(settings.task_name)
    return custom_task(
        settings.task_type,
        text_column=settings.text_column,
        text_b_column=settings.text_b_column,
        label_column=settings.label_column,
        has_header=settings.has_header,
        labels=None if settings.labels is None else settings.labels.split(","),
        label_separator=settings.label_separator,
    )


def _split_files(
    settings: Classification, task: ClassificationTask, split: str
) -> dict[str, pathlib.Path]:
    given = given_split_file(settings, split)
    if given is not None:
        return {"": given}
    assert settings.data_dir is not None
    return find_split_files(task, settings.data_dir, split)


def _read_split(
    settings: Classification,
    task: ClassificationTask,
    labels: tuple[str, ...],
    split: str,
    with_labels: bool = True,
) -> dict[str, Examples]:
    return {
        part: read_examples(task, path, labels, split=split, with_labels=with_labels)
        for part, path in _split_files(settings, task, split).items()
    }

"""Takes a tagging run's settings, returns a trained and evaluated model; next: predictor.

Axes: B = batch_size, S = seq_length, W = most words of a row.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from bert_tf import run_folder
from bert_tf.checkpoint import load_checkpoint
from bert_tf.config import ModelFiles, Tagging
from bert_tf.errors import InputError
from bert_tf.metrics import entity_metrics, word_accuracy
from bert_tf.tag_schemes import OUTSIDE, from_iob2
from bert_tf.tagged_text import with_predictions
from bert_tf.tasks import error_views, fine_tuning
from bert_tf.tasks.classification_data import read_label_file
from bert_tf.tasks.feature_runner import Measure, OutputsOf, outputs_by
from bert_tf.tasks.model_files import folder_of_run, read_model, read_trained
from bert_tf.tasks.split_files import find_split_file
from bert_tf.tasks.tagging_data import (
    ENDINGS,
    Sentences,
    are_entities,
    find_labels,
    label_ids,
    read_sentences,
)
from bert_tf.tasks.word_tagger import WordTagger

COMMAND = "run_tagger"


def run(settings: Tagging) -> dict[str, float]:
    """Trains, evaluates and predicts; see ``fine_tuning.run``."""
    return fine_tuning.run(settings, COMMAND, _prepare)


def load(
    model: pathlib.Path | ModelFiles,
    *,
    dtype: str | None = None,
    max_seq_length: int | None = None,
) -> WordTagger:
    """The tagger of a trained run's folder.

    Args:
        model: the folder.
        dtype: a Keras dtype policy; float32 by default.
        max_seq_length: the longest row; by default the run's.

    Raises:
        InputError: if it is not the folder of a trained tagger.
    """
    folder = folder_of_run(model, COMMAND, "tags are those of")
    settings, config, tokenizer = read_trained(folder, COMMAND, Tagging, max_seq_length)
    labels = read_label_file(folder / run_folder.LABELS)
    tagger = WordTagger(settings, config, tokenizer, labels, dtype=dtype)
    load_checkpoint(tagger.model, folder / run_folder.CHECKPOINT)
    return tagger


def measure_on(tagger: WordTagger, dev_file: str) -> Measure:
    """Reads tagged sentences, for the task's metrics by labels that something else finds.

    Args:
        tagger: whose inputs and labels they are.
        dev_file: in the form of the task's dev files.

    Returns:
        A function of ``label_ids_of``, which takes the model's inputs, int32 [B, S] each and
        ``word_starts`` int32 [B, W], and returns int32 [B, W], at least 0 for words: the metrics by
        name. It sees single rows, so that the labels of a sentence that takes several are found row
        by row. It raises an InputError if what is computed are no numbers.

    Raises:
        InputError: if the file cannot be read as that.
    """
    settings = tagger.settings
    sentences = read_sentences(pathlib.Path(dev_file), settings.tag_column, settings.tag_scheme)
    label_ids(sentences, tagger.labels)  # all of them are known
    features = tagger.features(tagger.windows(sentences.words, sentences.documents))
    lengths = features.ragged["word_starts"].lengths

    def measure(label_ids_of: OutputsOf) -> dict[str, float]:
        rows = outputs_by(label_ids_of, tagger.batches, features, settings.eval_batch_size)
        found = (
            tagger.labels[n] for row, words in zip(rows, lengths, strict=True) for n in row[:words]
        )
        tags = [list(itertools.islice(found, len(words))) for words in sentences.words]
        return _metrics(tagger, sentences, tags)

    return measure


@dataclasses.dataclass(frozen=True)
class _Labelled:
    """Sentences, and the number of each word's label, int32 [number of words]."""

    sentences: Sentences
    label_ids: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Prepared(fine_tuning.Task):
    """Everything a run reads, read and checked."""

    command = COMMAND
    new_variables = ("output_*", "crf/*")

    labels: tuple[str, ...]
    train: _Labelled | None
    dev: _Labelled | None
    test: Sentences | None

    @property
    def train_file(self) -> pathlib.Path | None:
        return None if self.train is None else self.train.sentences.path

    @property
    def result_files(self) -> tuple[str, ...]:
        dev = [] if self.dev is None else [_predictions_name("dev", self.dev.sentences)]
        if dev:
            dev += [run_folder.EVAL_ERRORS, run_folder.CONFUSION_MATRIX]
        return (*dev, *([] if self.test is None else [_predictions_name("test", self.test)]))

    @property
    def deciding(self) -> str:
        has_entities = are_entities(self.labels, self.settings.tag_scheme)
        return "eval_f1" if has_entities else "eval_accuracy"

    def learner(self) -> WordTagger:
        return WordTagger(self.settings, self.config, self.tokenizer, self.labels)

    def lesson(self, learner: WordTagger) -> fine_tuning.Lesson:
        assert self.train is not None
        sentences = self.train.sentences
        windows = learner.windows(sentences.words, sentences.documents)
        features = learner.features(windows, self.train.label_ids)
        lengths = features.lengths
        return fine_tuning.Lesson(
            lengths,
            len(features),
            functools.partial(learner.batches, features),
            f"median length {np.median(lengths):.0f}, {windows.num_split} sentences of more than "
            f"{self.settings.max_seq_length} pieces are several of them; {len(self.labels)} labels "
            f"of tags in the scheme {sentences.scheme}",
        )

    def write_files(self, folder: pathlib.Path) -> None:
        run_folder.write_lines(folder / run_folder.LABELS, self.labels)

    def evaluate(self, learner: WordTagger, folder: pathlib.Path, step: int) -> dict[str, float]:
        if self.dev is None:
            return {}
        sentences = self.dev.sentences
        windows = learner.windows(sentences.words, sentences.documents)
        logits, losses = learner.logits(
            learner.features(windows, self.dev.label_ids),
            self.settings.eval_batch_size,
            "evaluating",
        )
        tags, _ = learner.label(logits, sentences.words)
        values = _metrics(learner, sentences, tags) | losses
        _write_predictions(folder, "dev", sentences, tags)
        of_sentences = learner.sentence_losses(logits, sentences.words, self.dev.label_ids)
        error_views.write_errors(folder, _errors(sentences, tags, of_sentences))
        error_views.write_confusion(
            folder, self.dev.label_ids, _numbers(tags, self.labels), self.labels, step
        )
        return {f"eval_{name}": value for name, value in values.items()}

    def predict(self, learner: WordTagger, folder: pathlib.Path) -> None:
        if self.test is None:
            return
        windows = learner.windows(self.test.words, self.test.documents)
        logits, _ = learner.logits(
            learner.features(windows), self.settings.predict_batch_size, "predicting"
        )
        tags, _ = learner.label(logits, self.test.words)
        _write_predictions(folder, "test", self.test, tags)


def _prepare(settings: Tagging, trained: pathlib.Path | None) -> _Prepared:
    config, tokenizer = read_model(settings)

    def read(split: str, with_tags: bool = True) -> Sentences:
        path = find_split_file(settings, split, [f"{split}{ending}" for ending in ENDINGS])
        return read_sentences(path, settings.tag_column, settings.tag_scheme, with_tags=with_tags)

    train = read("train") if settings.do_train or trained is None else None
    if trained is not None:
        labels = read_label_file(trained / run_folder.LABELS)
    else:
        assert train is not None
        labels = find_labels(train.tags or [], settings.tag_scheme)
        if len(labels) < 2:
            raise InputError(
                f"{train.path}: all of its words have the tag {labels[0]!r}, so that there is "
                "nothing to learn; is the tag in another column (--tag_column)?"
            )
    test = read("test", with_tags=False) if settings.do_predict else None
    if test is not None and train is not None and test.scheme == "none":
        test = dataclasses.replace(test, scheme=train.scheme)
    dev = read("dev") if settings.do_eval else None
    return _Prepared(
        settings=settings,
        config=config,
        tokenizer=tokenizer,
        labels=labels,
        train=_Labelled(train, label_ids(train, labels)) if settings.do_train and train else None,
        dev=None if dev is None else _Labelled(dev, label_ids(dev, labels)),
        test=test,
    )


def _metrics(
    tagger: WordTagger, sentences: Sentences, predicted: list[list[str]]
) -> dict[str, float]:
    """What is measured of the tags of sentences, in IOB2."""
    assert sentences.tags is not None
    values = {"accuracy": word_accuracy(sentences.tags, predicted)}
    if tagger.has_entities:
        types = {label[2:] for label in tagger.labels if label != OUTSIDE}
        values |= entity_metrics(sentences.tags, predicted, types)
    return values


def _errors(
    sentences: Sentences, predicted: list[list[str]], losses: np.ndarray
) -> Iterator[tuple[float, dict[str, Any]]]:
    """The sentences with a wrong tag, with their losses."""
    assert sentences.tags is not None
    for words, lines, tags, found, loss in zip(
        sentences.words, sentences.lines, sentences.tags, predicted, losses.tolist(), strict=True
    ):
        if tags != found:
            yield (
                loss,
                {
                    "line": lines[0],
                    "words": words,
                    "tags": from_iob2(tags, sentences.scheme),
                    "predicted": from_iob2(found, sentences.scheme),
                },
            )


def _numbers(tags: list[list[str]], labels: tuple[str, ...]) -> np.ndarray:
    """The number of each word's label, int64 [number of words]."""
    numbers = {label: number for number, label in enumerate(labels)}
    return np.array([numbers[tag] for sentence in tags for tag in sentence])


def _predictions_name(split: str, sentences: Sentences) -> str:
    return f"{split}_predictions{sentences.path.suffix}"


def _write_predictions(
    folder: pathlib.Path, split: str, sentences: Sentences, tags: list[list[str]]
) -> None:
    """Writes tags beside those of the file, in its own scheme, or else that of training."""
    written = [from_iob2(sentence, sentences.scheme) for sentence in tags]
    lines = with_predictions(sentences.path, written)
    run_folder.write_lines(folder / _predictions_name(split, sentences), lines)

"""Takes a classification run's settings, returns a trained and evaluated model; next: predictor.

Axes: n = number of examples, L = num_labels.
"""

import dataclasses
import functools
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import scipy.special

from bert_tf import run_folder
from bert_tf.checkpoint import Checkpoint, LoadReport, load_checkpoint, save_checkpoint
from bert_tf.config import BertConfig, Classification, unimportant_settings
from bert_tf.errors import InputError
from bert_tf.heads import BertClassifier
from bert_tf.input_pipeline import Features, batches, evaluation_plan, training_plan
from bert_tf.losses import LossTerm, multi_label_loss, regression_loss, single_label_loss
from bert_tf.metrics import classification_metrics
from bert_tf.optimization import create_optimizer
from bert_tf.packing import RaggedIds, pack_texts
from bert_tf.tasks.classification_data import (
    ClassificationTask,
    Examples,
    custom_task,
    find_labels,
    find_split_files,
    find_task,
    read_examples,
    read_label_file,
)
from bert_tf.tokenization import FullTokenizer
from bert_tf.training import Batch, Evaluator, TrainStep, train

COMMAND = "run_classifier"
LOGGED = ("loss", "grad_norm", "learning_rate")
# The settings that say what the task is; a trained folder knows them.
TASK_SETTINGS = (
    "task_name",
    "task_type",
    "text_column",
    "text_b_column",
    "label_column",
    "has_header",
    "labels",
    "label_separator",
)

log = logging.getLogger(__name__)


class TextClassifier:
    """A model with all it takes to go from texts to logits.

    Args:
        settings: of the run that it belongs to.
        config: the model's architecture.
        tokenizer: of the model's vocabulary.
        labels: in the order of their ids; none for a regression.
        task_type: single_label, multi_label or regression.

    Attributes:
        model: with new weights.
    """

    def __init__(
        self,
        settings: Classification,
        config: BertConfig,
        tokenizer: FullTokenizer,
        labels: tuple[str, ...],
        task_type: str,
    ) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.labels = labels
        self.task_type = task_type
        self.model = BertClassifier(config, num_labels=len(labels) or 1)
        self._evaluator = Evaluator(self.model, self.loss)
        self._predictor = Evaluator(self.model)

    def loss(self, logits: Any, batch: Batch) -> dict[str, LossTerm]:
        """Float32 [B, L] and a batch with ``label_ids`` -> the task's loss."""
        function = {
            "single_label": single_label_loss,
            "multi_label": multi_label_loss,
            "regression": regression_loss,
        }[self.task_type]
        return {"loss": function(logits, batch["label_ids"])}

    def features(
        self, text_a: Sequence[str], text_b: Sequence[str] | None, labels: np.ndarray | None = None
    ) -> Features:
        """Tokenizes and packs texts."""
        ragged_a = RaggedIds(*self.tokenizer.encode_batch(text_a))
        ragged_b = None if text_b is None else RaggedIds(*self.tokenizer.encode_batch(text_b))
        vocabulary = self.tokenizer.vocabulary
        packed = pack_texts(
            ragged_a, ragged_b, self.settings.max_seq_length, vocabulary.cls_id, vocabulary.sep_id
        )
        return Features(packed, labels)

    def batches(self, features: Features, plan: np.ndarray) -> Any:
        """The planned batches, padded as the settings say."""
        fixed = self.settings.max_seq_length if self.settings.fixed_length else None
        return batches(features, plan, fixed)

    def evaluate(self, examples: Examples, metrics: tuple[str, ...]) -> dict[str, float]:
        """The metrics and the loss on labelled examples."""
        features = self.features(examples.text_a, examples.text_b, examples.labels)
        plan = evaluation_plan(features.texts.input_ids.lengths, self.settings.eval_batch_size)
        found = self._evaluator(self.batches(features, plan), len(plan), "evaluating")
        assert examples.labels is not None
        values = classification_metrics(self.task_type, metrics, found.outputs, examples.labels)
        return {**values, **found.losses}

    def probabilities(
        self,
        text_a: Sequence[str],
        text_b: Sequence[str] | None,
        batch_size: int,
        description: str | None = None,
    ) -> np.ndarray:
        """What a text gets: float32 [n, L].

        Softmax for single_label, sigmoid for multi_label, the value itself for a regression.
        """
        features = self.features(text_a, text_b)
        plan = evaluation_plan(features.texts.input_ids.lengths, batch_size)
        logits = self._predictor(self.batches(features, plan), len(plan), description).outputs
        if self.task_type == "single_label":
            return scipy.special.softmax(logits, axis=-1)
        return scipy.special.expit(logits) if self.task_type == "multi_label" else logits


def run(settings: Classification) -> dict[str, float]:
    """Trains, evaluates and predicts, as the settings ask for.

    Returns:
        What ``eval_results.json`` holds; empty without ``do_eval``.

    Raises:
        InputError: for whatever is wrong with files or settings, before anything is written.
    """
    if settings.do_train:
        return _train_and_use(settings)
    return _use_trained(settings)


def load(folder: pathlib.Path) -> TextClassifier:
    """The classifier of a trained run's folder."""
    run_folder.require_model(folder)
    settings = _settings_of(folder)
    config = BertConfig.from_json_file(folder / run_folder.BERT_CONFIG)
    task = _find_task(settings)
    labels = _labels_of(folder, task)
    tokenizer = FullTokenizer(
        folder / run_folder.VOCAB, do_lower_case=settings.do_lower_case is not False
    )
    classifier = TextClassifier(settings, config, tokenizer, labels, task.task_type)
    load_checkpoint(classifier.model, folder / run_folder.CHECKPOINT)
    return classifier


def takes_pairs(classifier: TextClassifier) -> bool:
    """Whether a classifier was trained on pairs of texts."""
    layouts = _find_task(classifier.settings).layouts
    return any(layout.text_b_column is not None for layout in layouts.values())


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """Everything a run reads, read and checked before anything is written."""

    settings: Classification
    task: ClassificationTask
    labels: tuple[str, ...]
    config: BertConfig
    tokenizer: FullTokenizer
    train: Examples | None
    dev: dict[str, Examples]
    test: dict[str, Examples]

    def classifier(self) -> TextClassifier:
        return TextClassifier(
            self.settings, self.config, self.tokenizer, self.labels, self.task.task_type
        )


def _prepare(settings: Classification, labels: tuple[str, ...] | None = None) -> _Prepared:
    for name in ("vocab_file", "bert_config_file", "init_checkpoint"):
        if getattr(settings, name) is None:
            raise InputError(
                f"--{name} is missing; give it, or the folder of a released checkpoint with "
                "--checkpoint"
            )
    config = BertConfig.from_json_file(settings.bert_config_file or "")
    if settings.max_seq_length > config.max_position_embeddings:
        raise InputError(
            f"--max_seq_length={settings.max_seq_length} is more than the model's "
            f"max_position_embeddings, {config.max_position_embeddings}"
        )
    tokenizer = FullTokenizer(
        settings.vocab_file or "", do_lower_case=settings.do_lower_case is not False
    )
    if len(tokenizer.vocabulary) != config.vocab_size:
        raise InputError(
            f"--vocab_file {settings.vocab_file} has {len(tokenizer.vocabulary)} pieces, but "
            f"{settings.bert_config_file} has vocab_size {config.vocab_size}; use the vocab.txt "
            "that the checkpoint was trained on"
        )
    Checkpoint(settings.init_checkpoint or "").check_config(config, settings.bert_config_file or "")

    task = _find_task(settings)
    if labels is None:
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


def _train_and_use(settings: Classification) -> dict[str, float]:
    if settings.num_seeds > 1 and not settings.do_eval:
        raise InputError("--num_seeds compares runs by their evaluation: give --do_eval too")
    prepared = _prepare(settings)
    with _claim(prepared) as folder:
        if settings.num_seeds == 1:
            return _run_seed(prepared, folder)
        return _run_seeds(prepared, folder)


def _claim(prepared: _Prepared) -> Any:
    settings = prepared.settings
    results = [f"{run_folder.CHECKPOINT}.index"] * settings.do_train
    results += [run_folder.EVAL_RESULTS] * settings.do_eval
    results += [_test_results_name(part) for part in prepared.test]
    return run_folder.claim(
        settings.output_dir or "",
        {"command": COMMAND, **dataclasses.asdict(settings)},
        tuple(results),
        unimportant=unimportant_settings(Classification),
        overwrite=settings.overwrite,
    )


def _run_seed(prepared: _Prepared, folder: pathlib.Path) -> dict[str, float]:
    settings = prepared.settings
    examples = prepared.train
    assert examples is not None
    num_train_steps = int(len(examples) / settings.train_batch_size * settings.num_train_epochs)
    if num_train_steps < 1:
        raise InputError(
            f"{examples.path}: {len(examples)} examples make no training step with "
            f"--train_batch_size={settings.train_batch_size} and "
            f"--num_train_epochs={settings.num_train_epochs}"
        )
    keras.utils.set_random_seed(settings.seed)  # initial weights of the head
    classifier = prepared.classifier()
    report = load_checkpoint(
        classifier.model, settings.init_checkpoint or "", allow_missing=["output_*"]
    )
    log.info("%s", report)
    optimizer = create_optimizer(
        settings.learning_rate,
        num_train_steps,
        int(num_train_steps * settings.warmup_proportion),
        weight_decay_rate=settings.weight_decay_rate,
        bias_correction=settings.bias_correction,
    )
    features = classifier.features(examples.text_a, examples.text_b, examples.labels)
    lengths = features.texts.input_ids.lengths
    log.info(
        "training on %d examples for %d steps of %d; median length %d, %d cut to %d pieces",
        len(examples), num_train_steps, settings.train_batch_size, np.median(lengths),
        features.texts.num_truncated, settings.max_seq_length,
    )  # fmt: skip
    plan = training_plan(lengths, settings.train_batch_size, num_train_steps, settings.seed)
    train(
        TrainStep(classifier.model, optimizer, classifier.loss, settings.seed),
        LOGGED,
        lambda step: classifier.batches(features, plan[step:]),
        folder,
        num_train_steps=num_train_steps,
        examples_per_step=settings.train_batch_size,
        log_steps=settings.log_steps,
        save_checkpoints_steps=settings.save_checkpoints_steps,
    )
    _save_model(prepared, classifier, folder)
    return _use(prepared, classifier, folder, num_train_steps)


def _save_model(prepared: _Prepared, classifier: TextClassifier, folder: pathlib.Path) -> None:
    run_folder.write_text(folder / run_folder.BERT_CONFIG, prepared.config.to_json_string())
    vocabulary = prepared.tokenizer.vocabulary
    run_folder.write_text(
        folder / run_folder.VOCAB, "".join(f"{piece}\n" for piece in vocabulary.pieces)
    )
    if prepared.labels:
        run_folder.write_text(
            folder / run_folder.LABELS, "".join(f"{label}\n" for label in prepared.labels)
        )
    save_checkpoint(classifier.model, folder / run_folder.CHECKPOINT)


def _use(
    prepared: _Prepared,
    classifier: TextClassifier,
    folder: pathlib.Path,
    global_step: int | None,
) -> dict[str, float]:
    """Evaluates and predicts with a trained model, and writes what comes out."""
    results: dict[str, float] = {}
    for part, examples in prepared.dev.items():
        suffix = f"_{part}" if part else ""
        for name, value in classifier.evaluate(examples, prepared.task.metrics).items():
            results[f"eval_{name}{suffix}"] = value
    if prepared.dev:
        if global_step is not None:
            results["global_step"] = global_step
        run_folder.write_json(folder / run_folder.EVAL_RESULTS, results)
    for part, examples in prepared.test.items():
        rows = classifier.probabilities(
            examples.text_a, examples.text_b, prepared.settings.predict_batch_size, "predicting"
        )
        lines = ("\t".join(str(value) for value in row) for row in rows)
        run_folder.write_text(
            folder / _test_results_name(part), "".join(f"{line}\n" for line in lines)
        )
    log.info("results are in %s", folder)
    return results


def _run_seeds(prepared: _Prepared, folder: pathlib.Path) -> dict[str, float]:
    """One run per seed in a folder of its own; the best one's model becomes this folder's."""
    settings = prepared.settings
    runs: dict[int, dict[str, float]] = {}
    for seed in range(settings.seed, settings.seed + settings.num_seeds):
        path = folder / f"seed_{seed}"
        one = dataclasses.replace(
            settings, seed=seed, num_seeds=1, output_dir=str(path), overwrite=False
        )
        if (path / run_folder.EVAL_RESULTS).exists():
            log.info("seed %d is finished already", seed)
            runs[seed] = json.loads((path / run_folder.EVAL_RESULTS).read_text())
            continue
        log.info("seed %d", seed)
        prepared_one = dataclasses.replace(prepared, settings=one)
        with _claim(prepared_one) as seed_folder:
            runs[seed] = _run_seed(prepared_one, seed_folder)
    deciding = f"eval_{prepared.task.metrics[0]}"
    best = max(runs, key=lambda seed: runs[seed][deciding])
    results = {"best_seed": float(best)}
    for name in runs[best]:
        values = [result[name] for result in runs.values()]
        results[name] = float(np.mean(values))
        if name != "global_step":
            results[f"{name}_std"] = float(np.std(values, ddof=1))
            results[f"{name}_best"] = runs[best][name]
    for item in (folder / f"seed_{best}").iterdir():
        if item.name in (run_folder.BERT_CONFIG, run_folder.VOCAB, run_folder.LABELS) or (
            item.name.startswith((run_folder.CHECKPOINT, "test_results"))
        ):
            target = folder / item.name
            target.unlink(missing_ok=True)
            try:
                os.link(item, target)  # no second copy of the weights
            except OSError:
                shutil.copy2(item, target)
    run_folder.write_json(folder / run_folder.EVAL_RESULTS, results)
    return results


def _use_trained(settings: Classification) -> dict[str, float]:
    """Evaluates and predicts with the output folder's model, or else with ``init_checkpoint``."""
    folder = pathlib.Path(settings.output_dir or "")
    if not (folder / f"{run_folder.CHECKPOINT}.index").exists():
        prepared = _prepare(settings)
        with _claim(prepared) as claimed:
            return _load_and_use(prepared, claimed)
    run_folder.require_model(folder)
    stored = _settings_of(folder)
    changes: dict[str, Any] = {
        "vocab_file": str(folder / run_folder.VOCAB),
        "bert_config_file": str(folder / run_folder.BERT_CONFIG),
        "init_checkpoint": str(folder / run_folder.CHECKPOINT),
        "do_lower_case": stored.do_lower_case,
    }
    if settings.task_name is None:
        changes |= {name: getattr(stored, name) for name in TASK_SETTINGS}
    settings = dataclasses.replace(settings, **changes)
    prepared = _prepare(settings, _labels_of(folder, _find_task(settings)))
    with run_folder.reopen(folder) as claimed:
        return _load_and_use(prepared, claimed)


def _load_and_use(prepared: _Prepared, folder: pathlib.Path) -> dict[str, float]:
    classifier = prepared.classifier()
    report: LoadReport = load_checkpoint(classifier.model, prepared.settings.init_checkpoint or "")
    log.info("%s", report)
    return _use(prepared, classifier, folder, None)


def _settings_of(folder: pathlib.Path) -> Classification:
    stored = run_folder.read_run_config(folder / run_folder.RUN_CONFIG)
    if stored.pop("command", None) != COMMAND:
        raise InputError(f"{folder}: not the folder of a {COMMAND} run")
    return Classification(**stored)


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
    given = getattr(settings, f"{split}_file")
    if given is not None:
        return {"": pathlib.Path(given)}
    if settings.data_dir is None:
        raise InputError(
            f"--data_dir or --{split}_file is missing: where are the {split} examples?"
        )
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


def _test_results_name(part: str) -> str:
    return f"test_results_{part}.tsv" if part else run_folder.TEST_RESULTS

"""Takes a classification run's settings, returns a trained and evaluated model; next: predictor."""

import dataclasses
import functools
import json
import logging
import os
import pathlib
import shutil
from typing import Any

import keras
import numpy as np

from bert_tf import run_folder
from bert_tf.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bert_tf.config import BertConfig, Classification, stored_settings, unimportant_settings
from bert_tf.errors import InputError
from bert_tf.input_pipeline import training_plan
from bert_tf.optimization import create_optimizer
from bert_tf.tasks.classification_data import (
    ClassificationTask,
    Examples,
    custom_task,
    find_labels,
    find_split_files,
    read_examples,
    read_label_file,
)
from bert_tf.tasks.glue import find_task
from bert_tf.tasks.model_files import (
    check_vocabulary,
    has_model,
    read_config,
    refuse_results,
    refuse_results_of_another_model,
    refuse_unfinished,
    require_settings,
    settings_of_run,
    with_trained_model,
    write_model_files,
)
from bert_tf.tasks.text_classifier import TextClassifier
from bert_tf.tokenization import FullTokenizer
from bert_tf.training import TrainStep, train

COMMAND = "run_classifier"
LOGGED = ("loss", "grad_norm", "learning_rate")

log = logging.getLogger(__name__)


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
    settings = settings_of_run(folder, COMMAND, Classification)
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
    require_settings(settings, ("vocab_file", "bert_config_file", "init_checkpoint"))
    config = read_config(settings)
    tokenizer = FullTokenizer(
        settings.vocab_file or "", do_lower_case=settings.do_lower_case is not False
    )
    check_vocabulary(tokenizer.vocabulary, config, settings)
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
    refuse_results_of_another_model(settings, {run_folder.EVAL_RESULTS, *_results(prepared)[1:]})
    run = _TrainingRun(prepared)  # whatever it cannot do, it says before the folder is touched
    with _claim(prepared) as folder:
        if settings.num_seeds == 1:
            return run(folder)
        return _run_seeds(prepared, run, folder)


def _results(prepared: _Prepared) -> tuple[str, ...]:
    """The files that say that a run is finished."""
    settings = prepared.settings
    results = [f"{run_folder.CHECKPOINT}.index"] * settings.do_train
    results += [run_folder.EVAL_RESULTS] * settings.do_eval
    results += [_test_results_name(part) for part in prepared.test]
    return tuple(results)


def _claim(prepared: _Prepared) -> Any:
    return run_folder.claim(
        prepared.settings.output_dir or "",
        {"command": COMMAND, **stored_settings(prepared.settings)},
        _results(prepared),
        unimportant=unimportant_settings(Classification),
        overwrite=prepared.settings.overwrite,
    )


class _TrainingRun:
    """One run with one seed, ready to start: initial weights, features and the plan of its steps.

    Args:
        prepared: what it reads.
    """

    def __init__(self, prepared: _Prepared) -> None:
        self.prepared = prepared
        settings, examples = prepared.settings, prepared.train
        assert examples is not None
        self.num_train_steps = int(
            len(examples) / settings.train_batch_size * settings.num_train_epochs
        )
        if self.num_train_steps < 1:
            raise InputError(
                f"{examples.path}: {len(examples)} examples make no training step with "
                f"--train_batch_size={settings.train_batch_size} and "
                f"--num_train_epochs={settings.num_train_epochs}"
            )
        keras.utils.set_random_seed(settings.seed)  # initial weights of the head
        self.classifier = prepared.classifier()
        self.features = self.classifier.features(examples.text_a, examples.text_b, examples.labels)
        self.report = load_checkpoint(
            self.classifier.model, settings.init_checkpoint or "", allow_missing=["output_*"]
        )

    def __call__(self, folder: pathlib.Path) -> dict[str, float]:
        """Trains, saves, evaluates and predicts into a claimed folder."""
        settings, classifier, features = self.prepared.settings, self.classifier, self.features
        log.info("%s", self.report)
        optimizer = create_optimizer(
            settings.learning_rate,
            self.num_train_steps,
            int(self.num_train_steps * settings.warmup_proportion),
            weight_decay_rate=settings.weight_decay_rate,
            bias_correction=settings.bias_correction,
        )
        lengths = features.texts.input_ids.lengths
        log.info(
            "training on %d examples for %d steps of %d; median length %d, %d cut to %d pieces",
            len(features), self.num_train_steps, settings.train_batch_size, np.median(lengths),
            features.texts.num_truncated, settings.max_seq_length,
        )  # fmt: skip
        if settings.fixed_length:
            lengths = np.full_like(lengths, settings.max_seq_length)  # nothing to sort by
        plan = training_plan(
            lengths, settings.train_batch_size, self.num_train_steps, settings.seed
        )
        train(
            TrainStep(
                classifier.model,
                optimizer,
                classifier.loss,
                settings.seed,
                micro_batch_size=settings.micro_batch_size,
            ),
            LOGGED,
            lambda step: classifier.batches(features, plan[step:]),
            folder,
            num_train_steps=self.num_train_steps,
            examples_per_step=settings.train_batch_size,
            log_steps=settings.log_steps,
            save_checkpoints_steps=settings.save_checkpoints_steps,
        )
        _save_model(self.prepared, classifier, folder)
        return _use(self.prepared, classifier, folder, self.num_train_steps)


def _save_model(prepared: _Prepared, classifier: TextClassifier, folder: pathlib.Path) -> None:
    write_model_files(folder, prepared.config, prepared.tokenizer.vocabulary)
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


def _run_seeds(
    prepared: _Prepared, first_run: _TrainingRun, folder: pathlib.Path
) -> dict[str, float]:
    """One run per seed in a folder of its own; the best one's model becomes this folder's."""
    settings = prepared.settings
    runs: dict[int, dict[str, float]] = {}
    for seed in range(settings.seed, settings.seed + settings.num_seeds):
        path = folder / f"seed_{seed}"
        one = dataclasses.replace(
            settings, seed=seed, num_seeds=1, output_dir=str(path), overwrite=False
        )
        prepared_one = dataclasses.replace(prepared, settings=one)
        if all((path / name).exists() for name in _results(prepared_one)):
            log.info("seed %d is finished already", seed)
            runs[seed] = json.loads((path / run_folder.EVAL_RESULTS).read_text())
            continue
        log.info("seed %d", seed)
        run = first_run if seed == settings.seed else _TrainingRun(prepared_one)
        with _claim(prepared_one) as seed_folder:
            runs[seed] = run(seed_folder)
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
    if not has_model(settings):
        refuse_unfinished(settings)
        prepared = _prepare(settings)
        classifier = _load_trained(prepared)
        with _claim(prepared) as claimed:
            return _use(prepared, classifier, claimed, None)
    folder = pathlib.Path(settings.output_dir or "")
    run_folder.require_model(folder)
    stored = settings_of_run(folder, COMMAND, Classification)
    settings = with_trained_model(settings, stored)
    prepared = _prepare(settings, _labels_of(folder, _find_task(settings)))
    refuse_results(settings, _results(prepared))
    classifier = _load_trained(prepared)
    with run_folder.reopen(folder) as claimed:
        return _use(prepared, classifier, claimed, _steps_of(folder))


def _load_trained(prepared: _Prepared) -> TextClassifier:
    classifier = prepared.classifier()
    log.info("%s", load_checkpoint(classifier.model, prepared.settings.init_checkpoint or ""))
    return classifier


def _steps_of(folder: pathlib.Path) -> int | None:
    """The number of updates of the run that the folder's model comes from."""
    if (folder / "train_log.jsonl").exists():
        return int(json.loads((folder / "train_log.jsonl").read_text().splitlines()[-1])["step"])
    if (folder / run_folder.EVAL_RESULTS).exists():
        results = json.loads((folder / run_folder.EVAL_RESULTS).read_text())
        return int(results["global_step"]) if "global_step" in results else None
    return None


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

"""Takes a task whose files are read, returns a trained and evaluated model; next: classification.

What all fine-tuning commands do alike: one run or several seeds, into a folder that can be gone on
with, and the evaluation of a model that is there already.
"""

import abc
import contextlib
import dataclasses
import json
import logging
import math
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar

import keras
import numpy as np
import tensorflow as tf

from bert_tf import run_folder
from bert_tf.best_model import keep_if_best
from bert_tf.checkpoint import load_checkpoint, save_checkpoint
from bert_tf.checksum import sha256_of
from bert_tf.config import BertConfig, FineTuning
from bert_tf.distribution import devices_of, loss_scale_of
from bert_tf.errors import InputError
from bert_tf.input_pipeline import training_plan
from bert_tf.losses import Loss
from bert_tf.optimization import create_optimizer
from bert_tf.replicas import agreed, is_chief
from bert_tf.shared_rows import num_shares, share_rows
from bert_tf.tasks.model_files import (
    has_model,
    refuse_results,
    refuse_results_of_another_model,
    refuse_unfinished,
    settings_of_run,
    with_trained_model,
    write_model_files,
)
from bert_tf.tasks.run_claim import claimed
from bert_tf.tokenization import FullTokenizer
from bert_tf.training import TrainStep, check_shares, train

LOGGED = ("loss", "grad_norm", "learning_rate")

Settings = TypeVar("Settings", bound=FineTuning)

log = logging.getLogger(__name__)


class Learner(Protocol):
    """A model with all it takes to go from a task's examples to its outputs.

    Attributes:
        model: with new weights at first.
        loss: of the model's outputs and a batch.
    """

    model: keras.Model
    loss: Loss


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What there is to learn.

    Attributes:
        lengths: int64 [n], the length in pieces of each row, or of each example of several rows.
        num_examples: what an epoch goes through; where each of ``lengths`` is an example's, n.
        batches: int64 [number of batches, B], numbers of 0 to n - 1 -> the batches; with
            ``pack_examples`` int64 [number of batches, R, K], as ``shared_batches`` takes it.
        summary: a line about it.
    """

    lengths: np.ndarray
    num_examples: int
    batches: Callable[[np.ndarray], tf.data.Dataset]
    summary: str


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """A task whose files are read and checked, before anything is written.

    Attributes:
        command: that runs it.
        new_variables: patterns of the variables that an encoder's checkpoint lacks.
        settings: the command's.
        config: the model's architecture.
        tokenizer: of the model's vocabulary.
    """

    command: ClassVar[str]
    new_variables: ClassVar[tuple[str, ...]]

    settings: Any
    config: BertConfig
    tokenizer: FullTokenizer

    @property
    @abc.abstractmethod
    def train_file(self) -> pathlib.Path | None:
        """What is trained on; None without ``do_train``."""

    @property
    def inputs(self) -> dict[str, Any]:
        """What training depends on beside the settings, for ``run_folder.remember_inputs``."""
        assert self.train_file is not None
        return {
            "bert_config_file": json.loads(self.config.to_json_string()),
            "vocab_file": self.tokenizer.vocabulary.sha256,
            "train_file": sha256_of(self.train_file),
        }

    @property
    @abc.abstractmethod
    def result_files(self) -> tuple[str, ...]:
        """Names of the files that ``evaluate`` and ``predict`` write."""

    @property
    @abc.abstractmethod
    def deciding(self) -> str:
        """The value of ``evaluate`` by which the best model is found; the higher, the better."""

    @abc.abstractmethod
    def learner(self) -> Any:
        """A new Learner."""

    @abc.abstractmethod
    def lesson(self, learner: Any) -> Lesson:
        """What it is to learn from ``train_file``."""

    @abc.abstractmethod
    def write_files(self, folder: pathlib.Path) -> None:
        """Writes what the task needs beside the model, such as its labels."""

    @abc.abstractmethod
    def evaluate(self, learner: Any, folder: pathlib.Path, step: int) -> dict[str, float]:
        """Evaluates if the settings ask for it, and writes what it finds.

        Args:
            learner: of ``learner``, trained.
            folder: where its files go.
            step: updates that the learner has had, as far as it is known.

        Returns:
            Values by name, such as ``eval_loss``; none if there is nothing to evaluate.
        """

    @abc.abstractmethod
    def predict(self, learner: Any, folder: pathlib.Path) -> None:
        """Predicts the test set if the settings ask for it; arguments as for ``evaluate``."""


# The settings, and the folder of the run that made the model if there is one -> the task.
Prepare = Callable[[Settings, pathlib.Path | None], Task]


def run(settings: Settings, command: str, prepare: Prepare[Settings]) -> dict[str, float]:
    """Trains, evaluates and predicts, as the settings ask for.

    Returns:
        What ``eval_results.json`` holds; empty without ``do_eval``, and on all workers but the
        chief.

    Raises:
        InputError: for whatever is wrong with files or settings, before anything is written.
    """
    with devices_of(settings):
        results: dict[str, float] = {}
        if settings.do_train:
            results = _train_and_use(prepare(settings, None))
        elif is_chief():
            results = _use_trained(settings, command, prepare)
        agreed(0)  # the others stay while the chief evaluates
        return results


def _train_and_use(task: Task) -> dict[str, float]:
    settings = task.settings
    if settings.num_seeds > 1 and not settings.do_eval:
        raise InputError("--num_seeds compares runs by their evaluation: give --do_eval too")
    refuse_results_of_another_model(settings, {run_folder.EVAL_RESULTS, *task.result_files})
    one_run = _TrainingRun(task)  # whatever it cannot do, it says before the folder is touched
    with _claim(task) as folder:
        inputs = task.inputs if is_chief() else None  # of all seeds: the file is read whole for it
        if settings.num_seeds == 1:
            return one_run(folder, inputs)
        return _run_seeds(task, one_run, folder, inputs)


def _results(task: Task) -> tuple[str, ...]:
    """The files that say that a run is finished."""
    results = [f"{run_folder.CHECKPOINT}.index"] * task.settings.do_train
    results += [run_folder.EVAL_RESULTS] * task.settings.do_eval
    return (*results, *task.result_files)


def _claim(task: Task) -> contextlib.AbstractContextManager[pathlib.Path]:
    return claimed(task.settings, task.command, _results(task))


class _TrainingRun:
    """One run with one seed, ready to start: initial weights, features and the plan of its steps.

    Args:
        task: what it is about.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        settings = task.settings
        keras.utils.set_random_seed(settings.seed)  # initial weights of the head
        self.learner = task.learner()
        self.lesson = task.lesson(self.learner)
        self.num_train_steps = int(
            self.lesson.num_examples / settings.train_batch_size * settings.num_train_epochs
        )
        if self.num_train_steps < 1:
            raise InputError(
                f"{task.train_file}: {self.lesson.num_examples} examples make no training step "
                f"with --train_batch_size={settings.train_batch_size} and "
                f"--num_train_epochs={settings.num_train_epochs}"
            )
        self.report = load_checkpoint(
            self.learner.model, settings.init_checkpoint or "", allow_missing=task.new_variables
        )
        optimizer = create_optimizer(
            settings.learning_rate,
            self.num_train_steps,
            int(self.num_train_steps * settings.warmup_proportion),
            weight_decay_rate=settings.weight_decay_rate,
            bias_correction=settings.bias_correction,
        )
        self.plan = self._plan()
        micro_batch_size = settings.micro_batch_size
        if settings.pack_examples and micro_batch_size:
            micro_batch_size = self.plan.shape[1] // self._num_shares
        self.step = TrainStep(
            self.learner.model,
            optimizer,
            self.learner.loss,
            settings.seed,
            micro_batch_size=micro_batch_size,
            loss_scale=loss_scale_of(settings),
            recompute=settings.recompute,
        )
        check_shares(self.step, settings.train_batch_size, self.plan.shape[1], xla=settings.xla)

    def __call__(self, folder: pathlib.Path, inputs: dict[str, Any] | None) -> dict[str, float]:
        """Trains, saves, evaluates and predicts.

        Args:
            folder: claimed.
            inputs: the task's, which the chief remembers there; None on other workers.
        """
        task, settings, learner, lesson = self.task, self.task.settings, self.learner, self.lesson

        def evaluate() -> dict[str, float]:
            done = int(self.step.optimizer.iterations.numpy())
            return keep_if_best(
                folder,
                done,
                lambda target: task.evaluate(learner, target, done),
                task.deciding,
                self._write_model,
                lower_is_better=False,
            )

        if inputs is not None:
            run_folder.remember_inputs(folder, inputs)
        log.info("%s", self.report)
        log.info(
            "training on %d examples for %d steps of %d; %s",
            lesson.num_examples, self.num_train_steps, settings.train_batch_size, lesson.summary,
        )  # fmt: skip
        train(
            self.step,
            LOGGED,
            lambda step: lesson.batches(self.plan[step:]),
            folder,
            num_train_steps=self.num_train_steps,
            examples_per_step=settings.train_batch_size,
            log_steps=settings.log_steps,
            save_checkpoints_steps=settings.save_checkpoints_steps,
            keep_checkpoint_max=settings.keep_checkpoint_max,
            rows_per_step=self.plan.shape[1],
            evaluate=evaluate if settings.eval_steps else None,
            eval_steps=settings.eval_steps,
            xla=settings.xla,
        )
        if not is_chief():
            return {}
        self._write_model(folder)
        return _use(task, learner, folder, self.num_train_steps)

    def _write_model(self, folder: pathlib.Path) -> None:
        """Writes all that the trained model needs to be used."""
        task = self.task
        write_model_files(folder, task.config, task.tokenizer.vocabulary)
        task.write_files(folder)
        save_checkpoint(self.learner.model, folder / run_folder.CHECKPOINT)

    def _plan(self) -> np.ndarray:
        """The plan of all steps, as ``Lesson.batches`` takes it."""
        settings, lengths = self.task.settings, self.lesson.lengths
        if settings.fixed_length and not settings.pack_examples:
            lengths = np.full_like(lengths, settings.max_seq_length)  # nothing to sort by
        plan = training_plan(
            lengths,
            settings.train_batch_size,
            self.num_train_steps,
            settings.seed,
            is_spread=settings.pack_examples,
        )
        if not settings.pack_examples:
            return plan
        rows = share_rows(plan, lengths, settings.max_seq_length, self._num_shares)
        fill = lengths[plan].sum() / (settings.max_seq_length * rows.shape[0] * rows.shape[1])
        log.info(
            "the %d examples of a step share %d rows of %d, at most %d in one; %.0f%% is padding",
            settings.train_batch_size, rows.shape[1], settings.max_seq_length, rows.shape[2],
            100 - 100 * fill,
        )  # fmt: skip
        return rows

    @property
    def _num_shares(self) -> int:
        settings = self.task.settings
        return num_shares(
            settings.train_batch_size,
            settings.micro_batch_size,
            tf.distribute.get_strategy().num_replicas_in_sync,
        )


def _use(
    task: Task, learner: Learner, folder: pathlib.Path, global_step: int | None
) -> dict[str, float]:
    """Evaluates and predicts with a trained model, and writes what comes out."""
    results = task.evaluate(learner, folder, global_step or 0)
    task.predict(learner, folder)
    if results:
        if global_step is not None:
            results["global_step"] = global_step
        run_folder.write_json(folder / run_folder.EVAL_RESULTS, results)
    log.info("results are in %s", folder)
    return results


def _run_seeds(
    task: Task, first_run: _TrainingRun, folder: pathlib.Path, inputs: dict[str, Any] | None
) -> dict[str, float]:
    """One run per seed in a folder of its own; the best one's model becomes this folder's.

    Args:
        task: of all seeds.
        first_run: that of the first seed, ready to start.
        folder: claimed.
        inputs: as for ``first_run``.
    """
    settings = task.settings
    runs: dict[int, dict[str, float]] = {}
    for seed in range(settings.seed, settings.seed + settings.num_seeds):
        path = folder / f"seed_{seed}"
        task_of_seed = dataclasses.replace(
            task,
            settings=dataclasses.replace(
                settings, seed=seed, num_seeds=1, output_dir=str(path), overwrite=False
            ),
        )
        if all((path / name).exists() for name in _results(task_of_seed)):
            if inputs is not None:
                run_folder.remember_inputs(path, inputs)
            log.info("seed %d is finished already", seed)
            runs[seed] = json.loads((path / run_folder.EVAL_RESULTS).read_text())
            continue
        log.info("seed %d", seed)
        one_run = first_run if seed == settings.seed else _TrainingRun(task_of_seed)
        with _claim(task_of_seed) as seed_folder:
            runs[seed] = one_run(seed_folder, inputs)
    if not is_chief():
        return {}
    best = _best({seed: values[task.deciding] for seed, values in runs.items()})
    results = {"best_seed": float(best)}
    for name in runs[best]:
        values = [result[name] for result in runs.values()]
        results[name] = float(np.mean(values))
        if name != "global_step":
            results[f"{name}_std"] = float(np.std(values, ddof=1))
            results[f"{name}_best"] = runs[best][name]
    for item in (folder / f"seed_{best}").iterdir():
        is_model = item.name in run_folder.MODEL_FILES
        is_model |= item.name.startswith(run_folder.CHECKPOINT)
        is_result = item.name in task.result_files and item.name != run_folder.EVAL_RESULTS
        if is_model or is_result:
            target = folder / item.name
            target.unlink(missing_ok=True)
            try:
                os.link(item, target)  # no second copy of the weights
            except OSError:
                shutil.copy2(item, target)
    run_folder.write_json(folder / run_folder.EVAL_RESULTS, results)
    return results


def _best(values: dict[int, float]) -> int:
    """The seed with the highest value; one that is not a number is not the best."""
    return max(values, key=lambda seed: -math.inf if math.isnan(values[seed]) else values[seed])


def _use_trained(settings: Settings, command: str, prepare: Prepare[Settings]) -> dict[str, float]:
    """Evaluates and predicts with the output folder's model, or else with ``init_checkpoint``."""
    if not has_model(settings):
        refuse_unfinished(settings)
        task = prepare(settings, None)
        learner = _load_trained(task)
        with _claim(task) as claimed:
            return _use(task, learner, claimed, None)
    folder = pathlib.Path(settings.output_dir or "")
    run_folder.require_model(folder)
    stored = settings_of_run(folder, command, type(settings))
    task = prepare(with_trained_model(settings, stored), folder)
    refuse_results(settings, _results(task))
    learner = _load_trained(task)
    with run_folder.reopen(folder) as claimed:
        return _use(task, learner, claimed, _steps_of(folder))


def _load_trained(task: Task) -> Any:
    learner = task.learner()
    log.info("%s", load_checkpoint(learner.model, task.settings.init_checkpoint or ""))
    return learner


def _steps_of(folder: pathlib.Path) -> int | None:
    """The number of updates of the run that the folder's model comes from."""
    train_log, results = folder / run_folder.TRAIN_LOG, folder / run_folder.EVAL_RESULTS
    if train_log.exists():
        return int(json.loads(train_log.read_text().splitlines()[-1])["step"])
    if results.exists():
        stored = json.loads(results.read_text())
        return int(stored["global_step"]) if "global_step" in stored else None
    return None

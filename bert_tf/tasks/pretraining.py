"""Takes a pretraining run's settings, returns a trained and evaluated model; next: predictor."""

import contextlib
import dataclasses
import json
import logging
import pathlib
from typing import Any

import keras
import numpy as np

from bert_tf import run_folder
from bert_tf.best_model import keep_if_best
from bert_tf.checkpoint import (
    SLOTS,
    Checkpoint,
    LoadReport,
    load_checkpoint,
    save_checkpoint,
)
from bert_tf.config import BertConfig, Pretraining
from bert_tf.distribution import DTYPE_POLICIES, devices_of, loss_scale_of
from bert_tf.errors import InputError
from bert_tf.heads import BertPretrainer
from bert_tf.optimization import create_optimizer
from bert_tf.record_dataset import reading
from bert_tf.replicas import agreed, is_chief
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
from bert_tf.tasks.pretraining_batches import PretrainingBatches
from bert_tf.tasks.pretraining_objective import Objective, PretrainingEvaluator
from bert_tf.tasks.run_claim import claimed
from bert_tf.tokenization import Vocabulary
from bert_tf.training import TrainStep, check_shares, train

COMMAND = "run_pretraining"
GLOBAL_STEP = "global_step"
_EVALUATION = (run_folder.EVAL_RESULTS, run_folder.EVAL_RESULTS_TEXT)

log = logging.getLogger(__name__)


def run(settings: Pretraining) -> dict[str, float]:
    """Trains and evaluates, as the settings ask for.

    Returns:
        What ``eval_results.json`` holds; empty without ``do_eval``, and on all workers but the
        chief.

    Raises:
        InputError: for whatever is wrong with files or settings, before anything is written; of
            the records' values, the first ones of each file are looked at before, the others when
            their turn comes.
    """
    with devices_of(settings):
        results: dict[str, float] = {}
        if settings.do_train:
            results = _train(settings)
        elif is_chief():
            results = _use_trained(settings)
        agreed(0)  # the others stay while the chief evaluates
        return results


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """Everything a run reads, checked before anything is written."""

    settings: Pretraining
    config: BertConfig
    vocabulary: Vocabulary | None
    batches: PretrainingBatches


def _prepare(settings: Pretraining) -> _Prepared:
    require_settings(settings, ("bert_config_file",))
    config = read_config(settings)
    vocabulary = _find_vocabulary(settings)
    if vocabulary is not None:
        check_vocabulary(vocabulary, config, settings)
    if settings.init_checkpoint is not None:
        checkpoint = Checkpoint(settings.init_checkpoint)
        checkpoint.check_config(config, settings.bert_config_file or "")
        if settings.do_train and settings.resume_optimizer:
            _check_optimizer_state(checkpoint, settings)
    batches = PretrainingBatches(settings, config, vocabulary)
    # Kept with the model, so that whoever uses it need not know.
    settings = dataclasses.replace(settings, do_lower_case=batches.do_lower_case)
    return _Prepared(settings, config, vocabulary, batches)


def _find_vocabulary(settings: Pretraining) -> Vocabulary | None:
    """The given vocabulary, or the one beside the configuration; pretraining can do without."""
    if settings.vocab_file is not None:
        return Vocabulary(settings.vocab_file)
    beside = pathlib.Path(settings.bert_config_file or "").with_name(run_folder.VOCAB)
    return Vocabulary(beside) if beside.exists() else None


def _check_optimizer_state(checkpoint: Checkpoint, settings: Pretraining) -> None:
    """Checks that training can go on from a checkpoint."""
    has_slots = any(name.rpartition("/")[2] in SLOTS for name in checkpoint.shapes)
    if GLOBAL_STEP not in checkpoint.shapes or not has_slots:
        raise InputError(
            f"--resume_optimizer: {checkpoint.path} has no state of an optimizer (global_step, "
            "adam_m, adam_v), as is so with released checkpoints; leave the flag out to start "
            "with a new one"
        )
    done = int(checkpoint.read([GLOBAL_STEP])[0])
    if done >= settings.last_step:
        flag = "num_train_steps" if settings.stop_at_step is None else "stop_at_step"
        raise InputError(
            f"--{flag}={settings.last_step}: {checkpoint.path} has {done} steps already, and with "
            "--resume_optimizer they count; give more than that"
        )


def _claim(prepared: _Prepared) -> contextlib.AbstractContextManager[pathlib.Path]:
    return claimed(prepared.settings, COMMAND, _results(prepared.settings))


def _results(settings: Pretraining) -> tuple[str, ...]:
    """The files that say that a run is finished."""
    results = [f"{run_folder.CHECKPOINT}.index"] * settings.do_train
    return (*results, *_EVALUATION * settings.do_eval)


def _train(settings: Pretraining) -> dict[str, float]:
    prepared = _prepare(settings)
    settings = prepared.settings
    refuse_results_of_another_model(settings, _EVALUATION)
    batches, objective = prepared.batches, _objective(settings)
    keras.utils.set_random_seed(settings.seed)  # initial weights
    model = BertPretrainer(prepared.config, dtype=DTYPE_POLICIES[settings.precision])
    optimizer = create_optimizer(
        settings.learning_rate,
        settings.num_train_steps,
        settings.num_warmup_steps,
        weight_decay_rate=settings.weight_decay_rate,
        optimizer=settings.optimizer,
    )
    report = None
    if settings.init_checkpoint is not None:
        resumes = settings.resume_optimizer
        report = load_checkpoint(
            model,
            settings.init_checkpoint,
            allow_missing=[] if resumes else ["cls/*"],
            optimizer=optimizer if resumes else None,
        )
    evaluator = PretrainingEvaluator(model, objective)
    step = TrainStep(
        model,
        optimizer,
        objective.loss,
        settings.seed,
        metrics=objective.metrics,
        micro_batch_size=batches.micro_batch_size,
        loss_scale=loss_scale_of(settings),
        recompute=settings.recompute,
    )
    rows = None if batches.shared is None else batches.shared.shape.rows
    check_shares(step, settings.train_batch_size, rows, xla=settings.xla)

    with _claim(prepared) as folder:

        def evaluate() -> dict[str, float]:
            done = int(optimizer.iterations.numpy())
            return keep_if_best(
                folder, done, evaluate_into, "eval_loss", write_model, lower_is_better=True
            )

        def evaluate_into(target: pathlib.Path) -> dict[str, float]:
            values = _evaluate(prepared, evaluator)
            return {f"eval_{name}": value for name, value in values.items()}

        def write_model(target: pathlib.Path) -> None:
            write_model_files(target, prepared.config, prepared.vocabulary)
            save_checkpoint(model, target / run_folder.CHECKPOINT)

        if is_chief():
            run_folder.remember_inputs(folder, _inputs(prepared))
        _log_start(prepared, report, int(optimizer.iterations.numpy()))
        assert batches.train is not None
        with reading(batches.train.paths):
            train(
                step,
                objective.logged,
                batches.training,
                folder,
                num_train_steps=settings.last_step,
                examples_per_step=settings.train_batch_size,
                log_steps=settings.log_steps,
                save_checkpoints_steps=settings.save_checkpoints_steps,
                keep_checkpoint_max=settings.keep_checkpoint_max,
                rows_per_step=rows,
                evaluate=evaluate if settings.eval_steps else None,
                eval_steps=settings.eval_steps,
                xla=settings.xla,
            )
        if not is_chief():
            return {}
        write_model_files(folder, prepared.config, prepared.vocabulary)
        # With what it takes to go on: a second phase may, with longer sequences.
        save_checkpoint(model, folder / run_folder.CHECKPOINT, optimizer=optimizer)
        if not settings.do_eval:
            log.info("the model is in %s", folder)
            return {}
        return _write_results(prepared, evaluator, folder, settings.last_step)


def _inputs(prepared: _Prepared) -> dict[str, Any]:
    """What the run depends on beside its settings, for ``run_folder.remember_inputs``."""
    files, vocabulary = prepared.batches.train, prepared.vocabulary
    assert files is not None
    return {
        "bert_config_file": json.loads(prepared.config.to_json_string()),
        "vocab_file": None if vocabulary is None else vocabulary.sha256,
        "input_file": {
            str(path): {"num_records": count, "num_bytes": path.stat().st_size}
            for path, count in zip(files.paths, files.counts, strict=True)
        },
    }


def _log_start(prepared: _Prepared, report: LoadReport | None, done: int) -> None:
    settings, files = prepared.settings, prepared.batches.train
    assert files is not None
    log.info("%s", report or f"{settings.bert_config_file}: new weights")
    if prepared.vocabulary is None:
        log.info(
            "no vocab.txt, so the folder will have none; give --vocab_file to use its model with "
            "--checkpoint"
        )
    num_steps = settings.last_step - done
    log.info(
        "%d records in %d files; %d steps of %d are %.1f epochs",
        len(files), len(files.paths), num_steps, settings.train_batch_size,
        num_steps * settings.train_batch_size / len(files),
    )  # fmt: skip
    shared = prepared.batches.shared
    if shared is not None:
        log.info(
            "the %d records of a step share %d rows of %d, at most %d in one; %.0f%% is padding",
            settings.train_batch_size, shared.shape.rows, settings.max_seq_length,
            shared.shape.examples, 100 - 100 * shared.fill,
        )  # fmt: skip
    if settings.num_warmup_steps >= settings.last_step:
        log.info(
            "the warm-up of %d steps is longer than the run: the rate never reaches "
            "--learning_rate",
            settings.num_warmup_steps,
        )


def _use_trained(settings: Pretraining) -> dict[str, float]:
    """Evaluates the output folder's model, or else ``init_checkpoint``."""
    if not has_model(settings):
        refuse_unfinished(settings)
        require_settings(settings, ("init_checkpoint",))
        prepared = _prepare(settings)
        evaluator, steps = _load_trained(prepared)
        with _claim(prepared) as folder:
            return _write_results(prepared, evaluator, folder, steps)
    folder = pathlib.Path(settings.output_dir or "")
    run_folder.require_model(folder, needs_vocab=False)
    settings = with_trained_model(settings, settings_of_run(folder, COMMAND, Pretraining))
    refuse_results(settings, _results(settings))
    prepared = _prepare(settings)
    evaluator, steps = _load_trained(prepared)
    with run_folder.reopen(folder, needs_vocab=False):
        return _write_results(prepared, evaluator, folder, steps)


def _load_trained(prepared: _Prepared) -> tuple[PretrainingEvaluator, int | None]:
    """The model of ``init_checkpoint``, and the number of its updates, if it says so."""
    path = prepared.settings.init_checkpoint or ""
    policy = DTYPE_POLICIES[prepared.settings.precision]
    model = BertPretrainer(prepared.config, dtype=policy)
    log.info("%s", load_checkpoint(model, path))
    checkpoint = Checkpoint(path)
    steps = None
    if GLOBAL_STEP in checkpoint.shapes:
        steps = int(checkpoint.read([GLOBAL_STEP])[0])
    return PretrainingEvaluator(model, _objective(prepared.settings)), steps


def _objective(settings: Pretraining) -> Objective:
    return Objective(next_sentence=settings.next_sentence == "nsp")


def _evaluate(
    prepared: _Prepared, evaluator: PretrainingEvaluator, description: str | None = None
) -> dict[str, float]:
    batches = prepared.batches
    assert batches.held_out is not None
    with reading(batches.held_out.paths):
        return evaluator(batches.evaluation(), batches.num_evaluation_batches, description)


def _write_results(
    prepared: _Prepared,
    evaluator: PretrainingEvaluator,
    folder: pathlib.Path,
    global_step: int | None,
) -> dict[str, float]:
    """Evaluates; the results go into a file for programs and into the original's."""
    results = _evaluate(prepared, evaluator, "evaluating")
    if global_step is not None:
        results = dict(sorted({**results, GLOBAL_STEP: global_step}.items()))
    lines = [
        # As the original prints them: with the digits of a float32.
        f"{name} = {value if name == GLOBAL_STEP else str(np.float32(value))}\n"
        for name, value in results.items()
    ]
    run_folder.write_text(folder / run_folder.EVAL_RESULTS_TEXT, "".join(lines))
    run_folder.write_json(folder / run_folder.EVAL_RESULTS, results)
    log.info("results are in %s", folder)
    return results

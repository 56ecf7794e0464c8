"""Takes a model, a loss and a dataset, returns trained weights; knows no task; next: tasks.

One code path for every tf.distribute strategy: the step runs in replica context, divides its loss
by the weight of the global batch, sums gradients over the replicas, and clips what comes out.
"""

import contextlib
import dataclasses
import json
import logging
import math
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import orbit
import tensorflow as tf
import tqdm

from bert_tf import run_folder
from bert_tf.checkpoint import ResumePoints
from bert_tf.compiled_step import CompiledStep
from bert_tf.errors import InputError, listed
from bert_tf.losses import Batch, Loss, LossTerm
from bert_tf.modeling import BertModel
from bert_tf.optimization import AdamWeightDecay, LossScale, clip_by_global_norm
from bert_tf.out_of_memory import out_of_memory_explained
from bert_tf.replicas import (
    OnReplicas,
    agreed,
    distributed,
    is_chief,
    lost_workers_named,
)
from bert_tf.tensorboard_file import TensorBoardFile
from bert_tf.termination import Terminated, deferred_termination

logger = logging.getLogger(__name__)

# (the model's outputs, the batch) -> named values to report, ``total / weight`` each.
Metrics = Callable[[Any, Batch], dict[str, LossTerm]]

MODEL_INPUTS = (
    *("input_ids", "input_mask", "segment_ids", "masked_lm_positions", "word_starts"),
    *("example_numbers", "positions", "cls_positions"),
)
# What a step with a loss scale adds to its values.
SCALE_VALUES = ("loss_scale", "skipped_steps", "skipped_in_a_row")
# What the log adds to a step's values.
RATES = ("examples_per_second", "tokens_per_second")
# From 2^15, sixteen steps in a row take the scale down to 1.
_MOST_SKIPPED_IN_A_ROW = 50
# What is said where an evaluation, of whichever command, runs out of memory.
_SMALLER_EVALUATION = (
    "Give a smaller --max_seq_length, or fewer examples in a batch: --eval_batch_size to evaluate, "
    "--predict_batch_size to predict a test set, --batch_size in other commands"
)
# How long the host may be without a look at what the device does: a wish to stop waits for it.
_LOOP_SECONDS = 5.0


class TrainStep:
    """One update, in replica context.

    Args:
        model: takes a batch's MODEL_INPUTS, ``training`` and ``dropout_seed``.
        optimizer: updates the model's trainable variables.
        loss: the loss's parts; their values are added.
        seed: the run's seed.
        metrics: values to report beside the losses.
        micro_batch_size: how many of a replica's examples, or rows where examples share them, go
            through the model at once; by default all. Dropout apart, the update is the same: only
            the memory that it takes is not.
        loss_scale: for gradients in float16. A step whose gradients are not finite is left out then
            and counts as done.
        recompute: what the model's BertModel gets as its ``recompute``.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: AdamWeightDecay,
        loss: Loss,
        seed: int,
        *,
        metrics: Metrics | None = None,
        micro_batch_size: int | None = None,
        loss_scale: LossScale | None = None,
        recompute: bool = False,
    ) -> None:
        for layer in (model, *model.layers):
            if isinstance(layer, BertModel):
                layer.recompute = recompute
        self.model = model
        self.optimizer = optimizer
        self.loss = loss
        self.seed = seed
        self.metrics = metrics or (lambda outputs, batch: {})
        self.micro_batch_size = micro_batch_size
        self.loss_scale = loss_scale
        self.recompute = recompute
        # Slots are created here, not while a graph is traced.
        optimizer.build(model.trainable_variables)

    def __call__(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Updates the weights.

        Args:
            batch: this replica's part of the global batch.

        Returns:
            float32 [] each: ``loss``, its parts and the metrics by name (all over the global
            batch), ``grad_norm`` before clipping, ``learning_rate`` of this update; with a loss
            scale, what SCALE_VALUES names, and a ``grad_norm`` of 0 for a step that is left out.
        """
        context = tf.distribute.get_replica_context()
        step = self.optimizer.iterations.value
        learning_rate = self.optimizer.schedule(step)
        weights = context.all_reduce(tf.distribute.ReduceOp.SUM, self.loss.weights(batch))
        seed = dropout_seed(self.seed, step, context.replica_id_in_sync_group)
        differentiate = self._accumulate if self.micro_batch_size else self._differentiate
        gradients, values = differentiate(batch, weights, seed)
        if context.num_replicas_in_sync > 1:
            # Rows of a table would be collected, not summed, and replicas have different numbers.
            gradients = {i: tf.convert_to_tensor(g) for i, g in gradients.items()}
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        variables = [self.model.trainable_variables[number] for number in gradients]
        scaling: dict[str, tf.Tensor] = {}
        if self.loss_scale is None:
            clipped, norm = clip_by_global_norm(list(gradients.values()))
            self.optimizer.apply_reduced_gradients(zip(clipped, variables, strict=True))
        else:
            scale = tf.convert_to_tensor(self.loss_scale.scale)
            clipped, norm = clip_by_global_norm(
                [tf.convert_to_tensor(gradient) / scale for gradient in gradients.values()]
            )
            # What is not finite on one replica makes the sum, and so the norm, the same on all.
            is_finite = tf.math.is_finite(norm)
            self.optimizer.apply_reduced_gradients(
                zip(clipped, variables, strict=True), only_if=is_finite
            )
            self.loss_scale.update(is_finite)
            norm = tf.where(is_finite, norm, 0.0)
            counted = (self.loss_scale.skipped, self.loss_scale.skipped_in_a_row)
            scaling = dict(
                zip(SCALE_VALUES, (scale, *(tf.cast(n, tf.float32) for n in counted)), strict=True)
            )

        values = context.all_reduce(tf.distribute.ReduceOp.SUM, values)
        losses = values["losses"]
        return {
            "loss": tf.add_n(list(losses.values())),
            **losses,
            **{
                name: tf.math.divide_no_nan(total, weight)
                for name, (total, weight) in values["metrics"].items()
            },
            "grad_norm": norm,
            "learning_rate": learning_rate,
            **scaling,
        }

    def check_batch_size(self, num_examples: int) -> None:
        """Checks that a replica's batch can be split into equal micro-batches.

        Raises:
            InputError: if not.
        """
        if self.micro_batch_size and num_examples % self.micro_batch_size:
            raise InputError(
                f"--micro_batch_size={self.micro_batch_size} does not divide the {num_examples} "
                "examples that a device takes in a step; give a divisor of it"
            )

    def _differentiate(
        self, batch: Batch, weights: dict[str, tf.Tensor], seed: tf.Tensor
    ) -> tuple[dict[int, Any], dict[str, Any]]:
        """What a batch adds to the gradients (scaled) and to the values, given all the weights.

        Returns:
            The gradients of the trainable variables by number, without those that the loss does not
            reach, and, float32 [] each, ``losses`` and for the ``metrics`` a pair of total and
            weight.
        """
        with tf.GradientTape() as tape:
            inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
            outputs = self.model(inputs, training=True, dropout_seed=seed)
            losses = {
                name: term.total / (weights[name] + term.epsilon)
                for name, term in self.loss.terms(outputs, batch).items()
            }
            loss = tf.add_n(list(losses.values()))
            if self.loss_scale is not None:
                loss *= self.loss_scale.scale
        variables = self.model.trainable_variables
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        reached = {number: g for number, g in enumerate(gradients) if g is not None}
        metrics = self.metrics(outputs, batch)
        pairs = {name: (metric.total, metric.weight) for name, metric in metrics.items()}
        return reached, {"losses": losses, "metrics": pairs}

    def _accumulate(
        self, batch: Batch, weights: dict[str, tf.Tensor], seed: tf.Tensor
    ) -> tuple[dict[int, Any], dict[str, Any]]:
        """As ``_differentiate``, micro-batch after micro-batch; the gradients are dense."""
        if batch["input_ids"].shape[0] is not None:
            self.check_batch_size(batch["input_ids"].shape[0])
        num_parts = tf.shape(batch["input_ids"])[0] // self.micro_batch_size
        parts = {
            name: tf.reshape(  # [B, …] -> [num_parts, micro_batch_size, …]
                value, tf.concat([[-1, self.micro_batch_size], tf.shape(value)[1:]], axis=0)
            )
            for name, value in batch.items()
        }

        def differentiate_part(number: tf.Tensor) -> tuple[dict[int, Any], dict[str, Any]]:
            micro_batch = {name: tf.gather(value, number) for name, value in parts.items()}
            micro_seed = tf.random.experimental.stateless_fold_in(seed, number)
            gradients, values = self._differentiate(micro_batch, weights, micro_seed)
            return {i: tf.convert_to_tensor(g) for i, g in gradients.items()}, values

        # Traced ahead of the loop, which must know what it is to sum up.
        part = tf.function(differentiate_part, autograph=False).get_concrete_function(
            tf.TensorSpec([], tf.int32)
        )

        def body(number: tf.Tensor, sums: Any) -> tuple[tf.Tensor, Any]:
            return number + 1, tf.nest.map_structure(tf.add, sums, part(number))

        zeros = tf.nest.map_structure(
            lambda spec: tf.zeros(spec.shape, spec.dtype), part.structured_outputs
        )
        _, sums = tf.while_loop(
            lambda number, sums: number < num_parts,
            body,
            [tf.constant(0), zeros],
            parallel_iterations=1,  # two at a time would take the memory of two
        )
        return sums


def dropout_seed(seed: int, step: tf.Tensor, replica: int | tf.Tensor) -> tf.Tensor:
    """The dropout seed of one step on one replica, int32 [2], a function of its arguments alone."""
    folded = tf.random.experimental.stateless_fold_in(
        tf.constant([seed & 0x7FFFFFFF, seed >> 31 & 0x7FFFFFFF], tf.int32), tf.cast(step, tf.int32)
    )
    return tf.random.experimental.stateless_fold_in(folded, tf.cast(replica, tf.int32))


class Trainer(orbit.StandardTrainer):
    """Orbit's inner loop: some steps on the device, then the last one's values.

    Args:
        step: the update.
        names: of the values that ``step`` returns.
        xla: whether a step is compiled by XLA.
    """

    def __init__(self, step: TrainStep, names: tuple[str, ...], *, xla: bool = False) -> None:
        super().__init__(train_dataset=None)  # the controller restores the step that it starts at
        self._step = step
        self._replica_step = CompiledStep(self._one_step) if xla else self._one_step
        self._last = {name: tf.Variable(0.0, trainable=False) for name in names}
        self._num_tokens = tf.Variable(0, trainable=False, dtype=tf.int64)

    @property
    def num_tokens(self) -> int:
        """Tokens without padding of all batches so far."""
        return int(self._num_tokens.numpy())

    def compile_ahead(
        self, dataset_from: Callable[[], tf.data.Dataset], *, shows_progress: bool
    ) -> Iterator[None]:
        """What there is to do before the first step; nothing without XLA.

        Args:
            dataset_from: gives all batches to come; they are made for XLA alone.
            shows_progress: whether there is a line of progress.

        Yields:
            Now and then, with all weights as they were.
        """
        if isinstance(self._replica_step, CompiledStep):
            step = self._step
            changed = [*step.model.variables, *step.optimizer.variables]
            variables = [variable.value for variable in changed]
            variables += [] if step.loss_scale is None else step.loss_scale.variables
            interval = progress_interval() if shows_progress else None
            yield from self._replica_step.compile_ahead(dataset_from(), variables, interval)

    def create_train_loop_fn(self) -> Callable[[Any, tf.Tensor], None]:
        """Some steps as one graph, so that the host looks in once per loop.

        Written out, because Orbit's own leaves it to AutoGraph, which fails on Python 3.13.
        """

        def loop(iterator: Any, num_steps: tf.Tensor) -> None:
            def body(done: tf.Tensor) -> tf.Tensor:
                self.train_step(iterator)
                return done + 1

            tf.while_loop(lambda done: done < num_steps, body, [tf.constant(0)])

        return tf.function(loop, autograph=False)

    def train_step(self, iterator: Any) -> None:
        """One step in cross-replica context."""
        strategy = tf.distribute.get_strategy()
        results = strategy.run(self._replica_step, args=(next(iterator),))
        values, num_tokens = strategy.experimental_local_results(results)[0]  # equal on all
        for name, variable in self._last.items():
            variable.assign(values[name])
        self._num_tokens.assign_add(num_tokens)

    def _one_step(self, batch: Batch) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        num_tokens = tf.reduce_sum(tf.cast(batch["input_mask"], tf.int64))
        context = tf.distribute.get_replica_context()
        return self._step(batch), context.all_reduce(tf.distribute.ReduceOp.SUM, num_tokens)

    def train_loop_end(self) -> dict[str, float]:
        """The last step's values."""
        return {name: float(variable.numpy()) for name, variable in self._last.items()}


class TrainLog:
    """What is known of a run while it goes on: ``train_log.jsonl`` and a line of progress.

    A line of the log is a JSON object of the step and its values, null if one is not finite.

    Args:
        path: of ``train_log.jsonl``; lines beyond the first step are those of a run that was cut
            off after its last checkpoint, and are dropped. None for neither file nor progress.
        first_step: updates done before this process.
        num_train_steps: updates in all.
        examples_per_step: size of the global batch.
        log_steps: how often a step is logged; the last step is logged too.
    """

    def __init__(
        self,
        path: pathlib.Path | None,
        first_step: int,
        num_train_steps: int,
        examples_per_step: int,
        log_steps: int,
    ) -> None:
        self._path = path or pathlib.Path(os.devnull)
        if path is not None:
            self._drop_lines_beyond(first_step)
        self._file = self._path.open("a")
        self._progress = tqdm.tqdm(
            total=num_train_steps,
            initial=first_step,
            desc="training",
            unit="step",
            mininterval=progress_interval(),
            disable=path is None,
        )
        self._num_train_steps = num_train_steps
        self._examples_per_step = examples_per_step
        self._log_steps = log_steps
        self._last = (first_step, 0, time.perf_counter())

    def __call__(
        self,
        step: int,
        num_tokens: int,
        values: dict[str, float],
        evaluated: dict[str, float] | None,
    ) -> dict[str, float]:
        """Logs a step if it is its turn, or that of an evaluation; returns what was logged.

        Args:
            step: updates so far.
            num_tokens: tokens, without padding, that this process has trained on.
            values: of the step.
            evaluated: an evaluation's values, empty if it was broken off; None if none is due.
        """
        self._progress.update(step - self._progress.n)
        if step % self._log_steps and step != self._num_train_steps and evaluated is None:
            return {}
        last_step, last_tokens, last_time = self._last
        self._last = (step, num_tokens, time.perf_counter())
        seconds = self._last[2] - last_time
        logged = {
            **values,
            "examples_per_second": (step - last_step) * self._examples_per_step / seconds,
            "tokens_per_second": (num_tokens - last_tokens) / seconds,
            **(evaluated or {}),
        }
        try:
            self._file.write(_log_line({"step": step, **logged}))
            self._file.flush()
        except OSError as error:
            raise InputError(
                f"{self._path}: cannot write it: {error.strerror}. Make room, then the same "
                "command goes on from the last checkpoint"
            ) from error
        self._progress.set_postfix(
            {
                "loss": f"{logged.get('loss', math.nan):.4f}",
                "examples/s": f"{logged['examples_per_second']:.1f}",
            },
            refresh=False,
        )
        return logged

    def lacks(self, step: int, names: Collection[str]) -> bool:
        """Whether the last line is that of a step, with no values but these and the rates."""
        lines = self._lines()
        last = json.loads(lines[-1]) if lines else {"step": None}
        return last["step"] == step and not last.keys() - {"step", *names, *RATES}

    def complete(self, evaluated: dict[str, float]) -> None:
        """Adds an evaluation's values to the last line."""
        lines = self._lines()
        lines[-1] = _log_line({**json.loads(lines[-1]), **evaluated})
        self._file.close()
        run_folder.write_text(self._path, "".join(lines))
        self._file = self._path.open("a")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done meanwhile takes no time, as far as the rates go, and has a line to use."""
        self._progress.clear()
        start = time.perf_counter()
        yield
        step, num_tokens, seconds = self._last
        self._last = (step, num_tokens, seconds + time.perf_counter() - start)

    def close(self) -> None:
        """Ends both."""
        self._progress.close()
        with contextlib.suppress(OSError):  # of what could not be written before either
            self._file.close()

    def _lines(self) -> list[str]:
        return self._path.read_text().splitlines(keepends=True) if self._path.exists() else []

    def _drop_lines_beyond(self, first_step: int) -> None:
        lines = self._lines()
        # A last line without its end was being written when the process was stopped.
        whole = [line for line in lines if line.endswith("\n")]
        try:
            kept = [line for line in whole if json.loads(line)["step"] <= first_step]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self._path}: damaged: a line of it is not what training logs; mend it or move "
                "it away, then give the same command again"
            ) from error
        if kept != lines:
            run_folder.write_text(self._path, "".join(kept))


def _log_line(values: Mapping[str, float | None]) -> str:
    """A line of ``train_log.jsonl``; what is not finite, which JSON does not have, is null."""
    known = {
        name: value if value is not None and math.isfinite(value) else None
        for name, value in values.items()
    }
    return json.dumps(known, allow_nan=False) + "\n"


class LoopLength:
    """How many steps the device takes before the host looks in.

    Args:
        intervals: steps at whose multiples the host has something to do.
    """

    def __init__(self, intervals: Sequence[int]) -> None:
        self._intervals = intervals
        self._last: tuple[int, float] | None = None

    def __call__(self, done: int) -> int:
        """For the loop that begins now: up to the next interval, or to about _LOOP_SECONDS.

        Args:
            done: steps so far.
        """
        to_next = min(interval - done % interval for interval in self._intervals)
        now = time.perf_counter()
        most = 1
        if self._last is not None:
            steps, seconds = done - self._last[0], now - self._last[1]
            most = max(1, int(_LOOP_SECONDS * steps / seconds))
        self._last = (done, now)
        # Workers that train together look in at the same steps: when it is the chief's time.
        return min(agreed(most if is_chief() else 0), to_next)


def check_shares(
    step: TrainStep, examples_per_step: int, rows_per_step: int | None = None, *, xla: bool = False
) -> None:
    """Checks that the replicas can train together; arguments as for ``train``.

    ``train`` does this too, but a run's folder may be taken, or emptied, by then.

    Raises:
        InputError: if they or the micro-batches cannot share a batch evenly, or not with XLA.
    """
    number = tf.distribute.get_strategy().num_replicas_in_sync
    if examples_per_step % number:
        divisors = [n for n in range(1, examples_per_step + 1) if examples_per_step % n == 0]
        raise InputError(
            f"--train_batch_size={examples_per_step} cannot be shared evenly by {number} replicas; "
            f"a run that has begun goes on with {listed(map(str, divisors), 8)} replicas, a new "
            f"one can have a multiple of {number} as its batch size"
        )
    if xla and number > 1:
        raise InputError("--xla: it is for one device, but there are several; leave it out")
    step.check_batch_size((rows_per_step or examples_per_step) // number)


def train(
    step: TrainStep,
    names: tuple[str, ...],
    dataset_from: Callable[[int], tf.data.Dataset],
    folder: pathlib.Path,
    *,
    num_train_steps: int,
    examples_per_step: int,
    log_steps: int,
    save_checkpoints_steps: int,
    keep_checkpoint_max: int = 2,
    rows_per_step: int | None = None,
    evaluate: Callable[[], dict[str, float]] | None = None,
    eval_steps: int | None = None,
    xla: bool = False,
) -> None:
    """Trains up to ``num_train_steps``, from where the folder's ``resume/`` stands.

    Of several workers, the chief writes and evaluates; the others wait for it.

    Without ``resume/``, from where the optimizer stands. A SIGTERM or SIGINT ends it when the loop
    that is running has ended, with all that is needed to go on from there. An evaluation that is
    running on the worker which gets the signal is broken off, and made up for when the run goes on.

    Args:
        step: the update, with its model and optimizer.
        names: of the values that ``step`` returns and that are logged.
        dataset_from: gives the global batches from a step on, counted from 0; they have
            ``input_mask``.
        folder: the run's; gets ``resume/``, ``train_log.jsonl`` and TensorBoard's files.
        num_train_steps: updates in all.
        examples_per_step: size of the global batch.
        log_steps: how often a step is logged.
        save_checkpoints_steps: how often the run can be resumed from.
        keep_checkpoint_max: how many of those points are kept.
        rows_per_step: of the global batch, where examples share rows.
        evaluate: gives values to log beside those of the step, under names of their own; may be
            broken off anywhere, and then is called again when the run goes on.
        eval_steps: how often that is done; in any case it is after the last step.
        xla: whether a step is compiled by XLA, for each shape of a batch anew.

    Raises:
        InputError: if replicas or micro-batches do not fit, there is nothing left to train, the
            loss is not a number any more, a file cannot be written, memory runs out, or another
            worker is gone.
        Terminated: after a SIGTERM or SIGINT.
    """
    check_shares(step, examples_per_step, rows_per_step, xla=xla)
    writes = is_chief()
    manager = ResumePoints(
        step.model,
        step.optimizer,
        folder / "resume",
        save_checkpoints_steps,
        max_to_keep=keep_checkpoint_max,
        loss_scale=step.loss_scale,
        writes=writes,
    )
    global_step = step.optimizer.iterations.value
    names = names if step.loss_scale is None else (*names, *SCALE_VALUES)
    trainer = Trainer(step, names, xla=xla)
    intervals = [log_steps, save_checkpoints_steps, *([eval_steps] if eval_steps else [])]

    # Orbit prints to stdout, which belongs to a command's results.
    with pathlib.Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
        controller = orbit.Controller(
            global_step=global_step,
            trainer=trainer,
            steps_per_loop=LoopLength(intervals),
            checkpoint_manager=manager,
        )
        first_step = int(global_step.numpy())
        verb = "resuming" if manager.latest_checkpoint else "starting"
        logger.info("%s at step %d of %d", verb, first_step, num_train_steps)
        if first_step > num_train_steps:
            raise InputError(
                f"there is nothing to train: {first_step} steps are done already, but "
                f"num_train_steps is {num_train_steps}; give more steps"
            )
        log = TrainLog(
            folder / run_folder.TRAIN_LOG if writes else None,
            first_step,
            num_train_steps,
            examples_per_step,
            log_steps,
        )
        tensorboard = TensorBoardFile(folder if writes else None)

        def stop_if_asked(done: int) -> None:
            # One that is asked stops all of them, after the same step.
            asked_by = agreed(request.asked_by or 0)
            if asked_by:
                manager.save(check_interval=False)
                signal_name = signal.Signals(asked_by).name
                raise Terminated(
                    f"stopped by {signal_name} after step {done} of {num_train_steps}; "
                    f"the same command goes on from there, with what is in {manager.directory}",
                    signal.Signals(asked_by),
                )

        def evaluated_after(done: int) -> dict[str, float] | None:
            """An evaluation's values, empty if it was broken off; None if none is due."""
            is_due = done == num_train_steps or (eval_steps and done % eval_steps == 0)
            if not evaluate or not is_due:
                return None
            with log.paused():
                return (request.unless_asked(evaluate) if writes else None) or {}

        def make_up_for_evaluation() -> None:
            if writes and log.lacks(first_step, names):
                evaluated = evaluated_after(first_step)
                if evaluated:
                    log.complete(evaluated)
                    tensorboard.add_scalars(first_step, evaluated)
            stop_if_asked(first_step)

        def report(values: dict[str, float]) -> None:
            done = int(global_step.numpy())
            values = _refuse_divergence(values, done)
            evaluated = evaluated_after(done)
            tensorboard.add_scalars(done, log(done, trainer.num_tokens, values, evaluated))
            stop_if_asked(done)

        controller.train_actions = (report,)
        with (
            deferred_termination() as request,
            tensorboard,
            contextlib.closing(log),
            lost_workers_named(),  # devices_of does so too, but not every caller is inside it
            out_of_memory_explained(
                lambda: f"training, at step {int(global_step.numpy())} of {num_train_steps}",
                lambda: _shape_of_first(dataset_from(int(global_step.numpy()))),
                _smaller_step(step),
            ),
        ):
            make_up_for_evaluation()
            if first_step == num_train_steps:
                return
            trainer.train_dataset = distributed(lambda: dataset_from(first_step))
            for _ in trainer.compile_ahead(lambda: dataset_from(first_step), shows_progress=writes):
                stop_if_asked(first_step)
            controller.train(num_train_steps)
            stop_if_asked(num_train_steps)


def _shape_of_first(dataset: tf.data.Dataset) -> tuple[int, ...]:
    """The shape of a replica's part of the first ``input_ids``."""
    size, *rest = next(iter(dataset))["input_ids"].shape
    return (size // tf.distribute.get_strategy().num_replicas_in_sync, *rest)


def _smaller_step(step: TrainStep) -> str:
    """What can be changed to train in less memory."""
    size = step.micro_batch_size
    micro_batches = f"smaller than {size}" if size else "a divisor of --train_batch_size"
    recompute = (
        "" if step.recompute else "Give --recompute, with which the same run can go on; or else "
    )
    return (
        f"{recompute or 'Give '}--micro_batch_size, {micro_batches}, or a smaller --max_seq_length "
        "or --train_batch_size, in another folder or with --overwrite"
    )


def _refuse_divergence(values: dict[str, float], done: int) -> dict[str, float]:
    """Ends a run whose weights are lost, before it replaces the point from which it could go on.

    Returns:
        The values, without those that are not finite of a step that was left out.
    """
    if values.get("skipped_in_a_row", 0) > _MOST_SKIPPED_IN_A_ROW:
        raise InputError(
            f"--precision=float16: the gradients of {values['skipped_in_a_row']:.0f} steps in a "
            f"row, up to step {done}, are not finite, down to a loss scale of "
            f"{values['loss_scale']:g}: the model's own values are beyond float16's range. Give "
            "--precision=bfloat16, or float32, in another folder or with --overwrite"
        )
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    for name, value in values.items():
        if name not in finite and not values.get("skipped_in_a_row", 0):
            raise InputError(
                f"training has diverged: {name} is {value} at step {done}. Try a lower "
                "--learning_rate or a longer warm-up, in another folder or with --overwrite"
            )
    return finite


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model gives for a whole data set.

    Attributes:
        outputs: of each example, float32; padded to the longest of its batch.
        losses: ``loss`` and its parts by name; empty without labels.
    """

    outputs: list[np.ndarray]
    losses: dict[str, float]


class Evaluator:
    """Runs a model on every example once, without dropout.

    Args:
        model: as for TrainStep, or a function of the same arguments; its output is one tensor.
        loss: for batches with labels.
    """

    def __init__(
        self, model: keras.Model | Callable[..., tf.Tensor], loss: Loss | None = None
    ) -> None:
        def forward(batch: Batch) -> tuple[tf.Tensor, dict[str, LossTerm]]:
            inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
            outputs = model(inputs, training=False)
            return outputs, loss.terms(outputs, batch) if loss is not None else {}

        self._forward = OnReplicas(forward)

    def __call__(
        self, dataset: tf.data.Dataset, num_batches: int, description: str | None = None
    ) -> Evaluation:
        """Evaluates a data set.

        Args:
            dataset: batches with ``example_ids``; those of all batches are 0 … n - 1, each once,
                and -1, which stands for no example.
            num_batches: how many.
            description: what the progress line calls it; None for no such line.
        """
        outputs: dict[int, np.ndarray] = {}
        terms: dict[str, list[LossTerm]] = {}
        for example_ids, batch_outputs, batch_terms in self.by_batch(
            dataset, num_batches, description
        ):
            outputs |= zip(example_ids, batch_outputs, strict=True)
            for name, term in batch_terms.items():
                terms.setdefault(name, []).append(term)
        losses = {
            name: sum(float(part.total) for part in parts)
            / (sum(float(part.weight) for part in parts) + float(parts[0].epsilon))
            for name, parts in terms.items()
        }
        if losses:
            losses = {"loss": sum(losses.values()), **losses}
        return Evaluation([outputs[row] for row in range(len(outputs))], losses)

    def by_batch(
        self, dataset: tf.data.Dataset, num_batches: int, description: str | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, LossTerm]]]:
        """As a call, but what has been yielded is not kept.

        Yields:
            ``example_ids`` int64 [B], their outputs, float32 [B, …], and the loss's parts; B is
            without what is no example.
        """
        for batch, parts in evaluated_batches(self._forward, dataset, num_batches, description):
            example_ids = np.split(batch["example_ids"].numpy(), len(parts))
            for ids, (outputs, terms) in zip(example_ids, parts, strict=True):
                is_example = ids >= 0
                yield ids[is_example], outputs[is_example], terms


def evaluated_batches(
    forward: OnReplicas, dataset: tf.data.Dataset, num_batches: int, description: str | None
) -> Iterator[tuple[Batch, list[Any]]]:
    """Runs a function on the batches of a data set, with a line of progress.

    Args:
        forward: the function.
        dataset: batches with ``input_ids``.
        num_batches: how many.
        description: what the progress line calls it; None for no such line.

    Yields:
        Each batch, and what the function gives for its parts, as NumPy's.

    Raises:
        InputError: if memory runs out.
    """
    for batch in tqdm.tqdm(
        dataset,
        total=num_batches,
        desc=description,
        unit="batch",
        position=0,  # while training, in the place of its line
        mininterval=progress_interval(),
        disable=description is None,
    ):
        with out_of_memory_explained(
            lambda: "evaluating",
            lambda: batch["input_ids"].shape,  # noqa: B023 - called in this turn
            _SMALLER_EVALUATION,
        ):
            parts = forward(batch, dataset.element_spec)
            values = tf.nest.map_structure(lambda value: value.numpy(), parts)
        yield batch, values


def progress_interval() -> float:
    """Seconds between updates: a file or a pipe gets a line now and then."""
    return 0.5 if sys.stderr.isatty() else 15.0

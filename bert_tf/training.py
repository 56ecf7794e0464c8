"""Takes a model, a loss and a dataset, returns trained weights; knows no task; next: tasks.

One code path for every tf.distribute strategy: the step runs in replica context, divides its loss
by the weight of the global batch, sums gradients over the replicas, and clips what comes out.
"""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import orbit
import tensorflow as tf
import tqdm

from bert_tf.checkpoint import ResumePoints
from bert_tf.losses import LossTerm
from bert_tf.optimization import AdamWeightDecay, clip_by_global_norm

logger = logging.getLogger(__name__)

Batch = dict[str, tf.Tensor]
# (the model's outputs, the batch) -> the named parts of the loss.
Loss = Callable[[Any, Batch], dict[str, LossTerm]]

MODEL_INPUTS = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions")


class TrainStep:
    """One update, in replica context.

    Args:
        model: takes a batch's MODEL_INPUTS, ``training`` and ``dropout_seed``.
        optimizer: updates the model's trainable variables.
        loss: the loss's parts; their values are added.
        seed: the run's seed.
    """

    def __init__(
        self, model: keras.Model, optimizer: AdamWeightDecay, loss: Loss, seed: int
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.loss = loss
        self.seed = seed
        # Slots are created here, not while a graph is traced.
        optimizer.build(model.trainable_variables)

    def __call__(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Updates the weights.

        Args:
            batch: this replica's part of the global batch.

        Returns:
            float32 [] each: ``loss`` and, if it has several parts, each of them by name (all over
            the global batch), ``grad_norm`` before clipping, ``learning_rate`` of this update.
        """
        context = tf.distribute.get_replica_context()
        step = self.optimizer.iterations.value
        learning_rate = self.optimizer.schedule(step)
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
            seed = dropout_seed(self.seed, step, context.replica_id_in_sync_group)
            outputs = self.model(inputs, training=True, dropout_seed=seed)
            losses = {}
            for name, term in self.loss(outputs, batch).items():
                weight = context.all_reduce(tf.distribute.ReduceOp.SUM, term.weight)
                losses[name] = term.total / (weight + term.epsilon)
            loss = tf.add_n(list(losses.values()))
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        present = [g for g in gradients if g is not None]
        summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
        gradients = [g if g is None else next(summed) for g in gradients]
        gradients, norm = clip_by_global_norm(gradients)
        self.optimizer.apply_reduced_gradients(zip(gradients, variables, strict=True))

        values = {"loss": loss, **(losses if len(losses) > 1 else {})}
        values = {
            name: context.all_reduce(tf.distribute.ReduceOp.SUM, value)
            for name, value in values.items()
        }
        return {**values, "grad_norm": norm, "learning_rate": learning_rate}


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
    """

    def __init__(self, step: TrainStep, names: tuple[str, ...]) -> None:
        super().__init__(train_dataset=None)  # the controller restores the step that it starts at
        self._step = step
        self._last = {name: tf.Variable(0.0, trainable=False) for name in names}

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
        values = strategy.run(self._step, args=(next(iterator),))
        for name, variable in self._last.items():
            # Equal on all replicas.
            variable.assign(strategy.reduce(tf.distribute.ReduceOp.MEAN, values[name], axis=None))

    def train_loop_end(self) -> dict[str, float]:
        """The last step's values."""
        return {name: float(variable.numpy()) for name, variable in self._last.items()}


class TrainLog:
    """What is known of a run while it goes on: ``train_log.jsonl`` and a line of progress.

    Args:
        path: of ``train_log.jsonl``; lines beyond the first step are those of a run that was cut
            off after its last checkpoint, and are dropped.
        first_step: updates done before this process.
        num_train_steps: updates in all.
        examples_per_step: size of the global batch.
        log_steps: how often a step is logged; the last step is logged too.
    """

    def __init__(
        self,
        path: pathlib.Path,
        first_step: int,
        num_train_steps: int,
        examples_per_step: int,
        log_steps: int,
    ) -> None:
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        # A last line without its end was being written when the process was stopped.
        whole = [line for line in lines if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["step"] <= first_step]
        path.write_text("".join(kept))
        self._file = path.open("a")
        self._progress = tqdm.tqdm(
            total=num_train_steps,
            initial=first_step,
            desc="training",
            unit="step",
            mininterval=progress_interval(),
        )
        self._num_train_steps = num_train_steps
        self._examples_per_step = examples_per_step
        self._log_steps = log_steps
        self._last = (first_step, time.perf_counter())

    def __call__(self, step: int, values: dict[str, float]) -> dict[str, float]:
        """Logs a step if it is its turn; returns what was logged."""
        self._progress.update(step - self._progress.n)
        if step % self._log_steps and step != self._num_train_steps:
            return {}
        last_step, last_time = self._last
        self._last = (step, time.perf_counter())
        examples = (step - last_step) * self._examples_per_step
        logged = {**values, "examples_per_second": examples / (self._last[1] - last_time)}
        self._file.write(json.dumps({"step": step, **logged}) + "\n")
        self._file.flush()
        self._progress.set_postfix(
            {
                "loss": f"{logged['loss']:.4f}",
                "examples/s": f"{logged['examples_per_second']:.1f}",
            },
            refresh=False,
        )
        return logged

    def close(self) -> None:
        """Ends both."""
        self._progress.close()
        self._file.close()


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
) -> None:
    """Trains up to ``num_train_steps``, from where the folder's ``resume/`` stands.

    Args:
        step: the update, with its model and optimizer.
        names: of the values that ``step`` returns and that are logged.
        dataset_from: gives the global batches from a step on, counted from 0.
        folder: the run's; gets ``resume/``, ``train_log.jsonl`` and TensorBoard's files.
        num_train_steps: updates in all.
        examples_per_step: size of the global batch.
        log_steps: how often a step is logged.
        save_checkpoints_steps: how often the run can be resumed from.
    """
    manager = ResumePoints(step.model, step.optimizer, folder / "resume", save_checkpoints_steps)
    global_step = step.optimizer.iterations.value
    trainer = Trainer(step, names)

    def steps_until_stop(done: int) -> int:
        return min(interval - done % interval for interval in (log_steps, save_checkpoints_steps))

    # Orbit prints to stdout, which belongs to a command's results.
    with pathlib.Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
        controller = orbit.Controller(
            global_step=global_step,
            trainer=trainer,
            steps_per_loop=steps_until_stop,
            checkpoint_manager=manager,
        )
        first_step = int(global_step.numpy())
        verb = "resuming" if first_step else "starting"
        logger.info("%s at step %d of %d", verb, first_step, num_train_steps)
        if first_step == num_train_steps:
            return
        trainer.train_dataset = dataset_from(first_step)
        log = TrainLog(
            folder / "train_log.jsonl", first_step, num_train_steps, examples_per_step, log_steps
        )
        writer = tf.summary.create_file_writer(str(folder))

        def report(values: dict[str, float]) -> None:
            done = int(global_step.numpy())
            for name, value in log(done, values).items():
                tf.summary.scalar(name, value, step=done)

        controller.train_actions = (report,)
        with writer.as_default(), contextlib.closing(log):
            controller.train(num_train_steps)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model gives for a whole data set.

    Attributes:
        outputs: float32 [num_examples, ...], row i for example i.
        losses: the loss's parts and, as ``loss``, their sum; empty without labels.
    """

    outputs: np.ndarray
    losses: dict[str, float]


class Evaluator:
    """Runs a model on every example once, without dropout.

    Args:
        model: as for TrainStep; its output is one tensor.
        loss: for batches with labels.
    """

    def __init__(self, model: keras.Model, loss: Loss | None = None) -> None:
        def forward(batch: Batch) -> tuple[tf.Tensor, dict[str, LossTerm]]:
            inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
            outputs = model(inputs, training=False)
            return outputs, loss(outputs, batch) if loss is not None else {}

        self._forward = tf.function(forward, autograph=False, reduce_retracing=True)

    def __call__(
        self, dataset: tf.data.Dataset, num_batches: int, description: str | None = None
    ) -> Evaluation:
        """Evaluates a data set.

        Args:
            dataset: batches with ``example_ids``; those of all batches are 0 … n - 1.
            num_batches: how many.
            description: what the progress line calls it; None for no such line.
        """
        rows, outputs = [], []
        terms: dict[str, list[LossTerm]] = {}
        for batch in tqdm.tqdm(
            dataset,
            total=num_batches,
            desc=description,
            unit="batch",
            mininterval=progress_interval(),
            disable=description is None,
        ):
            batch_outputs, batch_terms = self._forward(batch)
            rows.append(batch["example_ids"].numpy())
            outputs.append(batch_outputs.numpy())
            for name, term in batch_terms.items():
                terms.setdefault(name, []).append(term)
        order = np.argsort(np.concatenate(rows))
        losses = {
            name: sum(float(part.total) for part in parts)
            / (sum(float(part.weight) for part in parts) + float(parts[0].epsilon))
            for name, parts in terms.items()
        }
        if losses:
            losses = {"loss": sum(losses.values()), **(losses if len(losses) > 1 else {})}
        return Evaluation(np.concatenate(outputs)[order], losses)


def progress_interval() -> float:
    """Seconds between updates: a file or a pipe gets a line now and then."""
    return 0.5 if sys.stderr.isatty() else 15.0

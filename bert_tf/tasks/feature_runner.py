"""Takes a model and features, returns the model's outputs for all of them; next: the learners.

What every model of a fine-tuning task does with its examples, whatever they are.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from bert_tf.config import FineTuning
from bert_tf.input_pipeline import (
    LENGTH_MULTIPLE,
    Features,
    batches,
    evaluation_plan,
    filled,
    shared_batches,
)
from bert_tf.losses import Loss
from bert_tf.metrics import check_finite
from bert_tf.training import Evaluation, Evaluator

# Takes a model's inputs by name, as in a batch, returns its outputs, [B, …].
OutputsOf = Callable[[dict[str, np.ndarray]], np.ndarray]
# Takes what computes a model's outputs, returns the metrics by name of examples that were read.
Measure = Callable[[OutputsOf], dict[str, float]]


class FeatureRunner:
    """Runs a model on features.

    Args:
        settings: how batches are padded.
        model: as for Evaluator.
        loss: of its outputs and a batch with labels.
    """

    def __init__(self, settings: FineTuning, model: keras.Model, loss: Loss) -> None:
        self._settings = settings
        self._evaluator = Evaluator(model, loss)
        self._predictor = Evaluator(model)

    def batches(self, features: Features, plan: np.ndarray) -> tf.data.Dataset:
        """The planned batches, padded as the settings say.

        Args:
            features: the examples.
            plan: as for ``input_pipeline.batches``, or of ``shared_batches``, whose rows are as
                long as the settings allow.
        """
        settings = self._settings
        if plan.ndim == 3:
            return shared_batches(features, plan, settings.max_seq_length)
        return batches(
            features,
            plan,
            settings.padded_length,
            settings.max_seq_length,
            LENGTH_MULTIPLE if settings.xla else 1,
        )

    def __call__(
        self, features: Features, batch_size: int, description: str | None = None
    ) -> Evaluation:
        """The outputs for each example, and the losses if there are labels.

        Args:
            features: the examples.
            batch_size: examples that go through the model at once.
            description: what the progress line calls it; None for no such line.
        """
        plan = evaluation_plan(features.lengths, batch_size)
        dataset = self.batches(features, plan)
        if self._settings.padded_length is not None:
            dataset = filled(dataset, batch_size)
        evaluator = self._evaluator if features.is_labelled else self._predictor
        return evaluator(dataset, len(plan), description)


def outputs_by(
    run: OutputsOf,
    batches_of: Callable[[Features, np.ndarray], tf.data.Dataset],
    features: Features,
    batch_size: int,
) -> list[np.ndarray]:
    """The outputs for each example of what runs a learner's model elsewhere.

    Args:
        run: what runs it.
        batches_of: of the learner, given features and a plan.
        features: the examples, without labels.
        batch_size: B.

    Raises:
        InputError: if some are no numbers.
    """
    outputs: dict[int, np.ndarray] = {}
    for batch in batches_of(features, evaluation_plan(features.lengths, batch_size)):
        inputs = {name: value.numpy() for name, value in batch.items()}
        numbers = inputs.pop("example_ids").tolist()
        found = run(inputs)
        check_finite(found)
        outputs.update(zip(numbers, found, strict=True))
    return [outputs[number] for number in range(len(features))]

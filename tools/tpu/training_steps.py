"""Takes a model's configuration and sizes, returns the training step of each task; next: lowering.

The models and losses are those that the commands train, the batches those of their pipelines under
``--fixed_length``: what is checked is what would run.

Axes: B = batch_size, S = max_seq_length, P = max_predictions_per_seq.
"""

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from bert_tf.config import BertConfig, Classification, QuestionAnswering, Tagging
from bert_tf.distribution import DTYPE_POLICIES
from bert_tf.heads import BertPretrainer
from bert_tf.losses import Loss
from bert_tf.optimization import create_optimizer
from bert_tf.tasks.answer_finder import AnswerFinder
from bert_tf.tasks.pretraining_objective import Objective
from bert_tf.tasks.text_classifier import TextClassifier
from bert_tf.tasks.word_tagger import WordTagger
from bert_tf.tfrecord import pretraining_schema
from bert_tf.tokenization import FullTokenizer
from bert_tf.training import Metrics, TrainStep

# Of CoNLL-2003.
TAGS = ("O", *(f"{side}-{kind}" for kind in ("LOC", "MISC", "ORG", "PER") for side in "BI"))

Batch = dict[str, tf.TensorSpec]

_PLAN = np.zeros((1, 1), np.int64)  # one batch of one example
_SHARED_PLAN = np.zeros((1, 1, 3), np.int64)  # one batch of one row, which three share


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is fixed when a step is compiled.

    Attributes:
        batch_size: B, or rows where examples share them.
        max_seq_length: S.
        precision: ``float32`` or ``bfloat16`` (for computing; weights are float32).
    """

    batch_size: int
    max_seq_length: int
    precision: str

    @property
    def max_predictions_per_seq(self) -> int:
        """15 % of the tokens, rounded up: 20 of 128, as in the original's recipe."""
        return -(-self.max_seq_length * 15 // 100)

    @property
    def settings(self) -> dict[str, object]:
        """What the settings of every fine-tuning command take."""
        return {
            "do_train": True,
            "train_file": "unused",
            "output_dir": "unused",
            "fixed_length": True,
            "max_seq_length": self.max_seq_length,
            "precision": self.precision,
        }


class Case(NamedTuple):
    """A task's model and loss.

    Attributes:
        model: with new weights.
        loss: of its outputs and a batch.
        batch: what the task's pipeline yields, its first axis B or unknown.
        metrics: what the step computes beside the loss.
    """

    model: keras.Model
    loss: Loss
    batch: Batch
    metrics: Metrics | None = None


def _classifier(config: BertConfig, sizes: Sizes, plan: np.ndarray = _PLAN) -> Case:
    learner = TextClassifier(
        Classification(**sizes.settings), config, _tokenizer(), ("no", "yes"), "single_label"
    )
    features = learner.features(["a"], None, np.zeros(1, np.int32))
    return Case(learner.model, learner.loss, learner.batches(features, plan).element_spec)


def _tagger(config: BertConfig, sizes: Sizes, plan: np.ndarray = _PLAN) -> Case:
    learner = WordTagger(Tagging(crf=True, **sizes.settings), config, _tokenizer(), TAGS)
    windows = learner.windows([["a"]], np.zeros(1, np.int64))
    features = learner.features(windows, np.zeros(1, np.int32))
    return Case(learner.model, learner.loss, learner.batches(features, plan).element_spec)


def _question_answering(config: BertConfig, sizes: Sizes, plan: np.ndarray = _PLAN) -> Case:
    # Of the shortest of questions and contexts, so that any length leaves room for them.
    settings = QuestionAnswering(max_query_length=1, doc_stride=1, **sizes.settings)
    learner = AnswerFinder(settings, config, _tokenizer())
    features = learner.features(learner.ask(["a"], ["a"], [0]), [None])
    return Case(learner.model, learner.loss, learner.batches(features, plan).element_spec)


def _pretraining(config: BertConfig, sizes: Sizes) -> Case:
    objective = Objective(next_sentence=True)
    schema = pretraining_schema(sizes.max_seq_length, sizes.max_predictions_per_seq)
    batch = {
        # Records hold int64 for want of int32; record_dataset casts.
        feature.name: tf.TensorSpec(
            [None, feature.size], tf.int32 if feature.dtype == "int64" else feature.dtype
        )
        for feature in schema.features
    }
    model = BertPretrainer(config, dtype=DTYPE_POLICIES[sizes.precision])
    return Case(model, objective.loss, batch, objective.metrics)


def _packed_pretraining(config: BertConfig, sizes: Sizes) -> Case:
    case = _pretraining(config, sizes)
    _, num_rows, num_examples = _SHARED_PLAN.shape
    rows, examples = [num_rows, sizes.max_seq_length], [num_rows, num_examples]
    # As SharedRecords.shared has it: what is of a row keeps its name, and of its records there are
    # several.
    shared = {
        "example_numbers": tf.TensorSpec(rows, tf.int32),
        "positions": tf.TensorSpec(rows, tf.int32),
        "cls_positions": tf.TensorSpec(examples, tf.int32),
        "example_weights": tf.TensorSpec(examples, tf.float32),
        "next_sentence_labels": tf.TensorSpec([*examples, 1], tf.int32),
    }
    return case._replace(batch={**case.batch, **shared})


# A task's name -> what is trained.
TASKS: dict[str, Callable[[BertConfig, Sizes], Case]] = {
    "classifier": _classifier,
    "tagger": _tagger,
    "packed_classifier": functools.partial(_classifier, plan=_SHARED_PLAN),
    "packed_tagger": functools.partial(_tagger, plan=_SHARED_PLAN),
    "question_answering": _question_answering,
    "packed_question_answering": functools.partial(_question_answering, plan=_SHARED_PLAN),
    "pretraining": _pretraining,
    "packed_pretraining": _packed_pretraining,
}


def training_step(
    task: str, config: BertConfig, sizes: Sizes, optimizer: str, *, recompute: bool = False
) -> tuple[TrainStep, Batch]:
    """A task's update, as its command makes it.

    Args:
        task: one of TASKS.
        config: the model's.
        sizes: of a batch.
        optimizer: as for ``create_optimizer``.
        recompute: as for TrainStep.

    Returns:
        The step, and what it takes, all of known shape.

    Raises:
        InputError: for sizes that the model cannot take.
    """
    case = TASKS[task](config, sizes)
    batch = {
        name: tf.TensorSpec([sizes.batch_size, *spec.shape[1:]], spec.dtype, name)
        for name, spec in case.batch.items()
    }
    # The constants of the schedule are no part of a step's shape.
    update = create_optimizer(1e-4, 100_000, 10_000, optimizer=optimizer)
    step = TrainStep(
        case.model, update, case.loss, 12345, metrics=case.metrics, recompute=recompute
    )
    return step, batch


def _tokenizer() -> FullTokenizer:
    """Of the least vocabulary there can be; nothing of it gets into a step."""
    with tempfile.TemporaryDirectory() as folder:
        vocab_file = pathlib.Path(folder) / "vocab.txt"
        vocab_file.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
        return FullTokenizer(vocab_file)

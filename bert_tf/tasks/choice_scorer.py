"""Takes questions with choices, returns the choices' logits; next: tasks.multiple_choice.

Axes: B = batch_size, C = choices of an example, n = number of questions.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from bert_tf.config import BertConfig, MultipleChoice
from bert_tf.distribution import DTYPE_POLICIES
from bert_tf.heads import BertMultipleChoice
from bert_tf.input_pipeline import Features
from bert_tf.losses import Loss, examples_weight, of_examples, single_label_loss
from bert_tf.packing import RaggedIds, pack_texts, runs
from bert_tf.tasks.choice_data import Question
from bert_tf.tasks.feature_runner import FeatureRunner
from bert_tf.tokenization import FullTokenizer


class ChoiceScorer:
    """A model with all it takes to go from questions to their choices' logits.

    Args:
        settings: of the run that it belongs to.
        config: the model's architecture.
        tokenizer: of the model's vocabulary.
        dtype: a Keras dtype policy; by default the one of the settings' precision.

    Attributes:
        model: with new weights.
        loss: of its logits, float32 [B, C], and a batch with ``label_ids`` int32 [B].
    """

    def __init__(
        self,
        settings: MultipleChoice,
        config: BertConfig,
        tokenizer: FullTokenizer,
        *,
        dtype: str | None = None,
    ) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.model = BertMultipleChoice(config, dtype=dtype or DTYPE_POLICIES[settings.precision])
        self.loss = Loss(
            lambda logits, batch: {
                "loss": single_label_loss(logits, *of_examples(batch, "label_ids"))
            },
            lambda batch: {"loss": examples_weight(*of_examples(batch, "label_ids"))},
        )
        self._run = FeatureRunner(settings, self.model, self.loss)

    def features(self, questions: Sequence[Question], labels: np.ndarray | None = None) -> Features:
        """A row ``[CLS] context [SEP] choice [SEP]`` for each choice, and the right ones if known.

        Args:
            questions: at least one.
            labels: int32 [n].
        """
        counts = np.array([len(question.choices) for question in questions])
        contexts = RaggedIds(*self.tokenizer.encode_batch([q.context for q in questions]))
        choices = self.tokenizer.encode_batch([text for q in questions for text in q.choices])
        vocabulary = self.tokenizer.vocabulary
        packed = pack_texts(
            runs(
                contexts.values,
                np.repeat(contexts.row_splits[:-1], counts),
                np.repeat(contexts.lengths, counts),
            ),
            RaggedIds(*choices),
            self.settings.max_seq_length,
            vocabulary.cls_id,
            vocabulary.sep_id,
        )
        row_splits = np.concatenate([[0], np.cumsum(counts)])
        return Features(packed, {} if labels is None else {"label_ids": labels}, {}, row_splits)

    def batches(self, features: Features, plan: np.ndarray) -> tf.data.Dataset:
        """The planned batches, padded as the settings say."""
        return self._run.batches(features, plan)

    def logits(
        self, features: Features, batch_size: int, description: str | None = None
    ) -> tuple[list[np.ndarray], dict[str, float]]:
        """What each question's choices get, float32 [C], and the losses if there are labels."""
        found = self._run(features, batch_size, description)
        assert features.row_splits is not None
        counts = np.diff(features.row_splits)
        return [row[:count] for row, count in zip(found.outputs, counts, strict=True)], found.losses

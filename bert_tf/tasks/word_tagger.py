"""Takes sentences of words, returns each word's label; next: tasks.tagging.

Axes: B = batch_size, W = words of a row or sentence, L = num_labels, N = words of all sentences.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bert_tf import crf
from bert_tf.config import BertConfig, Tagging
from bert_tf.distribution import DTYPE_POLICIES
from bert_tf.heads import BertTagger
from bert_tf.input_pipeline import Features
from bert_tf.losses import Batch, Loss, LossTerm, crf_loss, word_labels_loss, words_weight
from bert_tf.metrics import check_finite
from bert_tf.packing import RaggedIds
from bert_tf.tasks.feature_runner import FeatureRunner
from bert_tf.tasks.tagging_data import allowed_by, are_entities
from bert_tf.tokenization import FullTokenizer
from bert_tf.word_windows import WordWindows, pack_words

# Most sentences whose labels are found at once, and most words of them with their padding: what is
# written for each word goes through all that was written before.
_DECODED_SENTENCES, _DECODED_WORDS = 256, 1 << 14


class WordTagger:
    """A model with all it takes to go from words to labels.

    Args:
        settings: of the run that it belongs to.
        config: the model's architecture.
        tokenizer: of the model's vocabulary.
        labels: in the order of their ids.
        dtype: a Keras dtype policy; by default the one of the settings' precision.

    Attributes:
        has_entities: whether the labels are those of entities, in IOB2.
        model: with new weights.
        loss: of its logits, float32 [B, W, L], and a batch with ``label_ids`` int32 [B, W].
    """

    def __init__(
        self,
        settings: Tagging,
        config: BertConfig,
        tokenizer: FullTokenizer,
        labels: tuple[str, ...],
        *,
        dtype: str | None = None,
    ) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.labels = labels
        self.has_entities = are_entities(labels, settings.tag_scheme)
        self._allowed = allowed_by(labels, settings.tag_scheme)
        self.model = BertTagger(
            config,
            len(labels),
            use_crf=settings.crf,
            allowed=self._allowed,
            dtype=dtype or DTYPE_POLICIES[settings.precision],
        )
        self.loss = Loss(self._terms, lambda batch: {"loss": words_weight(_num_words(batch))})
        self._run = FeatureRunner(settings, self.model, self.loss)

    def _terms(self, logits: Any, batch: Batch) -> dict[str, LossTerm]:
        lengths = _num_words(batch)
        if self.settings.crf:
            examples = batch.get("example_numbers")
            if examples is not None:
                examples = tf.gather(examples, batch["word_starts"], batch_dims=1)  # [B, W]
            return {
                "loss": crf_loss(logits, batch["label_ids"], lengths, self.model.chain(), examples)
            }
        return {"loss": word_labels_loss(logits, batch["label_ids"], lengths)}

    def windows(self, words: Sequence[Sequence[str]], documents: np.ndarray) -> WordWindows:
        """The rows that show the sentences.

        Args:
            words: of each sentence, at least one.
            documents: int64 [number of sentences], ascending: the document of each.
        """
        flat = list(itertools.chain.from_iterable(words))
        vocabulary = self.tokenizer.vocabulary
        return pack_words(
            RaggedIds(*self.tokenizer.encode_batch(flat)),
            _splits(words),
            documents,
            self.settings.max_seq_length,
            doc_context=self.settings.doc_context,
            cls_id=vocabulary.cls_id,
            sep_id=vocabulary.sep_id,
            unk_id=vocabulary.unk_id,
        )

    def features(self, windows: WordWindows, label_ids: np.ndarray | None = None) -> Features:
        """Rows with their words, and with int32 [N] labels if they are known."""
        ragged = {"word_starts": windows.word_starts}
        if label_ids is not None:
            splits = windows.word_starts.row_splits
            label_ids = label_ids.copy()
            # Nothing goes before the first word of a row, as the tag scheme sees it: where an
            # entity goes on there, it begins.
            first = splits[:-1][windows.is_continued]
            label_ids[first] = self._begun()[label_ids[first]]
            ragged["label_ids"] = RaggedIds(label_ids, splits)
        return Features(windows.texts, ragged=ragged)

    def _begun(self) -> np.ndarray:
        """For each label the one that it is as the first of a row, int32 [L]."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        return np.array(
            [
                number if self._allowed.start[number] else numbers[f"B{label[1:]}"]
                for label, number in numbers.items()
            ],
            np.int32,
        )

    def batches(self, features: Features, plan: np.ndarray) -> tf.data.Dataset:
        """The planned batches, padded as the settings say."""
        return self._run.batches(features, plan)

    def logits(
        self, features: Features, batch_size: int, description: str | None = None
    ) -> tuple[np.ndarray, dict[str, float]]:
        """What the model says of each word: float32 [N, L], and the losses if there are labels."""
        found = self._run(features, batch_size, description)
        lengths = features.ragged["word_starts"].lengths
        rows = [row[:length] for row, length in zip(found.outputs, lengths, strict=True)]
        logits = np.concatenate(rows)
        check_finite(logits)
        return logits, found.losses

    def label(
        self, logits: np.ndarray, words: Sequence[Sequence[str]]
    ) -> tuple[list[list[str]], list[np.ndarray]]:
        """The labels of sentences, the likeliest that the tag scheme permits together.

        Args:
            logits: float32 [N, L].
            words: of each sentence.

        Returns:
            The labels of each sentence and, float32 [W], the probability of each label.
        """
        labels: dict[int, list[str]] = {}
        scores: dict[int, np.ndarray] = {}
        splits = _splits(words)
        for rows, lengths in _groups(splits):
            found = self._decode(_padded(logits, splits, rows), lengths)
            for row, length, ids, values in zip(
                rows.tolist(), lengths, *(part.numpy() for part in found), strict=True
            ):
                labels[row] = [self.labels[number] for number in ids[:length]]
                scores[row] = values[:length]
        numbers = range(len(words))
        return [labels[number] for number in numbers], [scores[number] for number in numbers]

    def sentence_losses(
        self, logits: np.ndarray, words: Sequence[Sequence[str]], label_ids: np.ndarray
    ) -> np.ndarray:
        """How unlikely the right labels of each sentence are together.

        Args:
            logits: float32 [N, L].
            words: of each sentence.
            label_ids: int32 [N], labels that the tag scheme permits.

        Returns:
            float32 [number of sentences], negative log-likelihoods, in nats.
        """
        losses = np.zeros(len(words), np.float32)
        splits = _splits(words)
        for rows, lengths in _groups(splits):
            given = (_padded(values, splits, rows) for values in (logits, label_ids))
            losses[rows] = self._loss_of_sentences(*given, lengths)
        return losses

    def decode(self, logits: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """As ``label``, of tensors.

        Args:
            logits: float [B, W, L], W at least 1.
            lengths: int32 [B], 0 to W.

        Returns:
            The numbers of the labels, int32 [B, W], and their probabilities, float32 [B, W]; 0
            beyond a sentence's length.
        """
        chain = self.model.chain()
        best, _ = crf.best_labels(logits, lengths, chain)
        probabilities = crf.marginals(logits, lengths, chain)
        return best, tf.gather(probabilities, best, batch_dims=2)

    @functools.cached_property
    def _decode(self) -> Any:
        """``decode`` as a graph."""
        return tf.function(
            self.decode,
            input_signature=[
                tf.TensorSpec([None, None, len(self.labels)]),
                tf.TensorSpec([None], tf.int32),
            ],
            autograph=False,
        )

    @functools.cached_property
    def _loss_of_sentences(self) -> Any:
        """(logits [B, W, L], labels [B, W], lengths [B]) -> float32 [B]."""

        def loss(logits: tf.Tensor, label_ids: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
            return -crf.log_likelihood(logits, label_ids, lengths, self.model.chain())

        return tf.function(
            loss,
            input_signature=[
                tf.TensorSpec([None, None, len(self.labels)]),
                tf.TensorSpec([None, None], tf.int32),
                tf.TensorSpec([None], tf.int32),
            ],
            autograph=False,
        )


def _groups(splits: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sentences of similar length that are gone through at once, and their lengths, int32."""
    lengths = np.diff(splits).astype(np.int32)
    order = np.argsort(-lengths, kind="stable")
    first = 0
    while first < len(order):
        fitting = _DECODED_WORDS // max(1, lengths[order[first]])
        rows = order[first : first + min(_DECODED_SENTENCES, max(1, fitting))]
        yield rows, lengths[rows]
        first += len(rows)


def _padded(values: np.ndarray, splits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What the words of sentences have, [N, …], as rows that are padded with zeros, [B, W, …]."""
    longest = int(np.max(splits[rows + 1] - splits[rows]))
    padded = np.zeros((len(rows), longest, *values.shape[1:]), values.dtype)
    for number, row in enumerate(rows):
        of_row = values[splits[row] : splits[row + 1]]
        padded[number, : len(of_row)] = of_row
    return padded


def _num_words(batch: Batch) -> tf.Tensor:
    """The words of each row, int32 [B]: none of them starts at 0, where ``[CLS]`` is."""
    return tf.reduce_sum(tf.cast(batch["word_starts"] > 0, tf.int32), axis=1)


def _splits(words: Sequence[Sequence[str]]) -> np.ndarray:
    """Where each sentence begins among all words, int64 [number of sentences + 1]."""
    return np.concatenate([[0], np.cumsum([len(sentence) for sentence in words])]).astype(np.int64)

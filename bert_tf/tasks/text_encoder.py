"""Takes an encoder and texts, returns its layers' outputs, or vectors; next: feature_extraction.

Axes: n = number of texts, B = batch_size, S = seq_length, K = number of layers that are read,
H = hidden_size.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from bert_tf.checkpoint import load_checkpoint
from bert_tf.config import BertConfig
from bert_tf.errors import InputError
from bert_tf.input_pipeline import Features, batches, evaluation_plan
from bert_tf.modeling import BertModel
from bert_tf.packing import PackedTexts, RaggedIds, pack_texts
from bert_tf.tasks.task_predictor import TextOrPair
from bert_tf.tokenization import FullTokenizer
from bert_tf.training import Evaluator


def check_layers(layers: Sequence[int], config: BertConfig, name: str) -> None:
    """Checks that a model has some layers, counted from 0, or from -1 downwards from its last.

    Args:
        layers: their numbers.
        config: the model's.
        name: what a message calls what they were given by.

    Raises:
        InputError: naming the layer.
    """
    count = config.num_hidden_layers
    for layer in layers:
        if not -count <= layer < count:
            raise InputError(
                f"{name}: there is no layer {layer} in a model of {count} layers; give -{count} to "
                f"-1, or 0 to {count - 1}"
            )


def load_encoder(config: BertConfig, checkpoint: str, dtype: str | None = None) -> BertModel:
    """The encoder of a checkpoint, which may be without a pooler, as nothing here uses it.

    Args:
        config: its configuration.
        checkpoint: its path.
        dtype: a Keras dtype policy; float32 by default.
    """
    model = BertModel(config, dtype=dtype)
    load_checkpoint(model, checkpoint, allow_missing=("bert/pooler/*",))
    return model


class TextEncoder:
    """An encoder with all it takes to go from texts to what it makes of them.

    Args:
        model: with its weights.
        tokenizer: of its vocabulary.
        max_seq_length: a longer row is cut, of a pair the longer text first.
        layers: those that are read.
        pooling: of POOLINGS, what makes one vector of the first layer in ``layers``.
        normalize: whether such a vector gets length 1.

    Attributes:
        vector_size: H.
        forward: takes a model's inputs, returns what is read of it: float32 [B, S, K, H], or with
            pooling [B, H].
    """

    def __init__(
        self,
        model: BertModel,
        tokenizer: FullTokenizer,
        max_seq_length: int,
        layers: Sequence[int],
        pooling: str | None = None,
        normalize: bool = False,
    ) -> None:
        self.vector_size = model.config.hidden_size
        self.model = model
        self.tokenizer = tokenizer
        self.max_seq_length = max_seq_length

        def forward(inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
            outputs = model(inputs, training=training)["encoder_outputs"]
            outputs = [tf.cast(output, tf.float32) for output in outputs]
            if pooling is None:
                return tf.stack([outputs[layer] for layer in layers], axis=2)  # [B, S, K, H]
            vectors = pool(pooling, outputs[layers[0]], inputs["input_mask"])
            # The square root of epsilon is the least length that is divided by.
            return tf.math.l2_normalize(vectors, axis=-1, epsilon=1e-24) if normalize else vectors

        self.forward = forward
        self._evaluator = Evaluator(forward)

    def features(self, texts: Sequence[TextOrPair]) -> Features:
        """Tokenizes and packs; as in the original, a pair needs pieces in its second text."""
        pairs = [(text, "") if isinstance(text, str) else text for text in texts]
        text_a, text_b = (
            RaggedIds(*self.tokenizer.encode_batch([pair[part] for pair in pairs]))
            for part in (0, 1)
        )
        vocabulary = self.tokenizer.vocabulary
        return Features(
            pack_texts(
                text_a,
                text_b,
                self.max_seq_length,
                vocabulary.cls_id,
                vocabulary.sep_id,
                is_pair=text_b.lengths > 0,
            )
        )

    def by_batch(
        self, features: Features, plan: np.ndarray, description: str | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Runs the model; what has been yielded is not kept.

        Args:
            features: of ``features``.
            plan: int64 [number of batches, B], of ``evaluation_plan``.
            description: what the progress line calls it; None for no such line.

        Yields:
            The numbers of the batch's texts, int64 [B], and float32 [B, S, K, H], what lies beyond
            a text's own pieces being of no meaning; with pooling float32 [B, H].
        """
        dataset = batches(features, plan, max_length=self.max_seq_length)
        for rows, outputs, _ in self._evaluator.by_batch(dataset, len(plan), description):
            yield rows, outputs

    def vectors(self, texts: Sequence[TextOrPair], batch_size: int) -> np.ndarray:
        """With pooling, all vectors: float32 [n, H]."""
        features = self.features(texts)
        vectors = np.empty((len(texts), self.vector_size), np.float32)
        for rows, outputs in self.by_batch(features, evaluation_plan(features.lengths, batch_size)):
            vectors[rows] = outputs
        return vectors

    def pieces(self, features: Features, row: int) -> list[str]:
        """The pieces of a row, [CLS] and [SEP] included."""
        assert isinstance(features.texts, PackedTexts)
        ids = features.texts.input_ids
        start, end = ids.row_splits[row : row + 2]
        return self.tokenizer.convert_ids_to_tokens(ids.values[start:end].tolist())


def pool(pooling: str, outputs: tf.Tensor, input_mask: tf.Tensor) -> tf.Tensor:
    """One vector of each row.

    Args:
        pooling: of POOLINGS.
        outputs: a layer's, float32 [B, S, H].
        input_mask: int32 [B, S], 1 for pieces and 0 for padding.

    Returns:
        float32 [B, H].
    """
    is_piece = tf.expand_dims(input_mask, -1) > 0  # [B, S, 1]
    if pooling == "cls":
        return outputs[:, 0]
    if pooling == "max":
        return tf.reduce_max(tf.where(is_piece, outputs, outputs.dtype.min), axis=1)
    number = tf.reduce_sum(tf.cast(is_piece, outputs.dtype), axis=1)  # [B, 1]
    return tf.reduce_sum(tf.where(is_piece, outputs, 0.0), axis=1) / number

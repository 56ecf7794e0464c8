"""Takes the encoder's outputs, returns each task's logits; next: losses.

Axes: B = batch_size, S = seq_length, P = max_predictions_per_seq, H = hidden_size,
V = vocab_size, L = num_labels, W = words of a row, C = choices or windows of an example. Scopes and
shapes are those of run_pretraining.py, run_classifier.py and run_squad.py of google-research/bert.
Logits are float32 under every dtype policy.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bert_tf.config import WINDOW_POOLINGS, BertConfig
from bert_tf.crf import Allowed, Chain, Crf, constrained, everything
from bert_tf.errors import InputError
from bert_tf.functional import ACTIVATIONS, dropout
from bert_tf.model_inputs import CHOICES, WINDOWS, read_inputs, read_positions
from bert_tf.modeling import (
    BertModel,
    LayerNorm,
    dense,
    initializer,
    next_dropout_seed,
    package,
)

HEAD_SITE = 100_000  # dropout site of a head, beyond those of any encoder
# The score of a choice or window that there is not: so low that softmax gives it 0, and finite.
NO_ROW = -1e9


class Transform(keras.layers.Layer):
    """Dense, activation and LayerNorm before the masked-LM logits."""

    def __init__(self, config: BertConfig, **kwargs: Any) -> None:
        super().__init__(name="transform", **kwargs)
        self.config = config
        self.dense = dense(config.hidden_size, config, "dense", dtype=self.dtype_policy)
        self.LayerNorm = LayerNorm(config.hidden_size, dtype=self.dtype_policy)

    def build(self, input_shape: Any = None) -> None:
        """Creates the kernel, float32 [H, H], and what goes with it."""
        self.dense.build((None, self.config.hidden_size))
        self.LayerNorm.build()

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Float [B * P, H] -> [B * P, H]."""
        return self.LayerNorm(ACTIVATIONS[self.config.hidden_act](self.dense(x)))


class MaskedLM(keras.layers.Layer):
    """Logits over the vocabulary at the masked positions, with the tied embedding table."""

    def __init__(self, config: BertConfig, **kwargs: Any) -> None:
        super().__init__(name="predictions", **kwargs)
        self.config = config
        self.transform = Transform(config, dtype=self.dtype_policy)

    def build(self, input_shape: Any = None) -> None:
        """Creates ``output_bias``, float32 [V], and the transform."""
        self.transform.build()
        self.output_bias = self.add_weight(
            name="output_bias",
            shape=(self.config.vocab_size,),
            initializer="zeros",
            dtype="float32",
            autocast=False,
        )

    def call(self, sequence_output: tf.Tensor, positions: tf.Tensor, table: Any) -> tf.Tensor:
        """Float [B, S, H], int32 [B, P] and float [V, H] -> float32 [B, P, V]."""
        # Gathering first leaves about 15 % of the tokens for the widest product of the model.
        masked = tf.gather(sequence_output, positions, batch_dims=1)  # [B, P, H]
        x = self.transform(tf.reshape(masked, [-1, self.config.hidden_size]))  # [B * P, H]
        logits = tf.matmul(x, tf.cast(table, x.dtype), transpose_b=True)  # [B * P, V]
        logits = tf.cast(logits, tf.float32) + self.output_bias.value
        shape = tf.concat([tf.shape(positions), [self.config.vocab_size]], axis=0)
        return tf.reshape(logits, shape)  # [B, P, V]


class Linear(keras.layers.Layer):
    """``x @ output_weights^T + output_bias`` in float32: the form of the original's small heads."""

    def __init__(self, outputs: int, config: BertConfig, name: str, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.config = config
        self.outputs = outputs

    def build(self, input_shape: Any = None) -> None:
        """Creates the weights of ``create_linear``."""
        self.output_weights, self.output_bias = create_linear(self, self.outputs, self.config)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Float [B, H] -> float32 [B, outputs]."""
        return linear(x, self.output_weights.value, self.output_bias.value)


def create_linear(
    layer: keras.layers.Layer, outputs: int, config: BertConfig
) -> tuple[keras.Variable, keras.Variable]:
    """Adds ``output_weights`` float32 [outputs, H] and ``output_bias`` float32 [outputs]."""
    weights = layer.add_weight(
        name="output_weights",
        shape=(outputs, config.hidden_size),
        initializer=initializer(config),
        dtype="float32",
        autocast=False,
    )
    bias = layer.add_weight(
        name="output_bias", shape=(outputs,), initializer="zeros", dtype="float32", autocast=False
    )
    return weights, bias


def linear(x: tf.Tensor, weights: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Float [B, H], float32 [outputs, H] and [outputs] -> float32 [B, outputs]."""
    x, weights, bias = (tf.cast(value, tf.float32) for value in (x, weights, bias))
    return tf.matmul(x, weights, transpose_b=True) + bias


def pooled_rows(
    bert: BertModel,
    inputs: dict[str, tf.Tensor],
    axes: Sequence[str],
    training: bool,
    seed: tf.Tensor | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Encodes examples of several rows each.

    Args:
        bert: the encoder.
        inputs: its inputs, but int32 [B, C, S] each.
        axes: of the inputs, as for ``read_inputs``.
        training: whether dropout is on.
        seed: as for BertModel.

    Returns:
        The pooled output of every row, float [B * C, H], and bool [B, C], which rows there are:
        those whose ``input_mask`` is not all 0.
    """
    examples = read_inputs(inputs, bert.config, axes)
    seq_length = tf.shape(examples.input_ids)[2]
    rows = {
        name: tf.reshape(value, [-1, seq_length])  # [B * C, S]
        for name, value in examples._asdict().items()
    }
    pooled = bert.pooled_output(rows, training=training, dropout_seed=seed)
    return pooled, tf.reduce_any(examples.input_mask > 0, axis=2)


class WindowPooling(keras.layers.Layer):
    """The vectors of a text's windows as one: their ``mean``, ``max``, or a learned ``attention``.

    Attention gives each window a score, as a Linear of one output, and weights by their softmax.
    """

    def __init__(self, how: str, config: BertConfig, **kwargs: Any) -> None:
        super().__init__(name="window_pooling", **kwargs)
        self.how = how
        self.attention = None
        if how == "attention":
            self.attention = Linear(1, config, "attention", dtype=self.dtype_policy)

    def build(self, input_shape: Any = None) -> None:
        """Builds what is learned."""
        if self.attention is not None:
            self.attention.build()

    def call(self, vectors: tf.Tensor, is_window: tf.Tensor) -> tf.Tensor:
        """Float [B * C, H] and bool [B, C] -> float32 [B, H]."""
        shape = tf.concat([tf.shape(is_window), [vectors.shape[1]]], axis=0)
        windows = tf.reshape(tf.cast(vectors, tf.float32), shape)  # [B, C, H]
        if self.how == "max":
            lowest = windows.dtype.min
            there = tf.expand_dims(is_window, 2)
            return tf.reduce_max(tf.where(there, windows, lowest), axis=1)
        scores = tf.zeros(shape[:2])
        if self.attention is not None:
            scores = tf.reshape(self.attention(vectors), shape[:2])  # [B, C]
        weights = tf.nn.softmax(tf.where(is_window, scores, NO_ROW))
        # Not weights[..., tf.newaxis], of which LiteRT's converter makes nothing.
        return tf.reduce_sum(tf.expand_dims(weights, 2) * windows, axis=1)


class PretrainingHeads(keras.layers.Layer):
    """The scope ``cls``: masked-LM and next-sentence heads."""

    def __init__(self, config: BertConfig, **kwargs: Any) -> None:
        super().__init__(name="cls", **kwargs)
        self.predictions = MaskedLM(config, dtype=self.dtype_policy)
        self.seq_relationship = Linear(2, config, "seq_relationship", dtype=self.dtype_policy)

    def build(self, input_shape: Any = None) -> None:
        """Builds both heads."""
        self.predictions.build()
        self.seq_relationship.build()

    def call(self, encoded: dict[str, Any], positions: tf.Tensor, table: Any) -> dict[str, Any]:
        """The encoder's outputs, int32 [B, P] and float [V, H] -> both heads' logits."""
        return {
            "masked_lm_logits": self.predictions(encoded["sequence_output"], positions, table),
            "next_sentence_logits": self.seq_relationship(encoded["pooled_output"]),
        }


@package
class BertPretrainer(keras.Model):
    """BERT with the masked-LM and next-sentence heads.

    Args:
        config: as for BertModel.
        seed: as for BertModel.
    """

    def __init__(self, config: BertConfig, *, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.dropout_seeds = keras.random.SeedGenerator(seed)
        self.bert = BertModel(config, seed=seed, dtype=self.dtype_policy)
        self.cls = PretrainingHeads(config, dtype=self.dtype_policy)
        self.cls.build()
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Nothing is left to create; tells Keras so."""

    def call(
        self,
        inputs: dict[str, tf.Tensor],
        training: bool = False,
        dropout_seed: tf.Tensor | None = None,
    ) -> dict[str, Any]:
        """Runs encoder and heads.

        Args:
            inputs: those of BertModel, and ``masked_lm_positions`` int32 [B, P].
            training: whether dropout is on.
            dropout_seed: as for BertModel.

        Returns:
            BertModel's outputs, ``masked_lm_logits`` float32 [B, P, V] and
            ``next_sentence_logits`` float32 [B, 2].
        """
        seed = next_dropout_seed(self, training, dropout_seed)
        encoded = self.bert(inputs, training=training, dropout_seed=seed)
        table = self.bert.embeddings.word_embeddings.value
        positions = read_positions(
            inputs, "masked_lm_positions", encoded["sequence_output"].shape[1]
        )
        return encoded | self.cls(encoded, positions, table)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as Keras saves them."""
        return {**super().get_config(), "config": self.config.to_dict()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "BertPretrainer":
        """Inverse of ``get_config``."""
        return cls(**{**config, "config": BertConfig.from_dict(config["config"])})


@package
class BertClassifier(keras.Model):
    """BERT with a linear layer on the pooled output: classes, several labels, or regression.

    Args:
        config: as for BertModel.
        num_labels: L; 1 for regression.
        dropout_prob: dropout of the pooled output; by default ``hidden_dropout_prob``, which is
            the 0.1 that run_classifier.py has fixed, in every released configuration.
        window_pooling: for texts of several windows, how their pooled outputs become one: ``mean``,
            ``max`` or ``attention``; the inputs are then int32 [B, C, S] each.
        seed: as for BertModel.
    """

    def __init__(
        self,
        config: BertConfig,
        num_labels: int,
        *,
        dropout_prob: float | None = None,
        window_pooling: str | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if num_labels < 1:
            raise InputError(f"num_labels must be at least 1, but is {num_labels}")
        if window_pooling not in (None, *WINDOW_POOLINGS):
            raise InputError(
                f"window_pooling must be one of {', '.join(WINDOW_POOLINGS)}, but is "
                f"{window_pooling!r}"
            )
        super().__init__(**kwargs)
        self.config = config
        self.num_labels = num_labels
        self.dropout_prob = config.hidden_dropout_prob if dropout_prob is None else dropout_prob
        self.dropout_seeds = keras.random.SeedGenerator(seed)
        self.bert = BertModel(config, seed=seed, dtype=self.dtype_policy)
        self.window_pooling = None
        if window_pooling is not None:
            self.window_pooling = WindowPooling(window_pooling, config, dtype=self.dtype_policy)
            self.window_pooling.build()
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the weights of ``create_linear`` with L outputs."""
        if not self.built:
            self.output_weights, self.output_bias = create_linear(
                self, self.num_labels, self.config
            )

    def call(
        self,
        inputs: dict[str, tf.Tensor],
        training: bool = False,
        dropout_seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Runs encoder and head.

        Args:
            inputs: those of BertModel; with ``window_pooling``, a window whose ``input_mask`` is
                all 0 is one that the text lacks.
            training: whether dropout is on.
            dropout_seed: as for BertModel.

        Returns:
            Logits, float32 [B, L].
        """
        seed = next_dropout_seed(self, training, dropout_seed)
        if self.window_pooling is None:
            pooled = self.bert.pooled_output(inputs, training=training, dropout_seed=seed)
        else:
            vectors, is_window = pooled_rows(self.bert, inputs, WINDOWS, training, seed)
            pooled = self.window_pooling(vectors, is_window)
        pooled = dropout(pooled, self.dropout_prob, seed, HEAD_SITE)
        return linear(pooled, self.output_weights.value, self.output_bias.value)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as Keras saves them."""
        return {
            **super().get_config(),
            "config": self.config.to_dict(),
            "num_labels": self.num_labels,
            "dropout_prob": self.dropout_prob,
            "window_pooling": None if self.window_pooling is None else self.window_pooling.how,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "BertClassifier":
        """Inverse of ``get_config``."""
        return cls(**{**config, "config": BertConfig.from_dict(config["config"])})


class SpanHead(keras.layers.Layer):
    """The scope ``cls`` of run_squad.py: logits of being an answer's first and last piece."""

    def __init__(self, config: BertConfig, **kwargs: Any) -> None:
        super().__init__(name="cls", **kwargs)
        self.config = config
        self.squad = Linear(2, config, "squad", dtype=self.dtype_policy)

    def build(self, input_shape: Any = None) -> None:
        """Builds the linear layer."""
        self.squad.build()

    def call(self, sequence_output: tf.Tensor) -> tf.Tensor:
        """Float [B, S, H] -> float32 [B, S, 2]."""
        flat = tf.reshape(sequence_output, [-1, self.config.hidden_size])  # [B * S, H]
        shape = tf.concat([tf.shape(sequence_output)[:2], [2]], axis=0)
        return tf.reshape(self.squad(flat), shape)  # [B, S, 2]


@package
class BertSpanLabeler(keras.Model):
    """BERT with a linear layer on every piece: is it the first, or the last, of the answer?

    Args:
        config: as for BertModel.
        seed: as for BertModel.
    """

    def __init__(self, config: BertConfig, *, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.dropout_seeds = keras.random.SeedGenerator(seed)
        self.bert = BertModel(config, seed=seed, dtype=self.dtype_policy)
        self.cls = SpanHead(config, dtype=self.dtype_policy)
        self.cls.build()
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Nothing is left to create; tells Keras so."""

    def call(
        self,
        inputs: dict[str, tf.Tensor],
        training: bool = False,
        dropout_seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Runs encoder and head.

        Args:
            inputs: those of BertModel.
            training: whether dropout is on.
            dropout_seed: as for BertModel.

        Returns:
            Logits, float32 [B, S, 2], of being the first and the last piece of the answer.
        """
        seed = next_dropout_seed(self, training, dropout_seed)
        return self.cls(self.bert(inputs, training=training, dropout_seed=seed)["sequence_output"])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as Keras saves them."""
        return {**super().get_config(), "config": self.config.to_dict()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "BertSpanLabeler":
        """Inverse of ``get_config``."""
        return cls(**{**config, "config": BertConfig.from_dict(config["config"])})


@package
class BertTagger(keras.Model):
    """BERT with a linear layer on the first piece of each word.

    Args:
        config: as for BertModel.
        num_labels: L.
        use_crf: whether labels depend on their neighbours, by learned transitions.
        allowed: what the tag scheme permits; by default everything.
        dropout_prob: dropout of the words' vectors; by default ``hidden_dropout_prob``.
        seed: as for BertModel.
    """

    def __init__(
        self,
        config: BertConfig,
        num_labels: int,
        *,
        use_crf: bool = False,
        allowed: Allowed | None = None,
        dropout_prob: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if num_labels < 1:
            raise InputError(f"num_labels must be at least 1, but is {num_labels}")
        super().__init__(**kwargs)
        self.config = config
        self.num_labels = num_labels
        self.allowed = everything(num_labels) if allowed is None else allowed
        self.dropout_prob = config.hidden_dropout_prob if dropout_prob is None else dropout_prob
        self.dropout_seeds = keras.random.SeedGenerator(seed)
        self.bert = BertModel(config, seed=seed, dtype=self.dtype_policy)
        self.crf = Crf(num_labels, dtype=self.dtype_policy) if use_crf else None
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the weights of ``create_linear`` with L outputs, and the CRF's."""
        if not self.built:
            self.output_weights, self.output_bias = create_linear(
                self, self.num_labels, self.config
            )
            if self.crf is not None:
                self.crf.build()

    def call(
        self,
        inputs: dict[str, tf.Tensor],
        training: bool = False,
        dropout_seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Runs encoder and head.

        Args:
            inputs: those of BertModel, and ``word_starts`` int32 [B, W], the position of each
                word's first piece; 0, which is ``[CLS]``, where a row has no more words.
            training: whether dropout is on.
            dropout_seed: as for BertModel.

        Returns:
            Logits, float32 [B, W, L].
        """
        seed = next_dropout_seed(self, training, dropout_seed)
        encoded = self.bert(inputs, training=training, dropout_seed=seed)["sequence_output"]
        starts = read_positions(inputs, "word_starts", encoded.shape[1])
        # Gathering first leaves out the pieces that carry no label.
        words = tf.gather(encoded, starts, batch_dims=1)  # [B, W, H]
        words = dropout(words, self.dropout_prob, seed, HEAD_SITE)
        logits = linear(
            tf.reshape(words, [-1, self.config.hidden_size]),  # [B * W, H]
            self.output_weights.value,
            self.output_bias.value,
        )
        shape = tf.concat([tf.shape(starts), [self.num_labels]], axis=0)
        return tf.reshape(logits, shape)  # [B, W, L]

    def chain(self) -> Chain:
        """What turns logits into labels: the learned transitions, if any, and the tag scheme."""
        if self.crf is not None:
            return constrained(self.crf.chain(), self.allowed)
        zeros = Chain(*(tf.zeros([self.num_labels] * rank) for rank in (1, 2, 1)))
        return constrained(zeros, self.allowed)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as Keras saves them."""
        return {
            **super().get_config(),
            "config": self.config.to_dict(),
            "num_labels": self.num_labels,
            "use_crf": self.crf is not None,
            "allowed": [part.tolist() for part in self.allowed],
            "dropout_prob": self.dropout_prob,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "BertTagger":
        """Inverse of ``get_config``."""
        bert_config = BertConfig.from_dict(config["config"])
        allowed = Allowed(*map(np.array, config["allowed"]))
        return cls(**{**config, "config": bert_config, "allowed": allowed})


@package
class BertMultipleChoice(keras.Model):
    """BERT with a score for each of several rows: the likeliest one is chosen.

    The score is the dot product of the pooled output and a vector (Devlin et al. 2019, arXiv
    1810.04805, section 4.4). The bias that comes with it changes no probability; it makes the
    weights those of a BertClassifier with one label.

    Args:
        config: as for BertModel.
        dropout_prob: dropout of the pooled output; by default ``hidden_dropout_prob``.
        seed: as for BertModel.
    """

    def __init__(
        self,
        config: BertConfig,
        *,
        dropout_prob: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.dropout_prob = config.hidden_dropout_prob if dropout_prob is None else dropout_prob
        self.dropout_seeds = keras.random.SeedGenerator(seed)
        self.bert = BertModel(config, seed=seed, dtype=self.dtype_policy)
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the weights of ``create_linear`` with one output."""
        if not self.built:
            self.output_weights, self.output_bias = create_linear(self, 1, self.config)

    def call(
        self,
        inputs: dict[str, tf.Tensor],
        training: bool = False,
        dropout_seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Runs encoder and head.

        Args:
            inputs: those of BertModel, but int32 [B, C, S] each. A choice whose ``input_mask`` is
                all 0 is one that the example lacks.
            training: whether dropout is on.
            dropout_seed: as for BertModel.

        Returns:
            Logits, float32 [B, C]; NO_ROW where an example lacks a choice.
        """
        seed = next_dropout_seed(self, training, dropout_seed)
        pooled, is_choice = pooled_rows(self.bert, inputs, CHOICES, training, seed)
        pooled = dropout(pooled, self.dropout_prob, seed, HEAD_SITE)  # [B * C, H]
        scores = linear(pooled, self.output_weights.value, self.output_bias.value)
        return tf.where(is_choice, tf.reshape(scores, tf.shape(is_choice)), NO_ROW)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as Keras saves them."""
        return {
            **super().get_config(),
            "config": self.config.to_dict(),
            "dropout_prob": self.dropout_prob,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "BertMultipleChoice":
        """Inverse of ``get_config``."""
        return cls(**{**config, "config": BertConfig.from_dict(config["config"])})

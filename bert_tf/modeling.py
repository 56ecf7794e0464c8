"""Takes token ids and a BertConfig, returns the encoder's activations; next: heads.

The model of Devlin et al. 2019 (arXiv 1810.04805) as the released code has it (modeling.py of
google-research/bert). Every layer and weight is named after its scope in the original graph, so
``variable.path`` is the variable's name in a checkpoint.

Axes:
    B = batch_size, S = seq_length, T = B * S tokens, H = hidden_size,
    N = num_attention_heads, D = H / N (size of one head), I = intermediate_size,
    K = most examples of a row where several share one (else 1),
    Q = tokens of a row that a layer computes new vectors of (S, or fewer in the last), U = B * Q.
"""

import math
from typing import Any

import keras
import tensorflow as tf

from bert_tf.config import BertConfig
from bert_tf.functional import ACTIVATIONS, dropout, layer_norm
from bert_tf.model_inputs import read_inputs, read_sharing
from bert_tf.recomputation import recomputed

# Added to the attention scores of padding; the original's finite value, which float16 can hold.
MASKED_SCORE = -10000.0

package = keras.saving.register_keras_serializable(package="bert_tf")


def dense(units: int, config: BertConfig, name: str, **kwargs: Any) -> keras.layers.Dense:
    """A Dense layer with the original's initial values."""
    return keras.layers.Dense(
        units, kernel_initializer=initializer(config), bias_initializer="zeros", name=name, **kwargs
    )


def initializer(config: BertConfig) -> keras.initializers.Initializer:
    """Truncated normal of standard deviation ``initializer_range``, a fresh seed each time."""
    return keras.initializers.TruncatedNormal(stddev=config.initializer_range)


class LayerNorm(keras.layers.Layer):
    """``layer_norm`` with its two weights; computes in float32 under every dtype policy.

    Args:
        size: H.
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        # Without autocast a float32 input is not rounded to the compute dtype on its way in.
        super().__init__(name="LayerNorm", autocast=False, **kwargs)
        self.size = size

    def build(self, input_shape: Any = None) -> None:
        """Creates gamma and beta, float32 [H]."""
        for name, initial in (("gamma", "ones"), ("beta", "zeros")):
            weight = self.add_weight(
                name=name, shape=(self.size,), initializer=initial, dtype="float32", autocast=False
            )
            setattr(self, name, weight)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Float [T, H] -> [T, H] of the same dtype."""
        y = layer_norm(tf.cast(x, tf.float32), self.gamma.value, self.beta.value)
        return tf.cast(y, x.dtype)


class Embeddings(keras.layers.Layer):
    """LayerNorm(word + token type + position), then dropout."""

    def __init__(self, config: BertConfig, **kwargs: Any) -> None:
        super().__init__(name="embeddings", **kwargs)
        self.config = config
        self.LayerNorm = LayerNorm(config.hidden_size, dtype=self.dtype_policy)

    def build(self, input_shape: Any = None) -> None:
        """Creates the three tables, float32 [rows, H]."""
        for name, rows in (
            ("word_embeddings", self.config.vocab_size),
            ("token_type_embeddings", self.config.type_vocab_size),
            ("position_embeddings", self.config.max_position_embeddings),
        ):
            table = self.add_weight(
                name=name,
                shape=(rows, self.config.hidden_size),
                initializer=initializer(self.config),
                autocast=False,  # it would cast the whole table for the few rows that are read
            )
            setattr(self, name, table)
        self.LayerNorm.build()

    def call(
        self,
        input_ids: tf.Tensor,
        segment_ids: tf.Tensor,
        seed: tf.Tensor | None,
        positions: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """int32 [B, S] ids, segment ids and positions (default: 0 to S - 1) -> float [T, H]."""
        seq_length = tf.shape(input_ids)[1]
        words = tf.gather(self.word_embeddings.value, input_ids)  # [B, S, H]
        # One-hot times a table of two rows: cheaper forward and backward than a gather.
        types = tf.matmul(
            tf.one_hot(
                tf.reshape(segment_ids, [-1]),
                self.config.type_vocab_size,
                dtype=self.token_type_embeddings.dtype,
            ),
            self.token_type_embeddings.value,
        )  # [T, H]
        if positions is None:
            places = self.position_embeddings.value[:seq_length]  # [S, H]
        else:
            places = tf.gather(self.position_embeddings.value, positions)  # [B, S, H]
        words, places, types = (tf.cast(part, tf.float32) for part in (words, places, types))
        x = tf.reshape(words + places, tf.shape(types)) + types  # [T, H]
        x = tf.cast(self.LayerNorm(x), self.compute_dtype)
        return dropout(x, self.config.hidden_dropout_prob, seed, site=0)


class SelfAttention(keras.layers.Layer):
    """Multi-head scaled dot-product self-attention (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: BertConfig, site: int, **kwargs: Any) -> None:
        super().__init__(name="self", **kwargs)
        self.config = config
        self.site = site
        policy = self.dtype_policy
        self.query = dense(config.hidden_size, config, "query", dtype=policy)
        self.key = dense(config.hidden_size, config, "key", dtype=policy)
        self.value = dense(config.hidden_size, config, "value", dtype=policy)
        self.merged: tuple[tf.Variable, tf.Variable] | None = None

    def build(self, input_shape: Any = None) -> None:
        """Creates the three projections, kernels float32 [H, H]."""
        for projection in (self.query, self.key, self.value):
            projection.build((None, self.config.hidden_size))

    def merge_projections(self) -> None:
        """See BertModel."""
        scale = 1.0 / math.sqrt(self.config.hidden_size // self.config.num_attention_heads)
        scales = (scale, 1.0, 1.0)  # the scale of the scores goes on the query
        parts = (self.query, self.key, self.value)

        def merged(name: str) -> tf.Variable:
            weights = (tf.cast(getattr(part, name).value, tf.float32) for part in parts)
            scaled = [value * factor for value, factor in zip(weights, scales, strict=True)]
            return tf.Variable(tf.cast(tf.concat(scaled, axis=-1), self.compute_dtype))

        self.merged = (merged("kernel"), merged("bias"))  # [H, 3 H] and [3 H]

    def _projected(
        self, x: tf.Tensor, query_tokens: tf.Tensor, sizes: tuple[tf.Tensor, tf.Tensor, tf.Tensor]
    ) -> list[tf.Tensor]:
        """Queries [B, N, Q, D], which are scaled, keys and values [B, N, S, D].

        Args:
            x: float [T, H], what keys and values are made of.
            query_tokens: float [U, H], what queries are made of.
            sizes: B, Q and S, int32 [] each.
        """
        heads = self.config.num_attention_heads
        size = self.config.hidden_size // heads
        batch_size, num_queries, seq_length = sizes
        if self.merged is not None and query_tokens is x:
            kernel, bias = self.merged
            parts = tf.nn.bias_add(tf.matmul(x, kernel), bias)
            parts = tf.reshape(parts, [batch_size, seq_length, 3, heads, size])
            return tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))
        # The scale goes on the query, [U, H], not on the larger scores, [B, N, Q, S].
        query = self.query(query_tokens) * tf.cast(1.0 / math.sqrt(size), x.dtype)
        parts = (
            (query, num_queries),
            (self.key(x), seq_length),
            (self.value(x), seq_length),
        )
        return [
            tf.transpose(tf.reshape(part, [batch_size, length, heads, size]), [0, 2, 1, 3])
            for part, length in parts
        ]

    def call(
        self,
        x: tf.Tensor,
        mask_adder: tf.Tensor,
        seed: tf.Tensor | None,
        query_tokens: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Lets tokens attend to those of their row.

        Args:
            x: float [T, H], what is attended to.
            mask_adder: float32 [B, 1, 1 or S, S]; with ``query_tokens`` [B, 1, Q, S].
            seed: int32 [2], or None for no dropout.
            query_tokens: float [U, H], what attends; by default x.

        Returns:
            Float [U, H].
        """
        batch_size, _, num_queries, seq_length = tf.unstack(tf.shape(mask_adder))
        if query_tokens is None:
            query_tokens, num_queries = x, seq_length
        sizes = (batch_size, num_queries, seq_length)
        query, key, value = self._projected(x, query_tokens, sizes)
        scores = tf.matmul(query, key, transpose_b=True)  # [B, N, Q, S]
        # Keras has cast the adder to the compute dtype; 0 and about -10000 it still is.
        adder = tf.cast(mask_adder, tf.float32)
        probabilities = tf.nn.softmax(tf.cast(scores, tf.float32) + adder)
        probabilities = tf.cast(probabilities, x.dtype)
        rate = self.config.attention_probs_dropout_prob
        probabilities = dropout(probabilities, rate, seed, self.site)
        context = tf.matmul(probabilities, value)  # [B, N, Q, D]
        return tf.reshape(tf.transpose(context, [0, 2, 1, 3]), tf.shape(query_tokens))  # [U, H]


class ResidualOutput(keras.layers.Layer):
    """LayerNorm(dropout(Dense(x)) + residual): how both halves of a layer end."""

    def __init__(self, input_size: int, config: BertConfig, site: int, **kwargs: Any) -> None:
        super().__init__(name="output", **kwargs)
        self.config = config
        self.input_size = input_size
        self.site = site
        self.dense = dense(config.hidden_size, config, "dense", dtype=self.dtype_policy)
        self.LayerNorm = LayerNorm(config.hidden_size, dtype=self.dtype_policy)

    def build(self, input_shape: Any = None) -> None:
        """Creates the kernel, float32 [input_size, H], and what goes with it."""
        self.dense.build((None, self.input_size))
        self.LayerNorm.build()

    def call(self, x: tf.Tensor, residual: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """Float [T, input_size] and [T, H] -> [T, H]."""
        x = dropout(self.dense(x), self.config.hidden_dropout_prob, seed, self.site)
        return self.LayerNorm(x + residual)


class Attention(keras.layers.Layer):
    """Self-attention and its output: the first half of a transformer layer."""

    def __init__(self, config: BertConfig, site: int, **kwargs: Any) -> None:
        super().__init__(name="attention", **kwargs)
        self.self_attention = SelfAttention(config, site, dtype=self.dtype_policy)
        self.attention_output = ResidualOutput(
            config.hidden_size, config, site + 1, dtype=self.dtype_policy
        )

    def build(self, input_shape: Any = None) -> None:
        """Builds both parts."""
        self.self_attention.build()
        self.attention_output.build()

    def call(
        self,
        x: tf.Tensor,
        mask_adder: tf.Tensor,
        seed: tf.Tensor | None,
        query_tokens: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Arguments and result are those of SelfAttention."""
        context = self.self_attention(x, mask_adder, seed, query_tokens)
        residual = x if query_tokens is None else query_tokens
        return self.attention_output(context, residual, seed)


class Intermediate(keras.layers.Layer):
    """The wide Dense layer with its activation."""

    def __init__(self, config: BertConfig, **kwargs: Any) -> None:
        super().__init__(name="intermediate", **kwargs)
        self.config = config
        self.dense = dense(config.intermediate_size, config, "dense", dtype=self.dtype_policy)

    def build(self, input_shape: Any = None) -> None:
        """Creates the kernel, float32 [H, I]."""
        self.dense.build((None, self.config.hidden_size))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Float [T, H] -> [T, I]."""
        return ACTIVATIONS[self.config.hidden_act](self.dense(x))


class TransformerLayer(keras.layers.Layer):
    """Attention, then the position-wise feed-forward network (Vaswani et al. 2017, section 3.3)."""

    SITES = 3  # dropout calls in one layer

    def __init__(self, config: BertConfig, index: int, **kwargs: Any) -> None:
        super().__init__(name=f"layer_{index}", **kwargs)
        site = 1 + index * self.SITES  # site 0 is the embeddings'
        self.attention = Attention(config, site, dtype=self.dtype_policy)
        self.intermediate = Intermediate(config, dtype=self.dtype_policy)
        self.feed_forward_output = ResidualOutput(
            config.intermediate_size, config, site + 2, dtype=self.dtype_policy
        )

    def build(self, input_shape: Any = None) -> None:
        """Builds the three parts."""
        self.attention.build()
        self.intermediate.build()
        self.feed_forward_output.build()

    def call(
        self,
        x: tf.Tensor,
        mask_adder: tf.Tensor,
        seed: tf.Tensor | None,
        query_tokens: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Arguments and result are those of SelfAttention."""
        x = self.attention(x, mask_adder, seed, query_tokens)
        return self.feed_forward_output(self.intermediate(x), x, seed)


class Encoder(keras.layers.Layer):
    """The stack of transformer layers."""

    def __init__(self, config: BertConfig, **kwargs: Any) -> None:
        # Autocast is left to the layers: what recomputation hands to them are the weights as such.
        super().__init__(name="encoder", autocast=False, **kwargs)
        self.layers = [
            TransformerLayer(config, index, dtype=self.dtype_policy)
            for index in range(config.num_hidden_layers)
        ]

    def build(self, input_shape: Any = None) -> None:
        """Builds every layer."""
        for layer in self.layers:
            layer.build()

    def call(
        self,
        x: tf.Tensor,
        mask_adder: tf.Tensor,
        seed: tf.Tensor | None,
        recompute: bool = False,
        query_positions: tf.Tensor | None = None,
    ) -> list[tf.Tensor]:
        """Runs the layers.

        Args:
            x: float [T, H].
            mask_adder: float32 [B, 1, 1, S] or [B, 1, S, S].
            seed: int32 [2], or None for no dropout.
            recompute: see BertModel.
            query_positions: int32 [B, Q], the tokens of each row that the last layer computes new
                vectors of; by default all. Dropout apart, they are the same vectors.

        Returns:
            Each layer's output, [T, H]; with ``query_positions``, the last one's is [U, H].
        """
        outputs = []
        for layer in self.layers:
            if query_positions is not None and layer is self.layers[-1]:
                query_tokens = gathered(by_row(x, mask_adder), query_positions)
                # Never recomputed: its backward pass is the first, so nothing is kept for long.
                x = layer(x, mask_of(mask_adder, query_positions), seed, query_tokens)
            elif recompute and seed is not None:
                x = recomputed(layer, x, mask_adder, seed)
            else:
                x = layer(x, mask_adder, seed)
            outputs.append(x)
        return outputs


def by_row(tokens: tf.Tensor, mask_adder: tf.Tensor) -> tf.Tensor:
    """Float [T, H] -> [B, S, H]; B and S are those of float32 [B, 1, 1 or S, S]."""
    batch_size, _, _, seq_length = tf.unstack(tf.shape(mask_adder))
    rows = tf.reshape(tokens, [batch_size, seq_length, tokens.shape[1]])
    return tf.ensure_shape(rows, [mask_adder.shape[0], mask_adder.shape[3], tokens.shape[1]])


def gathered(rows: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Float [B, S, H] and int32 [B, Q] -> [U, H]."""
    return tf.reshape(tf.gather(rows, positions, batch_dims=1), [-1, rows.shape[2]])


def mask_of(mask_adder: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Float32 [B, 1, 1 or S, S] and int32 [B, Q] -> [B, 1, Q, S], what these tokens see."""
    if mask_adder.shape[2] != 1:
        return tf.gather(mask_adder, positions, axis=2, batch_dims=1)
    batch_size, _, _, seq_length = tf.unstack(tf.shape(mask_adder))
    return tf.broadcast_to(mask_adder, [batch_size, 1, tf.shape(positions)[1], seq_length])


class Pooler(keras.layers.Layer):
    """Dense with tanh on the vector of an example's first token."""

    def __init__(self, config: BertConfig, **kwargs: Any) -> None:
        super().__init__(name="pooler", **kwargs)
        self.config = config
        self.dense = dense(config.hidden_size, config, "dense", dtype=self.dtype_policy)

    def build(self, input_shape: Any = None) -> None:
        """Creates the kernel, float32 [H, H]."""
        self.dense.build((None, self.config.hidden_size))

    def call(self, first: tf.Tensor) -> tf.Tensor:
        """Float [B * K, H] -> [B * K, H]."""
        return tf.tanh(self.dense(first))


@package
class BertModel(keras.Model):
    """Embeddings, encoder and pooler, with weights created at once (no call is needed first).

    Args:
        config: sizes, activation and dropout rates.
        seed: seed of the dropout of calls with ``training=True`` and no ``dropout_seed``.

    Attributes:
        recompute: whether calls with ``training=True`` keep no more than each transformer layer's
            input for the backward pass, and compute the rest again: far less memory, and more
            time. Weights, outputs and gradients are the same; false at first. ``pooled_output``
            keeps what little there is of the last layer.

    Raises:
        InputError: in eager mode, for ids outside the tables or a sequence beyond the positions.
    """

    def __init__(self, config: BertConfig, *, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(name=kwargs.pop("name", "bert"), **kwargs)
        self.config = config
        self.recompute = False
        self.dropout_seeds = keras.random.SeedGenerator(seed)
        self.embeddings = Embeddings(config, dtype=self.dtype_policy)
        self.encoder = Encoder(config, dtype=self.dtype_policy)
        self.pooler = Pooler(config, dtype=self.dtype_policy)
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates all weights; their shapes come from the configuration alone."""
        if self.built:
            return
        self.embeddings.build()
        self.encoder.build()
        self.pooler.build()

    def call(
        self,
        inputs: dict[str, tf.Tensor],
        training: bool = False,
        dropout_seed: tf.Tensor | None = None,
    ) -> dict[str, Any]:
        """Runs the encoder.

        Args:
            inputs: ``input_ids`` int32 [B, S]; ``input_mask`` int32 [B, S], 1 for tokens and 0 for
                padding (default: all 1); ``segment_ids`` int32 [B, S] (default: all 0). Where
                several examples share a row, also ``example_numbers`` int32 [B, S], 1 to K, and 0
                for padding: a token sees those of its own number alone; ``positions`` int32
                [B, S], of each token in its example; ``cls_positions`` int32 [B, K], where each
                example begins (any position for those that a row lacks).
            training: whether dropout is on.
            dropout_seed: int32 [2]. The training loop gives one made of (run seed, step, replica);
                without it each call draws the next seed of this model's own generator.

        Returns:
            ``embedding_output`` [B, S, H], ``encoder_outputs`` (list of [B, S, H], one per layer),
            ``sequence_output`` [B, S, H] (the last of them) and ``pooled_output`` [B, H], or
            [B * K, H] where examples share rows, all of the compute dtype.
        """
        seed = next_dropout_seed(self, training, dropout_seed)
        x, mask_adder, cls_positions = self._embedded(inputs, seed)
        layers = self.encoder(x, mask_adder, seed, recompute=self.recompute)
        encoder_outputs = [by_row(layer, mask_adder) for layer in layers]
        return {
            "embedding_output": by_row(x, mask_adder),
            "encoder_outputs": encoder_outputs,
            "sequence_output": encoder_outputs[-1],
            "pooled_output": self.pooler(gathered(encoder_outputs[-1], cls_positions)),
        }

    def pooled_output(
        self,
        inputs: dict[str, tf.Tensor],
        training: bool = False,
        dropout_seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """``pooled_output`` alone: the last layer computes no other vector than what it is made of.

        Of that layer's work, keys and values are left, a sixth where I is 4 H. Dropout apart,
        outputs and gradients are those of a call.

        Args:
            inputs: as for a call.
            training: as for a call.
            dropout_seed: as for a call.

        Returns:
            [B, H], or [B * K, H] where examples share rows, of the compute dtype.
        """
        seed = next_dropout_seed(self, training, dropout_seed)
        x, mask_adder, cls_positions = self._embedded(inputs, seed)
        layers = self.encoder(
            x, mask_adder, seed, recompute=self.recompute, query_positions=cls_positions
        )
        return self.pooler(layers[-1])

    def _embedded(
        self, inputs: dict[str, tf.Tensor], seed: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """What the encoder takes, and where examples begin.

        Returns:
            The tokens' vectors, float [T, H]; what is added to the scores of who sees whom, float32
            [B, 1, 1 or S, S]; and where examples begin, int32 [B, K].
        """
        input_ids, input_mask, segment_ids = read_inputs(inputs, self.config)
        sharing = read_sharing(inputs, self.config)
        if sharing is None:
            x = self.embeddings(input_ids, segment_ids, seed)
            # One axis after the other: LiteRT has no operation for both at once.
            seen = input_mask[:, tf.newaxis][:, tf.newaxis]  # [B, 1, 1, S]
            cls_positions = tf.zeros_like(input_ids[:, 0])[:, tf.newaxis]  # [B, 1]
        else:
            x = self.embeddings(input_ids, segment_ids, seed, sharing.positions)
            # Block by block; the padding sees itself, which does no harm.
            numbers = sharing.example_numbers[:, tf.newaxis]
            seen = numbers[:, :, :, tf.newaxis] == numbers[:, :, tf.newaxis]  # [B, 1, S, S]
            cls_positions = sharing.cls_positions
        mask_adder = (1.0 - tf.cast(seen, tf.float32)) * MASKED_SCORE
        return x, mask_adder, cls_positions

    def merge_projections(self) -> None:
        """Makes queries, keys and values one product, for inference alone.

        The weights that it takes are copies, of the compute dtype: changes of the model's own do
        not reach them any more. The last layer of ``pooled_output`` goes on without them.
        """
        for layer in self.encoder.layers:
            layer.attention.self_attention.merge_projections()

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as Keras saves them."""
        return {**super().get_config(), "config": self.config.to_dict()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "BertModel":
        """Inverse of ``get_config``."""
        return cls(**{**config, "config": BertConfig.from_dict(config["config"])})


def next_dropout_seed(
    model: Any, training: bool, dropout_seed: tf.Tensor | None
) -> tf.Tensor | None:
    """The seed of one call: the caller's, or the next of the model's own; None in inference."""
    if not training:
        return None
    if dropout_seed is None:
        return tf.cast(model.dropout_seeds.next(), tf.int32)
    return tf.cast(dropout_seed, tf.int32)

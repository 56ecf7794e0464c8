"""Two independent implementations of pieces of the recipe, from packages this project stands on."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

from bert_tf import vocabulary_learning
from bert_tf.modeling import BertModel
from bert_tf.tokenization import FullTokenizer


def test_word_pieces_are_those_of_tensorflow_text(testdata):
    """FastWordpieceTokenizer (Song et al. 2021) finds the same longest matches in plain words."""
    import tensorflow_text

    vocab_file = testdata / "original_tiny" / "vocab.txt"
    tokenizer = FullTokenizer(vocab_file)
    vocabulary = vocab_file.read_text(encoding="utf-8").splitlines()
    peer = tensorflow_text.FastWordpieceTokenizer(
        vocabulary, suffix_indicator="##", unknown_token="[UNK]", no_pretokenization=True,
        token_out_type=tf.int32, max_bytes_per_word=200,
    )  # fmt: skip
    random = np.random.default_rng(11)
    stems = [
        piece.removeprefix("##") for piece in vocabulary if piece.isascii() and piece[0] != "["
    ]
    stems = [stem for stem in stems if stem.isalnum()]
    words = ["".join(random.choice(stems, random.integers(1, 6))) for _ in range(3000)]
    assert tokenizer.tokenize(" ".join(words)) == [
        vocabulary[piece] for pieces in peer.tokenize(words).to_list() for piece in pieces
    ]


def test_why_the_vocabulary_is_not_learned_by_tensorflow_text():
    """Its learner lets words that it does not keep use up their beginnings, so it finds none."""
    from tensorflow_text.tools.wordpiece_vocab import wordpiece_tokenizer_learner_lib

    stems = [f"{a}{b}o{c}" for a in "bdfg" for b in "aeu" for c in "klm"]
    endings = ["est", "ing", "ly", "ness", "ed", "er", "s"]
    counts = {stem + ending: 5 for stem in stems for ending in endings}
    learner = vocabulary_learning.PieceLearner(counts)
    ours = set(learner.pieces(20))
    theirs = wordpiece_tokenizer_learner_lib.learn(
        list(counts.items()), 300, [], upper_thresh=20, lower_thresh=20
    )
    assert ours >= {f"##{ending}" for ending in endings}
    assert ours >= set(stems)
    assert not set(theirs) & set(stems)


def test_the_encoder_is_that_of_keras_hub(original_tiny):
    """keras-hub's BertBackbone gives the same outputs from the same weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras_hub
    config, _ = original_tiny
    ours = BertModel(config)
    peer = keras_hub.models.BertBackbone(
        vocabulary_size=config.vocab_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        hidden_dim=config.hidden_size,
        intermediate_dim=config.intermediate_size,
        max_sequence_length=config.max_position_embeddings,
    )
    values = {variable.path: variable.numpy() for variable in ours.weights}

    def copy(layer, *names):
        weights = layer.get_weights()
        layer.set_weights(
            [
                values[name].reshape(weight.shape)
                for name, weight in zip(names, weights, strict=True)
            ]
        )

    def both(scope, *kinds):
        return [f"{scope}/{kind}" for kind in kinds]

    norm, dense = ("gamma", "beta"), ("kernel", "bias")
    copy(peer.get_layer("token_embedding"), "bert/embeddings/word_embeddings")
    copy(peer.get_layer("segment_embedding"), "bert/embeddings/token_type_embeddings")
    copy(peer.get_layer("position_embedding"), "bert/embeddings/position_embeddings")
    copy(peer.get_layer("embeddings_layer_norm"), *both("bert/embeddings/LayerNorm", *norm))
    for index in range(config.num_hidden_layers):
        layer, scope = (
            peer.get_layer(f"transformer_layer_{index}"),
            f"bert/encoder/layer_{index}",
        )
        attention = [
            name
            for part in ("self/query", "self/key", "self/value", "output/dense")
            for name in both(f"{scope}/attention/{part}", *dense)
        ]
        copy(layer._self_attention_layer, *attention)
        copy(layer._self_attention_layer_norm, *both(f"{scope}/attention/output/LayerNorm", *norm))
        copy(layer._feedforward_intermediate_dense, *both(f"{scope}/intermediate/dense", *dense))
        copy(layer._feedforward_output_dense, *both(f"{scope}/output/dense", *dense))
        copy(layer._feedforward_layer_norm, *both(f"{scope}/output/LayerNorm", *norm))
    copy(peer.get_layer("pooled_dense"), *both("bert/pooler/dense", *dense))

    random = np.random.default_rng(3)
    ids = random.integers(0, config.vocab_size, (5, 23))
    segments = np.broadcast_to(np.arange(23) >= 9, ids.shape).astype(np.int32)
    expected = peer({"token_ids": ids, "segment_ids": segments, "padding_mask": np.ones_like(ids)})
    found = ours({"input_ids": ids.astype(np.int32), "segment_ids": segments})
    for name in ("sequence_output", "pooled_output"):
        assert np.asarray(found[name]) == pytest.approx(np.asarray(expected[name]), abs=2e-5)

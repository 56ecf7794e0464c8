"""Takes a model and texts, returns their vectors and how near they are; next: pair_similarity.

Axes: n = number of texts, H = hidden_size.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bert_tf.config import POOLINGS, ModelFiles
from bert_tf.errors import InputError, did_you_mean
from bert_tf.tasks.model_files import longest_row, read_pretrained
from bert_tf.tasks.task_predictor import NameOf, Text, is_pair, named_parts, parse_text_or_pair
from bert_tf.tasks.text_encoder import TextEncoder, check_layers, load_encoder


def load(
    model: pathlib.Path | ModelFiles,
    *,
    pooling: str = "mean",
    normalize: bool = False,
    layer: int = -1,
    do_lower_case: bool | None = None,
) -> "TextVectors":
    """Loads a model, whatever it was trained for; see ``load_text_encoder``."""
    return TextVectors(
        load_text_encoder(
            model, pooling=pooling, normalize=normalize, layer=layer, do_lower_case=do_lower_case
        )
    )


def load_text_encoder(
    model: pathlib.Path | ModelFiles,
    *,
    pooling: str = "mean",
    normalize: bool = False,
    layer: int = -1,
    do_lower_case: bool | None = None,
    dtype: str | None = None,
    max_seq_length: int | None = None,
) -> TextEncoder:
    """Loads a model, whatever it was trained for.

    Args:
        model: the folder of a finished run or of a released checkpoint, or the files.
        pooling: what a text's vector is: that of [CLS] (``cls``), or the ``mean`` or the ``max``
            over its pieces, [CLS] and [SEP] included.
        normalize: whether vectors get length 1.
        layer: the one that is read: -1 is the last, 0 the first.
        do_lower_case: see ``read_pretrained``.
        dtype: a Keras dtype policy; float32 by default.
        max_seq_length: longest row; by default what the model takes.

    Raises:
        InputError: if a file is missing, or they do not belong together, or the model has no such
            layer, or there is no such pooling.
    """
    if pooling not in POOLINGS:
        raise InputError(
            f"pooling {pooling!r} is not known; there are {', '.join(POOLINGS)}"
            f"{did_you_mean(pooling, POOLINGS)}"
        )
    files, config, tokenizer = read_pretrained(model, do_lower_case)
    check_layers([layer], config, "layer")
    longest = longest_row(config, max_seq_length)
    encoder = load_encoder(config, files.init_checkpoint or "", dtype)
    return TextEncoder(encoder, tokenizer, longest, [layer], pooling, normalize)


class TextVectors:
    """Gives each text, or pair of texts, a ``vector``, and compares texts by theirs.

    A text that is longer than the model takes is cut.

    Args:
        encoder: with pooling.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder

    def parse(self, line: str, name: str) -> Text:
        """See TaskPredictor."""
        return parse_text_or_pair(line, name)

    def predict(
        self, texts: Sequence[Any], batch_size: int, name_of: NameOf
    ) -> list[dict[str, Any]]:
        """See TaskPredictor."""
        vectors = self._vectors(texts, batch_size, name_of)
        return [
            {**named_parts(text), "vector": vector.tolist()}
            for text, vector in zip(texts, vectors, strict=True)
        ]

    def search(
        self, queries: Sequence[Any], texts: Sequence[Any], top_k: int, batch_size: int
    ) -> list[list[dict[str, Any]]]:
        """The nearest texts of each query; see ``Predictor.search``."""
        if top_k < 1:
            raise InputError(f"top_k must be at least 1, but is {top_k}")
        wanted = self._directions(queries, batch_size, "queries[{}]".format)
        found = self._directions(texts, batch_size, "texts[{}]".format)
        results = []
        for query in wanted:
            scores = found @ query  # [n]
            nearest = np.argsort(-scores, kind="stable")[:top_k].tolist()
            results.append(
                [{**named_parts(texts[i]), "index": i, "score": float(scores[i])} for i in nearest]
            )
        return results

    def similarity(self, pairs: Sequence[Any], batch_size: int, name_of: NameOf) -> list[float]:
        """The cosine of the two texts' vectors of each pair."""
        for i, pair in enumerate(pairs):
            if not is_pair(pair):
                raise InputError(f"{name_of(i)} must be a pair (str, str), but is {pair!r}")
        both = [pair[part] for part in (0, 1) for pair in pairs]
        directions = self._directions(both, batch_size, str)
        first, second = directions[: len(pairs)], directions[len(pairs) :]
        return [float(score) for score in (first * second).sum(axis=-1)]

    def _directions(
        self, texts: Sequence[Any], batch_size: int, name_of: Callable[[int], str]
    ) -> np.ndarray:
        """The vectors with length 1, float32 [n, H]; their products are cosines."""
        vectors = self._vectors(texts, batch_size, name_of)
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)

    def _vectors(self, texts: Sequence[Any], batch_size: int, name_of: NameOf) -> np.ndarray:
        for i, text in enumerate(texts):
            if not isinstance(text, str) and not is_pair(text):
                raise InputError(
                    f"{name_of(i)} must be a str or a pair (str, str), but is {text!r}"
                )
        return self._encoder.vectors(texts, batch_size)

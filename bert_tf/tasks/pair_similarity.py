"""Takes a model and pairs of texts, returns how near the two of each are; next: predictor."""

import pathlib
from collections.abc import Sequence
from typing import Any

from bert_tf.config import ModelFiles
from bert_tf.tasks import text_vectors
from bert_tf.tasks.task_predictor import NameOf, Text, named_parts, parse_pair
from bert_tf.tasks.text_vectors import TextVectors


def load(
    model: pathlib.Path | ModelFiles,
    *,
    pooling: str = "mean",
    layer: int = -1,
    do_lower_case: bool | None = None,
) -> "PairSimilarity":
    """Loads a model; see ``text_vectors.load``."""
    return PairSimilarity(
        text_vectors.load(model, pooling=pooling, layer=layer, do_lower_case=do_lower_case)
    )


class PairSimilarity:
    """Gives each pair of texts a ``score``, the cosine of their vectors.

    Args:
        vectors: makes them.
    """

    def __init__(self, vectors: TextVectors) -> None:
        self._vectors = vectors

    def parse(self, line: str, name: str) -> Text:
        """See TaskPredictor."""
        return parse_pair(line, name)

    def predict(
        self, texts: Sequence[Any], batch_size: int, name_of: NameOf
    ) -> list[dict[str, Any]]:
        """See TaskPredictor."""
        scores = self._vectors.similarity(texts, batch_size, name_of)
        return [
            {**named_parts(text), "score": score} for text, score in zip(texts, scores, strict=True)
        ]

"""Takes any model, returns what it exports to make vectors of texts; next: exporter.

Axes: B texts, S = seq_length, H = hidden_size.
"""

import pathlib

import tensorflow as tf

from bert_tf.config import ModelFiles
from bert_tf.export.served_model import (
    DEFAULT,
    PAIRS,
    TOKENS,
    ServedModel,
    Signature,
    Tensors,
    merge_projections,
    rows,
    texts,
)
from bert_tf.export.text_rows import RowBuilder
from bert_tf.graph_tokenization import GraphTokenizer
from bert_tf.tasks import text_vectors
from bert_tf.use_config import Export


def served(
    model: pathlib.Path | ModelFiles,
    settings: Export,
    *,
    pooling: str = "mean",
    normalize: bool = False,
    layer: int = -1,
    do_lower_case: bool | None = None,
) -> ServedModel:
    """What ``TextVectors`` makes of texts, or with PAIRS of pairs: ``vector``, float32 [B, H]."""
    encoder = text_vectors.load_text_encoder(
        model,
        pooling=pooling,
        normalize=normalize,
        layer=layer,
        do_lower_case=do_lower_case,
        **settings.changes(),
    )
    merge_projections(encoder.model)
    vocabulary = encoder.tokenizer.vocabulary
    tokenizer = GraphTokenizer(vocabulary, encoder.tokenizer.do_lower_case)
    builder = RowBuilder(
        vocabulary, encoder.max_seq_length, pairs=True, fixed_length=settings.fixed_length
    )

    def of_rows(inputs: Tensors) -> Tensors:
        return {"vector": tf.cast(encoder.forward(inputs), tf.float32)}

    def rows_of(inputs: Tensors) -> Tensors:
        return builder.of_texts(tokenizer.tokenize(inputs["text"]))._asdict()

    def of_pairs(inputs: Tensors) -> Tensors:
        text_a, text_b = (tokenizer.tokenize(inputs[name]) for name in ("text", "text_b"))
        # As in the original, a pair needs pieces in its second text; is_pair says no more.
        found = builder.of_pairs(text_a, text_b, text_b.row_lengths() > 0)
        return of_rows(found._asdict())

    sample = {"text": "Where is my parcel?", "text_b": "It has not come."}
    return ServedModel(
        task="features",
        config=encoder.model.config,
        vocabulary=vocabulary,
        signatures={
            DEFAULT: Signature(texts("text"), lambda inputs: of_rows(rows_of(inputs))),
            PAIRS: Signature(texts("text", "text_b"), of_pairs),
            TOKENS: Signature(rows(), of_rows),
        },
        sample={DEFAULT: {"text": sample["text"]}, PAIRS: sample},
        rows_of=rows_of,
        settings={
            "max_seq_length": encoder.max_seq_length,
            "do_lower_case": encoder.tokenizer.do_lower_case,
            "pooling": pooling,
            "layer": layer,
            "normalize": normalize,
        },
    )

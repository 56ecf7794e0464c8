"""Takes a pretrained model, returns what it exports to fill masks; next: exporter.

Axes: B texts, S = seq_length, M = most masks of a text, K = top_k, N = parts between masks.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

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
from bert_tf.export.text_rows import RowBuilder, Rows
from bert_tf.graph_tokenization import GraphTokenizer
from bert_tf.tasks.fill_mask import MASK, Pretrained, load_pretrained
from bert_tf.use_config import Export


def served(
    model: pathlib.Path | ModelFiles,
    settings: Export,
    *,
    top_k: int = 5,
    do_lower_case: bool | None = None,
) -> ServedModel:
    """What ``MaskFiller`` says of texts, or with PAIRS of pairs.

    Of each text, for each [MASK]: its ``position`` [B, M] in the text, the likeliest ``pieces``
    [B, M, K] and their ``scores``; of a pair also ``in`` [B, M], which text it is in, and
    ``next_sentence_probability`` [B]. Where a text has fewer masks, and where it is too long and
    the mask is cut away, the pieces are ``""`` and the scores 0; without a mask, position is -1.
    Of a single text among pairs, ``next_sentence_probability`` is -1.
    """
    pretrained = load_pretrained(model, do_lower_case, **settings.changes())
    pretrained.check_top_k(top_k)
    merge_projections(pretrained.model)
    answers = _MaskAnswers(pretrained, top_k, settings)
    sample: dict[str, Any] = {"text": "The parcel is [MASK].", "text_b": "It has not come."}
    inputs = rows("input_ids", "input_mask", "segment_ids", "masked_lm_positions")
    return ServedModel(
        task="fill_mask",
        config=pretrained.model.config,
        vocabulary=pretrained.tokenizer.vocabulary,
        signatures={
            DEFAULT: Signature(texts("text"), answers.of_texts),
            PAIRS: Signature(texts("text", "text_b"), answers.of_pairs),
            TOKENS: Signature(inputs, answers.of_rows),
        },
        sample={DEFAULT: {"text": sample["text"]}, PAIRS: sample},
        rows_of=answers.rows_of,
        settings={
            "max_seq_length": pretrained.max_seq_length,
            "do_lower_case": pretrained.tokenizer.do_lower_case,
            "top_k": top_k,
        },
    )


class _Encoded(NamedTuple):
    """Texts in which [MASK] stands for itself.

    Attributes:
        pieces: int32 [B, (pieces)].
        positions: int32 [B, (masks)], of each mask in its text, in characters.
    """

    pieces: tf.RaggedTensor
    positions: tf.RaggedTensor


class _MaskAnswers:
    """The pretrained model's functions."""

    def __init__(self, pretrained: Pretrained, top_k: int, settings: Export) -> None:
        self._pretrained = pretrained
        self._top_k = top_k
        self._vocabulary = pretrained.tokenizer.vocabulary
        self._tokenizer = GraphTokenizer(self._vocabulary, pretrained.tokenizer.do_lower_case)
        self._rows = RowBuilder(
            self._vocabulary,
            pretrained.max_seq_length,
            pairs=True,
            fixed_length=settings.fixed_length,
        )

    def of_texts(self, inputs: Tensors) -> Tensors:
        """From strings [B] ``text``."""
        encoded = self._encode(inputs["text"])
        answers = self._of_masks(self._rows.of_texts(encoded.pieces), [encoded])
        return {name: answers[name] for name in ("position", "pieces", "scores")}

    def of_pairs(self, inputs: Tensors) -> Tensors:
        """From strings [B] ``text`` and ``text_b``, and bool [B] ``is_pair``."""
        is_pair = inputs.get("is_pair")
        encoded = [self._encode(inputs[name]) for name in ("text", "text_b")]
        text_a, text_b = (text.pieces for text in encoded)
        found = self._rows.of_pairs(text_a, text_b, is_pair)
        answers = self._of_masks(found, encoded)
        if is_pair is not None and "next_sentence_probability" in answers:
            follows = tf.where(is_pair, answers["next_sentence_probability"], -1.0)
            answers["next_sentence_probability"] = follows
        names = [
            positions.with_values(tf.fill(tf.shape(positions.values), name))
            for name, (_, positions) in zip(("text", "text_b"), encoded, strict=True)
        ]
        return answers | {"in": tf.concat(names, axis=1).to_tensor("")}

    def rows_of(self, inputs: Tensors) -> Tensors:
        """The model's inputs that show texts, and where the masks in them are."""
        return self._with_places(self._rows.of_texts(self._encode(inputs["text"]).pieces))

    def of_rows(self, inputs: Tensors) -> Tensors:
        """From the model's inputs and int32 [B, M] ``masked_lm_positions``."""
        outputs = self._pretrained.model(inputs, training=False)
        probabilities = tf.nn.softmax(outputs["masked_lm_logits"])  # [B, M, V]
        scores, ids = tf.math.top_k(probabilities, self._top_k)
        found = {
            "pieces": tf.gather(tf.constant(self._vocabulary.pieces), ids),
            "piece_ids": ids,
            "scores": scores,
        }
        if self._pretrained.has_next_sentence:
            follows = tf.nn.softmax(outputs["next_sentence_logits"])[:, 0]
            found["next_sentence_probability"] = follows
        return found

    def _encode(self, strings: tf.Tensor) -> _Encoded:
        parts = tf.strings.split(strings, MASK)  # [B, (parts)]
        pieces = self._tokenizer.tokenize(parts.values)  # [N, (pieces)]
        # A mask goes before each part but the first of a text.
        firsts = parts.row_starts()
        is_later = tf.tensor_scatter_nd_update(
            tf.ones_like(parts.values, tf.int64), firsts[:, tf.newaxis], tf.zeros_like(firsts)
        )
        masks = tf.fill([tf.reduce_sum(is_later)], self._vocabulary.mask_id)
        with_masks = tf.concat([tf.RaggedTensor.from_row_lengths(masks, is_later), pieces], axis=1)
        of_texts = tf.RaggedTensor.from_row_splits(
            with_masks.values, tf.gather(with_masks.row_splits, parts.row_splits)
        )
        lengths = parts.with_values(tf.strings.length(parts.values, "UTF8_CHAR"))
        before = tf.cumsum(lengths.to_tensor(), axis=1)[:, :-1]  # [B, M], parts before a mask
        before += tf.range(tf.shape(before)[1]) * len(MASK)
        return _Encoded(of_texts, tf.RaggedTensor.from_tensor(before, parts.row_lengths() - 1))

    def _with_places(self, found: Rows) -> Tensors:
        """Rows with ``masked_lm_positions``, of the masks that are in them."""
        is_mask = found.input_ids == self._vocabulary.mask_id
        position = tf.broadcast_to(tf.range(tf.shape(is_mask)[1]), tf.shape(is_mask))
        places = tf.ragged.boolean_mask(position, is_mask).to_tensor(0)
        return {**found._asdict(), "masked_lm_positions": places}

    def _ranks(self, found: Rows, encoded: Sequence[_Encoded]) -> tf.Tensor:
        """Which of its row's masks each mask of texts is, int32 [B, M]; -1 if it is cut away."""
        ranks = []
        before = tf.zeros_like(found.input_ids[:, 0])
        for segment, (_, positions) in enumerate(encoded):
            is_mask = (found.input_ids == self._vocabulary.mask_id) & (found.segment_ids == segment)
            kept = tf.reduce_sum(tf.cast(is_mask, tf.int32), axis=1)  # [B], a text's first ones
            text = positions.value_rowids()
            rank = tf.ragged.range(tf.cast(positions.row_lengths(), tf.int32)).values
            is_kept = rank < tf.gather(kept, text)
            rank = tf.where(is_kept, tf.gather(before, text) + rank, -1)
            ranks.append(positions.with_values(rank))
            before += kept
        return tf.concat(ranks, axis=1).to_tensor(-1)

    def _of_masks(self, found: Rows, encoded: Sequence[_Encoded]) -> Tensors:
        """Answers for every mask of texts, in the rows that show them.

        The model is asked about those alone that are in a row: of any others there may be as many
        as a request can hold, each with as many logits as there are pieces.

        Args:
            found: the rows.
            encoded: what they show, a text for each segment.
        """
        answers = self.of_rows(self._with_places(found))
        ranks = self._ranks(found, encoded)

        def of_all(name: str, nothing: object) -> tf.Tensor:
            """[B, M, K] of those of the masks in rows."""
            shape = tf.concat([tf.shape(ranks)[:1], [1, self._top_k]], axis=0)
            values = tf.concat([tf.fill(shape, nothing), answers[name]], axis=1)
            return tf.gather(values, ranks + 1, batch_dims=1)

        return answers | {
            "position": tf.concat([text.positions for text in encoded], axis=1).to_tensor(-1),
            "pieces": of_all("pieces", ""),
            "piece_ids": of_all("piece_ids", -1),
            "scores": of_all("scores", 0.0),
        }

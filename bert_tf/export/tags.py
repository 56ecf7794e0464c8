"""Takes a trained tagger, returns what it exports; next: exporter.

Axes: B texts, W = most words of a text, E = most entities of a text, N = words of all texts, S =
seq_length, L = num_labels.
"""

import functools
import pathlib

import tensorflow as tf

from bert_tf.config import ModelFiles
from bert_tf.export.graph_words import FoundWords, GraphWords
from bert_tf.export.row_blocks import in_blocks
from bert_tf.export.served_model import (
    DEFAULT,
    TOKENS,
    ServedModel,
    Signature,
    Tensors,
    label_file,
    measuring,
    merge_projections,
    rows,
    texts,
)
from bert_tf.export.word_rows import WordRowBuilder
from bert_tf.graph_tokenization import GraphTokenizer, shift_left
from bert_tf.tasks import tagging
from bert_tf.tasks.word_tagger import WordTagger
from bert_tf.use_config import Export


def served(model: pathlib.Path | ModelFiles, settings: Export) -> ServedModel:
    """What ``TagPredictor`` says of texts.

    Of each text, as ``Predictor`` has it, for each word: ``words``, ``word_starts`` and
    ``word_ends`` in characters, ``tags`` and ``scores``, [B, W] each; and for each entity, if the
    tags are entities': ``entity_types``, ``entity_texts``, ``entity_starts``, ``entity_ends`` and
    ``entity_scores``, [B, E] each. Where a text has fewer, strings are ``""``, places -1 and scores
    0.

    With TOKENS, rows and the positions of their words, ``word_starts`` [B, W], filled up with 0,
    have ``tags``, ``scores`` and ``label_ids``, the number of each tag among the labels, for
    runtimes without strings; each row as a sentence of its own.
    """
    tagger = tagging.load(model, **settings.changes())
    merge_projections(tagger.model)
    answers = _TagAnswers(tagger, settings)
    inputs = rows("input_ids", "input_mask", "segment_ids", "word_starts")
    return ServedModel(
        task="tagging",
        config=tagger.model.config,
        vocabulary=tagger.tokenizer.vocabulary,
        signatures={
            DEFAULT: Signature(texts("text"), answers.of_texts),
            TOKENS: Signature(inputs, answers.of_rows),
        },
        sample={DEFAULT: {"text": "Ada Lovelace lived in London."}},
        rows_of=answers.rows_of,
        settings={
            "max_seq_length": tagger.settings.max_seq_length,
            "do_lower_case": tagger.tokenizer.do_lower_case,
            "crf": tagger.settings.crf,
            "tag_scheme": "iob2" if tagger.has_entities else "none",
        },
        files=label_file(tagger.labels),
        measure_on=measuring(
            functools.partial(tagging.measure_on, tagger), lambda outputs: outputs["label_ids"]
        ),
    )


class _TagAnswers:
    """The tagger's functions."""

    def __init__(self, tagger: WordTagger, settings: Export) -> None:
        self._tagger = tagger
        vocabulary = tagger.tokenizer.vocabulary
        self._words = GraphWords()
        self._tokenizer = GraphTokenizer(vocabulary, tagger.tokenizer.do_lower_case)
        self._rows = WordRowBuilder(
            vocabulary, tagger.settings.max_seq_length, fixed_length=settings.fixed_length
        )

    def of_texts(self, inputs: Tensors) -> Tensors:
        """From strings [B] ``text``."""
        found = self._words.find(inputs["text"])
        words = found.strings(found.starts, found.ends)  # [N]
        shown = self._rows_of(found, words)
        model, num_labels = self._tagger.model, len(self._tagger.labels)
        logits = in_blocks(lambda block: model(block, training=False), shown, [None, num_labels])
        logits = tf.boolean_mask(logits, shown["word_starts"] > 0)  # [N, L]
        lengths = found.row_splits[1:] - found.row_splits[:-1]
        label_ids, scores = self._decode(_filled_up(logits, found.row_splits, 0), lengths)
        is_word = tf.sequence_mask(lengths, tf.shape(label_ids)[1])  # [B, W]
        answers = {
            "words": _filled_up(words, found.row_splits, ""),
            "word_starts": _filled_up(found.starts - found.origins, found.row_splits, -1),
            "word_ends": _filled_up(found.ends - found.origins, found.row_splits, -1),
            "tags": self._tags(label_ids, is_word),
            "scores": scores,
        }
        if self._tagger.has_entities:
            flat = (tf.boolean_mask(part, is_word) for part in (label_ids, scores))
            answers |= self._entities(found, *flat)
        return answers

    def rows_of(self, inputs: Tensors) -> Tensors:
        """The model's inputs that show texts."""
        found = self._words.find(inputs["text"])
        return self._rows_of(found, found.strings(found.starts, found.ends))

    def _rows_of(self, found: FoundWords, words: tf.Tensor) -> Tensors:
        """The model's inputs that show words, string [N]."""
        pieces = self._tokenizer.tokenize(words)
        shown = self._rows.of_words(pieces, found.texts, found.row_splits)
        return {**shown.rows._asdict(), "word_starts": shown.word_starts}

    def of_rows(self, inputs: Tensors) -> Tensors:
        """From the model's inputs."""
        logits = self._tagger.model(inputs, training=False)  # [B, W, L]
        is_word = inputs["word_starts"] > 0
        lengths = tf.reduce_sum(tf.cast(is_word, tf.int32), axis=1)
        label_ids, scores = self._decode(logits, lengths)
        return {
            "tags": self._tags(label_ids, is_word),
            "label_ids": tf.where(is_word, label_ids, -1),
            "scores": scores,
        }

    def _decode(self, logits: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See ``WordTagger.decode``; there may be no words at all."""
        num_words = tf.shape(logits)[1]
        padded = tf.pad(logits, [[0, 0], [0, tf.maximum(1 - num_words, 0)], [0, 0]])
        label_ids, scores = self._tagger.decode(padded, lengths)
        return label_ids[:, :num_words], scores[:, :num_words]

    def _tags(self, label_ids: tf.Tensor, is_word: tf.Tensor) -> tf.Tensor:
        """The tags of words, string [B, W]."""
        return tf.where(is_word, tf.gather(tf.constant(self._tagger.labels), label_ids), "")

    def _entities(self, found: FoundWords, label_ids: tf.Tensor, scores: tf.Tensor) -> Tensors:
        """What ``tag_schemes.spans`` finds, of int32 and float32 [N], all texts' labels."""
        labels = self._tagger.labels
        begins = tf.constant([label.startswith("B") for label in labels])
        goes_on = tf.constant([label.startswith("I") for label in labels])
        types = tf.constant([label[2:] for label in labels])
        # Runs of words, each of which ends before a word that does not go on with it; as no text
        # begins with I-, none goes on from one text to the next.
        opens = ~tf.gather(goes_on, label_ids)  # [N]
        firsts = tf.cast(tf.where(opens)[:, 0], tf.int32)  # of each run
        lasts = shift_left(firsts, tf.size(label_ids)) - 1
        means = tf.math.segment_mean(scores, tf.cumsum(tf.cast(opens, tf.int32)) - 1)
        is_entity = tf.gather(begins, tf.gather(label_ids, firsts))
        firsts, lasts, means = (tf.boolean_mask(part, is_entity) for part in (firsts, lasts, means))
        starts, ends = tf.gather(found.starts, firsts), tf.gather(found.ends, lasts)
        origins = tf.gather(found.origins, firsts)
        row_splits = tf.searchsorted(firsts, found.row_splits)
        return {
            "entity_types": _filled_up(
                tf.gather(types, tf.gather(label_ids, firsts)), row_splits, ""
            ),
            "entity_texts": _filled_up(found.strings(starts, ends), row_splits, ""),
            "entity_starts": _filled_up(starts - origins, row_splits, -1),
            "entity_ends": _filled_up(ends - origins, row_splits, -1),
            "entity_scores": _filled_up(means, row_splits, 0),
        }


def _filled_up(values: tf.Tensor, row_splits: tf.Tensor, filling: str | int) -> tf.Tensor:
    """What all texts have, [n, …], as [B, most of a text, …], filled up where one has fewer."""
    ragged = tf.RaggedTensor.from_row_splits(values, row_splits, validate=False)
    return ragged.to_tensor(filling)

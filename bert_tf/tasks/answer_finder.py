"""Takes questions and contexts, returns answers; next: tasks.question_answering.

Axes: B = batch_size, S = seq_length, Q = questions, R = rows.
"""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.special
import tensorflow as tf

from bert_tf.answer_spans import Answer, Rows, Span, best_answers
from bert_tf.answer_text import joined, realigned, whitespace_words
from bert_tf.config import BertConfig, QuestionAnswering
from bert_tf.context_windows import PackedWindows, pack_windows
from bert_tf.distribution import DTYPE_POLICIES
from bert_tf.heads import BertSpanLabeler
from bert_tf.input_pipeline import Features
from bert_tf.losses import (
    Batch,
    Loss,
    LossTerm,
    examples_weight,
    of_examples,
    span_loss,
)
from bert_tf.metrics import check_finite
from bert_tf.packing import RaggedIds
from bert_tf.tasks.feature_runner import FeatureRunner
from bert_tf.tokenization import FullTokenizer, Words


@dataclasses.dataclass(frozen=True)
class Context:
    """A text, and where its pieces are in it.

    Attributes:
        text: as it was given.
        ids: int32 [number of pieces].
        starts: int32 [number of pieces], the first character of each piece.
        ends: int32 [number of pieces], the character after its last.
    """

    text: str
    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @functools.cached_property
    def words(self) -> list[tuple[int, int]]:
        """The places of the words, as the original splits a context."""
        return whitespace_words(self.text)

    def span(self, start: int, end: int) -> Span | None:
        """The pieces of the characters from ``start`` to ``end - 1``; None if there are none."""
        first = int(np.searchsorted(self.ends, start, side="right"))
        last = int(np.searchsorted(self.starts, end, side="left")) - 1
        return Span(first, last) if first <= last else None

    def place(self, span: Span) -> tuple[int, int]:
        """The characters of pieces, [start, end)."""
        return int(self.starts[span.first]), int(self.ends[span.last])

    def place_of(self, answer: Answer) -> tuple[int, int] | None:
        """Where an answer is; None for no answer, and for a text that is not just its pieces'."""
        if answer.span is None:
            return None
        start, end = self.place(answer.span)
        return (start, end) if self.text[start:end] == answer.text else None


@dataclasses.dataclass(frozen=True)
class Asked:
    """Questions about contexts, tokenized.

    Attributes:
        rows: that show them.
        contexts: each once.
    """

    rows: PackedWindows
    contexts: list[Context]

    def context_of(self, question: int) -> Context:
        """The context of a question."""
        return self.contexts[self.rows.context_of[question]]


class AnswerFinder:
    """A model with all it takes to go from questions to answers.

    Args:
        settings: of the run that it belongs to.
        config: the model's architecture.
        tokenizer: of the model's vocabulary.
        dtype: a Keras dtype policy; by default the one of the settings' precision.

    Attributes:
        model: with new weights.
        loss: of its logits, float32 [B, S, 2], and a batch with ``start_positions`` and
            ``end_positions``, int32 [B], or [B, K] where K examples share a row.
    """

    def __init__(
        self,
        settings: QuestionAnswering,
        config: BertConfig,
        tokenizer: FullTokenizer,
        *,
        dtype: str | None = None,
    ) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.model = BertSpanLabeler(config, dtype=dtype or DTYPE_POLICIES[settings.precision])
        self.loss = Loss(
            self._terms,
            lambda batch: {"loss": examples_weight(*of_examples(batch, "start_positions"))},
        )
        self._words = Words(tokenizer.do_lower_case)
        self._run = FeatureRunner(settings, self.model, self.loss)

    def _terms(self, logits: Any, batch: Batch) -> dict[str, LossTerm]:
        starts, weights = of_examples(batch, "start_positions")
        ends, _ = of_examples(batch, "end_positions")
        mask = batch["input_mask"]
        if "example_numbers" in batch:  # of a row's pieces, each of its examples has some
            most = tf.shape(batch["start_positions"])[1]
            logits, numbers = (
                tf.repeat(of_rows, most, axis=0) for of_rows in (logits, batch["example_numbers"])
            )  # [R * K, S, 2] and [R * K, S]
            own = tf.tile(tf.range(1, most + 1), tf.shape(mask)[:1])
            mask = tf.cast(numbers == own[:, tf.newaxis], tf.int32)
        return {"loss": span_loss(logits, starts, ends, mask, weights)}

    def ask(
        self, questions: Sequence[str], contexts: Sequence[str], context_of: Sequence[int]
    ) -> Asked:
        """Tokenizes questions and contexts, each once.

        Args:
            questions: Q texts.
            contexts: their contexts.
            context_of: the number of each question's context.

        Raises:
            InputError: if the settings leave no room for a context.
        """
        read = [Context(text, *self.tokenizer.encode_with_offsets(text)) for text in contexts]
        ids = np.concatenate([context.ids for context in read])
        row_splits = np.cumsum([0, *(len(context.ids) for context in read)])
        vocabulary = self.tokenizer.vocabulary
        rows = pack_windows(
            RaggedIds(*self.tokenizer.encode_batch(questions)),
            RaggedIds(ids, row_splits.astype(np.int64)),
            np.array(context_of, np.int64),
            max_seq_length=self.settings.max_seq_length,
            max_query_length=self.settings.max_query_length,
            doc_stride=self.settings.doc_stride,
            cls_id=vocabulary.cls_id,
            sep_id=vocabulary.sep_id,
        )
        return Asked(rows, read)

    def features(self, asked: Asked, spans: Sequence[Span | None] | None = None) -> Features:
        """Rows, with the places of the answers if they are known.

        Args:
            asked: the questions.
            spans: of each question, its answer's pieces; None for no answer, which is at ``[CLS]``,
                as is an answer that is not whole in a row.
        """
        if spans is None:
            return Features(asked.rows)
        rows, windows = asked.rows, asked.rows.windows
        nowhere = Span(-1, -1)
        first, last = np.array([span or nowhere for span in spans], np.int64).reshape(-1, 2).T
        start = first[windows.questions] - windows.starts  # in the row's part of the context
        end = last[windows.questions] - windows.starts
        inside = (first[windows.questions] >= 0) & (start >= 0) & (end < windows.lengths)
        positions = {"start_positions": start, "end_positions": end}
        return Features(
            rows,
            {
                name: np.where(inside, place + rows.segment_starts, 0).astype(np.int32)
                for name, place in positions.items()
            },
        )

    def batches(self, features: Features, plan: np.ndarray) -> tf.data.Dataset:
        """The planned batches, padded as the settings say."""
        return self._run.batches(features, plan)

    def logits(
        self, features: Features, batch_size: int, description: str | None = None
    ) -> tuple[list[np.ndarray], dict[str, float]]:
        """What the model says of each row: R of float32 [S, 2], and the loss if it has labels."""
        found = self._run(features, batch_size, description)
        for row in found.outputs:
            check_finite(row)
        return found.outputs, found.losses

    def answers(self, asked: Asked, logits: Sequence[np.ndarray]) -> Iterator[list[Answer]]:
        """The best answers of each question, best first; see ``best_answers``.

        Args:
            asked: the questions.
            logits: of each row, float32 [S, 2].
        """
        windows, settings = asked.rows.windows, self.settings
        lengths, segment_starts = asked.rows.lengths, asked.rows.segment_starts
        text_of = self._realigned if settings.answer_text == "realigned" else _characters
        for question, (first, last) in enumerate(itertools.pairwise(windows.row_splits.tolist())):
            longest = int(lengths[first:last].max())
            of_rows = np.zeros((last - first, longest, 2), np.float32)
            for number, row in enumerate(logits[first:last]):
                of_rows[number, : len(row)] = row[:longest]
            context = asked.context_of(question)
            yield best_answers(
                Rows(
                    windows.starts[first:last],
                    windows.lengths[first:last],
                    int(segment_starts[first]),
                    of_rows[:, :, 0],
                    of_rows[:, :, 1],
                ),
                lambda span, context=context: text_of(context, span),  # type: ignore[misc]
                n_best_size=settings.n_best_size,
                max_answer_length=settings.max_answer_length,
                with_null=settings.version_2_with_negative,
            )

    def _realigned(self, context: Context, span: Span) -> str:
        """The text of pieces as the original finds it."""
        first, last = (
            bisect.bisect(context.words, int(context.starts[piece]), key=min) - 1 for piece in span
        )
        text = " ".join(context.text[slice(*word)] for word in context.words[first : last + 1])
        ids = context.ids[span.first : span.last + 1]
        pieces = self.tokenizer.convert_ids_to_tokens(ids.tolist())
        return realigned(joined(pieces), text, self._words)


def question_losses(features: Features, logits: Sequence[np.ndarray]) -> np.ndarray:
    """The mean loss of each question's rows, float64 [Q], in nats; see ``span_loss``.

    Args:
        features: with the places of the answers.
        logits: of each row, float32 [S, 2].
    """
    assert isinstance(features.texts, PackedWindows)
    losses = np.zeros(len(features))
    positions = zip(*features.labels.values(), strict=True)
    for row, (of_row, length, places) in enumerate(
        zip(logits, features.texts.lengths.tolist(), positions, strict=True)
    ):
        log_probs = scipy.special.log_softmax(of_row[:length].astype(np.float64), axis=0)
        losses[row] = -log_probs[places, (0, 1)].mean()
    splits = features.texts.windows.row_splits
    return np.add.reduceat(losses, splits[:-1]) / np.diff(splits)


def _characters(context: Context, span: Span) -> str:
    """The text of pieces as it stands in the context."""
    return context.text[slice(*context.place(span))]

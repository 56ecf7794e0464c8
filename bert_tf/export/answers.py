"""Takes a trained answer finder, returns what it exports; next: exporter.

Axes: B questions, R rows of all questions, S = seq_length, K = top_k.
"""

import functools
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from bert_tf import run_folder
from bert_tf.config import ModelFiles
from bert_tf.errors import InputError
from bert_tf.export.graph_answers import Answers, Contexts, best_answers, chosen_column, null_odds
from bert_tf.export.row_blocks import in_blocks
from bert_tf.export.served_model import (
    DEFAULT,
    TOKENS,
    Arrays,
    ServedModel,
    Signature,
    Tensors,
    measuring,
    merge_projections,
    rows,
    texts,
)
from bert_tf.export.text_rows import ContextParts, RowBuilder, Rows
from bert_tf.graph_tokenization import GraphTokenizer
from bert_tf.tasks import question_answering
from bert_tf.tasks.answer_finder import AnswerFinder
from bert_tf.use_config import Export


def served(model: pathlib.Path | ModelFiles, settings: Export, *, top_k: int = 5) -> ServedModel:
    """What ``AnswerPredictor`` says of each ``question`` [B] about its ``context`` [B].

    ``answer`` with its ``score``, ``start`` and ``end`` [B] (characters of the context), and of the
    best the ``answers``, ``answer_scores``, ``answer_starts`` and ``answer_ends`` [B, K], filled up
    with ``""``, 0 and -1. Of no answer the text is ``""`` and the places are -1; if there may be
    none, ``null_odds`` [B] is how much better that is than the best that is one.

    Raises:
        InputError: if the folder holds no trained answer finder, or one whose answers are found in
            another way than by the places of their pieces.
    """
    finder = question_answering.load(model, **settings.changes())
    if finder.settings.answer_text != "offsets":
        raise InputError(
            f"{model}: --answer_text={finder.settings.answer_text} cannot be exported; it changes "
            "how answers are read off the context, not the model: set answer_text: offsets in "
            f"{run_folder.RUN_CONFIG} there, and export again"
        )
    merge_projections(finder.model)
    answers = _QuestionAnswers(finder, settings, top_k)
    files = {}
    if finder.settings.version_2_with_negative:
        stored = {question_answering.THRESHOLD: answers.threshold}
        files[run_folder.NULL_THRESHOLD] = run_folder.json_text(stored)
    sample = {"question": "Where is my parcel?", "context": "It is still at the post office."}
    return ServedModel(
        task="question_answering",
        config=finder.model.config,
        vocabulary=finder.tokenizer.vocabulary,
        signatures={
            DEFAULT: Signature(texts(*sample), answers.of_texts),
            TOKENS: Signature(rows(), answers.of_rows),
        },
        sample={DEFAULT: sample},
        rows_of=answers.rows_of,
        settings=answers.settings,
        files=files,
        measure_on=measuring(functools.partial(question_answering.measure_on, finder), _logits),
    )


def _logits(outputs: Arrays) -> np.ndarray:
    """The model's, float32 [B, S, 2], of the outputs of ``of_rows``."""
    return np.stack([outputs["start_logits"], outputs["end_logits"]], axis=2)


class _QuestionAnswers:
    """The answer finder's functions.

    Attributes:
        threshold: of the null odds, above which no answer is given.
        settings: what they are made with.
    """

    def __init__(self, finder: AnswerFinder, settings: Export, top_k: int) -> None:
        self._finder = finder
        self._top_k = top_k
        # Where none was found, no answer is given if it is the best: see chosen_answer.
        self.threshold = finder.settings.null_score_diff_threshold or 0.0
        names = ["max_seq_length", "max_query_length", "doc_stride", "n_best_size"]
        names += ["max_answer_length", "version_2_with_negative"]
        self.settings: dict[str, Any] = {name: getattr(finder.settings, name) for name in names}
        self.settings |= {"do_lower_case": finder.tokenizer.do_lower_case, "top_k": top_k}
        if finder.settings.version_2_with_negative:
            self.settings[question_answering.THRESHOLD] = self.threshold
        vocabulary = finder.tokenizer.vocabulary
        self._tokenizer = GraphTokenizer(vocabulary, finder.tokenizer.do_lower_case)
        self._rows = RowBuilder(
            vocabulary,
            finder.settings.max_seq_length,
            pairs=True,
            fixed_length=settings.fixed_length,
        )

    def of_texts(self, inputs: Tensors) -> Tensors:
        """From strings [B] ``question`` and ``context``."""
        settings = self._finder.settings
        found, parts, contexts = self._shown(inputs)
        answers = best_answers(
            self._logits(found),
            parts,
            contexts,
            n_best_size=settings.n_best_size,
            max_answer_length=settings.max_answer_length,
            with_null=settings.version_2_with_negative,
            width=max(settings.n_best_size + 1, self._top_k),
        )
        return self._named(answers)

    def _logits(self, found: Rows) -> tf.Tensor:
        """The model's, float32 [R, S, 2], of a request's rows; 0 beyond what was run of a row."""
        seq_length = tf.shape(found.input_ids)[1]

        def of_block(inputs: Tensors) -> tf.Tensor:
            logits = self._finder.model(inputs, training=False)
            return tf.pad(logits, [[0, 0], [0, seq_length - tf.shape(logits)[1]], [0, 0]])

        return in_blocks(of_block, found._asdict(), [None, 2])

    def rows_of(self, inputs: Tensors) -> Tensors:
        """The model's inputs that show questions and contexts."""
        found, *_ = self._shown(inputs)
        return found._asdict()

    def _shown(self, inputs: Tensors) -> tuple[Rows, ContextParts, Contexts]:
        """The rows, which part of its context each shows, and the contexts."""
        settings = self._finder.settings
        size = tf.size(inputs["question"])
        both = tf.concat([inputs["question"], inputs["context"]], axis=0)  # tokenized at once
        pieces, starts, ends = self._tokenizer.tokenize_with_offsets(both)
        found, parts = self._rows.of_questions(
            pieces[:size],
            pieces[size:],
            max_query_length=settings.max_query_length,
            doc_stride=settings.doc_stride,
        )
        points = tf.strings.unicode_decode(inputs["context"], "UTF-8", errors="ignore")
        return found, parts, Contexts(points, starts[size:], ends[size:])

    def of_rows(self, inputs: Tensors) -> Tensors:
        """From the model's inputs: ``start_logits`` and ``end_logits``, float32 [B, S]."""
        start_logits, end_logits = tf.unstack(self._finder.model(inputs, training=False), axis=2)
        return {"start_logits": start_logits, "end_logits": end_logits}

    def _named(self, answers: Answers) -> Tensors:
        """What questions' answers say."""
        probabilities = tf.cast(tf.nn.softmax(answers.scores), tf.float32)
        columns = {
            "answer": answers.texts,
            "score": probabilities,
            "start": answers.starts,
            "end": answers.ends,
        }
        if self._finder.settings.version_2_with_negative:
            odds = {"null_odds": tf.cast(null_odds(answers), tf.float32)}
            chosen = chosen_column(answers, self.threshold)
        else:
            odds = {}
            chosen = tf.zeros(tf.shape(probabilities)[:1], tf.int32)
        found = {name: tf.gather(values, chosen, batch_dims=1) for name, values in columns.items()}
        names = ("answers", "answer_scores", "answer_starts", "answer_ends")
        best = dict(zip(names, columns.values(), strict=True))
        return {
            **found,
            **odds,
            **{name: values[:, : self._top_k] for name, values in best.items()},
        }

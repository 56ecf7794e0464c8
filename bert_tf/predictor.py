"""Takes a model's folder and texts, returns what the model says of them; next: cli."""

import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from bert_tf.config import ModelFiles
from bert_tf.errors import InputError
from bert_tf.export import served_predictor
from bert_tf.tasks import (
    answer_predictor,
    choice_predictor,
    fill_mask,
    label_predictor,
    pair_similarity,
    tag_predictor,
    text_vectors,
)
from bert_tf.tasks.model_task import check_options, task_of
from bert_tf.tasks.task_predictor import NameOf, TaskPredictor, Text
from bert_tf.tasks.text_vectors import TextVectors

# Each takes a folder or a ModelFiles, and the task's own options by keyword.
LOADERS: dict[str, Callable[..., TaskPredictor]] = {
    "classification": label_predictor.load,
    "tagging": tag_predictor.load,
    "multiple_choice": choice_predictor.load,
    "question_answering": answer_predictor.load,
    "fill_mask": fill_mask.load,
    "features": text_vectors.load,
    "similarity": pair_similarity.load,
}


class Predictor:
    """Text in, answers out.

    Args:
        answers: what makes a task's answers; ``Predictor.load`` takes it from a folder.
        batch_size: texts that go through the model at once.
    """

    def __init__(self, answers: TaskPredictor, batch_size: int = 32) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, but is {batch_size}")
        self._answers = answers
        self.batch_size = batch_size

    @classmethod
    def load(
        cls,
        model_dir: str | os.PathLike[str] | ModelFiles,
        batch_size: int = 32,
        *,
        task: str | None = None,
        **options: Any,
    ) -> "Predictor":
        """Loads a trained model.

        Args:
            model_dir: the ``output_dir`` of a finished training run, or a version that ``bert-tf
                export`` wrote, or the folder of its versions, for the latest. For fill_mask,
                features and similarity also the folder of a released checkpoint, or a ModelFiles
                that names each file.
            batch_size: texts that go through the model at once.
            task: ``classification``, ``tagging``, ``multiple_choice``, ``question_answering``,
                ``fill_mask``, or for any model ``features`` or ``similarity``; by default what the
                run trained.
            options: of fill_mask: ``top_k`` (5), pieces that are named for each mask; of
                question_answering: ``top_k`` (5), answers that are named; of features
                and similarity: ``pooling`` (``mean``, ``max`` or ``cls``) and ``layer`` (-1, the
                last); of features ``normalize`` (false), whether vectors get length 1; of
                fill_mask, features and similarity ``do_lower_case``, by default as the run or
                the folder's name says.

        Raises:
            InputError: if the folder holds no such model, or the task has no such option.
        """
        model = model_dir if isinstance(model_dir, ModelFiles) else pathlib.Path(model_dir)
        version = served_predictor.exported(model) if isinstance(model, pathlib.Path) else None
        if version is not None:
            served = served_predictor.load(version)
            if task not in (None, served.task) or options:
                raise InputError(
                    f"{version}: an export for {served.task}; it says what it was exported to say: "
                    "give no task and no options"
                )
            return cls(served, batch_size)
        name = task_of(model, task, LOADERS)
        check_options(name, LOADERS[name], options)
        return cls(LOADERS[name](model, **options), batch_size)

    def parse(self, line: str, name: str) -> Text:
        """The input that a line stands for; a tab separates the texts of a pair, or of a question.

        Args:
            line: without its end.
            name: what a message calls it.

        Raises:
            InputError: if the line has another number of texts than the model takes.
        """
        return self._answers.parse(line, name)

    def predict(
        self, texts: Iterable[Text], *, name_of: NameOf = "texts[{}]".format
    ) -> list[dict[str, Any]]:
        """Predicts.

        Args:
            texts: one str each, or (str, str) for pairs; classification takes what the model was
                trained on, fill_mask both, with a literal ``[MASK]`` for each piece to find,
                tagging a str or a list of words, multiple_choice (str, [str, …]), a context and its
                choices, any number of them, question_answering (question, context), features both,
                and similarity pairs.
            name_of: what a message calls a text, given its number from 0.

        Returns:
            One dict per text: ``text`` (and ``text_b``), and for classification

            - one label per text: ``label``, its ``score`` and all ``probabilities``;
            - several labels: ``labels`` (those above one half), and the same three, ``label``
              being the likeliest;
            - regression: ``score``, the value;

            for tagging ``words``, each with its ``word``, ``start`` and ``end`` in the text,
            ``tag`` and ``score``, and, if the tags are entities', ``entities``, each with its
            ``type``, ``text``, ``start``, ``end`` and ``score``;

            for multiple_choice ``choices``, the ``label`` of the likeliest (its number, from 0),
            that ``choice``, its ``score`` and the ``probabilities`` of all, a list;

            for question_answering, instead of ``text`` and ``text_b``, ``question`` and
            ``context``, ``answer`` with its ``score``, ``start`` and ``end`` in the context, the
            best ``answers``, the same of each, and, if there may be none, ``null_odds``;

            for fill_mask ``masks``: for each [MASK] its ``position`` in the text (of a pair, with
            ``in``, the key of that text) and the likeliest ``predictions``, each a ``piece`` and
            its ``score``; and of a pair ``next_sentence_probability``, that the second text
            follows the first;

            for features ``vector``, a list of floats; for similarity ``score``, the cosine of the
            two texts' vectors.

        Raises:
            InputError: for a text that the model does not take.
        """
        if isinstance(texts, str):
            raise InputError("predict takes a list of texts, not one text: predict([text])")
        texts = list(texts)
        return self._answers.predict(texts, self.batch_size, name_of) if texts else []

    def search(
        self, queries: Iterable[Text], texts: Iterable[Text], *, top_k: int = 5
    ) -> list[list[dict[str, Any]]]:
        """Finds the texts that are nearest to each query, by the cosine of their vectors.

        Args:
            queries: one str each, or (str, str) for pairs.
            texts: what is searched, in the same form.
            top_k: how many texts are named for each query, if there are so many.

        Returns:
            For each query one dict per text found, the best first, of equal ones the first:
            ``text`` (and ``text_b``), its ``index`` in ``texts`` and its ``score``.

        Raises:
            InputError: if the task is not features, or for a text that is none.
        """
        for name, value in (("queries", queries), ("texts", texts)):
            if isinstance(value, str):
                raise InputError(f"{name} must be a list of texts, not one text: [text]")
        vectors = self._text_vectors("search")
        return vectors.search(list(queries), list(texts), top_k, self.batch_size)

    def similarity(self, pairs: Iterable[Text]) -> list[float]:
        """Compares the two texts of each pair.

        Args:
            pairs: (str, str) each.

        Returns:
            The cosine of the two texts' vectors for each pair.

        Raises:
            InputError: if the task is not features, or for a pair that is none.
        """
        vectors = self._text_vectors("similarity")
        return vectors.similarity(list(pairs), self.batch_size, "pairs[{}]".format)

    def _text_vectors(self, method: str) -> TextVectors:
        if not isinstance(self._answers, TextVectors):
            raise InputError(
                f"{method} compares vectors, which this predictor does not make; load a run or a "
                'checkpoint (not an export) with task="features"'
            )
        return self._answers

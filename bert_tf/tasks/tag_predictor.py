"""Takes a trained tagger and texts, returns words with tags, and entities; next: predictor."""

import pathlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bert_tf.config import ModelFiles
from bert_tf.errors import InputError
from bert_tf.tag_schemes import spans
from bert_tf.tasks import tagging
from bert_tf.tasks.task_predictor import NameOf, Text
from bert_tf.tasks.word_tagger import WordTagger


def load(model: pathlib.Path | ModelFiles) -> "TagPredictor":
    """The predictor of a finished run's folder.

    Raises:
        InputError: if the folder holds no trained tagger.
    """
    return TagPredictor(tagging.load(model))


class TagPredictor:
    """Tags the words of texts.

    Of each text: ``words``, each with ``word``, ``start`` and ``end`` (characters of the text),
    ``tag`` and ``score``, its probability; and ``entities``, if the tags are entities', each with
    ``type``, ``text``, ``start``, ``end`` and ``score``, the mean of its words'.

    Args:
        tagger: a trained one.
    """

    def __init__(self, tagger: WordTagger) -> None:
        self._tagger = tagger

    def parse(self, line: str, name: str) -> Text:
        """See TaskPredictor."""
        return line

    def predict(
        self, texts: Sequence[Any], batch_size: int, name_of: NameOf
    ) -> list[dict[str, Any]]:
        """See TaskPredictor; a text may be a list of its words too, which are then taken as such.

        The ``text`` of a list is its words with spaces between them.
        """
        inputs = [_read(text, name_of(number)) for number, text in enumerate(texts)]
        sentences = [[text[slice(*span)] for span in found] for text, found in inputs if found]
        tagged = iter(self._tag(sentences, batch_size))
        results = []
        for text, found in inputs:
            tags, scores = next(tagged) if found else ([], np.zeros(0))
            words = [
                {"word": text[start:end], "start": start, "end": end, "tag": tag, "score": score}
                for (start, end), tag, score in zip(found, tags, map(float, scores), strict=True)
            ]
            result: dict[str, Any] = {"text": text, "words": words}
            if self._tagger.has_entities:
                result["entities"] = [
                    {
                        "type": span.type,
                        "text": text[found[span.start][0] : found[span.end - 1][1]],
                        "start": found[span.start][0],
                        "end": found[span.end - 1][1],
                        "score": float(np.mean(scores[span.start : span.end])),
                    }
                    for span in spans(tags)
                ]
            results.append(result)
        return results

    def _tag(
        self, sentences: list[list[str]], batch_size: int
    ) -> Iterator[tuple[list[str], np.ndarray]]:
        """The tags of each sentence, and the probability of each tag."""
        if not sentences:
            return iter(())
        # Each text is a document of its own.
        windows = self._tagger.windows(sentences, np.arange(len(sentences)))
        logits, _ = self._tagger.logits(self._tagger.features(windows), batch_size)
        return zip(*self._tagger.label(logits, sentences), strict=True)


def word_spans(text: str) -> list[tuple[int, int]]:
    """The words of a text, as [start, end) of its characters.

    They stand between spaces, without the punctuation marks and symbols at their beginning and end,
    each of which is a word of its own: ``(U.S.)`` is ``(``, ``U.S``, ``.`` and ``)``.
    """
    found = []
    for match in re.finditer(r"\S+", text):
        start, end = match.span()
        while start < end and is_mark(text[start]):
            found.append((start, start + 1))
            start += 1
        last = end
        while start < last and is_mark(text[last - 1]):
            last -= 1
        if start < last:
            found.append((start, last))
        found += [(place, place + 1) for place in range(last, end)]
    return found


def is_mark(character: str) -> bool:
    """Whether a character is a word of its own at the beginning or the end of others."""
    return unicodedata.category(character)[0] in "PS"


def _read(text: Any, name: str) -> tuple[str, list[tuple[int, int]]]:
    """A text and the places of its words."""
    if isinstance(text, str):
        return text, word_spans(text)
    if not isinstance(text, list) or not all(isinstance(word, str) for word in text):
        raise InputError(
            f"{name} must be a str, or a list of its words, for this model, but is {text!r}"
        )
    places, start = [], 0
    for word in text:
        places.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(text), places

"""Takes any text for a model, returns what holds whatever the task; next: predictor."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from bert_tf.errors import InputError

TextOrPair = str | tuple[str, str]
Text = TextOrPair | list[str] | tuple[str, list[str]]
# The number of a text, from 0 -> what a message calls it.
NameOf = Callable[[int], str]


class TaskPredictor(Protocol):
    """Text in, answers of one kind out."""

    def parse(self, line: str, name: str) -> Text:
        """The input that a line stands for; a tab separates the texts of a pair, or of a question.

        Args:
            line: without its end.
            name: what a message calls it.

        Raises:
            InputError: if the line has another number of texts than the model takes.
        """

    def predict(
        self, texts: Sequence[Any], batch_size: int, name_of: NameOf
    ) -> list[dict[str, Any]]:
        """Answers each text.

        Args:
            texts: as from ``parse``, or a user's own.
            batch_size: texts that go through the model at once.
            name_of: what a message calls a text.

        Raises:
            InputError: for an input that the model does not take.
        """


def is_pair(text: Any) -> bool:
    """Whether an input is a pair of texts."""
    return (
        isinstance(text, (tuple, list))
        and len(text) == 2
        and all(isinstance(part, str) for part in text)
    )


def parse_pair(line: str, name: str) -> tuple[str, str]:
    """A line of two texts; see TaskPredictor.parse."""
    first, *others = line.split("\t")
    if len(others) != 1:
        raise InputError(
            f"{name}: expected a pair, two texts with one tab between them, but the input has "
            f"{len(others)} tabs: {line!r}"
        )
    return first, others[0]


def parse_text_or_pair(line: str, name: str) -> TextOrPair:
    """A line of a text or of two; see TaskPredictor.parse."""
    first, *others = line.split("\t")
    if len(others) > 1:
        raise InputError(
            f"{name}: expected a text, or two with one tab between them, but the input has "
            f"{len(others)} tabs: {line!r}"
        )
    return (first, others[0]) if others else first


def parse_question(line: str, name: str) -> tuple[str, str]:
    """A line of a question and its context; see TaskPredictor.parse."""
    question, tab, context = line.partition("\t")
    if not tab:
        raise InputError(
            f"{name}: this model takes a question and, after a tab, the context that it is about, "
            f"but there is no tab: {line[:80]!r}"
        )
    return question, context


def parse_choices(line: str, name: str) -> tuple[str, list[str]]:
    """A line of a context and its choices; see TaskPredictor.parse."""
    context, *choices = line.split("\t")
    if len(choices) < 2:
        raise InputError(
            f"{name}: this model takes a context and at least 2 choices, with a tab before each, "
            f"but the input has {len(choices)} tabs: {line!r}"
        )
    return context, choices


def named_parts(text: TextOrPair) -> dict[str, str]:
    """The texts of an input, under their names in an answer."""
    return dict(zip(("text", "text_b"), [text] if isinstance(text, str) else text, strict=False))

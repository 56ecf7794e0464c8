"""Takes a file in the form of SQuAD 1.1 or 2.0, returns questions and contexts; next: tasks/.

The form is that of the data set's own files: `data`, a list of articles with `paragraphs`, each of
which has a `context` and its questions, `qas`: `id`, `question`, `answers` (`text`,
`answer_start`) and, in version 2.0, `is_impossible`.
"""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bert_tf.errors import InputError, listed

log = logging.getLogger(__name__)


class GoldAnswer(NamedTuple):
    """A place in a context.

    Attributes:
        text: of the answer.
        start: its first character in the context.
    """

    text: str
    start: int


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about a context.

    Attributes:
        id: unique in its file.
        text: of the question.
        context: the number of the context.
        answers: all that count as right; none if there are none, or if they are not known.
        is_impossible: whether the context is known to hold no answer.
    """

    id: str
    text: str
    context: int
    answers: tuple[GoldAnswer, ...]
    is_impossible: bool


@dataclasses.dataclass(frozen=True)
class Questions:
    """What a file holds.

    Attributes:
        path: the file.
        contexts: each once.
        questions: in the order of the file.
    """

    path: pathlib.Path
    contexts: list[str]
    questions: list[Question]


def read_questions(
    path: str | pathlib.Path, *, for_training: bool, verbose: bool = False
) -> Questions:
    """Reads a file.

    Answers that are not where the file says are known to occur: they are taken from the place
    nearest to it that has their text. If there is none, a question is left out of training. Both
    are counted in a warning.

    Args:
        path: the file.
        for_training: whether each question must have exactly one answer, or be impossible.
        verbose: whether a warning names all questions that it counts, not the first few.

    Raises:
        InputError: naming the file and the place in it of what is wrong.
    """
    path = pathlib.Path(path)
    contexts: list[str] = []
    questions: list[Question] = []
    seen: dict[str, str] = {}
    moved: list[str] = []
    lost: list[str] = []
    for where, context, items in _paragraphs(path):
        contexts.append(context)
        for number, item in enumerate(items):
            place = f"{where}.qas[{number}]"
            question = _question(place, item, len(contexts) - 1, context, for_training)
            if question.id in seen:
                raise InputError(
                    f"{place}: the id {question.id!r} is that of {seen[question.id]} too; give "
                    "each question an id of its own"
                )
            seen[question.id] = place.removeprefix(f"{path}: ")
            placed = [_placed(answer, context) for answer in question.answers]
            if any(one != other for one, other in zip(placed, question.answers, strict=True)):
                (lost if None in placed else moved).append(question.id)
            if for_training and None in placed:
                continue
            answers = tuple(new or old for new, old in zip(placed, question.answers, strict=True))
            questions.append(dataclasses.replace(question, answers=answers))
    if not questions:
        raise InputError(f"{path}: there are no questions in it")
    for ids, what in (
        (moved, "answers are not where the file says; the nearest place with their text is taken"),
        (lost, "answers are nowhere in their context" + "; left out" * for_training),
    ):
        if ids:
            named = listed(ids, most=len(ids)) if verbose else listed(ids)
            log.warning("warning: %s: %d %s: %s", path, len(ids), what, named)
    return Questions(path, contexts, questions)


def _paragraphs(path: pathlib.Path) -> Iterator[tuple[str, str, Sequence[Any]]]:
    """(place, context, questions as JSON has them) of each paragraph."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{error.lineno}: not JSON ({error.msg} at column {error.colno})"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; deep nesting
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    for i, article in enumerate(_field(f"{path}: the file", content, "data", list)):
        for j, paragraph in enumerate(_field(f"{path}: data[{i}]", article, "paragraphs", list)):
            where = f"{path}: data[{i}].paragraphs[{j}]"
            yield (
                where,
                _field(where, paragraph, "context", str),
                _field(where, paragraph, "qas", list),
            )


def _question(place: str, item: Any, context: int, text: str, for_training: bool) -> Question:
    number = _field(place, item, "id", (str, int))
    question = _field(place, item, "question", str)
    is_impossible = bool(item.get("is_impossible", False))
    answers: tuple[GoldAnswer, ...] = ()
    if not is_impossible and ("answers" in item or for_training):
        answers = tuple(
            GoldAnswer(
                _field(f"{place}.answers[{i}]", answer, "text", str),
                _field(f"{place}.answers[{i}]", answer, "answer_start", int),
            )
            for i, answer in enumerate(_field(place, item, "answers", list))
        )
    if for_training and not is_impossible and len(answers) != 1:
        raise InputError(
            f"{place} (id {number}): for training, a question must have one answer, or "
            f'"is_impossible": true, but this one has {len(answers)} answers'
        )
    return Question(str(number), question, context, answers, is_impossible)


def _placed(answer: GoldAnswer, context: str) -> GoldAnswer | None:
    """The answer where its text is, as near as possible to where it is said to be."""
    if not answer.text.strip():
        return None
    if answer.start >= 0 and context.startswith(answer.text, answer.start):
        return answer
    before = context.rfind(answer.text, 0, max(answer.start, 0) + len(answer.text))
    after = context.find(answer.text, max(answer.start, 0))
    found = [place for place in (before, after) if place >= 0]
    if not found:
        return None
    return GoldAnswer(answer.text, min(found, key=lambda place: abs(place - answer.start)))


def _field(where: str, item: Any, name: str, kind: type | tuple[type, ...]) -> Any:
    """The value of a JSON object's key, which must be there and of a type."""
    if not isinstance(item, Mapping) or not isinstance(item.get(name), kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join({list: "a list", str: "a string", int: "a number"}[k] for k in kinds)
        found = json.dumps(item.get(name) if isinstance(item, Mapping) else item)[:60]
        raise InputError(
            f"{where} must have {name!r}, {wanted}, as in the files of SQuAD, but there is {found}"
        )
    return item[name]

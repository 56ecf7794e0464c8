"""Takes a file of multiple-choice questions, returns texts and labels; next: tasks.choice_scorer.

Two forms, by the ending of the file's name:

* a table (`.csv`) with the columns of SWAG's train.csv, val.csv and test.csv: the context
  is `sent1`, and a choice is `sent2`, a space and one of `ending0`, `ending1` and so on;
* `.jsonl`: `context`, `choices`, and `question` if there is one, which each choice then follows.

The right choice is `label`, a number from 0.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bert_tf.errors import InputError
from bert_tf.text_tables import Row, read_table

ENDINGS = (".csv", ".jsonl")


class Question(NamedTuple):
    """One example.

    Attributes:
        context: sentence A of each of its rows.
        choices: sentence B of each row.
    """

    context: str
    choices: list[str]


@dataclasses.dataclass(frozen=True)
class Questions:
    """The questions of one file.

    Attributes:
        path: the file.
        items: in its order; all have the same number of choices.
        labels: int32 [number of questions], the right choices; None if they were not read.
    """

    path: pathlib.Path
    items: list[Question]
    labels: np.ndarray | None


def split_names(split: str) -> list[str]:
    """What the file of a split may be called in a data folder; SWAG calls dev ``val``."""
    stems = ("dev", "val") if split == "dev" else (split,)
    return [f"{stem}{ending}" for stem in stems for ending in ENDINGS]


def read_questions(path: str | pathlib.Path, *, with_labels: bool = True) -> Questions:
    """Reads a file.

    Args:
        path: the file.
        with_labels: whether to read labels; without, there need not be any.

    Raises:
        InputError: naming file and line of what is wrong.
    """
    path = pathlib.Path(path)
    read = _from_json if path.suffix.lower() == ".jsonl" else _from_columns
    items: list[Question] = []
    labels: list[int] = []
    first_line = 0
    for row in read_table(path):
        items.append(read(row))
        first_line = first_line or row.line
        number = len(items[-1].choices)
        if number != len(items[0].choices):
            raise InputError(
                f"{row.where}: {number} choices, but line {first_line} has "
                f"{len(items[0].choices)}; all questions of a file must have as many"
            )
        if with_labels:
            labels.append(_label(row, number))
    return Questions(path, items, np.array(labels, np.int32) if with_labels else None)


def question_of(where: str, context: str, choices: Sequence[str], start: str = "") -> Question:
    """A question of texts that are not empty.

    Args:
        where: what a message calls it.
        context: sentence A.
        choices: at least two.
        start: what each choice goes on from, if anything.

    Raises:
        InputError: for too few choices, or a text that is empty.
    """
    if len(choices) < 2:
        raise InputError(
            f"{where}: a question needs at least 2 choices, but this one has {len(choices)}"
        )
    texts = {"the context": context}
    texts |= {f"choice {number} (from 0)": text for number, text in enumerate(choices)}
    for name, text in texts.items():
        if not text.strip():
            raise InputError(f"{where}: {name} is empty; give it a text, or leave the question out")
    return Question(context, [f"{start} {text}" if start else text for text in choices])


def _from_columns(row: Row) -> Question:
    assert row.positions is not None
    found = sum(re.fullmatch("ending[0-9]+", name) is not None for name in row.positions)
    # One is asked for in any case, so that a table of another kind is told what it lacks.
    choices = [row.text(f"ending{number}") for number in range(max(found, 1))]
    return question_of(row.where, row.text("sent1"), choices, row.text("sent2"))


def _from_json(row: Row) -> Question:
    assert row.positions is not None
    choices = row.field("choices")
    if not isinstance(choices, list) or not all(isinstance(text, str) for text in choices):
        raise InputError(
            f"{row.where}: 'choices' has to be a list of strings, but is {json.dumps(choices)[:40]}"
        )
    start = row.text("question") if "question" in row.positions else ""
    return question_of(row.where, row.text("context"), choices, start)


def _label(row: Row, num_choices: int) -> int:
    """The number of the right choice: of JSON a number, of a table its digits."""
    value = row.field("label")
    label = int(value) if isinstance(value, str) and value.isdecimal() else value
    if type(label) is not int or not 0 <= label < num_choices:
        raise InputError(
            f"{row.where}: the label has to be the number of the right choice, 0 to "
            f"{num_choices - 1}, but is {json.dumps(value)[:40]}"
        )
    return label

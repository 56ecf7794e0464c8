"""Takes the files of a classification task, returns texts and labels; next: tasks.classification.

A task is a row of settings, as in `glue.TASKS`: where its files lie, which columns hold the texts
and the label, which labels there are and in what order, which metrics count. A user's own data is
one more such row, made by `custom_task`; there is one reader for all of them.

Axes: num_examples, num_labels.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from bert_tf.errors import InputError, did_you_mean
from bert_tf.text_tables import Column, Row, read_lines, read_table

TaskType = Literal["single_label", "multi_label", "regression"]

TASK_TYPES: tuple[TaskType, ...] = ("single_label", "multi_label", "regression")
SPLITS = ("train", "dev", "test")
LABEL_FILE = "labels.txt"


@dataclasses.dataclass(frozen=True)
class TableLayout:
    """Where a table holds the texts and the label of an example.

    Attributes:
        text_column: The text, or the first one of a pair.
        text_b_column: The second text of a pair; None for single texts.
        label_column: The label; None where the table has none.
        has_header: Whether the first line names the columns.
        quoting: Whether fields may be quoted; None for what the file's ending implies.
        skip_short_rows: Whether rows with too few columns are left out and counted.
        only_rows: A column and the text it has in the rows that count; None for all rows.
    """

    text_column: Column
    text_b_column: Column | None = None
    label_column: Column | None = None
    has_header: bool = True
    quoting: bool | None = None
    skip_short_rows: bool = False
    only_rows: tuple[Column, str] | None = None


@dataclasses.dataclass(frozen=True)
class ClassificationTask:
    """The settings of one task.

    Attributes:
        name: The task's name, as in `--task_name`.
        task_type: One label per text, any number of labels, or a number.
        layouts: The layout of the tables of each split that the task has.
        files: For each split, its parts (`""`, and for MNLI also `"mismatched"`), and for each
            part the names its file may have in the data folder.
        labels: The labels in the order of their ids; empty for a regression. None when they stand
            in the labels.txt of the data folder, or in the training data.
        metrics: What an evaluation reports, as named in `metrics.CLASSIFICATION_METRICS`; the first
            decides which of several runs is best.
        label_aliases: Other spellings of labels that the files have.
        label_separator: What stands between the labels of a text with several.
        label_ids: Whether the files give labels as their line in labels.txt, from 0.
    """

    name: str
    task_type: TaskType
    layouts: Mapping[str, TableLayout]
    files: Mapping[str, Mapping[str, tuple[str, ...]]]
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]
    label_aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label_separator: str = ","
    label_ids: bool = False

    @property
    def has_pairs(self) -> bool:
        """Whether its examples are pairs of texts."""
        return any(layout.text_b_column is not None for layout in self.layouts.values())


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of one file.

    Attributes:
        path: The file.
        lines: The line of the file each example starts at, for messages about it.
        text_a: The text of each example, or the first of a pair; may be empty.
        text_b: The second text of each pair; None if the task has single texts.
        labels: int32 [num_examples] (single_label), float32 [num_examples, num_labels] of 0 and 1
            (multi_label) or float32 [num_examples] (regression); None if they were not read.
    """

    path: pathlib.Path
    lines: list[int]
    text_a: list[str]
    text_b: list[str] | None
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.text_a)


def custom_task(
    task_type: str,
    *,
    text_column: Column,
    label_column: Column | None,
    text_b_column: Column | None = None,
    has_header: bool = True,
    quoting: bool | None = None,
    labels: Sequence[str] | None = None,
    label_separator: str = ",",
    label_ids: bool = False,
    name: str = "custom",
) -> ClassificationTask:
    """The task that a user's own tables are.

    The files are `train`, `dev` and `test` with the ending .tsv, .csv or .jsonl in the data
    folder, or given one by one to `read_examples`.

    Args:
        task_type: single_label, multi_label or regression.
        text_column: The column of the text: a name in the header or a key of JSONL, or a number
            from 0.
        label_column: The column of the label. In JSONL the labels of a multi_label task may be a
            list. None for tables without labels, which can only be predicted on.
        text_b_column: The column of the second text, for pairs.
        has_header: Whether the first line of .tsv and .csv files names the columns.
        quoting: Whether fields may be quoted; None for yes in .csv and no in .tsv.
        labels: The labels in the order of their ids; None to take them from labels.txt in the
            data folder or else, sorted, from the training data.
        label_separator: What stands between the labels of a multi_label task.
        label_ids: Whether the label column holds line numbers of labels.txt, from 0.
        name: What error messages call the task.
    """
    if task_type not in TASK_TYPES:
        raise InputError(f"--task_type has to be one of {', '.join(TASK_TYPES)}, not {task_type}.")
    if task_type == "regression":
        if labels is not None or label_ids:
            raise InputError("A task of --task_type=regression has numbers and no list of labels.")
        labels = ()
    elif labels is not None:
        _check_labels(labels, "--labels")
    if task_type == "multi_label" and not label_separator:
        raise InputError("--label_separator is empty, but has to stand between two labels.")
    layout = TableLayout(text_column, text_b_column, label_column, has_header, quoting)
    return ClassificationTask(
        name=name,
        task_type=task_type,
        layouts=dict.fromkeys(SPLITS, layout),
        files={
            split: {"": tuple(f"{split}{ending}" for ending in (".tsv", ".csv", ".jsonl"))}
            for split in SPLITS
        },
        labels=None if labels is None else tuple(labels),
        metrics=CUSTOM_METRICS[task_type],
        label_separator=label_separator,
        label_ids=label_ids,
    )


def find_split_files(
    task: ClassificationTask, data_dir: str | pathlib.Path, split: str
) -> dict[str, pathlib.Path]:
    """Finds the files of one split in a data folder.

    Args:
        task: The task.
        data_dir: The folder.
        split: train, dev or test.

    Returns:
        The file under `""`. MNLI's dev and test splits have a second file, under `"mismatched"`,
        when the folder has it.
    """
    data_dir = pathlib.Path(data_dir)
    if split not in task.files:
        raise InputError(
            f"Task {task.name} has no {split} files; it has {', '.join(task.files)} files only."
        )
    if not data_dir.is_dir():
        raise InputError(f"--data_dir={data_dir} is not a folder.")
    found = {}
    for part, names in task.files[split].items():
        paths = [data_dir / name for name in names if (data_dir / name).is_file()]
        if paths:
            # On some file systems AX.tsv and ax.tsv are one file.
            if not all(path.samefile(paths[0]) for path in paths):
                raise InputError(
                    f"{data_dir} holds {' and '.join(path.name for path in paths)}, and each could "
                    f"be the {split} file of task {task.name}. Leave one of them there, or give "
                    f"the file by --{split}_file."
                )
            found[part] = paths[0]
        elif part == "":
            raise InputError(
                f"{data_dir} has no {split} file of task {task.name}: looked for "
                f"{', '.join(names)}. Check --data_dir, or give the file by --{split}_file."
            )
    return found


def find_labels(
    task: ClassificationTask,
    data_dir: str | pathlib.Path | None,
    train_file: str | pathlib.Path | None,
) -> tuple[str, ...]:
    """The labels of a task in the order of their ids.

    Args:
        task: The task. Labels it names itself come first.
        data_dir: The folder whose labels.txt comes second; None if there is no folder.
        train_file: The file whose labels, sorted, come third; None if there is no such file.

    Returns:
        The labels; none for a regression.
    """
    if task.labels is not None:
        return task.labels
    label_file = pathlib.Path(data_dir) / LABEL_FILE if data_dir is not None else None
    if label_file is not None and label_file.is_file():
        return read_label_file(label_file)
    if task.label_ids or train_file is None:
        raise InputError(
            f"The labels of task {task.name} are not known: there is no "
            f"{label_file or LABEL_FILE}. Put that file, with one label per line in the order of "
            "their ids, into --data_dir."
        )
    layout = _layout(task, "train", with_labels=True)
    assert layout.label_column is not None
    labels = set()
    for row in _rows(layout, train_file):
        labels.update(_label_names(task, row, layout.label_column))
    found = tuple(sorted(labels))
    _check_labels(found, f"{train_file}, column {layout.label_column!r}")
    return found


def read_label_file(path: str | pathlib.Path) -> tuple[str, ...]:
    """Reads a labels.txt: one label per line, in the order of their ids."""
    labels = tuple(label.strip() for _, label in read_lines(path))
    _check_labels(labels, str(path))
    return labels


def read_examples(
    task: ClassificationTask,
    path: str | pathlib.Path,
    labels: Sequence[str],
    *,
    split: str,
    with_labels: bool = True,
) -> Examples:
    """Reads the examples of one file.

    Args:
        task: The task.
        path: The file, as `find_split_files` found it or as the user gave it.
        labels: The labels in the order of their ids, as `find_labels` returns them.
        split: train, dev or test: which of the task's layouts the file has.
        with_labels: Whether to read the labels. Without them the file needs no label column.

    Returns:
        The examples in the order of the file.
    """
    layout = _layout(task, split, with_labels)
    ids = {label: label_id for label_id, label in enumerate(labels)}
    lines: list[int] = []
    text_a: list[str] = []
    text_b: list[str] = []
    values: list[object] = []
    for row in _rows(layout, path):
        lines.append(row.line)
        text_a.append(row.text(layout.text_column))
        if layout.text_b_column is not None:
            text_b.append(row.text(layout.text_b_column))
        if with_labels and layout.label_column is not None:
            if task.task_type == "regression":
                values.append(_number(row, layout.label_column))
            else:
                names = _label_names(task, row, layout.label_column)
                values.append([_label_id(task, row, name, ids) for name in names])
    return Examples(
        path=pathlib.Path(path),
        lines=lines,
        text_a=text_a,
        text_b=None if layout.text_b_column is None else text_b,
        labels=_label_array(task.task_type, values, len(labels)) if with_labels else None,
    )


def _layout(task: ClassificationTask, split: str, with_labels: bool) -> TableLayout:
    """The layout of a split's tables; an error if the labels are wanted and it has none."""
    if split not in task.layouts:
        raise InputError(
            f"Task {task.name} has no {split} files; it has {', '.join(task.layouts)} files only."
        )
    layout = task.layouts[split]
    if with_labels and layout.label_column is None:
        raise InputError(
            f"The {split} files of task {task.name} have no labels, so nothing can be trained or "
            "evaluated on them; predict with --do_predict."
        )
    return layout


def _rows(layout: TableLayout, path: str | pathlib.Path) -> Iterator[Row]:
    """The rows of a table that count."""
    rows = read_table(
        path,
        has_header=layout.has_header,
        quoting=layout.quoting,
        skip_short_rows=layout.skip_short_rows,
    )
    if layout.only_rows is None:
        yield from rows
        return
    column, wanted = layout.only_rows
    any_row = False
    for row in rows:
        if row.field(column) == wanted:
            any_row = True
            yield row
    if not any_row:
        raise InputError(f"{path}: no row has {wanted!r} in column {column!r}.")


def _label_names(task: ClassificationTask, row: Row, column: Column) -> list[str]:
    """The labels in a row, as the file spells them or by their aliases: one, or any number."""
    value = row.field(column)
    items: Sequence[object]
    if task.task_type == "single_label":
        items = [value]
    elif isinstance(value, str):
        items = value.split(task.label_separator) if value.strip() else []
    else:
        items = value if isinstance(value, list) else [value]
    names = []
    for item in items:
        # Of JSON's other values, numbers and true and false are labels as they are spelled.
        if item is None or isinstance(item, list | dict):
            raise InputError(
                f"{row.where}: column {column!r} has to be a label, but is {json.dumps(item)[:40]}."
            )
        name = item.strip() if isinstance(item, str) else json.dumps(item)
        if not name:
            raise InputError(f"{row.where}: the label in column {column!r} is empty.")
        names.append(task.label_aliases.get(name, name))
    return names


def _label_id(task: ClassificationTask, row: Row, name: str, ids: Mapping[str, int]) -> int:
    """The id of a label, int in [0, num_labels)."""
    if task.label_ids:
        if name.isdecimal() and int(name) < len(ids):
            return int(name)
        raise InputError(
            f"{row.where}: label id {name!r} is not one of task {task.name}, which has "
            f"{len(ids)} labels: the ids go from 0 to {len(ids) - 1}."
        )
    if name not in ids:
        known = ", ".join(map(repr, list(ids)[:20])) + (", …" if len(ids) > 20 else "")
        raise InputError(
            f"{row.where}: {name!r} is not a label of task {task.name}{did_you_mean(name, ids)} "
            f"Its {len(ids)} labels are {known}."
        )
    return ids[name]


def _number(row: Row, column: Column) -> float:
    """The label of a regression."""
    value = row.field(column)
    try:
        # float() takes "1_5" for 15.0, and true for 1.0.
        if isinstance(value, bool) or not isinstance(value, str | int | float) or "_" in str(value):
            raise ValueError
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
    except (ValueError, OverflowError):
        raise InputError(
            f"{row.where}: the label in column {column!r} has to be a finite number, but is "
            f"{json.dumps(value)[:40]}."
        ) from None
    return number


def _label_array(task_type: TaskType, values: list, num_labels: int) -> np.ndarray:
    """The labels of all examples as `Examples.labels` describes them.

    Args:
        task_type: The type of the task.
        values: A number per example (regression), else the list of its label ids.
        num_labels: How many labels the task has.
    """
    if task_type == "regression":
        return np.array(values, np.float32)
    if task_type == "single_label":
        return np.array([label_id for (label_id,) in values], np.int32)
    array = np.zeros([len(values), num_labels], np.float32)
    for row, label_ids in zip(array, values, strict=True):
        row[label_ids] = 1.0
    return array


def _check_labels(labels: Sequence[str], source: str) -> None:
    """Checks that these can be the labels of a classifier."""
    for label_id, label in enumerate(labels):
        if not label:
            raise InputError(f"{source}: label {label_id} (from 0) is empty.")
        if len(label.splitlines()) > 1 or label.strip() != label:
            raise InputError(
                f"{source}: label {label!r} has a line break, or spaces at an end, which "
                f"{LABEL_FILE}, with one label a line, cannot hold."
            )
        if label in labels[:label_id]:
            raise InputError(f"{source}: label {label!r} is there more than once.")
    if len(labels) < 2:
        raise InputError(
            f"{source}: a classifier chooses between at least 2 labels, but there "
            f"{'is 1' if labels else 'are none'}{''.join(f': {label!r}' for label in labels)}."
        )


# What an evaluation of a user's own data reports; the first decides which of several runs is best.
CUSTOM_METRICS: Mapping[str, tuple[str, ...]] = {
    "single_label": ("accuracy", "f1_macro"),
    "multi_label": ("f1_micro", "f1_macro", "auc", "accuracy"),
    "regression": ("pearson", "spearman"),
}

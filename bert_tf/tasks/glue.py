"""Takes a task's name, returns its settings: GLUE, XNLI, GoEmotions, SICK; next: classification.

Source of the layouts: the files as GLUE, XNLI and the other data sets distribute them.
"""

import dataclasses

from bert_tf.errors import InputError, did_you_mean
from bert_tf.tasks.classification_data import (
    CUSTOM_METRICS,
    SPLITS,
    ClassificationTask,
    TableLayout,
)
from bert_tf.text_tables import Column

_TSV_FILES = {split: {"": (f"{split}.tsv",)} for split in SPLITS}
_MNLI_FILES = {
    "train": {"": ("train.tsv",)},
    "dev": {"": ("dev_matched.tsv",), "mismatched": ("dev_mismatched.tsv",)},
    "test": {"": ("test_matched.tsv",), "mismatched": ("test_mismatched.tsv",)},
}
# As the two archives unpack, or with the folders moved as the original expects them.
_XNLI_FILES = {
    "train": {
        "": ("multinli/multinli.train.zh.tsv", "XNLI-MT-1.0/multinli/multinli.train.zh.tsv"),
    },
    "dev": {"": ("xnli.dev.tsv", "XNLI-1.0/xnli.dev.tsv")},
    "test": {"": ("xnli.test.tsv", "XNLI-1.0/xnli.test.tsv")},
}
_AX_FILES = {"test": {"": ("diagnostic.tsv", "AX.tsv", "ax.tsv")}}

_BINARY_LABELS = ("0", "1")
_ENTAILMENT_LABELS = ("entailment", "not_entailment")
_MNLI_LABELS = ("contradiction", "entailment", "neutral")


def _glue_layouts(
    text_column: Column, text_b_column: Column | None, label_column: Column
) -> dict[str, TableLayout]:
    """The layouts of a GLUE task whose test file has the text columns and no labels."""
    labelled = TableLayout(text_column, text_b_column, label_column)
    return {
        "train": labelled,
        "dev": labelled,
        "test": dataclasses.replace(labelled, label_column=None),
    }


_QQP_LAYOUT = TableLayout(
    "question1",
    "question2",
    "is_duplicate",
    # Some questions of the distributed files hold newlines, and break into rows that are too short.
    skip_short_rows=True,
)
_XNLI_LAYOUT = TableLayout("sentence1", "sentence2", "gold_label", only_rows=("language", "zh"))
_SICK_LAYOUT = TableLayout("sentence_A", "sentence_B", "relatedness_score")

# The GLUE tasks in the layout of GLUE's download, and the original's XNLI. Labels that the
# original has are in its order, which is the order of a checkpoint's logits.
_TASKS = (
    ClassificationTask(
        name="cola",
        task_type="single_label",
        layouts={
            # Only the test file has a header.
            "train": TableLayout(3, None, 1, has_header=False),
            "dev": TableLayout(3, None, 1, has_header=False),
            "test": TableLayout("sentence"),
        },
        files=_TSV_FILES,
        labels=_BINARY_LABELS,
        metrics=("mcc", "accuracy"),
    ),
    ClassificationTask(
        name="sst-2",
        task_type="single_label",
        layouts=_glue_layouts("sentence", None, "label"),
        files=_TSV_FILES,
        labels=_BINARY_LABELS,
        metrics=("accuracy",),
    ),
    ClassificationTask(
        name="mrpc",
        task_type="single_label",
        layouts=_glue_layouts("#1 String", "#2 String", "Quality"),
        files=_TSV_FILES,
        labels=_BINARY_LABELS,
        metrics=("accuracy", "f1"),
    ),
    ClassificationTask(
        name="sts-b",
        task_type="regression",
        layouts=_glue_layouts("sentence1", "sentence2", "score"),
        files=_TSV_FILES,
        labels=(),
        metrics=("pearson", "spearman"),
    ),
    ClassificationTask(
        name="qqp",
        task_type="single_label",
        layouts={
            "train": _QQP_LAYOUT,
            "dev": _QQP_LAYOUT,
            # A test row that were left out would shift the predictions.
            "test": TableLayout("question1", "question2"),
        },
        files=_TSV_FILES,
        labels=_BINARY_LABELS,
        metrics=("accuracy", "f1"),
    ),
    ClassificationTask(
        name="mnli",
        task_type="single_label",
        layouts=_glue_layouts("sentence1", "sentence2", "gold_label"),
        files=_MNLI_FILES,
        labels=_MNLI_LABELS,
        metrics=("accuracy",),
    ),
    ClassificationTask(
        name="qnli",
        task_type="single_label",
        layouts=_glue_layouts("question", "sentence", "label"),
        files=_TSV_FILES,
        labels=_ENTAILMENT_LABELS,
        metrics=("accuracy",),
    ),
    ClassificationTask(
        name="rte",
        task_type="single_label",
        layouts=_glue_layouts("sentence1", "sentence2", "label"),
        files=_TSV_FILES,
        labels=_ENTAILMENT_LABELS,
        metrics=("accuracy",),
    ),
    ClassificationTask(
        name="wnli",
        task_type="single_label",
        layouts=_glue_layouts("sentence1", "sentence2", "label"),
        files=_TSV_FILES,
        labels=_BINARY_LABELS,
        metrics=("accuracy",),
    ),
    # GLUE's diagnostic set: a model trained on MNLI predicts it.
    ClassificationTask(
        name="ax",
        task_type="single_label",
        layouts={"test": TableLayout("sentence1", "sentence2")},
        files=_AX_FILES,
        labels=_MNLI_LABELS,
        metrics=("accuracy",),
    ),
    ClassificationTask(
        name="xnli",
        task_type="single_label",
        layouts={
            "train": TableLayout("premise", "hypo", "label"),
            "dev": _XNLI_LAYOUT,
            "test": _XNLI_LAYOUT,
        },
        files=_XNLI_FILES,
        labels=_MNLI_LABELS,
        metrics=("accuracy",),
        label_aliases={"contradictory": "contradiction"},
    ),
    ClassificationTask(
        name="goemotions",
        task_type="multi_label",
        layouts=dict.fromkeys(SPLITS, TableLayout(0, None, 1, has_header=False)),
        files=_TSV_FILES,
        labels=None,
        metrics=CUSTOM_METRICS["multi_label"],
        label_ids=True,
    ),
    ClassificationTask(
        name="sick",
        task_type="regression",
        layouts=dict.fromkeys(SPLITS, _SICK_LAYOUT),
        files=_TSV_FILES,
        labels=(),
        metrics=("pearson", "spearman"),
    ),
    ClassificationTask(
        name="sick_entailment",
        task_type="single_label",
        layouts=dict.fromkeys(
            SPLITS, dataclasses.replace(_SICK_LAYOUT, label_column="entailment_judgment")
        ),
        files=_TSV_FILES,
        labels=("CONTRADICTION", "ENTAILMENT", "NEUTRAL"),
        metrics=("accuracy",),
    ),
)
_ALIASES = {"sst2": "sst-2", "stsb": "sts-b"}

TASKS: dict[str, ClassificationTask] = {task.name: task for task in _TASKS}
TASKS |= {alias: TASKS[name] for alias, name in _ALIASES.items()}


def find_task(name: str) -> ClassificationTask:
    """The task of `TASKS` with this name; capitals do not matter, as in the original."""
    task = TASKS.get(name.lower())
    if task is None:
        raise InputError(
            f"--task_name={name} is not a known task{did_you_mean(name.lower(), TASKS)} Known "
            f"are {', '.join(sorted(TASKS))}; data of your own is read with --task_type."
        )
    return task

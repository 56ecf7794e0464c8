"""Takes a model's folder, returns what it was trained for; next: predictor."""

import inspect
import pathlib
from collections.abc import Callable, Collection, Iterable
from typing import Any

from bert_tf import run_folder
from bert_tf.config import ModelFiles
from bert_tf.errors import InputError, did_you_mean
from bert_tf.tasks import (
    classification,
    multiple_choice,
    pretraining,
    question_answering,
    tagging,
)

# Kinds of answer, and the command whose models give them; None for those of any model.
TASKS = {
    "classification": classification.COMMAND,
    "tagging": tagging.COMMAND,
    "multiple_choice": multiple_choice.COMMAND,
    "question_answering": question_answering.COMMAND,
    "fill_mask": pretraining.COMMAND,
    "features": None,
    "similarity": None,
}


def task_of(model: pathlib.Path | ModelFiles, task: str | None, known: Collection[str]) -> str:
    """The task that a model is to be used for.

    Args:
        model: a run's folder, a released checkpoint's, or its files.
        task: what is asked for; None for what the run trained.
        known: the tasks that there are.

    Raises:
        InputError: if it is not among those, or the model does not say what it was trained for.
    """
    name = _trained_task(model) if task is None else task
    if name not in known:
        raise InputError(
            f"task {name!r} is not known; the tasks are {', '.join(known)}"
            f"{did_you_mean(name, known)}"
        )
    return name


def check_options(task: str, function: Callable[..., Any], options: Iterable[str]) -> None:
    """Checks that a function has these options: arguments with a default.

    Args:
        task: what a message calls it.
        function: which.
        options: their names.

    Raises:
        InputError: naming one that it has not.
    """
    known = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty
    ]
    for option in options:
        if option not in known:
            raise InputError(
                f"{option} is no option of {task}, which has {', '.join(known) or 'none'}"
            )


def _trained_task(model: pathlib.Path | ModelFiles) -> str:
    """What the run of a folder trained."""
    if isinstance(model, ModelFiles):
        raise InputError(
            "a checkpoint does not say what it is to predict; give a task: fill_mask, "
            "features or similarity; or for a finished run its folder"
        )
    if not (model / run_folder.RUN_CONFIG).is_file():
        hint = (
            ""
            if not (model / run_folder.BERT_CONFIG).is_file()
            else ("; of a released checkpoint, say what it is to predict, as with task fill_mask")
        )
        raise InputError(
            f"{model}: not the folder of a trained model: it has no {run_folder.RUN_CONFIG}. Give "
            f"the --output_dir of a finished training run{hint}"
        )
    command = run_folder.read_run_config(model / run_folder.RUN_CONFIG).get("command")
    for name, trained_by in TASKS.items():
        if trained_by is not None and trained_by == command:
            return name
    commands = [trained_by for trained_by in TASKS.values() if trained_by is not None]
    raise InputError(
        f"{model / run_folder.RUN_CONFIG}: a run of {command!r}, from which nothing predicts; give "
        f"the folder of a run of {' or '.join(commands)}"
    )

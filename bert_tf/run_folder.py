"""Takes an output folder, returns it claimed for one run; next: training.

The files of a run and what may be done with a folder that has some: an unfinished run of the same
configuration is resumed, anything else is refused. Files appear under their names when whole.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

import yaml

from bert_tf.config import lower_case_of
from bert_tf.errors import InputError
from bert_tf.output_file import whole_file

RUN_CONFIG = "run_config.yaml"
BERT_CONFIG = "bert_config.json"
VOCAB = "vocab.txt"
LABELS = "labels.txt"
CHECKPOINT = "bert_model.ckpt"
EVAL_RESULTS = "eval_results.json"
EVAL_RESULTS_TEXT = "eval_results.txt"
TEST_RESULTS = "test_results.tsv"
TRAIN_LOG = "train_log.jsonl"
PREDICTIONS = "predictions.json"
NBEST_PREDICTIONS = "nbest_predictions.json"
NULL_ODDS = "null_odds.json"
NULL_THRESHOLD = "null_threshold.json"
EVAL_ERRORS = "eval_errors.jsonl"
CONFUSION_MATRIX = "confusion_matrix.png"
CALIBRATION = "calibration.png"
LOCK = ".lock"
BEST = "best"  # the best of a run's models, by evaluations while it trained
# What a model needs beside its checkpoint.
MODEL_FILES = (BERT_CONFIG, VOCAB, LABELS, NULL_THRESHOLD)
# What a run may write; --overwrite removes these and nothing else.
RUN_FILES = (
    RUN_CONFIG,
    BERT_CONFIG,
    VOCAB,
    LABELS,
    f"{CHECKPOINT}.*",
    "resume",
    BEST,
    ".best.*",
    EVAL_RESULTS,
    EVAL_RESULTS_TEXT,
    "test_results*.tsv",
    "dev_predictions*",
    "test_predictions*",
    PREDICTIONS,
    NBEST_PREDICTIONS,
    NULL_ODDS,
    NULL_THRESHOLD,
    "eval_errors*.jsonl",
    "confusion_matrix*.png",
    "calibration*.png",
    TRAIN_LOG,
    "events.out.tfevents.*",
    "seed_*",
)
# What a run that was cut off can go on from.
PROGRESS = ("resume/checkpoint", f"{CHECKPOINT}.index", "seed_*")
# Of a run that has none of these, nothing is kept: what it has logged, or found, may be wanted.
_WORTH_KEEPING = (
    *PROGRESS,
    TRAIN_LOG,
    EVAL_RESULTS,
    PREDICTIONS,
    "test_results*.tsv",
    "*_predictions.*",
)


@contextlib.contextmanager
def claim(
    path: str | os.PathLike[str],
    configuration: Mapping[str, Any],
    results: tuple[str, ...],
    *,
    unimportant: frozenset[str] = frozenset(),
    overwrite: bool = False,
) -> Iterator[pathlib.Path]:
    """Claims a folder for a new run, or for going on with an unfinished one.

    Args:
        path: the folder; made if there is none.
        configuration: the run's settings, written to ``run_config.yaml``.
        results: the files that a finished run of these settings has.
        unimportant: settings that do not change what the run computes.
        overwrite: whether to remove what an earlier run left.

    Yields:
        The folder, locked; a run that finds ``resume/`` in it goes on from there.

    Raises:
        InputError: if another process uses the folder, if it holds another run, a finished one, or
            files that are no run's, or cannot be written.
    """
    folder = pathlib.Path(path)

    def check() -> None:
        if folder.is_dir():
            _refuse_other_files(folder)
            if not overwrite:
                _refuse_other_runs(folder, configuration, results, unimportant)

    created = not folder.exists()
    check()  # before the lock, so that a folder which is refused does not even get that
    with locked(folder, "--output_dir"):
        check()  # and again, because it may have changed before it was locked
        if overwrite:
            _remove_run(folder)
        write_text(folder / RUN_CONFIG, yaml.safe_dump(dict(configuration), sort_keys=False))
        try:
            yield folder
        except (InputError, KeyboardInterrupt):
            if not _has_any(folder, _WORTH_KEEPING):
                _remove_run(folder)
                if created:
                    (folder / LOCK).unlink()
                    with contextlib.suppress(OSError):  # not empty: not all of it was the run's
                        folder.rmdir()
            raise


@contextlib.contextmanager
def reopen(path: str | os.PathLike[str], needs_vocab: bool = True) -> Iterator[pathlib.Path]:
    """Claims the folder of a finished run, to evaluate or predict with its model.

    Args:
        path: the folder.
        needs_vocab: see ``require_model``.

    Yields:
        The folder, locked.

    Raises:
        InputError: if there is none, or another process uses it.
    """
    folder = pathlib.Path(path)
    require_model(folder, needs_vocab)
    with locked(folder, "--output_dir"):
        yield folder


def has_progress(folder: pathlib.Path) -> bool:
    """Whether a folder holds a run, or what an unfinished one can go on from."""
    return _has_any(folder, PROGRESS)


def require_model(folder: pathlib.Path, needs_vocab: bool = True) -> None:
    """Checks that a folder holds a trained model.

    Args:
        folder: which.
        needs_vocab: whether its vocabulary must be there too; pretraining can do without one.

    Raises:
        InputError: naming the file that is not there.
    """
    for name in (RUN_CONFIG, BERT_CONFIG, *([VOCAB] * needs_vocab), f"{CHECKPOINT}.index"):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: not the folder of a trained model: it has no {name}. Give the "
                "--output_dir of a finished training run"
            )


def read_run_config(path: pathlib.Path) -> dict[str, Any]:
    """Reads ``run_config.yaml``, or a file given with ``--config``.

    Raises:
        InputError: if it cannot be read or is no YAML mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected lines like 'learning_rate: 5.0e-05'")
    return values


def lower_case_of_checkpoint(checkpoint: str | os.PathLike[str]) -> bool | None:
    """Whether the model of a checkpoint lower-cases.

    Returns:
        What the run that made it was given, or else what the name of its folder says, as those of
        the released checkpoints do; None if neither tells.
    """
    folder = pathlib.Path(checkpoint).resolve().parent
    run_config = folder / RUN_CONFIG
    stored = read_run_config(run_config) if run_config.is_file() else {}
    lower_case = stored.get("do_lower_case")
    return lower_case_of(folder.name) if lower_case is None else bool(lower_case)


def remember_inputs(folder: pathlib.Path, inputs: Mapping[str, Any]) -> None:
    """Notes what a run depends on beside its settings, or compares it where a run goes on.

    Args:
        folder: the run's.
        inputs: what they are called -> what they are like, as JSON has it.

    Raises:
        InputError: naming those that are not as they were when the run began.
    """
    path = folder / "resume" / "inputs.json"
    if path.exists() and (folder / "resume" / "checkpoint").exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        different = [name for name in inputs if stored.get(name) != inputs[name]]
        if different:
            raise InputError(
                f"--output_dir {folder}: since the run there was cut off, {', '.join(different)} "
                "changed, so it cannot go on as it began; bring back what was there (see "
                f"{path}), or give another folder, or --overwrite to begin anew"
            )
        return
    path.parent.mkdir(exist_ok=True)
    write_json(path, inputs)


def write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json_text(values))


def json_text(values: Mapping[str, Any]) -> str:
    """What a JSON file holds."""
    return json.dumps(values, indent=2) + "\n"


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file, whole or not at all.

    Raises:
        InputError: if it cannot be written; what was there before is still there.
    """
    write_bytes(path, text.encode())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """As ``write_text``."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def of_part(name: str, part: str) -> str:
    """The name of a file about one of several test or dev sets: ``test_results_mm.tsv``."""
    path = pathlib.Path(name)
    return f"{path.stem}_{part}{path.suffix}" if part else name


def write_table(path: pathlib.Path, rows: Iterable[Iterable[object]]) -> None:
    """Writes a line for each row, with tabs between its values; whole or not at all."""
    write_lines(path, ("\t".join(map(str, row)) for row in rows))


def write_lines(path: pathlib.Path, lines: Iterable[str]) -> None:
    """Writes lines, whole or not at all."""
    write_text(path, "".join(f"{line}\n" for line in lines))


@contextlib.contextmanager
def locked(folder: pathlib.Path, flag: str) -> Iterator[None]:
    """Makes a folder if there is none, and keeps other processes from claiming it.

    Args:
        folder: which.
        flag: what to call it in an error, with its dashes.

    Raises:
        InputError: if another process has it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+")
    except OSError as error:
        raise InputError(f"{flag} {folder}: cannot write there: {error.strerror}") from error
    with file:
        try:
            # The kernel lets go of it when the process ends, however it ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{flag} {folder}: in use by another process{_owner(file)}; wait for it, or give "
                "another name"
            ) from error
        with contextlib.suppress(OSError):  # it is for messages only; a full disk shows later
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        yield


def _has_any(folder: pathlib.Path, patterns: Iterable[str]) -> bool:
    """Whether there is a file of such a name that is not empty."""
    return any(item.stat().st_size for pattern in patterns for item in folder.glob(pattern))


def _owner(file: IO[str]) -> str:
    file.seek(0)
    process = file.read().strip()
    return f" (number {process})" if process else ""


def _refuse_other_files(folder: pathlib.Path) -> None:
    """With --overwrite too: what a released checkpoint's folder holds has the names of a run's."""
    others = sorted(item.name for item in folder.iterdir() if item.name != LOCK)
    if others and not (folder / RUN_CONFIG).exists():
        raise InputError(
            f"--output_dir {folder}: not empty, and no run of bert-tf (it holds "
            f"{', '.join(others[:4])}{', …' if len(others) > 4 else ''}); give an empty folder"
        )


def _refuse_other_runs(
    folder: pathlib.Path,
    configuration: Mapping[str, Any],
    results: tuple[str, ...],
    unimportant: frozenset[str],
) -> None:
    if not (folder / RUN_CONFIG).exists():
        return
    stored = read_run_config(folder / RUN_CONFIG)
    different = [
        f"{key} is {stored.get(key)!r} there and {configuration.get(key)!r} here"
        for key in {**stored, **configuration}
        if key not in unimportant and stored.get(key) != configuration.get(key)
    ]
    if different:
        raise InputError(
            f"--output_dir {folder}: holds a run of another configuration: "
            f"{'; '.join(different)}. Give another folder, or --overwrite to replace that run"
        )
    if all((folder / name).exists() for name in results):
        raise InputError(
            f"--output_dir {folder}: this run is finished; give another folder, or --overwrite to "
            "run it again"
        )


def _remove_run(folder: pathlib.Path) -> None:
    # The configuration goes last: a removal that is cut off leaves a folder that is still a run's.
    for pattern in (*RUN_FILES[1:], RUN_CONFIG):
        for item in folder.glob(pattern):
            if item.is_dir():
                shutil.rmtree(item)
            else:
                item.unlink()

"""Takes a served model, returns a version's folder, whole or not at all; next: exporter.

The folder is what TF Serving loads: ``saved_model.pb``, ``variables/`` and ``assets.extra/``, in
which are the requests that warm a server up and what a reader wants to know of the model.
"""

import contextlib
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from bert_tf.errors import InputError, reason
from bert_tf.export.served_model import (
    DEFAULT,
    EXAMPLES,
    EXTRA,
    PAIRS,
    ServedModel,
    Signature,
    of_examples,
    pairs_and_examples,
    saveable,
    trace,
    versions,
)
from bert_tf.export.warm_up import WARM_UP, write_warm_up
from bert_tf.output_file import whole_folder
from bert_tf.run_folder import locked

# A version's folder while it is written, as whole_folder names it; others write here as well.
_UNFINISHED = re.compile(r"\.[0-9]+\.[0-9a-f]{8}\.tmp")


def next_version(export_dir: pathlib.Path, version: int | None) -> int:
    """The number of a new version.

    Args:
        export_dir: the folder of the versions.
        version: the one that is asked for; None for one more than the highest that is there.

    Raises:
        InputError: if it is there already.
    """
    there = versions(export_dir)
    if version is None:
        return max(there, default=0) + 1
    if version in there:
        raise InputError(
            f"--export_dir {export_dir}: version {version} is there already; a server may be using "
            "it: give another --version, or none for the next one"
        )
    return version


@contextlib.contextmanager
def new_version(
    export_dir: pathlib.Path, version: int | None
) -> Iterator[tuple[pathlib.Path, int]]:
    """A folder to write a version to, which gets its number when all of it is there.

    Args:
        export_dir: the folder of the versions; made if there is none.
        version: see ``next_version``.

    Yields:
        The folder, whose name no server takes for a version, and the number.

    Raises:
        InputError: if it cannot be written.
    """
    with locked(export_dir, "--export_dir"):
        number = next_version(export_dir, version)
        for left in export_dir.iterdir():
            if _UNFINISHED.fullmatch(left.name):  # by an export that was killed
                shutil.rmtree(left, ignore_errors=True)
        with whole_folder(export_dir / str(number)) as folder:
            yield folder, number


def save(module: tf.Module, folder: pathlib.Path, signatures: Any) -> None:
    """Writes ``saved_model.pb`` and ``variables/``.

    Args:
        module: holds the weights.
        folder: where they go.
        signatures: traced functions by name, or one.

    Raises:
        InputError: if there is no room for it, or no right to write.
    """
    try:
        tf.saved_model.save(module, str(folder), signatures=signatures)
    except tf.errors.OpError as error:
        raise InputError(f"{folder}: cannot write the SavedModel: {reason(error)}") from error


def write_saved_model(
    served: ServedModel, folder: pathlib.Path, *, batch_size: int | None
) -> dict[str, Any]:
    """Writes the graph, the weights and the warm-up requests.

    Args:
        served: the model.
        folder: an empty one.
        batch_size: of every request; None for any.

    Returns:
        The traced functions by name.

    Raises:
        InputError: if there is no room for it, or no right to write.
    """
    signatures = dict(served.signatures)
    if PAIRS in signatures:
        pairs, examples = pairs_and_examples(signatures[PAIRS], batch_size)
        signatures[PAIRS] = pairs
    else:  # it calls the other, whose graph is there once
        default = signatures[DEFAULT].inputs
        examples = of_examples(Signature(default, lambda inputs: dict(traced[DEFAULT](**inputs))))
    module, traced = saveable(signatures, batch_size)
    traced[EXAMPLES] = trace(examples, batch_size)
    save(module, folder, traced)
    extra = folder / EXTRA
    extra.mkdir(exist_ok=True)
    try:
        write_warm_up(served, extra / WARM_UP, batch_size=batch_size)
    except tf.errors.OpError as error:
        raise InputError(
            f"{extra / WARM_UP}: cannot write the warm-up requests: {reason(error)}"
        ) from error
    return traced

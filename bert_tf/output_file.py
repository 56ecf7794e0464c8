"""Takes the name of a file or folder, returns it written, whole or not at all; next: run_folder."""

import contextlib
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from typing import IO

from bert_tf.errors import InputError


def check_output(
    path: pathlib.Path, inputs: Iterable[pathlib.Path], *, overwrite: bool, example: str
) -> None:
    """Checks that an ``--output_file`` can be written, and makes its folder if there is none.

    Args:
        path: the file.
        inputs: the files that the command reads.
        overwrite: whether to replace a file that is there.
        example: what such a file may be called.

    Raises:
        InputError: if it is a folder, is there already, is one of the inputs, or cannot be written.
    """
    if path.is_dir():
        raise InputError(f"--output_file {path}: a folder; give a file, as in {path}/{example}")
    if path.exists() and not overwrite:
        raise InputError(
            f"--output_file {path}: is there already; give another name, or --overwrite"
        )
    if path.resolve() in {other.resolve() for other in inputs}:
        raise InputError(f"--output_file {path}: one of the --input_file; give another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()  # better now than after the work
    except OSError as error:
        raise InputError(f"--output_file {path}: cannot write it: {error.strerror}") from error


def reserve(file: IO[bytes], size: int) -> None:
    """Makes room on the disk for so many bytes of a new file, where the system can do that.

    Raises:
        OSError: if there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a file its name when all of it is written.

    Yields:
        A name in the same folder, to write it under.

    Raises:
        InputError: if it cannot be written; what was there before is still there.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot write it: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def whole_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder its name when all of it is written.

    Args:
        target: a name that is not taken, or an empty folder's.

    Yields:
        A folder beside it, to write to, which vanishes if something fails.

    Raises:
        InputError: if it cannot be written.
    """
    final = target.resolve()
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(final)
    except OSError as error:
        raise InputError(f"{target}: cannot write it: {error.strerror or error}") from error
    except InputError as error:
        if str(temporary) not in str(error):
            raise
        # Who reads it knows the folder by the name that it was to have.
        raise InputError(str(error).replace(str(temporary), str(target))) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

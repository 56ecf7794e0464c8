"""Takes a run's settings, returns the file of a split; next: the tasks' own readers."""

import pathlib
from collections.abc import Sequence

from bert_tf.config import SplitFiles
from bert_tf.errors import InputError, listed


def given_split_file(settings: SplitFiles, split: str) -> pathlib.Path | None:
    """The file that is given for a split; None if it is to be found in the data folder.

    Raises:
        InputError: if neither a file nor a data folder is given.
    """
    given = getattr(settings, f"{split}_file")
    if given is None and settings.data_dir is None:
        raise InputError(
            f"--data_dir or --{split}_file is missing: where are the {split} examples?"
        )
    return None if given is None else pathlib.Path(given)


def find_split_file(settings: SplitFiles, split: str, names: Sequence[str]) -> pathlib.Path:
    """The file of a split: the one that is given, or else that of the data folder.

    Args:
        settings: where the files are.
        split: train, dev or test.
        names: that its file may have in the data folder.

    Raises:
        InputError: if there is none, or there are several.
    """
    given = given_split_file(settings, split)
    if given is not None:
        return given
    assert settings.data_dir is not None
    paths = (pathlib.Path(settings.data_dir) / name for name in names)
    found = [path for path in paths if path.is_file()]
    if len(found) != 1:
        there = f"it has {listed(path.name for path in found)}" if found else "there is none"
        raise InputError(
            f"--data_dir={settings.data_dir}: expected one of {', '.join(names)}, but {there}; "
            f"give the file by --{split}_file"
        )
    return found[0]

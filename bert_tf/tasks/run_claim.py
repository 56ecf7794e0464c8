"""Takes a run's settings, returns its output folder, claimed by the chief; next: fine_tuning."""

import contextlib
import pathlib
from collections.abc import Iterator

from bert_tf import run_folder
from bert_tf.config import Training, stored_settings, unimportant_settings
from bert_tf.replicas import agreed, is_chief, lost_workers_named


@contextlib.contextmanager
def claimed(settings: Training, command: str, results: tuple[str, ...]) -> Iterator[pathlib.Path]:
    """The output folder, for a new run or for going on with an unfinished one.

    Of several workers, the chief claims and writes it. The others read what is in it once that is
    done, and so must see the same folder.

    Args:
        settings: the run's.
        command: that runs it.
        results: the files that say that a run is finished.

    Raises:
        InputError: as ``run_folder.claim``, or if another worker is gone.
    """
    if not is_chief():
        agreed(0)
        yield pathlib.Path(settings.output_dir or "")
        return
    with (
        run_folder.claim(
            settings.output_dir or "",
            {"command": command, **stored_settings(settings)},
            results,
            unimportant=unimportant_settings(type(settings)),
            overwrite=settings.overwrite,
        ) as folder,
        lost_workers_named(),  # here already, because an InputError leaves no folder without a use
    ):
        agreed(0)
        yield folder

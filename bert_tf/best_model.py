"""Takes a run's evaluations while it trains, returns its best model in a folder apart; next: tasks.

The last weights of a run need not be its best. The best so far, by the loss of held-out examples,
are in a folder of their own, ``best/``, whole at any time, and used like any model's folder.
"""

import json
import logging
import pathlib
import shutil
from collections.abc import Callable, Mapping

from bert_tf.errors import InputError
from bert_tf.output_file import whole_folder
from bert_tf.run_folder import BEST, EVAL_RESULTS, RUN_CONFIG, write_json

log = logging.getLogger(__name__)

_NEW, _OLD = ".best.new", ".best.old"


def keep_if_best(
    folder: pathlib.Path,
    step: int,
    results: Mapping[str, float],
    name: str,
    write: Callable[[pathlib.Path], None],
) -> bool:
    """Keeps a run's model if no earlier one was as good.

    A run that is resumed may come to an evaluation for the second time; the model is kept once.

    Args:
        folder: of the run.
        step: how many updates the model has had.
        results: of its evaluation.
        name: the one that decides; the lower, the better.
        write: writes the model to a folder.

    Returns:
        Whether it was kept.

    Raises:
        InputError: if it cannot be written; the best one before it is still there.
    """
    best, new, old = (folder / part for part in (BEST, _NEW, _OLD))
    if not best.exists() and old.exists():
        _rename(old, best)  # a run ended between the two renames below
    if best.exists():
        kept = json.loads((best / EVAL_RESULTS).read_text())
        if kept[name] <= results[name]:
            return False
    shutil.rmtree(new, ignore_errors=True)
    with whole_folder(new) as temporary:
        write(temporary)
        shutil.copyfile(folder / RUN_CONFIG, temporary / RUN_CONFIG)
        write_json(temporary / EVAL_RESULTS, {**results, "global_step": step})
    shutil.rmtree(old, ignore_errors=True)
    if best.exists():
        _rename(best, old)
    _rename(new, best)
    shutil.rmtree(old, ignore_errors=True)
    log.info("step %d is the best so far (%s %.4f): %s", step, name, results[name], best)
    return True


def _rename(source: pathlib.Path, target: pathlib.Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        raise InputError(f"{target}: cannot write it: {error.strerror}") from error

"""Takes a run's evaluations while it trains, returns its best model in a folder apart; next: tasks.

The last weights of a run need not be its best. The best so far, by what held-out examples say, are
in a folder of their own, ``best/``, whole at any time, and used like any model's folder.
"""

import contextlib
import json
import logging
import math
import pathlib
import shutil
from collections.abc import Callable, Iterator

from bert_tf.errors import InputError
from bert_tf.run_folder import BEST, EVAL_RESULTS, RUN_CONFIG, write_json

log = logging.getLogger(__name__)

_NEW, _OLD = ".best.new", ".best.old"


def keep_if_best(
    folder: pathlib.Path,
    step: int,
    evaluate: Callable[[pathlib.Path], dict[str, float]],
    name: str,
    write: Callable[[pathlib.Path], None],
    *,
    lower_is_better: bool,
) -> dict[str, float]:
    """Evaluates a run's model, and keeps it if no earlier one was as good.

    A run that is resumed may come to an evaluation for the second time; the model is kept once.

    Args:
        folder: of the run.
        step: how many updates the model has had.
        evaluate: returns results by name; what it writes to the folder it gets is kept beside the
            model.
        name: the result that decides. One that is not finite is never better.
        write: writes the model to a folder.
        lower_is_better: as for a loss; else the higher.

    Returns:
        The results.

    Raises:
        InputError: if the model cannot be written; the best one before it is still there.
    """
    best, new, old = (folder / part for part in (BEST, _NEW, _OLD))
    with _writing(best):
        if not best.exists() and old.exists():
            old.rename(best)  # a run ended between the two renames below
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
    try:
        results = evaluate(new)
        if _is_better(results[name], _kept(best, name), lower_is_better):
            with _writing(best):
                write(new)
                shutil.copyfile(folder / RUN_CONFIG, new / RUN_CONFIG)
                write_json(new / EVAL_RESULTS, {**results, "global_step": step})
                shutil.rmtree(old, ignore_errors=True)
                if best.exists():
                    best.rename(old)
                new.rename(best)
            shutil.rmtree(old, ignore_errors=True)
            log.info("step %d is the best so far (%s %.4f): %s", step, name, results[name], best)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return results


def _kept(best: pathlib.Path, name: str) -> float | None:
    """The result of the model that is kept; None if there is none."""
    if not best.exists():
        return None
    return float(json.loads((best / EVAL_RESULTS).read_text())[name])


def _is_better(result: float, kept: float | None, lower_is_better: bool) -> bool:
    if not math.isfinite(result):
        return False
    # What is kept may not be finite if an earlier version kept it.
    if kept is None or not math.isfinite(kept):
        return True
    return result < kept if lower_is_better else result > kept


@contextlib.contextmanager
def _writing(best: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{best}: cannot write it: {error.strerror or error}") from error

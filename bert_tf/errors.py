"""Takes a user's mistake, returns the exception that says it, and words for it; next: config."""

import difflib
import os
import re
import sys
from collections.abc import Collection, Iterable
from typing import NoReturn


class InputError(ValueError):
    """A mistake in what the user gave: a file, a flag, a configuration, an argument.

    The message names the file and line, field, tensor or flag, says what was expected and what
    came, and what to do. The command line prints it without a traceback and exits with 2; any
    other exception is a defect of this project and keeps its traceback.
    """


class LostWorkerError(InputError):
    """Another process of a run is gone, or did not come up.

    TensorFlow waits for it when the process ends, perhaps for ever, so ``end_at_once`` is for this.
    """


def end_at_once(error: Exception) -> NoReturn:
    """Ends the process as after any InputError, but leaves out what is done at the end of one."""
    print(f"bert-tf: {error}", file=sys.stderr, flush=True)
    os._exit(2)


def reason(error: Exception) -> str:
    """Why an operating system's or TensorFlow's call failed, in one line."""
    text = str(getattr(error, "message", None) or getattr(error, "strerror", None) or error)
    text = re.sub(r"\{\{.*?\}\} ?|\[Op:\w+\].*", "", text)  # where in TensorFlow it happened
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__


def listed(names: Iterable[str], most: int = 6) -> str:
    """Names for a message, the first few of many: ``a, b and 7 more``."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def did_you_mean(given: object, known: Collection[str]) -> str:
    """The end of a sentence about an unknown name: the known one that is nearest, or a stop."""
    nearest = difflib.get_close_matches(str(given), list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else "."

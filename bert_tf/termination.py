"""Takes a SIGTERM, returns the wish to stop, which training grants when it can; next: training.

Machines that are lent send one before they are taken away.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

EXIT_STATUS = 128 + signal.SIGTERM  # what a shell reports for a process that a SIGTERM ended


class Terminated(Exception):  # noqa: N818 - not an error
    """A run stopped because it was asked to; the message says how to go on with it.

    The command line prints the message and exits with EXIT_STATUS.
    """


@contextlib.contextmanager
def deferred_termination() -> Iterator[threading.Event]:
    """Notes a first SIGTERM instead of ending the process; a second one acts as before.

    Outside of the main thread, where Python allows no handlers, signals act as they did.

    Yields:
        What is set by a first SIGTERM.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return

    def note(number: int, frame: Any) -> None:
        requested.set()
        signal.signal(signal.SIGTERM, previous)

    # None stands for a handler that Python has not set and cannot set again.
    previous = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    signal.signal(signal.SIGTERM, note)
    try:
        yield requested
    finally:
        signal.signal(signal.SIGTERM, previous)

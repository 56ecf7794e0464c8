"""Takes a SIGTERM or Ctrl-C, returns the wish to stop, which training grants; next: training.

Machines that are lent send a SIGTERM before they are taken away.
"""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Terminated(Exception):  # noqa: N818 - not an error
    """A run stopped because it was asked to; the message says how to go on with it.

    The command line prints the message and exits with ``exit_status``.

    Args:
        message: what there is to say.
        asked_by: the signal.
    """

    def __init__(self, message: str, asked_by: signal.Signals = signal.SIGTERM) -> None:
        super().__init__(message)
        self.exit_status = 128 + asked_by  # what a shell reports for a process that it ended


class _BrokenOff(BaseException):
    """Like KeyboardInterrupt: code that takes any error does not take it."""


@dataclasses.dataclass
class StopRequest:
    """Whether a run was asked to stop.

    Attributes:
        asked_by: the signal; None while there was none.
    """

    asked_by: signal.Signals | None = None
    _breaks_off: bool = dataclasses.field(default=False, init=False)

    def unless_asked(self, work: Callable[[], Result]) -> Result | None:
        """Does work that a first signal breaks off, wherever it is: it can be done again.

        Returns:
            What ``work`` returns; None if the signal came before its end.
        """
        if self.asked_by:
            return None
        try:
            try:
                self._breaks_off = True
                return work()
            finally:
                self._breaks_off = False
        except _BrokenOff:
            return None

    def _note(self, number: int) -> None:
        self.asked_by = signal.Signals(number)
        if self._breaks_off:
            raise _BrokenOff


@contextlib.contextmanager
def deferred_termination() -> Iterator[StopRequest]:
    """Notes a first SIGTERM or SIGINT instead of ending the process; the next acts as before.

    A signal that is ignored stays so, as do interrupts in a shell's background. Outside of the
    main thread, where Python allows no handlers, signals act as they did.

    Yields:
        What a first signal is noted in.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: Any) -> None:
        restore()
        request._note(number)

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    # None stands for a handler that Python has not set and cannot set again.
    handlers = {number: signal.getsignal(number) or signal.SIG_DFL for number in _SIGNALS}
    previous = {n: handler for n, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in previous:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()

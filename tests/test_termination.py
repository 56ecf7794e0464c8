"""Tests of bert_tf.termination."""

import signal
import threading

import pytest

from bert_tf.cli import main as command_line
from bert_tf.termination import Terminated, deferred_termination


@pytest.fixture
def received():
    """The signals that reach whoever listened before."""
    numbers = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


def test_a_first_sigterm_is_noted_and_a_second_acts_as_before(received):
    with deferred_termination() as requested:
        assert not requested.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert requested.is_set() and received == []
        signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]


def test_afterwards_a_sigterm_acts_as_before(received):
    with deferred_termination():
        pass
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyError), deferred_termination():
        raise KeyError
    signal.raise_signal(signal.SIGTERM)
    assert received == [signal.SIGTERM] * 2


def test_an_interrupt_stays_an_interrupt():
    # A shell starts commands in the background with interrupts ignored.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), deferred_termination():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_thread_leaves_signals_alone(received):
    found = []

    def work():
        with deferred_termination() as requested:
            found.append((signal.getsignal(signal.SIGTERM), requested.is_set()))

    handler = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(handler, False)]


def test_the_command_says_where_it_stopped_and_exits_with_143(monkeypatch, capsys):
    class Stopping:
        @staticmethod
        def run(arguments):
            raise Terminated("stopped after step 3")

    monkeypatch.setattr(command_line.importlib, "import_module", lambda name: Stopping)
    assert command_line.main(["predict"]) == 143
    captured = capsys.readouterr()
    assert captured.err == "bert-tf: stopped after step 3\n" and captured.out == ""

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
    with deferred_termination() as request:
        assert request.asked_by is None
        signal.raise_signal(signal.SIGTERM)
        assert request.asked_by is signal.SIGTERM and received == []
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


def test_a_first_sigterm_breaks_work_off(received):
    def work(asks):
        try:
            if asks:
                signal.raise_signal(signal.SIGTERM)
        except Exception:  # as code has it that takes any error
            pytest.fail("it is no error of the work")
        return 7

    with deferred_termination() as request:
        assert request.unless_asked(lambda: work(asks=False)) == 7
        assert request.unless_asked(lambda: work(asks=True)) is None
        assert request.asked_by is signal.SIGTERM and received == []
        assert request.unless_asked(lambda: work(asks=False)) is None
        signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]
    with deferred_termination() as request:
        assert request.unless_asked(lambda: work(asks=False)) == 7
        signal.raise_signal(signal.SIGTERM)  # after the work, it is noted
        assert request.asked_by is signal.SIGTERM


@pytest.fixture
def interrupts():
    """Sets what an interrupt does; a shell starts commands in the background with none."""
    previous = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, previous)


def test_a_first_interrupt_is_noted_and_a_second_interrupts(interrupts):
    interrupts(signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), deferred_termination() as request:
        signal.raise_signal(signal.SIGINT)
        assert request.asked_by is signal.SIGINT
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_that_is_ignored_stays_so(interrupts):
    interrupts(signal.SIG_IGN)
    with deferred_termination() as request:
        signal.raise_signal(signal.SIGINT)
        assert request.asked_by is None
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_a_thread_leaves_signals_alone(received):
    found = []

    def work():
        with deferred_termination() as request:
            found.append((signal.getsignal(signal.SIGTERM), request.asked_by))

    handler = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(handler, None)]


@pytest.mark.parametrize(("asked_by", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_says_where_it_stopped(asked_by, status, monkeypatch, capsys):
    class Stopping:
        @staticmethod
        def run(arguments):
            raise Terminated("stopped after step 3", asked_by)

    monkeypatch.setattr(command_line.importlib, "import_module", lambda name: Stopping)
    assert command_line.main(["predict"]) == status
    captured = capsys.readouterr()
    assert captured.err == "bert-tf: stopped after step 3\n" and captured.out == ""

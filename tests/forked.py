"""Processes that begin with TensorFlow imported: that is most of what a short one takes."""

import multiprocessing
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref

# What runs a command as ``python -m bert_tf.cli.main`` does.
COMMAND = "import sys; from bert_tf.cli.main import main; sys.exit(main(sys.argv[1:]))"

_FORK = multiprocessing.get_context("forkserver")
# A server forks the processes: it has imported what they need and has run nothing of it.
_FORK.set_forkserver_preload(
    ["tensorflow", "bert_tf.tasks.classification", "bert_tf.tasks.pretraining", "forked"]
)


class Forked:
    """A process that runs code as ``python -c`` does, with what tests need of subprocess.Popen.

    Args:
        code: what it runs.
        arguments: its ``sys.argv[1:]``.
        environment: further variables; what is read while TensorFlow is imported comes too late.
    """

    def __init__(self, code, *arguments, **environment):
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder)
        self._said = [pathlib.Path(folder, name) for name in ("stdout", "stderr")]
        for file in self._said:
            file.touch()
        arguments = [str(argument) for argument in arguments]
        self._process = _FORK.Process(target=_run, args=(code, arguments, environment, self._said))
        self._process.start()

    def poll(self):
        """How it ended, as a subprocess does; None while it runs."""
        return self._process.exitcode

    returncode = property(poll)

    @property
    def pid(self):
        return self._process.pid

    def send_signal(self, sent):
        if self.poll() is None:
            os.kill(self.pid, sent)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("a forked process", timeout)
        return self.poll()

    def communicate(self, timeout=None):
        """Waits for its end; returns what it wrote to stdout and to stderr."""
        self.wait(timeout)
        return tuple(file.read_text("utf-8") for file in self._said)


def run_forked(code, *arguments, **environment):
    """As ``subprocess.run``: runs a Forked to its end."""
    process = Forked(code, *arguments, **environment)
    output, errors = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


def _run(code, arguments, environment, files):
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})

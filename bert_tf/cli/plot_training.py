"""``bert-tf plot_training``: a picture of what a training run has logged."""

import dataclasses
import sys
from collections.abc import Sequence

from bert_tf.cli import flags
from bert_tf.config import setting
from bert_tf.errors import InputError

USAGE = """usage: bert-tf plot_training --log=DIR[,DIR ...] --output=FILE.png

Draws the curves of one or several training runs, also of runs that are not finished: losses,
accuracies, learning rate, gradient norm, speed. A panel for each, a color for each run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot:
    """The settings of ``bert-tf plot_training``."""

    log: str | None = setting(
        None, "The output_dir of a training run, or its train_log.jsonl; several with commas."
    )
    output: str = setting("training.png", "The picture.")

    def __post_init__(self) -> None:
        if not self.log or not all(self.log.split(",")):
            raise InputError("--log is missing: give the output_dir of a training run")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    settings, positional = flags.parse(Plot, arguments, USAGE)
    flags.refuse_positional(positional)
    from bert_tf.training_plot import plot_training

    plot_training((settings.log or "").split(","), settings.output)
    print(f"the picture is in {settings.output}", file=sys.stderr)

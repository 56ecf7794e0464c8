"""``bert-tf run_multiple_choice``: which of several texts goes on from another."""

import json
from collections.abc import Sequence

from bert_tf.cli import flags
from bert_tf.config import MultipleChoice

USAGE = """usage: bert-tf run_multiple_choice --data_dir=DIR --checkpoint=DIR \\
           --do_train --do_eval --output_dir=DIR [--flags]

Fine-tunes a model that chooses one of several texts, evaluates it and predicts. The files are
those of SWAG (train.csv, val.csv, test.csv), or JSONL with "context", "choices", "label", and
"question" if there is one."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command and prints the evaluation's results as JSON."""
    settings, positional = flags.parse(MultipleChoice, arguments, USAGE)
    flags.refuse_positional(positional)
    flags.prepare_tensorflow()
    from bert_tf.tasks import multiple_choice

    results = multiple_choice.run(settings)
    if results:
        print(json.dumps(results, indent=2))

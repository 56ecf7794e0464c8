"""``bert-tf run_classifier``: flags as in the original's run_classifier.py."""

import json
from collections.abc import Sequence

from bert_tf.cli import flags
from bert_tf.config import Classification

USAGE = """usage: bert-tf run_classifier --task_name=MRPC --data_dir=DIR --checkpoint=DIR \\
           --do_train --do_eval --output_dir=DIR [--flags]

Fine-tunes a classifier, evaluates it and predicts: a GLUE task by its name, or your own TSV, CSV
or JSONL files with named columns (single label, several labels, regression; one text or two)."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command and prints the evaluation's results as JSON."""
    settings, positional = flags.parse(Classification, arguments, USAGE)
    flags.refuse_positional(positional)
    flags.prepare_tensorflow()
    from bert_tf.tasks import classification

    results = classification.run(settings)
    if results:
        print(json.dumps(results, indent=2))

"""``bert-tf run_squad``: flags as in the original's run_squad.py."""

import json
from collections.abc import Sequence

from bert_tf.cli import flags
from bert_tf.config import QuestionAnswering

USAGE = """usage: bert-tf run_squad --checkpoint=DIR --train_file=train-v1.1.json --do_train \\
           --predict_file=dev-v1.1.json --do_predict --output_dir=DIR [--flags]

Fine-tunes a model that finds the answer to a question in a context, and evaluates it: SQuAD 1.1,
SQuAD 2.0 (--version_2_with_negative), or your own questions in their form. Writes
predictions.json, nbest_predictions.json and, for 2.0, null_odds.json."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command and prints the evaluation's results as JSON."""
    settings, positional = flags.parse(QuestionAnswering, arguments, USAGE)
    flags.refuse_positional(positional)
    flags.prepare_tensorflow()
    from bert_tf.tasks import question_answering

    results = question_answering.run(settings)
    if results:
        print(json.dumps(results, indent=2))

"""``bert-tf run_tagger``: words with tags."""

import json
from collections.abc import Sequence

from bert_tf.cli import flags
from bert_tf.config import Tagging

USAGE = """usage: bert-tf run_tagger --data_dir=DIR --checkpoint=DIR [--crf] \\
           --do_train --do_eval --output_dir=DIR [--flags]

Fine-tunes a tagger of words (entities, parts of speech, chunks), evaluates it and predicts. The
files are columns as in CoNLL-2003, CoNLL-U, or JSONL with "tokens" and "tags"."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command and prints the evaluation's results as JSON."""
    settings, positional = flags.parse(Tagging, arguments, USAGE)
    flags.refuse_positional(positional)
    flags.prepare_tensorflow()
    from bert_tf.tasks import tagging

    results = tagging.run(settings)
    if results:
        print(json.dumps(results, indent=2))

"""``bert-tf create_pretraining_data``: flags as in the original's create_pretraining_data.py."""

import json
from collections.abc import Sequence

from bert_tf.cli import flags
from bert_tf.config import PretrainingData

USAGE = """usage: bert-tf create_pretraining_data --input_file=TEXT --output_file=RECORDS \\
           --vocab_file=vocab.txt [--flags]

Makes masked-LM / next-sentence TFRecords from text: one sentence a line, a blank line between
documents. Beside them goes a manifest, RECORDS.manifest.json. The same command goes on with a run
that was cut off."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command and prints what there is to say of the records, as JSON."""
    settings, positional = flags.parse(PretrainingData, arguments, USAGE)
    flags.refuse_positional(positional)
    flags.show_log()
    if settings.runner:
        from bert_tf.pretraining_beam import create
    else:
        from bert_tf.pretraining_files import create

    manifest = create(settings)
    statistics = dict(manifest["statistics"])
    del statistics["lengths"]  # a long list, for the manifest only
    print(json.dumps(statistics, indent=2))

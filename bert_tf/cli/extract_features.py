"""``bert-tf extract_features``: flags as in the original's extract_features.py, and vectors."""

from collections.abc import Sequence

from bert_tf.cli import flags
from bert_tf.config import FeatureExtraction

USAGE = """usage: bert-tf extract_features --input_file=TEXT --output_file=JSONL --checkpoint=DIR \\
           [--flags]
       bert-tf extract_features --input_file=TEXT --output_file=NPY --checkpoint=DIR \\
           --pooling=mean [--normalize]

Writes what the encoder's layers make of each piece of each line, or with --pooling one vector per
line. In a line, ' ||| ' separates two texts."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    settings, positional = flags.parse(FeatureExtraction, arguments, USAGE)
    flags.refuse_positional(positional)
    flags.prepare_tensorflow()
    from bert_tf.tasks.feature_extraction import extract

    extract(settings)

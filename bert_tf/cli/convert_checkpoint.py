"""``bert-tf convert_checkpoint``: weights of other libraries into the original's layout."""

import dataclasses
import sys
from collections.abc import Sequence

from bert_tf.cli import flags
from bert_tf.config import HIDDEN_ACTS, setting
from bert_tf.errors import InputError

USAGE = """usage: bert-tf convert_checkpoint --from=DIR --to=DIR [--flags]

Turns a Hugging Face BERT folder (config.json, vocab.txt, model.safetensors) into bert_config.json,
vocab.txt and bert_model.ckpt.*, with its heads. The outputs are the source's, so the activation is
carried over: Hugging Face's "gelu" is the erf form, called gelu_erf here, which the original code
does not have. Prints what was converted and what was not."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversion:
    """The settings of ``bert-tf convert_checkpoint``."""

    source: str | None = setting(None, "A Hugging Face folder.", flag="from")
    target: str | None = setting(None, "The folder to make; new or empty.", flag="to")
    hidden_act: str | None = setting(
        None,
        "Write this activation instead of the source's: with gelu the original code reads the "
        "folder, but its outputs differ a little from the source's.",
        choices=HIDDEN_ACTS,
    )

    def __post_init__(self) -> None:
        for flag, value in (("from", self.source), ("to", self.target)):
            if value is None:
                raise InputError(f"--{flag} is missing: give a folder")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    settings, positional = flags.parse(Conversion, arguments, USAGE)
    flags.refuse_positional(positional)
    flags.prepare_tensorflow()
    from bert_tf.interop.huggingface import convert_huggingface

    report = convert_huggingface(
        settings.source or "", settings.target or "", hidden_act=settings.hidden_act
    )
    print(report, file=sys.stderr)

"""``bert-tf convert_checkpoint``: weights of the original and of other libraries, both ways."""

import dataclasses
import sys
from collections.abc import Sequence

from bert_tf.cli import flags
from bert_tf.config import CHECKPOINT_FORMATS, HIDDEN_ACTS, setting
from bert_tf.errors import InputError

USAGE = """usage: bert-tf convert_checkpoint --from=DIR --to=DIR [--to_format=FORMAT] [--flags]

Turns a folder of weights into one of another library's format. What the source is, is seen from
its files:
  original      bert_config.json, vocab.txt, bert_model.ckpt.*: Google's releases and the folders
                that bert-tf trains, with their heads
  huggingface   config.json, vocab.txt, model.safetensors
  keras_hub     a preset: config.json, model.weights.h5, task.json, assets/
  model_garden  bert_config.json, vocab.txt and an object-based checkpoint of tf-models-official
The outputs are the source's, so the activation is carried over (Hugging Face's "gelu" is the erf
form, called gelu_erf here, which the original code, keras-hub and Model Garden do not have), and
what would compute something else is refused. --hidden_act may be all that changes, as for exports
to ONNX. Prints what was found, and what was not carried over.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertCheckpoint:
    """The settings of ``bert-tf convert_checkpoint``."""

    source: str | None = setting(None, "A folder of weights of any of the formats.", flag="from")
    target: str | None = setting(None, "The folder to make; new or empty.", flag="to")
    to_format: str = setting("original", "What to make; see above.", choices=CHECKPOINT_FORMATS)
    hidden_act: str | None = setting(
        None,
        "Write this activation instead of the source's: with gelu the original code reads the "
        "folder, but its outputs differ a little from the source's.",
        choices=HIDDEN_ACTS,
    )
    do_lower_case: bool | None = setting(
        None, "Whether the model lower-cases, where the source does not say."
    )
    task_type: str | None = setting(
        None,
        "Of a classifier of texts, where the source does not say.",
        choices=("single_label", "multi_label", "regression"),
    )
    pairs: bool | None = setting(
        None, "Whether a classifier takes pairs of texts, where the source does not say."
    )
    tag_scheme: str | None = setting(
        None,
        "Of a tagger of entities, where the source does not say: iob2, or none for words to get "
        "their tags as they are, without entities.",
        choices=("iob2", "none"),
    )
    version_2_with_negative: bool | None = setting(
        None,
        "Whether there are questions without an answer, as in SQuAD 2.0, where the source does "
        "not say.",
    )

    def __post_init__(self) -> None:
        for flag, value in (("from", self.source), ("to", self.target)):
            if value is None:
                raise InputError(f"--{flag} is missing: give a folder")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    settings, positional = flags.parse(ConvertCheckpoint, arguments, USAGE)
    flags.refuse_positional(positional)
    flags.prepare_tensorflow()
    from bert_tf.interop.conversion import convert

    report = convert(
        settings.source or "",
        settings.target or "",
        settings.to_format,
        hidden_act=settings.hidden_act,
        do_lower_case=settings.do_lower_case,
        task_type=settings.task_type,
        pairs=settings.pairs,
        tag_scheme=settings.tag_scheme,
        version_2_with_negative=settings.version_2_with_negative,
    )
    print(report, file=sys.stderr)

"""``bert-tf build_vocab``: a vocabulary of word pieces from text."""

import dataclasses
from collections.abc import Sequence

from bert_tf.cli import flags
from bert_tf.config import setting
from bert_tf.errors import InputError

USAGE = """usage: bert-tf build_vocab --input_file=FILES --output_file=vocab.txt [--flags]

Learns the word pieces of text and writes them in the layout of the released vocabularies. Prints
how many there are, and how the text's own words fare with them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocabularyBuilding:
    """The settings of ``bert-tf build_vocab``."""

    input_file: str | None = setting(
        None, "Text files, plain or gzip: names or globs, separated by commas."
    )
    output_file: str | None = setting(None, "The vocab.txt to write.")
    vocab_size: int = setting(30522, "Pieces in it; fewer if the text has no more.")
    do_lower_case: bool = setting(True, "Whether to lower-case and strip accents.")
    num_unused_tokens: int = setting(99, "Entries [unused0] … to give a meaning to later.")
    min_word_count: int = setting(
        2, "Learn from words that occur so often; memory grows with their number."
    )
    min_character_count: int = setting(
        10, "Characters that occur less often get no piece; words with them become [UNK]."
    )
    overwrite: bool = setting(False, "Whether to replace output_file.")

    def __post_init__(self) -> None:
        for name, what in (("input_file", "the text"), ("output_file", "the vocab.txt to write")):
            if not getattr(self, name):
                raise InputError(f"--{name} is missing: give {what}")
        for name, least in (
            ("vocab_size", 1),
            ("num_unused_tokens", 0),
            ("min_word_count", 1),
            ("min_character_count", 1),
        ):
            if getattr(self, name) < least:
                raise InputError(f"--{name} must be at least {least}, but is {getattr(self, name)}")


def run(arguments: Sequence[str]) -> None:
    """Runs the command and prints what the vocabulary is like."""
    settings, positional = flags.parse(VocabularyBuilding, arguments, USAGE)
    flags.refuse_positional(positional)
    flags.show_log()
    from bert_tf import vocabulary_learning

    report = vocabulary_learning.build_vocabulary(**dataclasses.asdict(settings))
    print(f"{settings.output_file}: {report}")

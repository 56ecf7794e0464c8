"""``bert-tf predict``: texts in, one JSON object per text out."""

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence

from bert_tf.cli import flags
from bert_tf.config import setting
from bert_tf.errors import InputError

USAGE = """usage: bert-tf predict --model_dir=DIR [TEXT ...] [--flags]

Labels each TEXT, or each line of --input_file, or each line of standard input. For a model of
pairs, a tab separates the two texts. Prints one JSON object per text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """The settings of ``bert-tf predict``."""

    model_dir: str | None = setting(None, "The output_dir of a finished training run.")
    input_file: str | None = setting(None, "A file with one text per line.")
    batch_size: int = setting(32, "Texts that go through the model at once.")

    def __post_init__(self) -> None:
        if self.model_dir is None:
            raise InputError("--model_dir is missing: give the output_dir of a finished run")
        if self.batch_size < 1:
            raise InputError(f"--batch_size must be at least 1, but is {self.batch_size}")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    settings, texts = flags.parse(Prediction, arguments, USAGE)
    if texts and settings.input_file:
        raise InputError("give texts or --input_file, not both")
    flags.prepare_tensorflow()
    from bert_tf.predictor import Predictor

    predictor = Predictor.load(settings.model_dir or "", settings.batch_size)
    lines: Iterable[str] = texts or _lines(settings.input_file)
    # Many batches at once, because sorting them by length saves padding; a person gets each answer.
    interactive = not texts and not settings.input_file and sys.stdin.isatty()
    done = 0
    for chunk in _chunks(lines, 1 if interactive else 64 * settings.batch_size):
        inputs = [_text(predictor.takes_pairs, line, done + i) for i, line in enumerate(chunk, 1)]
        for result in predictor.predict(inputs):
            print(json.dumps(result, ensure_ascii=False))
        sys.stdout.flush()
        done += len(chunk)


def _text(takes_pairs: bool, line: str, number: int) -> str | tuple[str, str]:
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"input {number}: not UTF-8: {line!r}") from error
    if not takes_pairs:
        return line
    parts = line.split("\t")
    if len(parts) != 2:
        raise InputError(
            f"input {number}: this model takes pairs, two texts with one tab between them, but "
            f"the input has {len(parts) - 1} tabs: {line!r}"
        )
    return parts[0], parts[1]


def _lines(path: str | None) -> Iterator[str]:
    from bert_tf.text_tables import lines_of, read_lines

    numbered = lines_of(sys.stdin.buffer, "standard input") if path is None else read_lines(path)
    yield from (line for _, line in numbered)


def _chunks(lines: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(lines)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk

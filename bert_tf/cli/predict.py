"""``bert-tf predict``: texts in, one JSON object per text out."""

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence

from bert_tf.cli import flags
from bert_tf.errors import InputError
from bert_tf.use_config import Prediction

USAGE = """usage: bert-tf predict --model_dir=DIR [TEXT ...] [--flags]
       bert-tf predict --task=fill_mask --checkpoint=DIR "the capital of France is [MASK] ."
       bert-tf predict --task=similarity --checkpoint=DIR $'a text\ta similar one'

Answers each TEXT, or each line of --input_file, or each line of standard input: with labels, with
one of several choices, with an answer from a context, with what may stand for [MASK], with a
vector, or with how similar two texts are. In a pair, a tab separates the two texts; before each
choice there is one. Prints one JSON object per text. DIR may also be a version that bert-tf export
wrote, or the folder of a model's versions, of which the latest answers."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    settings, texts = flags.parse(Prediction, arguments, USAGE)
    if texts and settings.input_file:
        raise InputError("give texts or --input_file, not both")
    flags.prepare_tensorflow()
    from bert_tf.predictor import Predictor

    predictor = Predictor.load(
        settings.model(), settings.batch_size, task=settings.task, **settings.options()
    )
    lines: Iterable[str] = texts or _lines(settings.input_file)
    # Many batches at once, because sorting them by length saves padding; a person gets each answer.
    interactive = not texts and not settings.input_file and sys.stdin.isatty()
    named = ((f"input {number}", line) for number, line in enumerate(lines, 1))
    for chunk in _chunks(named, 1 if interactive else 64 * settings.batch_size):
        names = [name for name, _ in chunk]
        inputs = [predictor.parse(_utf8(line, name), name) for name, line in chunk]
        for result in predictor.predict(inputs, name_of=names.__getitem__):
            print(json.dumps(result, ensure_ascii=False))
        sys.stdout.flush()


def _utf8(line: str, name: str) -> str:
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name}: not UTF-8: {line!r}") from error
    return line


def _lines(path: str | None) -> Iterator[str]:
    from bert_tf.text_tables import lines_of, read_lines

    numbered = lines_of(sys.stdin.buffer, "standard input") if path is None else read_lines(path)
    yield from (line for _, line in numbered)


def _chunks(lines: Iterable[tuple[str, str]], size: int) -> Iterator[list[tuple[str, str]]]:
    iterator = iter(lines)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk

"""Times this project's tokenizers beside Hugging Face's and the original's steps in plain Python.

Word pieces a second, uncased, of one text a line of the corpus, each contender in a process of
its own, so with cold caches; reading files, imports and tracing are not timed. `tokenizers` has
one thread and its fastest call, without offsets; TensorFlow has its own threads. Plain Python
(`tests/reference_tokenizer.py`) gets the first MB of the corpus, the graph the first 10.
"""

import argparse
import os
import pathlib
import sys
import time
from collections.abc import Callable

from harness import REPOSITORY, measure_in_turns, print_report

SHARED = REPOSITORY.parent / "shared"
DEFAULT_VOCAB = SHARED / "checkpoints" / "uncased_L-6_H-384_A-12" / "vocab.txt"
DEFAULT_CORPUS = SHARED / "data" / "corpus.txt"
TEXTS_PER_BATCH = 1000

# Texts -> number of their pieces.
Encode = Callable[[list[str]], int]


def batches(texts: list[str]) -> list[list[str]]:
    """The texts in lists of TEXTS_PER_BATCH."""
    starts = range(0, len(texts), TEXTS_PER_BATCH)
    return [texts[start : start + TEXTS_PER_BATCH] for start in starts]


def encode_batch(vocab: pathlib.Path) -> Encode:
    """`FullTokenizer.encode_batch` on all texts."""
    from bert_tf.tokenization import FullTokenizer

    tokenizer = FullTokenizer(vocab)
    return lambda texts: len(tokenizer.encode_batch(texts)[0])


def graph(vocab: pathlib.Path) -> Encode:
    """`GraphTokenizer.tokenize` in a tf.data pipeline."""
    import tensorflow as tf

    from bert_tf.graph_tokenization import GraphTokenizer

    tokenizer = GraphTokenizer(vocab)
    tokenizer.tokenize(["warm up"])

    def encode(texts: list[str]) -> int:
        dataset = tf.data.Dataset.from_tensor_slices(texts).batch(TEXTS_PER_BATCH)
        return sum(int(tf.size(ids.flat_values)) for ids in dataset.map(tokenizer.tokenize))

    return encode


def hugging_face(vocab: pathlib.Path) -> Encode:
    """`encode_batch_fast` of the fast BERT tokenizer."""
    # Read when the library is loaded.
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    pieces = vocab.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    ids = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=200))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    def encode(texts: list[str]) -> int:
        encoded = (tokenizer.encode_batch_fast(b, add_special_tokens=False) for b in batches(texts))
        return sum(len(encoding) for batch in encoded for encoding in batch)

    return encode


def plain_python(vocab: pathlib.Path) -> Encode:
    """The original's steps, one text after the other."""
    sys.path.append(str(REPOSITORY / "tests"))
    from reference_tokenizer import ReferenceTokenizer  # type: ignore[import-not-found]

    tokenizer = ReferenceTokenizer(vocab)
    return lambda texts: sum(len(tokenizer.tokenize(text)) for text in texts)


# Contender -> what makes it, and how many characters of the corpus it gets (None: all).
CONTENDERS: dict[str, tuple[Callable[[pathlib.Path], Encode], int | None]] = {
    "encode_batch": (encode_batch, None),
    "graph": (graph, 10_000_000),
    "hugging_face": (hugging_face, None),
    "plain_python": (plain_python, 1_000_000),
}


def pieces_per_second(
    contender: str, vocab: pathlib.Path, corpus: pathlib.Path, clock: Callable[[], float]
) -> float:
    """One contender's figure, in this process."""
    make, num_characters = CONTENDERS[contender]
    texts = [
        line for line in corpus.read_text(encoding="utf-8")[:num_characters].split("\n") if line
    ]
    encode = make(vocab)
    start = clock()
    num_pieces = encode(texts)
    return num_pieces / (clock() - start)


def main() -> None:
    """Runs the benchmark, or one contender of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=pathlib.Path, default=DEFAULT_VOCAB, help="vocab.txt")
    parser.add_argument("--corpus", type=pathlib.Path, default=DEFAULT_CORPUS, help="a text a line")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--cpu_time",
        action="store_true",
        help="count CPU seconds, of all threads, not wall seconds",
    )
    parser.add_argument("--contender", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    for path in (options.vocab, options.corpus):
        if not path.is_file():
            parser.error(f"{path} is not there; give --vocab and --corpus")
    if options.contender:
        clock = time.process_time if options.cpu_time else time.perf_counter
        print(pieces_per_second(options.contender, options.vocab, options.corpus, clock))
        return
    arguments = ("--vocab", str(options.vocab), "--corpus", str(options.corpus))
    arguments += ("--cpu_time",) * options.cpu_time
    figures = measure_in_turns(__file__, list(CONTENDERS), options.rounds, arguments)
    unit = "word pieces a CPU second" if options.cpu_time else "word pieces a second"
    print_report("tokenization", figures, unit, smaller_is_better=False)


if __name__ == "__main__":
    main()
